"""The in-memory twin of the peer transport: a network that moves only when told to.

One `MemoryNetwork` connects any number of `MemoryTransport`s. Frames wait in one
queue per directed pair of nodes until a test calls `deliver`, so that a schedule of
deliveries, cuts, heals and losses is a plain sequence of calls and repeats exactly.
There is no event loop, no clock and no randomness here.

The contract is that of `cluster.transport.Transport`:

* order holds per directed pair and lane;
* `peer_disconnected` comes before the `peer_connected` of the next connection, and
  what was queued on one connection is never delivered on another;
* no event is delivered from inside `send` or `set_members`: events that these cause
  come with the next call to the network.

A pair is connected while nothing is cut between them and each lists the other as a
member. A node that never called `set_members`, or only with a bootstrap configuration
that names nobody, lists everybody.

What it leaves out: a group that is registered while connections are open is not made known
to the peers again (`PeerEvents.peer_connected`), since here all groups begin before any frame.

What only this twin can do, and a real network cannot on one connection, is `drop`,
`cut_one_way` and the mutable `queue`: they exist to show that consensus survives losses,
duplicates and reordering that the real transport rules out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from cluster.interfaces import PeerEvents
from cluster.membership import Configuration


class MemoryFrame(NamedTuple):
    """One queued frame, as passed to `send`."""

    group: int
    payload: bytes
    bulk: bool


class MemoryTransport:
    """One node's end of a `MemoryNetwork`; a `PeerTransport`."""

    def __init__(self, network: MemoryNetwork, self_id: str) -> None:
        self._network = network
        self.self_id = self_id
        self.events: dict[int, PeerEvents] = {}
        self.frames_unclaimed = 0  # delivered for a group that nobody registered

    def register(self, group: int, events: PeerEvents) -> None:
        """Deliver this group's frames to `events`; announces already-connected peers."""
        if group in self.events:
            raise ValueError(f"group {group} is already registered on {self.self_id}")
        self.events[group] = events
        for peer in self._network.announced(self.self_id):
            events.peer_connected(peer)

    def unregister(self, group: int) -> None:
        """Stop delivering this group's frames. No event is delivered."""
        self.events.pop(group, None)

    def connected(self, peer: str) -> bool:
        return self._network.connected(self.self_id, peer)

    def send(self, peer: str, group: int, frame: bytes, *, bulk: bool = False) -> bool:
        """Queue one frame; False when the peer is not connected or the queue overflowed."""
        return self._network.enqueue(self.self_id, peer, MemoryFrame(group, frame, bulk))

    def flush_if_alone(self) -> None:
        """Nothing: what is queued waits for the schedule."""

    def incarnation(self, peer: str) -> str | None:
        """Incarnation of the data folder at the other end of the open connection."""
        return self._network.incarnation_seen(self.self_id, peer)

    def recorded_incarnation(self, peer: str) -> str | None:
        """The one seen on first contact, or set by `record_incarnation` since."""
        return self._network.recorded.get((self.self_id, peer))

    def record_incarnation(self, peer: str, incarnation: str) -> None:
        """Replace the record, for a committed configuration that names a new data folder."""
        self._network.recorded[self.self_id, peer] = incarnation

    def set_members(self, configuration: Configuration) -> None:
        """Connect to these nodes and to no others. Idempotent."""
        everybody = not configuration.index and not configuration.members
        self._network.list_members(self.self_id, None if everybody else configuration.ids)


