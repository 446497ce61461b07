"""Where each partition is and who leads it, gathered by asking every node.

Each node answers for the replicas that it holds; nobody answers for others. A partition's
leader and members are those that its newest leader names: highest term first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import ClusterError
from cluster.membership import Configuration, Member
from cluster.transport import Transport
from node.replica import Replica

REPLICAS = 17  # method of a call; those of one group are in forward.py


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One group on one node, as that node says. Indexes are log indexes."""

    node: str
    group: int
    role: str  # leader | follower | candidate
    leader: str | None
    term: int
    last_index: int
    commit_index: int
    applied_index: int
    revision: int
    keys: int | None  # None: the state is damaged, and is not answered from now
    value_bytes: int | None
    configuration: Configuration
    committed: bool  # is that configuration


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition as its replicas say."""

    group: int
    replicas: Mapping[str, ReplicaFacts]  # by node id

    @property
    def newest(self) -> ReplicaFacts | None:
        """Of the replica that knows most: a leader before others, the newest term first."""
        return max(
            self.replicas.values(),
            key=lambda each: (each.term, each.role == "leader", each.configuration.index),
            default=None,
        )

    @property
    def leader(self) -> str | None:
        """Who leads, as that replica says."""
        found = self.newest
        return None if found is None else found.leader

    @property
    def configuration(self) -> Configuration | None:
        """The members, as that replica says; None while no log names any."""
        found = self.newest
        return None if found is None or not found.configuration.index else found.configuration


@dataclass(frozen=True, slots=True)
class Sight:
    """What the nodes said when they were last asked."""

    answered: frozenset[str]  # node ids
    partitions: Mapping[int, PartitionFacts] = field(default_factory=dict)  # by group


class Overview:
    """Both ends of the question on one node. Loop thread only."""

    def __init__(
        self, self_id: str, transport: Transport, here: Callable[[], Iterable[Replica]]
    ) -> None:
        """`here`: the replicas of this node."""
        self._self_id = self_id
        self._transport = transport
        self._here = here
        transport.on_call(REPLICAS, self._answer)

    async def gather(self, nodes: Iterable[str], timeout_seconds: float) -> Sight:
        """Ask these nodes at once; who does not answer in time is left out."""
        asked = [node for node in sorted(nodes) if node != self._self_id]
        answers = await asyncio.gather(*(self._ask(node, timeout_seconds) for node in asked))
        said: dict[str, list[ReplicaFacts]] = {self._self_id: self.own()}
        said |= {
            node: found for node, found in zip(asked, answers, strict=True) if found is not None
        }
        groups: dict[int, dict[str, ReplicaFacts]] = {}
        for node, found in said.items():
            for facts in found:
                groups.setdefault(facts.group, {})[node] = facts
        partitions = {group: PartitionFacts(group, facts) for group, facts in groups.items()}
        return Sight(frozenset(said), partitions)

    def own(self) -> list[ReplicaFacts]:
        """What this node says."""
        return [self._facts(replica) for replica in self._here()]

    def _facts(self, replica: Replica) -> ReplicaFacts:
        status, stats = replica.group.status(), replica.quarantine.stats()
        return ReplicaFacts(
            node=self._self_id,
            group=replica.id,
            role=status.role,
            leader=status.leader,
            term=status.term,
            last_index=status.last_index,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            revision=replica.machine.revision,
            keys=stats.keys if stats else None,
            value_bytes=stats.value_bytes if stats else None,
            configuration=status.configuration,
            committed=status.configuration.index <= status.commit_index,
        )

    def _answer(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(json.dumps([_encoded(facts) for facts in self.own()]).encode())
        return future

    async def _ask(self, node: str, timeout_seconds: float) -> list[ReplicaFacts] | None:
        with contextlib.suppress(ClusterError):
            answer = await self._transport.call(node, REPLICAS, b"", timeout_seconds)
            return [_decoded(node, fields) for fields in json.loads(answer)]
        return None


_PLAIN = (
    "group", "role", "leader", "term", "last_index", "commit_index", "applied_index", "revision",
    "keys", "value_bytes", "committed",
)  # fmt: skip


def _encoded(facts: ReplicaFacts) -> dict[str, Any]:
    fields = {name: getattr(facts, name) for name in _PLAIN}
    members = [list(member) for member in facts.configuration.members]
    return {**fields, "configuration": [facts.configuration.index, members]}


def _decoded(node: str, fields: dict[str, Any]) -> ReplicaFacts:
    index, members = fields["configuration"]
    configuration = Configuration(index, tuple(Member(*row) for row in members))
    plain = {name: fields[name] for name in _PLAIN}
    return ReplicaFacts(node=node, configuration=configuration, **plain)
