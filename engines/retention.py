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


def sweep(records: Records, limits: Limits, changes: int, size: int) -> None:
    """Move the floor until the window is within its limits or the budget is spent: that of
    a command of `changes` changes and `size` bytes."""
    counters, log = records.counters, records.overlay.changes
    changes_max, bytes_max = limits.watch_window_changes_max, limits.watch_window_bytes_max
    budget = changes * SWEEP_STEPS_PER_CHANGE + size // SWEEP_BYTES_PER_STEP
    passed = b""
    while (
        (counters.window_changes > changes_max or counters.window_bytes > bytes_max)
        and budget > 0
        and counters.window_changes > 0
    ):
        passed, record_bytes = log.next_after(passed or counters.floor_id)
        counters.window_changes -= 1
        counters.window_bytes -= record_bytes
        if counters.leaving:
            records.let_go(passed)
        budget -= 1
    if passed:
        counters.floor_id = passed
