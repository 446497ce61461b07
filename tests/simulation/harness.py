"""Real Raft groups on a virtual clock, a virtual network and a virtual disk, in one thread.

Nothing moves unless a test moves it: time (`advance`), turns (`turn`), fsyncs (`sync`)
and frames (`network.deliver`). `settle` moves everything fairly for a while.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from pysyncobj import syncobj as upstream

from cluster import membership
from cluster.compaction import CompactionLimits
from cluster.errors import ClusterError, DamagedContent, Removed
from cluster.group import RaftGroup
from cluster.group_limits import GroupLimits
from cluster.interfaces import CommittedBatch, Decided, StateMachine
from cluster.membership import Change, Member
from cluster.memory_log import MemoryLog
from cluster.memory_snapshots import Dumps, MemorySnapshots, SnapshotDisk
from cluster.memory_transport import MemoryNetwork
from cluster.raft import FlowLimits, Identity
from cluster.reconcile import reconcile
from cluster.snapshot_rules import SnapshotOptions
from cluster.upstream import RaftTiming

DAMAGE = b"damage"  # a command of which a state that holds it is taken for damaged


class ListMachine:
    """A state machine that remembers what it applied; the result is the position."""

    def __init__(self) -> None:
        self.applied_index = 1
        self.applied_term = 0
        self.commands: list[bytes] = []

    def apply(self, batches: Sequence[CommittedBatch], decided: Decided) -> list[list[object]]:
        """As the state machine does, it tells what it decided before the state shows it."""
        results: list[list[object]] = []
        for batch in batches:
            assert batch.index == self.applied_index + 1, "applied out of order"
            start = len(self.commands)
            self.commands.extend(batch.commands)
            results.append(list(range(start, len(self.commands))))
            self.answered(batch, results[-1])
            decided(batch, results[-1])
            self.applied_index = batch.index
            self.applied_term = batch.term
        return results

    def answered(self, batch: CommittedBatch, answers: list[object]) -> None:
        """For machines that answer otherwise."""

    def dump(self) -> tuple[bytes, int, int]:
        state = json.dumps([command.decode("latin-1") for command in self.commands])
        return state.encode(), self.applied_index, self.applied_term

    def reset(self) -> None:
        self.commands, self.applied_index, self.applied_term = [], 1, 0

    def examine_dump(self, data: bytes) -> None:
        if DAMAGE in data:
            raise DamagedContent("memory", "it was made of a damaged state")

    def load(self, data: bytes, index: int, term: int) -> None:
        self.commands = [text.encode("latin-1") for text in json.loads(data)]
        self.applied_index, self.applied_term = index, term


class Machine(StateMachine, Dumps, Protocol):
    """A state machine that snapshots can be taken of."""


class Outcome:
    """What a client was told about one command."""

    def __init__(self, command: bytes) -> None:
        self.command = command
        self.result: object = None
        self.error: ClusterError | None = None
        self.calls = 0

    def __call__(self, result: object, error: ClusterError | None) -> None:
        self.result, self.error = result, error
        self.calls += 1

    @property
    def acknowledged(self) -> bool:
        return self.calls == 1 and self.error is None


class SimNode:
    """One node's durable and volatile parts."""

    def __init__(self, machine: Machine, snapshots: MemorySnapshots) -> None:
        self.log = MemoryLog()
        self.machine = machine
        self.snapshots = snapshots
        self.group: RaftGroup | None = None
        self.failure: BaseException | None = None


