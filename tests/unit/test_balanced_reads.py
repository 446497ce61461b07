"""Stale reads under each load balancing, with a slow replica, a failing one, and both healed.

Time is virtual: an answer takes as long as its replica says, and nothing waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import PeerUnreachable
from engines.errors import InvalidArgument, ReadersBusy
from engines.read_requests import Shown
from node.balanced_reads import BalancedReads, Routing
from node.clock import SystemClock
from node.errors import Unavailable
from node.reads import PRIORITIES, STALE, Consistency, Priority, ReadOptions
from node.replica_choice import Breaker, LoadBalancing
from node.session_replicas import SessionReplicas

NODES = {"a": "one", "b": "two", "c": "three"}
FAST, SLOW = 0.002, 0.2  # seconds
DEADLINE = 1e9
EACH = pytest.mark.parametrize("strategy", list(LoadBalancing))


class VirtualClock(SystemClock):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Cluster:
    """Replicas that answer as they are told to. `asked`: how often each was."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NODES, FAST))
    failing: dict[str, float] = field(default_factory=dict)  # share of calls
    asked: Counter[str] = field(default_factory=Counter)
    random: Random = field(default_factory=lambda: Random(7))
    held: dict[str, str] = field(default_factory=dict)  # session → who holds it, if not all
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reads = BalancedReads("a", self, self.clock, self.random.random)

    def holders(self, session: str) -> dict[str, str]:
        return {node: NODES[node] for node in self.held.get(session, NODES)}

    def members(self) -> list[str]:
        return list(NODES)

    async def read_at(
        self, node: str, session: str, request: Any, options: Any, seconds: float
    ) -> Any:
        self.asked[node] += 1
        self.clock.now += min(self.seconds[node], seconds)
        if self.random.random() < self.failing.get(node, 0.0):
            raise PeerUnreachable("scripted", definite=True)
        if self.seconds[node] > seconds:
            raise PeerUnreachable("took too long", definite=True)
        if isinstance(request, Exception):
            raise request
        return Shown(node, 1)

    async def read(self, count: int, strategy: LoadBalancing, **more: Any) -> Counter[str]:
        """That many reads; who answered them."""
        answered: Counter[str] = Counter()
        self.asked.clear()
        self.latencies.clear()
        for _ in range(count):
            begun = self.clock.now
            _, node = await self.reads.read(
                "s", None, STALE, Routing(strategy, **more), DEADLINE  # type: ignore[arg-type]
            )  # fmt: skip
            self.latencies.append(self.clock.now - begun)
            answered[node] += 1
            self.clock.now += 0.01
        return answered


@EACH
async def test_every_read_is_answered_although_replicas_fail(strategy: LoadBalancing) -> None:
    cluster = Cluster()
    cluster.seconds["b"], cluster.failing["c"] = SLOW, 0.5
    assert sum((await cluster.read(500, strategy)).values()) == 500
    # The failing one is left out most of the time; where the node itself answers, always.
    assert cluster.asked["c"] < 100
    assert cluster.asked["c"] > 0 or strategy is LoadBalancing.CAPABILITY_BASED


async def test_round_robin_asks_each_in_turn() -> None:
    cluster = Cluster()
    assert await cluster.read(300, LoadBalancing.ROUND_ROBIN) == {"a": 100, "b": 100, "c": 100}
    cluster.seconds["b"] = SLOW
    answered = await cluster.read(300, LoadBalancing.ROUND_ROBIN)
    assert answered["b"] == 100  # slow is not broken
    assert sorted(cluster.latencies)[296] >= SLOW  # p99


async def test_performance_leaves_a_slow_replica_aside_and_finds_it_again() -> None:
    cluster = Cluster()
    cluster.seconds["b"] = SLOW
    await cluster.read(100, LoadBalancing.PERFORMANCE_BASED)
    answered = await cluster.read(500, LoadBalancing.PERFORMANCE_BASED)
    # Asked where both of the two drawn are it (one in nine), and to stay measured.
    assert answered["b"] < 100
    assert sorted(cluster.latencies)[250] == pytest.approx(FAST)
    cluster.seconds["b"] = FAST / 2
    await cluster.read(500, LoadBalancing.PERFORMANCE_BASED)
    answered = await cluster.read(500, LoadBalancing.PERFORMANCE_BASED)
    assert answered["b"] > 200


