"""The adapter's cluster as a `Driver`: the harness, and the names that schedules use."""

from __future__ import annotations

from cluster import messages
from cluster.interfaces import SnapshotMeta
from cluster.messages import Message
from tests.simulation.driver import Position
from tests.simulation.harness import Cluster

ROUND_SECONDS = 0.11  # a little more than a heartbeat


class SafeCluster(Cluster):
    """Our cluster as a `Driver`."""

    def is_leader(self, name: str) -> bool:
        return self.group(name).role().name == "leader"

    def term(self, name: str) -> int:
        return self.core(name).term

    def commit_index(self, name: str) -> int:
        return self.core(name).commit_index

    def applied_index(self, name: str) -> int:
        return self.nodes[name].machine.applied_index

    def first(self, name: str) -> Position:
        log = self.nodes[name].log
        return Position(log.first_index, log.term_at(log.first_index) or 0)

    def last(self, name: str) -> Position:
        log = self.nodes[name].log
        return Position(log.last_index, log.last_term)

    def state(self, name: str) -> list[bytes]:
        return self.nodes[name].machine.commands

    # --- What only ours has ----------------------------------------------------------

    def match_index(self, leader: str, name: str) -> int:
        """Up to where `leader` counts the log of `name`."""
        return self.core(leader).match_index[name]

    def messages(self, src: str, dst: str) -> list[Message]:
        """What waits on the wire, decoded."""
        return [messages.decode(frame.payload) for frame in self.network.queue(src, dst)]

    def kinds(self, src: str, dst: str) -> list[str]:
        """The types of what waits on the wire."""
        return [message["type"] for message in self.messages(src, dst)]

    def newest(self, name: str) -> SnapshotMeta:
        """The newest snapshot that is durable on `name`."""
        meta = self.nodes[name].snapshots.newest
        assert meta is not None, f"{name} has no snapshot"
        return meta

    def write(self, name: str, prefix: str, count: int) -> None:
        """Commands through to every node that is connected, one entry each, and applied."""
        for i in range(count):
            self.put(name, f"{prefix}{i}".encode())
            self.settle(1, quiet=True)
        self.settle(2, quiet=True)  # they hear of the last commit, and apply it

    def pair_round(self, leader: str, follower: str, deliveries_max: int | None = None) -> None:
        """A heartbeat of `leader`, and what the two then have to say to each other, once."""
        self.advance(ROUND_SECONDS)
        self.no_elections()
        for name in (leader, follower):
            self.turn(name)
            self.sync(name)
        self.network.deliver(leader, follower, deliveries_max)
        self.turn(follower)
        self.sync(follower)
        self.network.deliver(follower, leader)
        self.turn(leader)

    def cut(self, name: str) -> None:
        """Let `name` cut its log, which it looks at a few times a second."""
        self.advance(ROUND_SECONDS)
        self.no_elections()
        self.turn(name)

    def crash_and_restart(self, name: str, keep_unsynced: int = 0) -> None:
        """Power loss, and back again: connected, and nobody starts an election."""
        self.crash(name, keep_unsynced)
        self.restart(name)
        self.no_elections()

    def lose_state(self, name: str) -> None:
        """Power loss of `name`, all of whose snapshots turn out to be damaged: its log is
        left, and no state. It is started, and not connected yet."""
        self.crash(name)
        disk = self.nodes[name].snapshots.disk
        for index in disk.held:
            disk.corrupt(index, 0)
        self.start(name)
        assert self.core(name).stateless, "it has its state"
        self.no_elections()
