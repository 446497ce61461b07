"""The in-memory twin of the peer transport: a network that moves only when told to.

One `MemoryNetwork` connects any number of `MemoryTransport`s. Frames wait in one
queue per directed pair of nodes until a test calls `deliver`, so that a schedule of
deliveries, cuts, heals and losses is a plain sequence of calls and repeats exactly.
There is no event loop, no clock and no randomness here.

The contract is that of `cluster.transport.Transport`:

* order holds per directed pair and lane;
* `peer_disconnected` comes before the `peer_connected` of the next connection, and
  what was queued on one connection is never delivered on another;
* no event is delivered from inside `send`.

What only this twin can do, and a real network cannot on one connection, is
`drop` and the mutable `queue`: they exist to show that consensus survives losses,
duplicates and reordering that the real transport rules out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cluster.interfaces import PeerEvents


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
        for peer in self._network.ids:
            if self.connected(peer):
                events.peer_connected(peer)

    def unregister(self, group: int) -> None:
        """Stop delivering this group's frames. No event is delivered."""
        self.events.pop(group, None)

    def connected(self, peer: str) -> bool:
        return self._network.connected(self.self_id, peer)

    def send(self, peer: str, group: int, frame: bytes, *, bulk: bool = False) -> bool:
        """Queue one frame; False when the peer is not connected or the queue overflowed."""
        return self._network.enqueue(self.self_id, peer, MemoryFrame(group, frame, bulk))


class MemoryNetwork:
    """A set of nodes and the connections between them. All pairs start connected.

    `queue_frames_max` bounds each directed queue as the real transport does: overflow
    closes the connection, and both sides hear of it at the next call to the network.
    None: unbounded.
    """

    def __init__(self, ids: Iterable[str], *, queue_frames_max: int | None = None) -> None:
        self.ids = tuple(ids)
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("node ids must differ")
        self._queue_frames_max = queue_frames_max
        self._transports = {node: MemoryTransport(self, node) for node in self.ids}
        self._queues: dict[tuple[str, str], list[MemoryFrame]] = {
            (src, dst): [] for src in self.ids for dst in self.ids if src != dst
        }
        self._cut: set[frozenset[str]] = set()
        self._overflowed: list[tuple[str, str]] = []  # cut, both sides still to be told

    def transport(self, node: str) -> MemoryTransport:
        return self._transports[node]

    def connected(self, a: str, b: str) -> bool:
        return (a, b) in self._queues and frozenset((a, b)) not in self._cut

    def enqueue(self, src: str, dst: str, frame: MemoryFrame) -> bool:
        """What `MemoryTransport.send` does."""
        if not self.connected(src, dst):
            return False
        queue = self._queues[src, dst]
        if self._queue_frames_max is not None and len(queue) >= self._queue_frames_max:
            self._disconnect(src, dst)
            self._overflowed.append((src, dst))
            return False
        queue.append(frame)
        return True

    def deliver(self, src: str, dst: str, n: int | None = None, *, bulk: bool | None = None) -> int:
        """Hand the next `n` queued frames of src to dst; returns how many were handed over.

        None delivers what is queued now; frames sent to dst meanwhile wait. `bulk`
        restricts it to one lane, so that a test can let one overtake the other.
        Stops early when a handler breaks the connection.
        """
        self._announce_overflows()
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
        self._announce_overflows()
        return delivered

    def deliver_all(self, rounds_max: int = 100) -> int:
        """Deliver, in a fixed order of pairs, until nothing is queued; returns the count.

        Raises AssertionError after `rounds_max` rounds: nodes that answer each other for
        ever would otherwise hang the test.
        """
        total = 0
        for _ in range(rounds_max):
            count = sum(self.deliver(src, dst) for src, dst in self._queues)
            if count == 0:
                return total
            total += count
        raise AssertionError(f"still busy after {rounds_max} rounds, {total} frames")

    def cut(self, a: str, b: str) -> None:
        """Break the connection: both queues are emptied, then both sides are told."""
        self._announce_overflows()
        if self.connected(a, b):
            self._disconnect(a, b)
            self._announce_disconnected(a, b)

    def heal(self, a: str, b: str) -> None:
        """Connect again, with empty queues, and tell both sides."""
        self._announce_overflows()
        if a == b or self.connected(a, b):
            return
        self._cut.remove(frozenset((a, b)))
        for node, peer in ((a, b), (b, a)):
            for events in list(self._transports[node].events.values()):
                if self.connected(a, b):  # An earlier handler may have overflowed the queue.
                    events.peer_connected(peer)

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

        Its registrations are gone; register new ones, then `rejoin` or `heal`.
        """
        self._announce_overflows()
        self._transports[node].events.clear()
        self.isolate(node)

    def drop(self, src: str, dst: str) -> int:
        """Lose what is queued from src to dst, without a disconnection; returns the count."""
        self._announce_overflows()
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

    def _disconnect(self, a: str, b: str) -> None:
        self._cut.add(frozenset((a, b)))
        self._queues[a, b].clear()
        self._queues[b, a].clear()

    def _announce_disconnected(self, a: str, b: str) -> None:
        for node, peer in ((a, b), (b, a)):
            for events in list(self._transports[node].events.values()):
                events.peer_disconnected(peer)

    def _announce_overflows(self) -> None:
        while self._overflowed:
            self._announce_disconnected(*self._overflowed.pop(0))
