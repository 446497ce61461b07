"""The unmodified library on the virtual clock and network that drive ours.

What is stock here: `SyncObj` with its log, its snapshots and its own journal and dump
files. What is not: the clock, the random numbers, and TCP, which is replaced by the same
`MemoryNetwork` as on our side. A message crosses it as a pickle, as it does in the library.
"""

from __future__ import annotations

import pickle
import random
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj import syncobj as upstream
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.memory_transport import MemoryNetwork
from tests.simulation.driver import Position

CLOCK_STEP_SECONDS = 0.0002  # each reading of the clock takes so long: the send loop needs it


class NamedNode(Node):
    """A node by its one-letter name; sets of them have the same order in every run."""

    def __hash__(self) -> int:
        return ord(self.id)


class StockTransport(Transport):
    """Upstream's transport interface on the in-memory network.

    As with one shared connection per pair of nodes: who is a member decides whom this node
    tells of connections, not whose messages arrive.
    """

    def __init__(self, network: MemoryNetwork, name: str, peers: Iterable[str]) -> None:
        super().__init__(None, None, [])
        self.end = network.transport(name)
        self.peers = set(peers)
        self.sent: list[tuple[str, dict[str, Any]]] = []  # everything ever sent

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return self.end.send(node.id, 0, pickle.dumps(message))

    def addNode(self, node: Node) -> None:
        self.peers.add(node.id)
        if self.end.connected(node.id):
            self._onNodeConnected(node)

    def dropNode(self, node: Node) -> None:
        self.peers.discard(node.id)

    def destroy(self) -> None:
        self.end.unregister(0)

    # The network's side: cluster.interfaces.PeerEvents.

    def peer_connected(self, peer: str) -> None:
        if peer in self.peers:
            self._onNodeConnected(NamedNode(peer))

    def peer_disconnected(self, peer: str) -> None:
        if peer in self.peers:
            self._onNodeDisconnected(NamedNode(peer))

    def peer_message(self, peer: str, frame: bytes) -> None:
        self._onMessageReceived(NamedNode(peer), pickle.loads(frame))


class StockNode(SyncObj):
    """A list of commands, replicated as the library's manual shows."""

    def __init__(
        self, name: str, peers: Iterable[str], transport: StockTransport, conf: SyncObjConf
    ) -> None:
        others = [NamedNode(peer) for peer in peers]
        super().__init__(NamedNode(name), others, conf, nodeClass=NamedNode, transport=transport)
        self.commands: list[bytes] = []  # set after the base class: what is set later is dumped

    @replicated
    def put(self, command: bytes) -> int:
        self.commands.append(command)
        return len(self.commands) - 1

    @replicated
    def poison(self) -> None:
        raise ValueError("a command that cannot be applied")

    def append_version(self, version: int) -> None:
        """A feature level that only newer builds know; setCodeVersion checks its own only."""
        self._applyCommand(pickle.dumps(version), None, upstream._COMMAND_TYPE.VERSION)


class StockOutcome:
    """What a client was told about one command: a result and a FAIL_REASON."""

    def __init__(self, command: bytes) -> None:
        self.command = command
        self.result: Any = None
        self.reason: int | None = None
        self.calls = 0

    def __call__(self, result: Any, reason: int) -> None:
        self.result, self.reason = result, reason
        self.calls += 1

    @property
    def acknowledged(self) -> bool:
        return self.calls == 1 and self.reason == FAIL_REASON.SUCCESS


