"""A cluster for campaigns: the real adapter and the real state machine, with every node on a
clock of its own, and invariants checked at every step.

Checked continuously: one leader per term; log matching; leader completeness; state machine
safety (no two nodes apply different entries at an index); applied and commit indexes that
never fall within a life. Checked in the end: convergence, equal digests, every checksum and
counter of the state, acknowledged writes present, histories linearizable.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import combinations
from pathlib import Path
from zlib import crc32

from cluster.errors import DamagedContent
from cluster.group import RaftGroup
from cluster.interfaces import CommittedBatch, Decided, LogEntry
from cluster.membership import Configuration, Promote
from cluster.memory_log import MemoryLog
from cluster.memory_snapshots import CheckpointDumps
from cluster.raft import SafeCore
from engines.check import check, digest
from engines.errors import CorruptRecord
from engines.interfaces import ChangeId, Limits, Record
from engines.kv import KvReader
from engines.scan import examine_file
from engines.state_machine import StateMachine
from engines.store import Store
from tests.simulation.harness import Cluster, Machine, SimNode

MAP_BYTES = 64 << 20
NAMESPACE, SESSION = "sim", "s"


class RealMachine:
    """The daemon's own state machine on LMDB, in a folder that outlives the process."""

    def __init__(self, folder: Path, name: str, world: World) -> None:
        self.folder = folder
        self._name = name
        self._world = world
        self._store = Store(folder, MAP_BYTES, 4)
        self._machine = StateMachine(self._store, Limits())
        self._dumps = CheckpointDumps(self._machine, folder.parent)

    @property
    def applied_index(self) -> int:
        return self._machine.applied_index

    def apply(self, batches: Sequence[CommittedBatch], decided: Decided) -> list[list[object]]:
        for batch in batches:
            self._world.applied(self._name, batch)
        return self._machine.apply(batches, decided)

    def dump(self) -> tuple[bytes, int, int]:
        return self._dumps.dump()

    def load(self, data: bytes, index: int, term: int) -> None:
        self._dumps.load(data, index, term)

    def reset(self) -> None:
        self._machine.reset()

    def examine_dump(self, data: bytes) -> None:
        path = self.folder.parent / "examined"
        path.write_bytes(data)
        try:
            examine_file(path)
        except CorruptRecord as error:
            raise DamagedContent(str(path), str(error)) from error
        finally:
            path.unlink()

    def get(self, key: str) -> Record | None:
        with self._store.read() as snapshot:
            return KvReader(snapshot).get(NAMESPACE, SESSION, key.encode())

    def values_written(self) -> list[str]:
        """Every value ever put, oldest first: the window holds all of a short run."""
        with self._store.read() as snapshot:
            changes = KvReader(snapshot).changes(ChangeId(0, 0), 1 << 20, 1 << 30, values=True)
        return [change.value.decode() for change in changes if change.value is not None]

    def problems(self) -> list[str]:
        with self._store.read() as snapshot:
            return check(snapshot)

    def digest(self) -> bytes:
        with self._store.read() as snapshot:
            return digest(snapshot)

    def close(self) -> None:
        self._store.close()


class CheckedLog(MemoryLog):
    """A log that reports each entry it takes: log matching, by induction over entries."""

    world: World

    def append(self, entries: Sequence[LogEntry]) -> None:
        for item in entries:
            previous = self.term_at(item.index - 1)
            super().append([item])
            self.world.appended(item, previous)


def _on_own_clock(name: str):
    """Run a method of the group as its node: on that node's clock."""
    method = getattr(RaftGroup, name)

    @wraps(method)
    def wrapper(self, *arguments, **named):
        with self.world.as_node(self.self_id):
            return method(self, *arguments, **named)

    return wrapper


class WorldGroup(RaftGroup):
    """A group that reads its node's clock."""

    world: World


