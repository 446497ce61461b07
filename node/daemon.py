"""One node: everything built in order, started, and stopped in reverse.

Order of start: settings, data folder, state, log, peers, group, doors. A node that meets
corruption, a full map or a failing disk stops with the reason: restarting it is safe, and
limping on is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from cluster import membership
from cluster.compaction import CompactionLimits
from cluster.errors import CorruptLog, CorruptSnapshot, Overloaded, Removed
from cluster.group import GroupLimits, RaftGroup
from cluster.log import SegmentedLog
from cluster.log_format import LogOptions
from cluster.log_writer import LogWriter
from cluster.membership import Configuration, Member
from cluster.raft import Identity
from cluster.reconcile import reconcile
from cluster.snapshot import SnapshotStore
from cluster.snapshot_rules import SnapshotOptions
from cluster.transport import Transport
from cluster.transport_config import PeerAddress, PeerTls, TransportLimits
from cluster.upstream import RaftTiming
from engines.errors import CorruptRecord, ReadersBusy, UnknownFormat
from engines.interfaces import Limits
from engines.kv import KvReader
from engines.state_machine import StateMachine
from engines.store import Store
from node import private_file
from node.auth import load_tokens
from node.clock import SystemClock
from node.config_schema import NodeConfig, RaftSection
from node.datadir import DataDir
from node.doors import open_door
from node.driver import GroupDriver
from node.errors import StartupError
from node.forward import Forwarder
from node.http import HttpParts, HttpServer
from node.http_limits import HttpLimits
from node.leader_duties import LeaderDuties
from node.member_duties import MemberDuties
from node.members import MemberService, hand_over
from node.node_info import LocalNodeInfo
from node.resp import RespParts, RespServer
from node.resp_limits import RespLimits
from node.router import Router
from node.service import Service
from node.upkeep import Upkeep
from node.watch import WatchHub

logger = logging.getLogger(__name__)

GROUP = 0  # the one group of this version; partitions come with more
READERS_MAX = 126  # LMDB reader slots: loop, read threads and room for tools
HAND_OVER_SECONDS_MAX = 1.5  # that a leader which stops gives another to take over


class Node:
    """The parts of one running node that outlive a request."""

    def __init__(self, config: NodeConfig, clock: SystemClock) -> None:
        self.config = config
        self.clock = clock
        self.failure: BaseException | None = None
        self.halt: Callable[[], None] = lambda: None  # ends the group's part in the cluster
        self._stop = asyncio.Event()

    @property
    def broken(self) -> bool:
        """Does it stop because something failed, rather than because it was asked to?"""
        return self.failure is not None and not isinstance(self.failure, Removed)

    def fail(self, error: BaseException) -> None:
        """Stop the node because something that must hold does not. First reason wins."""
        if self.failure is None:
            self.failure = error
            if isinstance(error, Removed):
                logger.warning("stopping: %s", error)
            else:
                logger.critical("stopping: %s", error, exc_info=error)
                self.halt()
        self._stop.set()

    def request_stop(self) -> None:
        self._stop.set()

    async def wait_for_stop(self) -> None:
        await self._stop.wait()


async def run(config: NodeConfig) -> None:
    """Run a node until SIGTERM or SIGINT. Raises StartupError, or what made it stop."""
    clock = SystemClock()
    node = Node(config, clock)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.request_stop)
    async with AsyncExitStack() as stack:
        await _start(node, stack)
        member = config.member()
        logger.info("node %s serves at %s, peers at %s", member.name, member.http, member.peer)
        await node.wait_for_stop()
        logger.info("node %s stops", member.name)
    if node.failure is not None:
        raise node.failure


async def _start(node: Node, stack: AsyncExitStack) -> None:
    """Start every part; each registers how it is stopped."""
    config, clock = node.config, node.clock
    data_dir = stack.enter_context(_data_dir(config, clock))
    discarded = data_dir.prepare_live(clock.boot_id())
    if discarded:
        logger.info("the state cannot be trusted: it is rebuilt from snapshot and log")
    store = stack.enter_context(_store(node, data_dir))
    # Every state begins with the same limits, whatever is configured here and now: the same
    # log must give the same state. The leader brings the configured ones into the log.
    machine = StateMachine(store, Limits())
    log = stack.enter_context(_log(node, data_dir))
    snapshots = stack.enter_context(_snapshots(node, data_dir, machine))
    _reconcile(log, snapshots, machine)
    data_dir.mark_running(clock.boot_id())
    transport = _transport(config, data_dir, clock)
    driver = GroupDriver(config.raft.heartbeat_ms / 4000)
    identity = Identity(config.node.id, data_dir.identity.incarnation)
    group = _group(node, identity, log, machine, snapshots, transport, driver)
    node.halt = group.halt
    forwarder = Forwarder(transport, group)
    members = MemberService(config.node.id, group, transport, forwarder, clock)
    info = LocalNodeInfo(config, data_dir, group, machine, forwarder, clock)
    http = {member.id: member.http for member in config.cluster.members}
    router = Router(config.node.id, group, machine, forwarder, clock, http)
    limits = HttpLimits()
    executor = stack.enter_context(
        ThreadPoolExecutor(limits.read_threads_max, thread_name_prefix="reader")
    )

    @contextmanager
    def readers() -> Iterator[KvReader]:
        with store.read() as snapshot:
            yield KvReader(snapshot)

    service = Service(router, readers, config.limits, clock, executor)
    stack.callback(driver.stop)
    await transport.start()
    stack.push_async_callback(transport.stop)
    driver.start(group.turn)
    stack.push_async_callback(hand_over, group, HAND_OVER_SECONDS_MAX)
    own = config.member()
    facts = Member(own.id, True, own.name, own.peer, own.http, identity.incarnation)
    for work in (
        LeaderDuties(config.node.id, group, router, machine, readers, config.limits, clock),
        MemberDuties(facts, group, members, transport, clock),
        Upkeep(config.node.data_dir, config.storage.free_bytes_min, group, machine.release_memory),
    ):
        await stack.enter_async_context(_background(work.run(), node))
    hub = WatchHub(
        readers,
        executor,
        watches_max=limits.watches_max,
        queue_changes_max=limits.watch_queue_changes_max,
    )
    machine.on_changes = hub.publish
    machine.on_replaced = hub.reset
    tokens = load_tokens(config.auth.tokens_file) if config.auth.tokens_file else None
    name = config.node.name
    parts = HttpParts(service, members, hub, info, clock, name, tokens, limits, node.fail)
    await open_door(HttpServer(parts), "http", config.http, stack, lambda: node.broken)
    if config.redis.enabled:
        redis = RespParts(
            group, router, service, readers, info, config.limits, clock, tokens, RespLimits(),
            node.fail,
        )  # fmt: skip
        await open_door(RespServer(redis), "redis", config.redis, stack, lambda: node.broken)
    stack.push_async_callback(_leave_first_if_broken, node, transport)


async def _leave_first_if_broken(node: Node, transport: Transport) -> None:
    """Peers that see a leader go elect another at once; silence would cost them a timeout."""
    if node.broken:
        await transport.stop()


@contextmanager
def _data_dir(config: NodeConfig, clock: SystemClock) -> Iterator[DataDir]:
    data_dir = DataDir.open(
        config.node.data_dir,
        node_id=config.node.id,
        cluster_id=config.cluster.id,
        name=config.node.name,
        clock=clock,
    )
    try:
        yield data_dir
    finally:
        data_dir.close()


@contextmanager
def _store(node: Node, data_dir: DataDir) -> Iterator[Store]:
    """The applied state. Only a clean way out syncs it and says so."""
    store = _open_store(node, data_dir)
    try:
        yield store
    except BaseException as error:
        store.close()
        if isinstance(error, CorruptRecord):
            data_dir.distrust_live()  # Met while starting; the next start rebuilds the state.
        raise
    if node.failure is not None:
        store.close()
        if isinstance(node.failure, CorruptRecord):
            data_dir.distrust_live()
        return
    store.sync()
    store.close()
    data_dir.mark_clean()


def _open_store(node: Node, data_dir: DataDir) -> Store:
    """The state is derived: one that does not open is made anew from snapshot and log."""
    map_bytes = node.config.storage.map_bytes
    path = data_dir.live_path(GROUP)
    try:
        return Store(path, map_bytes, READERS_MAX)
    except (CorruptRecord, UnknownFormat) as error:
        logger.warning("the state is damaged, and is rebuilt from snapshot and log: %s", error)
        data_dir.distrust_live()
        data_dir.discard_live()
        return Store(path, map_bytes, READERS_MAX)


@contextmanager
def _snapshots(node: Node, data_dir: DataDir, machine: StateMachine) -> Iterator[SnapshotStore]:
    snapshots = SnapshotStore(
        data_dir.snapshots_path(GROUP),
        GROUP,
        Checkpoints(machine, data_dir),
        asyncio.get_running_loop().call_soon_threadsafe,
        node.fail,
        SnapshotOptions(
            copy_bytes_per_second_max=node.config.storage.snapshot_bytes_per_second_max
        ),
        monotonic=node.clock.monotonic,
    )
    for problem in snapshots.problems:
        logger.warning("snapshot: %s", problem)
    try:
        yield snapshots
    finally:
        snapshots.close()


class Checkpoints:
    """The machine's copies, with the errors told apart that do not have to stop the node."""

    def __init__(self, machine: StateMachine, data_dir: DataDir) -> None:
        self._machine = machine
        self._data_dir = data_dir
        self.release_memory = machine.release_memory

    def copy_to(self, fd: int) -> tuple[int, int]:
        try:
            return self._machine.copy_to(fd)
        except ReadersBusy as error:
            raise Overloaded(str(error)) from error

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


