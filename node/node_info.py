"""What this node knows about itself and, by asking, about the others."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from cluster.group import RaftGroup
from cluster.interfaces import Consensus, GroupStatus
from cluster.log_rounds import SyncFigures
from cluster.membership import Configuration, Member
from engines.state_machine import StateMachine
from node.clock import Clock
from node.config_schema import NodeConfig
from node.datadir import DataDir, DiskUsage
from node.forward import Forwarder
from node.http_limits import HttpLimits
from node.integrity import Integrity
from node.quarantine import CODE as QUARANTINED
from node.resp_limits import RespLimits
from node.views import (
    ClusterView,
    DiskView,
    GroupFigures,
    LimitView,
    MemberView,
    MemoryView,
    ReadinessCheck,
    StatusView,
)

USAGE_SECONDS_MAX = 1.0  # disk use is measured at most this often
LAG_ENTRIES_MAX = 10_000  # a node further behind its commit index is not ready
# A node that lacks a snapshot does not know how far behind it is: its own commit index does
# not move. What it knows is when it last had everything.
LEARNER_STALENESS_SECONDS_MAX = 5.0


class DataReplica(Protocol):
    """A replica of a partition on this node."""

    id: int
    group: RaftGroup
    integrity: Integrity


def _serves(group: Consensus) -> bool:
    status = group.status()
    lag = status.commit_index - status.applied_index
    return status.leader is not None and lag <= LAG_ENTRIES_MAX


def version() -> str:
    return importlib.metadata.version("hivemem")


def rss_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _role(status: GroupStatus, node: str) -> str:
    """This node's role; one without a vote is a learner rather than a follower."""
    return status.role if node in status.configuration.voters else "learner"


def redis_address(config: NodeConfig) -> str | None:
    """Where others find this node's Redis door, as host:port; None if it is switched off.

    A door on every address is found where clients find the node's HTTP door.
    """
    redis = config.redis
    if not redis.enabled:
        return None
    host = redis.host
    try:
        anywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        anywhere = False
    if anywhere:
        host = urlsplit(config.member().http).hostname or host
    return f"[{host}]:{redis.port}" if ":" in host else f"{host}:{redis.port}"


