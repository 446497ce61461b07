"""JSON Schema (2020-12) of what operations take and answer, in few words. Pure.

Limits are given where the checks have them: a bound of bytes of text is a bound of its
characters as well, which is what JSON Schema counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

Schema = dict[str, Any]

ANY: Final[Schema] = {}


class Operation(NamedTuple):
    """One operation of an engine. `example`: parameters that do, on a collection which the
    examples before it were run on."""

    summary: str
    parameters: Schema
    answer: Schema
    example: Mapping[str, Any]


class Described(NamedTuple):
    """An engine: its settings, an example of them, and its operations in the order in which
    their examples make sense."""

    settings: Schema
    example: Mapping[str, Any]
    operations: Mapping[str, Operation]


def members(
    needed: Mapping[str, Schema] | None = None,
    optional: Mapping[str, Schema] | None = None,
    **more: Any,
) -> Schema:
    """An object with these members and no others."""
    found: Schema = {"type": "object", "properties": {**(needed or {}), **(optional or {})}}
    if needed:
        found["required"] = [*needed]
    return {**found, "additionalProperties": False, **more}


def of_any(values: Schema | None = None, **more: Any) -> Schema:
    """An object whose members are the caller's own."""
    return {"type": "object", "additionalProperties": True if values is None else values, **more}


def listed(items: Schema, most: int | None = None, least: int = 0, **more: Any) -> Schema:
    found: Schema = {"type": "array", "items": items}
    if most is not None:
        found["maxItems"] = most
    if least:
        found["minItems"] = least
    return {**found, **more}


def text(most: int | None = None, least: int = 0, **more: Any) -> Schema:
    """`most`: bytes of UTF-8, of which there are at least as many as characters."""
    found: Schema = {"type": "string"}
    if most is not None:
        found["maxLength"] = most
    if least:
        found["minLength"] = least
    return {**found, **more}


def integer(least: int | None = None, most: int | None = None, **more: Any) -> Schema:
    return {"type": "integer", **_range(least, most), **more}


def number(least: float | None = None, most: float | None = None, **more: Any) -> Schema:
    return {"type": "number", **_range(least, most), **more}


def boolean(**more: Any) -> Schema:
    return {"type": "boolean", **more}


def one_of(names: Sequence[str], **more: Any) -> Schema:
    return {"type": "string", "enum": [*names], **more}


def either(*schemas: Schema, **more: Any) -> Schema:
    return {"anyOf": [*schemas], **more}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def exactly_one(schema: Schema, *names: str) -> Schema:
    """An object that has exactly one of these members."""
    return {**schema, "oneOf": [{"required": [name]} for name in names]}


def _range(least: float | None, most: float | None) -> Schema:
    found: Schema = {}
    if least is not None:
        found["minimum"] = least
    if most is not None:
        found["maximum"] = most
    return found


CURSOR: Final = text(description="next_cursor of the page before")
NEXT_CURSOR: Final = or_null(text())
COUNT: Final = integer(0)


def page(name: str, items: Schema, **more: Schema) -> Schema:
    """The answer of a listing."""
    return members({name: listed(items), "next_cursor": NEXT_CURSOR}, more)
