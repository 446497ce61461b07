"""Reads by priority while the threads are busy, on a virtual clock; and shedding."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engines.registry import Registry
from node.clock import SystemClock
from node.errors import DeadlineExceeded, Unavailable
from node.http_limits import HttpLimits
from node.local_reads import ReaderThreads
from node.read_queue import AGE_SECONDS, SHARES, ReadQueue
from node.reads import PRIORITIES, Priority
from tests.example_engine.hivemem_tally import TALLY
from tests.unit.http_door import OpenDoor, Reply, open_door, until

LOW, MEDIUM, HIGH, CRITICAL = PRIORITIES
FOREVER = 1e12


class Line:
    """A queue of one thread, and who came when it was taken."""

    def __init__(self, waiting_max: int = 100) -> None:
        self.now = 0.0
        self.queue = ReadQueue(1, waiting_max, lambda: self.now)
        self.taken: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, priority: Priority) -> None:
        """A read comes, and waits or runs."""
        self.tasks[name] = asyncio.create_task(self._read(name, priority))
        await settle()

    async def _read(self, name: str, priority: Priority) -> None:
        await self.queue.enter(priority)
        self.taken.append(name)

    async def end(self) -> None:
        """The one that runs ends."""
        self.queue.leave()
        await settle()

    async def drain(self) -> list[str]:
        while self.queue.running:
            await self.end()
        return self.taken


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_reads_that_wait_are_taken_by_priority() -> None:
    line = Line()
    for name, priority in (
        ("runs", LOW), ("low", LOW), ("medium", MEDIUM), ("critical", CRITICAL), ("high", HIGH),
        ("second", CRITICAL),
    ):  # fmt: skip
        await line.come(name, priority)
    assert line.queue.waiting == {LOW: 1, MEDIUM: 1, HIGH: 1, CRITICAL: 2}
    assert await line.drain() == ["runs", "critical", "second", "high", "medium", "low"]
    assert line.queue.waiting.total() == 0


async def test_who_has_waited_long_is_overtaken_no_more() -> None:
    line = Line()
    await line.come("runs", LOW)
    await line.come("low", LOW)
    line.now = 3 * AGE_SECONDS - 0.01
    await line.come("critical", CRITICAL)
    line.now = 3 * AGE_SECONDS + 0.01
    await line.come("late", CRITICAL)
    assert await line.drain() == ["runs", "critical", "low", "late"]


async def test_low_is_not_starved_by_a_stream_of_critical_reads() -> None:
    """One ends and two come each tenth of a second: more than there is room for."""
    line = Line(1_000)
    await line.come("runs", MEDIUM)
    await line.come("low", LOW)
    for number in range(100):
        for half in ("a", "b"):
            await line.come(f"{number}{half}", CRITICAL)
        line.now += 0.1
        await line.end()
        if "low" in line.taken:
            break
    # It was overtaken by those that came in three levels' time, as many as there were.
    assert line.taken.index("low") - 1 == 2 * 3 * AGE_SECONDS / 0.1
    await line.drain()


async def test_low_is_shed_first_and_critical_last() -> None:
    line = Line(8)
    await line.come("runs", LOW)
    held = dict.fromkeys(PRIORITIES, 0)
    for priority in PRIORITIES:
        while True:
            name = f"{priority}{held[priority]}"
            await line.come(name, priority)
            if line.tasks[name].done():
                break
            held[priority] += 1
        with pytest.raises(Unavailable) as refused:
            line.tasks[name].result()
        assert (refused.value.code, refused.value.definite) == ("OVERLOADED", True)
        assert "reads_waiting_max" in str(refused.value)
    assert list(held.values()) == [4, 2, 1, 1]
    assert [sum(list(held.values())[: place + 1]) / 8 for place in range(4)] == [*SHARES.values()]
    assert line.queue.shed == dict.fromkeys(PRIORITIES, 1)
    await line.drain()
    await line.come("again", LOW)
    assert line.taken[-1] == "again"


async def test_who_gives_up_holds_no_place() -> None:
    line = Line(2)
    for name in ("runs", "one"):
        await line.come(name, LOW)
    line.tasks["one"].cancel()
    await settle()
    assert line.queue.waiting.total() == 0
    await line.come("two", LOW)
    assert await line.drain() == ["runs", "two"]


async def test_who_gives_up_as_its_turn_comes_hands_it_on() -> None:
    line = Line()
    for name in ("runs", "one", "two"):
        await line.come(name, LOW)
    line.queue.leave()
    line.tasks["one"].cancel()
    await settle()
    assert line.taken == ["runs", "two"]
    await line.end()
    assert line.queue.running == 0


# --- On real threads ------------------------------------------------------------------------


class Gate:
    """Work that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.open = threading.Event()

    def work(self) -> str:
        self.begun += 1
        assert self.open.wait(30)
        return "done"


