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
        for source in sorted(self._fit, key=self._order, reverse=True):
            path = self._path(source)
            if path is not None:
                # From its end: each node hands on one of those that it had before.
                for giver, taker in reversed(list(pairwise(path))):
                    self._hand(self._exchange(giver, taker), taker)
                return True
        return False

    def _path(self, source: str) -> list[str] | None:
        came_from = {source: source}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for target in sorted(self._fit, key=self._order):
                if target in came_from or not self._exchange(node, target):
                    continue
                came_from[target] = node
                if self.count[target] <= self.count[source] - 2:
                    path = [target]
                    while path[-1] != source:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                queue.append(target)
        return None

    def _exchange(self, giver: str, taker: str) -> int:
        """The partition to hand from one to the other, best one that moves anyway; 0: none."""
        found = [
            (taker != self._before[partition], giver == self._before[partition], partition)
            for partition, choices in self._choices.items()
            if self.leaders[partition] == giver and taker in choices
        ]
        return min(found)[2] if found else 0

    def _order(self, node: str) -> tuple[int, str]:
        return self.count[node], node

    def _hand(self, partition: int, taker: str) -> None:
        self.count[self.leaders[partition]] -= 1
        self.leaders[partition] = taker
        self.count[taker] += 1
