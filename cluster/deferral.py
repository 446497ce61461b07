"""When a follower applies what is committed: later, and several entries at once.

What an entry costs to apply is mostly the transaction, whatever is in it. Nothing that is
acknowledged waits for a follower's state: only who reads or watches there does. So while
nobody does, entries wait until they are worth a transaction. Pure: the owner brings the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class DeferralLimits:
    """Bounds on what a follower knows to be committed and has not applied.

    `seconds_max` is what reads without a barrier may be older for it: half of what a
    heartbeat's interval makes them anyway. The others bound what one turn then applies, and
    with it how long the loop is kept from acknowledging entries: followers begin to wait at
    the same entry, so that they apply at the same time, and then nobody acknowledges.
    """

    entries_max: int = 64
    bytes_max: int = 64 << 10  # payload bytes accepted and not applied
    seconds_max: float = 0.05


class Deferral:
    """How long the entries that wait have waited. Loop thread only."""

    def __init__(self, limits: DeferralLimits) -> None:
        self._limits = limits
        self._since: float | None = None  # when the first of them was seen

    def is_due(self, now: float, entries: int, payload_bytes: int) -> bool:
        """Is it time to apply `entries` that wait?"""
        if self._since is None:
            self._since = now
        limits = self._limits
        return (
            entries >= limits.entries_max or payload_bytes >= limits.bytes_max or now >= self.due_at
        )

    @property
    def due_at(self) -> float:
        """When the time is over for what waits; inf: nothing does."""
        return inf if self._since is None else self._since + self._limits.seconds_max

    def ended(self) -> None:
        """Nothing waits any more."""
        self._since = None
