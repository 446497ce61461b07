"""Which nodes should hold which partition. Pure: same input, same output.

What is better, most important first:

1. Every partition has min(replication factor, usable nodes) replicas, none of them on a node
   that drains or is lost.
2. Replicas of one partition share as few failure domains as possible.
3. Nodes have the same number of replicas, give or take one, as far as 2. allows.
4. Few replicas move.
5. Nodes have the same load, where all else is equal: load alone moves nothing.

What must happen comes first and alone. A map with replicas to add or to take away gets just
those, so that draining a node moves nothing but what it held; only a map that lacks nothing
is improved (2. and 3.), and that is given up by the next call, should it still be worth it.

A node that is dead for a while keeps what it has and gets nothing, except where there is no
other node to give it to: its replicas come back with it. Who is *lost* is decided elsewhere,
by an operator or a long timeout.

Improving for 3. goes along paths: a replica moves from the fullest node to an emptier one, if
need be by way of others, the shortest way first. Without failure domains one step is always
enough, since the fuller of two nodes holds a partition that the other does not; so the number
of moves is the least that balances. With domains that form a tree (zone above rack), taking
the best single step for 2. is optimal as well (the objective is M-convex); for domains that
overlap otherwise it is a good answer, not the best.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from cluster import partition_map
from cluster.errors import InvalidPartitionMap
from cluster.partition_map import REPLICATION_FACTOR_MAX, PartitionMap
from cluster.slots import PARTITIONS_MAX

NODES_MAX = 128  # that can be placed on; the search grows with their square


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What placement knows of one node."""

    id: str
    labels: tuple[str, ...] = ()  # failure domains it is in, as ("zone=x", "rack=a")
    draining: bool = False  # its replicas are to go elsewhere
    alive: bool = True
    lost: bool = False  # given up: it will not come back with what it holds
    load: Mapping[int, int] = field(default_factory=dict)  # partition → keys or bytes

    @property
    def usable(self) -> bool:
        return not self.draining and not self.lost


def place(nodes: Iterable[NodeFacts], partitions: int, replication_factor: int) -> PartitionMap:
    """The first map of a cluster.

    Raises InvalidPartitionMap (fields `nodes`, `partitions`, `replication_factor`).
    """
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise InvalidPartitionMap(f"must be 1..{PARTITIONS_MAX}, not {partitions}", "partitions")
    plan = _Plan(_by_id(nodes), dict.fromkeys(range(1, partitions + 1), ()))
    if not plan.nodes:
        raise InvalidPartitionMap("none of them can hold a replica", "nodes")
    plan.complete(_factor(replication_factor))
    plan.improve()
    return partition_map.first(
        replication_factor, [plan.replicas[each] for each in sorted(plan.replicas)]
    )


def rebalance(
    nodes: Iterable[NodeFacts], current: PartitionMap, replication_factor: int | None = None
) -> PartitionMap | None:
    """The next map; None if nothing is to be improved, or no node is usable.

    `nodes`: all of the cluster; one that is not among them is gone. Repeated with what it
    returns it ends in None, mostly after one more call. `replication_factor`: a new one.

    Raises InvalidPartitionMap.
    """
    factor = current.replication_factor
    if replication_factor is not None:
        factor = _factor(replication_factor)
    plan = _Plan(_by_id(nodes), {each.id: each.replicas for each in current.partitions})
    if not plan.nodes:
        return None
    if plan.drop(factor) | plan.complete(factor):
        plan.pin()
    plan.improve()
    if factor == current.replication_factor and not plan.moves:
        return None
    return partition_map.successor(current, factor, plan.replicas)


def _factor(replication_factor: int) -> int:
    if not 1 <= replication_factor <= REPLICATION_FACTOR_MAX:
        raise InvalidPartitionMap(
            f"must be 1..{REPLICATION_FACTOR_MAX}, not {replication_factor}", "replication_factor"
        )
    return replication_factor


