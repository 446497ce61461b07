"""From where partitions live to where they should: the next steps. Pure.

A move is stored nowhere. It is the difference between `PartitionMap.replicas` and the Raft
configuration of the group, looked at afresh each time; so whoever looks, after whatever
crash, goes on where it stands. For each partition the first of these that applies:

1. A learner that is not wanted (any more) is removed.
2. A learner that is wanted and has caught up is promoted.
3. A voter that is not wanted is removed, if as many healthy voters are left as there should
   be replicas. One that is not healthy goes first, and also once all that are wanted vote: it
   counts only against the majority. One that leads goes last, and first hands over to a voter
   that stays.
4. A wanted node is added as a learner, unless one is catching up already.

Rule 3 comes before 4, so replicas are exchanged one by one, and a group has one voter more
than it should, not twice as many. Rule 3 never lowers what a partition survives: it waits
while a wanted voter is dead. Rule 2 needs no such guard: with one healthy voter more, a
majority that answers still answers.

What a step does is asked of the group's leader, which makes one change at a time and refuses
what its own view forbids (`SafeCore.changed_members`). It must also refuse a step that was
decided on another configuration: two that look at once, one of them at what was, could
otherwise take away two voters where one is too many. A refused or lost step is no harm: the
next look finds the same difference. Only the copying is throttled, since the other steps are
short and lower the number of copies in motion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass

from cluster.membership import (
    LEARNERS_MAX,
    VOTERS_MAX,
    Add,
    Configuration,
    Member,
    Promote,
    Remove,
)
from cluster.partition_map import Partition, PartitionMap


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """Hand the leadership of the group over."""

    target: str  # a voter


Action = Add | Promote | Remove | TransferLeadership


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to ask of a group."""

    partition: int
    leader: str  # whom to ask
    index: int  # of the configuration it was decided on: where another is in force, refuse it
    action: Action


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of nodes and groups right now. What is not known is left out."""

    answering: Set[str]  # ids of nodes that are alive
    members: Mapping[str, Member]  # by node id: what to admit a node as
    leaders: Mapping[int, str]  # by partition
    caught_up: Mapping[int, Set[str]]  # by partition: learners that could vote
    under_way: Collection[Step] = ()  # steps that were asked for and are not answered yet


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """How many partitions may be copied at once. Each is copied by its leader to a learner."""

    moving_partitions_max: int = 4  # in the cluster
    node_moving_partitions_max: int = 2  # to or from one node


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the partitions are, for display. A partition that is not heard of is not done."""

    partitions_done: int  # live exactly where they should
    partitions_total: int
    replicas_done: int  # vote where they should
    replicas_total: int
    learners: int  # catching up
    surplus: int  # voters still to be removed


def next_steps(
    partition_map: PartitionMap,
    configurations: Mapping[int, Configuration],
    health: Health,
    limits: MoveLimits | None = None,
) -> list[Step]:
    """At most one step per partition; those with the fewest healthy voters come first.

    `configurations` by partition id, each as new as is known; a partition without one, or
    without a leader, has no step.
    """
    copies = _Copies(configurations, health, limits or MoveLimits())
    busy = {step.partition for step in health.under_way}
    views = [
        _View(partition, configurations[partition.id], health)
        for partition in partition_map.partitions
        if partition.id in configurations
        and health.leaders.get(partition.id) in health.answering
        and partition.id not in busy
    ]
    steps = []
    for view in sorted(views, key=lambda view: (view.margin, view.id)):
        action = next(view.actions(copies), None)
        if action is not None:
            steps.append(Step(view.id, view.leader, view.index, action))
    return steps


def progress(partition_map: PartitionMap, configurations: Mapping[int, Configuration]) -> Progress:
    """Counts, of what the configurations say."""
    done = replicas = learners = surplus = 0
    for partition in partition_map.partitions:
        found = configurations.get(partition.id)
        if found is None:
            continue
        wanted = frozenset(partition.replicas)
        done += found.voters == wanted == found.ids
        replicas += len(found.voters & wanted)
        learners += len(found.ids - found.voters)
        surplus += len(found.voters - wanted)
    return Progress(
        done,
        len(partition_map.partitions),
        replicas,
        sum(len(each.replicas) for each in partition_map.partitions),
        learners,
        surplus,
    )


