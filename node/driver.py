"""Drives Raft groups from the event loop: by arrival and by timer.

Events ask for a turn; however many ask in one loop iteration, one turn serves them. A
timer gives turns to heartbeats and elections, which nothing else would wake. All groups of
a node share it, so that their heartbeats leave together: it fires on a grid, and only where
some group has something to do, because on an idle node waking up is most of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import floor, inf


class Drivers:
    """The timer of all groups of one node. Loop thread only."""

    def __init__(self, timer_seconds: float) -> None:
        """timer_seconds: the grid; it bounds how late a heartbeat or an election may start."""
        self.loop = asyncio.get_running_loop()
        self._timer_seconds = timer_seconds
        self._running: dict[GroupDriver, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._slot: float = inf  # of the grid, at which the timer fires; inf: it does not

    def add(self, driver: GroupDriver) -> None:
        self._running[driver] = None
        self.due_in(0.0)

    def remove(self, driver: GroupDriver) -> None:
        self._running.pop(driver, None)
        if not self._running:
            self._disarm()

    def due_in(self, seconds: float) -> None:
        """A group has something to do in so long, whatever happens until then; inf: nothing."""
        if seconds == inf or not self._running:
            return
        slot = floor((self.loop.time() + max(seconds, 0.0)) / self._timer_seconds) + 1.0
        if slot < self._slot:
            self._disarm()
            self._slot = slot
            self._timer = self.loop.call_at(slot * self._timer_seconds, self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slot = inf

    def _tick(self) -> None:
        self._timer, self._slot = None, inf
        for driver in list(self._running):
            driver.tick()


class GroupDriver:
    """Schedules the turns of one group. Loop thread only."""

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers
        self._turn: Callable[[], None] = lambda: None
        self._tick: Callable[[], None] = lambda: None
        self._due_in: Callable[[], float] = lambda: inf
        self._scheduled = False
        self._running = False

    def start(
        self, turn: Callable[[], None], tick: Callable[[], None], due_in: Callable[[], float]
    ) -> None:
        """`turn` is called after `wake`, `tick` by the timer; then `due_in` says in how many
        seconds a tick has something to do."""
        self._turn, self._tick, self._due_in = turn, tick, due_in
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
            self._tick()
            self._drivers.due_in(self._due_in())

    def _run(self) -> None:
        self._scheduled = False
        if self._running:
            self._turn()
            self._drivers.due_in(self._due_in())
