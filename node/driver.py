"""Drives Raft groups from the event loop: by arrival and by timer.

Events ask for a turn; however many ask in one loop iteration, one turn serves them. A
timer gives turns to heartbeats and elections, which nothing else would wake. All groups of
a node share it, so that their heartbeats leave together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Drivers:
    """The timer of all groups of one node. Loop thread only."""

    def __init__(self, timer_seconds: float) -> None:
        """timer_seconds: the longest time between two turns of a group; it bounds how late a
        heartbeat or an election may start."""
        self.loop = asyncio.get_running_loop()
        self._timer_seconds = timer_seconds
        self._running: dict[GroupDriver, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, driver: GroupDriver) -> None:
        self._running[driver] = None
        if self._timer is None:
            self._timer = self.loop.call_later(self._timer_seconds, self._tick)

    def remove(self, driver: GroupDriver) -> None:
        self._running.pop(driver, None)
        if not self._running and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._timer_seconds, self._tick)
        for driver in list(self._running):
            driver.tick()


class GroupDriver:
    """Schedules the turns of one group. Loop thread only."""

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers
        self._turn: Callable[[], None] = lambda: None
        self._scheduled = False
        self._running = False

    def start(self, turn: Callable[[], None]) -> None:
        self._turn = turn
        self._running = True
        self.wake()
        self._drivers.add(self)

    def stop(self) -> None:
        """No turn runs after this."""
        self._running = False
        self._drivers.remove(self)

    def wake(self) -> None:
        """Ask for a turn in the next loop iteration."""
        if not self._scheduled:
            self._scheduled = True
            self._drivers.loop.call_soon(self._run)

    def tick(self) -> None:
        if self._running:
            self._turn()

    def _run(self) -> None:
        self._scheduled = False
        if self._running:
            self._turn()
