"""The watch window: which old changes go, and when.

The last `watch_window_changes_max` changes, within `watch_window_bytes_max` bytes, are
kept whole so that a watch may resume. The *floor* is the id of the newest change that
has left the window. A sweep moves it on, one change at a time, after every command that
changed something, and drops a change it passes unless its key still retains it as
history. A deletion that leaves the window takes all that is left of its key with it.
`leaving` tells which (see records.py), so a step needs no more of a change than its id
and its length.

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

from engines.interfaces import Limits
from engines.records import Records

SWEEP_STEPS_PER_CHANGE = 4
SWEEP_BYTES_PER_STEP = 4096


def sweep_budget(changes: int, size: int) -> int:
    """Steps that a command of `changes` changes and `size` bytes pays for."""
    return changes * SWEEP_STEPS_PER_CHANGE + size // SWEEP_BYTES_PER_STEP


def sweep(records: Records, limits: Limits, budget: int) -> None:
    """Move the floor until the window is within its limits or the budget is spent."""
    counters = records.counters
    changes_max, bytes_max = limits.watch_window_changes_max, limits.watch_window_bytes_max
    while (
        (counters.window_changes > changes_max or counters.window_bytes > bytes_max)
        and budget > 0
        and counters.window_changes > 0
    ):
        change_id, size = records.overlay.changes.next_after(counters.floor_id)
        counters.window_changes -= 1
        counters.window_bytes -= size
        counters.floor_id = change_id
        records.passed(change_id)
        budget -= 1
