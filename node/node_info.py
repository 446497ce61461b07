"""What this node knows about itself and, by asking, about the others."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from cluster.errors import ClusterError
from cluster.group import RaftGroup
from cluster.transport import Transport
from engines.state_machine import StateMachine
from node.clock import Clock
from node.config_schema import Member, NodeConfig
from node.datadir import DataDir, DiskUsage
from node.forward import Forwarder
from node.http_limits import HttpLimits
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


def version() -> str:
    return importlib.metadata.version("hivemem")


def rss_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class LocalNodeInfo:
    """The daemon's `NodeInfo`. Loop thread only."""

    def __init__(
        self,
        config: NodeConfig,
        data_dir: DataDir,
        group: RaftGroup,
        machine: StateMachine,
        transport: Transport,
        forwarder: Forwarder,
        clock: Clock,
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._group = group
        self._machine = machine
        self._transport = transport
        self._forwarder = forwarder
        self._clock = clock
        self._started = clock.monotonic()
        self._started_ms = clock.now_ms()
        self._usage: DiskUsage | None = None
        self._usage_at = float("-inf")
        self._version = version()
        self._http = {member.id: member.http for member in config.cluster.members}
        forwarder.on_status(lambda: json.dumps(asdict(self._own_view())).encode())

    def local_status(self) -> StatusView:
        config, status = self._config, self._group.status()
        usage = self._disk_usage()
        own = config.member()
        return StatusView(
            id=config.node.id,
            name=config.node.name,
            version=self._version,
            role=status.role,
            leader=status.leader,
            term=status.term,
            log_index=status.last_index,
            durable_index=status.durable_index,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            revision=self._machine.revision,
            pid=os.getpid(),
            uptime_seconds=round(self._clock.monotonic() - self._started, 3),
            started_at_ms=self._started_ms,
            http=own.http,
            peer=own.peer,
            data_dir=str(self._data_dir.root),
            disk=DiskView(usage.log_bytes, usage.live_bytes, usage.free_bytes),
            memory=MemoryView(rss_bytes()),
            keys=self._machine.stats().keys,
            limits=self._limits(),
            security=self._security(),
            durability={
                "acknowledged_after": "fsync on a majority of voters",
                "voters": len(config.cluster.members),
                "fsync": True,
                "log_compaction": False,
            },
        )

    async def cluster_status(self, timeout: float) -> ClusterView:
        role = self._group.role()
        views = await asyncio.gather(
            *(self._member_view(member, timeout) for member in self._config.cluster.members)
        )
        return ClusterView(self._config.cluster.id, role.leader, role.term, tuple(views))

    def readiness(self) -> tuple[ReadinessCheck, ...]:
        status = self._group.status()
        lag = status.commit_index - status.applied_index
        return (
            ReadinessCheck(
                "leader", status.leader is not None, f"leader is {status.leader or 'unknown'}"
            ),
            ReadinessCheck(
                "quorum", status.has_quorum, "a majority of the members can be reached from here"
            ),
            ReadinessCheck(
                "applied", lag <= LAG_ENTRIES_MAX, f"{lag} committed entries to apply", "STALE"
            ),
        )

    def leader_http(self) -> str | None:
        leader = self._group.role().leader
        return self._http.get(leader) if leader else None

    def group_figures(self) -> tuple[GroupFigures, ...]:
        usage = self._disk_usage()
        return (GroupFigures(self._group.status(), self._machine.stats(), usage.log_bytes),)

    def _own_view(self) -> MemberView:
        status, own, usage = self._group.status(), self._config.member(), self._disk_usage()
        return MemberView(
            id=own.id,
            name=own.name,
            role=status.role,
            http=own.http,
            peer=own.peer,
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
        if member.id == self._config.node.id:
            return self._own_view()
        try:
            return MemberView(**json.loads(await self._forwarder.status(member.id, timeout)))
        except ClusterError:
            figures = ("term", "log_index", "commit_index", "applied_index", "disk_bytes")
            unknown = dict.fromkeys((*figures, "memory_bytes", "uptime_seconds"))
            return MemberView(
                id=member.id,
                name=member.name,
                role=None,
                http=member.http,
                peer=member.peer,
                pid=None,
                version=None,
                healthy=False,
                **unknown,
            )

    def _disk_usage(self) -> DiskUsage:
        now = self._clock.monotonic()
        if self._usage is None or now - self._usage_at > USAGE_SECONDS_MAX:
            self._usage, self._usage_at = self._data_dir.usage(), now
        return self._usage

    def _limits(self) -> dict[str, LimitView]:
        figures = {**self._config.figures(), **HttpLimits().figures()}
        return {name: LimitView(value, unit) for name, (value, unit) in figures.items()}

    def _security(self) -> Mapping[str, object]:
        config = self._config
        return {
            "http_tls": config.http.tls_cert is not None,
            "peer_tls": config.peer.tls_cert is not None,
            "tokens": config.auth.tokens_file is not None,
            "peer_secret": True,
        }