def _by_id(nodes: Iterable[NodeFacts]) -> dict[str, NodeFacts]:
    listed = sorted(nodes, key=lambda node: node.id)
    found = {node.id: node for node in listed}
    if len(found) < len(listed):
        raise InvalidPartitionMap("one is listed twice", "nodes")
    if len(found) > NODES_MAX:
        raise InvalidPartitionMap(f"at most {NODES_MAX} can be placed on", "nodes")
    return found


class _Plan:
    """A map while it is being changed.

    Invariants: `count` and `weight` agree with `replicas`; a replica on a node that is not in
    `nodes` is there only until `drop`.
    """

    def __init__(
        self, facts: Mapping[str, NodeFacts], replicas: Mapping[int, tuple[str, ...]]
    ) -> None:
        self.nodes = {node: each for node, each in facts.items() if each.usable}
        self.before = {each: frozenset(held) for each, held in replicas.items()}
        self.replicas = {each: set(held) for each, held in replicas.items()}
        self._load = {
            each: max((node.load.get(each, 0) for node in facts.values()), default=0)
            for each in replicas
        }
        self.count = dict.fromkeys(self.nodes, 0)
        self.weight = dict.fromkeys(self.nodes, 0)
        self._pinned: dict[int, frozenset[str]] = dict.fromkeys(replicas, frozenset())
        self._labels = {node: frozenset(each.labels) for node, each in self.nodes.items()}
        self._together: dict[frozenset[str], int] = {}  # two nodes → partitions on both
        for partition, held in self.replicas.items():
            for node in held & self.nodes.keys():
                self.count[node] += 1
                self.weight[node] += self._load[partition]
            for pair in combinations(sorted(held), 2):
                self._meet(*pair, 1)

    @property
    def moves(self) -> int:
        """Replicas that come or go."""
        return sum(len(self.replicas[each] ^ held) for each, held in self.before.items())

    # --- What must be ------------------------------------------------------------

    def drop(self, factor: int) -> bool:
        """Take away what is on nodes that are not usable, and what is too much."""
        for partition, held in sorted(self.replicas.items()):
            for node in sorted(held - self.nodes.keys()):
                self._take(partition, node)
            while len(held) > factor:
                self._take(partition, max(held, key=lambda node: self._surplus(partition, node)))
        return self.moves > 0

    def _surplus(self, partition: int, node: str) -> tuple[bool, int, int, int, str]:
        return (
            not self.nodes[node].alive,
            self._shared(partition, node),
            self.count[node],
            self.weight[node],
            node,
        )

    def complete(self, factor: int) -> bool:
        """Add what is missing, the heaviest partitions first."""
        before = self.moves
        wanted = min(factor, len(self.nodes))
        for partition in sorted(self.replicas, key=lambda each: (-self._load[each], each)):
            held = self.replicas[partition]
            while len(held) < wanted:
                free = self.nodes.keys() - held
                self._put(partition, min(free, key=lambda node: self._need(partition, node)))
        return self.moves > before

    def _need(self, partition: int, node: str) -> tuple[bool, int, int, int, int, str]:
        """Pairs that meet seldom come first: then what a node held is spread over all."""
        met = sum(
            self._together.get(frozenset((node, other)), 0) for other in self.replicas[partition]
        )
        return (
            not self.nodes[node].alive,
            self._shared(partition, node),
            self.count[node],
            met,
            self.weight[node],
            node,
        )

    def pin(self) -> None:
        """From here on only replicas that are new may move."""
        self._pinned = self.before

    # --- What could be better ----------------------------------------------------

    def improve(self) -> None:
        """Fewer shared failure domains, then an even number of replicas."""
        for partition in sorted(self.replicas):
            while self._spread(partition):
                pass
        while self._even_out():
            pass

    def _spread(self, partition: int) -> bool:
        """The one best move of a partition to fewer shared failure domains."""
        best = min(
            (
                (self._change(partition, source, target), self.count[target],
                 -self.count[source], self.weight[target], source, target)
                for source in self._movable(partition)
                for target in self._targets(partition)
            ),
            default=None,
        )  # fmt: skip
        if best is None or best[0] >= 0:
            return False
        self._move(partition, best[4], best[5])
        return True

    def _even_out(self) -> bool:
        """Move one replica from a fuller node to one that has at least two less, along the
        shortest path that costs no failure domain."""
        alive = [node for node, facts in self.nodes.items() if facts.alive]
        for source in sorted(alive, key=lambda node: (-self.count[node], -self.weight[node], node)):
            path = self._path(source, alive)
            if path is not None and self._follow(path):
                return True
        return False

    def _path(self, source: str, alive: list[str]) -> list[str] | None:
        """Breadth first, emptiest nodes first."""
        order = sorted(alive, key=lambda node: (self.count[node], self.weight[node], node))
        if self.count[order[0]] > self.count[source] - 2:
            return None
        came_from = {source: source}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for target in order:
                if target in came_from:
                    continue
                if next(self._exchanges(node, target), None) is None:
                    continue
                came_from[target] = node
                if self.count[target] <= self.count[source] - 2:
                    return _walked(came_from, target)
                queue.append(target)
        return None

    def _follow(self, path: list[str]) -> bool:
        """Make the moves of a path. Where domains overlap freely, one move can make another
        impossible: then all are taken back."""
        made: list[tuple[int, str, str]] = []
        for source, target in pairwise(path):
            used = {partition for partition, _, _ in made}
            best = min(
                (
                    (partition in used, self._novelty(partition, source, target),
                     max(self.weight[source] - self._load[partition],
                         self.weight[target] + self._load[partition]), partition)
                    for partition in self._exchanges(source, target)
                ),
                default=None,
            )  # fmt: skip
            if best is None:
                for partition, came, went in reversed(made):
                    self._move(partition, went, came)
                return False
            self._move(best[3], source, target)
            made.append((best[3], source, target))
        return True

    def _exchanges(self, source: str, target: str) -> Iterator[int]:
        """Partitions that may go from one node to the other without sharing more domains."""
        return (
            partition
            for partition, held in self.replicas.items()
            if source in held
            and target not in held
            and source not in self._pinned[partition]
            and self._change(partition, source, target) <= 0
        )

    def _novelty(self, partition: int, source: str, target: str) -> int:
        """How many replicas more have to be copied."""
        return (target not in self.before[partition]) - (source not in self.before[partition])

    # --- Parts ----------------------------------------------------------------------

    def _movable(self, partition: int) -> list[str]:
        free = self.replicas[partition] - self._pinned[partition]
        return [node for node in sorted(free) if self.nodes[node].alive]

    def _targets(self, partition: int) -> list[str]:
        free = sorted(self.nodes.keys() - self.replicas[partition])
        return [node for node in free if self.nodes[node].alive]

    def _shared(self, partition: int, node: str, without: str = "") -> int:
        """Failure domains that a node shares with the other replicas, counted for each."""
        labels = self._labels.get(node)
        if not labels:
            return 0
        others = self.replicas[partition] - {node, without}
        return sum(len(labels & self._labels.get(other, frozenset())) for other in others)

    def _change(self, partition: int, source: str, target: str) -> int:
        """Shared failure domains more if a replica moves."""
        return self._shared(partition, target, source) - self._shared(partition, source)

    def _move(self, partition: int, source: str, target: str) -> None:
        self._take(partition, source)
        self._put(partition, target)

    def _put(self, partition: int, node: str) -> None:
        for other in self.replicas[partition]:
            self._meet(node, other, 1)
        self.replicas[partition].add(node)
        self.count[node] += 1
        self.weight[node] += self._load[partition]

    def _take(self, partition: int, node: str) -> None:
        self.replicas[partition].remove(node)
        for other in self.replicas[partition]:
            self._meet(node, other, -1)
        if node in self.nodes:
            self.count[node] -= 1
            self.weight[node] -= self._load[partition]

    def _meet(self, one: str, other: str, change: int) -> None:
        pair = frozenset((one, other))
        self._together[pair] = self._together.get(pair, 0) + change


def _walked(came_from: Mapping[str, str], end: str) -> list[str]:
    path = [end]
    while came_from[path[-1]] != path[-1]:
        path.append(came_from[path[-1]])
    return path[::-1]
