"""Filters in MongoDB's language: checked as they are parsed, then a function of a document.

A condition on a path is tried on every value that the path reaches, and on every item of an
array among them. $gt and its like compare within one kind of value only (`document_order.py`);
null also stands for a path that reaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from engines.document_order import is_number, order_key, same_kind
from engines.document_paths import Path, parse_path, reached
from engines.document_regex import compile_regex
from engines.errors import InvalidArgument
from engines.space import STEP_BYTES_BITS, View

CONDITIONS_MAX: Final = 1_000  # of one filter
OPERANDS_MAX: Final = 1_000  # of $in, $nin, $all
# Of one document, times the conditions, in a read: some 10 s at worst. Writes: `document_work.py`.
TRIED_BYTES_MAX: Final = 32 << 20
BRIEF_TRIED_BYTES_MAX: Final = 32 << 10  # the same, of what is brief: some milliseconds

Matcher = Callable[[Any], bool]  # of a document, or of an item of an array
Test = Callable[[list[Any]], bool]  # of the values that a path reaches
ValueTest = Callable[[Any], bool]

COMPARISONS: Final = ("$gt", "$gte", "$lt", "$lte")


class Condition(NamedTuple):
    """What a planner can use: every match fulfils it."""

    path: Path
    operator: str  # $eq $in $gt $gte $lt $lte
    operand: Any


class Filter(NamedTuple):
    """`conditions`: necessary, together not sufficient; `size`: how many are tried at most;
    `members`: of a document, that they are tried on."""

    matches: Matcher
    conditions: tuple[Condition, ...]
    regex: bool  # does it search texts?
    size: int
    members: frozenset[str] = frozenset()


def parse_filter(given: object, field: str) -> Filter:
    """Raises InvalidArgument, naming the place within `field`."""
    parser = _Parser()
    matches, conditions = parser.filter(given, field)
    return Filter(matches, tuple(conditions), parser.regex, parser.count, frozenset(parser.members))


class ItemTest(NamedTuple):
    """What $pull asks of an item. `regex`, `size`: as of `Filter`; to be equal to what is neither
    array nor object is no condition."""

    test: ValueTest
    regex: bool
    size: int


def parse_item_test(given: object, field: str) -> ItemTest:
    """Operators on an item, a filter if it is an object, or a value that it equals.

    Raises InvalidArgument.
    """
    parser = _Parser()
    test = parser.item_test(given, field)
    plain = not isinstance(given, dict | list | tuple)
    return ItemTest(test, parser.regex, 0 if plain else max(1, parser.count))


def is_light(wanted: Filter, document_bytes: int) -> bool:
    """May a read try it on a document that large?"""
    return wanted.size * document_bytes <= TRIED_BYTES_MAX


def before_trying(view: View, wanted: Filter, document_bytes: int, field: str) -> None:
    """For a read, before a filter is tried on a document. `document_bytes`: packed; an array's
    item may be one byte.

    Raises InvalidArgument: that many conditions on a document that large could take minutes, and
    nothing interrupts them. Raises QueryCancelled.
    """
    tried = wanted.size * document_bytes
    if tried > BRIEF_TRIED_BYTES_MAX:
        view.long()
    view.step(tried >> STEP_BYTES_BITS)
    if not is_light(wanted, document_bytes):
        raise InvalidArgument(
            field,
            f"has {wanted.size} conditions, too many for a document of {document_bytes} bytes",
        )


class _Parser:
    """One filter. Recursion is bounded by the depth of parameters."""

    def __init__(self) -> None:
        self.count = 0
        self.regex = False
        self.members: set[str] = set()
        self._within = 0  # conditions on items of arrays

    def filter(self, given: object, field: str) -> tuple[Matcher, list[Condition]]:
        matchers: list[Matcher] = []
        conditions: list[Condition] = []
        for name, operand in _object(given, field).items():
            where = f"{field}.{name}"
            if name in ("$and", "$or", "$nor"):
                matcher, necessary = self._junction(name, operand, where)
            elif name.startswith("$"):
                raise InvalidArgument(where, "is no operator; known here: $and, $or, $nor")
            else:
                matcher, necessary = self._field(name, operand, where)
            matchers.append(matcher)
            conditions += necessary
        return _all_of(matchers), conditions

    def item_test(self, given: object, field: str) -> ValueTest:
        if not isinstance(given, dict):
            return _equals(given)
        if given and all(name in _OPERATORS for name in given):
            tests, _ = self._operators((), given, field)
            return lambda item: all(test([item]) for test in tests)
        self._within += 1
        matches, _ = self.filter(given, field)
        self._within -= 1
        return lambda item: item.__class__ is dict and matches(item)

    def _junction(self, name: str, operand: object, field: str) -> tuple[Matcher, list[Condition]]:
        matchers: list[Matcher] = []
        conditions: list[Condition] = []
        for place, each in enumerate(_array(operand, field, CONDITIONS_MAX)):
            self._count(field)
            matcher, necessary = self.filter(each, f"{field}[{place}]")
            matchers.append(matcher)
            conditions += necessary
        if not matchers:
            raise InvalidArgument(field, "must not be empty")
        if name == "$and":
            return _all_of(matchers), conditions
        if name == "$or":
            necessary = conditions if len(matchers) == 1 else []
            return (lambda document: any(each(document) for each in matchers)), necessary
        return (lambda document: not any(each(document) for each in matchers)), []

    def _field(self, name: str, operand: object, field: str) -> tuple[Matcher, list[Condition]]:
        path = parse_path(name, field)
        if not self._within:
            self.members.add(path[0])
        if isinstance(operand, dict) and any(key.startswith("$") for key in operand):
            tests, conditions = self._operators(path, operand, field)
        else:
            self._count(field)
            tests, conditions = [_equal(operand)], [Condition(path, "$eq", operand)]
        if len(tests) == 1:
            (test,) = tests
            return (lambda document: test(reached(document, path))), conditions

        def matches(document: Any) -> bool:
            values = reached(document, path)
            return all(test(values) for test in tests)

        return matches, conditions

    def _operators(
        self, path: Path, operators: Mapping[str, Any], field: str
    ) -> tuple[list[Test], list[Condition]]:
        tests: list[Test] = []
        conditions: list[Condition] = []
        for name, operand in operators.items():
            self._count(field)
            where = f"{field}.{name}"
            if name == "$regex":
                self.regex = True
                search = compile_regex(operand, operators.get("$options", ""), where)
                tests.append(_anywhere(_on_text(search)))
            elif name == "$options":
                if "$regex" not in operators:
                    raise InvalidArgument(where, "is of use with $regex only")
            elif name == "$not":
                inner, _ = self._operators(path, _operator_object(operand, where), where)
                tests.append(_negated(inner))
            elif name == "$elemMatch":
                tests.append(self._element(operand, where))
            elif name == "$all":
                tests.append(self._all(operand, where))
            elif name in _SIMPLE:
                tests.append(_SIMPLE[name](operand, where))
                if name in ("$eq", "$in", *COMPARISONS):
                    conditions.append(Condition(path, name, operand))
            else:
                known = ", ".join(sorted(_OPERATORS))
                raise InvalidArgument(where, f"is no operator; known here: {known}")
        return tests, conditions

    def _element(self, operand: object, field: str) -> Test:
        item_test = self.item_test(_object(operand, field), field)
        return lambda values: any(
            item_test(item) for value in values if value.__class__ is list for item in value
        )

    def _all(self, operand: object, field: str) -> Test:
        tests: list[Test] = []
        for place, each in enumerate(_array(operand, field, OPERANDS_MAX)):
            self._count(field)
            if isinstance(each, dict) and set(each) == {"$elemMatch"}:
                tests.append(self._element(each["$elemMatch"], f"{field}[{place}].$elemMatch"))
            else:
                tests.append(_equal(each))
        return lambda values: bool(tests) and all(test(values) for test in tests)

    def _count(self, field: str) -> None:
        self.count += 1
        if self.count > CONDITIONS_MAX:
            raise InvalidArgument(field, f"the filter has over {CONDITIONS_MAX} conditions")


# --- Tests of single operators -----------------------------------------------------------


def _all_of(matchers: list[Matcher]) -> Matcher:
    if len(matchers) == 1:
        return matchers[0]
    return lambda document: all(each(document) for each in matchers)


def _negated(tests: list[Test]) -> Test:
    return lambda values: not all(test(values) for test in tests)


def _anywhere(test: ValueTest) -> Test:
    """On each value, and on each item of those that are arrays."""

    def found(values: list[Any]) -> bool:
        for value in values:
            if test(value) or (value.__class__ is list and any(map(test, value))):
                return True
        return False

    return found


def _equals(operand: Any) -> ValueTest:
    if operand is None or operand.__class__ in (str, bytes, bool):
        kind = operand.__class__
        return lambda value: value.__class__ is kind and value == operand
    if is_number(operand):
        return lambda value: value == operand and is_number(value)
    key = order_key(operand)
    return lambda value: value.__class__ in (list, dict) and order_key(value) == key


def _equal(operand: Any, field: str = "") -> Test:
    found = _anywhere(_equals(operand))
    if operand is None:
        return lambda values: not values or found(values)
    return found


def _on_text(search: Callable[[str], bool]) -> ValueTest:
    return lambda value: value.__class__ is str and search(value)


def _among(operand: object, field: str) -> Test:
    operands = _array(operand, field, OPERANDS_MAX)
    keys = frozenset(map(order_key, operands))
    found = _anywhere(lambda value: order_key(value) in keys)
    if any(each is None for each in operands):
        return lambda values: not values or found(values)
    return found


def _compare(name: str) -> Callable[[Any, str], Test]:
    def parse(operand: Any, field: str) -> Test:
        limit = order_key(operand)
        least, most = name in ("$gt", "$gte"), name in ("$lt", "$lte")
        equal = name in ("$gte", "$lte")

        def test(value: Any) -> bool:
            if not same_kind(value, operand):
                return False
            key = order_key(value)
            return (least and key > limit) or (most and key < limit) or (equal and key == limit)

        found = _anywhere(test)
        if operand is None and equal:
            return lambda values: not values or found(values)
        return found

    return parse


def _exists(operand: object, field: str) -> Test:
    if type(operand) is not bool:
        raise InvalidArgument(field, "must be true or false")
    return lambda values: bool(values) is operand


def _size(operand: object, field: str) -> Test:
    if type(operand) is not int or operand < 0:
        raise InvalidArgument(field, "must be a whole number of at least 0")
    return lambda values: any(value.__class__ is list and len(value) == operand for value in values)


def _not_equal(operand: Any, field: str) -> Test:
    return _negated([_equal(operand)])


def _not_among(operand: object, field: str) -> Test:
    return _negated([_among(operand, field)])


_SIMPLE: Mapping[str, Callable[[Any, str], Test]] = {
    "$eq": _equal,
    "$ne": _not_equal,
    "$in": _among,
    "$nin": _not_among,
    "$exists": _exists,
    "$size": _size,
    **{name: _compare(name) for name in COMPARISONS},
}
_OPERATORS = frozenset((*_SIMPLE, "$regex", "$options", "$not", "$elemMatch", "$all"))


def _object(given: object, field: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidArgument(field, "must be an object")
    return given


def _operator_object(given: object, field: str) -> dict[str, Any]:
    found = _object(given, field)
    if not found:
        raise InvalidArgument(field, "must hold an operator")
    return found


def _array(given: object, field: str, most: int) -> Sequence[Any]:
    if not isinstance(given, list | tuple):
        raise InvalidArgument(field, "must be an array")
    if len(given) > most:
        raise InvalidArgument(field, f"holds {len(given)}; at most {most}")
    return given
