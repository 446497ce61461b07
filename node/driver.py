"""Drives a Raft group from the event loop: by arrival and by timer.

Events ask for a turn; however many ask in one loop iteration, one turn serves them. A
timer gives turns to heartbeats and elections, which nothing else would wake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class GroupDriver:
    """Schedules the turns of one group. Loop thread only."""

    def __init__(self, timer_seconds: float) -> None:
        """timer_seconds: the longest time between two turns; it bounds how late a heartbeat
        or an election may start."""
        self._loop = asyncio.get_running_loop()
        self._timer_seconds = timer_seconds
        self._turn: Callable[[], None] = lambda: None
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def start(self, turn: Callable[[], None]) -> None:
        self._turn = turn
        self._running = True
        self.wake()
        self._timer = self._loop.call_later(self._timer_seconds, self._tick)

    def stop(self) -> None:
        """No turn runs after this."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()

    def wake(self) -> None:
        """Ask for a turn in the next loop iteration."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        if self._running:
            self._turn()

    def _tick(self) -> None:
        if self._running:
            self._turn()
            self._timer = self._loop.call_later(self._timer_seconds, self._tick)
