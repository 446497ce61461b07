"""The scrub: everything that this node keeps is read again, slowly, to see whether it is sound.

Theory of operation. Damage in what nobody reads is found by no read. So each group is gone through
in passes: every record of the state with its checksum, then the newest snapshot's bytes, then the
durable part of the log. One rate, `storage.scrub_bytes_per_second_max`, holds for all groups of a
node together, and a pass begins at most once in `storage.scrub_interval_seconds`.

The state is read in pieces, each in a read transaction of its own that is open for milliseconds.
So a pass sees each key range as of another moment, and yet its records have to add up to the hash
tree: each transaction is opened on the loop thread, between two applies; changes that are applied
later to what was read already are added to the sums as they happen, those to what is being read
are held back until the piece is done, and the rest will be read as it is then. At the end of the
pass the sums are those of the state as of now, and are compared with the tree of now.

Damage found in the state: it is quarantined. Sums that are not the tree's while every checksum is
right: something changed a record with its checksum, or our own arithmetic is wrong, which would be
so on every replica; so the others are asked first (`on_suspect`). Snapshot: it is set aside, and
another is made. Log: the node stops, as it would have refused to start; what it acknowledged may be
in what is lost, so that it must not go on voting as if it knew (DESIGN, section 6).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cluster.errors import CorruptLog, CorruptSnapshot, Overloaded
from cluster.group import RaftGroup
from cluster.log import SegmentedLog
from cluster.log_check import verify_records
from cluster.snapshot import SnapshotStore
from engines.digests import Deltas, Watched, add, load_buckets, total
from engines.errors import CorruptRecord, ReadersBusy, StoreFailed
from engines.scan import Piece, Position, check_sums, scan
from engines.state_machine import StateMachine
from engines.store import Snapshot, Store
from node.clock import Clock
from node.quarantine import Quarantine
from node.views import ScrubView

logger = logging.getLogger(__name__)

T = TypeVar("T")

PIECE_BYTES_MAX: Final = 64 << 10  # read at once, in milliseconds
PIECES_PER_SECOND: Final = 10  # at least, so that a slow scrub is an even one
CHANGES_MAX: Final = 100_000  # held back while one piece is read; more: the sums are given up
BUSY_SECONDS: Final = 1.0  # before another try where all readers are in use
LOOK_SECONDS: Final = 1.0  # between two looks at whether a pass is due


class Interrupted(Exception):
    """The pass is over: the state was exchanged, or is not answered from."""


class Pace:
    """Bytes per second over all groups of a node. Loop thread only."""

    def __init__(self, bytes_per_second_max: int) -> None:
        self.bytes_per_second_max = bytes_per_second_max
        self.piece_bytes = max(
            4096, min(PIECE_BYTES_MAX, bytes_per_second_max // PIECES_PER_SECOND)
        )

    async def spend(self, size: int) -> None:
        await asyncio.sleep(size / self.bytes_per_second_max)


class GroupScrub:
    """The scrub of one group. Loop thread only; what is slow runs on `executor`."""

    def __init__(
        self,
        group: RaftGroup,
        machine: StateMachine,
        store: Store,
        snapshots: SnapshotStore,
        log: SegmentedLog,
        quarantine: Quarantine,
        clock: Clock,
        fail: Callable[[BaseException], None],
    ) -> None:
        """`fail` stops the node."""
        self.on_suspect: Callable[[str], None] = lambda reason: None
        self._group = group
        self._machine = machine
        self._store = store
        self._snapshots = snapshots
        self._log = log
        self._quarantine = quarantine
        self._clock = clock
        self._fail = fail
        self._sums = _Sums()
        self._started: float | None = None  # monotonic
        self._pass_bytes = 0
        self._pass_bytes_expected = 0
        self._running = self._closed = False
        self._passes = self._bytes = self._records = self._errors = 0
        self._last_error: str | None = None
        self._started_ms: int | None = None
        self._finished_ms: int | None = None

    def close(self) -> None:
        """End the pass that is under way: the files are being closed."""
        self._closed = True

    def view(self, bytes_per_second_max: int) -> ScrubView:
        progress = None
        if self._running and self._pass_bytes_expected:
            progress = round(min(self._pass_bytes / self._pass_bytes_expected, 1.0), 4)
        return ScrubView(
            self._running, progress, self._passes, self._bytes, self._records, self._errors,
            self._last_error, self._started_ms, self._finished_ms, bytes_per_second_max,
        )  # fmt: skip

    def is_due(self, interval_seconds: float) -> bool:
        if self._closed or self._quarantine.mark is not None:
            return False
        return self._started is None or (
            self._clock.monotonic() - self._started >= interval_seconds
        )

    async def run(self, pace: Pace, executor: Executor) -> None:
        """One pass. It ends early where the state is exchanged meanwhile."""
        self._started = self._clock.monotonic()
        self._started_ms = self._clock.now_ms()
        self._running, self._pass_bytes = True, 0
        self._pass_bytes_expected = self._expected()
        try:
            await self._state(pace, executor)
            await self._snapshot(pace, executor)
            await self._segments(pace, executor)
        except Interrupted:
            return
        finally:
            self._running = False
        self._passes += 1
        self._finished_ms = self._clock.now_ms()

    def _expected(self) -> int:
        stats, newest = self._quarantine.stats(), self._snapshots.newest
        state = stats.map_bytes_used if stats is not None else 0
        return state + (newest.size if newest else 0) + self._log.size_bytes

    def _found(self, what: str) -> None:
        self._errors += 1
        self._last_error = what
        logger.error("scrub of group %d: %s", self._group.group, what)

    async def _spend(self, pace: Pace, size: int) -> None:
        self._pass_bytes += size
        self._bytes += size
        await pace.spend(size)

    # --- The state -------------------------------------------------------------------

    async def _state(self, pace: Pace, executor: Executor) -> None:
        self._sums = sums = _Sums()
        self._machine.on_records = sums.changed
        replaced = self._store.replaced
        try:
            while sums.position is not None:
                piece = await self._piece(sums, replaced, pace.piece_bytes, executor)
                self._records += piece.records
                await self._spend(pace, piece.size)
            self._check_undisturbed(replaced)
            self._compare(sums)
        except (CorruptRecord, StoreFailed) as error:
            # A map is read without a call that could fail: what LMDB cannot follow is damaged.
            if self._closed or replaced != self._store.replaced:
                raise Interrupted from error
            self._found(str(error))
            self._quarantine.quarantine("scrub", str(error))
            raise Interrupted from error
        finally:
            self._machine.on_records = None

    async def _piece(self, sums: _Sums, replaced: int, bytes_max: int, executor: Executor) -> Piece:
        """Read one piece. Raises CorruptRecord, Interrupted."""
        while True:
            self._check_undisturbed(replaced)
            snapshot = self._store.read()
            try:
                snapshot.__enter__()
                break
            except ReadersBusy:
                await asyncio.sleep(BUSY_SECONDS)
        position = sums.begin()
        return sums.done(
            await _uninterrupted(executor, partial(_scan, snapshot, position, bytes_max, sums.read))
        )

    def _check_undisturbed(self, replaced: int) -> None:
        if self._closed or self._quarantine.mark is not None or replaced != self._store.replaced:
            raise Interrupted

    def _compare(self, sums: _Sums) -> None:
        """No apply comes in between: this is the loop thread."""
        if sums.given_up:
            return
        with self._store.read() as snapshot:
            buckets = load_buckets(snapshot.txn, snapshot.databases)
        try:
            check_sums(buckets, sums.total)
        except CorruptRecord as error:
            self._found(str(error))
            self.on_suspect(str(error))

    # --- The newest snapshot -----------------------------------------------------------

    async def _snapshot(self, pace: Pace, executor: Executor) -> None:
        meta, path = self._snapshots.newest, self._snapshots.newest_file
        if meta is None or path is None:
            return
        if self._closed:
            raise Interrupted
        digest = hashlib.sha256()
        size = 0
        try:
            while data := await _uninterrupted(
                executor, partial(_read, path, size, pace.piece_bytes)
            ):
                digest.update(data)
                size += len(data)
                await self._spend(pace, len(data))
        except FileNotFoundError:
            return  # A newer one has taken its place.
        if self._closed or self._snapshots.newest != meta or digest.digest() == meta.sha256:
            return
        self._found(f"snapshot {path}: its sha256 is not the manifest's")
        answer: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def verified(error: Exception | None) -> None:
            if not answer.done():
                answer.set_result(error)

        try:
            self._snapshots.verify(verified)
        except Overloaded:
            return  # The next pass finds it again.
        error = await answer
        if isinstance(error, CorruptSnapshot):
            logger.error("%s; it is set aside, and another is made", error)
            self._group.make_snapshot()
        elif error is not None:
            self._fail(error)

    # --- The log -----------------------------------------------------------------------

    async def _segments(self, pace: Pace, executor: Executor) -> None:
        for extent in self._log.extents():
            offset = 0
            try:
                while offset < extent.size:
                    start = offset
                    offset = await _uninterrupted(
                        executor, partial(verify_records, extent, start, pace.piece_bytes)
                    )
                    await self._spend(pace, offset - start)
            except FileNotFoundError:
                continue  # Cut off below a snapshot.
            except CorruptLog as error:
                if self._closed or extent.path not in {each.path for each in self._log.extents()}:
                    continue
                self._found(str(error))
                self._fail(error)
                raise Interrupted from error


class _Sums:
    """The sums of the records read so far, as of now. Loop thread, but for `read`.

    Invariant, between two pieces: `total` is the sums of all records before `position`.
    """

    def __init__(self) -> None:
        self.total: Deltas = {}
        self.position: Position | None = Position()
        self.given_up = False
        self._piece: Deltas = {}
        self._held_back: list[Watched] | None = None  # while a piece is read

    def begin(self) -> Position:
        """A transaction was opened just now; the piece begins at the position returned."""
        assert self.position is not None
        self._piece = {}
        self._held_back = []
        return self.position

    def read(self, number: int, key: bytes, value: bytes | memoryview) -> None:
        """A record of the piece. The scrub's thread."""
        add(self._piece, number, key, value)

    def done(self, piece: Piece) -> Piece:
        """The piece was read up to where it says."""
        end, held_back = piece.end, self._held_back or []
        for bucket, value in self._piece.items():
            self.total[bucket] = self.total.get(bucket, 0) + value
        inside = (each for each in held_back if end is None or (each.number, each.key) < end)
        total(inside, self.total)
        self._held_back = None
        self.position = end
        return piece

    def changed(self, changes: Sequence[Watched]) -> None:
        """These records were changed just now."""
        position = self.position
        total(
            (each for each in changes if position is None or (each.number, each.key) < position),
            self.total,
        )
        if self._held_back is not None and position is not None:
            self._held_back += (each for each in changes if (each.number, each.key) >= position)
            if len(self._held_back) > CHANGES_MAX:
                self._held_back = []
                self.given_up = True


