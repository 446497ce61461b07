"""Bring log, snapshots and state of one group into agreement when a node starts.

The newest durable snapshot and the log are the truth; the state is derived from them. A
crash may have come between any two steps of installing a snapshot:

1. the snapshot is durable, 2. the log is reset where it does not hold the snapshot's last
entry, 3. the state is replaced.

So the steps that are missing are made up for here. A state that is lost, and whose
snapshot is damaged, is not the end either: the log still holds this node's promises, and
the leader sends a new snapshot (`CoreState.stateless`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cluster.errors import CorruptSnapshot
from cluster.interfaces import RaftLog, Snapshots


class Reconciled(NamedTuple):
    """What was done, for the operator."""

    log_reset: bool  # the log did not hold the snapshot's last entry
    restored: bool  # the state was rebuilt from the snapshot
    damaged: tuple[str, ...]  # snapshots that could not be used, and why


def reconcile(log: RaftLog, snapshots: Snapshots, applied_index: Callable[[], int]) -> Reconciled:
    """Make up for interrupted steps. Blocks. `applied_index()` reads the machine's.

    Raises StorageFailed.
    """
    newest = snapshots.newest
    reset = restored = False
    damaged: list[str] = []
    # Entries that contradict a snapshot were never committed (leader completeness). A log
    # that begins right above it, or later, was cut there and continues it.
    if (
        newest is not None
        and log.first_index <= newest.index
        and log.term_at(newest.index) != newest.term
    ):
        log.reset(newest.index, newest.term)
        log.flush()
        reset = True
    # Where the log reaches down far enough, a snapshot is still the shorter way.
    # One that is damaged is set aside; an older one, and more of the log, may still do.
    lowest = max(applied_index() + 1, log.first_index - 1)
    while (newest := snapshots.newest) is not None and newest.index >= lowest and not restored:
        try:
            snapshots.install()
            restored = True
        except CorruptSnapshot as error:
            damaged.append(str(error))
    return Reconciled(reset, restored, tuple(damaged))