@contextmanager
def _log(node: Node, data_dir: DataDir) -> Iterator[SegmentedLog]:
    storage = node.config.storage
    writer = LogWriter(asyncio.get_running_loop().call_soon_threadsafe, node.fail)
    writer.start()
    try:
        options = LogOptions(
            segment_bytes=storage.segment_bytes,
            cache_bytes=storage.log_cache_bytes,
            # Unpredictable, so that nobody can store a value that passes for log records.
            salt=node.clock.random().getrandbits(32),
        )
        try:
            log = SegmentedLog.open(data_dir.log_path(GROUP), GROUP, writer, options)
        except CorruptLog as error:
            raise StartupError(
                f"{error}. What was acknowledged may be damaged on this node; the other nodes "
                "still hold it. Keep this folder aside and reseed the node from the cluster."
            ) from error
        try:
            yield log
        finally:
            log.close()
    finally:
        writer.stop()


def _transport(config: NodeConfig, data_dir: DataDir, clock: SystemClock) -> Transport:
    peers = {
        member.id: PeerAddress.parse(member.peer, member.name) for member in config.cluster.members
    }
    tls = None
    if config.peer.tls_cert and config.peer.tls_key and config.peer.tls_ca:
        tls = PeerTls(config.peer.tls_cert, config.peer.tls_key, config.peer.tls_ca)
    return Transport(
        self_id=config.node.id,
        self_name=config.node.name,
        cluster_id=config.cluster.id,
        incarnation=data_dir.identity.incarnation,
        secret=private_file.read_secret(config.cluster.secret_file),
        config_digest=config.replicated_digest(),
        bootstrap_digest=config.bootstrap_digest(),
        peers=peers,
        listen_host=config.peer.host,
        listen_port=config.peer.port,
        tls=tls,
        limits=TransportLimits(),
        known_incarnations=data_dir.identity.known_incarnations,
        on_incarnation=data_dir.remember_incarnation,
        clock=clock.monotonic,
        rng=clock.random(),
    )


