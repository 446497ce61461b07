"""Export to JSON Lines: one record a line, sessions and keys in order, resumable."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO

from node import client_wire as wire
from node import console
from node.client import HivememClient
from node.client_types import Item
from node.errors import BadRequest

TAIL_BYTES_MAX = 32 << 20  # how far back the last complete line is looked for


async def run(
    client: HivememClient, namespace: str, session: str | None, out: Path | None, *, resume: bool
) -> int:
    """Write every record of a namespace or session; returns how many were written now.

    Each page is a read of its own: records that change meanwhile appear as they then are.
    Raises BadRequest when the file to resume is no export of this.
    """
    after: tuple[str, str] | None = None
    if out is None:
        return await _write(client, namespace, session, sys.stdout.buffer, after)
    if resume and out.exists():
        after = _last_record(out, namespace)
    mode = "r+b" if resume and out.exists() else "wb"
    with out.open(mode) as file:
        file.seek(0, os.SEEK_END)
        count = await _write(client, namespace, session, file, after)
        file.flush()
        os.fsync(file.fileno())
    return count


async def _write(
    client: HivememClient,
    namespace: str,
    session: str | None,
    file: IO[bytes],
    after: tuple[str, str] | None,
) -> int:
    count = 0
    names = [session] if session is not None else [s async for s in client.sessions(namespace)]
    with console.progress("export", None) as progress:
        for name in names:
            if after is not None and name.encode() < after[0].encode():
                continue
            async for item in client.list(namespace, name, values=True):
                if after is not None and (name, item.key.encode()) <= (
                    after[0],
                    after[1].encode(),
                ):
                    continue
                file.write(_line(namespace, name, item))
                count += 1
                progress.advance(1, 0)
    file.flush()
    return count


def _line(namespace: str, session: str, item: Item) -> bytes:
    fields = {
        "namespace": namespace,
        "session": session,
        "key": item.key,
        **wire.encoded_value(item.value or b""),
        "content_type": item.content_type,
        "version": item.version,
        "expires_at": item.expires_at.isoformat() if item.expires_at else None,
    }
    return wire.dumps(wire.without_none(fields)) + b"\n"


def _last_record(out: Path, namespace: str) -> tuple[str, str] | None:
    """(session, key) of the last complete line; a torn line behind it is cut off."""
    with out.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - TAIL_BYTES_MAX)
        file.seek(start)
        tail = file.read()
        complete = tail.rfind(b"\n") + 1
        file.truncate(start + complete)
        lines = tail[:complete].splitlines()
    if not lines:
        return None
    try:
        fields = json.loads(lines[-1])
        if fields["namespace"] != namespace:
            raise ValueError(f"it holds namespace {fields['namespace']}")
        return fields["session"], fields["key"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{out} is no export to resume: {error}", field="out") from error
