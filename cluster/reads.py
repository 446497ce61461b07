"""ReadIndex (Ongaro 2014, section 6.4): linearizable reads without a log entry.

A round records the commit index, sends a sequence number to all voters, and is
confirmed when a majority, self included, has echoed a number at least as high in the
same term: at that moment no other leader can have been elected before the round began.
Every read that waits when a round starts shares it; at most one round is in flight, and
reads that arrive meanwhile share the next. Pure: no clock, no sockets.

A lease would save the round trip, but a process that was paused past its lease serves
stale reads when it wakes; so no lease.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

Waiter = Callable[[int | None], None]  # called with the read index, or None: not leader


class ReadRounds:
    """The reads of one leader in one term. Loop thread only.

    Invariant: a waiter is called exactly once.
    """

    def __init__(self) -> None:
        self.seq = 0  # grows for the life of the process, so a late echo never confirms
        self._index = 0
        self._in_flight: list[Waiter] = []
        self._waiting: list[Waiter] = []
        self._echoed: dict[str, int] = {}

    @property
    def unconfirmed(self) -> bool:
        """True while a round is in flight."""
        return bool(self._in_flight)

    @property
    def waiting_count(self) -> int:
        return len(self._in_flight) + len(self._waiting)

    def add(self, waiter: Waiter) -> None:
        self._waiting.append(waiter)

    def begin(self, commit_index: int) -> bool:
        """Start a round for everything that waits; False if there is nothing to start."""
        if self._in_flight or not self._waiting:
            return False
        self.seq += 1
        self._index = commit_index
        self._in_flight, self._waiting = self._waiting, []
        return True

    def echo(self, peer: str, seq: int) -> None:
        """A voter of the current term has seen `seq`."""
        if seq > self._echoed.get(peer, 0):
            self._echoed[peer] = seq

    def confirm(self, peers: Collection[str]) -> None:
        """Answer the round in flight if a majority of the voters echoed it: this node, and
        `peers`, the other voters of the configuration in force."""
        if not self._in_flight:
            return
        confirmed = 1 + sum(self._echoed.get(peer, 0) >= self.seq for peer in peers)
        if confirmed > (len(peers) + 1) // 2:
            done, self._in_flight = self._in_flight, []
            for waiter in done:
                waiter(self._index)

    def fail_all(self) -> None:
        """Leadership ended: answer every waiter with None and forget the echoes."""
        done = self._in_flight + self._waiting
        self._in_flight, self._waiting = [], []
        self._echoed.clear()
        for waiter in done:
            waiter(None)
