"""One Raft group on this node: its state, log and snapshots, and what works beside them.

Order of opening: state, snapshots, log, brought into agreement, then the group. A group
that meets corruption, a full map or a failing disk fails with the reason (`Shared.fail`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.compaction import CompactionLimits
from cluster.errors import (
    CorruptLog,
    CorruptSnapshot,
    DamagedContent,
    Overloaded,
    StateDamaged,
)
from cluster.group import RaftGroup
from cluster.group_limits import GroupLimits
from cluster.log import SegmentedLog
from cluster.log_format import LogOptions
from cluster.log_writer import LogWriter
from cluster.membership import Configuration, Member
from cluster.raft import Identity
from cluster.reconcile import reconcile
from cluster.snapshot import SnapshotStore
from cluster.snapshot_rules import SnapshotOptions
from cluster.transport import Transport
from cluster.upstream import RaftTiming
from engines.errors import CorruptRecord, ReadersBusy, StoreFailed, UnknownFormat
from engines.interfaces import Limits
from engines.registry import EngineNotUsable, Registry, load_registry
from engines.scan import examine_file
from engines.state_machine import StateMachine
from engines.store import Store
from node.clock import SystemClock
from node.collection_upkeep import CollectionUpkeep
from node.comparison import Comparison
from node.config_schema import NodeConfig, RaftSection
from node.datadir import DataDir
from node.driver import Drivers, GroupDriver
from node.errors import StartupError
from node.forward import Forwarder
from node.gathered_reads import GatheredReads
from node.group_calls import GroupCalls
from node.http_limits import HttpLimits
from node.integrity import Integrity
from node.leader_duties import LeaderDuties
from node.local_reads import LocalReads, ReaderThreads
from node.member_duties import MemberDuties
from node.members import MemberService
from node.optimizer import Optimizer
from node.quarantine import GuardedMachine, Quarantine, StateGuard, read_mark
from node.read_failover import ReadFailover
from node.remote_reads import RemoteReads
from node.remote_watch import WatchServer
from node.router import Router
from node.scrub import GroupScrub
from node.steps import Steps
from node.watch import WatchHub

logger = logging.getLogger(__name__)

SYSTEM_GROUP = 0  # who belongs to the cluster, and where its partitions are
LOG_CACHE_BYTES_MIN = 1 << 20  # of one group: its newest entry and some more
EXAMINE_PAUSE_SECONDS_MAX = 0.1  # between two pieces of a state that is looked at whole
READERS_MAX = 126  # LMDB reader slots of one state: loop, read threads and room for tools


@dataclass(frozen=True, slots=True)
class Shared:
    """What the groups of one node have in common."""

    config: NodeConfig
    clock: SystemClock
    data_dir: DataDir
    writer: LogWriter
    transport: Transport
    calls: GroupCalls
    drivers: Drivers
    executor: Executor
    threads: ReaderThreads
    optimizer: Optimizer
    remote_reads: RemoteReads
    fail: Callable[[BaseException], None]  # what must stop the node
    failure: Callable[[], BaseException | None]  # why it stops


class Replica:
    """One group on this node. Loop thread only.

    `start`, `stop` and `close` are called once each, in this order.
    """

    def __init__(
        self,
        group: int,
        shared: Shared,
        bootstrap: Configuration,
        fail: Callable[[BaseException], None],
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Opens the group's folder. Raises StartupError, CorruptRecord, StorageFailed.

        `bootstrap`: the members while the log names none. `fail` hears what ends the group.
        `wanted`: see `Standing`.
        """
        self.id = group
        self._wanted = wanted
        self._shared = shared
        self.clock = shared.clock
        self._fail = fail
        self._driver = GroupDriver(shared.drivers)
        self._work = AsyncExitStack()
        self._keep = True  # False: the files are to be deleted
        with ExitStack() as stack:
            if read_mark(shared.data_dir.group_path(group)) is not None:
                shared.data_dir.discard_live(group)
            self.store = stack.enter_context(opened_state(shared, group, lambda: self._keep))
            # Every state begins with the same limits, whatever is configured here and now: the
            # same log must give the same state. The leader brings the configured ones into it.
            self.machine = StateMachine(self.store, Limits(), registry=engines_here())
            self.machine.indexes.results.resize(shared.config.optimizer.cache_bytes_max)
            self.guard = StateGuard(self.store, self.machine.registry, self.machine.indexes)
            self.readers = self.guard.readers
            log = stack.enter_context(opened_log(shared, group))
            self.snapshots = stack.enter_context(
                opened_snapshots(shared, group, self.machine, fail)
            )
            _reconcile(log, self.snapshots, self.machine)
            self.group = self._raft_group(log, self.snapshots, bootstrap)
            self._log = log
            self._files = stack.pop_all()
        self._build_parts()

    def _build_parts(self) -> None:
        """What works with the group: routes, members, watches."""
        shared, config = self._shared, self._shared.config
        self.forwarder = Forwarder(shared.calls.of(self.id), self.group)
        self.members = MemberService(
            config.node.id, self.group, shared.transport, self.forwarder, shared.clock
        )
        http = {member.id: member.http for member in config.cluster.members}
        self.router = Router(
            config.node.id, self.group, self.machine, self.forwarder, shared.clock, http,
            LocalReads(
                self.readers, shared.threads, self.guard.check, shared.optimizer,
                GatheredReads(
                    self.readers, shared.threads, shared.optimizer, self.machine.registry.together
                ),
            ),
            ReadFailover(
                config.node.id, self.id, self.group, shared.remote_reads, shared.clock
            ),
        )  # fmt: skip
        shared.remote_reads.serve(self.id, self.router, lambda: self.votes)
        self.steps = Steps(config.node.id, self.group, shared.calls.of(self.id))
        limits = HttpLimits()
        self.hub = WatchHub(
            self.readers,
            shared.executor,
            watches_max=limits.watches_max,
            queue_changes_max=limits.watch_queue_changes_max,
        )
        self.hub.on_subscribed = self.group.catch_up
        self.machine.on_changes = self.hub.publish
        self.machine.on_replaced = self.hub.reset
        self.machine.on_unforeseen = self._refused_unforeseen
        WatchServer(shared.calls.of(self.id), self.hub, shared.threads, self._follows, shared.fail)
        self.quarantine = Quarantine(
            shared.data_dir.group_path(self.id),
            self.group,
            self.machine,
            self.guard,
            shared.clock,
            asyncio.get_running_loop().call_soon_threadsafe,
        )
        self.quarantine.resume()
        self.scrub = GroupScrub(
            self.group, self.machine, self.store, self.snapshots, self._log, self.quarantine,
            shared.clock, self._fail,
        )  # fmt: skip
        self.integrity = Integrity(self.id, self.quarantine)
        rate = config.storage.scrub_bytes_per_second_max
        self.integrity.scrub = lambda: self.scrub.view(rate)
        self.comparison = Comparison(
            config.node.id, self.group, self.machine, shared.calls.of(self.id), self.quarantine,
            shared.clock, config.storage.digest_interval_seconds,
        )  # fmt: skip
        self.integrity.comparison = self.comparison.view
        self.scrub.on_suspect = self.comparison.suspect

    def _refused_unforeseen(self, operation: str, error: Exception) -> None:
        logger.error(
            "group %d: %s was refused, since its engine failed at it: a defect of the engine, or "
            "of the node that proposed it", self.id, operation, exc_info=error,
        )  # fmt: skip

    def _follows(self) -> bool:
        """Is its state that of the group, as far as this node can tell?"""
        group = self.group
        votes = self._shared.config.node.id in group.configuration().voters
        return votes and group.role().leader is not None and not self.guard.closed

    @property
    def votes(self) -> bool:
        """Has this node a vote in the group, as far as it knows?"""
        return self._shared.config.node.id in self.group.configuration().voters

    async def start(self) -> None:
        """Take part in the group."""
        self._driver.start(self.group.turn, self.group.tick, self.group.due_in)
        shared, config = self._shared, self._shared.config
        own = config.member()
        incarnation = shared.data_dir.identity.incarnation
        facts = Member(own.id, True, own.name, own.peer, own.http, incarnation)
        leader = LeaderDuties(
            own.id, self.group, self.router, self.machine, self.readers, config.limits,
            shared.clock,
        )  # fmt: skip
        member = MemberDuties(facts, self.group, self.members, shared.transport, shared.clock)
        upkeep = CollectionUpkeep(
            own.id, self.group, self.router, self.readers, shared.threads, self.machine.registry,
            shared.clock,
        )  # fmt: skip
        for work in (leader.run(), member.run(), upkeep.run(), self.comparison.run()):
            await self._work.enter_async_context(background(work, self._fail))

    async def stop(self) -> None:
        """End what this node does for the group by itself. It still takes part."""
        await self._work.aclose()

    def close(self, *, keep: bool = True) -> None:
        """Take part no more, and close the files, to `keep` or to delete them. Idempotent."""
        self._keep = keep
        self.hub.close()  # watches go on at another node
        self.scrub.close()
        self._driver.stop()
        self.group.halt()
        self._shared.transport.unregister(self.id)
        self._shared.calls.forget(self.id)
        self._shared.remote_reads.withdraw(self.id)
        self._files.close()

    def _raft_group(
        self, log: SegmentedLog, snapshots: SnapshotStore, bootstrap: Configuration
    ) -> RaftGroup:
        if self.machine.applied_index > log.last_index:
            raise StartupError(
                f"the state is applied to log index {self.machine.applied_index} but the log "
                f"ends at {log.last_index}: log files are missing"
            )
        shared = self._shared
        storage, raft = shared.config.storage, shared.config.raft
        return RaftGroup(
            self.id,
            Identity(shared.config.node.id, shared.data_dir.identity.incarnation),
            bootstrap,
            log,
            GuardedMachine(self.machine, self.guard),
            snapshots,
            shared.transport,
            wake=self._driver.wake,
            fail=self._fail,
            rng=shared.clock.random(),
            timing=_timing(raft),
            limits=GroupLimits(
                entry_commands_max=raft.entry_commands_max,
                entry_bytes_max=raft.entry_bytes_max,
                proposals_inflight_max=raft.proposals_inflight_max,
                proposals_bytes_max=raft.proposals_bytes_max,
            ),
            compaction=CompactionLimits(
                entries_max=storage.snapshot_entries,
                log_bytes=storage.snapshot_log_bytes,
                keep_entries=storage.log_keep_entries,
                keep_bytes_max=storage.log_keep_bytes_max,
            ),
            governs_peers=self.id == SYSTEM_GROUP,
            wanted=self._wanted,
            watched=lambda: self.hub.count > 0,
        )


