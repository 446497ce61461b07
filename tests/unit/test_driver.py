"""Which turns groups get: those that events ask for, and ticks where the time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

import pytest

from node.driver import Drivers, GroupDriver

GRID = 0.025


class Timer:
    """A timer handle of `Loop`."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as drivers use, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Timer] = []
        self.fired = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def armed(self) -> list[float]:
        return [timer.when for timer in self.timers if not timer.cancelled]

    def run(self, until: float) -> None:
        while True:
            while self.soon:
                self.soon.pop(0)()
            due = [timer for timer in self.timers if not timer.cancelled and timer.when <= until]
            if not due:
                break
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            self.fired += 1
            first.call()
        self.now = until


class Group:
    """Has something to do at `due_at`, and every `period` after it."""

    def __init__(self, loop: Loop, period: float) -> None:
        self.loop, self.period, self.due_at = loop, period, 0.0
        self.turns: list[float] = []

    def turn(self) -> None:
        self.turns.append(self.loop.now)
        self.due_at = self.loop.now + self.period

    def tick(self) -> None:
        if self.loop.now >= self.due_at:
            self.turn()

    def due_in(self) -> float:
        return self.due_at - self.loop.now


@pytest.fixture
async def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def started(drivers: Drivers, group: Group) -> GroupDriver:
    driver = GroupDriver(drivers)
    driver.start(group.turn, group.tick, group.due_in)
    return driver


async def test_groups_that_are_due_at_about_the_same_time_share_a_tick(loop: Loop) -> None:
    drivers = Drivers(GRID)
    groups = [Group(loop, period) for period in (0.081, 0.09, 0.099)]
    for group in groups:
        started(drivers, group)
    loop.run(10.0)
    for group in groups:
        gaps = [b - a for a, b in zip(group.turns, group.turns[1:], strict=False)]
        assert all(group.period <= gap <= group.period + GRID + 1e-9 for gap in gaps[1:])
    assert loop.fired <= 10.0 / 0.1 + 2, "not one for each of them, and none for nothing"


async def test_something_sooner_brings_the_tick_forward(loop: Loop) -> None:
    drivers = Drivers(GRID)
    group = Group(loop, 1.0)
    driver = started(drivers, group)
    loop.run(0.5)
    group.period = 0.01
    driver.wake()
    loop.run(0.5 + 2 * GRID)
    assert len([at for at in group.turns if at > 0.5]) == 2
    assert len(loop.armed()) == 1


async def test_events_that_come_often_leave_the_timer_alone(loop: Loop) -> None:
    drivers = Drivers(GRID)
    group = Group(loop, 0.1)
    driver = started(drivers, group)
    for step in range(1000):
        driver.wake()
        loop.run(step * 0.001)
    assert len(group.turns) >= 1000
    assert loop.fired <= 1.0 / 0.1 + 1


async def test_what_is_stopped_or_never_due_has_no_ticks(loop: Loop) -> None:
    drivers = Drivers(GRID)
    group, other = Group(loop, 0.1), Group(loop, inf)
    driver = started(drivers, group)
    started(drivers, other)
    loop.run(1.0)
    driver.stop()
    count, fired = len(group.turns), loop.fired
    driver.wake()
    loop.run(3.0)
    assert len(group.turns) == count
    assert len(other.turns) == 1
    assert loop.fired <= fired + 1
