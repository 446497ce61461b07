"""The in-memory network: schedules are exactly what the test says."""

from __future__ import annotations

import pytest

from cluster.interfaces import PeerTransport
from cluster.memory_transport import MemoryFrame, MemoryNetwork
from tests.unit.transport.nodes import Recorder


def _network(**options: int) -> tuple[MemoryNetwork, dict[str, Recorder]]:
    network = MemoryNetwork("abc", **options)
    recorders = {node: Recorder() for node in network.ids}
    for node, recorder in recorders.items():
        network.transport(node).register(0, recorder)
    return network, recorders


def test_nothing_moves_by_itself() -> None:
    network, heard = _network()
    a: PeerTransport = network.transport("a")
    for number in range(3):
        assert a.send("b", 0, b"%d" % number)
    assert heard["b"].frames == []
    assert network.deliver("a", "b", 2) == 2
    assert heard["b"].frames == [b"0", b"1"]
    assert network.deliver("a", "b", 5) == 1
    assert network.deliver("a", "b") == 0


def test_one_lane_may_be_let_through_first() -> None:
    network, heard = _network()
    a = network.transport("a")
    for number in range(4):
        a.send("b", 0, b"%d" % number, bulk=number % 2 == 0)
    assert network.deliver("a", "b", 1, bulk=False) == 1
    assert network.deliver("a", "b", bulk=True) == 2
    assert network.deliver("a", "b") == 1
    assert heard["b"].frames == [b"1", b"0", b"2", b"3"]


def test_frames_sent_while_delivering_wait() -> None:
    network, heard = _network()

    class Echoing(Recorder):
        def peer_message(self, peer: str, frame: bytes) -> None:
            super().peer_message(peer, frame)
            network.transport("b").send(peer, 0, frame)

    network.transport("b").register(1, Echoing())
    network.transport("a").send("b", 1, b"x")
    assert network.deliver("a", "b") == 1
    assert heard["a"].frames == []
    assert network.pending() == 1
    assert network.deliver_all() == 1
    assert heard["a"].frames == [b"x"]


def test_endless_chatter_is_a_failure_and_not_a_hang() -> None:
    network, _ = _network()

    class Endless(Recorder):
        def __init__(self, node: str) -> None:
            super().__init__()
            self._node = network.transport(node)

        def peer_message(self, peer: str, frame: bytes) -> None:
            self._node.send(peer, 1, frame)

    for node in "ab":
        network.transport(node).register(1, Endless(node))
    network.transport("a").send("b", 1, b"x")
    with pytest.raises(AssertionError, match="still busy"):
        network.deliver_all()


def test_the_queue_can_be_edited() -> None:
    network, heard = _network()
    for number in range(3):
        network.transport("a").send("b", 0, b"%d" % number)
    queue = network.queue("a", "b")
    assert queue[0] == MemoryFrame(0, b"0", False)
    kept = queue.pop(1)
    queue.append(queue[0])
    network.deliver("a", "b")
    queue.append(kept)
    network.deliver("a", "b")
    assert heard["b"].frames == [b"0", b"2", b"0", b"1"]


def test_drop_loses_silently_and_cut_does_not() -> None:
    network, heard = _network()
    a = network.transport("a")
    a.send("b", 0, b"x")
    assert network.drop("a", "b") == 1
    assert heard["b"].events == [("connected", "a"), ("connected", "c")]
    a.send("b", 0, b"y")
    network.transport("b").send("a", 0, b"z")
    network.cut("a", "b")
    network.cut("b", "a")
    assert network.pending() == 0
    assert heard["a"].events[-1] == ("disconnected", "b")
    assert heard["b"].count("disconnected") == 1
    assert not a.send("b", 0, b"x")
    assert a.send("c", 0, b"x")


def test_isolation_and_return() -> None:
    network, heard = _network()
    network.isolate("c")
    assert network.connected("a", "b")
    assert not network.connected("a", "c")
    network.rejoin("c")
    assert heard["c"].count("connected") == 4
    assert heard["a"].events[-2:] == [("disconnected", "c"), ("connected", "c")]


def test_a_crash_is_heard_by_the_others_only() -> None:
    network, heard = _network()
    network.transport("a").send("b", 0, b"lost with the process")
    network.crash("a")
    assert heard["a"].count("disconnected") == 0
    assert heard["b"].count("disconnected") == 1
    reborn = Recorder()
    network.transport("a").register(0, reborn)
    assert reborn.events == []
    network.rejoin("a")
    assert reborn.events == [("connected", "b"), ("connected", "c")]
    assert network.pending() == 0


def test_a_handler_that_breaks_the_connection_ends_the_delivery() -> None:
    network, _ = _network()

    class Cutting(Recorder):
        def peer_message(self, peer: str, frame: bytes) -> None:
            super().peer_message(peer, frame)
            network.cut("a", "b")

    cutting = Cutting()
    network.transport("b").register(1, cutting)
    for _ in range(3):
        network.transport("a").send("b", 1, b"x")
    assert network.deliver("a", "b") == 1
    assert cutting.frames == [b"x"]