def _timing(raft: RaftSection) -> RaftTiming:
    return RaftTiming(
        heartbeat_seconds=raft.heartbeat_ms / 1000,
        election_seconds_min=raft.election_min_ms / 1000,
        election_seconds_max=raft.election_max_ms / 1000,
    )


def _bootstrap(config: NodeConfig) -> Configuration:
    """The members while the log names none. A node that joins has no vote until it does."""
    joins = config.cluster.join
    return membership.bootstrap(
        Member(each.id, not (joins and each.id == config.node.id), each.name, each.peer, each.http)
        for each in config.cluster.members
    )


def _group(
    node: Node,
    identity: Identity,
    log: SegmentedLog,
    machine: StateMachine,
    snapshots: SnapshotStore,
    transport: Transport,
    driver: GroupDriver,
) -> RaftGroup:
    config = node.config
    if machine.applied_index > log.last_index:
        raise StartupError(
            f"the state is applied to log index {machine.applied_index} but the log ends at "
            f"{log.last_index}: log files are missing"
        )
    storage = config.storage
    raft = config.raft
    return RaftGroup(
        GROUP,
        identity,
        _bootstrap(config),
        log,
        machine,
        snapshots,
        transport,
        wake=driver.wake,
        fail=node.fail,
        rng=node.clock.random(),
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
    )


@asynccontextmanager
async def _background(work: Coroutine[None, None, None], node: Node) -> AsyncIterator[None]:
    """Run a coroutine beside the node; if it fails, so does the node."""
    task = asyncio.create_task(work)

    def done(finished: asyncio.Task[None]) -> None:
        error = None if finished.cancelled() else finished.exception()
        if error is not None:
            node.fail(error)

    task.add_done_callback(done)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
