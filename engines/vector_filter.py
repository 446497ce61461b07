"""Filters over metadata: a small, closed part of MongoDB's query language.

A filter is compiled once into a predicate. As in MongoDB a field is named by a dotted path, a
field that holds an array matches if one of its elements does, `$ne` and `$nin` match what
lacks the field, and `null` equals a field that is not there. Unlike there, values of other
types are never in order to each other, and a boolean is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
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
    size: int = 1  # conditions, each of which may look at all that is in the field


_MISSING: Final = object()


def compile_filter(given: object, field: str) -> Filter:
    """Raises InvalidArgument, naming the place within `field`."""
    compiler = _Compiler()
    return compiler.all_of(given, field)._replace(size=max(1, compiler.conditions))


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
        self.conditions = 0

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
        self.conditions += 1
        if self.conditions > CONDITIONS_MAX:
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
    """The time that a match takes does not depend on how many are wanted."""
    scalars = frozenset(key for value in wanted if (key := scalar(value)) is not None)
    if all(scalar(value) is not None for value in wanted):

        def simple(metadata: Metadata) -> bool:
            value = found(metadata, path)
            if scalar(value) in scalars:
                return True
            return isinstance(value, list) and any(scalar(each) in scalars for each in value)

        # A scalar is found by its posting, anything else is not.
        return Filter(simple, Equality(path, scalars), True)
    keys = frozenset(map(_key, wanted))
    absent = _key(None) in keys

    def matches(metadata: Metadata) -> bool:
        value = found(metadata, path)
        if value is _MISSING:
            return absent
        if _key(value) in keys:
            return True
        return isinstance(value, list) and any(_key(each) in keys for each in value)

    return _plain(matches)


def _key(value: object) -> Hashable:
    """A key under which equal values meet, whatever they are."""
    if isinstance(value, list | tuple):
        return "l", tuple(map(_key, value))
    if isinstance(value, Mapping):
        return "m", frozenset((name, _key(each)) for name, each in value.items())
    return scalar(value) or ("o", value)


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
