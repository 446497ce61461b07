"""Filters over metadata: a small, closed part of MongoDB's query language.

A filter is compiled once into a predicate. As in MongoDB a field is named by a dotted path, a
field that holds an array matches if one of its elements does, `$ne` and `$nin` match what
lacks the field, and `null` equals a field that is not there. Unlike there, values of other
types are never in order to each other, and a boolean is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from engines.errors import InvalidArgument

CONDITIONS_MAX: Final = 256  # of one filter
VALUES_MAX: Final = 1_000  # of one $in or $nin

Metadata = Mapping[str, Any]
Predicate = Callable[[Metadata], bool]
Scalar = tuple[str, Any]  # kind and value: keeps true apart from 1


class Equality(NamedTuple):
    """A condition that whatever matches the filter has to meet."""

    path: str
    values: frozenset[Scalar]  # one of these


class Filter(NamedTuple):
    matches: Predicate
    equality: Equality | None  # to find candidates by
    only: bool  # is the equality all that there is?


_MISSING: Final = object()


def compile_filter(given: object, field: str) -> Filter:
    """Raises InvalidArgument, naming the place within `field`."""
    return _Compiler().all_of(given, field)


def scalar(value: object) -> Scalar | None:
    """A key under which equal values meet; None: not a scalar."""
    if isinstance(value, bool):
        return "b", value
    if isinstance(value, int | float):
        return "n", value
    return ("s", value) if isinstance(value, str) else None


def found(metadata: Metadata, path: str) -> object:
    """The value at a dotted path; a marker that equals nothing if there is none."""
    value: object = metadata
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


class _Compiler:
    def __init__(self) -> None:
        self._conditions = 0

    def all_of(self, given: object, field: str) -> Filter:
        """An object: every member of it has to match."""
        if not isinstance(given, Mapping):
            raise InvalidArgument(field, "must be an object")
        parts = [self._member(name, value, f"{field}.{name}") for name, value in given.items()]
        return _conjunction(parts)

    def _member(self, name: str, value: object, field: str) -> Filter:
        self._count(field)
        match name:
            case "$and":
                return _conjunction(self._list(value, field))
            case "$or":
                wanted = [part.matches for part in self._list(value, field)]
                return _plain(lambda metadata: any(each(metadata) for each in wanted))
            case "$not":
                inner = self.all_of(value, field).matches
                return _plain(lambda metadata: not inner(metadata))
            case _:
                return self._path(name, value, field)

    def _path(self, name: str, value: object, field: str) -> Filter:
        if name.startswith("$"):
            raise InvalidArgument(field, "is no operator here; known: $and, $or, $not")
        if not name or "" in name.split("."):
            raise InvalidArgument(field, "is not a path of names")
        return self._field(name, value, field)

    def _list(self, value: object, field: str) -> list[Filter]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
            raise InvalidArgument(field, "must be an array of at least one filter")
        return [self.all_of(each, f"{field}[{place}]") for place, each in enumerate(value)]

    def _field(self, path: str, value: object, field: str) -> Filter:
        if not (isinstance(value, Mapping) and any(name.startswith("$") for name in value)):
            return _equal(path, value)
        return _conjunction(
            [self._operator(path, name, each, f"{field}.{name}") for name, each in value.items()]
        )

    def _operator(self, path: str, name: str, value: object, field: str) -> Filter:
        self._count(field)
        match name:
            case "$eq":
                return _equal(path, value)
            case "$in":
                return _one_of(path, _values(value, field))
            case "$ne":
                return _negated(_equal(path, value))
            case "$nin":
                return _negated(_one_of(path, _values(value, field)))
            case "$gt" | "$gte" | "$lt" | "$lte":
                return _ordered(path, name, value, field)
            case "$exists":
                if not isinstance(value, bool):
                    raise InvalidArgument(field, "must be true or false")
                return _plain(lambda metadata: (found(metadata, path) is not _MISSING) is value)
            case "$not":
                if not isinstance(value, Mapping) or not all(n.startswith("$") for n in value):
                    raise InvalidArgument(field, "must be an object of operators")
                return _negated(self._field(path, value, field)) if value else _plain(_never)
            case _:
                pass
        raise InvalidArgument(
            field,
            "is no operator here; known: $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $not",
        )

    def _count(self, field: str) -> None:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise InvalidArgument(field, f"is beyond {CONDITIONS_MAX} conditions of one filter")


def _never(_: Metadata) -> bool:
    return False


def _plain(matches: Predicate) -> Filter:
    return Filter(matches, None, False)


def _negated(inner: Filter) -> Filter:
    matches = inner.matches
    return _plain(lambda metadata: not matches(metadata))


def _conjunction(parts: list[Filter]) -> Filter:
    if len(parts) == 1:
        return parts[0]
    wanted = [part.matches for part in parts]
    equality = next((part.equality for part in parts if part.equality is not None), None)
    return Filter(lambda metadata: all(each(metadata) for each in wanted), equality, False)


def _values(value: object, field: str) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidArgument(field, "must be an array")
    if len(value) > VALUES_MAX:
        raise InvalidArgument(field, f"holds {len(value)} values; at most {VALUES_MAX}")
    return value


def _equal(path: str, wanted: object) -> Filter:
    return _one_of(path, (wanted,))


def _one_of(path: str, wanted: Sequence[object]) -> Filter:
    keys = [scalar(value) for value in wanted]
    scalars = frozenset(key for key in keys if key is not None)
    others = [value for value, key in zip(wanted, keys, strict=True) if key is None]

    def matches(metadata: Metadata) -> bool:
        value = found(metadata, path)
        if scalar(value) in scalars:
            return True
        if isinstance(value, list) and any(scalar(each) in scalars for each in value):
            return True
        return any(_same(value, each) for each in others)

    whole = not others  # a scalar is found by its posting, anything else is not
    return Filter(matches, Equality(path, scalars) if whole else None, whole)


def _same(value: object, wanted: object) -> bool:
    """Is a stored value, or an element of it, equal to one that is no scalar?"""
    if wanted is None and value is _MISSING:
        return True
    if _identical(value, wanted):
        return True
    return isinstance(value, list) and any(_identical(each, wanted) for each in value)


def _identical(left: object, right: object) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_identical, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(
            _identical(value, right[name]) for name, value in left.items()
        )
    key = scalar(left)
    if key is not None or scalar(right) is not None:
        return key == scalar(right)
    return type(left) is type(right) and left == right


def _ordered(path: str, name: str, bound: object, field: str) -> Filter:
    key = scalar(bound)
    if key is None or key[0] == "b":
        raise InvalidArgument(field, "must be a number or text")
    kind, limit = key

    def holds(value: object) -> bool:
        own = scalar(value)
        if own is None or own[0] != kind:
            return False
        match name:
            case "$gt":
                return bool(own[1] > limit)
            case "$gte":
                return bool(own[1] >= limit)
            case "$lt":
                return bool(own[1] < limit)
            case _:
                return bool(own[1] <= limit)

    def matches(metadata: Metadata) -> bool:
        value = found(metadata, path)
        return any(map(holds, value)) if isinstance(value, list) else holds(value)

    return _plain(matches)
