"""The only importer of PySyncObj: what the safe adapter builds on, checked when imported.

Upstream's `SyncObj` is driven through two objects of ours: a view of the durable log and
an outlet for messages. Its own transport, journal, serializer, batteries and
administration are never used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster import pinned

pinned.verify()  # before upstream's code runs

from pysyncobj import syncobj  # noqa: E402
from pysyncobj.config import SyncObjConf  # noqa: E402
from pysyncobj.node import Node  # noqa: E402
from pysyncobj.transport import Transport  # noqa: E402

from cluster.interfaces import LogEntry, RaftLog  # noqa: E402
from cluster.messages import Message  # noqa: E402

__all__ = ["LogView", "Node", "Outlet", "RaftTiming", "configuration", "syncobj"]


@dataclass(frozen=True, slots=True)
class RaftTiming:
    """Timing of one group; the same on every node of a cluster."""

    heartbeat_seconds: float = 0.1
    election_seconds_min: float = 0.5
    election_seconds_max: float = 1.0
    # A leader that dies takes its connection with it; that is noticed at once, and its
    # followers then campaign after this much (each its random part), not a full timeout.
    disconnect_seconds_max: float = 0.15
    # A disk that finishes nothing for so long costs its node the leadership.
    disk_stall_seconds_max: float = 10.0


class LogView:
    """Gives upstream the log in the form it expects: (payload, index, term) tuples."""

    def __init__(self, log: RaftLog, on_add: Callable[[int, bytes], None]) -> None:
        """`on_add(index, payload)` hears of every entry that upstream appends."""
        self._log = log
        self._on_add = on_add

    def __getitem__(self, position: int) -> tuple[bytes, int, int]:
        if position not in (0, -1):
            raise IndexError("upstream reads entries through getEntries only")
        index = self._log.last_index if position else self._log.first_index
        return b"", index, self._log.term_at(index) or 0

    def add(self, payload: bytes, index: int, term: int) -> None:
        self._log.append([LogEntry(index, term, payload)])
        self._on_add(index, payload)

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        self._log.set_hard_state(term, vote)

    def setRaftCommitIndex(self, index: int) -> None:
        """Not stored: a restarted node learns the commit index from its leader."""


class Outlet(Transport):  # type: ignore[misc]
    """Upstream's transport: hands every message to the core's outbox."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.emit: Callable[[str, Message], bool] = lambda peer, message: False

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Node, message: Message) -> bool:
        return self.emit(node.id, message)

    def addNode(self, node: Node) -> None:
        raise AssertionError("upstream's membership is not used")

    def dropNode(self, node: Node) -> None:
        raise AssertionError("upstream's membership is not used")


def configuration(timing: RaftTiming) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        commandsWaitLeader=False,
        appendEntriesUseBatch=True,
        dynamicMembershipChange=False,
        journalFile=None,
        fullDumpFile=None,
        password=None,
        appendEntriesPeriod=timing.heartbeat_seconds,
        raftMinTimeout=timing.election_seconds_min,
        raftMaxTimeout=timing.election_seconds_max,
        leaderFallbackTimeout=timing.election_seconds_max,
        connectionTimeout=max(3.5, timing.election_seconds_max),
        logCompactionMinEntries=1 << 62,
        logCompactionMinTime=1 << 62,
    )
