"""Random schedules: which of all the things that can happen happens next.

Every seed has its own emphasis, so that some campaigns are mostly about disks, others about
members or the network. What happened is counted: a campaign that never did a thing proves
nothing about it.
"""

from __future__ import annotations

import random

from cluster.membership import Add, Member, Promote, Remove, Update
from tests.simulation.clients import Clients
from tests.simulation.harness import Outcome
from tests.simulation.world import World

NODES_MAX = 7
FAULTS = (
    "cut",
    "cut_one_way",
    "lose_frames",
    "duplicate",
    "pause",
    "slow_disk",
    "crash",
    "torn_crash",
    "kill",
    "power_loss_of_all",
    "clock_jump",
    "wipe",
    "snapshot",
    "corrupt_snapshot",
    "damage_state",
    "full_disk",
    "member_add",
    "member_promote",
    "member_remove",
    "member_update",
    "transfer",
)


class Schedule:
    """Random moves on a world."""

    def __init__(self, world: World, clients: Clients, rng: random.Random) -> None:
        self.world = world
        self.clients = clients
        self.rng = rng
        self.counts: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self.lossy: list[tuple[str, str]] = []  # lost frames: to be reconnected
        work = [
            (self.deliver, 45.0),
            (self.turn, 25.0),
            (self.sync, 20.0),
            (self.snapshot_step, 8.0),
            (self.clients.step, 25.0),
            (self.pump, 12.0),
            (self.heal, 2.5),
            (self.restart, 2.0),
            (self.duties, 1.0),
        ]
        faults = [
            (self.cut, 1.0),
            (self.cut_one_way, 0.5),
            (self.lose_frames, 3.0),
            (self.duplicate, 5.0),
            (self.pause, 0.4),
            (self.slow_disk, 0.4),
            (self.crash, 0.6),
            (self.torn_crash, 0.4),
            (self.kill, 0.5),
            (self.power_loss_of_all, 0.06),
            (self.clock_jump, 0.3),
            (self.wipe, 0.15),
            (self.snapshot, 1.2),
            (self.corrupt_snapshot, 0.4),
            (self.damage_state, 0.4),
            (self.full_disk, 0.2),
            (self.member_add, 0.3),
            (self.member_promote, 0.6),
            (self.member_remove, 0.25),
            (self.member_update, 0.2),
            (self.transfer, 0.4),
        ]
        pace = rng.choice((0.1, 0.3, 0.6))
        emphasis = [(move, weight * pace * rng.choice((0.2, 1, 1, 3))) for move, weight in faults]
        moves = work + emphasis
        self.moves = [move for move, _ in moves]
        self.weights = [weight for _, weight in moves]

    def step(self) -> None:
        self.rng.choices(self.moves, self.weights)[0]()
        self.world.check()
        self.world.advance(self.rng.choice((0.0005, 0.002, 0.006)))

    def count(self, name: str) -> None:
        self.counts[name] += 1

    # --- Work --------------------------------------------------------------------------

    def _awake(self) -> str | None:
        awake = self.world.awake()
        return self.rng.choice(awake) if awake else None

    def _pair(self) -> tuple[str, str]:
        a, b = self.rng.sample(self.world.ids, 2)
        return a, b

    def deliver(self) -> None:
        network, awake = self.world.network, self.world.awake()
        busy = [(a, b) for b in awake for a in self.world.ids if a != b and network.queue(a, b)]
        if busy:
            lane = self.rng.choice((None, None, None, True, False))
            network.deliver(*self.rng.choice(busy), self.rng.choice((1, 2, 5, 20)), bulk=lane)

    def pump(self) -> None:
        """A moment in which everything that can move does."""
        for name in self.world.awake():
            self.world.turn(name)
            if not self.world.disk_is_slow(name):
                self.world.sync(name)
                self.world.snapshot_step(name)
        awake = self.world.awake()
        for dst in awake:
            for src in self.world.ids:
                if src != dst:
                    self.world.network.deliver(src, dst)

    def turn(self) -> None:
        if name := self._awake():
            self.world.turn(name)

    def sync(self) -> None:
        name = self._awake()
        if name and not self.world.disk_is_slow(name):
            self.world.sync(name)

    def snapshot_step(self) -> None:
        name = self._awake()
        if name and not self.world.disk_is_slow(name):
            self.world.snapshot_step(name)

    def restart(self) -> None:
        if down := self.world.startable():
            name = self.rng.choice(down)
            self.world.start(name)
            for other in self.world.up():
                if self.rng.random() < 0.8:
                    self.world.network.heal(name, other)

    def duties(self) -> None:
        """What nodes do in the background."""
        self.world.record_incarnations()
        self.world.promote_learners()

    # --- Network -------------------------------------------------------------------------

    def cut(self) -> None:
        self.world.network.cut(*self._pair())
        self.count("cut")

    def cut_one_way(self) -> None:
        self.world.network.cut_one_way(*self._pair())
        self.count("cut_one_way")

    def heal(self) -> None:
        a, b = self._pair()
        if {a, b} <= set(self.world.up()):
            self.world.network.heal(a, b)

    def lose_frames(self) -> None:
        """Frames vanish without a word; the connection breaks some time later."""
        a, b = self._pair()
        if self.world.network.drop(a, b):
            self.lossy.append((a, b))
            self.count("lose_frames")
        elif self.lossy:
            self.world.network.cut(*self.lossy.pop())

    def duplicate(self) -> None:
        queue = self.world.network.queue(*self._pair())
        if queue:
            queue.insert(self.rng.randrange(len(queue) + 1), self.rng.choice(queue))
            self.count("duplicate")

    # --- Nodes ---------------------------------------------------------------------------

    def pause(self) -> None:
        """SIGSTOP: silent with open connections, for longer than an election."""
        if name := self._awake():
            self.world.pause(name, self.rng.choice((0.2, 1.5, 4.0)))
            self.count("pause")

    def slow_disk(self) -> None:
        if name := self._awake():
            self.world.slow_disk(name, self.rng.choice((0.3, 2.0, 12.0)))
            self.count("slow_disk")

    def clock_jump(self) -> None:
        if name := self._awake():
            self.world.jump(name, self.rng.choice((0.3, 2.0, 30.0)))
            self.count("clock_jump")

    def _victim(self) -> str | None:
        up = self.world.up()
        spare = len(up) > len(self.world.ids) // 2 + 1
        return self.rng.choice(up) if up and (spare or self.rng.random() < 0.2) else None

    def crash(self) -> None:
        if name := self._victim():
            self.world.crash(name)
            self.count("crash")

    def torn_crash(self) -> None:
        """Power loss in the middle of writing: some of what was written last survives."""
        if name := self._victim():
            self.world.crash(name, self.rng.randrange(1, 6))
            self.count("torn_crash")

    def kill(self) -> None:
        if name := self._victim():
            self.world.kill(name)
            self.count("kill")

    def power_loss_of_all(self) -> None:
        for name in self.world.up():
            self.world.crash(name, self.rng.randrange(3))
        self.count("power_loss_of_all")

    def full_disk(self) -> None:
        if name := self._awake():
            group = self.world.group(name)
            if group.status().room:
                self.count("full_disk")
            group.set_room(not group.status().room)

    def wipe(self) -> None:
        """Lose a folder, where the others can still make up for it."""
        configuration = self.world.settled_configuration()
        if configuration is None or len(configuration.voters) < 3:
            return
        name = self.rng.choice(sorted(configuration.ids))
        if name in self.world.removed:
            return
        self.world.wipe(name)
        self.count("wipe")

    # --- Snapshots -------------------------------------------------------------------------

    def snapshot(self) -> None:
        if name := self._awake():
            with self.world.as_node(name):
                if self.world.group(name).make_snapshot():
                    self.count("snapshot")

    def corrupt_snapshot(self) -> None:
        """Flip a bit in a snapshot where the other nodes can still make up for it."""
        configuration = self.world.settled_configuration()
        if configuration is None or len(configuration.voters) < 3:
            return
        name = self.rng.choice(sorted(configuration.ids & set(self.world.up())))
        disk = self.world.nodes[name].snapshots.disk
        if disk.partial is not None and disk.partial.data:
            disk.corrupt_partial(self.rng.randrange(len(disk.partial.data)))
        elif disk.held:
            index = self.rng.choice(sorted(disk.held))
            disk.corrupt(index, self.rng.randrange(len(disk.held[index].data)))
            self.world.damaged = name
        else:
            return
        self.count("corrupt_snapshot")

    def damage_state(self) -> None:
        """A node finds its state damaged, or hears that it differs from the others', where
        they can still make up for it."""
        configuration = self.world.settled_configuration()
        if configuration is None or len(configuration.voters) < 3:
            return
        name = self.rng.choice(sorted(configuration.ids & set(self.world.up())))
        core = self.world.core(name)
        reseed_from = core.applied_index if self.rng.random() < 0.5 else 0
        with self.world.as_node(name):
            self.world.group(name).quarantine("a test says so", reseed_from)
        self.world.damaged = name
        self.count("damage_state")

    # --- Members -----------------------------------------------------------------------

    def _change(self, change, name: str) -> None:
        """Ask the leader; an answer, if it comes, says what happened."""
        leader = self.world.leader()
        if leader is None or leader not in self.world.awake():
            return
        outcome = Outcome(b"")
        self.world.group(leader).change_membership(change, outcome)
        if outcome.error is None:
            self.count(name)

    def member_add(self) -> None:
        leader = self.world.leader()
        if leader is None:
            return
        fresh = [
            name for name in self.world.ids if name not in self.world.newest_configuration().ids
        ]
        fresh = [name for name in fresh if name not in self.world.removed]
        if not fresh and len(self.world.ids) < NODES_MAX:
            fresh = [chr(ord("A") + len(self.world.ids))]
            self.world.add_node(fresh[0])
        if fresh:
            self._change(Add(Member(fresh[0], peer=f"{fresh[0]}:1")), "member_add")

    def member_promote(self) -> None:
        learners = self.world.newest_configuration().ids - self.world.newest_configuration().voters
        if learners:
            self._change(Promote(self.rng.choice(sorted(learners))), "member_promote")

    def member_remove(self) -> None:
        members = self.world.newest_configuration().ids
        if len(members) > 3:
            self._change(Remove(self.rng.choice(sorted(members))), "member_remove")

    def member_update(self) -> None:
        if members := self.world.newest_configuration().ids:
            peer = f"host:{self.rng.randrange(65536)}"
            self._change(Update(self.rng.choice(sorted(members)), peer=peer), "member_update")

    def transfer(self) -> None:
        leader = self.world.leader()
        if leader is not None and leader in self.world.awake():
            target = self.rng.choice([None, *sorted(self.world.newest_configuration().voters)])
            outcome = Outcome(b"")
            self.world.group(leader).transfer_leadership(target, outcome)
            if outcome.error is None:
                self.count("transfer")
