"""When a follower applies what is committed: later, and several entries at once.

What an entry costs to apply is mostly the transaction, whatever is in it. Nothing that is
acknowledged waits for a follower's state: only who reads or watches there does. So while
nobody does, entries wait until they are worth a transaction. Pure: the owner brings the time.

Who applies does not acknowledge meanwhile, and followers that put off by one rule would all apply
at the same moment, with nobody left to make a majority. So they take turns (`has_turn`), where
what waits does not reach a bound within one entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

# A turn lasts so many entries: with 64 clients some 20 ms, and applying takes 8 to 17. Smaller
# loads have shorter turns, and less to apply.
TURN_ENTRIES: Final = 6


@dataclass(frozen=True, slots=True)
class DeferralLimits:
    """Bounds on what a follower knows to be committed and has not applied.

    `seconds_max` is what reads without a barrier may be older for it: half of what a
    heartbeat's interval makes them anyway. The others bound what one turn then applies, and
    with it how long the loop is kept from acknowledging entries.
    """

    entries_max: int = 64
    bytes_max: int = 64 << 10  # payload bytes accepted and not applied
    seconds_max: float = 0.05


def has_turn(index: int, place: int, followers: int) -> bool:
    """Is it the turn of the follower at this place of so many, now that this entry is committed?

    At most half of them have it, by the same log; one that is alone never has, since whoever
    leads waits for it in any case.
    """
    if followers < 2:
        return False
    groups = ceil(followers / (followers // 2))
    return (index // TURN_ENTRIES + place) % groups == 0


class Deferral:
    """How long the entries that wait have waited. Loop thread only."""

    def __init__(self, limits: DeferralLimits) -> None:
        self._limits = limits
        self._since: float | None = None  # when the first of them was seen

    def is_due(self, now: float, entries: int, payload_bytes: int, *, turn: bool) -> bool:
        """Is it time to apply `entries` that wait? `turn`: it is this follower's, so that half of
        every bound is enough."""
        if self._since is None:
            self._since = now
        limits, share = self._limits, 0.5 if turn else 1.0
        return (
            entries >= limits.entries_max * share
            or payload_bytes >= limits.bytes_max * share
            or now >= self._since + limits.seconds_max * share
        )

    @property
    def due_at(self) -> float:
        """When the time is over for what waits, whoever's turn it is; inf: nothing does. Half of it
        is no reason to wake up, and is looked at when something else happens."""
        return inf if self._since is None else self._since + self._limits.seconds_max

    def ended(self) -> None:
        """Nothing waits any more."""
        self._since = None