class _Copies:
    """Partitions that are copied now, and those that are begun in this look.

    One whose learner does not answer takes no place: it could be away for hours. So for a
    moment after it returns there may be more than the limit.
    """

    def __init__(
        self, configurations: Mapping[int, Configuration], health: Health, limits: MoveLimits
    ) -> None:
        self._limits = limits
        self._partitions: set[int] = set()
        self._nodes: Counter[str] = Counter()
        asked = {
            step.partition: step.action.member.id
            for step in health.under_way
            if isinstance(step.action, Add)
        }
        for partition, found in configurations.items():
            learners = (found.ids - found.voters) & health.answering
            if partition in asked:
                learners |= {asked[partition]}
            if learners:
                self._partitions.add(partition)
                self._nodes.update({*learners, health.leaders.get(partition, "")})

    def begin(self, partition: int, leader: str, learner: str) -> bool:
        """Take a place; False if there is none."""
        most = self._limits.node_moving_partitions_max
        if len(self._partitions | {partition}) > self._limits.moving_partitions_max:
            return False
        if self._nodes[leader] >= most or self._nodes[learner] >= most:
            return False
        self._partitions.add(partition)
        self._nodes.update((leader, learner))
        return True


class _View:
    """One partition: what is, what should be, and what may be done about it."""

    def __init__(self, partition: Partition, found: Configuration, health: Health) -> None:
        self.id = partition.id
        self.leader = health.leaders[partition.id]
        self.index = found.index
        self._wanted = frozenset(partition.replicas)
        self._voters = found.voters
        self._learners = found.ids - found.voters
        self._healthy = found.voters & health.answering
        self._health = health

    @property
    def margin(self) -> int:
        """Healthy voters more than there should be replicas."""
        return len(self._healthy) - len(self._wanted)

    def actions(self, copies: _Copies) -> Iterator[Action]:
        """What may be done, the first thing first."""
        for learner in sorted(self._learners - self._wanted):
            yield Remove(learner)
        for learner in sorted(self._learners & self._wanted & self._caught_up()):
            if len(self._voters) < VOTERS_MAX:
                yield Promote(learner)
        surplus = self._voters - self._wanted
        if self.margin >= 0 or self._wanted <= self._voters:
            yield from self._removals(surplus - self._healthy)
        if self.margin > 0:
            yield from self._removals(surplus & self._healthy)
        yield from self._additions(copies)

    def _caught_up(self) -> Set[str]:
        return self._health.caught_up.get(self.id, frozenset()) & self._health.answering

    def _removals(self, voters: Set[str]) -> Iterator[Action]:
        """The leader is the last: its hand-over costs the clients a moment."""
        for voter in sorted(voters, key=lambda node: (node == self.leader, node)):
            left = self._voters - {voter}
            if len(left & self._healthy) <= len(left) // 2:
                continue
            if voter != self.leader:
                yield Remove(voter)
            elif (heir := self._heir()) is not None:
                yield TransferLeadership(heir)

    def _heir(self) -> str | None:
        """A healthy voter that stays, the one that leads least."""
        led = Counter(self._health.leaders.values())
        staying = self._healthy & self._wanted
        return min(staying, key=lambda node: (led[node], node), default=None)

    def _additions(self, copies: _Copies) -> Iterator[Action]:
        if self._learners & self._health.answering:
            return
        if len(self._learners) >= LEARNERS_MAX or len(self._voters) >= VOTERS_MAX:
            return
        missing = (self._wanted - self._voters - self._learners) & self._health.answering
        for node in sorted(missing & self._health.members.keys()):
            if copies.begin(self.id, self.leader, node):
                yield Add(self._health.members[node])
