"""Sorts and projections: what of the documents is shown, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from engines.document_order import INVERTED
from engines.document_paths import Path, order_keys, parse_path
from engines.document_plan import Sort
from engines.errors import InvalidArgument

SORT_FIELDS_MAX: Final = 8
# Bytes of a value's key that decide a sort. Keys are held, and travel in cursors.
SORT_KEY_BYTES_MAX: Final = 4_096
PROJECTION_PATHS_MAX: Final = 1_000

Projection = Callable[[dict[str, Any]], dict[str, Any]]
_Tree = dict[str, Any]  # names to trees; {}: the whole value


def parse_sort(given: object, field: str) -> Sort:
    """{path: 1 | -1}, the first decides first; None: no order. Raises InvalidArgument."""
    if given is None:
        return ()
    if not isinstance(given, dict) or not 1 <= len(given) <= SORT_FIELDS_MAX:
        raise InvalidArgument(field, f"must be an object of 1 to {SORT_FIELDS_MAX} paths")
    for name, direction in given.items():
        if type(direction) is not int or direction not in (1, -1):
            raise InvalidArgument(f"{field}.{name}", "must be 1 or -1")
    return tuple((parse_path(name, f"{field}.{name}"), given[name]) for name in given)


def sort_key(document: Any, sort: Sort) -> bytes:
    """Bytes in the order of the sort. Of an array the least item decides, descending the
    greatest."""
    key = bytearray()
    for path, direction in sort:
        keys = order_keys(document, path)
        if direction > 0:
            key += keys[0][:SORT_KEY_BYTES_MAX]
        else:
            key += keys[-1][:SORT_KEY_BYTES_MAX].translate(INVERTED)
    return bytes(key)


def sort_pieces(document: Any, sort: Sort) -> list[bytes]:
    """The key that `sort_key` makes, one piece for each path."""
    return [sort_key(document, (each,)) for each in sort]


def item_sort_key(row: Any, sort: Sort) -> bytes:
    """The same, to the last byte."""
    parts = []
    for path, direction in sort:
        keys = order_keys(row, path)
        parts.append(keys[0] if direction > 0 else keys[-1].translate(INVERTED))
    return b"".join(parts)


def parse_projection(given: object, field: str) -> Projection | None:
    """{path: true | false}: only these members, or all but these; None: all.

    `_id` is shown unless it is false. Raises InvalidArgument.
    """
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > PROJECTION_PATHS_MAX:
        raise InvalidArgument(field, f"must be an object of at most {PROJECTION_PATHS_MAX} paths")
    shown: dict[Path, bool] = {}
    for name, value in given.items():
        if value not in (0, 1) or type(value) not in (bool, int):
            raise InvalidArgument(f"{field}.{name}", "must be true or false (or 1 or 0)")
        shown[parse_path(name, f"{field}.{name}")] = bool(value)
    with_id = shown.pop(("_id",), None)
    kinds = set(shown.values())
    if len(kinds) > 1:
        raise InvalidArgument(field, "either names what is shown or what is not, but for _id")
    if kinds == {True} or (not kinds and with_id):
        return _including(_tree([*shown, *([] if with_id is False else [("_id",)])]))
    if not kinds and with_id is None:
        return None
    return _excluding(_tree([*shown, *([("_id",)] if with_id is False else [])]))


def including(paths: list[Path]) -> Projection:
    """Only these members of a document."""
    return _including(_tree(paths))


def excluding(paths: list[Path]) -> Projection:
    """All members but these."""
    return _excluding(_tree(paths))


def _including(tree: _Tree) -> Projection:
    return lambda document: _include(document, tree)


def _excluding(tree: _Tree) -> Projection:
    return lambda document: _exclude(document, tree)


def _tree(paths: list[Path]) -> _Tree:
    root: _Tree = {}
    for path in sorted(paths, key=len):
        place = root
        for part in path[:-1]:
            if place.get(part) == {} and part in place:
                break  # a shorter path holds this one
            place = place.setdefault(part, {})
        else:
            place.setdefault(path[-1], {})
    return root


def _include(value: Any, tree: Mapping[str, Any]) -> Any:
    """Of an array, its objects, each the same way."""
    if value.__class__ is list:
        return [_include(item, tree) for item in value if item.__class__ in (dict, list)]
    found: dict[str, Any] = {}
    for name, member in value.items():
        inner = tree.get(name)
        if inner is None:
            continue
        if not inner:
            found[name] = member
        elif member.__class__ in (dict, list):
            found[name] = _include(member, inner)
    return found


def _exclude(value: Any, tree: Mapping[str, Any]) -> Any:
    if value.__class__ is list:
        return [_exclude(item, tree) for item in value]
    if value.__class__ is not dict:
        return value
    return {
        name: _exclude(member, tree[name]) if name in tree else member
        for name, member in value.items()
        if name not in tree or tree[name]
    }
