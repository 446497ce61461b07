"""Random schedules on the safe core: lost and late frames, cuts, crashes that lose what was
not fsynced. Every step is checked; a failure names the seed that repeats it:

    HIVEMEM_SEED=17 python -m pytest tests/simulation/test_fuzz.py
"""

from __future__ import annotations

import os
import random

import pytest

from cluster.group_limits import GroupLimits
from cluster.raft import FlowLimits
from tests.simulation.harness import Cluster

STEPS = 1000
SEEDS = [int(os.environ["HIVEMEM_SEED"])] if "HIVEMEM_SEED" in os.environ else range(60)


class Schedule:
    """Random moves on a cluster; which moves happened is counted, so that none is idle."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.number = 0
        self.counts: dict[str, int] = {}
        self.moves = [
            (self.deliver, 40),
            (self.turn, 25),
            (self.sync, 20),
            (self.put, 10),
            (self.cut, 1.5),
            (self.heal, 2),
            (self.crash, 0.8),
            (self.restart, 2),
            (self.duplicate, 8),
            (self.partial_sync_crash, 0.3),
        ]

    def step(self) -> None:
        move = self.rng.choices(*zip(*self.moves, strict=True))[0]
        move()
        self.cluster.check()
        self.cluster.advance(self.rng.choice((0.001, 0.005, 0.02)))

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def pair(self) -> tuple[str, str]:
        a, b = self.rng.sample(self.cluster.ids, 2)
        return a, b

    def deliver(self) -> None:
        network, ids = self.cluster.network, self.cluster.ids
        busy = [(a, b) for a in ids for b in ids if a != b and network.queue(a, b)]
        if not busy:
            return
        src, dst = self.rng.choice(busy)
        lane = self.rng.choice((None, None, True, False))
        self.cluster.network.deliver(src, dst, self.rng.choice((1, 2, 5)), bulk=lane)

    def turn(self) -> None:
        if up := self.cluster.up():
            self.cluster.turn(self.rng.choice(up))

    def sync(self) -> None:
        if up := self.cluster.up():
            self.cluster.sync(self.rng.choice(up))

    def put(self) -> None:
        leader = self.cluster.leader()
        if leader is not None:
            size = self.rng.choice((5, 60, 150, 900))
            self.cluster.put(leader, b"%06d" % self.number + b"x" * size)
            self.number += 1
            self.count("put")

    def cut(self) -> None:
        self.cluster.network.cut(*self.pair())
        self.count("cut")

    def heal(self) -> None:
        a, b = self.pair()
        if {a, b} <= set(self.cluster.up()):
            self.cluster.network.heal(a, b)
            self.count("heal")

    def duplicate(self) -> None:
        queue = self.cluster.network.queue(*self.pair())
        if queue:
            queue.append(self.rng.choice(queue))
            self.count("duplicate")

    def crash(self, keep_unsynced: int = 0) -> None:
        up = self.cluster.up()
        if (len(up) > len(self.cluster.ids) // 2 + 1 or self.rng.random() < 0.2) and up:
            self.cluster.crash(self.rng.choice(up), keep_unsynced)
            self.count("crash")

    def partial_sync_crash(self) -> None:
        self.crash(self.rng.randrange(1, 4))

    def restart(self) -> None:
        down = [name for name in self.cluster.ids if name not in self.cluster.up()]
        if down:
            name = self.rng.choice(down)
            self.cluster.start(name)
            for other in self.cluster.up():
                self.cluster.network.heal(name, other)
            self.count("restart")


def run(monkeypatch: pytest.MonkeyPatch, seed: int) -> Schedule:
    """One seed: random moves, then everything is healed and must converge."""
    rng = random.Random(seed)
    size = 3 if seed % 2 else 5
    limits = GroupLimits(entry_commands_max=rng.choice((1, 3, 100)), apply_entries_max=7)
    flow = FlowLimits(append_bytes_max=rng.choice((100, 2000)), inflight_bytes_max=4000)
    cluster = Cluster(monkeypatch, size, seed, limits, flow)
    cluster.settle(12)
    schedule = Schedule(cluster, rng)
    for _ in range(STEPS):
        schedule.step()
    for name in cluster.ids:
        if name not in cluster.up():
            cluster.start(name)
    for name in cluster.ids:
        cluster.network.rejoin(name)
    cluster.settle(60)
    cluster.check_healed()
    last = cluster.put(cluster.leader(), b"after healing")
    cluster.settle(5)
    assert last.acknowledged
    schedule.counts["acknowledged"] = sum(o.acknowledged for o in cluster.outcomes)
    schedule.counts["elections"] = len(cluster.leaders)
    return schedule


@pytest.mark.parametrize("seed", SEEDS)
def test_random_schedule(monkeypatch, seed):
    run(monkeypatch, seed)


def test_every_kind_of_fault_happens(monkeypatch):
    """A campaign that never crashes or cuts anything would prove nothing."""
    total: dict[str, int] = {}
    for seed in range(1000, 1006):
        for name, number in run(monkeypatch, seed).counts.items():
            total[name] = total.get(name, 0) + number
    assert total["acknowledged"] > 100
    assert total["elections"] > 12
    for name in ("put", "cut", "heal", "crash", "restart", "duplicate"):
        assert total[name] > 10, total
