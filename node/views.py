"""What a node says about itself and its cluster: the shapes of `/v1/status` and `/v1/cluster`.

The daemon fills these in; the HTTP door turns them into JSON. A figure that is not known
is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.interfaces import GroupStatus
from cluster.log_rounds import SyncFigures
from engines.interfaces import StateStats
from node.errors import HivememError, OutOfSpace, Unavailable


@dataclass(frozen=True, slots=True)
class LimitView:
    """One limit: its value and the unit it counts."""

    value: int | float
    unit: str


@dataclass(frozen=True, slots=True)
class DiskView:
    log_bytes: int | None  # Raft log segments
    live_bytes: int | None  # the applied state
    snapshot_bytes: int | None
    free_bytes: int | None  # what the file system has left
    free_bytes_min: int  # with less, the node takes no new entries
    room: bool  # False: that is so now


@dataclass(frozen=True, slots=True)
class MemoryView:
    rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class ScrubView:
    """What the scrub of one group has done since the node started. Times are UTC ms."""

    running: bool
    progress: float | None  # of the pass that is under way, 0..1
    passes: int  # finished
    bytes: int
    records: int
    errors: int  # damage that was found
    last_error: str | None
    last_started_at_ms: int | None
    last_finished_at_ms: int | None
    bytes_per_second_max: int  # 0: switched off


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """The newest comparison of a group's digests that this node knows of. Times are UTC ms."""

    index: int  # log index at which all were taken
    at_ms: int
    digest: str | None  # this node's, in hexadecimal; None: it took none
    agreed: bool | None  # with the majority; None: there is none, or it is not known here
    message: str


@dataclass(frozen=True, slots=True)
class IntegrityView:
    """Whether one group's state is answered from here, and what was found in it."""

    group: int
    state: str  # serving | quarantined
    reason: str | None  # of the quarantine under way, or of the last one
    quarantined_at_ms: int | None  # UTC; of the same
    quarantines: Mapping[str, int]  # since the node started, by who found why
    scrub: ScrubView | None
    comparison: ComparisonView | None


@dataclass(frozen=True, slots=True)
class StatusView:
    """This node. `role` is leader | follower | candidate | learner; indexes are log indexes."""

    id: str
    name: str
    version: str
    role: str
    voter: bool
    leader: str | None  # node id
    term: int
    log_first_index: int  # what lies below is in the snapshot only
    log_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int  # 0: none
    configuration_index: int  # 0: the members are those of the settings file
    revision: int | None  # None: each partition has its own
    pid: int
    uptime_seconds: float
    started_at_ms: int
    http: str
    peer: str
    redis: str | None  # host:port; None: switched off
    data_dir: str
    disk: DiskView
    memory: MemoryView
    keys: int | None
    integrity: tuple[IntegrityView, ...]  # one for each group that is here
    limits: Mapping[str, LimitView]
    security: Mapping[str, object]  # JSON values: what guards each door
    durability: Mapping[str, object]  # JSON values: what an acknowledgement means here


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as this node sees it; None where it could not be asked.

    `role` is leader | follower | candidate | learner. `healthy` says that the node answered
    and knows the leader.
    """

    id: str
    name: str
    role: str | None
    voter: bool  # in the newest configuration that the asked node knows
    http: str
    peer: str
    redis: str | None  # host:port; None: switched off, or not known
    pid: int | None
    version: str | None
    healthy: bool
    term: int | None
    log_index: int | None
    commit_index: int | None
    applied_index: int | None
    disk_bytes: int | None
    memory_bytes: int | None
    uptime_seconds: float | None


@dataclass(frozen=True, slots=True)
class ClusterView:
    cluster_id: str
    leader: str | None  # node id
    term: int
    nodes: tuple[MemberView, ...]


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """One condition for taking traffic. `code` is the error answered while it does not hold."""

    name: str
    ok: bool
    message: str
    # QUORUM_NOT_REACHED | STALE | STOPPING | DISK_FULL | REPLICA_QUARANTINED
    code: str = "QUORUM_NOT_REACHED"

    def error(self) -> HivememError:
        """What a caller is told while the check fails."""
        kind = OutOfSpace if self.code == "DISK_FULL" else Unavailable
        return kind(f"{self.name}: {self.message}", code=self.code)


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What is measured about one Raft group on this node; None: not measured."""

    status: GroupStatus
    state: StateStats | None
    log_bytes: int | None
    integrity: IntegrityView | None = None


class NodeInfo(Protocol):
    """What the daemon tells the doors about itself. Called on the loop thread."""

    def local_status(self) -> StatusView: ...

    async def cluster_status(self, timeout: float) -> ClusterView:
        """Ask every member, at most `timeout` seconds; unreachable ones come back with None."""

    def readiness(self) -> tuple[ReadinessCheck, ...]:
        """The conditions of `/readyz`: a leader is known, this node keeps up, …"""

    def leader_http(self) -> str | None:
        """HTTP address of the leader, if known."""

    def group_figures(self) -> tuple[GroupFigures, ...]:
        """For the metrics: one entry per Raft group."""

    def sync_figures(self) -> SyncFigures:
        """For the metrics: the fsyncs of the logs of all groups."""