@contextmanager
def opened_state(
    shared: Shared, group: int, keep: Callable[[], bool] = lambda: True
) -> Iterator[Store]:
    """The applied state. Only a clean way out syncs it, and only what is to be kept."""
    store = _open_store(shared, group)
    try:
        yield store
    except BaseException as error:
        store.close()
        if isinstance(error, CorruptRecord):
            shared.data_dir.distrust_live()  # Met while starting; the next start rebuilds it.
        raise
    failure = shared.failure()
    if failure is None and keep():
        store.sync()
    store.close()
    if isinstance(failure, CorruptRecord):
        shared.data_dir.distrust_live()


def _open_store(shared: Shared, group: int) -> Store:
    """The state is derived: one that does not open is made anew from snapshot and log."""
    map_bytes = shared.config.storage.map_bytes
    path = shared.data_dir.live_path(group)
    try:
        return Store(path, map_bytes, READERS_MAX)
    except (CorruptRecord, UnknownFormat) as error:
        logger.warning("the state is damaged, and is rebuilt from snapshot and log: %s", error)
        shared.data_dir.distrust_live()
        shared.data_dir.discard_live(group)
        return Store(path, map_bytes, READERS_MAX)


def engines_here() -> Registry:
    """The engines that this node has. Raises StartupError: one of another package is unusable."""
    try:
        return load_registry()
    except EngineNotUsable as error:
        raise StartupError(str(error)) from error


