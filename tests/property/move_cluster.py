"""Groups that change their members as they are told, nodes that die, planners that crash.

What a group does with a change is `membership.changed` and the rules of
`SafeCore.changed_members`; the rest is chance, from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from cluster import membership
from cluster.errors import ChangeRefused
from cluster.membership import Add, Configuration, Member, Promote, Remove
from cluster.moves import Health, MoveLimits, Step, TransferLeadership, next_steps
from cluster.partition_map import PartitionMap

CATCH_UP_STEPS_MAX = 6


@dataclass
class Group:
    configuration: Configuration
    leader: str | None = None
    lag: dict[str, int] = field(default_factory=dict)  # learner → rounds until it has caught up


@dataclass
class MoveCluster:
    """`map` is the one that is in force; `tolerated` nodes may be dead at a time."""

    random: Random
    nodes: list[str]
    map: PartitionMap
    limits: MoveLimits
    tolerated: int
    dead: set[str] = field(default_factory=set)
    groups: dict[int, Group] = field(default_factory=dict)
    on_their_way: list[Step] = field(default_factory=list)
    known_under_way: list[Step] = field(default_factory=list)
    stale: dict[int, Configuration] = field(default_factory=dict)
    done: list[Step] = field(default_factory=list)
    seen_alive: dict[Step, frozenset[str]] = field(default_factory=dict)  # when it was decided

    def __post_init__(self) -> None:
        for partition in self.map.partitions:
            members = tuple(Member(node) for node in partition.founders)
            self.groups[partition.id] = Group(Configuration(1, members))
        self.elect()

    @property
    def alive(self) -> frozenset[str]:
        return frozenset(self.nodes) - self.dead

    @property
    def settled(self) -> bool:
        return all(
            self.groups[each.id].configuration.voters
            == self.groups[each.id].configuration.ids
            == frozenset(each.replicas)
            for each in self.map.partitions
        )

    def round(self, *, faults: bool) -> None:
        """Something happens, a planner looks, and some of what it asks for arrives."""
        if faults:
            self._fault()
        self.elect()
        for group in self.groups.values():
            for learner in group.lag:
                if learner in self.alive and group.leader:
                    group.lag[learner] = max(0, group.lag[learner] - 1)
        self._plan(faults=faults)
        waiting, self.on_their_way = self.on_their_way, []
        for step in waiting:
            if faults and self.random.random() < 0.3:
                self.on_their_way.append(step)  # late
                continue
            if not faults or self.random.random() < 0.8:
                self._execute(step)
            if step in self.known_under_way:
                self.known_under_way.remove(step)

    def elect(self) -> None:
        for group in self.groups.values():
            voters = group.configuration.voters
            healthy = voters & self.alive
            if group.leader not in healthy:
                enough = len(healthy) > len(voters) // 2
                group.leader = self.random.choice(sorted(healthy)) if enough else None
                group.lag = {node: self._copying() for node in group.lag}

    def _copying(self) -> int:
        return self.random.randint(0, CATCH_UP_STEPS_MAX)

    def _fault(self) -> None:
        kind = self.random.random()
        if kind < 0.2 and len(self.dead) < self.tolerated:
            self.dead.add(self.random.choice(sorted(self.alive)))
        elif kind < 0.5 and self.dead:
            self.dead.discard(self.random.choice(sorted(self.dead)))
        elif kind < 0.6:
            self.known_under_way.clear()  # the planner's node crashed: another one looks

    def _plan(self, *, faults: bool) -> None:
        fresh = {each: group.configuration for each, group in self.groups.items()}
        seen = {
            each: self.stale[each]
            if faults and each in self.stale and self.random.random() < 0.2
            else found
            for each, found in fresh.items()
        }
        self.stale = fresh
        steps = next_steps(self.map, seen, self._health(), self.limits)
        self._check_throttle(steps, seen)
        self.seen_alive.update(dict.fromkeys(steps, self.alive))
        self.on_their_way += steps
        self.known_under_way += steps

    def _health(self) -> Health:
        return Health(
            answering=self.alive,
            members={node: Member(node) for node in self.nodes},
            leaders={each: group.leader for each, group in self.groups.items() if group.leader},
            caught_up={
                each: {node for node, rounds in group.lag.items() if not rounds}
                for each, group in self.groups.items()
            },
            under_way=tuple(self.known_under_way),
        )

    def _check_throttle(self, steps: list[Step], seen: dict[int, Configuration]) -> None:
        """No copy is begun where there are as many as may be."""
        assert len({step.partition for step in steps}) == len(steps)
        assert not {step.partition for step in steps} & {
            step.partition for step in self.known_under_way
        }
        added = {s.partition: s for s in steps if isinstance(s.action, Add)}
        asked = {s.partition: s for s in self.known_under_way if isinstance(s.action, Add)}
        copied: dict[int, set[str]] = {}  # partition → nodes that copy it
        for partition, found in seen.items():
            learners = set((found.ids - found.voters) & self.alive)
            for step in (asked.get(partition), added.get(partition)):
                if step is not None and isinstance(step.action, Add):
                    learners.add(step.action.member.id)
            if learners:
                copied[partition] = learners | {self.groups[partition].leader or ""}
        if added:
            assert len(copied) <= self.limits.moving_partitions_max
        for step in added.values():
            assert isinstance(step.action, Add)
            for node in (step.action.member.id, step.leader):
                held = sum(node in nodes for nodes in copied.values())
                assert held <= self.limits.node_moving_partitions_max

    def _execute(self, step: Step) -> None:
        group, action = self.groups[step.partition], step.action
        found = group.configuration
        if group.leader != step.leader or found.index != step.index:
            return
        if len(found.voters & self.alive) <= len(found.voters) // 2:
            return
        if isinstance(action, TransferLeadership):
            assert action.target in found.voters
            if action.target in self.alive:
                group.leader = action.target
            return
        if isinstance(action, Promote) and group.lag.get(action.id, 1):
            return
        if isinstance(action, Remove):
            assert action.id != group.leader, "the leader is removed before it handed over"
            healthy = found.voters & self.seen_alive[step]
            if action.id in healthy:
                left = len(healthy) - 1
                assert left >= self.map.replication_factor, f"{left} healthy voters are left"
        try:
            members = membership.changed(found, action)
        except ChangeRefused:
            return
        after = Configuration(found.index + 1, members)
        if len(after.voters & self.alive) <= len(after.voters) // 2:
            return
        group.configuration = after
        self.done.append(step)
        if isinstance(action, Add):
            group.lag[action.member.id] = self._copying()
        else:
            group.lag.pop(action.id, None)
