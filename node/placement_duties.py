"""What the leader of the system group does about the partitions, without being asked.

It makes the first map, changes it when nodes come, drain or leave, asks the groups for the
steps that lead from where they live to where they should, and spreads their leaders. What is
decided stands in `cluster/placement.py`, `moves.py` and `leadership.py`; here is looked and
asked. Nothing is remembered between two looks, so any successor goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from cluster.errors import ClusterError
from cluster.leadership import leader_transfers
from cluster.membership import Configuration
from cluster.moves import Health, MoveLimits, Progress, Step, next_steps, progress
from cluster.partition_map import PartitionMap
from cluster.placement import NodeFacts, place, rebalance
from node.clock import Clock
from node.config_checks import labels_of
from node.config_schema import NodeConfig
from node.errors import HivememError
from node.group_calls import GroupCalls
from node.members import MemberService
from node.overview import Overview, Sight
from node.partitions import Partitions
from node.steps import ask_for_step

logger = logging.getLogger(__name__)

BUSY_SECONDS = 0.3  # between two looks while something is on its way
IDLE_SECONDS = 2.0  # between two looks otherwise; how soon a dead leader's share is spread
GATHER_SECONDS_MAX = 1.0  # for the nodes to say what they hold
STEP_SECONDS_MAX = 5.0
PROPOSE_SECONDS_MAX = 2.0
LAG_ENTRIES_MAX = 1000  # a learner this close to its leader's log may be promoted
TRANSFERS_MAX = 4  # leaders handed over after one look


class Situation(NamedTuple):
    """What one look has found."""

    map: PartitionMap | None  # None: there is none yet, or no partitions
    sight: Sight
    nodes: tuple[NodeFacts, ...]
    configurations: Mapping[int, Configuration]
    leaders: Mapping[int, str]

    def settled(self, group: int) -> Configuration | None:
        """The members of a partition as its leader says, if they are committed."""
        facts = self.sight.partitions.get(group)
        newest = facts.newest if facts else None
        if newest is None or newest.role != "leader" or not newest.committed:
            return None
        return newest.configuration if newest.configuration.index else None

    def holds_nothing(self, node: str) -> bool:
        """Is it certain that no partition has, or is to have, a replica there? Who has not
        been heard of could have one."""
        assert self.map is not None
        for partition in self.map.partitions:
            members = self.settled(partition.id)
            if members is None or node in members.ids or node in partition.replicas:
                return False
        return True

    @property
    def progress(self) -> Progress | None:
        return progress(self.map, self.configurations) if self.map else None


class PlacementDuties:
    """Runs on every node and acts only while this one leads the system group."""

    def __init__(
        self,
        config: NodeConfig,
        partitions: Partitions,
        overview: Overview,
        members: MemberService,
        calls: GroupCalls,
        clock: Clock,
    ) -> None:
        """`members`: of the system group."""
        self._config = config
        self._self_id = config.node.id
        self._labels = labels_of(config.node.labels)
        self._partitions = partitions
        self._overview = overview
        self._members = members
        self._calls = calls
        self._clock = clock
        self._limits = MoveLimits()

    async def run(self) -> None:
        """Until cancelled."""
        while self._partitions.count:
            busy = await self._act_safely()
            await asyncio.sleep(BUSY_SECONDS if busy else IDLE_SECONDS)

    async def _act_safely(self) -> bool:
        """One look; True if there is more to do soon."""
        try:
            await self._say_labels()
            return await self.act() if self._leads else self._partitions.state.map is None
        except HivememError as error:
            # Somebody else changed the map, or no quorum answers: look again.
            logger.info("partitions: %s", error)
            return True

    @property
    def _leads(self) -> bool:
        return self._partitions.system.group.role().leader == self._self_id

    async def _say_labels(self) -> None:
        state = self._partitions.state
        state.refresh()
        record = state.node(self._self_id)
        if record.labels != self._labels and self._partitions.system.group.role().leader:
            changed = record._replace(labels=self._labels)
            await state.put_node(self._self_id, changed, self._deadline())

    # --- As the leader of the system group ----------------------------------------------

    async def act(self) -> bool:
        """Look once, and do what is to be done. True if there is more to do soon."""
        state = self._partitions.state
        state.refresh()
        if state.map is None:
            await self._begin()
            return True
        return await self._go_on(await self.look(), state.map)

    async def _go_on(self, found: Situation, current: PartitionMap) -> bool:
        """Change the map if that is due, else come closer to it. True: more to do soon."""
        if not _may_change(found, current):
            return True
        reached = progress(current, found.configurations)
        changed = None
        if reached.partitions_done == reached.partitions_total or _must_change(found, current):
            changed = rebalance(found.nodes, current)
        if changed is not None:
            logger.info("partition map %d replaces map %d", changed.epoch, current.epoch)
            await self._partitions.state.put_map(changed, self._deadline())
            return True
        steps = self._next_steps(found, current)
        if not steps and not reached.learners:
            wanted = leader_transfers(current, found.configurations, found.leaders, found.nodes)
            steps = wanted[:TRANSFERS_MAX]
        await asyncio.gather(*(self._take(step) for step in steps))
        left = await self._dismiss(found)
        return bool(steps) or left or reached.partitions_done < reached.partitions_total

    async def look(self) -> Situation:
        """Ask all nodes where everything is."""
        state, members = self._partitions.state, self._partitions.system.group.configuration()
        state.refresh()
        sight = await self._overview.gather(members.ids, GATHER_SECONDS_MAX)
        nodes = tuple(
            NodeFacts(
                node,
                state.node(node).labels,
                draining=state.node(node).draining,
                alive=node in sight.answered,
                load={
                    group: facts.replicas[node].keys or 0
                    for group, facts in sight.partitions.items()
                    if group and node in facts.replicas
                },
            )
            for node in sorted(members.ids)
        )
        data = {group: facts for group, facts in sight.partitions.items() if group}
        configurations = {g: c for g, facts in data.items() if (c := facts.configuration)}
        leaders = {g: leader for g, facts in data.items() if (leader := facts.leader)}
        return Situation(state.map, sight, nodes, configurations, leaders)

    async def _begin(self) -> None:
        """Make the first map, of all members."""
        cluster = self._config.cluster
        state = self._partitions.state
        members = self._partitions.system.group.configuration().members
        nodes = [NodeFacts(member.id, state.node(member.id).labels) for member in members]
        made = place(nodes, cluster.partitions, cluster.replication_factor)
        logger.info("%d partitions are placed on %d nodes", cluster.partitions, len(nodes))
        await state.put_map(made, self._deadline())

    def _next_steps(self, found: Situation, current: PartitionMap) -> list[Step]:
        members = self._partitions.system.group.configuration().members
        partitions = found.sight.partitions
        health = Health(
            answering=found.sight.answered,
            members={member.id: member for member in members},
            leaders=found.leaders,
            caught_up={group: _caught_up(found, group) for group in found.configurations},
        )
        steps = next_steps(current, found.configurations, health, self._limits)
        # A node is admitted once its replica is there: what it is sent before that is lost.
        return [
            step
            for step in steps
            if not hasattr(step.action, "member")
            or step.action.member.id in partitions[step.partition].replicas
        ]

    async def _take(self, step: Step) -> None:
        replica = self._partitions.replica(step.partition)
        logger.info("partition %d: %s", step.partition, step.action)
        try:
            if step.leader == self._self_id and replica is not None:
                await replica.steps.take(step.action, step.index, STEP_SECONDS_MAX)
            else:
                caller = self._calls.of(step.partition)
                await ask_for_step(caller, step.leader, step.action, step.index, STEP_SECONDS_MAX)
        except ClusterError as error:
            # The next look decides anew on what there is then.
            logger.info("partition %d: %s: %s", step.partition, step.action, error)

    async def _dismiss(self, found: Situation) -> bool:
        """Let nodes go that are to be removed and hold nothing more. True: some still do."""
        state, group = self._partitions.state, self._partitions.system.group
        leaving = [node for node, record in state.nodes.items() if record.removing]
        left = False
        for node in leaving:
            if node in group.configuration().ids:
                if found.holds_nothing(node):
                    await self._members.remove(node, self._deadline())
                else:
                    left = True
            elif node not in group.committed_configuration().ids:
                await state.forget_node(node, self._deadline())
        return left

    def _deadline(self) -> float:
        return self._clock.monotonic() + PROPOSE_SECONDS_MAX


def _may_change(found: Situation, current: PartitionMap) -> bool:
    """The first map stays until each group has a leader and its members are committed. Until
    then a founder without them in its log could not vote under a later map, and too many of
    those would never elect anybody: see `Partitions._bootstrap`."""
    return current.epoch > 1 or all(
        found.settled(partition.id) is not None and partition.id in found.leaders
        for partition in current.partitions
    )


def _must_change(found: Situation, current: PartitionMap) -> bool:
    """Should a replica be where it cannot stay? Then the moves that are on their way may never
    end, and need not: what they are for has changed."""
    usable = {node.id for node in found.nodes if node.usable}
    return any(not usable.issuperset(each.replicas) for each in current.partitions)


def _caught_up(found: Situation, group: int) -> frozenset[str]:
    """Learners of a group that could vote, as far as can be seen from outside."""
    facts, configuration = found.sight.partitions[group], found.configurations[group]
    newest = facts.newest
    assert newest is not None
    return frozenset(
        node
        for node in configuration.ids - configuration.voters
        if (replica := facts.replicas.get(node)) is not None
        and replica.last_index >= configuration.index
        and newest.last_index - replica.applied_index <= LAG_ENTRIES_MAX
    )
