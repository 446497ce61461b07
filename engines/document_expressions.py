"""Expressions and accumulators of an aggregation, in MongoDB's language.

An expression is a path ("$a.b"), the whole document ("$$ROOT"), a literal, or an object of
expressions. {"$literal": value} is the value itself, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, Protocol, runtime_checkable

from engines.codec import Value, pack_value
from engines.document_order import is_number, order_key
from engines.document_paths import MISSING, parse_path, value_at
from engines.errors import InvalidArgument

Expression = Callable[[Any], Any]  # of a document; MISSING: there is nothing

_INTEGER_MIN, _INTEGER_MAX = -(1 << 63), (1 << 64) - 1  # what an answer can hold
MADE_VALUES_MAX: Final = 1_000_000  # within what one expression makes of one document
MADE_BYTES_MAX: Final = 16 << 20  # of text in it
MADE_DEPTH_MAX: Final = 100
STATE_BYTES: Final = 64  # counted for an accumulator beside what it keeps


def parse_expression(given: Any, field: str) -> Expression:
    """Raises InvalidArgument."""
    if type(given) is str and given.startswith("$"):
        if given == "$$ROOT":
            return lambda document: document
        path = parse_path(given[1:], field)
        return lambda document: value_at(document, path)
    if isinstance(given, dict | list | tuple):
        return _bounded(_composite(given, field), field)
    return lambda document: given


def _composite(given: Any, field: str) -> Expression:
    if isinstance(given, dict):
        if set(given) == {"$literal"}:
            literal = given["$literal"]
            return lambda document: literal
        for name in given:
            if name.startswith("$"):
                raise InvalidArgument(f"{field}.{name}", "is no expression; known: $literal")
        members = {name: parse_expression(each, f"{field}.{name}") for name, each in given.items()}
        return lambda document: _object(members, document)
    items = [parse_expression(each, f"{field}[{place}]") for place, each in enumerate(given)]
    return lambda document: [present(item(document)) for item in items]


def _bounded(expression: Expression, field: str) -> Expression:
    """Refuses what is made too large or too deep: a stage can name a document many times, and
    the next one what came of that."""

    def evaluate(document: Any) -> Any:
        value = expression(document)
        if value is not MISSING:
            must_fit(value, field)
        return value

    return evaluate


def must_fit(value: Any, field: str) -> None:
    """Raises InvalidArgument: what was made is too large, or nested too deep."""
    if not _fits(value):
        raise InvalidArgument(
            field,
            f"makes a value of over {MADE_VALUES_MAX} values, {MADE_BYTES_MAX} bytes or "
            f"{MADE_DEPTH_MAX} levels",
        )


def _fits(value: Any) -> bool:
    """Looked at level by level, and no further than a bound allows."""
    level, count, size = [value], 0, 0
    for _ in range(MADE_DEPTH_MAX):
        count += len(level)
        following: list[Any] = []
        for each in level:
            if each.__class__ is dict:
                size += sum(map(len, each))
                following.extend(each.values())
            elif each.__class__ is list:
                following.extend(each)
            elif each.__class__ is str or each.__class__ is bytes:
                size += len(each)
            if count + len(following) > MADE_VALUES_MAX or size > MADE_BYTES_MAX:
                return False
        if not following:
            return True
        level = following
    return False


def present(value: Any) -> Any:
    """Null for nothing."""
    return None if value is MISSING else value


def _object(members: Mapping[str, Expression], document: Any) -> dict[str, Any]:
    found = {name: member(document) for name, member in members.items()}
    return {name: value for name, value in found.items() if value is not MISSING}


class Accumulator(Protocol):
    """What becomes of a group's values."""

    def add(self, value: Any) -> int:
        """Returns how many bytes it keeps more."""

    def result(self) -> Any: ...


@runtime_checkable
class Mergeable(Accumulator, Protocol):
    """One whose parts, each of some of a group's values, make the whole in whatever order."""

    def state(self) -> Value:
        """What was added so far."""

    def absorb(self, state: Any) -> int:
        """Add what another one's `state` holds. Returns how many bytes it keeps more."""


