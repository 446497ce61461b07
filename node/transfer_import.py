"""Import from JSON Lines: batched, resumable, and harmless to repeat.

Each line is {"namespace", "session", "key", "value", "encoding", "content_type",
"expires_at"}; only session, key and value are needed. Every record's request id is derived
from the file's head and its line, so a repeated batch is not applied twice. A
checkpoint beside the input says up to which line everything is stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from node import client_wire as wire
from node import console
from node.client import HivememClient
from node.client_types import TEXT, BatchPut
from node.clock import SystemClock
from node.errors import BadRequest, HivememError

BATCH_RECORDS_MAX = 200  # records of one request
BATCH_BYTES_MAX = 4 << 20  # value bytes of one request; a larger record goes alone
BATCHES_INFLIGHT_MAX = 4  # requests under way at once
HEAD_BYTES = 1 << 16  # what identifies a file
LINE_BYTES_MAX = 16 << 20  # a largest value as base64, and its names
TIMEOUT_MS = 60_000  # of one batch: an import rides out a failover
PROBLEMS_MAX = 100  # bad lines that are reported; the import stops there
_KNOWN = {"namespace", "session", "key", "value", "encoding", "content_type", "version"}
_KNOWN |= {"expires_at"}


@dataclass(frozen=True, slots=True)
class Request:
    file: str  # a path, or "-"
    namespace: str | None
    restart: bool
    skip_bad: bool


@dataclass(slots=True)
class Report:
    stored: int = 0  # records stored by this run
    resumed: int = 0  # lines that a former run had stored
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    records: list[BatchPut] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # line number of each record
    size: int = 0
    last_line: int = 0  # every line up to here is in this batch or an earlier one
    offset: int = 0  # bytes of the file up to there


async def run(client: HivememClient, request: Request) -> Report:
    """Store every record of the file. Problems with lines are in the report; others raise."""
    if request.file == "-":
        return await _Import(client, request, sys.stdin.buffer, None, b"stdin").run()
    path = Path(request.file)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            return await _Import(client, request, file, path, head).run()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", field="file") from error


class _Import:
    def __init__(
        self,
        client: HivememClient,
        request: Request,
        file: BinaryIO,
        path: Path | None,
        head: bytes,
    ) -> None:
        self._client = client
        self._request = request
        self._file = file
        self._report = Report()
        self._clock = SystemClock()
        named = f"{request.namespace or ''}\0".encode() + head
        # What comes from a pipe cannot be told apart from another run of it: each is new.
        salt = self._clock.new_id().encode() if path is None else b""
        self._digest = hashlib.sha256(named + salt).hexdigest()[:32]
        self._checkpoint = None if path is None else Path(f"{path}.hivemem-progress")
        self._total = None if path is None else path.stat().st_size

    async def run(self) -> Report:
        done_lines = 0 if self._request.restart else self._done_lines()
        self._report.resumed = done_lines
        waiting: list[asyncio.Task[int]] = []
        with console.progress("import", self._total) as progress:
            for batch in self._batches(done_lines):
                waiting.append(asyncio.create_task(self._store(batch)))
                if len(waiting) == BATCHES_INFLIGHT_MAX:
                    progress.advance(await waiting.pop(0), batch.offset)
                    self._note(batch, waiting)
                if self._must_stop():
                    break
            for task in waiting:
                progress.advance(await task, self._total or 0)
        if not self._report.problems and self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)
        return self._report

    def _must_stop(self) -> bool:
        problems = len(self._report.problems)
        return problems >= PROBLEMS_MAX or (problems > 0 and not self._request.skip_bad)

    def _done_lines(self) -> int:
        if self._checkpoint is None:
            return 0
        try:
            fields = json.loads(self._checkpoint.read_text())
            return int(fields["lines"]) if fields["digest"] == self._digest else 0
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0

    def _note(self, newest: _Batch, waiting: list[asyncio.Task[int]]) -> None:
        """Remember the lines before the oldest batch that is still under way."""
        if self._checkpoint is None or self._report.problems:
            return
        self._stored_lines = getattr(self, "_stored_lines", [])
        self._stored_lines.append(newest.last_line)
        if len(self._stored_lines) <= len(waiting):
            return
        lines = self._stored_lines[-1 - len(waiting)]
        content = json.dumps({"digest": self._digest, "lines": lines})
        temporary = Path(f"{self._checkpoint}.new")
        temporary.write_text(content)
        os.replace(temporary, self._checkpoint)

    def _batches(self, done_lines: int) -> Iterator[_Batch]:
        batch = _Batch()
        number = offset = 0
        while line := self._file.readline(LINE_BYTES_MAX + 1):
            number += 1
            offset += len(line)
            if number <= done_lines:
                continue
            if line.strip():
                try:
                    record = self._record(line, number)
                except (BadRequest, ValueError) as error:
                    self._report.problems.append(f"line {number}: {error}")
                    if self._must_stop():
                        break
                    continue
                batch.records.append(record)
                batch.lines.append(number)
                batch.size += len(record.value)
            batch.last_line, batch.offset = number, offset
            if len(batch.records) >= BATCH_RECORDS_MAX or batch.size >= BATCH_BYTES_MAX:
                yield batch
                batch = _Batch(last_line=number, offset=offset)
        if batch.records:
            yield batch

    def _record(self, line: bytes, number: int) -> BatchPut:
        if len(line) > LINE_BYTES_MAX:
            raise BadRequest(f"is longer than {LINE_BYTES_MAX} bytes")
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise BadRequest("is no JSON object")
        unknown = sorted(set(fields) - _KNOWN)
        if unknown:
            raise BadRequest(f"{unknown[0]}: is not a field of a record")
        texts = {name: _text(fields, name) for name in ("session", "key", "value")}
        value = wire.decoded_value(texts["value"], fields.get("encoding", "utf-8"))
        namespace = self._request.namespace or _text(fields, "namespace")
        return BatchPut(
            namespace,
            texts["session"],
            texts["key"],
            value,
            content_type=_text(fields, "content_type", TEXT),
            ttl_seconds=self._ttl(fields.get("expires_at")),
            request_id=f"import-{self._digest}-{number}",
        )

    def _ttl(self, expires_at: object) -> float | None:
        if expires_at is None:
            return None
        moment = datetime.fromisoformat(str(expires_at))
        # What has expired meanwhile is stored for an instant rather than for ever.
        return max(moment.timestamp() - self._clock.now_ms() / 1000, 0.001)

    async def _store(self, batch: _Batch) -> int:
        results = await self._client.batch(batch.records, timeout_ms=TIMEOUT_MS)
        stored = 0
        for number, result in zip(batch.lines, results, strict=True):
            if isinstance(result, HivememError):
                self._report.problems.append(f"line {number}: {result}")
            else:
                stored += 1
        self._report.stored += stored
        return stored


def _text(fields: dict[str, Any], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if value is None:
        raise BadRequest(f"{name}: is missing")
    if not isinstance(value, str):
        raise BadRequest(f"{name}: must be a string")
    return value
