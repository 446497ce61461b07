"""Dotted paths into documents, with MongoDB's meaning of arrays.

A path that meets an array goes on in each object that is an item of it; a part that is a
number also names the item at that place. Arrays directly in arrays are entered by number only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from engines.codec import VALUE_DEPTH_MAX
from engines.document_order import ABSENT, order_key
from engines.errors import InvalidArgument

Path = tuple[str, ...]

PATH_BYTES_MAX: Final = 512
MISSING: Final = object()
_REMEMBERED: Final = 1_000  # paths that were parsed last


def parse_path(text: object, field: str) -> Path:
    """Raises InvalidArgument: no path."""
    try:
        return _path(text) if type(text) is str else _path("")
    except _NoPath as error:
        raise InvalidArgument(field, str(error)) from None


class _NoPath(ValueError):
    """Says what a path must be."""


@lru_cache(_REMEMBERED)
def _path(text: str) -> Path:
    if not 1 <= len(text.encode(errors="replace")) <= PATH_BYTES_MAX:
        raise _NoPath(f"must be a path of 1 to {PATH_BYTES_MAX} bytes")
    path = tuple(text.split("."))
    if "" in path or len(path) > VALUE_DEPTH_MAX:
        raise _NoPath(f"must be 1 to {VALUE_DEPTH_MAX} names with dots between")
    if path[0].startswith("$"):
        raise _NoPath(f"{path[0]} is no operator here, nor a name for a path")
    return path


def reached(value: Any, path: Path) -> list[Any]:
    """Every value at the end of the path, arrays whole; none: [].

    Bounded by the document: each part of the path is looked up once in each object.
    """
    place = [value]
    for part in path:
        following: list[Any] = []
        for each in place:
            if each.__class__ is dict:
                if part in each:
                    following.append(each[part])
            elif each.__class__ is list:
                following.extend(_through(each, part))
        place = following
        if not place:
            break
    return place


def _through(array: list[Any], part: str) -> list[Any]:
    found = [item[part] for item in array if item.__class__ is dict and part in item]
    number = item_number(part)
    if number is not None and number < len(array):
        found.append(array[number])
    return found


def item_number(part: str) -> int | None:
    """The place in an array that a part names."""
    # isdecimal alone would take digits of other scripts, and "01" for 1.
    if part.isascii() and part.isdecimal() and (part == "0" or part[0] != "0") and len(part) < 9:
        return int(part)
    return None


def value_at(value: Any, path: Path) -> Any:
    """What an expression `$path` stands for: arrays on the way give an array; or MISSING."""
    for place, part in enumerate(path):
        if value.__class__ is list:
            rest = path[place:]
            found = [value_at(item, rest) for item in value if item.__class__ is dict]
            return [each for each in found if each is not MISSING]
        if value.__class__ is not dict or part not in value:
            return MISSING
        value = value[part]
    return value


def order_keys(document: Any, path: Path) -> list[bytes]:
    """Keys that an index holds for the path, in order, no two alike; of an array its items'."""
    found = reached(document, path)
    if len(found) == 1 and found[0].__class__ is not list:
        return [order_key(found[0])]
    keys: set[bytes] = set()
    for value in found:
        if value.__class__ is list:
            keys.update(map(order_key, value))
        else:
            keys.add(order_key(value))
    return sorted(keys) or [ABSENT]