class MemoryNetwork:
    """A set of nodes and the connections between them. All pairs start connected.

    `queue_frames_max` bounds each directed queue as the real transport does: overflow
    closes the connection, and both sides hear of it at the next call to the network.
    None: unbounded.
    """

    def __init__(self, ids: Iterable[str], *, queue_frames_max: int | None = None) -> None:
        self.ids: tuple[str, ...] = ()
        self.recorded: dict[tuple[str, str], str] = {}  # (node, peer): on disk, as it were
        self._queue_frames_max = queue_frames_max
        self._transports: dict[str, MemoryTransport] = {}
        self._queues: dict[tuple[str, str], list[MemoryFrame]] = {}
        self._folders: dict[str, int] = {}  # how many data folders each node has had
        self._members: dict[str, frozenset[str] | None] = {}  # whom a node lists; None: all
        self._down: set[str] = set()  # crashed, and nothing of theirs was healed since
        self._cut: set[frozenset[str]] = set()
        self._lossy: set[tuple[str, str]] = set()  # directed: cut one way
        # Open connections: the incarnation at each end, as it was said in the handshake.
        self._open: dict[frozenset[str], dict[str, str]] = {}
        # (node, peer): whose peer_connected was delivered and whose end was not.
        self._announced: dict[tuple[str, str], None] = {}
        self._unsettled = False  # connections or announcements may be due
        for node in ids:
            self._add(node)
        self._settle()

    def add(self, node: str) -> MemoryTransport:
        """A new node, connected where it is wanted; returns its transport."""
        self._add(node)
        self._settle()
        return self._transports[node]

    def transport(self, node: str) -> MemoryTransport:
        return self._transports[node]

    def connected(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self._open

    def incarnation(self, node: str) -> str:
        """Of the data folder that `node` has now."""
        return f"{node}-{self._folders[node]}"

    def wipe(self, node: str) -> None:
        """Give `node` a new, empty data folder; connections that are open do not notice."""
        self._folders[node] += 1
        for key in [key for key in self.recorded if key[0] == node]:
            del self.recorded[key]

    def enqueue(self, src: str, dst: str, frame: MemoryFrame) -> bool:
        """What `MemoryTransport.send` does."""
        if not self.connected(src, dst):
            return False
        if (src, dst) in self._lossy:
            return True
        queue = self._queues[src, dst]
        if self._queue_frames_max is not None and len(queue) >= self._queue_frames_max:
            self._cut.add(frozenset((src, dst)))
            self._close(src, dst)
            return False
        queue.append(frame)
        return True

    def deliver(self, src: str, dst: str, n: int | None = None, *, bulk: bool | None = None) -> int:
        """Hand the next `n` queued frames of src to dst; returns how many were handed over.

        None delivers what is queued now; frames sent to dst meanwhile wait. `bulk`
        restricts it to one lane, so that a test can let one overtake the other.
        Stops early when a handler breaks the connection.
        """
        self._settle()
        queue = self._queues[src, dst]
        left = len(queue) if n is None else n
        delivered = 0
        receiver = self._transports[dst]
        while left > 0:
            at = next((i for i, f in enumerate(queue) if bulk is None or f.bulk == bulk), None)
            if at is None:
                break
            frame = queue.pop(at)
            left -= 1
            delivered += 1
            events = receiver.events.get(frame.group)
            if events is None:
                receiver.frames_unclaimed += 1
            else:
                events.peer_message(src, frame.payload)
        self._settle()
        return delivered

    def deliver_all(self, rounds_max: int = 100) -> int:
        """Deliver, in a fixed order of pairs, until nothing is queued; returns the count.

        Raises AssertionError after `rounds_max` rounds: nodes that answer each other for
        ever would otherwise hang the test.
        """
        total = 0
        for _ in range(rounds_max):
            count = sum(self.deliver(src, dst) for src, dst in list(self._queues))
            if count == 0:
                return total
            total += count
        raise AssertionError(f"still busy after {rounds_max} rounds, {total} frames")

    def cut(self, a: str, b: str) -> None:
        """Break the connection: both queues are emptied, then both sides are told."""
        self._settle()
        if a != b:
            self._cut.add(frozenset((a, b)))
            self._close(a, b)
            self._settle()

    def cut_one_way(self, src: str, dst: str) -> None:
        """Lose what src sends to dst, without a disconnection: a half-open link.

        Frames under way are lost too. Once such a link is closed, it does not open again
        before `heal`: a handshake needs both directions.
        """
        self._settle()
        self._lossy.add((src, dst))
        self._queues[src, dst].clear()

    def heal(self, a: str, b: str) -> None:
        """Undo `cut`, `cut_one_way` and an overflow. A closed connection opens again, with
        empty queues, if both sides still list each other; then both are told."""
        self._settle()
        self._cut.discard(frozenset((a, b)))
        self._lossy -= {(a, b), (b, a)}
        self._down -= {a, b}
        self._unsettled = True
        self._settle()

    def isolate(self, node: str) -> None:
        """Cut `node` off from every other node."""
        for other in self.ids:
            if other != node:
                self.cut(node, other)

    def rejoin(self, node: str) -> None:
        """Heal every connection of `node`."""
        for other in self.ids:
            if other != node:
                self.heal(node, other)

    def crash(self, node: str) -> None:
        """End the process of `node`: it hears nothing more, its peers see it leave.

        Its registrations and the members that it was told are gone; register new ones,
        then `rejoin` or `heal`. What it recorded stays.
        """
        self._settle()
        self._transports[node].events.clear()
        self.isolate(node)
        self._members[node] = None
        self._down.add(node)

    def drop(self, src: str, dst: str) -> int:
        """Lose what is queued from src to dst, without a disconnection; returns the count."""
        self._settle()
        queue = self._queues[src, dst]
        count = len(queue)
        queue.clear()
        return count

    def queue(self, src: str, dst: str) -> list[MemoryFrame]:
        """The queue itself, oldest first: tests may remove, keep, duplicate or reorder."""
        return self._queues[src, dst]

    def pending(self) -> int:
        """Frames queued on all pairs."""
        return sum(len(queue) for queue in self._queues.values())

    # What the transports ask.

    def announced(self, node: str) -> list[str]:
        """The peers that the groups of `node` have heard to be connected."""
        return [peer for peer in self.ids if (node, peer) in self._announced]

    def incarnation_seen(self, node: str, peer: str) -> str | None:
        ends = self._open.get(frozenset((node, peer)))
        return None if ends is None else ends[peer]

    def list_members(self, node: str, members: frozenset[str] | None) -> None:
        """`node` wants connections to these only; None: to everybody."""
        self._members[node] = members
        for peer in self.ids:
            if peer != node and not self._listed(node, peer):
                self._close(node, peer)
        self._unsettled = True

    # Connections. `_settle` alone delivers events.

    def _add(self, node: str) -> None:
        if node in self._transports:
            raise ValueError("node ids must differ")
        for other in self.ids:
            self._queues[other, node] = []
            self._queues[node, other] = []
            if other in self._down:
                self._cut.add(frozenset((node, other)))
        self.ids = (*self.ids, node)
        self._transports[node] = MemoryTransport(self, node)
        self._folders[node] = 1
        self._members[node] = None
        self._unsettled = True

    def _listed(self, node: str, peer: str) -> bool:
        members = self._members[node]
        return members is None or peer in members

    def _wanted(self, a: str, b: str) -> bool:
        return (
            frozenset((a, b)) not in self._cut
            and (a, b) not in self._lossy
            and (b, a) not in self._lossy
            and self._listed(a, b)
            and self._listed(b, a)
        )

    def _close(self, a: str, b: str) -> None:
        if self._open.pop(frozenset((a, b)), None) is not None:
            self._queues[a, b].clear()
            self._queues[b, a].clear()
            self._unsettled = True

    def _settle(self) -> None:
        """Deliver the disconnections that are due, then open what is wanted and say so."""
        while self._unsettled:
            self._unsettled = False
            for node, peer in list(self._announced):
                if not self.connected(node, peer) and (node, peer) in self._announced:
                    self._announce_end(node, peer)
            for a, b in combinations(self.ids, 2):
                due = (a, b) in self._announced or (b, a) in self._announced
                if not due and not self.connected(a, b) and self._wanted(a, b):
                    self._connect(a, b)

    def _announce_end(self, node: str, peer: str) -> None:
        del self._announced[node, peer]
        for events in list(self._transports[node].events.values()):
            events.peer_disconnected(peer)

    def _connect(self, a: str, b: str) -> None:
        self._open[frozenset((a, b))] = {node: self.incarnation(node) for node in (a, b)}
        for node, peer in ((a, b), (b, a)):
            self.recorded.setdefault((node, peer), self.incarnation(peer))
        for node, peer in ((a, b), (b, a)):
            # A handler of the first may have closed it, and even opened it again.
            if self.connected(a, b) and (node, peer) not in self._announced:
                self._announced[node, peer] = None
                for events in list(self._transports[node].events.values()):
                    events.peer_connected(peer)
