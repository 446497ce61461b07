"""One node of a cluster with partitions, whose groups are what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import PeerUnreachable
from cluster.interfaces import Role
from cluster.membership import Configuration, Member
from cluster.partition_map import Partition, PartitionMap
from node import partitions as module
from node.clock import SystemClock
from node.datadir import DataDir
from node.errors import Unavailable
from node.partitions import Partitions
from tests.unit.member_group import IDS

CLUSTER = "10000000-0000-4000-8000-000000000000"
SELF = IDS[1]


def members(index: int, *voters: str, learners: tuple[str, ...] = ()) -> Configuration:
    found = [*(Member(node) for node in voters), *(Member(node, False) for node in learners)]
    return Configuration(index, tuple(sorted(found)))


def map_of(epoch: int, *replicas: tuple[str, ...], founders: tuple[str, ...] = ()) -> PartitionMap:
    """Partitions 1, 2, …, founded where they are unless `founders` are named."""
    return PartitionMap(
        epoch,
        3,
        tuple(
            Partition(number, founders or nodes, nodes) for number, nodes in enumerate(replicas, 1)
        ),
    )


class Group:
    """What `Partitions` needs of a Raft group."""

    def __init__(self, found: Configuration) -> None:
        self.found = found
        self.leader: str | None = None
        self.halted = False

    def configuration(self) -> Configuration:
        return self.found

    def role(self) -> Role:
        return Role("follower", self.leader, 1)

    def halt(self) -> None:
        self.halted = True


class ScriptedReplica:
    """A replica with a folder. `logs`: what the log in a folder names, by group."""

    logs: dict[int, Configuration]
    made: list[ScriptedReplica]

    def __init__(
        self,
        group: int,
        shared: Any,
        bootstrap: Configuration,
        fail: Callable[[BaseException], None],
        wanted: Callable[[], bool],
    ) -> None:
        self.id = group
        self.bootstrap = bootstrap
        self.fail = fail
        self.wanted = wanted
        self.group = Group(self.logs.get(group, bootstrap))
        self.forwarder = self
        self.answers: dict[str, Configuration] = {}  # by peer: its newest committed members
        self.asked: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None  # happens while peers are asked
        self.events: list[str] = []
        self.folder: Path = shared.data_dir.log_path(group)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made.append(self)

    @property
    def votes(self) -> bool:
        return SELF in self.group.configuration().voters

    async def committed_members(self, peer: str, timeout_seconds: float) -> Configuration:
        self.asked.append(peer)
        await asyncio.sleep(0)
        self.meanwhile()
        if peer not in self.answers:
            raise PeerUnreachable("away", definite=True)
        return self.answers[peer]

    async def start(self) -> None:
        self.events.append("start")

    async def stop(self) -> None:
        assert self.group.halted, "it still acknowledged while it was being stopped"
        self.events.append("stop")

    def close(self, *, keep: bool) -> None:
        assert self.folder.exists(), "deleted before it was closed"
        self.events.append("close" if keep else "close to delete")


class Clock(SystemClock):
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class OneNode:
    """Node 1 of five; the first three founded every partition unless a test says otherwise."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.data_dir = DataDir.open(
            folder, node_id=SELF, cluster_id=CLUSTER, name="node1", clock=self.clock
        )
        self.failures: list[BaseException] = []
        config = SimpleNamespace(
            node=SimpleNamespace(id=SELF), cluster=SimpleNamespace(partitions=2)
        )
        self._shared = SimpleNamespace(
            config=config, clock=self.clock, data_dir=self.data_dir, fail=self.failures.append
        )
        self.confirmed: list[PartitionMap | None] = []  # what a quorum shows; empty: none answers
        self.logs: dict[int, Configuration] = {}
        self.made: list[ScriptedReplica] = []
        patch.setattr(ScriptedReplica, "logs", self.logs, raising=False)
        patch.setattr(ScriptedReplica, "made", self.made, raising=False)
        patch.setattr(module, "Replica", ScriptedReplica)
        self._system = SimpleNamespace(
            machine=None,
            readers=None,
            router=self,
            group=Group(members(3, *IDS[1:6])),
        )
        self.start_again()

    def start_again(self) -> None:
        """The process ends and is started anew."""
        self.made.clear()
        system: Any = self._system
        shared: Any = self._shared
        self.partitions = Partitions(shared, system)
        self.state = SimpleNamespace(map=None, refresh=lambda: True)
        self.partitions.state = self.state  # type: ignore[assignment]

    async def barrier(self, options: object, deadline: float) -> None:
        """Of the system group."""
        if not self.confirmed:
            raise Unavailable("nobody leads")
        self.state.map = self.confirmed.pop(0)

    def held(self) -> list[int]:
        return [replica.id for replica in self.partitions.data()]

    def folders(self) -> list[int]:
        return self.data_dir.groups()
