"""Expressions and accumulators of an aggregation, in MongoDB's language.

An expression is a path ("$a.b"), the whole document ("$$ROOT"), a literal, or an object of
expressions. {"$literal": value} is the value itself, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, Protocol

from engines.codec import pack_value
from engines.document_order import is_number, order_key
from engines.document_paths import MISSING, parse_path, value_at
from engines.errors import InvalidArgument

Expression = Callable[[Any], Any]  # of a document; MISSING: there is nothing

_INTEGER_MIN, _INTEGER_MAX = -(1 << 63), (1 << 64) - 1  # what an answer can hold
STATE_BYTES: Final = 64  # counted for an accumulator beside what it keeps


def parse_expression(given: Any, field: str) -> Expression:
    """Raises InvalidArgument."""
    if type(given) is str and given.startswith("$"):
        if given == "$$ROOT":
            return lambda document: document
        path = parse_path(given[1:], field)
        return lambda document: value_at(document, path)
    if isinstance(given, dict):
        if set(given) == {"$literal"}:
            literal = given["$literal"]
            return lambda document: literal
        for name in given:
            if name.startswith("$"):
                raise InvalidArgument(f"{field}.{name}", "is no expression; known: $literal")
        members = {name: parse_expression(each, f"{field}.{name}") for name, each in given.items()}
        return lambda document: _object(members, document)
    if isinstance(given, list | tuple):
        items = [parse_expression(each, f"{field}[{place}]") for place, each in enumerate(given)]
        return lambda document: [present(item(document)) for item in items]
    return lambda document: given


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