@EACH
async def test_a_failing_replica_is_probed_and_comes_back(strategy: LoadBalancing) -> None:
    cluster = Cluster()
    cluster.failing["a"] = 1.0
    await cluster.read(200, strategy)
    figures = cluster.reads.choice.of("a")
    if figures.answers + figures.failures:  # some strategy may never have asked it
        assert figures.breaker is not Breaker.CLOSED
    before = figures.failures
    await cluster.read(1000, strategy)
    # Pauses grow: 1, 2, 4, 8 s, … within the 12 s that these take.
    assert figures.failures - before <= 5
    cluster.failing.clear()
    cluster.clock.now += 60
    await cluster.read(10, strategy)
    assert figures.breaker is Breaker.CLOSED
    answered = await cluster.read(300, strategy)
    # Its latency is that of the others but for rounding, which may decide every comparison.
    assert answered["a"] > 20


async def test_the_least_loaded_replica_is_asked() -> None:
    cluster = Cluster()
    busy = cluster.reads.choice
    for node, count in (("a", 3), ("b", 1), ("c", 2)):
        for _ in range(count):
            busy.of(node).begin(cluster.clock.now)
    assert await cluster.read(10, LoadBalancing.LEAST_LOADED) == {"b": 10}


async def test_the_node_itself_is_capable() -> None:
    assert await Cluster().read(10, LoadBalancing.CAPABILITY_BASED) == {"a": 10}


async def test_preferred_and_excluded_replicas_by_name_or_id() -> None:
    cluster = Cluster()
    strategy = LoadBalancing.ROUND_ROBIN
    assert await cluster.read(10, strategy, preferred=("three",)) == {"c": 10}
    assert set(await cluster.read(10, strategy, excluded=("c",))) == {"a", "b"}
    cluster.failing["c"] = 1.0
    assert set(await cluster.read(10, strategy, preferred=("c",))) == {"a", "b"}
    with pytest.raises(Unavailable, match="no replica that may be asked"):
        await cluster.read(1, strategy, excluded=("one", "two", "three"))


async def test_what_is_known_of_a_replica_is_kept_while_other_partitions_are_read() -> None:
    cluster = Cluster(held={"first": "ab", "second": "bc"})
    cluster.failing["a"] = 1.0
    routing = Routing(LoadBalancing.ROUND_ROBIN)
    for number in range(40):
        session = ("first", "second")[number % 2]
        await cluster.reads.read(session, None, STALE, routing, DEADLINE)  # type: ignore[arg-type]
    # Its breaker opened after a few failures, and stayed open for a second of virtual time.
    assert cluster.asked["a"] <= 5


async def test_a_refused_request_is_no_failure_of_the_replica() -> None:
    cluster = Cluster()
    refusal: Any = InvalidArgument("parameters.query", "holds no word")
    for _ in range(20):
        with pytest.raises(InvalidArgument):
            await cluster.reads.read(
                "s", refusal, STALE, Routing(LoadBalancing.ROUND_ROBIN), DEADLINE
            )
    assert all(each.breaker is Breaker.CLOSED for each in cluster.reads.choice.figures.values())
    assert sum(cluster.asked.values()) == 20


@EACH
async def test_a_callers_short_deadline_is_no_failure_of_a_replica(strategy: LoadBalancing) -> None:
    cluster = Cluster(seconds=dict.fromkeys(NODES, 0.02))
    await cluster.read(30, strategy)
    for _ in range(30):
        deadline = cluster.clock.now + 0.005
        routing = Routing(strategy)
        with pytest.raises(Unavailable):
            await cluster.reads.read("s", None, STALE, routing, deadline)  # type: ignore[arg-type]
    assert all(each.breaker is Breaker.CLOSED for each in cluster.reads.choice.figures.values())


