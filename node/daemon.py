"""One node: everything built in order, started, and stopped in reverse.

Order of start: settings, data folder, state, log, peers, group, doors. A node that meets
corruption, a full map or a failing disk stops with the reason: restarting it is safe, and
limping on is not.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager

from cluster import membership
from cluster.errors import Removed
from cluster.log_writer import LogWriter
from cluster.membership import Configuration, Member
from cluster.transport import Transport
from cluster.transport_config import PeerAddress, PeerTls, TransportLimits
from engines.errors import CorruptRecord
from engines.result_cache import CacheFigures
from node import private_file
from node.auth import load_tokens
from node.balanced_reads import BalancedReads
from node.clock import SystemClock
from node.collection_service import CollectionService
from node.config_schema import NodeConfig
from node.datadir import DataDir
from node.doors import open_door
from node.driver import Drivers
from node.environment import settle_memory
from node.forward import NOT_HERE
from node.group_calls import GroupCalls
from node.http import HttpParts, HttpServer
from node.http_limits import HttpLimits
from node.integrity_service import IntegrityService
from node.local_reads import ReaderThreads
from node.node_info import LocalNodeInfo
from node.optimizer import Optimizer
from node.optimizer_service import OptimizerService
from node.overview import Overview
from node.partition_router import PartitionRouter
from node.partition_service import PartitionService
from node.partitions import Partitions
from node.placement_duties import PlacementDuties
from node.remote_reads import RemoteReads
from node.replica import SYSTEM_GROUP, Replica, Shared, background
from node.resp import RespParts, RespServer
from node.resp_limits import RespLimits
from node.scrub import Scrubber
from node.service import Router, Service
from node.session_replicas import SessionReplicas
from node.shard_duties import ShardDuties
from node.snapshot_service import HeldGroups, SnapshotService
from node.upkeep import Upkeep
from node.watch_sources import HubWatches, PartitionWatches, Watches

logger = logging.getLogger(__name__)

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
        settle_memory()
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
    shared = _shared(node, data_dir, stack)
    transport = shared.transport
    stack.enter_context(_clean_end(node, data_dir))
    system = Replica(SYSTEM_GROUP, shared, _bootstrap(config), node.fail)
    partitions = Partitions(shared, system)
    stack.callback(partitions.close)
    partitions.open()
    stack.callback(shared.executor.shutdown)
    data_dir.mark_running(clock.boot_id())
    node.halt = partitions.halt
    info = LocalNodeInfo(
        config, data_dir, system.group, system.machine, system.forwarder, clock, system.integrity,
        shared.writer.figures, partitions.data if partitions.count else None,
    )  # fmt: skip
    ways = PartitionRouter(partitions, shared)
    router = ways if partitions.count else system.router
    service = Service(router, config.limits, clock, shared.threads)
    overview = Overview(config.node.id, transport, partitions.here)
    placement = PlacementDuties(config, partitions, overview, system.members, shared.calls, clock)
    await transport.start()
    stack.push_async_callback(transport.stop)
    await partitions.start()
    stack.push_async_callback(partitions.stop)
    upkeep = Upkeep(
        config.node.data_dir,
        config.storage.free_bytes_min,
        partitions,
        partitions.release_memory,
    )
    storage = config.storage
    executor = ThreadPoolExecutor(1, thread_name_prefix="scrub")
    stack.callback(executor.shutdown)
    scrubber = Scrubber(
        lambda: [replica.scrub for replica in partitions.here()],
        executor,
        storage.scrub_bytes_per_second_max,
        storage.scrub_interval_seconds,
    )
    collections = _collections(router, partitions, shared)
    duties = ShardDuties(config.node.id, partitions, collections.sharded, clock)
    for work in (upkeep, partitions, placement, scrubber, duties):
        await stack.enter_async_context(background(work.run(), node.fail))
    tokens = load_tokens(config.auth.tokens_file) if config.auth.tokens_file else None
    admin = PartitionService(partitions, placement, system.members, clock)
    integrity = IntegrityService(config.node.id, partitions.here, clock)
    snapshots = SnapshotService(
        config.cluster.id,
        HeldGroups(partitions),
        clock,
        config.storage.snapshot_bytes_per_second_max,
    )
    parts = HttpParts(
        service, collections, admin, admin, snapshots, integrity, _watches(partitions, shared),
        info, clock, config.node.name, tokens, config.cluster.id, HttpLimits(), node.fail,
    )  # fmt: skip
    await open_door(HttpServer(parts), "http", config.http, stack, lambda: node.broken)
    if config.redis.enabled:
        redis = RespParts(
            partitions, ways.of_group, router, service, info, overview, config.limits, clock,
            tokens, RespLimits(), node.fail,
        )  # fmt: skip
        await open_door(RespServer(redis), "redis", config.redis, stack, lambda: node.broken)
    stack.push_async_callback(_leave_first_if_broken, node, transport)


def _collections(router: Router, partitions: Partitions, shared: Shared) -> CollectionService:
    config, clock = shared.config, shared.clock
    replicas = SessionReplicas(config.node.id, partitions, shared.remote_reads)
    balanced = BalancedReads(config.node.id, replicas, clock, clock.random().random)
    registry = partitions.system.machine.registry

    def caches() -> list[tuple[int, CacheFigures]]:
        here = partitions.here()
        return [(each.id, each.machine.indexes.results.figures()) for each in here]

    return CollectionService(
        router, registry, config.limits, clock, balanced, shared.threads, partitions,
        OptimizerService(shared.optimizer, caches),
    )  # fmt: skip


def _watches(partitions: Partitions, shared: Shared) -> Watches:
    if not partitions.count:
        return HubWatches(partitions.system.hub)
    return PartitionWatches(partitions, shared, watches_max=HttpLimits().watches_max)


def _shared(node: Node, data_dir: DataDir, stack: AsyncExitStack) -> Shared:
    """What all groups need; what has to be stopped is left to `stack`."""
    config, clock = node.config, node.clock
    loop = asyncio.get_running_loop()
    writer = LogWriter(loop.call_soon_threadsafe, node.fail, loop=loop, monotonic=clock.monotonic)
    writer.start()
    stack.callback(writer.stop)
    transport = _transport(config, data_dir, clock)
    writer.flush_peers = transport.flush  # of all groups, together
    limits = HttpLimits()
    executor = ThreadPoolExecutor(limits.read_threads_max, thread_name_prefix="reader")
    threads = ReaderThreads(executor, clock, limits)
    return Shared(
        config,
        clock,
        data_dir,
        writer,
        transport,
        GroupCalls(transport, NOT_HERE),
        Drivers(config.raft.heartbeat_ms / 4000),
        executor,
        threads,
        Optimizer(
            clock,
            config.optimizer.patterns_max,
            config.optimizer.recall_percent_min / 100,
            config.node.name,
        ),
        RemoteReads(transport, threads, clock, node.fail),
        node.fail,
        lambda: node.failure,
    )


@contextmanager
def _clean_end(node: Node, data_dir: DataDir) -> Iterator[None]:
    """Note that every state was synced and closed, if that is how it ends."""
    try:
        yield
    except CorruptRecord:
        data_dir.distrust_live()  # Met while starting; the next start rebuilds the state.
        raise
    if node.failure is None:
        data_dir.mark_clean()


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


def _bootstrap(config: NodeConfig) -> Configuration:
    """The members while the log names none. A node that joins has no vote until it does."""
    joins = config.cluster.join
    return membership.bootstrap(
        Member(each.id, not (joins and each.id == config.node.id), each.name, each.peer, each.http)
        for each in config.cluster.members
    )