def _scan(
    snapshot: Snapshot,
    position: Position,
    bytes_max: int,
    seen: Callable[[int, bytes, bytes | memoryview], None],
) -> Piece:
    """The scrub's thread. Ends the transaction."""
    try:
        piece = scan(snapshot.txn, snapshot.databases, position, bytes_max, seen)
    except BaseException as error:
        snapshot.__exit__(type(error), error, error.__traceback__)
        raise
    snapshot.__exit__(None, None, None)
    return piece


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


async def _uninterrupted(executor: Executor, work: Callable[[], T]) -> T:
    """Run `work` on the scrub's thread; a cancelled scrub waits for it, since it holds a
    transaction. Milliseconds."""
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait((future,))
        raise


class Scrubber:
    """The scrub of all groups of one node, one after the other. Loop thread only."""

    def __init__(
        self,
        groups: Callable[[], Sequence[GroupScrub]],
        executor: Executor,
        bytes_per_second_max: int,
        interval_seconds: float,
    ) -> None:
        """`bytes_per_second_max` 0: there is none. `executor` has one thread, or more."""
        self._groups = groups
        self._executor = executor
        self._pace = Pace(bytes_per_second_max) if bytes_per_second_max else None
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Until cancelled."""
        while self._pace is not None:
            for group in self._groups():
                if group.is_due(self._interval_seconds):
                    await group.run(self._pace, self._executor)
            await asyncio.sleep(LOOK_SECONDS)
