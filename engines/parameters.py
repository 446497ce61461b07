"""Checks of what callers give to engines: by type, by range, and a closed set of names.

Each takes the value and the path of its field as the caller wrote it, returns the value, and
raises InvalidArgument with that path. What concerns one engine's own things is in
`<engine>_parameters.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engines.errors import InvalidArgument

PREFIX: Final = "parameters"


def closed(given: Mapping[str, Any], allowed: Sequence[str], prefix: str) -> None:
    """No member but `allowed` ones. `prefix`: what stands before a member's name, with a dot."""
    for name in given:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise InvalidArgument(f"{prefix}{name}", f"is not known here; known: {known}")


def required(given: Mapping[str, Any], name: str, prefix: str) -> Any:
    if name not in given:
        raise InvalidArgument(f"{prefix}{name}", "is missing")
    return given[name]


def members(value: object, field: str) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, Mapping):
        raise InvalidArgument(field, "must be an object")
    return value


def exactly(
    value: object, field: str, needed: frozenset[str], optional: frozenset[str] = frozenset()
) -> Mapping[str, Any]:
    """An object with these members and no others."""
    given = members(value, field)
    prefix = f"{field}." if field else ""
    closed(given, [*needed, *optional], prefix)
    for name in sorted(needed):
        required(given, name, prefix)
    return given


def integer(value: object, field: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument(field, f"must be a whole number from {least} to {most}")
    return value


def boolean(value: object, field: str) -> bool:
    if type(value) is not bool:
        raise InvalidArgument(field, "must be true or false")
    return value


def choice(value: object, field: str, names: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in names:
        raise InvalidArgument(field, f"must be one of {', '.join(names)}")
    return value


def text(value: object, field: str, bytes_max: int, bytes_min: int = 0) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(field, "must be text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(field, "is not text that UTF-8 can hold") from None
    if not bytes_min <= size <= bytes_max:
        raise InvalidArgument(field, f"is {size} bytes; must be {bytes_min} to {bytes_max}")
    return value


def array(value: object, field: str, items_max: int) -> Sequence[Any]:
    """1 to `items_max` items."""
    if not isinstance(value, list | tuple):
        raise InvalidArgument(field, "must be an array")
    if not 1 <= len(value) <= items_max:
        raise InvalidArgument(field, f"holds {len(value)}; must be 1 to {items_max}")
    return value
