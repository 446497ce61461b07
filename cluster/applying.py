"""What is committed becomes the state of this node: when, how much at once, and who waits.

A leader applies at once, a follower puts off what nobody waits for (`deferral.py`). One turn
applies a bounded part, so that the loop stays live. Results go to those who proposed, and
reads that wait for an index go on once it is in the state.

Loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from cluster import entry as entries_codec
from cluster import raft
from cluster.deferral import Deferral, has_turn
from cluster.errors import Overloaded, StateDamaged
from cluster.group_limits import GroupLimits
from cluster.interfaces import CommittedBatch, RaftLog, StateMachine
from cluster.proposals import Proposals
from cluster.raft import SafeCore


class Applying:
    """The way of one group's entries into its state. See the module docstring."""

    def __init__(
        self,
        core: SafeCore,
        log: RaftLog,
        machine: StateMachine,
        proposals: Proposals,
        limits: GroupLimits,
        *,
        applied: Callable[[int], None],
        quarantine: Callable[[str], None],
        wake: Callable[[], None],
        watched: Callable[[], bool],
    ) -> None:
        """`applied` hears how many payload bytes went in, `quarantine` why the state is damaged.
        `watched`: does anybody want to hear of each change at once?"""
        self._core = core
        self._log = log
        self._machine = machine
        self._proposals = proposals
        self._limits = limits
        self._applied = applied
        self._quarantine = quarantine
        self._wake = wake
        self._watched = watched
        self._deferral = Deferral(limits.deferral)
        self._waiters: list[tuple[int, int, Callable[[], None]]] = []  # heap: index, number
        self._waiter_number = count()
        self._hurried = False  # somebody waits for what is committed here
        self._asking = False  # or for what may be, elsewhere

    # --- Who waits -----------------------------------------------------------------------

    def when_applied(self, index: int, done: Callable[[], None]) -> None:
        """Call `done` once this node has applied `index`. Raises Overloaded."""
        if self._core.applied_index >= index and not self._core.repairing:
            done()
        elif len(self._waiters) >= self._limits.reads_waiting_max:
            raise Overloaded("too many reads wait for this node to catch up")
        else:
            heappush(self._waiters, (index, next(self._waiter_number), done))
            self._hurried = True
            self._asking |= index > self._core.commit_index
            self._wake()

    def catch_up(self) -> None:
        """Put nothing off in the next turn, and ask the leader what is committed."""
        self._hurried = self._asking = True
        self._wake()

    def takes_asking(self) -> bool:
        """Is the leader to be asked what is committed? True once for each time."""
        asking, self._asking = self._asking, False
        return asking

    def is_awaited(self) -> bool:
        """Does anybody wait for what is put off?"""
        return (
            self._hurried
            or bool(self._waiters)
            # Of a leader that was: its clients are answered from here all the same.
            or self._proposals.count > 0
            or self._watched()
        )

    def release(self) -> None:
        """Let those go on whose index is in the state."""
        if self._core.repairing:
            return
        applied = self._core.applied_index
        while self._waiters and self._waiters[0][0] <= applied:
            heappop(self._waiters)[2]()

    # --- In a turn -----------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """When what was put off is to be applied; inf: nothing is."""
        return self._deferral.due_at

    def apply(self) -> None:
        """Apply what is committed and durable here, bounded so that the loop stays live."""
        first = self._core.applied_index + 1
        last = self._core.applicable_index()
        if first > last:
            self._all_applied()
            return
        if not self._must_apply():
            waiting, size = last - first + 1, self._core.accepted_bytes
            turn = has_turn(last, *self._core.place())
            if not self._deferral.is_due(self._core.now(), waiting, size, turn=turn):
                return
        end = min(last, first + self._limits.apply_entries_max - 1) + 1
        entries = self._log.read(first, end, self._limits.apply_bytes_max)
        batches = [
            CommittedBatch(item.index, item.term, entries_codec.unpack(item.payload))
            for item in entries
        ]
        try:
            # Whoever proposed is answered before the state's transaction ends: what is in the
            # log of a majority is true, whatever becomes of the state here.
            self._machine.apply(batches, self._proposals.resolve)
        except StateDamaged as error:
            self._quarantine(str(error))
            return
        self._core.set_applied(entries[-1].index)
        size = sum(len(item.payload) for item in entries)
        self._applied(size)
        self._core.accepted_bytes = max(0, self._core.accepted_bytes - size)
        self.release()
        if entries[-1].index < last:
            self._wake()
        else:
            self._all_applied()

    def _must_apply(self) -> bool:
        """Does anybody wait for the state here? Whoever leads, or is about to, answers from it."""
        return self._core.state != raft.FOLLOWER or self._core.repairing or self.is_awaited()

    def _all_applied(self) -> None:
        self._deferral.ended()
        self._hurried = False
        if self._core.applied_index >= self._log.last_index:
            self._core.accepted_bytes = 0  # exactly: some may have been taken back
