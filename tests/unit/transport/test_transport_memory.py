"""The in-memory network: schedules are exactly what the test says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster.interfaces import PeerTransport
from cluster.membership import Configuration, Member
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


def _configuration(index: int, ids: str) -> Configuration:
    return Configuration(index, tuple(Member(node) for node in ids))


def test_both_ends_must_list_each_other() -> None:
    network, heard = _network()
    network.transport("a").set_members(_configuration(5, "ab"))
    network.transport("c").set_members(_configuration(4, "bc"))
    network.deliver_all()
    assert not network.connected("a", "c")
    network.transport("a").set_members(_configuration(6, "abc"))
    network.deliver_all()
    assert not network.connected("a", "c")
    assert heard["a"].events[-1] == ("disconnected", "c")
    network.transport("c").set_members(_configuration(6, "abc"))
    assert heard["a"].events[-1] == ("disconnected", "c")
    network.deliver("a", "b")
    assert network.connected("a", "c")
    assert heard["a"].events[-1] == ("connected", "c")
    assert heard["c"].events[-1] == ("connected", "a")


def test_a_bootstrap_configuration_that_names_nobody_lists_everybody() -> None:
    network, _ = _network()
    network.transport("a").set_members(_configuration(0, "ab"))
    assert not network.connected("a", "c")
    network.transport("a").set_members(_configuration(0, ""))
    network.deliver_all()
    assert network.connected("a", "c")


def test_a_cut_outlasts_changes_of_members_and_the_other_way_round() -> None:
    network, _ = _network()
    a = network.transport("a")
    network.cut("a", "b")
    a.set_members(_configuration(5, "ac"))
    a.set_members(_configuration(6, "abc"))
    network.deliver_all()
    assert not network.connected("a", "b")
    a.set_members(_configuration(7, "ac"))
    network.heal("a", "b")
    assert not network.connected("a", "b")
    a.set_members(_configuration(8, "abc"))
    network.deliver_all()
    assert network.connected("a", "b")


def test_a_node_may_be_added_and_is_connected_where_it_is_listed() -> None:
    network, heard = _network()
    network.transport("a").set_members(_configuration(5, "abc"))
    network.crash("c")
    d = network.add("d")
    joined = Recorder()
    d.register(0, joined)
    assert joined.events == [("connected", "b")]
    assert heard["b"].events[-1] == ("connected", "d")
    network.transport("a").set_members(_configuration(6, "abcd"))
    network.deliver_all()
    assert joined.events[-1] == ("connected", "a")
    assert d.send("a", 0, b"hello")
    network.deliver_all()
    assert heard["a"].frames == [b"hello"]
    with pytest.raises(ValueError, match="must differ"):
        network.add("d")


def test_a_link_that_is_cut_one_way_is_half_open() -> None:
    network, heard = _network()
    a, b = network.transport("a"), network.transport("b")
    a.send("b", 0, b"under way")
    network.cut_one_way("a", "b")
    assert a.send("b", 0, b"lost")
    assert b.send("a", 0, b"arrives")
    network.deliver_all()
    assert heard["b"].frames == []
    assert heard["a"].frames == [b"arrives"]
    network.heal("b", "a")
    assert a.send("b", 0, b"after")
    network.deliver_all()
    assert heard["b"].frames == [b"after"]
    assert heard["a"].count("disconnected") == heard["b"].count("disconnected") == 0


def test_a_half_open_link_that_closes_does_not_open_before_it_is_healed() -> None:
    network, heard = _network()
    network.cut_one_way("a", "b")
    network.transport("b").set_members(_configuration(5, "bc"))
    network.transport("b").set_members(_configuration(6, "abc"))
    network.deliver_all()
    assert not network.connected("a", "b")
    network.heal("a", "b")
    assert heard["b"].events[-2:] == [("disconnected", "a"), ("connected", "a")]


def test_records_outlive_a_crash_and_not_a_wipe() -> None:
    network, _ = _network()
    a, b = network.transport("a"), network.transport("b")
    network.wipe("a")
    assert b.incarnation("a") == "a-1", "an open connection does not notice"
    assert a.recorded_incarnation("b") is None
    network.crash("a")
    network.rejoin("a")
    assert b.incarnation("a") == network.incarnation("a") == "a-2"
    assert b.recorded_incarnation("a") == "a-1"
    assert a.recorded_incarnation("b") == "b-1"
    b.record_incarnation("a", "a-2")
    network.crash("b")
    assert b.recorded_incarnation("a") == "a-2"


def test_a_crash_forgets_the_members() -> None:
    network, _ = _network()
    network.transport("a").set_members(_configuration(5, "ab"))
    network.crash("a")
    network.rejoin("a")
    assert network.connected("a", "c")


def test_members_may_change_while_a_frame_is_handled() -> None:
    network, heard = _network()
    b = network.transport("b")

    class Removing(Recorder):
        def peer_message(self, peer: str, frame: bytes) -> None:
            super().peer_message(peer, frame)
            b.set_members(_configuration(5, "bc"))
            assert heard["b"].count("disconnected") == 0

    b.register(1, Removing())
    for _ in range(3):
        network.transport("a").send("b", 1, b"x")
    assert network.deliver("a", "b") == 1
    assert heard["b"].events[-1] == ("disconnected", "a")
    assert heard["a"].events[-1] == ("disconnected", "b")


def test_a_handler_that_closes_what_was_just_opened_leaves_everybody_informed() -> None:
    network, heard = _network(queue_frames_max=2)

    class Flooding(Recorder):
        def peer_connected(self, peer: str) -> None:
            super().peer_connected(peer)
            while network.transport("a").send(peer, 0, b"x"):
                pass

    network.cut("a", "b")
    flooding = Flooding()
    network.transport("a").register(1, flooding)
    network.heal("a", "b")
    assert not network.connected("a", "b")
    for recorder in (heard["a"], heard["b"], flooding):
        assert _of_pair(recorder)[-1] == "disconnected"


def _of_pair(recorder: Recorder) -> list[str]:
    """What was heard of a or b, which must alternate."""
    events = [event for event, peer in recorder.events if peer in "ab"]
    assert all(one != other for one, other in pairwise(events))
    return events


def test_a_connection_replaced_while_others_end_is_heard_as_two() -> None:
    network, heard = _network()
    a = network.transport("a")

    class Flapping(Recorder):
        def peer_disconnected(self, peer: str) -> None:
            super().peer_disconnected(peer)
            a.set_members(_configuration(5, "ac"))
            a.set_members(_configuration(6, "abc"))

    network.transport("c").register(1, Flapping())
    network.cut("b", "c")
    for node in "ab":
        assert _of_pair(heard[node]) == ["connected", "disconnected", "connected"]


def test_a_handler_that_reconnects_tells_nobody_twice() -> None:
    network, heard = _network()
    network.cut("a", "b")

    class Reconnecting(Recorder):
        def peer_connected(self, peer: str) -> None:
            super().peer_connected(peer)
            if peer == "b" and self.count("connected") < 3:
                network.cut("a", "b")
                network.heal("a", "b")

    network.transport("a").register(1, Reconnecting())
    network.heal("a", "b")
    for node in "ab":
        assert _of_pair(heard[node])[-1] == "connected"