@contextmanager
def opened_snapshots(
    shared: Shared, group: int, machine: StateMachine, fail: Callable[[BaseException], None]
) -> Iterator[SnapshotStore]:
    storage = shared.config.storage
    snapshots = SnapshotStore(
        shared.data_dir.snapshots_path(group),
        group,
        Checkpoints(machine, shared.data_dir, shared.clock.monotonic),
        asyncio.get_running_loop().call_soon_threadsafe,
        fail,
        SnapshotOptions(copy_bytes_per_second_max=storage.snapshot_bytes_per_second_max),
        monotonic=shared.clock.monotonic,
    )
    for problem in snapshots.problems:
        logger.warning("snapshot: %s", problem)
    try:
        yield snapshots
    finally:
        snapshots.close()


@contextmanager
def opened_log(shared: Shared, group: int) -> Iterator[SegmentedLog]:
    """Raises StartupError for a damaged one."""
    storage = shared.config.storage
    options = LogOptions(
        segment_bytes=storage.segment_bytes,
        cache_bytes=max(
            LOG_CACHE_BYTES_MIN, storage.log_cache_bytes // (1 + shared.config.cluster.partitions)
        ),
        # Unpredictable, so that nobody can store a value that passes for log records.
        salt=shared.clock.random().getrandbits(32),
    )
    try:
        log = SegmentedLog.open(shared.data_dir.log_path(group), group, shared.writer, options)
    except CorruptLog as error:
        raise StartupError(
            f"{error}. What was acknowledged may be damaged on this node; the other nodes "
            "still hold it. Keep this folder aside and reseed the node from the cluster."
        ) from error
    try:
        yield log
    finally:
        log.close()


