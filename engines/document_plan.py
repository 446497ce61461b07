"""Which index answers a filter and a sort: decided by rules, from the filter's conditions.

A plan is a walk over ranges of items that holds every document which can match; who walks
tries the whole filter on each. Preferred, in this order: equality on `_id`; the index with the
most fields bound by equality (or $in); one whose next field is bound by a range; one that
yields the order of the sort.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Any, Final, NamedTuple

from engines.document_filter import COMPARISONS, Condition
from engines.document_indexes import Index
from engines.document_items import DOCUMENT, DOCUMENTS_END, IndexState, document_key, entry_prefix
from engines.document_order import ABSENT, NULL, kind_range, order_key
from engines.document_paths import Path
from engines.space import after_prefix

RANGES_MAX: Final = 1_000  # of one plan
OTHERS_MAX: Final = 3  # plans besides the one that the rules prefer
_ID: Final[Path] = ("_id",)
_PLAIN: Final = (str, int, float, bool, bytes)

Sort = Sequence[tuple[Path, int]]  # 1 ascending, -1 descending


class Range(NamedTuple):
    """Items with low <= key < high."""

    low: bytes
    high: bytes


class Plan(NamedTuple):
    """`place`: of the index among the collection's indexes; None: the documents themselves."""

    place: int | None
    name: str  # of the index, "_id", or "" for all documents
    ranges: tuple[Range, ...]  # in order, apart from each other
    equal: int  # fields bound by equality or $in
    bounded: bool  # the next field is bound by a range
    ordered: bool  # the walk yields the order of the sort
    reverse: bool  # walk backwards
    prefix: bytes = b""  # of an index in the order of a sort: what its entries begin with

    @property
    def kind(self) -> str:
        return "index" if self.place is not None else "ids" if self.name else "all_documents"

    @property
    def rank(self) -> tuple[bool, int, bool, bool]:
        return self.name == "_id" and self.equal > 0, self.equal, self.bounded, self.ordered


_EVERYTHING: Final = Plan(None, "", (Range(DOCUMENT, DOCUMENTS_END),), 0, False, True, False)


def choose(
    conditions: Sequence[Condition],
    sort: Sort,
    indexes: Iterable[tuple[Index, IndexState]],
) -> Plan:
    """The best plan by the rules; the first of those that are equally good."""
    return plans(conditions, sort, indexes)[0]


def plans(
    conditions: Sequence[Condition],
    sort: Sort,
    indexes: Iterable[tuple[Index, IndexState]],
) -> list[Plan]:
    """The best plan by the rules, and others that are of use: at most OTHERS_MAX."""
    if len(conditions) == 1 and not sort:
        found = _by_one_value(conditions[0], indexes)
        if found is not None:
            return found
    by_path: dict[Path, list[Condition]] = {}
    for condition in conditions:
        by_path.setdefault(condition.path, []).append(condition)
    best = _EVERYTHING
    if sort or _ID in by_path:
        best = _documents_plan(by_path.get(_ID, ()), sort)
    if best.rank[0]:
        return [best]
    others: list[Plan] = []
    for place, (index, state) in enumerate(indexes):
        # Most indexes have nothing to do with a request, which is seen at their first field.
        if state.built is None and (sort or index.fields[0] in by_path):
            plan = _index_plan(place, index, state, by_path, sort)
            if plan.rank > best.rank:
                if best.place is not None:
                    others.append(best)
                best = plan
            elif plan.equal or plan.bounded or (sort and plan.ordered):
                others.append(plan)
    return [best, *others[:OTHERS_MAX]]


def _by_one_value(
    condition: Condition, indexes: Iterable[tuple[Index, IndexState]]
) -> list[Plan] | None:
    """The same for what is asked most: a path is equal to a value, in any order. None: it is
    something else. `tests/property/test_document_plan.py` holds it and the rules together."""
    path, operator, operand = condition
    if operator != "$eq" or operand.__class__ not in _PLAIN or path == _ID:
        return None
    key: bytes | None = None
    found: list[Plan] = []
    for place, (index, state) in enumerate(indexes):
        if index.fields[0] == path and state.built is None and len(found) <= OTHERS_MAX:
            key = key or order_key(operand)
            ranges = (_range(entry_prefix(state.number) + key, None),)
            found.append(Plan(place, index.name, ranges, 1, False, True, False))
    return found or [_EVERYTHING]


