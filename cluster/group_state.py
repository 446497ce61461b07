"""The state of one group on disk: snapshots made, served and taken, the log cut, damage repaired.

Snapshots answer from their workers on the loop thread; what they report is decided here, and
what it means for those who wait is the group's: it is called with a state that was found
damaged (`quarantine`) and with one that a snapshot has become (`restored`).

Loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from cluster import raft
from cluster.compaction import CompactionLimits, Compactor
from cluster.errors import CorruptSnapshot, DamagedContent, Overloaded, StateDamaged
from cluster.interfaces import RaftLog, SnapshotMeta, Snapshots, StateMachine
from cluster.messages import Message
from cluster.raft import SafeCore
from cluster.repair import Repair
from cluster.snapshot_transfer import SnapshotReceiver, SnapshotSender

logger = logging.getLogger(__name__)

COMPACT_SECONDS = 0.1  # between two looks at whether a snapshot is due or the log can be cut


class Send(Protocol):
    """Puts a message on the way to a peer, on the bulk lane or beside it."""

    def __call__(self, peer: str, message: Message, *, bulk: bool) -> None: ...


class GroupState:
    """Compaction, transfer and repair of one group's state. See the module docstring."""

    def __init__(
        self,
        core: SafeCore,
        log: RaftLog,
        machine: StateMachine,
        snapshots: Snapshots,
        limits: CompactionLimits,
        send: Send,
        *,
        guarded: Callable[[Callable[[], None]], None],
        quarantine: Callable[[str], None],
        restored: Callable[[], None],
        wake: Callable[[], None],
        stop: Callable[[Exception], None],
    ) -> None:
        """`guarded` runs an event, stops the node if it raises, and else asks for a turn."""
        self._core = core
        self._snapshots = snapshots
        self._guarded = guarded
        self._quarantine = quarantine
        self._group_restored = restored
        self._wake = wake
        self._stop = stop
        self.compact_at = float("-inf")  # when `compact` looks next
        self.compactor = Compactor(
            log, snapshots, limits, self._snapshot_made, self._snapshot_failed
        )
        self.compactor.started(core.applied_index)
        self.receiver = SnapshotReceiver(
            snapshots,
            partial(send, bulk=False),
            self._snapshot_received,
            stop,
            core.now,
            lambda: core.repairing,
        )
        self.repair = Repair(core, machine, snapshots, self._restored, stop)
        core.on_offer = self._snapshot_offered
        core.on_pull = SnapshotSender(
            snapshots, partial(send, bulk=True), self._snapshot_refused
        ).pull
        core.on_chunk = self.receiver.chunk

    # --- Making, and cutting the log ---------------------------------------------------

    def make_snapshot(self) -> bool:
        """Begin a snapshot now. False: one is being made or received, or there is no state."""
        core = self._core
        if core.stateless or core.repairing or core.applied_index <= raft.FIRST_INDEX:
            return False
        return self.compactor.begin(self._core.configuration_at)

    def compact(self) -> None:
        """Snapshots and the cut below them: a few times a second is often enough."""
        now = self._core.now()
        if now < self.compact_at:
            return
        self.compact_at = now + COMPACT_SECONDS
        receiving = self.receiver.receiving
        if receiving is not None and not self._core.wants_snapshot(receiving):
            self.receiver.cancel()  # Entries arrived that reach further.
        if self._core.room and self.compactor.is_due(self._core.applied_index):
            self.make_snapshot()
        self.compactor.cut(self._core.applied_index, self._core.kept_index())

    def _snapshot_made(self, meta: SnapshotMeta) -> None:
        self._core.drop_configurations(meta.index)
        self._wake()

    def _snapshot_failed(self, error: Exception) -> None:
        if isinstance(error, StateDamaged):
            self._quarantine(str(error))
        else:
            self._stop(error)

    # --- Serving and taking ------------------------------------------------------------

    def _snapshot_refused(self) -> None:
        """A follower found our snapshot damaged. If it is, make another; if it was made of a
        state that was damaged already, so is that."""

        def verified(error: Exception | None) -> None:
            if isinstance(error, DamagedContent):
                self._quarantine(str(error))
            elif isinstance(error, CorruptSnapshot):
                self.make_snapshot()
            elif error is not None:
                self._stop(error)

        try:
            self._snapshots.verify(verified)
        except Overloaded:
            return  # It is being verified already, and whoever refused it asks again.

    def _snapshot_offered(self, peer: str, meta: SnapshotMeta) -> None:
        self.receiver.offer(peer, self._core.term, meta)

    def _snapshot_received(self, meta: SnapshotMeta) -> None:
        self._guarded(lambda: self._install(meta))

    def _install(self, meta: SnapshotMeta) -> None:
        """Take the snapshot's state for ours. See `reconcile` for crashes in between."""
        if not self._core.wants_snapshot(meta):
            return  # Entries arrived that reach further.
        try:
            self._snapshots.install()
        except CorruptSnapshot as error:
            logger.error("%s; it is set aside, and fetched again", error)
            return
        logger.info("the leader's snapshot at %d is installed", meta.index)
        self._core.adopt_snapshot(meta)
        self.repair.ended()
        self._restored()

    def _restored(self) -> None:
        """A snapshot has become the state."""
        self.compactor.installed()
        self._group_restored()

    # --- Repair ------------------------------------------------------------------------

    def drop(self, reason: str, reseed_from: int) -> None:
        """Begin to rebuild a damaged state. See `Repair.begin`; raises what the machine raises."""
        self.repair.begin(reason, reseed_from)
        self.receiver.cancel()
