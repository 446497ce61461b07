"""How fresh a read must be, the three levels and their bounds; and how soon it is taken."""

from __future__ import annotations

import enum
from dataclasses import dataclass

STALENESS_MS_MAX = 3_600_000


class ReplicaLeft(Exception):
    """The replica that was to answer is not on this node any more."""


class Consistency(enum.StrEnum):
    """What a read may answer with."""

    LINEARIZABLE = "linearizable"  # nothing older than what was acknowledged before it began
    LEADER = "leader"  # the leader's state, without confirming that it still leads
    STALE = "stale"  # any replica's state

    @classmethod
    def from_name(cls, name: str) -> Consistency:
        """Accepts the names above and `strong`, `weak`, `eventual`. Raises ValueError."""
        found = _BY_NAME.get(name)
        if found is None:
            raise ValueError(f"must be one of {', '.join(_BY_NAME)}")
        return found


_BY_NAME = {
    "linearizable": Consistency.LINEARIZABLE,
    "leader": Consistency.LEADER,
    "stale": Consistency.STALE,
    "strong": Consistency.LINEARIZABLE,
    "weak": Consistency.LEADER,
    "eventual": Consistency.STALE,
}
CONSISTENCIES = tuple(_BY_NAME)  # every name that callers may use


class Priority(enum.StrEnum):
    """In which order reads are taken that wait for a thread."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def level(self) -> int:
        """0 is the lowest."""
        return PRIORITIES.index(self)


PRIORITIES = tuple(Priority)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a read demands of the state that answers it.

    Invariant: max_staleness_ms is None unless consistency is STALE.
    """

    consistency: Consistency = Consistency.LINEARIZABLE
    max_staleness_ms: int | None = None  # refuse if no leader was heard for longer
    min_revision: int | None = None  # wait until this revision is applied
    priority: Priority = Priority.MEDIUM

    def __post_init__(self) -> None:
        if self.max_staleness_ms is not None:
            if self.consistency is not Consistency.STALE:
                raise ValueError("max_staleness_ms is only for stale reads")
            if not 0 <= self.max_staleness_ms <= STALENESS_MS_MAX:
                raise ValueError(f"max_staleness_ms must be 0..{STALENESS_MS_MAX}")
        if self.min_revision is not None and self.min_revision < 0:
            raise ValueError("min_revision must be >= 0")


LINEARIZABLE = ReadOptions()
STALE = ReadOptions(Consistency.STALE)
