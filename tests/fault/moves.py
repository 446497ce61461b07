"""Nodes come and go under load, so that partitions move; optionally parties of a move die.

Three nodes become five, one after the other; one is drained, and taken back before it is
empty; and then they become four: one that was there from the start is removed. What clients
were told is judged as after every other fault (`judgement.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from node.client import HivememClient
from node.client_types import Partitions
from node.errors import HivememError, NotFound
from tests.cluster.harness import LocalCluster, eventually
from tests.fault.judgement import Judgement, judge
from tests.fault.rounds import let_pass
from tests.fault.workload import Record, Workload

SPREAD_SECONDS: Final = 120.0  # for all partitions to be where they should
CALM_SECONDS: Final = 3.0  # of load before, between and after
DOWN_SECONDS: Final = 1.0  # that a killed node stays down
REMOVED_SECONDS: Final = 30.0  # for a removed node to end
VIEW_MS: Final = 5_000
POLL_SECONDS: Final = 0.05


class Phase(NamedTuple):
    """A stretch of the run. Times are monotonic seconds."""

    name: str
    began: float
    ended: float
    moved: int  # replicas that came to a node
    kills: tuple[str, ...] = ()


@dataclass
class Moves:
    """One run. `kill`: kill -9 a leader, a learner, the system group's leader, and all nodes at
    once, while partitions move."""

    cluster: LocalCluster
    record: Record
    rate: float
    seed: int = 0
    kill: bool = False
    remove_leader: bool = False  # of the system group, rather than any of the first nodes
    calm_seconds: float = CALM_SECONDS
    more: int = 2  # nodes that are added
    redis: bool = True  # some of the work goes through the Redis doors
    phases: list[Phase] = field(default_factory=list)
    _gone: set[str] = field(default_factory=set)  # names of removed nodes

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._kills: list[str] = []
        self._leaving = ""
        self._settled = asyncio.Event()  # of the phase under way

    async def run(self) -> Judgement:
        """Raises TimeoutError, AssertionError: what must come to happen did not."""
        await self._spread()
        workload = Workload(
            self._endpoints(),
            self.record,
            seed=self.seed,
            ops_per_second=self.rate,
            redis=self._redis(),
        )
        async with workload:
            await workload.reach(100)
            await self._calm("before")
            for number in range(4, 4 + self.more):
                await self._phase(f"add node{number}", lambda n=number: self._add(f"node{n}"))
                workload.use(self._endpoints(), self._redis())
            await self._calm("spread")
            changing = f"node{3 + self.more}"
            await self._phase(f"drain {changing}, undo", lambda: self._drain_and_undo(changing))
            self._leaving = await self._who_leaves()
            await self._phase(f"remove {self._leaving}", lambda: self._remove(self._leaving))
            workload.use(self._endpoints(), self._redis())
            await self._calm("after")
        return await judge(self.record, self._endpoints())

    # --- Phases --------------------------------------------------------------------

    async def _calm(self, name: str) -> None:
        began = time.monotonic()
        await let_pass(self.calm_seconds)
        self.phases.append(Phase(name, began, time.monotonic(), 0))

    async def _phase(self, name: str, change: Callable[[], Awaitable[None]]) -> None:
        """Until everything is where it should be."""
        before = _held(await self._spread())
        began = time.monotonic()
        self._kills = []
        async with self._striking():
            await change()
            await self._spread()
        await self._all_up()
        moved = len(_held(await self._spread()) - before)
        self.phases.append(Phase(name, began, time.monotonic(), moved, tuple(self._kills)))

    async def _add(self, name: str) -> None:
        index = await self.cluster.newcomer(name)
        node = self.cluster.nodes[index]
        async with self._client() as client:

            async def votes() -> bool:
                with contextlib.suppress(HivememError):  # nodes die meanwhile: it is repeated
                    found = await client.add_member(node.id, node.name, node.peer, node.http)
                    return any(
                        each["id"] == node.id and each["role"] == "voter"
                        for each in found["members"]
                    )
                return False

            await eventually(votes, SPREAD_SECONDS, f"{name} has no vote")

    async def _drain_and_undo(self, name: str) -> None:
        """Partitions leave a node, and come back while others still leave."""
        node = self.cluster.nodes[self.cluster.index(name)]
        async with self._client() as client:

            async def drained() -> bool:
                with contextlib.suppress(HivememError):
                    await client.drain_member(node.id)
                    found = [
                        one["wanted"]
                        for each in (await client.partitions())["partitions"]
                        for one in each["replicas"]
                        if one["node"] == node.id
                    ]
                    return not all(found) or not found  # some are on their way, or all left
                return False

            async def undone() -> bool:
                with contextlib.suppress(HivememError):
                    await client.drain_member(node.id, draining=False)
                    return True
                return False

            await eventually(drained, SPREAD_SECONDS, f"nothing leaves {name}")
            await let_pass(self.calm_seconds)
            await eventually(undone, SPREAD_SECONDS, f"{name} drains for ever")

    async def _who_leaves(self) -> str:
        """Name of the node that is to be removed."""
        if self.remove_leader:
            return self.cluster.nodes[await self.cluster.wait_leader()].name
        return self.cluster.nodes[self._rng.randrange(3)].name

    async def _remove(self, name: str) -> None:
        index = self.cluster.index(name)
        node = self.cluster.nodes[index]
        async with self._client() as client:

            async def removed() -> bool:
                try:
                    await client.remove_member(node.id)
                except NotFound:
                    return True
                except HivememError:
                    return False
                return True

            await eventually(removed, SPREAD_SECONDS, f"{name} is still a member")
        self._gone.add(name)

    async def _all_up(self) -> None:
        """Members run and are ready; who was removed has ended."""
        for index, node in enumerate(self.cluster.nodes):
            if node.name not in self._gone:
                await self.cluster.wait_ready(index)
            elif node.pid is not None:
                await self._ended(index)

    async def _ended(self, index: int) -> None:
        """One that was down while it was removed is not told: its peers refuse it."""
        name = self.cluster.nodes[index].name
        if any(name in kill for kill in self._kills):
            await self.cluster.kill(index)
            return
        code = await self.cluster.ended(index, REMOVED_SECONDS)
        assert code == 0, f"{name} ended with {code}"

    async def _spread(self) -> Partitions:
        """Where every partition is, once it is where it should be and nothing is to move."""
        found: list[Partitions] = []
        last = ["nobody says where the partitions are"]
        async with self._client() as client:

            async def settled() -> bool:
                try:
                    view = await client.partitions()
                except HivememError as error:
                    last[0] = str(error)
                    return False
                last[0] = str(view["progress"])
                found[:] = [view]
                return _settled(view)

            try:
                await eventually(settled, SPREAD_SECONDS, "the partitions are not spread")
            except TimeoutError as error:
                raise TimeoutError(f"{error}: {last[0]}") from None
        return found[0]

    # --- Kills ---------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _striking(self) -> AsyncIterator[None]:
        """While it lasts, each party is killed once, in any order."""
        self._settled.clear()
        task = asyncio.create_task(self._strike_all()) if self.kill else None
        try:
            yield
        finally:
            self._settled.set()
            if task is not None:
                await task

    async def _strike_all(self) -> None:
        kinds = ["leader", "learner", "system leader", "all"]
        self._rng.shuffle(kinds)
        for kind in kinds:
            index = await self._victim("leader" if kind == "all" else kind)
            if index is None:
                return
            victims = self._members() if kind == "all" else [index]
            for victim in victims:
                await self.cluster.kill(victim)
            names = "" if kind == "all" else f" ({self.cluster.nodes[index].name})"
            self._kills.append(f"{kind}{names}")
            await let_pass(DOWN_SECONDS)
            for victim in victims:
                await self.cluster.restart(victim, ready=False)
            for victim in victims:  # one at a time: two may be a majority
                if self.cluster.nodes[victim].name != self._leaving:
                    await self.cluster.wait_ready(victim)

    def _members(self) -> list[int]:
        """The nodes that run."""
        return [index for index, node in enumerate(self.cluster.nodes) if node.pid is not None]

    async def _victim(self, kind: str) -> int | None:
        """A node with that part in a move that is under way; None: all have ended."""
        while not self._settled.is_set():
            await asyncio.sleep(POLL_SECONDS)
            with contextlib.suppress(HivememError):
                async with self._client() as client:
                    found = _parties(await client.partitions())
                if kind == "system leader":
                    if found["leader"]:
                        return await self.cluster.leader()
                    continue
                for index, node in enumerate(self.cluster.nodes):
                    if node.id in found[kind] and node.pid is not None:
                        return index
        return None

    # --- Parts ----------------------------------------------------------------------

    def _endpoints(self) -> list[str]:
        return [node.http for node in self.cluster.nodes if node.name not in self._gone]

    def _redis(self) -> list[tuple[str, int]] | None:
        found = zip(self.cluster.nodes, self.cluster.redis_addresses, strict=True)
        return [each for node, each in found if node.name not in self._gone] if self.redis else None

    def _client(self) -> HivememClient:
        return HivememClient(self._endpoints(), timeout_ms=VIEW_MS, follow=False)


def _held(view: Partitions) -> set[tuple[int, str]]:
    """(partition, node id) of each replica."""
    return {(each["id"], one["node"]) for each in view["partitions"] for one in each["replicas"]}


def _settled(view: Partitions) -> bool:
    """All partitions are where they should, and that is evenly over the nodes that stay."""
    progress = view["progress"]
    if progress is None or progress["partitions_done"] < progress["partitions_total"]:
        return False
    if any(each["leader"] is None for each in view["partitions"]):
        return False
    if any(each["removing"] or not each["answering"] for each in view["nodes"]):
        return False
    counts = [each["replicas"] for each in view["nodes"] if not each["draining"]]
    return max(counts) - min(counts) <= 1


def _parties(view: Partitions) -> dict[str, set[str]]:
    """Ids of the nodes that lead, or learn, a partition that is being moved."""
    leaders, learners = set(), set()
    for each in view["partitions"]:
        replicas = each["replicas"]
        if {one["node"] for one in replicas if one["role"] != "learner"} == set(each["target"]):
            continue
        learners |= {one["node"] for one in replicas if one["role"] == "learner"}
        if each["leader"] is not None:
            leaders.add(each["leader"])
    return {"leader": leaders, "learner": learners}
