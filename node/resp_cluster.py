"""The cluster as Redis Cluster's clients know it: which node leads which slots.

A partition is a range of slots; its leader is their master, the other nodes that hold it are
replicas. Any node takes any command, so that a client that knows nothing of this, or something
old, is served as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from cluster.slots import SLOTS, slots_of
from node.clock import Clock
from node.overview import PartitionFacts, ReplicaFacts, Sight
from node.resp_actions import CommandError
from node.resp_reply import Reply
from node.views import ClusterView, NodeInfo

ASK_SECONDS: Final = 1.0  # for other nodes, each time
PICTURE_SECONDS_MAX: Final = 0.5  # how old the answer to a client may be, asking not counted


class Overview(Protocol):
    """Who holds and leads what; see `overview.py`."""

    async def gather(self, nodes: Iterable[str], timeout_seconds: float) -> Sight: ...

    def own(self) -> list[ReplicaFacts]: ...


class Shard(NamedTuple):
    """A range of slots, and the nodes that have it."""

    slots: range
    leader: str | None  # one that was heard of in person
    nodes: tuple[str, ...]  # with a vote; the leader first
    term: int
    applied: Mapping[str, int]  # log index by node


class Address(NamedTuple):
    """Where a node's Redis door is."""

    host: str
    port: int


class Picture(NamedTuple):
    view: ClusterView
    shards: tuple[Shard, ...]

    @property
    def addresses(self) -> dict[str, Address]:
        """Of the members that say where their Redis door is."""
        found = {}
        for member in self.view.nodes:
            host, colon, port = (member.redis or "").rpartition(":")
            if colon:
                found[member.id] = Address(host.strip("[]"), int(port))
        return found


class Pictures:
    """Asks the nodes, at most once at a time, and keeps the answer for a moment. Loop thread
    only."""

    def __init__(self, info: NodeInfo, partitions: int, overview: Overview, clock: Clock) -> None:
        self._info = info
        self._partitions = partitions
        self._overview = overview
        self._clock = clock
        self._picture: Picture | None = None
        self._taken = float("-inf")
        self._taking: asyncio.Task[Picture] | None = None

    async def get(self) -> Picture:
        old = self._clock.monotonic() - self._taken > PICTURE_SECONDS_MAX
        if self._picture is not None and not old:
            return self._picture
        if self._taking is None or self._taking.done():
            self._taking = asyncio.get_running_loop().create_task(self._take())
        # Who gives up must not take the answer from the others.
        return await asyncio.shield(self._taking)

    async def _take(self) -> Picture:
        view = await self._info.cluster_status(ASK_SECONDS)
        if self._partitions:
            awake = [member.id for member in view.nodes if member.role is not None]
            sight = await self._overview.gather(awake, ASK_SECONDS)
            shards = shards_of(sight, self._partitions)
        else:
            shards = (_only_shard(view),)
        self._picture = Picture(view, shards)
        self._taken = self._clock.monotonic()
        return self._picture


def shards_of(sight: Sight, partitions: int) -> tuple[Shard, ...]:
    """What the nodes said, by partition."""
    return tuple(
        _shard(slots_of(group, partitions), sight.partitions.get(group))
        for group in range(1, partitions + 1)
    )


def _shard(slots: range, facts: PartitionFacts | None) -> Shard:
    newest = facts.newest if facts is not None else None
    if facts is None or newest is None:
        return Shard(slots, None, (), 0, {})
    # Followers name a dead leader until they have another one.
    leader = newest.leader if newest.leader in facts.replicas else None
    known = facts.configuration
    voters = known.voters if known is not None else facts.replicas.keys()
    nodes = tuple(sorted(voters, key=lambda node: (node != leader, node)))
    applied = {node: each.applied_index for node, each in facts.replicas.items()}
    return Shard(slots, leader, nodes, newest.term, applied)


def _only_shard(view: ClusterView) -> Shard:
    """Without partitions one group has all slots."""
    nodes = sorted((member.id for member in view.nodes), key=lambda node: node != view.leader)
    applied = {member.id: member.applied_index or 0 for member in view.nodes}
    return Shard(range(SLOTS), view.leader, tuple(nodes), view.term, applied)


def redis_id(node: str) -> str:
    """Redis's node ids have 40 hexadecimal digits."""
    return node.replace("-", "").ljust(40, "0")


def describe_slots(picture: Picture) -> Reply:
    """CLUSTER SLOTS. Raises CommandError CLUSTERDOWN if nobody leads anything.

    Where only some partitions are without a leader, theirs are shown with those who hold them:
    each of them takes a command, and waits for the leader that they are about to elect. An
    error would keep cluster clients from all the others.
    """
    addresses, ranges = picture.addresses, []
    if not any(shard.leader in addresses for shard in picture.shards):
        raise CommandError("no leader is known", "CLUSTERDOWN")
    for shard in picture.shards:
        nodes: list[Reply] = [
            [*addresses[node], redis_id(node)] for node in shard.nodes if node in addresses
        ]
        if nodes:
            ranges.append([*_ends(shard.slots), *nodes])
    return ranges


def describe_shards(picture: Picture) -> Reply:
    """CLUSTER SHARDS."""
    addresses = picture.addresses
    healthy = {member.id for member in picture.view.nodes if member.healthy}

    def described(shard: Shard, node: str) -> Reply:
        host, port = addresses[node]
        return {
            "id": redis_id(node),
            "port": port,
            "ip": host,
            "endpoint": host,
            "role": "master" if node == shard.leader else "replica",
            "replication-offset": shard.applied.get(node),
            "health": "online" if node in healthy else "failed",
        }

    return [
        {
            "slots": _ends(shard.slots),
            "nodes": [described(shard, node) for node in shard.nodes if node in addresses],
        }
        for shard in picture.shards
    ]


def describe_nodes(picture: Picture, own: str) -> Reply:
    """CLUSTER NODES: each node once; who leads nothing is a replica of the first partition that
    it holds."""
    lines = []
    addresses, shards = picture.addresses, picture.shards
    members = {member.id: member for member in picture.view.nodes}
    for node in sorted(addresses, key=lambda node: not any(node == each.leader for each in shards)):
        led = [shard for shard in shards if shard.leader == node]
        held = [shard for shard in shards if node in shard.nodes]
        follows = bool(held) and not led
        of = next((shard.leader for shard in held if shard.leader), None) if follows else None
        flags = ("myself," if node == own else "") + ("slave" if follows else "master")
        epoch = max((shard.term for shard in led or held), default=0)
        state = "connected" if members[node].healthy else "disconnected"
        slots = "".join(" {}-{}".format(*_ends(shard.slots)) for shard in led)
        host, port = addresses[node]
        lines.append(
            f"{redis_id(node)} {host}:{port}@{port} {flags} {redis_id(of) if of else '-'} "
            f"0 0 {epoch} {state}{slots}\n"
        )
    return "".join(lines)


def describe_state(picture: Picture) -> Reply:
    """CLUSTER INFO."""
    led = sum(len(shard.slots) for shard in picture.shards if shard.leader is not None)
    leaders = {shard.leader for shard in picture.shards} - {None}
    figures = {
        "cluster_state": "ok" if led == SLOTS else "fail",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": led,
        "cluster_slots_fail": SLOTS - led,
        "cluster_known_nodes": len(picture.view.nodes),
        "cluster_size": len(leaders),
        "cluster_current_epoch": max(shard.term for shard in picture.shards),
    }
    return "".join(f"{name}:{value}\r\n" for name, value in figures.items())


def _ends(slots: range) -> list[int]:
    return [slots[0], slots[-1]]
