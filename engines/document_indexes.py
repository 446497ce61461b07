"""Secondary indexes: what a collection's settings say of them, and the entries of a document.

An index holds one entry for each combination of the values of its fields; of an array, each
item is a value. Entries are in the order of `document_order.py`, so that an equality, a range
behind it and a sort are walks over neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, Final, NamedTuple

from engines.codec import Value
from engines.document_order import ABSENT
from engines.document_paths import Path, order_keys, parse_path
from engines.engine import Refused
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode

INDEXES_MAX: Final = 16  # of one collection
FIELDS_MAX: Final = 8  # of one index
NAME_BYTES_MAX: Final = 128
ENTRIES_MAX: Final = 1_000  # of one document in one index

_KNOWN = ("fields", "unique", "name")
_REMEMBERED = 256  # settings whose indexes were asked for last, as `catalog.py` does collections


class Index(NamedTuple):
    """`fields`: paths, the first orders first."""

    name: str
    fields: tuple[Path, ...]
    unique: bool


class Entries(NamedTuple):
    """A document's keys in one index, in order, no two alike."""

    keys: tuple[bytes, ...]
    absent: bool  # it has none of the fields: never held against a unique index


def parse_indexes(given: Mapping[str, Any], current: Mapping[str, Any] | None) -> list[Value]:
    """The setting `indexes`, complete: [{"name", "fields", "unique"}]. Raises InvalidArgument."""
    listed = given.get("indexes", (current or {}).get("indexes", []))
    field = "settings.indexes"
    if not isinstance(listed, list | tuple) or len(listed) > INDEXES_MAX:
        raise InvalidArgument(field, f"must be an array of at most {INDEXES_MAX}")
    found: dict[str, Value] = {}
    for place, each in enumerate(listed):
        index = _parse_index(each, f"{field}[{place}]")
        if index["name"] in found:
            raise InvalidArgument(f"{field}[{place}]", f"there is an index {index['name']} before")
        found[str(index["name"])] = index
    return list(found.values())


def _parse_index(given: object, field: str) -> dict[str, Value]:
    if not isinstance(given, dict):
        raise InvalidArgument(field, "must be an object")
    for name in given:
        if name not in _KNOWN:
            raise InvalidArgument(
                f"{field}.{name}", f"is not known here; known: {', '.join(_KNOWN)}"
            )
    paths = given.get("fields")
    if not isinstance(paths, list | tuple) or not 1 <= len(paths) <= FIELDS_MAX:
        raise InvalidArgument(f"{field}.fields", f"must be an array of 1 to {FIELDS_MAX} paths")
    for place, path in enumerate(paths):
        where = f"{field}.fields[{place}]"
        parse_path(path, where)
        if path == "_id":
            raise InvalidArgument(where, "is indexed anyway")
        if path in paths[:place]:
            raise InvalidArgument(where, "is there twice")
    unique = given.get("unique", False)
    if type(unique) is not bool:
        raise InvalidArgument(f"{field}.unique", "must be true or false")
    name = given.get("name")
    if name is None:
        name = ",".join(paths)[:NAME_BYTES_MAX]
    elif type(name) is not str or not 1 <= len(name.encode(errors="replace")) <= NAME_BYTES_MAX:
        raise InvalidArgument(f"{field}.name", f"must be text of 1 to {NAME_BYTES_MAX} bytes")
    return {"name": name, "fields": list(paths), "unique": unique}


_of_settings: dict[int, tuple[Mapping[str, Any], tuple[Index, ...]]] = {}  # by their id()


def indexes_of(settings: Mapping[str, Any]) -> tuple[Index, ...]:
    """Of settings that `parse_indexes` made, and that nobody changes."""
    known = _of_settings.get(id(settings))
    # Those settings are held, so that no others can have their id.
    if known is not None and known[0] is settings:
        return known[1]
    if len(_of_settings) >= _REMEMBERED:
        _of_settings.clear()
    found = _indexes(settings)
    _of_settings[id(settings)] = settings, found
    return found


def _indexes(settings: Mapping[str, Any]) -> tuple[Index, ...]:
    return tuple(
        Index(
            each["name"], tuple(tuple(path.split(".")) for path in each["fields"]), each["unique"]
        )
        for each in settings.get("indexes", ())
    )


def entries(index: Index, document: Any) -> Entries:
    """Raises Refused: more than ENTRIES_MAX."""
    by_field: Sequence[list[bytes]] = [order_keys(document, path) for path in index.fields]
    count = prod(map(len, by_field))
    if count > ENTRIES_MAX:
        raise Refused(
            RejectCode.LIMIT_EXCEEDED,
            f"a document makes {count} entries in index {index.name}; at most {ENTRIES_MAX}",
            "parameters",
        )
    if count == 1:
        only = b"".join(keys[0] for keys in by_field)
        return Entries((only,), only == ABSENT * len(by_field))
    # No key is the beginning of another: products of sorted lists are sorted.
    return Entries(tuple(map(b"".join, product(*by_field))), False)
