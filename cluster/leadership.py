"""Who should lead which partition, so that leaders are spread evenly. Pure.

A leader does more than a follower, so each node should lead as many partitions as any other,
give or take one, as far as replicas allow. That is an optimal semi-matching of partitions and
nodes: one is reached when no path of transfers leads from a node to one that leads at least
two less (Harvey, Ladner, Lovász and Tamir 2006). Shortest paths first, so few transfers; an
even spread gives none, however it came about.

Partitions that are being moved are counted and left alone: a learner would have to begin its
copy again from another leader, and the move hands over by itself (`moves.py`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import pairwise

from cluster.membership import Configuration
from cluster.moves import Step, TransferLeadership
from cluster.partition_map import PartitionMap
from cluster.placement import NodeFacts

_HUB = ""  # no node's id


def leader_transfers(
    partition_map: PartitionMap,
    configurations: Mapping[int, Configuration],
    leaders: Mapping[int, str],
    nodes: Iterable[NodeFacts],
) -> list[Step]:
    """Transfers to an even spread, by partition; the caller decides how many at once.

    `leaders`: node id by partition; a partition whose leader is unknown or dead elects one
    itself. Nodes that drain, are dead or lost are no targets; those that drain hand over.
    """
    facts = {node.id: node for node in nodes}
    fit = {node for node, each in facts.items() if each.alive and each.usable}
    led = {
        partition: leader
        for partition, leader in sorted(leaders.items())
        if leader in facts and facts[leader].alive
    }
    choices: dict[int, frozenset[str]] = {}
    for partition in partition_map.partitions:
        found = configurations.get(partition.id)
        wanted = frozenset(partition.replicas)
        if partition.id in led and found is not None and found.ids == found.voters == wanted:
            choices[partition.id] = wanted & fit
    spread = _Spread(led, choices, fit)
    spread.leave_unfit()
    while spread.even_out():
        pass
    while spread.undo():
        pass
    return [
        Step(
            partition,
            led[partition],
            configurations[partition].index,
            TransferLeadership(target),
        )
        for partition, target in spread.leaders.items()
        if target != led[partition]
    ]


class _Spread:
    """Leaders while they are spread. Invariant: `count` agrees with `leaders`."""

    def __init__(
        self, led: Mapping[int, str], choices: Mapping[int, frozenset[str]], fit: set[str]
    ) -> None:
        self.leaders = dict(led)
        self.count = Counter(led.values())
        self._before = led
        self._choices = choices
        self._fit = sorted(fit)

    def leave_unfit(self) -> None:
        """Nodes that may not lead hand over, first what has the fewest choices."""
        for partition in sorted(self._choices, key=lambda each: (len(self._choices[each]), each)):
            if self.leaders[partition] not in self._fit and self._choices[partition]:
                self._hand(partition, min(self._choices[partition], key=self._order))

    def even_out(self) -> bool:
        """One partition less for a node that leads at least two more than another."""
        order = sorted(self._fit, key=self._order)
        takers: dict[str, set[str]] = {node: set() for node in order}
        for partition, choices in self._choices.items():
            if self.leaders[partition] in takers:
                takers[self.leaders[partition]] |= choices
        for source in reversed(order):
            path = self._path(source, order, takers)
            if path is not None:
                # From its end: each node hands on one of those that it had before.
                for giver, taker in reversed(list(pairwise(path))):
                    self._hand(self._exchange(giver, taker), taker)
                return True
        return False

    def _path(
        self, source: str, order: list[str], takers: Mapping[str, set[str]]
    ) -> list[str] | None:
        """Breadth first, to the nodes that lead least."""
        if self.count[order[0]] > self.count[source] - 2:
            return None
        came_from = {source: source}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for target in order:
                if target in came_from or target not in takers[node]:
                    continue
                came_from[target] = node
                if self.count[target] <= self.count[source] - 2:
                    path = [target]
                    while path[-1] != source:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                queue.append(target)
        return None

    def undo(self) -> bool:
        """Fewer transfers with leaders as even as before.

        Finds a negative cycle in the graph of nodes (Bellman and Ford). An edge costs the
        transfers that it adds; by way of the hub, one node ends with more and one with less,
        and it costs what that does to the squares of the counts.
        """
        edges = self._edges()
        nodes = [_HUB, *self._fit]
        cost = dict.fromkeys(nodes, 0)
        came_from: dict[str, str] = {}
        changed: str | None = None
        for _ in nodes:
            changed = None
            for (giver, taker), price in edges.items():
                if cost[giver] + price < cost[taker]:
                    cost[taker] = cost[giver] + price
                    came_from[taker] = giver
                    changed = taker
            if changed is None:
                return False
        assert changed is not None
        for _ in nodes:  # after so many steps back it is on the cycle
            changed = came_from[changed]
        hands: list[tuple[str, str]] = []
        taker = changed
        while not hands or taker != changed:
            hands.append((came_from[taker], taker))
            taker = came_from[taker]
        exchanges = [
            (self._exchange(giver, taker), taker)
            for giver, taker in hands
            if _HUB not in (giver, taker)
        ]
        for partition, taker in exchanges:
            self._hand(partition, taker)
        return True

    def _edges(self) -> dict[tuple[str, str], int]:
        """(giver, taker) → price of handing over the best partition."""
        edges: dict[tuple[str, str], int] = {}
        for partition, choices in self._choices.items():
            giver, before = self.leaders[partition], self._before[partition]
            if giver in self._fit:
                for taker in sorted(choices - {giver}):  # the order of a set is chance
                    price = (taker != before) - (giver != before)
                    edges[giver, taker] = min(price, edges.get((giver, taker), price))
        dear = len(self.leaders) + 1  # than all transfers together
        for node in self._fit:
            edges[node, _HUB] = dear * (2 * self.count[node] + 1)
            edges[_HUB, node] = -dear * (2 * self.count[node] - 1)
        return edges

    def _exchange(self, giver: str, taker: str) -> int:
        """The partition to hand from one to the other, best one that moves anyway; 0: none."""
        found = [
            ((taker != self._before[partition]) - (giver != self._before[partition]), partition)
            for partition, choices in self._choices.items()
            if self.leaders[partition] == giver and taker in choices
        ]
        return min(found)[1] if found else 0

    def _order(self, node: str) -> tuple[int, str]:
        return self.count[node], node

    def _hand(self, partition: int, taker: str) -> None:
        self.count[self.leaders[partition]] -= 1
        self.leaders[partition] = taker
        self.count[taker] += 1
