"""The watch window: which old changes go, and when.

The last `watch_window_changes_max` changes, within `watch_window_bytes_max` bytes, are
kept whole so that a watch may resume. The *floor* is the id of the newest change that
has left the window. A sweep moves it on, one change at a time, after every command that
changed something, and drops a change it passes unless its key still retains it as
history. A deletion that leaves the window takes all that is left of its key with it.

Budget. A sweep that only kept up would take one step per change. It may take more,
because one large value can push out many small changes: SWEEP_STEPS_PER_CHANGE steps
for each change that the command made and one for every SWEEP_BYTES_PER_STEP bytes of
it. Writing n bytes beyond the limit thus pays for passing n / SWEEP_BYTES_PER_STEP
changes, so the window exceeds its bytes by at most SWEEP_BYTES_PER_STEP for each of
`watch_window_changes_max` (400 MiB at the defaults, and only after a window full of
tiny changes), and only until it has caught up. A command's work stays in proportion to
its own size: a step costs a few microseconds, some 15 ms after a write of 8 MiB at most.

The budget depends on the command alone, never on how commands were batched; a sweep
once per apply would be cheaper and would make replicas differ.
"""

from __future__ import annotations

from engines.errors import CorruptRecord
from engines.interfaces import Limits
from engines.keyspace import split_session_key
from engines.layout import CHANGE_ID, RETAINED, ChangeHead, Leaf, unpack_change
from engines.records import Records
from engines.store import Cursor

SWEEP_STEPS_PER_CHANGE = 4
SWEEP_BYTES_PER_STEP = 4096


def sweep_budget(changes: int, size: int) -> int:
    """Steps that a command of `changes` changes and `size` bytes pays for."""
    return changes * SWEEP_STEPS_PER_CHANGE + size // SWEEP_BYTES_PER_STEP


def sweep(records: Records, limits: Limits, budget: int) -> None:
    """Move the floor until the window is within its limits or the budget is spent."""
    counters = records.counters
    changes_max, bytes_max = limits.watch_window_changes_max, limits.watch_window_bytes_max
    if counters.window_changes <= changes_max and counters.window_bytes <= bytes_max:
        return
    with records.txn.cursor(db=records.databases.changes) as cursor:
        while budget > 0 and counters.window_changes > 0:
            if counters.window_changes <= changes_max and counters.window_bytes <= bytes_max:
                return
            _step(records, cursor)
            budget -= 1


def _step(records: Records, cursor: Cursor) -> None:
    """Pass the oldest change of the window."""
    counters = records.counters
    # A NUL more than the floor's key: the smallest key that is greater.
    if not cursor.set_range(CHANGE_ID.pack(*counters.floor) + b"\x00"):
        raise CorruptRecord("changes", b"", "the window holds fewer changes than counted")
    change_id = bytes(cursor.key())
    record = cursor.value()
    head = unpack_change(change_id, record)
    counters.window_changes -= 1
    counters.window_bytes -= len(record)
    counters.floor_revision, counters.floor_sub = CHANGE_ID.unpack(change_id)
    del record  # The view ends here: what follows writes.
    _pass(records, change_id, head)


def _pass(records: Records, change_id: bytes, head: ChangeHead) -> None:
    scope = records.scope(*split_session_key(head.owner))
    leaf = records.find(scope, head.key)
    if leaf is None:
        leaf = records.find_grave(scope, head.key)
        if leaf is None:
            raise CorruptRecord("changes", change_id, "its key is neither live nor in a grave")
        if (leaf.revision, leaf.sub) == CHANGE_ID.unpack(change_id):
            records.forget(scope, head.key, leaf)
            return
    if not _retains(leaf, change_id):
        records.drop_change(change_id)


def _retains(leaf: Leaf, change_id: bytes) -> bool:
    found = leaf.retained.find(change_id)
    while found >= 0 and found % RETAINED.size:
        found = leaf.retained.find(change_id, found + 1)
    return found >= 0
