"""Nodes that make, change, fill, read and drop one collection at the same time, and die at it.

Each node's commands and reads meet those of the others in an order that a seed chooses, and now
and then one ends in the middle of a request: before a command is applied, or after it. The history
must be one of a collection: what was acknowledged is read unless a drop may have come in between,
what was dropped before is not, and nothing is left when all is over.
"""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engines.errors import InvalidArgument
from node.errors import HivememError
from tests.unit.shard_partitions import Crash, Node, Partitions, duties

SEEDS = range(24)
WORKERS, REQUESTS = 4, 14
CRASH_SHARE = 0.01  # of commands
PARTITIONS = 4


class Span(NamedTuple):
    """When a request was under way. `done`: it was acknowledged."""

    start: int
    end: int
    done: bool


@dataclass
class History:
    now: int = 0
    inserts: dict[str, Span] = field(default_factory=dict)
    drops: list[Span] = field(default_factory=list)
    reads: list[tuple[Span, list[str]]] = field(default_factory=list)
    crashes: int = 0

    def tick(self) -> int:
        self.now += 1
        return self.now


class Dying(Node):
    """A node that waits for others before it goes on, and may end at a command."""

    def __init__(self, cluster: Partitions, chance: random.Random) -> None:
        super().__init__(cluster)
        self._chance = chance

    async def propose(self, command: Any, deadline: float) -> Any:
        await self._wait()
        if self._chance.random() < CRASH_SHARE:
            self.fail_at, self.applied = self.commands, self._chance.random() < 0.5
        return await super().propose(command, deadline)

    async def read(self, request: Any, options: Any, deadline: float) -> Any:
        await self._wait()
        return await super().read(request, options, deadline)

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)


class Worker:
    def __init__(self, number: int, cluster: Partitions, history: History, seed: int) -> None:
        self._number = number
        self._cluster = cluster
        self._history = history
        self._chance = random.Random(f"{seed} {number}")
        self._node = Dying(cluster, self._chance)

    async def run(self) -> None:
        for number in range(REQUESTS):
            kind = self._chance.choices(
                ("create", "insert", "read", "alter", "drop"), (3, 6, 5, 1, 1)
            )[0]
            try:
                await getattr(self, f"_{kind}")(f"{self._number}.{number}")
            except Crash:
                self._history.crashes += 1
                self._node = Dying(self._cluster, self._chance)

    async def _create(self, name: str) -> None:
        shards = self._chance.choice((1, 2, 4))
        request_id = name if self._chance.random() < 0.5 else None
        await _tried(self._node.create("c", shards=shards, request_id=request_id))

    async def _alter(self, name: str) -> None:
        path = self._chance.choice(("x", "y"))
        await _tried(self._node.alter("c", {"indexes": [{"fields": [path]}]}))

    async def _insert(self, name: str) -> None:
        ids = [f"{name}.{number}" for number in range(4)]
        start = self._history.tick()
        done = False
        try:
            documents = [{"_id": each, "x": 1} for each in ids]
            done = await _tried(self._node.query("c", "document_insert", documents=documents))
        finally:
            span = Span(start, self._history.tick(), done)
            self._history.inserts.update(dict.fromkeys(ids, span))

    async def _read(self, name: str) -> None:
        start = self._history.tick()
        found: list[Any] = []

        async def ask() -> None:
            answer = await self._node.query("c", "document_find", filter={"x": 1}, limit=1000)
            found.extend(item["id"] for item in answer["items"])

        if await _tried(ask()):
            self._history.reads.append((Span(start, self._history.tick(), True), found))

    async def _drop(self, name: str) -> None:
        start = self._history.tick()
        done = False
        try:
            done = await _tried(self._node.drop("c"))
        finally:
            # One that was not acknowledged may be finished at any time.
            end = self._history.tick() if done else 1 << 60
            self._history.drops.append(Span(start, end, done))


async def _tried(request: Any) -> bool:
    """Whether it was answered. A definite refusal is none, and others' doing."""
    try:
        await request
    except (HivememError, InvalidArgument) as error:
        if error.code == "INTERNAL":  # a defect, whatever the order
            raise AssertionError(error) from error
        return False
    return True


def check_history(history: History) -> None:
    for span, found in history.reads:
        assert len(found) == len(set(found)), "an item twice"
        there = set(found)
        for name, insert in history.inserts.items():
            between = [
                drop for drop in history.drops if drop.end > insert.start and drop.start < span.end
            ]
            if insert.done and insert.end < span.start and not between:
                assert name in there, f"{name} was acknowledged, and is not read"
            gone = any(
                drop.done and insert.end < drop.start and drop.end < span.start
                for drop in history.drops
            )
            if name in there:
                assert insert.start < span.end
                assert not gone, f"{name} was dropped, and is read"


async def _lived(cluster: Partitions, seed: int) -> History:
    history = History()
    workers = [Worker(number, cluster, history, seed) for number in range(WORKERS)]
    await asyncio.gather(*(worker.run() for worker in workers))
    check_history(history)
    # Whatever is there now is whole, and every node sees the same.
    seen = set()
    for _ in range(2):
        node = cluster.node()
        try:
            answer = await node.query("c", "document_find", filter={"x": 1}, limit=1000)
        except (HivememError, InvalidArgument) as error:
            seen.add(error.code)
        else:
            seen.add(str(sorted(item["id"] for item in answer["items"])))
    assert len(seen) == 1
    assert seen <= {"COLLECTION_NOT_FOUND"} or min(seen).startswith("["), seen
    await cluster.node().drop("c")
    leader = duties(cluster, set(cluster.groups))
    for _ in range(3):
        await leader.round()
    assert cluster.left() == 0, cluster.names()
    return history


def test_histories_are_those_of_one_collection(tmp_path: Path) -> None:
    crashes = reads = drops = 0
    with ThreadPoolExecutor(1) as executor:
        for seed in SEEDS:
            cluster = Partitions(tmp_path / str(seed), PARTITIONS, executor)
            try:
                history = asyncio.run(_lived(cluster, seed))
                cluster.sound()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            finally:
                for state in cluster.states.values():
                    state.machine.close()
            crashes += history.crashes
            reads += sum(bool(found) for _, found in history.reads)
            drops += sum(drop.done for drop in history.drops)
    # Or it shows nothing.
    assert (crashes > 5, reads > 50, drops > 10) == (True, True, True), (crashes, reads, drops)


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ([(Span(9, 10, True), [])], "is not read"),
        ([(Span(9, 10, True), ["a", "a"])], "twice"),
        ([(Span(21, 22, True), ["a"])], "is read"),
    ],
)
def test_the_check_notices(reads: Any, message: str) -> None:
    history = History(inserts={"a": Span(1, 2, True)}, drops=[Span(15, 20, True)], reads=reads)
    with pytest.raises(AssertionError, match=message):
        check_history(history)
