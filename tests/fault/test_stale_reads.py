"""Stale reads by each strategy, while one replica is slow and another one's link keeps breaking.

The node that is asked has a good replica itself. The link to another one is delayed, so that a
read there takes about 200 ms; the one to the third is reset again and again, so that about half
of the calls over it fail. No read may fail, and the traffic has to go as docs/http-api.md says.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node import local_cluster
from node.errors import NotFound
from tests.cluster.harness import eventually
from tests.fault.cluster import FaultCluster, Proxied
from tests.fault.surroundings import showing_logs

pytestmark = pytest.mark.timeout(180)

WORKERS = 6
PAUSE_SECONDS = 0.02  # of a worker between two reads
DELAY_SECONDS = 0.09  # of each direction
# Between two resets of the link that keeps breaking; it takes some 70 ms to connect again.
RESET_SECONDS = 0.13
RETURN_SECONDS = 15.0  # at most, until both replicas are asked again
ANSWERS = 200  # that are looked at together
ANSWERS_SECONDS = 30.0  # that they may take
CALL_SECONDS = 5.0
FAULTY_WINDOWS_MAX = 3  # until traffic has left: a moment in which the machine is slow spoils one


@dataclass
class Window:
    """What was answered since it began."""

    served: Counter[str] = field(default_factory=Counter)  # node id → reads
    seconds: list[float] = field(default_factory=list)  # of each
    failures: list[str] = field(default_factory=list)

    def share(self, node: str) -> float:
        return self.served[node] / max(1, self.served.total())

    def p99_ms(self) -> float:
        ordered = sorted(self.seconds)
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))]


class Load:
    """Stale reads at one node, by one strategy, from threads."""

    def __init__(self, port: int, strategy: str) -> None:
        self._port = port
        self._body = json.dumps(
            {
                "collection": "c",
                "operation": "text_count",
                "requirements": {"consistency": "stale", "priority": "high"},
                "routing": {"load_balancing": strategy},
                "timeout_ms": int(CALL_SECONDS * 1000),
            }
        )
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._window = Window()
        self._threads = [threading.Thread(target=self._work) for _ in range(WORKERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    async def next(self) -> Window:
        """The next answers."""
        with self._lock:
            window = self._window = Window()

        async def enough() -> bool:
            return len(window.seconds) >= ANSWERS

        await eventually(enough, ANSWERS_SECONDS, f"only {len(window.seconds)} answers")
        with self._lock:
            self._window = Window()
        return window

    def _work(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2 * CALL_SECONDS)
        while not self._stop.wait(PAUSE_SECONDS):
            begun = time.monotonic()
            connection.request("POST", "/v1/query", self._body)
            response = connection.getresponse()
            answer = response.read()
            with self._lock:
                self._window.seconds.append(time.monotonic() - begun)
                if response.status == 200:
                    self._window.served[json.loads(answer)["served_by"]] += 1
                else:
                    self._window.failures.append(answer.decode())
        connection.close()


@dataclass(frozen=True)
class Places:
    """Ids of the nodes: `own` is asked, the link to `slow` is delayed, to `broken` it breaks."""

    own: str
    slow: str
    broken: str


@asynccontextmanager
async def three_replicas(folder: Path) -> AsyncIterator[tuple[FaultCluster, Places]]:
    async with FaultCluster(folder, network=Proxied()) as cluster, showing_logs(cluster):
        leader = await cluster.wait_leader()
        async with cluster.client() as client:
            await client.create_collection("default", "c", "text")
        for index in range(3):
            await until_there(cluster, index)
        # The leader is asked: its quorum is the slow one, whatever the other link does.
        others = [index for index in range(3) if index != leader]
        names = [cluster.plan.nodes[index].id for index in (leader, *others)]
        yield cluster, Places(*names)


async def until_there(cluster: FaultCluster, index: int) -> None:
    """A stale read at a replica may say that there is no collection yet."""

    async def there() -> bool:
        async with cluster.client(index) as client:
            try:
                await client.query("default", "c", "text_count", consistency="stale")
            except NotFound:
                return False
            return True

    await eventually(there, RETURN_SECONDS, "the collection is not everywhere")


def name(cluster: FaultCluster, node: str) -> str:
    return cluster.name(cluster.index(node))


async def breaking(cluster: FaultCluster, places: Places) -> None:
    while True:
        cluster.links.reset(name(cluster, places.own), name(cluster, places.broken))
        await asyncio.sleep(RESET_SECONDS)


def figures(cluster: FaultCluster, places: Places) -> dict[str, dict[str, object]]:
    port = cluster.plan.nodes[cluster.index(places.own)].http_port
    status, body = local_cluster.get(port, "/v1/replicas", {})
    assert status == 200
    return {each["node"]: each for each in json.loads(body)["items"]}


def failures(cluster: FaultCluster, places: Places) -> int:
    found = figures(cluster, places).get(places.broken, {})
    return int(str(found.get("failures", 0)))


async def quick_again(cluster: FaultCluster, places: Places) -> bool:
    """Is an answer expected there sooner than the delay alone took?"""
    found = await asyncio.to_thread(figures, cluster, places)
    both = [found[node] for node in (places.slow, places.broken)]
    return all(
        each["breaker"] == "closed" and float(str(each["latency_ms"])) < 2_000 * DELAY_SECONDS / 2
        for each in both
    )


Shares = Callable[[Window, Places], bool]


def in_turn(window: Window, places: Places) -> bool:
    """Everybody is asked about as often."""
    return all(0.2 < window.share(node) < 0.5 for node in (places.own, places.slow, places.broken))


def slow_is_not_broken(window: Window, places: Places) -> bool:
    return window.share(places.slow) > 0.2 and window.share(places.broken) < 0.25


def both_are_left_aside(window: Window, places: Places) -> bool:
    return window.share(places.slow) < 0.2 and window.share(places.broken) < 0.25


def the_sooner_of_two(window: Window, places: Places) -> bool:
    """A quarter is left to the slow one of two replicas: where both that are drawn are it."""
    return window.share(places.slow) < 0.4 * window.share(places.own) + 0.1


def everybody_is_asked(window: Window, places: Places) -> bool:
    return min(window.share(node) for node in (places.own, places.slow, places.broken)) > 0.06


def own_alone(window: Window, places: Places) -> bool:
    return window.share(places.own) == 1


# Strategy → who is asked while all are well, who while two are not.
EXPECTED: dict[str, tuple[Shares, Shares]] = {
    "round_robin": (in_turn, slow_is_not_broken),
    "least_loaded": (everybody_is_asked, both_are_left_aside),
    "performance_based": (everybody_is_asked, the_sooner_of_two),
    "capability_based": (own_alone, own_alone),
}


async def test_traffic_leaves_a_slow_and_a_broken_replica_and_returns(tmp_path: Path) -> None:
    async with three_replicas(tmp_path) as (cluster, places):
        for strategy in EXPECTED:
            await one_strategy(cluster, places, strategy)


async def one_strategy(cluster: FaultCluster, places: Places, strategy: str) -> None:
    healthy, faulty = EXPECTED[strategy]
    port = cluster.plan.nodes[cluster.index(places.own)].http_port
    with Load(port, strategy) as load:
        await until(load, places, strategy, "healthy", healthy)
        before = failures(cluster, places)
        own, slow = name(cluster, places.own), name(cluster, places.slow)
        cluster.links.slow(own, slow, delay_seconds=DELAY_SECONDS)
        cluster.tend(breaking(cluster, places))
        window = await until(load, places, strategy, "faulty", faulty, FAULTY_WINDOWS_MAX)
        # The faults were there: the slow one took its time, the other one failed.
        if strategy != "capability_based":
            assert failures(cluster, places) > before
        if strategy == "round_robin":
            assert window.p99_ms() > 2_000 * DELAY_SECONDS
        await cluster.leave()
        cluster.links.heal()
        await until(load, places, strategy, "healed", healthy)
        if strategy != "capability_based":
            await eventually(
                lambda: quick_again(cluster, places), RETURN_SECONDS, "the slow one is still slow"
            )


async def until(
    load: Load,
    places: Places,
    strategy: str,
    phase: str,
    shares: Shares,
    windows_max: int | None = None,
) -> Window:
    """The first window in which the traffic is as it shall be; `windows_max`: among so many."""
    windows: list[Window] = []

    async def reached() -> bool:
        windows.append(await load.next())
        show(windows[-1], places, strategy, phase)
        assert not windows[-1].failures
        fits = shares(windows[-1], places)
        assert fits or len(windows) != windows_max, (strategy, windows[-1].served, places)
        return fits

    await eventually(reached, RETURN_SECONDS, f"{strategy}: not as expected when {phase}")
    return windows[-1]


def show(window: Window, places: Places, strategy: str, phase: str) -> None:
    shares = "  ".join(
        f"{each} {window.share(node):4.0%}"
        for each, node in (
            ("own", places.own), ("slow", places.slow), ("broken", places.broken),
        )
    )  # fmt: skip
    count = window.served.total()
    print(f"{strategy:18s} {phase:8s} p99 {window.p99_ms():6.1f} ms  {shares}  of {count}")