@EACH
async def test_a_question_that_takes_long_everywhere_breaks_nothing(
    strategy: LoadBalancing,
) -> None:
    cluster = Cluster()
    await cluster.read(30, strategy)
    cluster.seconds.update(dict.fromkeys(NODES, 1.0))
    await cluster.read(20, strategy)
    assert all(each.breaker is Breaker.CLOSED for each in cluster.reads.choice.figures.values())
    # What it takes is known then: nobody is asked in vain.
    assert sum((await cluster.read(9, strategy)).values()) == sum(cluster.asked.values())


async def test_a_replica_that_hangs_is_left_out() -> None:
    cluster = Cluster()
    cluster.seconds["b"] = 1e6
    await cluster.read(60, LoadBalancing.ROUND_ROBIN)
    assert cluster.reads.choice.of("b").breaker is not Breaker.CLOSED
    cluster.asked.clear()
    await cluster.read(60, LoadBalancing.ROUND_ROBIN)
    assert cluster.asked["b"] <= 2


async def test_while_all_are_broken_they_still_take_turns() -> None:
    cluster = Cluster(failing=dict.fromkeys(NODES, 1.0))
    for _ in range(30):
        with pytest.raises(Unavailable):
            await cluster.read(1, LoadBalancing.ROUND_ROBIN)
    cluster.failing.clear()
    cluster.clock.now += 0.001
    assert len(await cluster.read(6, LoadBalancing.ROUND_ROBIN)) == 3


async def test_a_node_without_readers_left_is_a_failure_of_that_node() -> None:
    """Not an answer, and a quick one: then nobody else would be asked."""

    async def busy(*_: Any) -> Any:
        raise ReadersBusy(16)

    replica = SimpleNamespace(clock=VirtualClock(), router=SimpleNamespace(read_here=busy))
    partitions: Any = SimpleNamespace(group_of=lambda _: 0, serving=lambda _: replica)
    own: Any = SessionReplicas("a", partitions, None)  # type: ignore[arg-type]
    cluster = Cluster()
    answer = cluster.read_at

    async def read_at(node: str, *rest: Any) -> Any:
        return await (own.read_at if node == "a" else answer)(node, *rest)

    cluster.read_at = read_at  # type: ignore[method-assign]
    answered = await cluster.read(20, LoadBalancing.CAPABILITY_BASED)
    assert answered["a"] == 0
    assert cluster.reads.choice.of("a").breaker is not Breaker.CLOSED


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_read_that_was_turned_away_for_its_priority_breaks_no_replica(
    priority: Priority,
) -> None:
    cluster = Cluster()
    answer = cluster.read_at

    async def read_at(node: str, *rest: Any) -> Any:
        if node == "a":
            raise Unavailable("reads_waiting_max", code="OVERLOADED")
        return await answer(node, *rest)

    cluster.read_at = read_at  # type: ignore[method-assign]
    options = ReadOptions(Consistency.STALE, priority=priority)
    for _ in range(20):
        routing = Routing(LoadBalancing.CAPABILITY_BASED)
        request: Any = None
        _, node = await cluster.reads.read("s", request, options, routing, DEADLINE)
        assert node != "a"
    closed = cluster.reads.choice.of("a").breaker is Breaker.CLOSED
    assert closed is (priority is Priority.LOW)


async def test_who_gives_up_leaves_no_request_under_way() -> None:
    cluster = Cluster()
    never = asyncio.Event()

    async def waits(*_: Any) -> Any:
        await never.wait()

    cluster.read_at = waits  # type: ignore[method-assign]
    task = asyncio.create_task(cluster.read(1, LoadBalancing.ROUND_ROBIN))
    await asyncio.sleep(0)
    assert sum(each.in_flight for each in cluster.reads.choice.figures.values()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sum(each.in_flight for each in cluster.reads.choice.figures.values()) == 0