class LocalNodeInfo:
    """The daemon's `NodeInfo`. Loop thread only."""

    def __init__(
        self,
        config: NodeConfig,
        data_dir: DataDir,
        group: Consensus,
        machine: StateMachine,
        forwarder: Forwarder,
        clock: Clock,
        integrity: Integrity,
        sync_figures: Callable[[], SyncFigures],
        data: Callable[[], Sequence[DataReplica]] | None = None,
    ) -> None:
        """`group`, `machine` and `integrity` are the system group's; `data`: replicas of
        partitions that are here. None: there are no partitions, and the system group holds
        the data."""
        self.sync_figures = sync_figures
        self._integrity = integrity
        self._config = config
        self._data_dir = data_dir
        self._group = group
        self._machine = machine
        self._forwarder = forwarder
        self._clock = clock
        self._data = data
        self._started = clock.monotonic()
        self._started_ms = clock.now_ms()
        self._usage: DiskUsage | None = None
        self._usage_at = float("-inf")
        self._version = version()
        self._in_file = {member.id: member for member in config.cluster.members}
        forwarder.on_status(lambda: json.dumps(asdict(self._own_view())).encode())

    def local_status(self) -> StatusView:
        config, status = self._config, self._group.status()
        usage, own = self._disk_usage(), config.member()
        configuration = status.configuration
        return StatusView(
            id=config.node.id,
            name=config.node.name,
            version=self._version,
            role=_role(status, config.node.id),
            voter=config.node.id in configuration.voters,
            leader=status.leader,
            term=status.term,
            log_first_index=status.log_first_index,
            log_index=status.last_index,
            durable_index=status.durable_index,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            snapshot_index=status.snapshot_index,
            configuration_index=configuration.index,
            revision=self._machine.revision if self._data is None else None,
            pid=os.getpid(),
            uptime_seconds=round(self._clock.monotonic() - self._started, 3),
            started_at_ms=self._started_ms,
            http=own.http,
            peer=own.peer,
            redis=redis_address(config),
            data_dir=str(self._data_dir.root),
            disk=DiskView(
                usage.log_bytes,
                usage.live_bytes,
                usage.snapshot_bytes,
                usage.free_bytes,
                config.storage.free_bytes_min,
                status.room,
            ),
            memory=MemoryView(rss_bytes()),
            keys=self._keys(),
            integrity=tuple(each.view() for each in self._integrities()),
            limits=self._limits(),
            security=self._security(),
            durability={
                "acknowledged_after": "fsync on a majority of voters",
                "voters": len(configuration.voters),
                "fsync": True,
                "log_compaction": True,
            },
        )

    def _keys(self) -> int | None:
        """None while a state is not answered from."""
        held = [self._integrity] if self._data is None else self._integrities()[1:]
        found = [integrity.stats() for integrity in held]
        known = [stats.keys for stats in found if stats is not None]
        return sum(known) if len(known) == len(found) else None

    async def cluster_status(self, timeout: float) -> ClusterView:
        """In the order of their names, which is the one that people expect."""
        role = self._group.role()
        members = [self._addressed(member) for member in self._group.configuration().members]
        members.sort(key=lambda member: (member.name, member.id))
        views = await asyncio.gather(*(self._member_view(member, timeout) for member in members))
        return ClusterView(self._config.cluster.id, role.leader, role.term, tuple(views))

    def readiness(self) -> tuple[ReadinessCheck, ...]:
        status = self._group.status()
        return (
            ReadinessCheck(
                "leader", status.leader is not None, f"leader is {status.leader or 'unknown'}"
            ),
            ReadinessCheck(
                "quorum", status.has_quorum, "a majority of the members can be reached from here"
            ),
            self._applied(status),
            self._membership(status.configuration),
            ReadinessCheck("disk", status.room, self._room(status.room), "DISK_FULL"),
            self._state(),
            *self._partitions(),
        )

    def _partitions(self) -> Iterator[ReadinessCheck]:
        """Can the partitions that are here be served from here?"""
        if self._data is None:
            return
        late = sorted(replica.id for replica in self._data() if not _serves(replica.group))
        told = f"of the partitions here these have no leader or lag: {late}"
        yield ReadinessCheck(
            "partitions", not late, told if late else "the partitions here are served", "STALE"
        )

    def _integrities(self) -> list[Integrity]:
        """Of every group that is here."""
        return [self._integrity, *(each.integrity for each in (self._data or list)())]

    def _state(self) -> ReadinessCheck:
        for integrity in self._integrities():
            view = integrity.view()
            if view.state != "serving":
                message = f"the state of group {view.group} is being rebuilt: {view.reason}"
                return ReadinessCheck("state", False, message, QUARANTINED)
        return ReadinessCheck("state", True, "the state is answered from")

    def _membership(self, configuration: Configuration) -> ReadinessCheck:
        own = configuration.member(self._config.node.id)
        if own is None or (self._config.cluster.join and not configuration.index):
            return ReadinessCheck("member", False, "not added to the cluster yet", "STALE")
        if own.voter:
            return ReadinessCheck("member", True, "a voter")
        lags = self._group.staleness_seconds() > LEARNER_STALENESS_SECONDS_MAX
        message = "a learner that is catching up" if lags else "a learner"
        return ReadinessCheck("member", not lags, message, "STALE")

    def _applied(self, status: GroupStatus) -> ReadinessCheck:
        lag = status.commit_index - status.applied_index
        stale = status.leader is not None and (
            self._group.staleness_seconds() > LEARNER_STALENESS_SECONDS_MAX
        )
        message = f"{lag} committed entries to apply"
        if stale:
            message = f"what the leader has is not here yet; {message}"
        return ReadinessCheck("applied", lag <= LAG_ENTRIES_MAX and not stale, message, "STALE")

    def _room(self, room: bool) -> str:
        needed = self._config.storage.free_bytes_min
        if room:
            return f"at least storage.free_bytes_min ({needed} bytes) are free"
        return f"less than storage.free_bytes_min ({needed} bytes) is free: no new entries here"

    def leader_http(self) -> str | None:
        leader = self._group.role().leader
        member = self._group.configuration().member(leader) if leader else None
        if member is not None:
            return self._addressed(member).http or None
        known = self._in_file.get(leader or "")
        return known.http if known else None

    def _addressed(self, member: Member) -> Member:
        """A member with what the log does not say of it taken from the settings file."""
        known = self._in_file.get(member.id)
        if known is None:
            return member
        return member._replace(
            name=member.name or known.name,
            peer=member.peer or known.peer,
            http=member.http or known.http,
        )

    def group_figures(self) -> tuple[GroupFigures, ...]:
        held = [(self._group, self._integrity)]
        held += [(replica.group, replica.integrity) for replica in (self._data or list)()]
        found = []
        for group, integrity in held:
            status = group.status()
            log_bytes = self._data_dir.log_bytes(status.group)
            found.append(GroupFigures(status, integrity.stats(), log_bytes, integrity.view()))
        return tuple(found)

    def _own_view(self) -> MemberView:
        status, own, usage = self._group.status(), self._config.member(), self._disk_usage()
        return MemberView(
            id=own.id,
            name=own.name,
            role=_role(status, own.id),
            voter=own.id in status.configuration.voters,
            http=own.http,
            peer=own.peer,
            redis=redis_address(self._config),
            pid=os.getpid(),
            version=self._version,
            healthy=status.leader is not None,
            term=status.term,
            log_index=status.last_index,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            disk_bytes=usage.log_bytes + usage.live_bytes + usage.snapshot_bytes,
            memory_bytes=rss_bytes(),
            uptime_seconds=round(self._clock.monotonic() - self._started, 3),
        )

    async def _member_view(self, member: Member, timeout: float) -> MemberView:
        """A member as it says itself, and as a voter or not as this node's log says."""
        if member.id == self._config.node.id:
            return self._own_view()
        names = [each.name for each in fields(MemberView)]
        known = {**dict.fromkeys(names), **member._asdict(), "healthy": False}
        with contextlib.suppress(ClusterError):
            known |= json.loads(await self._forwarder.status(member.id, timeout))
        known["voter"] = member.voter
        # A node of another version may have said more than we know, or less.
        return MemberView(**{name: known[name] for name in names})

    def _disk_usage(self) -> DiskUsage:
        now = self._clock.monotonic()
        if self._usage is None or now - self._usage_at > USAGE_SECONDS_MAX:
            self._usage, self._usage_at = self._data_dir.usage(), now
        return self._usage

    def _limits(self) -> dict[str, LimitView]:
        figures = {**self._config.figures(), **HttpLimits().figures(), **RespLimits().figures()}
        return {name: LimitView(value, unit) for name, (value, unit) in figures.items()}

    def _security(self) -> Mapping[str, object]:
        config = self._config
        return {
            "http_tls": config.http.tls_cert is not None,
            "redis_tls": config.redis.tls_cert is not None,
            "peer_tls": config.peer.tls_cert is not None,
            "tokens": config.auth.tokens_file is not None,
            "peer_secret": True,
        }
