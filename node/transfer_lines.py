"""Records as JSON Lines: the format of import and export. No cluster, no console.

One object a line: `namespace`, `session`, `key`, `value`, and optionally `encoding` (utf-8,
the default, or base64), `content_type`, `expires_at` (RFC 3339). `version`, `revision`,
`created_at` and `updated_at`, which export writes for people, are checked by nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from node import client_wire as wire
from node.client_types import BYTES, TEXT, Item

LINE_BYTES_MAX = 64 << 20  # an 8 MiB value of control characters, escaped, is 48 MiB
READ_BYTES = 1 << 18  # taken from the file at once

_TEXTS = ("namespace", "session", "key", "value", "encoding", "content_type")
_KNOWN = frozenset((*_TEXTS, "expires_at", "version", "revision", "created_at", "updated_at"))


class BadLine(Exception):
    """A line that cannot be imported. `field`: what is wrong with it, "" for all of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class Line(NamedTuple):
    """A line without its end. `number` counts from 1; `end`: offset of the byte after it."""

    number: int
    data: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to store."""

    namespace: str
    session: str
    key: str
    value: bytes
    content_type: str
    expires_at: datetime | None

    @property
    def place(self) -> tuple[str, str, str]:
        return self.namespace, self.session, self.key


def parse(data: bytes, namespace: str | None) -> Entry:
    """The record in a line; `namespace` stands in for the line's own. Raises: BadLine."""
    fields = json_object(data)
    for name in fields:
        if name not in _KNOWN:
            raise BadLine(name, "is not a field of a record")
    if namespace is not None:
        fields["namespace"] = namespace
    for name in _TEXTS:
        if name in fields:
            _check_text(name, fields[name])
    for name in ("namespace", "session", "key"):
        if not fields.get(name):
            raise BadLine(name, "must not be empty" if name in fields else "is missing")
    if "value" not in fields:
        raise BadLine("value", "is missing")
    encoding = str(fields.get("encoding", "utf-8"))
    if encoding not in ("utf-8", "base64"):
        raise BadLine("encoding", "must be utf-8 or base64")
    try:
        value = wire.decoded_value(str(fields["value"]), encoding)
    except ValueError:
        raise BadLine("value", "is not base64") from None
    return Entry(
        namespace=str(fields["namespace"]),
        session=str(fields["session"]),
        key=str(fields["key"]),
        value=value,
        content_type=str(fields.get("content_type", TEXT if encoding == "utf-8" else BYTES)),
        expires_at=_time(fields.get("expires_at")),
    )


def json_object(data: bytes) -> dict[str, object]:
    """Raises: BadLine."""
    try:
        fields = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise BadLine("", "is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadLine("", f"is not JSON: {error.msg} at character {error.pos}") from None
    except (RecursionError, ValueError) as error:
        raise BadLine("", f"cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise BadLine("", "is not a JSON object")
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise BadLine(name, "must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadLine(name, "holds half of a surrogate pair, which is not text") from None


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadLine("expires_at", "must be a time such as 2026-02-03T04:05:06Z")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise BadLine("expires_at", "must say its time zone, such as Z for UTC")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadLine("expires_at", "must be a time such as 2026-02-03T04:05:06Z") from None


def format_item(namespace: str, session: str, item: Item) -> bytes:
    """A listed record, with its value, as a line."""
    fields: dict[str, object] = {
        "namespace": namespace,
        "session": session,
        "key": item.key,
        **wire.encoded_value(item.value or b""),
        "content_type": item.content_type,
    }
    if item.expires_at is not None:
        fields["expires_at"] = _rfc3339(item.expires_at)
    fields |= {
        "version": item.version,
        "revision": item.revision,
        "created_at": _rfc3339(item.created_at),
        "updated_at": _rfc3339(item.updated_at),
    }
    return wire.dumps(fields) + b"\n"


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def read_lines(descriptor: int, number: int = 0, offset: int = 0) -> AsyncIterator[Line]:
    """Lines from a file, pipe or terminal, as they come; never more than one in memory.

    `number` and `offset` are those of the line before the first. Waits for input without a
    thread, so that an interrupt ends it at once. Raises: BadLine for one that is too long.
    """
    partial: list[bytes] = []
    partial_bytes = 0
    while True:
        await _readable(descriptor)
        data = os.read(descriptor, READ_BYTES)
        # A file of which nothing needs to be sent must not keep what was sent waiting.
        await asyncio.sleep(0)
        if not data:
            break
        *complete, rest = data.split(b"\n")
        for piece in complete:
            line = b"".join((*partial, piece))
            partial.clear()
            partial_bytes = 0
            number += 1
            offset += len(line) + 1
            yield Line(number, line, offset)
        if rest:
            partial.append(rest)
            partial_bytes += len(rest)
            if partial_bytes > LINE_BYTES_MAX:
                raise BadLine("", f"line {number + 1} is longer than {LINE_BYTES_MAX} bytes")
    if partial:
        line = b"".join(partial)
        yield Line(number + 1, line, offset + len(line))


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(descriptor: int) -> None:
    """Return when `os.read` would not block."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, _wake, ready)
    except (PermissionError, NotImplementedError):
        return  # a regular file: always readable, and no event loop waits for one
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
