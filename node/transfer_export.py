"""Export to JSON Lines: sessions and keys in byte order, one record a line, resumable.

Each page is a linearizable read of its own, so that records which change meanwhile appear
as they are when their page is read; a namespace is not exported as of one moment.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from node.client import HivememClient, Item, Page
from node.errors import BadRequest
from node.transfer_lines import LINE_BYTES_MAX, BadLine, format_item, parse

PAGE_ITEMS = 1000
TAIL_BYTES = 1 << 16  # read at once when the last line is looked for


class Position(NamedTuple):
    """The last record that is there already."""

    session: str
    key: str


@dataclass(frozen=True, slots=True)
class Request:
    """`session` None: all of the namespace. `after` None: from the beginning."""

    namespace: str
    session: str | None = None
    after: Position | None = None


async def run(
    client: HivememClient,
    request: Request,
    out: BinaryIO,
    on_progress: Callable[[int, int], None],
) -> int:
    """Write the records to `out`; returns how many. Raises: HivememError, OSError.

    `on_progress` hears of records and bytes written.
    """
    count = written = 0
    async for session in _sessions(client, request):
        after = request.after
        key = after.key if after is not None and after.session == session else None
        async for item in _items(client, request.namespace, session, key):
            line = format_item(request.namespace, session, item)
            out.write(line)
            count += 1
            written += len(line)
            on_progress(count, written)
    out.flush()
    return count


async def _sessions(client: HivememClient, request: Request) -> AsyncIterator[str]:
    if request.session is not None:
        yield request.session
        return
    start = b"" if request.after is None else request.after.session.encode()
    async for session in client.sessions(request.namespace):
        if session.encode() >= start:
            yield session


async def _items(
    client: HivememClient, namespace: str, session: str, after: str | None
) -> AsyncIterator[Item]:
    async def page(cursor: str | None, *, values: bool) -> Page:
        return await client.list_page(
            namespace, session, limit=PAGE_ITEMS, cursor=cursor, values=values
        )

    cursor: str | None = None
    bound = None if after is None else after.encode()
    if bound is not None:
        # A cursor starts behind a key that the cluster named; the one to resume from may
        # not exist any more. So whole pages of keys are skipped, without their values.
        while True:
            keys = await page(cursor, values=False)
            if not keys.items or keys.items[-1].key.encode() > bound:
                break
            cursor = keys.next_cursor
            if cursor is None:
                return
    while True:
        found = await page(cursor, values=True)
        for item in found.items:
            if bound is None or item.key.encode() > bound:
                yield item
        cursor = found.next_cursor
        if cursor is None:
            return


def resume_position(file: BinaryIO, namespace: str, session: str | None) -> Position | None:
    """The last record in a partial export; cuts off a torn line behind it.

    Leaves the file's position at its new end. None: the file holds no record yet.
    Raises: BadRequest, if the last line is not of an export of this.
    """
    end = _end_of_last_line(file)
    line = _last_line(file, end)
    if line is None:
        file.truncate(0)
        return None
    try:
        entry = parse(line, None)
    except BadLine as bad:
        raise _not_resumable(file, f"its last line: {bad}") from bad
    if entry.namespace != namespace or session not in (None, entry.session):
        raise _not_resumable(file, f"it holds {json.dumps(entry.namespace)} {entry.session!r}")
    file.truncate(end)
    file.seek(end)
    return Position(entry.session, entry.key)


def _end_of_last_line(file: BinaryIO) -> int:
    """Offset behind the last line end; 0 if there is none."""
    position = file.seek(0, os.SEEK_END)
    searched = 0
    while position > 0 and searched <= LINE_BYTES_MAX:
        start = max(0, position - TAIL_BYTES)
        file.seek(start)
        at = file.read(position - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        searched += position - start
        position = start
    if position > 0:
        raise _not_resumable(file, "it has no line end where one must be")
    return 0


def _last_line(file: BinaryIO, end: int) -> bytes | None:
    """The line that ends at `end`, without its line end."""
    if end == 0:
        return None
    pieces: list[bytes] = []
    position = end - 1
    while position > 0:
        start = max(0, position - TAIL_BYTES)
        file.seek(start)
        data = file.read(position - start)
        at = data.rfind(b"\n")
        pieces.append(data[at + 1 :])
        if at >= 0:
            break
        position = start
        if end - position > LINE_BYTES_MAX:
            raise _not_resumable(file, "its last line is too long")
    return b"".join(reversed(pieces))


def _not_resumable(file: BinaryIO, reason: str) -> BadRequest:
    return BadRequest(
        f"{file.name} is not an export of this that could be resumed: {reason}; "
        "choose another file, or leave --resume out and use --force to overwrite it",
        field="out",
    )
