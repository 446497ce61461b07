"""Import from JSON Lines: streaming, batched, concurrent, resumable.

Theory of operation. Lines become batches; a few are under way at once. They may finish in
any order, but progress is only noted up to the first line that is not stored yet, so a
killed import loses nothing: it goes on from there, and what it sends again has the request
id that it had before. Two lines with the same key are never under way together: the later
line wins, as it would one by one.

A bad line is refused whole. Without `skip_bad` it ends the import: everything before it is
stored; of what follows it nothing is, or only what was already under way.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from node import transfer_checkpoint as checkpoints
from node.client import BatchPut, HivememClient
from node.clock import Clock, SystemClock
from node.errors import BadRequest, Conflict, HivememError
from node.transfer_checkpoint import Checkpoint
from node.transfer_lines import BadLine, Entry, Line, parse, read_lines

BATCH_RECORDS_MAX = 200  # records of one request
BATCH_BYTES_MAX = 1 << 20  # value bytes of one request; a larger record goes alone
BATCHES_INFLIGHT_MAX = 4  # requests under way at once
BATCH_TIMEOUT_MS = 60_000  # an import rides out a failover
CHECKPOINT_SECONDS = 0.5  # between two checkpoints
_OPERATION = re.compile(r"operations\[(\d+)\]\.?(.*)")


@dataclass(frozen=True, slots=True)
class Request:
    """`namespace`: store every record there, whatever its line says."""

    file: BinaryIO
    path: Path | None  # None: a pipe, which cannot be resumed
    namespace: str | None = None
    restart: bool = False
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A bad line."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(slots=True)
class Report:
    """Counts of this run, but for `resumed_lines`: lines that a former run had done."""

    stored: int = 0
    expired: int = 0  # records, or points, whose time had passed: not stored
    bad_lines: int = 0
    resumed_lines: int = 0


@dataclass(slots=True)
class _Batch:
    entries: list[Entry] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)  # of each entry
    value_bytes: int = 0
    last: tuple[int, int] = (0, 0)  # number and end of its last line, kept or not
    done: bool = False


class _Stopped(Exception):
    """A bad line ended the import; it was reported."""


class Import:
    """One run. `on_problem` hears of bad lines, `on_progress` of records and bytes done."""

    def __init__(
        self,
        client: HivememClient,
        request: Request,
        *,
        on_problem: Callable[[Problem], None],
        on_progress: Callable[[int, int], None],
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._request = request
        self._on_problem = on_problem
        self._on_progress = on_progress
        self._clock = clock or SystemClock()
        self._report = Report()
        self._checkpoint: Checkpoint
        self._saved_at = float("-inf")
        self._durable = (0, 0)  # lines and bytes up to which everything is done
        self._batch = _Batch()
        self._pending: deque[_Batch] = deque()  # in the order of their lines
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[tuple[str, str, str]] = set()  # keys in the batch or under way

    async def run(self) -> Report:
        """Import all lines. Raises: HivememError; the checkpoint then says how far it got.

        With bad lines and without `skip_bad` it returns early; `bad_lines` says so.
        """
        self._checkpoint = await self._resumed_or_new()
        self._report.resumed_lines = self._checkpoint.lines
        self._batch = self._new_batch((self._checkpoint.lines, self._checkpoint.offset))
        self._durable = self._batch.last
        finished = False
        try:
            await self._read()
            finished = True
        except _Stopped:
            await self._finish_tasks()
        finally:
            await self._cancel_tasks()
            self._settle()
            self._save()
        if finished and self._request.path is not None:
            checkpoints.path_of(self._request.path).unlink(missing_ok=True)
        return self._report

    async def _resumed_or_new(self) -> Checkpoint:
        cluster_id = (await self._client.cluster())["cluster_id"]
        path, file = self._request.path, self._request.file
        if path is not None and not self._request.restart:
            found = checkpoints.load(
                checkpoints.path_of(path), file, cluster_id, self._request.namespace
            )
            if found is not None:
                os.lseek(file.fileno(), found.offset, os.SEEK_SET)
                return found
        new = Checkpoint(self._clock.new_id(), cluster_id, self._request.namespace)
        if path is not None:
            # Before anything is sent: a run whose id is lost could not repeat its requests.
            checkpoints.save(checkpoints.path_of(path), new)
        return new

    async def _read(self) -> None:
        start = self._checkpoint
        try:
            async for line in read_lines(self._request.file.fileno(), start.lines, start.offset):
                await self._accept(line)
        except BadLine as bad:  # too long to be read at all, so that nothing follows it
            raise BadRequest(str(bad), field="line") from bad
        await self._dispatch()
        await self._drain()

    async def _accept(self, line: Line) -> None:
        if line.data.strip():
            try:
                entry = parse(line.data, self._request.namespace)
            except BadLine as bad:
                await self._bad(Problem(line.number, bad.field, str(bad)))
            else:
                await self._add(entry, line)
        self._batch.last = (line.number, line.end)
        if not self._batch.entries and not self._pending:
            self._settle()

    async def _add(self, entry: Entry, line: Line) -> None:
        if entry.expires_at is not None and self._ttl_seconds(entry) <= 0:
            self._report.expired += 1
            return
        batch = self._batch
        if batch.entries and batch.value_bytes + len(entry.value) > BATCH_BYTES_MAX:
            await self._dispatch()
        if entry.place in self._busy:
            await self._dispatch()
            await self._drain()
        batch = self._batch
        self._busy.add(entry.place)
        batch.entries.append(entry)
        batch.lines.append(line._replace(data=b""))
        batch.value_bytes += len(entry.value)
        batch.last = (line.number, line.end)
        if len(batch.entries) >= BATCH_RECORDS_MAX or batch.value_bytes >= BATCH_BYTES_MAX:
            await self._dispatch()

    async def _bad(self, problem: Problem) -> None:
        if not self._request.skip_bad:
            # What stands before it is stored, and noted, before anything is said.
            await self._dispatch()
            await self._drain()
        self._report.bad_lines += 1
        self._on_problem(problem)
        if not self._request.skip_bad:
            raise _Stopped

    async def _dispatch(self) -> None:
        """Send the batch off, once there is room."""
        if not self._batch.entries:
            return
        while len(self._tasks) >= BATCHES_INFLIGHT_MAX:
            await self._wait(asyncio.FIRST_COMPLETED)
        batch, self._batch = self._batch, self._new_batch(self._batch.last)
        self._pending.append(batch)
        self._tasks.add(asyncio.create_task(self._store(batch)))

    async def _drain(self) -> None:
        while self._tasks:
            await self._wait(asyncio.ALL_COMPLETED)
        self._settle()

    async def _wait(self, what: str) -> None:
        """Wait for tasks; raises what any of them raised."""
        done, self._tasks = await asyncio.wait(self._tasks, return_when=what)
        self._settle()
        for failed in sorted(done, key=lambda task: task.exception() is None):
            failed.result()

    async def _finish_tasks(self) -> None:
        """After a bad line: what was under way may stand before it, so it is not broken off."""
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, _Stopped):
                raise outcome

    async def _cancel_tasks(self) -> None:
        """After an error: let nothing go on in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    @staticmethod
    def _new_batch(last: tuple[int, int]) -> _Batch:
        return _Batch(last=last)

    # --- Storing -------------------------------------------------------------------

    async def _store(self, batch: _Batch) -> None:
        """Store a batch's records, or report why not. Raises: HivememError, _Stopped."""
        entries, lines = batch.entries, batch.lines
        while entries:
            try:
                results = await self._put(entries, lines)
            except BadRequest as refused:
                at = _place_in_batch(refused, len(entries))
                if at is None:
                    raise
                # Nothing of the request ran. What stands before the bad line is stored;
                # so is what follows it, if the import goes on.
                after = (entries[at + 1 :], lines[at + 1 :]) if self._request.skip_bad else ([], [])
                bad = (lines[at], refused)
                await self._store_part(entries[:at], lines[:at])
                self._refused(*bad)
                entries, lines = after
                continue
            self._count(results, lines)
            break
        self._busy.difference_update(entry.place for entry in batch.entries)
        batch.done = True

    async def _store_part(self, entries: list[Entry], lines: list[Line]) -> None:
        if entries:
            self._count(await self._put(entries, lines), lines)

    async def _put(self, entries: list[Entry], lines: list[Line]) -> list[HivememError | None]:
        """One result for each: None if it is stored."""
        operations = [
            self._operation(entry, line) for entry, line in zip(entries, lines, strict=True)
        ]
        if len(operations) > 1:
            answers = await self._client.batch(operations, timeout_ms=BATCH_TIMEOUT_MS)
            return [answer if isinstance(answer, HivememError) else None for answer in answers]
        # A large value goes as it is, not as JSON.
        (put,) = operations
        try:
            await self._client.put(
                *(put.namespace, put.session, put.key, put.value),
                content_type=put.content_type,
                ttl_seconds=put.ttl_seconds,
                request_id=put.request_id,
                timeout_ms=BATCH_TIMEOUT_MS,
            )
        except (BadRequest, Conflict) as refused:
            return [refused]
        return [None]

    def _operation(self, entry: Entry, line: Line) -> BatchPut:
        ttl = None if entry.expires_at is None else max(0.001, self._ttl_seconds(entry))
        # The line's content is part of its id: a corrected line is another request.
        digest = hashlib.sha256(repr(entry).encode()).hexdigest()[:16]
        return BatchPut(
            entry.namespace,
            entry.session,
            entry.key,
            entry.value,
            content_type=entry.content_type,
            ttl_seconds=ttl,
            request_id=f"import-{self._checkpoint.run}-{line.number}-{digest}",
        )

    def _ttl_seconds(self, entry: Entry) -> float:
        assert entry.expires_at is not None
        return entry.expires_at.timestamp() - self._clock.now_ms() / 1000

    def _count(self, results: list[HivememError | None], lines: list[Line]) -> None:
        for result, line in zip(results, lines, strict=True):
            if result is None or result.code == "REQUEST_ID_REUSED":
                # Reused: a former run stored this very line, when its TTL was longer.
                self._report.stored += 1
            elif isinstance(result, BadRequest | Conflict):
                self._refused(line, result)
            else:
                raise result

    def _refused(self, line: Line, error: HivememError) -> None:
        match = _OPERATION.fullmatch(error.field or "")
        name = match[2] if match else error.field or ""
        message = error.message.removeprefix(f"{error.field}: ")
        text = f"{name}: {message}" if name else message
        self._report.bad_lines += 1
        self._on_problem(Problem(line.number, name, text))
        if not self._request.skip_bad:
            raise _Stopped

    # --- Progress ------------------------------------------------------------------

    def _settle(self) -> None:
        """Move on over what is done, from the front, without gaps."""
        at = self._durable
        while self._pending and self._pending[0].done:
            at = self._pending.popleft().last
        if not self._pending and not self._batch.entries:
            at = self._batch.last
        if at == self._durable:
            return
        self._durable = at
        now = self._clock.monotonic()
        if now - self._saved_at >= CHECKPOINT_SECONDS:
            self._saved_at = now
            self._save()
        self._on_progress(self._report.stored, at[1])

    def _save(self) -> None:
        path = self._request.path
        if path is not None:
            now = self._checkpoint.moved(self._request.file, *self._durable)
            checkpoints.save(checkpoints.path_of(path), now)


def _place_in_batch(refused: BadRequest, count: int) -> int | None:
    """Which operation was refused; None if the request as a whole was."""
    match = _OPERATION.fullmatch(refused.field or "")
    place = int(match[1]) if match else count
    return place if place < count else None
