"""Import into a collection: streaming, in batches, resumable.

Theory of operation. Rows become batches whose bounds follow from the rows alone, and one batch is
under way at a time; the checkpoint moves from batch to batch. So what is sent again after a
crash is the same batch under the same request id, which is applied once, whatever the engine
makes of doubles. (Of an engine that takes items one by one, the items of a batch are under way
together, each under an id of its own.)

A batch that is refused is taken apart: at the item that the refusal names, else in halves. What
stands before a bad row is stored; without `skip_bad` the import ends there. The file may be
corrected then, so that lines move: what follows is of a new run, with request ids of its own.
What was under way behind the bad row, and is stored, the checkpoint names by its digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

from node import client_wire as wire
from node import transfer_checkpoint as checkpoints
from node.client import HivememClient
from node.clock import Clock, SystemClock
from node.errors import BadRequest, Conflict, HivememError, NotFound
from node.transfer_checkpoint import Checkpoint
from node.transfer_import import BATCH_BYTES_MAX, BATCH_TIMEOUT_MS, Problem, Report
from node.transfer_lines import BadLine, Line, read_lines
from node.transfer_rows import Placed, Position, Rows
from node.transfer_targets import Item, Target

SINGLES_MAX: Final = 200  # items of a batch whose engine takes them one by one
SINGLES_INFLIGHT_MAX: Final = 16
_ABOUT_ITEMS: Final = ("parameters", "body")  # fields of errors that a row is at fault for
_ABOUT_REQUESTS: Final = ("COLLECTION_NOT_FOUND", "REQUEST_ID_REUSED")


@dataclass(frozen=True, slots=True)
class Request:
    """`made_at`: when the collection was made, so that one made anew is not taken for it."""

    file: BinaryIO
    path: Path | None  # None: a pipe, which cannot be resumed
    namespace: str
    collection: str
    made_at: str
    restart: bool = False
    skip_bad: bool = False

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.collection} of {self.made_at}"


@dataclass(slots=True)
class _Batch:
    rows: list[Placed] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    size: int = 0
    identities: set[object] = field(default_factory=set)
    kind: object = None


class _Stopped(Exception):
    """A bad row ended the import; it was reported. `at`: where the next one begins."""

    def __init__(self, at: Position) -> None:
        super().__init__()
        self.at = at


class CollectionImport:
    """One run. `on_problem` hears of bad rows, `on_progress` of rows and bytes done."""

    def __init__(
        self,
        client: HivememClient,
        request: Request,
        rows: Rows,
        target: Target,
        *,
        on_problem: Callable[[Problem], None],
        on_progress: Callable[[int, int], None],
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._request = request
        self._rows = rows
        self._target = target
        self._on_problem = on_problem
        self._on_progress = on_progress
        self._clock = clock or SystemClock()
        self._report = Report()
        self._checkpoint: Checkpoint
        self._batch = _Batch()
        self._behind: Counter[str] = Counter()  # digests of rows that are stored already
        self._read: Position = (0, 0)  # up to here rows are in the batch, or done
        self._single = target.items_max == 1
        self._items_max = SINGLES_MAX if self._single else target.items_max

    async def run(self) -> Report:
        """Import all rows. Raises: HivememError; the checkpoint then says how far it got.

        With bad rows and without `skip_bad` it returns early; `bad_lines` says so.
        """
        self._checkpoint = await self._resumed_or_new()
        self._report.resumed_lines = self._checkpoint.lines
        self._behind.update(self._checkpoint.behind)
        self._read = (self._checkpoint.lines, self._checkpoint.offset)
        try:
            await self._read_all()
        except _Stopped as stopped:
            # Nothing is under way any more, and lines may move before this goes on.
            self._checkpoint = replace(self._checkpoint, run=self._clock.new_id())
            self._note(stopped.at)
            return self._report
        if self._request.path is not None:
            checkpoints.path_of(self._request.path).unlink(missing_ok=True)
        return self._report

    async def _resumed_or_new(self) -> Checkpoint:
        cluster_id = (await self._client.cluster())["cluster_id"]
        path, file, place = self._request.path, self._request.file, self._request.place
        if path is not None and not self._request.restart:
            found = checkpoints.load(checkpoints.path_of(path), file, cluster_id, None, place)
            if found is not None:
                return found
        new = Checkpoint(self._clock.new_id(), cluster_id, None, collection=place)
        if path is not None:
            # Before anything is sent: a run whose id is lost could not repeat its requests.
            checkpoints.save(checkpoints.path_of(path), new)
        return new

    # --- Reading -------------------------------------------------------------------

    async def _read_all(self) -> None:
        descriptor = self._request.file.fileno()
        start = (0, 0) if self._rows.heading else self._read
        if self._request.path is not None:
            os.lseek(descriptor, start[1], os.SEEK_SET)
        try:
            async for line in read_lines(descriptor, *start):
                if line.number > self._read[0] or self._rows.heading:
                    await self._accept(line)
        except BadLine as bad:  # too long to be read at all, so that nothing follows it
            raise BadRequest(str(bad), field="line") from bad
        try:
            self._rows.end()
        except BadLine as bad:
            await self._bad(bad, self._rows.line)
        except BadRequest:
            await self._flush()
            raise
        await self._flush()

    async def _accept(self, line: Line) -> None:
        before = self._read
        try:
            row = self._rows.take(line)
            item = None if row is None else self._target.item(row)
        except BadLine as bad:
            await self._bad(bad, self._rows.line)
            item = None
        after = (line.number, line.end)
        if item is not None:
            size = after[1] - before[1] + self._rows.beside_bytes
            await self._add(Placed(self._rows.line, size, before, after), item)
        if not self._rows.unfinished:
            self._read = max(self._read, after)

    async def _add(self, row: Placed, item: Item) -> None:
        identity, kind = self._target.identity(item), self._target.kind(item)
        batch = self._batch
        if batch.rows and (
            batch.size + row.size > BATCH_BYTES_MAX
            or (identity is not None and identity in batch.identities)
            or kind != batch.kind
        ):
            await self._flush()
        batch = self._batch
        batch.rows.append(row)
        batch.items.append(item)
        batch.size += row.size
        batch.kind = kind
        if identity is not None:
            batch.identities.add(identity)
        if len(batch.rows) >= self._items_max or batch.size >= BATCH_BYTES_MAX:
            await self._flush(row.after)

    async def _bad(self, bad: BadLine, line: int) -> None:
        if not self._request.skip_bad:
            # What stands before it is stored before anything is said.
            await self._flush()
        self._report.bad_lines += 1
        self._on_problem(Problem(line, bad.field, str(bad)))
        if not self._request.skip_bad:
            raise _Stopped(self._read)

    async def _flush(self, at: Position | None = None) -> None:
        """Store the batch, and note that. `at`: where it ends, if more is read than in it."""
        batch, self._batch = self._batch, _Batch()
        if batch.rows:
            store = self._store_singly if self._single else self._store
            await store(batch.rows, batch.items)
        self._note(at or self._read)

    def _note(self, at: Position) -> None:
        path = self._request.path
        if path is not None:
            moved = self._checkpoint.moved(self._request.file, *at)
            self._checkpoint = replace(moved, behind=tuple(self._behind.elements()))
            checkpoints.save(checkpoints.path_of(path), self._checkpoint)
        self._on_progress(self._report.stored, at[1])

    # --- Storing -------------------------------------------------------------------

    async def _store(self, rows: Sequence[Placed], items: Sequence[Item]) -> None:
        """Store rows, or report which of them are refused. Raises: HivememError, _Stopped."""
        while rows:
            refusal = await self._send(rows, items)
            if refusal is None:
                return
            place, name = self._place(refusal, len(rows))
            if place is None:
                half = len(rows) // 2
                await self._store(rows[:half], items[:half])
                rows, items = rows[half:], items[half:]
                continue
            await self._store(rows[:place], items[:place])
            self._refuse(rows[place], refusal, name)
            rows, items = rows[place + 1 :], items[place + 1 :]

    async def _store_singly(self, rows: Sequence[Placed], items: Sequence[Item]) -> None:
        """The same, for an engine that takes one item at a time."""
        slots = asyncio.Semaphore(SINGLES_INFLIGHT_MAX)  # which are taken in order
        refusals: dict[int, HivememError] = {}
        stored: list[int] = []

        async def one(place: int) -> None:
            async with slots:
                if refusals and not self._request.skip_bad:
                    return  # what stands behind the first refusal waits until that is corrected
                refusal = await self._send(rows[place : place + 1], items[place : place + 1])
                if refusal is None:
                    stored.append(place)
                else:
                    refusals[place] = refusal

        new = [place for place, item in enumerate(items) if not self._was_stored(item)]
        tasks = [asyncio.create_task(one(place)) for place in new]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if refusals and not self._request.skip_bad:
            done = {*range(len(rows))} - {*new} | {*stored}
            behind = [place for place in done if place > min(refusals)]
            self._behind.update(self._digest(items[place]) for place in behind)
        for place, refusal in sorted(refusals.items()):
            self._refuse(rows[place], refusal, self._place(refusal, 1)[1])

    def _was_stored(self, item: Item) -> bool:
        """By the run before, behind the row that ended it. Each is found once."""
        if not self._behind:
            return False
        digest = self._digest(item)
        if not self._behind[digest]:
            return False
        self._behind[digest] -= 1
        return True

    def _digest(self, item: Item) -> str:
        text = json.dumps(self._target.request((item,)))
        return hashlib.sha256(text.encode()).hexdigest()

    async def _send(self, rows: Sequence[Placed], items: Sequence[Item]) -> HivememError | None:
        """Store all of them, or none: the refusal. Raises: HivememError."""
        operation, parameters = self._target.request(items)
        try:
            digest = hashlib.sha256(wire.dumps(parameters)).hexdigest()[:16]
            answer = await self._client.query(
                self._request.namespace,
                self._request.collection,
                operation,
                parameters,
                writes=True,
                request_id=f"import-{self._checkpoint.run}-{rows[0].line}-{digest}",
                timeout_ms=BATCH_TIMEOUT_MS,
            )
        except (BadRequest, Conflict, NotFound) as refusal:
            if not _about_items(refusal):
                raise
            return refusal
        expired = answer["result"].get("expired", 0) if isinstance(answer["result"], dict) else 0
        self._report.expired += expired
        self._report.stored += len(rows) - expired
        return None

    def _place(self, refusal: HivememError, count: int) -> tuple[int | None, str]:
        """Which of `count` items was refused, and its field; None: the refusal does not say."""
        match = self._target.place.fullmatch(refusal.field or "")
        if match is None:
            return (0 if count == 1 else None), ""
        place = int(match[1]) if match[1] else count
        if place < count:
            return place, match[2]
        return (0 if count == 1 else None), match[2]

    def _refuse(self, row: Placed, refusal: HivememError, name: str) -> None:
        message = refusal.message.removeprefix(f"{refusal.field}: ")
        self._report.bad_lines += 1
        self._on_problem(Problem(row.line, name, f"{name}: {message}" if name else message))
        if not self._request.skip_bad:
            raise _Stopped(row.before)


def _about_items(refusal: HivememError) -> bool:
    """Is it what was to be stored that is refused, rather than where, how, or by whom?"""
    field = refusal.field
    return refusal.code not in _ABOUT_REQUESTS and (
        field is None or field.split(".")[0] in _ABOUT_ITEMS
    )