def _documents_plan(conditions: Sequence[Condition], sort: Sort) -> Plan:
    ordered = not sort or (len(sort) == 1 and sort[0][0] == _ID)
    reverse = bool(sort) and ordered and sort[0][1] < 0
    points = _points(conditions)
    if points is not None and len(points) <= RANGES_MAX:
        ids = sorted(each for each in points.values() if type(each) is str)
        keys = map(document_key, ids)
        ranges = tuple(Range(key, key + b"\x00") for key in keys)
        return Plan(None, "_id", ranges, 1, False, ordered, reverse)
    low, high = DOCUMENT, DOCUMENTS_END
    bounded = False
    for _, operator, operand in conditions:
        if operator in COMPARISONS and type(operand) is str:
            bounded = True
            key = document_key(operand)
            if operator in ("$gt", "$gte"):
                low = max(low, key + b"\x00" if operator == "$gt" else key)
            else:
                high = min(high, key + b"\x00" if operator == "$lte" else key)
    ranges = (Range(low, high),) if low < high else ()
    return Plan(None, "_id" if bounded else "", ranges, 0, bounded, ordered, reverse)


def _index_plan(
    place: int,
    index: Index,
    state: IndexState,
    by_path: dict[Path, list[Condition]],
    sort: Sort,
) -> Plan:
    points: list[list[bytes]] = []
    bounds: tuple[bytes, bytes] | None = None
    for path in index.fields:
        conditions = by_path.get(path, ())
        found = _points(conditions)
        if found is None or prod(map(len, points)) * len(found) > RANGES_MAX:
            bounds = _bounds(conditions, single=state.many > 0)
            break
        points.append(sorted(found))
    prefix = entry_prefix(state.number)
    ranges = tuple(
        _range(prefix + b"".join(values), bounds)
        for values in product(*points)
        if bounds is None or bounds[0] < bounds[1]
    )
    single = all(len(each) == 1 for each in points)
    ordered, reverse = _order(index, state, len(points), sort, single)
    fixed = prefix + b"".join(each[0] for each in points) if ordered else b""
    return Plan(
        place, index.name, ranges, len(points), bounds is not None, ordered or not sort, reverse,
        fixed,
    )  # fmt: skip


def _range(prefix: bytes, bounds: tuple[bytes, bytes] | None) -> Range:
    if bounds is None:
        following = after_prefix(prefix)
        assert following is not None  # an entry's prefix has a byte below 0xff
        return Range(prefix, following)
    return Range(prefix + bounds[0], prefix + bounds[1])


def _order(
    index: Index, state: IndexState, equal: int, sort: Sort, single: bool
) -> tuple[bool, bool]:
    """(the walk yields the sort's order, backwards)."""
    if not sort or not single or state.many:
        # With several entries, which of a document's comes first depends on the range.
        return False, False
    fixed = set(index.fields[:equal])
    wanted = [(path, direction) for path, direction in sort if path not in fixed]
    paths = tuple(path for path, _ in wanted)
    directions = {direction for _, direction in wanted}
    behind = (*index.fields[equal:], _ID)  # entries of equal values are in order of ids
    if paths != behind[: len(paths)] or len(directions) > 1:
        return False, False
    return True, directions == {-1}


def _points(conditions: Sequence[Condition]) -> dict[bytes, Any] | None:
    """The fewest values, by their keys, of which a match has one; None: any may do."""
    best: dict[bytes, Any] | None = None
    for _, operator, operand in conditions:
        if operator == "$eq":
            operands = [operand]
        elif operator == "$in":
            operands = operand
        else:
            continue
        if any(isinstance(each, list | tuple) for each in operands):
            continue  # an array as a whole has no entry
        found = {order_key(each): each for each in operands}
        if NULL in found:
            found[ABSENT] = None
        if best is None or len(found) < len(best):
            best = found
    return best


def _bounds(conditions: Sequence[Condition], *, single: bool) -> tuple[bytes, bytes] | None:
    """Keys from the first to before the second. `single`: of one condition only, since other
    items of an array may fulfil the others."""
    bounds: tuple[bytes, bytes] | None = None
    for _, operator, operand in conditions:
        if operator not in COMPARISONS or operand is None or isinstance(operand, list | tuple):
            continue
        low, high = kind_range(operand)
        key = order_key(operand)
        if operator in ("$gt", "$gte"):
            low = _after(key) if operator == "$gt" else key
        else:
            high = _after(key) if operator == "$lte" else key
        if bounds is None:
            bounds = low, high
        elif not single:
            bounds = max(bounds[0], low), min(bounds[1], high)
    return bounds


def _after(key: bytes) -> bytes:
    following = after_prefix(key)
    assert following is not None  # a key's first byte is a tag below 0xff
    return following
