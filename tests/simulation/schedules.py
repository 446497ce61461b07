"""Schedules that drive either cluster, up to the point where the two must differ."""

from __future__ import annotations

import random

from tests.simulation.driver import Driver, Told


def p01_lone_write_before_a_snapshot(driver: Driver) -> Told:
    """A led and wrote X alone; B leads now, has compacted its log beyond X, and has just got
    its connection to A again. Returns what the client of X has been told: nothing yet."""
    driver.elect("A")
    for i in range(3):
        driver.put("A", b"k%d" % i)
        driver.settle(1, quiet=True)
    driver.settle(quiet=True)
    driver.network.isolate("A")
    stray = driver.put("A", b"X")
    for _ in range(2):
        driver.turn("A")
        driver.sync("A")
    driver.elect("B")
    fill(driver, "B", 20)
    driver.settle(quiet=True)
    driver.compact("B")
    driver.settle(quiet=True)
    assert stray.calls == 0
    driver.network.heal("A", "B")
    return stray


def fill(driver: Driver, name: str, count: int) -> None:
    """Commands that do not compress, one entry each, so that a snapshot has many chunks."""
    rng = random.Random(1)
    for _ in range(count):
        driver.put(name, rng.randbytes(200))
        driver.turn(name)
        driver.sync(name)


def p11_deposed_leader(driver: Driver) -> None:
    """B leads and has written "new"; A, cut off, may still believe that it leads."""
    driver.elect("A")
    driver.put("A", b"old")
    driver.settle(quiet=True)
    driver.network.isolate("A")
    driver.elect("B")
    driver.put("B", b"new")
    driver.settle(quiet=True)


def p14_waiting_clients_before_a_snapshot(driver: Driver) -> list[Told]:
    """Three clients of A, which is cut off, wait for entries 3, 4 and 5. B leads, with a
    snapshot that covers them and has other entries there, and gets its connection back."""
    driver.elect("A")
    driver.network.isolate("A")
    waiting = []
    for i in range(3):
        waiting.append(driver.put("A", b"x%d" % i))
        driver.turn("A")
        driver.sync("A")
    driver.elect("B")
    fill(driver, "B", 20)
    driver.settle(quiet=True)
    driver.compact("B")
    driver.settle(quiet=True)
    assert [outcome.calls for outcome in waiting] == [0, 0, 0]
    driver.network.rejoin("A")
    return waiting