class Cluster:
    """Nodes named A, B, C, …, all connected and started; time stands still."""

    group_class = RaftGroup

    def __init__(
        self,
        monkeypatch,
        size: int = 3,
        seed: int = 0,
        limits: GroupLimits | None = None,
        flow: FlowLimits | None = None,
        compaction: CompactionLimits | None = None,
        snapshot_options: SnapshotOptions | None = None,
        hold: bool = False,
    ) -> None:
        """hold: work on snapshots waits for `snapshots.step`."""
        self.snapshot_options = snapshot_options
        self.hold = hold
        self.ids = [chr(ord("A") + i) for i in range(size)]
        self.founders = list(self.ids)
        self.compaction = compaction
        self.time = 1000.0
        self.timing = RaftTiming()
        self.limits = limits
        self.flow = flow
        self.rng = random.Random(seed)
        self.network = MemoryNetwork(self.ids)
        self.nodes = {name: self.new_node(name) for name in self.ids}
        self.outcomes: list[Outcome] = []
        self.woken: set[str] = set()  # who asked for a turn; see `World.turn`
        self.leaders: dict[int, str] = {}  # term -> leader, checked at every step
        self.removed: set[str] = set()  # stopped, since they are no members any more
        monkeypatch.setattr(upstream, "monotonicTime", self.clock)
        for name in self.ids:
            self.start(name)

    # --- Nodes ---------------------------------------------------------------------

    def start(self, name: str) -> None:
        node = self.nodes[name]

        def fail(error: BaseException) -> None:
            node.failure = error

        reconcile(node.log, node.snapshots, lambda: node.machine.applied_index)
        node.group = self.group_class(
            0,
            Identity(name, self.network.incarnation(name)),
            membership.bootstrap(self.initial(name)),
            node.log,
            node.machine,
            node.snapshots,
            self.network.transport(name),
            wake=partial(self.woken.add, name),
            fail=fail,
            rng=random.Random(self.rng.random()),
            timing=self.timing,
            limits=self.limits,
            flow=self.flow,
            compaction=self.compaction,
        )

    def initial(self, name: str) -> list[Member]:
        """What the settings file of `name` says: the first members, and itself as a learner
        if it joined later."""
        voters = [Member(other) for other in self.founders]
        return voters if name in self.founders else [*voters, Member(name, voter=False)]

    def crash(self, name: str, keep_unsynced: int = 0) -> None:
        """Power loss of one node: what was not fsynced is lost (but for a prefix of it),
        and the applied state is thrown away and rebuilt from snapshot and log."""
        node = self.nodes[name]
        node.group = None
        self.network.crash(name)
        node.log = node.log.crash(keep_unsynced)
        disk = node.snapshots.crash(self.rng)
        node.machine = self.new_machine(name)
        node.snapshots = self.new_snapshots(node.machine, disk)

    def kill(self, name: str) -> None:
        """End the process: what it wrote survives, fsynced or not, and so does its state."""
        node = self.nodes[name]
        node.group = None
        self.network.crash(name)
        node.log = node.log.crash(node.log.submitted)
        disk = node.snapshots.crash()
        node.machine = self.reopened_machine(name)
        node.snapshots = self.new_snapshots(node.machine, disk)

    def wipe(self, name: str) -> None:
        """Lose the data folder of a node, which then starts with an empty one."""
        if self.nodes[name].group is not None:
            self.crash(name)
        self.network.wipe(name)
        self.nodes[name] = self.new_node(name)

    # --- What a node is made of ------------------------------------------------------

    def new_machine(self, name: str) -> Machine:
        """An empty state for `name`."""
        return ListMachine()

    def reopened_machine(self, name: str) -> Machine:
        """The state of `name` as its process left it."""
        return self.nodes[name].machine

    def new_snapshots(self, machine: Machine, disk: SnapshotDisk | None = None) -> MemorySnapshots:
        return MemorySnapshots(
            machine, disk, self.snapshot_options, hold=self.hold, monotonic=lambda: self.time
        )

    def new_node(self, name: str) -> SimNode:
        machine = self.new_machine(name)
        return SimNode(machine, self.new_snapshots(machine))

    # --- Members -----------------------------------------------------------------------

    def add_node(self, name: str) -> None:
        """A node that is not a member yet, running and looking for its cluster."""
        self.network.add(name)
        self.ids.append(name)
        self.nodes[name] = self.new_node(name)
        self.start(name)

    def change(self, name: str, change: Change) -> Outcome:
        """Ask `name` for a membership change."""
        outcome = Outcome(b"")
        self.group(name).change_membership(change, outcome)
        return outcome

    def compact(self, name: str) -> None:
        """Make a snapshot now and cut the log right below its last entry."""
        node = self.nodes[name]
        assert self.group(name).make_snapshot(), f"{name} is busy with another snapshot"
        while node.snapshots.step():
            pass
        assert node.snapshots.newest is not None
        node.log.drop_prefix(node.snapshots.newest.index)

    def restart(self, name: str) -> None:
        self.start(name)
        self.network.rejoin(name)

    def group(self, name: str) -> RaftGroup:
        group = self.nodes[name].group
        assert group is not None, f"{name} is down"
        return group

    def core(self, name: str):
        return self.group(name)._core

    # --- Moving things ---------------------------------------------------------------

    def clock(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def turn(self, name: str) -> None:
        self.group(name).turn()
        self.check()

    def sync(self, name: str) -> None:
        self.nodes[name].log.sync()

    def up(self) -> list[str]:
        return [name for name in self.ids if self.nodes[name].group is not None]

    def settle(self, rounds: int = 5, seconds: float = 0.11, quiet: bool = False) -> None:
        """Rounds of: time passes, every node turns, fsyncs and hears everything.

        quiet: nobody starts an election.
        """
        for _ in range(rounds):
            self.advance(seconds)
            if quiet:
                self.no_elections()
            for _ in range(4):
                for name in self.up():
                    self.turn(name)
                    self.sync(name)
                self.network.deliver_all()
            for name in self.up():
                self.turn(name)

    def no_elections(self, *names: str) -> None:
        for name in names or self.up():
            self.core(name)._SyncObj__raftElectionDeadline = self.time + 1e6

    def elect(self, name: str) -> None:
        """Make `name` the leader by a real election that skips the pre-vote."""
        self.no_elections()
        core = self.core(name)
        for other in self.up():
            self.core(other)._leader_heard_at = float("-inf")
        core._pre_votes = set(self.ids)
        core._campaign_if_supported()
        self.settle(3, quiet=True)
        assert self.leader() == name, f"{name} did not win"

    def leader(self) -> str | None:
        """The leader with the highest term, if any."""
        leading = [name for name in self.up() if self.group(name).role().name == "leader"]
        return max(leading, key=lambda name: self.core(name).term, default=None)

    def put(self, name: str, command: bytes) -> Outcome:
        outcome = Outcome(command)
        self.outcomes.append(outcome)
        self.group(name).submit(command, outcome)
        return outcome

    # --- Invariants --------------------------------------------------------------------

    def check(self) -> None:
        """Election safety and state machine safety, at every step (Raft, figure 3)."""
        self._end_removed()
        longest: list[bytes] = []
        for name in self.ids:
            node = self.nodes[name]
            if node.group is not None and node.group.role().name == "leader":
                term = self.core(name).term
                assert self.leaders.setdefault(term, name) == name, f"two leaders in term {term}"
            applied = node.machine.commands
            if node.group is not None and DAMAGE in applied:
                assert self.core(name).repairing, f"{name} serves a damaged state"
            shared = min(len(applied), len(longest))
            assert applied[:shared] == longest[:shared], "state machines diverge"
            if len(applied) > len(longest):
                longest = applied

    def _end_removed(self) -> None:
        """A node that heard that it was removed ends; one that failed is a defect."""
        for name in self.ids:
            node = self.nodes[name]
            if isinstance(node.failure, Removed):
                node.group = node.failure = None
                self.network.crash(name)
                self.removed.add(name)
            elif node.failure is not None:
                raise AssertionError(f"{name} stopped") from node.failure

    def check_healed(self) -> None:
        """After healing: converged, every acknowledged command present exactly once, and
        every definitely refused one absent."""
        states = {name: self.nodes[name].machine.commands for name in self.ids}
        reference = states[self.ids[0]]
        assert all(state == reference for state in states.values()), "not converged"
        assert len(set(reference)) == len(reference), "a command was applied twice"
        present = set(reference)
        for outcome in self.outcomes:
            assert outcome.calls <= 1, "answered twice"
            if outcome.acknowledged:
                assert outcome.command in present, f"lost: {outcome.command!r}"
            elif outcome.error is not None and outcome.error.definite:
                assert outcome.command not in present, f"refused yet applied: {outcome.command!r}"