class StockCluster:
    """Stock nodes named A, B, C, …, all connected and started; time stands still.

    folder: where journals and dumps are; None keeps both in memory. `strangers` are on the
    network and are no members. Other options go to SyncObjConf.
    """

    def __init__(
        self,
        monkeypatch,
        size: int = 3,
        seed: int = 0,
        folder: Path | None = None,
        strangers: str = "",
        **options: Any,
    ) -> None:
        self.ids = [chr(ord("A") + i) for i in range(size)]
        self.time = 1000.0
        self.clock_step = CLOCK_STEP_SECONDS
        self.folder = folder
        self.options = options
        self.network = MemoryNetwork([*self.ids, *strangers])
        self.nodes: dict[str, StockNode | None] = dict.fromkeys([*self.ids, *strangers])
        self.transports: dict[str, StockTransport] = {}
        self.outcomes: list[StockOutcome] = []
        monkeypatch.setattr(upstream, "monotonicTime", self._now)
        monkeypatch.setattr(upstream, "random", random.Random(seed))
        for name in self.ids:
            self.start(name)

    def _now(self) -> float:
        self.time += self.clock_step
        return self.time

    # --- Nodes ---------------------------------------------------------------------

    def start(self, name: str, peers: Iterable[str] | None = None) -> None:
        """Start `name`, on the files it left if there are any."""
        others = [other for other in (peers or self.ids) if other != name]
        transport = StockTransport(self.network, name, others)
        with warnings.catch_warnings():
            # The library leaves the file of its metadata for the collector to close.
            warnings.simplefilter("ignore", ResourceWarning)
            self.nodes[name] = StockNode(name, others, transport, self._configuration(name))
        self.transports[name] = transport
        transport.end.register(0, transport)

    def _configuration(self, name: str) -> SyncObjConf:
        options = {"autoTick": False, "useFork": False, "logCompactionMinTime": 1 << 30}
        if self.folder is not None:
            place = self.place(name)
            place.mkdir(exist_ok=True)
            options["journalFile"] = str(place / "journal")
            options["fullDumpFile"] = str(place / "dump")
        return SyncObjConf(**{**options, **self.options})

    def place(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name

    def crash(self, name: str) -> None:
        """End the process. What it wrote to files stays, synced or not."""
        self.core(name)._doDestroy()
        self.network.crash(name)
        self.nodes[name] = None

    def kill(self, name: str) -> None:
        """End the process as SIGKILL does: the files are as they are at this moment."""
        copy = self.place(f"{name} copy")
        shutil.copytree(self.place(name), copy)
        self.crash(name)
        shutil.rmtree(self.place(name))
        copy.rename(self.place(name))

    def restart(self, name: str) -> None:
        self.start(name)
        self.network.rejoin(name)

    def close(self) -> None:
        for name in self.up():
            self.crash(name)

    def core(self, name: str) -> StockNode:
        node = self.nodes[name]
        assert node is not None, f"{name} is down"
        return node

    # --- Moving things ---------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def turn(self, name: str) -> None:
        """One tick. What it raises is raised here; the library's thread logs it."""
        self.core(name).doTick()

    def sync(self, name: str) -> None:
        """Nothing: the library never fsyncs."""

    def up(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node is not None]

    def settle(self, rounds: int = 5, seconds: float = 0.11, quiet: bool = False) -> None:
        """Rounds of: time passes, every node ticks and hears everything.

        quiet: nobody starts an election.
        """
        for _ in range(rounds):
            self.advance(seconds)
            if quiet:
                self.no_elections()
            for name in self.up():
                self.turn(name)
            self.network.deliver_all()

    def no_elections(self, *names: str) -> None:
        for name in names or self.up():
            self.core(name)._SyncObj__raftElectionDeadline = self.time + 1e6

    def campaign(self, name: str) -> None:
        """Let `name` ask for votes; nothing is delivered."""
        self.no_elections()
        self.core(name)._SyncObj__raftElectionDeadline = 0
        self.turn(name)

    def elect(self, name: str) -> None:
        """Make `name` the leader by a real election."""
        self.campaign(name)
        self.network.deliver_all()
        self.settle(3, quiet=True)
        assert self.leader() == name, f"{name} did not win"

    def leader(self) -> str | None:
        """The leader with the highest term, if any."""
        leading = [name for name in self.up() if self.is_leader(name)]
        return max(leading, key=self.term, default=None)

    def put(self, name: str, command: bytes) -> StockOutcome:
        outcome = StockOutcome(command)
        self.outcomes.append(outcome)
        self.core(name).put(command, callback=outcome)
        return outcome

    def put_many(self, name: str, prefix: str, count: int) -> list[StockOutcome]:
        return [self.put(name, f"{prefix}{i}".encode()) for i in range(count)]

    def put_noise(self, name: str, count: int) -> None:
        """Commands that do not compress: a snapshot of them has many chunks."""
        rng = random.Random(1)
        for _ in range(count):
            self.put(name, rng.randbytes(200))

    def compact(self, name: str) -> None:
        """Ask for a snapshot and the removal of what it covers; takes two ticks of `name`."""
        self.core(name).forceLogCompaction()

    # --- Looking at them ---------------------------------------------------------------

    def is_leader(self, name: str) -> bool:
        return self.core(name)._isLeader()

    def term(self, name: str) -> int:
        return self.core(name).raftCurrentTerm

    def commit_index(self, name: str) -> int:
        return self.core(name).raftCommitIndex

    def applied_index(self, name: str) -> int:
        return self.core(name).raftLastApplied

    def first(self, name: str) -> Position:
        return Position(*self.core(name)._SyncObj__raftLog[0][1:])

    def last(self, name: str) -> Position:
        return Position(*self.core(name)._SyncObj__raftLog[-1][1:])

    def state(self, name: str) -> list[bytes]:
        return self.core(name).commands

    def members(self, name: str) -> str:
        """The members as `name` counts them, itself included."""
        return "".join(sorted([name, *(node.id for node in self.core(name).otherNodes)]))

    def match_index(self, leader: str, name: str) -> int:
        return self.core(leader)._SyncObj__raftMatchIndex[NamedNode(name)]

    def messages(self, src: str, dst: str) -> list[dict[str, Any]]:
        """What waits on the wire, decoded."""
        return [pickle.loads(frame.payload) for frame in self.network.queue(src, dst)]

    def receive(self, dst: str, src: str, message: dict[str, Any]) -> None:
        """Hand `dst` a message as if it had come from `src` just now."""
        self.transports[dst].peer_message(src, pickle.dumps(message))