class _Sum:
    def __init__(self) -> None:
        self.total: int | float = 0
        self.numbers = 0

    def add(self, value: Any) -> int:
        if is_number(value):
            self.total += value
            self.numbers += 1
        return 0

    def result(self) -> Any:
        return storable(self.total)

    def state(self) -> Value:
        # Whole numbers are summed without a bound, and packed ones have one.
        total = str(self.total) if self.total.__class__ is int else self.total
        return [total, self.numbers]

    def absorb(self, state: Any) -> int:
        total, numbers = state
        self.total += int(total) if total.__class__ is str else total
        self.numbers += numbers
        return 0


class _Average(_Sum):
    def result(self) -> Any:
        return storable(self.total / self.numbers) if self.numbers else None


class _Count:
    def __init__(self) -> None:
        self.count = 0

    def add(self, value: Any) -> int:
        self.count += 1
        return 0

    def result(self) -> Any:
        return self.count

    def state(self) -> Value:
        return self.count

    def absorb(self, state: Any) -> int:
        self.count += state
        return 0


class _Extreme:
    """The least value or the greatest; null and nothing do not count."""

    sign = 1

    def __init__(self) -> None:
        self._key: bytes | None = None
        self._value: Any = None

    def add(self, value: Any) -> int:
        if value is None or value is MISSING:
            return 0
        key = order_key(value)
        if self._key is None or (key < self._key if self.sign < 0 else key > self._key):
            more = len(key) - len(self._key or b"")
            self._key, self._value = key, value
            return more
        return 0

    def result(self) -> Any:
        return self._value

    def state(self) -> Value:
        value: Value = self._value
        return value

    def absorb(self, state: Any) -> int:
        return self.add(state)


class _Minimum(_Extreme):
    sign = -1


class _First:
    def __init__(self) -> None:
        self._value: Any = MISSING
        self._seen = False

    def add(self, value: Any) -> int:
        if self._seen:
            return 0
        self._seen = True
        self._value = value
        return _size(value)

    def result(self) -> Any:
        return present(self._value)


class _Last:
    def __init__(self) -> None:
        self._value: Any = MISSING

    def add(self, value: Any) -> int:
        more = _size(value) - _size(self._value)
        self._value = value
        return more

    def result(self) -> Any:
        return present(self._value)


class _Push:
    def __init__(self) -> None:
        self._values: list[Any] = []

    def add(self, value: Any) -> int:
        if value is MISSING:
            return 0
        self._values.append(value)
        return _size(value)

    def result(self) -> Any:
        return self._values


class _Set:
    """Each value once, in order."""

    def __init__(self) -> None:
        self._values: dict[bytes, Any] = {}

    def add(self, value: Any) -> int:
        if value is MISSING:
            return 0
        key = order_key(value)
        if key in self._values:
            return 0
        self._values[key] = value
        return len(key) + _size(value)

    def result(self) -> Any:
        return [self._values[key] for key in sorted(self._values)]

    def state(self) -> Value:
        return list(self._values.values())

    def absorb(self, state: Any) -> int:
        return sum(map(self.add, state))


ACCUMULATORS: Mapping[str, Callable[[], Accumulator]] = {
    "$sum": _Sum,
    "$avg": _Average,
    "$min": _Minimum,
    "$max": _Extreme,
    "$count": _Count,
    "$first": _First,
    "$last": _Last,
    "$push": _Push,
    "$addToSet": _Set,
}


def storable(number: Any) -> int | float | None:
    """The number as an answer can hold it; None: it is too large for a double."""
    if number.__class__ is int and not _INTEGER_MIN <= number <= _INTEGER_MAX:
        number = float(number)
    return number if isfinite(number) else None


def _size(value: Any) -> int:
    return 0 if value is MISSING else len(pack_value(value))