for _name in (
    "peer_connected",
    "peer_disconnected",
    "peer_message",
    "turn",
    "tick",
    "submit",
    "read_index",
    "change_membership",
    "transfer_leadership",
    "staleness_seconds",
    "_log_is_durable",
    "quarantine",
    "_guarded",
):
    setattr(WorldGroup, _name, _on_own_clock(_name))


class World(Cluster):
    """See the module docstring. `folder` is for the states; it is removed by `close`."""

    def __init__(self, patch, folder: Path, size: int, seed: int, **options) -> None:
        self.folder = folder
        self.lives = 0
        self.rates: dict[str, float] = {}
        self.offsets: dict[str, float] = {}
        self.running_as: str | None = None
        self.entries: dict[tuple[int, int], tuple[int, int | None]] = {}
        self.committed: dict[int, tuple[int, int]] = {}  # index -> (term, checksum)
        self.commit_seen: dict[str, tuple[SafeCore, int, int]] = {}  # commit, applied
        self.committed_by: dict[int, int] = {}  # term -> what its leader committed
        self.completeness_checked: set[int] = set()
        self.paused_until: dict[str, float] = {}
        self.disk_slow_until: dict[str, float] = {}
        self.damaged: str | None = None  # whose snapshot was altered last
        self.group_class = type("Group", (WorldGroup,), {"world": self})
        self.log_class = type("Log", (CheckedLog,), {"world": self})
        super().__init__(patch, size, seed, hold=True, **options)

    # --- Nodes ---------------------------------------------------------------------

    def _machine_folder(self, name: str) -> Path:
        self.lives += 1
        folder = self.folder / f"{name}-{self.lives}" / "live"
        folder.mkdir(parents=True)
        return folder

    def new_machine(self, name: str) -> Machine:
        self._discard_machine(name)
        return RealMachine(self._machine_folder(name), name, self)

    def reopened_machine(self, name: str) -> Machine:
        """As after kill -9: what was committed to the page cache is there."""
        before = self.nodes[name].machine
        before.close()
        return RealMachine(before.folder, name, self)

    def _discard_machine(self, name: str) -> None:
        node = getattr(self, "nodes", {}).get(name)
        if node is not None:
            node.machine.close()
            shutil.rmtree(node.machine.folder.parent)

    def new_node(self, name: str) -> SimNode:
        self.rates.setdefault(name, self.rng.uniform(0.97, 1.03))
        self.offsets.setdefault(name, self.rng.uniform(0, 1e4))
        node = super().new_node(name)
        node.log = self.log_class()
        return node

    def crash(self, name: str, keep_unsynced: int = 0) -> None:
        super().crash(name, keep_unsynced)
        self._rebuild_log(name)

    def kill(self, name: str) -> None:
        super().kill(name)
        self._rebuild_log(name)

    def _rebuild_log(self, name: str) -> None:
        """`MemoryLog.crash` makes a plain log; give it its checks back."""
        node = self.nodes[name]
        node.log.__class__ = self.log_class

    # --- Faults ------------------------------------------------------------------------

    def awake(self) -> list[str]:
        """Nodes that run and are not paused."""
        return [name for name in self.up() if self.paused_until.get(name, 0.0) <= self.time]

    def pause(self, name: str, seconds: float) -> None:
        self.paused_until[name] = self.time + seconds

    def slow_disk(self, name: str, seconds: float) -> None:
        self.disk_slow_until[name] = self.time + seconds

    def disk_is_slow(self, name: str) -> bool:
        return self.disk_slow_until.get(name, 0.0) > self.time

    def turn(self, name: str) -> None:
        """As a daemon does: a turn that was asked for, or what the timer finds to be due."""
        if name in self.woken:
            self.woken.discard(name)
            super().turn(name)
        else:
            self.group(name).tick()
            self.check()

    def snapshot_step(self, name: str) -> bool:
        with self.as_node(name):
            return self.nodes[name].snapshots.step()

    def sync(self, name: str) -> None:
        with self.as_node(name):
            super().sync(name)

    # --- What nodes do in the background -------------------------------------------------

    def record_incarnations(self) -> None:
        """A committed configuration replaces what was recorded on first contact."""
        for name in self.up():
            core = self.core(name)
            for member in core.configuration_at(core.commit_index).members:
                if member.incarnation and member.id != name:
                    self.network.transport(name).record_incarnation(member.id, member.incarnation)

    def promote_learners(self) -> None:
        leader = self.leader()
        if leader is None:
            return
        configuration = self.group(leader).configuration()
        for learner in sorted(configuration.ids - configuration.voters):
            self.group(leader).change_membership(Promote(learner), lambda result, error: None)

    def is_sound(self, name: str) -> bool:
        """Does this node have its state, and are its snapshots as they were made?"""
        node = self.nodes[name]
        if node.group is None or self.core(name).stateless or self.core(name).repairing:
            return False
        return all(
            hashlib.sha256(stored.data).digest() == stored.meta.sha256
            for stored in node.snapshots.disk.held.values()
        )

    def settled_configuration(self) -> Configuration | None:
        """The members, if it is certain who they are and each has the folder it should."""
        leader = self.leader()
        if leader is None:
            return None
        core = self.core(leader)
        configuration = core.configuration
        newest = max(self.core(name).configuration.index for name in self.up())
        sound = all(
            member.voter and member.incarnation == self.network.incarnation(member.id)
            for member in configuration.members
        )
        committed = core.commit_index >= configuration.index == newest
        if not committed or not sound or not core.noop_committed:
            return None
        whole = all(self.is_sound(name) for name in configuration.ids if name in self.up())
        return configuration if whole and self.damaged in (None, *self.up()) else None

    def newest_configuration(self) -> Configuration:
        found = (self.group(name).configuration() for name in self.up())
        return max(found, default=Configuration(0, ()), key=lambda each: each.index)

    def startable(self) -> list[str]:
        """Nodes that are down. One that ended as a removed one is started again once it is
        a member again."""
        members = self.newest_configuration().ids
        return [
            name
            for name in self.ids
            if name not in self.up() and (name not in self.removed or name in members)
        ]

    # --- Healing ---------------------------------------------------------------------

    def heal_everything(self) -> None:
        self.paused_until.clear()
        self.disk_slow_until.clear()
        for name in self.startable():
            self.start(name)
        for a, b in combinations(self.ids, 2):
            self.network.cut(a, b)
            if {a, b} <= set(self.up()):
                self.network.heal(a, b)
        for name in self.up():
            self.group(name).set_room(True)

    def restart_members(self) -> None:
        """Start what ended on hearing that it was removed, and is a member again."""
        for name in self.startable():
            self.start(name)
            for other in self.up():
                self.network.heal(name, other)

    def settle(self, rounds: int = 5, seconds: float = 0.11, quiet: bool = False) -> None:
        for _ in range(rounds):
            super().settle(1, seconds, quiet)
            for name in self.up():
                while name in self.up() and self.snapshot_step(name):
                    pass

    def members_up(self) -> list[str]:
        """Members of the newest configuration, all of which must be up."""
        leader = self.leader()
        assert leader is not None
        return sorted(self.group(leader).configuration().ids)

    def converged(self) -> bool:
        """Is there a leader, are all members voters and up, and have all applied the same?"""
        leader = self.leader()
        if leader is None:
            return False
        configuration = self.group(leader).configuration()
        if configuration.ids != configuration.voters or not configuration.ids <= set(self.up()):
            return False
        applied = {self.core(name).applied_index for name in configuration.ids}
        return applied == {self.nodes[leader].log.last_index}

    def describe(self) -> str:
        return "; ".join(
            f"{name}: {status.role} of {status.leader} in {status.term}, "
            f"log {status.log_first_index}–{status.last_index}, commit {status.commit_index}, "
            f"applied {status.applied_index}, snapshot {status.snapshot_index}, voters "
            f"{''.join(sorted(status.configuration.voters))}, "
            f"members {''.join(sorted(status.configuration.ids))}"
            for name in self.up()
            for status in (self.group(name).status(),)
        )

    def close(self) -> None:
        for node in self.nodes.values():
            node.machine.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- Clocks ----------------------------------------------------------------------

    def clock(self) -> float:
        name = self.running_as
        if name is None:
            return self.time
        return self.time * self.rates[name] + self.offsets[name]

    @contextmanager
    def as_node(self, name: str) -> Iterator[None]:
        before, self.running_as = self.running_as, name
        try:
            yield
        finally:
            self.running_as = before

    def start(self, name: str) -> None:
        with self.as_node(name):
            super().start(name)

    def jump(self, name: str, seconds: float) -> None:
        """This node's clock leaps ahead, as after a suspension that others did not have."""
        self.offsets[name] += seconds

    def no_elections(self, *names: str) -> None:
        for name in names or self.up():
            with self.as_node(name):
                self.core(name)._SyncObj__raftElectionDeadline = self.clock() + 1e6

    # --- Invariants ------------------------------------------------------------------

    def appended(self, item: LogEntry, previous_term: int | None) -> None:
        """Log matching (Raft, figure 3): an index and a term name one entry and one prefix."""
        key = (item.index, item.term)
        content = (crc32(item.payload), previous_term)
        known = self.entries.setdefault(key, content)
        assert known[0] == content[0], f"entry {key} differs between logs"
        if None not in (known[1], content[1]):
            assert known[1] == content[1], f"the entry before {key} differs between logs"

    def applied(self, name: str, batch: CommittedBatch) -> None:
        """State machine safety: what is applied at an index is the same everywhere, ever."""
        checksum = 0
        for command in batch.commands:
            checksum = crc32(command, checksum)
        found = (batch.term, checksum)
        assert self.committed.setdefault(batch.index, found) == found, (
            f"{name} applies another entry at {batch.index}"
        )

    def check(self) -> None:
        self._end_removed()
        for name in self.up():
            group = self.group(name)
            core = group._core
            life, *before = self.commit_seen.get(name, (core, 0, 0))
            if life is not core:
                before = [0, 0]  # started anew: the commit index is learned again
            if core.repairing:
                before[1] = 0  # the state was dropped
            now = (core.commit_index, core.applied_index)
            assert now[0] >= before[0], f"{name}: the commit index falls"
            assert now[1] >= before[1], f"{name}: the applied index falls"
            self.commit_seen[name] = (core, *now)
            if core.state == 2:
                self._check_leader(name)

    def _check_leader(self, name: str) -> None:
        """Election safety, and leader completeness: what was committed in a term is in the
        log of every leader of a later one. (One whose votes arrive late may come into office
        in an earlier term, and need not have it.)"""
        core = self.core(name)
        term = core.term
        assert self.leaders.setdefault(term, name) == name, f"two leaders in term {term}"
        self.committed_by[term] = max(self.committed_by.get(term, 0), core.commit_index)
        if term in self.completeness_checked:
            return
        self.completeness_checked.add(term)
        earlier = [index for by, index in self.committed_by.items() if by < term]
        log, last = self.nodes[name].log, max(earlier, default=0)
        assert last <= log.last_index, f"{name} leads in term {term} without committed {last}"
        for index in range(log.first_index, last + 1):
            if index in self.committed:
                assert log.term_at(index) == self.committed[index][0], (
                    f"{name} leads in term {term} with another entry {index} than committed"
                )

    def check_states(self) -> None:
        """After healing: every member holds the same, sound state."""
        names = self.members_up()
        machines = [self.nodes[name].machine for name in names]
        assert len({machine.digest() for machine in machines}) == 1, "states differ"
        for name, machine in zip(names, machines, strict=True):
            assert machine.problems() == [], f"the state of {name} is unsound"