class Checkpoints:
    """The machine's copies, with the errors told apart that do not have to stop the node."""

    def __init__(
        self, machine: StateMachine, data_dir: DataDir, monotonic: Callable[[], float]
    ) -> None:
        self._machine = machine
        self._data_dir = data_dir
        self._monotonic = monotonic
        self.release_memory = machine.release_memory

    def copy_to(self, fd: int) -> tuple[int, int]:
        try:
            return self._machine.copy_to(fd)
        except ReadersBusy as error:
            raise Overloaded(str(error)) from error
        except CorruptRecord as error:
            raise StateDamaged(str(error)) from error

    def examine(self, path: Path, cancelled: Callable[[], bool]) -> None:
        """As long as it takes, but no more than half of the time: it is Python that works."""
        began = self._monotonic()

        def pace(size: int) -> bool:
            nonlocal began
            time.sleep(min(self._monotonic() - began, EXAMINE_PAUSE_SECONDS_MAX))
            began = self._monotonic()
            return not cancelled()

        try:
            examine_file(path, pace=pace)
        except (CorruptRecord, StoreFailed) as error:
            # Its bytes are what was copied: what LMDB cannot follow in them was damaged then.
            raise DamagedContent(str(path), str(error)) from error
        except UnknownFormat as error:
            raise CorruptSnapshot(str(path), str(error)) from error

    def replace(self, path: Path, index: int, term: int) -> None:
        """A snapshot is as good as the state that it was copied from. Where that was found
        damaged, every record is looked at before the copy is believed."""
        try:
            self._machine.replace(path, index, term, thorough=self._data_dir.damaged)
        except (CorruptRecord, UnknownFormat) as error:
            raise CorruptSnapshot(str(path), str(error)) from error


def _reconcile(log: SegmentedLog, snapshots: SnapshotStore, machine: StateMachine) -> None:
    """Make up for what a crash interrupted, and say what was done."""
    done = reconcile(log, snapshots, lambda: machine.applied_index)
    if done.log_reset:
        logger.info("the log was behind the newest snapshot and begins anew after it")
    if done.restored:
        logger.info("the state was taken from the snapshot at %d", machine.applied_index)
    for damage in done.damaged:
        logger.error("%s; it is set aside", damage)
    if machine.applied_index < log.first_index - 1:
        logger.error("the state cannot be rebuilt here; the leader is asked for another snapshot")


def _timing(raft: RaftSection) -> RaftTiming:
    return RaftTiming(
        heartbeat_seconds=raft.heartbeat_ms / 1000,
        election_seconds_min=raft.election_min_ms / 1000,
        election_seconds_max=raft.election_max_ms / 1000,
    )


@asynccontextmanager
async def background(
    work: Coroutine[None, None, None], fail: Callable[[BaseException], None]
) -> AsyncIterator[None]:
    """Run a coroutine beside the node; if it fails, `fail` hears of it."""
    task = asyncio.create_task(work)

    def done(finished: asyncio.Task[None]) -> None:
        error = None if finished.cancelled() else finished.exception()
        if error is not None:
            fail(error)

    task.add_done_callback(done)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