@asynccontextmanager
async def reader_threads(count: int) -> AsyncIterator[ReaderThreads]:
    with ThreadPoolExecutor(count) as executor:
        yield ReaderThreads(executor, SystemClock(), HttpLimits(read_threads_max=count))


async def test_a_read_that_nobody_waits_for_holds_its_thread_until_it_ends() -> None:
    gate = Gate()
    async with reader_threads(1) as threads:
        with pytest.raises(DeadlineExceeded):
            await threads.offload(gate.work, SystemClock().monotonic() + 0.05)
        assert threads.queue.running == 1
        order: list[Priority] = []
        reads = [
            asyncio.create_task(threads.offload(partial(order.append, each), FOREVER, each))
            for each in (LOW, CRITICAL, MEDIUM)
        ]
        await settle()
        assert threads.queue.waiting.total() == 3
        gate.open.set()
        await asyncio.gather(*reads)
        assert order == [CRITICAL, MEDIUM, LOW]
        assert threads.queue.running == 0


async def test_what_fails_gives_its_thread_back() -> None:
    async with reader_threads(1) as threads:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await threads.offload(lambda: 1 // 0, FOREVER)
        assert await threads.offload(lambda: "ran", FOREVER) == "ran"
        assert threads.queue.running == 0


async def test_what_follows_a_read_does_not_queue() -> None:
    gate = Gate()
    async with reader_threads(2) as threads:
        first = asyncio.create_task(threads.offload(gate.work, FOREVER))
        second = asyncio.create_task(threads.on_thread(lambda: "encoded"))
        assert await second == "encoded"
        gate.open.set()
        assert await first == "done"


# --- At the HTTP door -----------------------------------------------------------------------


async def ask(door: OpenDoor, name: str, priority: object = None) -> Reply:
    requirements = {} if priority is None else {"priority": priority}
    body = {
        "operation": "tally_get", "collection": "c", "parameters": {"name": name},
        "requirements": requirements,
    }  # fmt: skip
    return await door.request("POST", "/v1/query", json.dumps(body).encode())


async def waiting(door: OpenDoor, count: int) -> None:
    queue = door.service.reads
    await until(lambda: queue.waiting.total() == count, f"{count} reads wait")


async def test_a_busy_node_sheds_low_and_takes_critical_first(tmp_path: Path) -> None:
    gate = Gate()
    order: list[str] = []

    class Slow(type(TALLY)):  # type: ignore[misc]
        def query(self, view: Any, settings: Any, operation: str, parameters: Any) -> Any:
            order.append(parameters["name"])
            if parameters["name"].startswith("slow"):
                gate.work()
            return {"total": 0}

    limits = HttpLimits(reads_waiting_max=4, read_threads_max=2)
    async with open_door(tmp_path, limits=limits, registry=Registry((Slow(),))) as door:
        made = {"name": "c", "engine": "tally"}
        await door.request("POST", "/v1/collections", json.dumps(made).encode())
        reads = [asyncio.create_task(ask(door, f"slow{place}")) for place in range(2)]
        await until(lambda: gate.begun == 2, "both threads are busy")
        for place, priority in enumerate(("low", "medium"), 1):
            reads.append(asyncio.create_task(ask(door, priority, priority)))
            await waiting(door, place)
        shed = await ask(door, "shed", "low")
        error = shed.json()["error"]
        assert (shed.status, error["code"], error["definite"]) == (503, "OVERLOADED", True)
        assert shed.headers["retry-after"] == "1"
        text = door.server.metrics.render().decode()
        for line in (
            'hivemem_reads_waiting{priority="medium"} 1.0', "hivemem_reads_running 2.0",
            'hivemem_reads_shed_total{priority="low"} 1.0',
            'hivemem_overload_refusals_total{limit="reads_waiting_max"} 1.0',
        ):  # fmt: skip
            assert line in text
        reads.append(asyncio.create_task(ask(door, "critical", "critical")))
        await waiting(door, 3)
        gate.open.set()
        assert [reply.status for reply in await asyncio.gather(*reads)] == [200] * 5
        # Two threads take from the queue: the next may begin before this one has noted itself.
        assert "critical" in order[2:4]


@pytest.mark.parametrize("priority", ["urgent", 3, ["low"], ""])
async def test_a_priority_that_is_none_is_refused(tmp_path: Path, priority: object) -> None:
    async with open_door(tmp_path) as door:
        refused = (await ask(door, "x", priority)).json()["error"]
        assert (refused["code"], refused["field"]) == ("INVALID_ARGUMENT", "requirements.priority")
