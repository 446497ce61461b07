"""What consensus may rely on, for sockets and for the in-memory twin alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import pytest

from cluster.interfaces import PeerTransport
from cluster.membership import Configuration, Member
from cluster.memory_transport import MemoryNetwork
from tests.unit.transport.nodes import LOOPBACK, Nodes, Pair, PeerAddress, Recorder, until

FRAMES_MAX = 100
BOTH = (Member("a"), Member("b"))  # at the addresses of the settings file


class Link(Protocol):
    """Two connected nodes, a and b; group 0 is registered on both."""

    a: PeerTransport
    b: PeerTransport
    at_a: Recorder
    at_b: Recorder

    async def settle(self, condition: Callable[[], object]) -> None:
        """Let the network work until `condition` holds."""

    async def cut(self) -> None: ...

    async def heal(self) -> None: ...

    def unclaimed_at_b(self) -> int: ...

    async def replace_a(self) -> None:
        """Start a again, with an empty data folder; `a` and `at_a` are new."""


class MemoryLink:
    def __init__(self) -> None:
        self._network = MemoryNetwork(["a", "b"], queue_frames_max=FRAMES_MAX)
        self._a, self._b = self._network.transport("a"), self._network.transport("b")
        self.a: PeerTransport = self._a
        self.b: PeerTransport = self._b
        self.at_a, self.at_b = Recorder(), Recorder()
        self.a.register(0, self.at_a)
        self.b.register(0, self.at_b)

    async def settle(self, condition: Callable[[], object]) -> None:
        self._network.deliver_all()
        assert condition()

    async def cut(self) -> None:
        self._network.cut("a", "b")

    async def heal(self) -> None:
        self._network.heal("a", "b")

    def unclaimed_at_b(self) -> int:
        return self._b.frames_unclaimed

    async def replace_a(self) -> None:
        self._network.crash("a")
        self._network.wipe("a")
        self.at_a = Recorder()
        self.a.register(0, self.at_a)
        self._network.rejoin("a")


class SocketLink:
    def __init__(self, pair: Pair, nodes: Nodes) -> None:
        self._pair = pair
        self._nodes = nodes
        self.a: PeerTransport = pair.a
        self.b: PeerTransport = pair.b
        self.at_a, self.at_b = pair.at_a, pair.at_b

    async def settle(self, condition: Callable[[], object]) -> None:
        await until(condition)

    async def cut(self) -> None:
        self._pair.relay.refusing = True
        self._pair.relay.cut()
        await until(lambda: not self.at_a.connected and not self.at_b.connected)

    async def heal(self) -> None:
        self._pair.relay.refusing = False
        await until(lambda: self.at_a.connected and self.at_b.connected)

    def unclaimed_at_b(self) -> int:
        return self._pair.b.frames_unclaimed

    async def replace_a(self) -> None:
        await self._pair.a.stop()
        self._nodes.incarnations["a"].clear()
        peers = {"b": PeerAddress(LOOPBACK, self._pair.relay.port)}
        self.a, self.at_a = await self._nodes.start("a", peers, incarnation="a new folder")
        await until(lambda: self.at_a.connected and self.at_b.connected)


@pytest.fixture(params=["memory", "sockets"])
async def link(request: pytest.FixtureRequest, nodes: Nodes) -> AsyncIterator[Link]:
    if request.param == "memory":
        yield MemoryLink()
    else:
        limits = {"send_queue_frames_max": FRAMES_MAX}
        yield SocketLink(await nodes.pair(limits, relay=True), nodes)


async def test_both_sides_hear_of_the_connection_once(link: Link) -> None:
    assert link.at_a.events == [("connected", "b")]
    assert link.at_b.events == [("connected", "a")]


async def test_a_late_group_hears_of_connected_peers_at_once(link: Link) -> None:
    late = Recorder()
    link.a.register(7, late)
    assert late.events == [("connected", "b")]


async def test_a_group_is_registered_once(link: Link) -> None:
    with pytest.raises(ValueError, match="already registered"):
        link.a.register(0, Recorder())


async def test_order_holds_within_a_lane_in_both_directions(link: Link) -> None:
    for number in range(40):
        assert link.a.send("b", 0, b"control %d" % number)
        assert link.a.send("b", 0, b"bulk %d" % number, bulk=True)
        assert link.b.send("a", 0, b"back %d" % number)
    await link.settle(lambda: len(link.at_b.frames) == 80 and len(link.at_a.frames) == 40)
    for lane in (b"control", b"bulk"):
        found = [frame for frame in link.at_b.frames if frame.startswith(lane)]
        assert found == [lane + b" %d" % number for number in range(40)]
    assert link.at_a.frames == [b"back %d" % number for number in range(40)]


async def test_groups_do_not_see_each_others_frames(link: Link) -> None:
    other = Recorder()
    link.b.register(2**32 - 1, other)
    link.a.send("b", 0, b"zero")
    link.a.send("b", 2**32 - 1, b"last")
    link.a.send("b", 0, b"")
    await link.settle(lambda: len(link.at_b.frames) == 2 and other.frames)
    assert link.at_b.frames == [b"zero", b""]
    assert other.frames == [b"last"]


async def test_frames_of_a_group_nobody_registered_are_counted(link: Link) -> None:
    link.a.send("b", 9, b"to nobody")
    link.a.send("b", 0, b"after")
    await link.settle(lambda: link.at_b.frames)
    assert link.unclaimed_at_b() == 1
    assert link.at_b.connected


async def test_sending_to_strangers_and_to_oneself_fails(link: Link) -> None:
    assert not link.a.send("z", 0, b"x")
    assert not link.a.send("a", 0, b"x")


async def test_a_cut_is_heard_once_and_ends_sending(link: Link) -> None:
    second = Recorder()
    link.a.register(1, second)
    await link.cut()
    for recorder in (link.at_a, link.at_b, second):
        assert recorder.count("disconnected") == 1
    assert not link.a.send("b", 0, b"x")
    await link.heal()
    assert link.at_a.events == [("connected", "b"), ("disconnected", "b"), ("connected", "b")]
    assert link.at_b.events == [("connected", "a"), ("disconnected", "a"), ("connected", "a")]
    link.a.send("b", 0, b"after")
    await link.settle(lambda: link.at_b.frames == [b"after"])


async def test_frames_of_one_connection_never_arrive_on_the_next(link: Link) -> None:
    for number in range(50):
        link.a.send("b", 0, b"before %d" % number)
    await link.cut()
    await link.heal()
    link.a.send("b", 0, b"after")
    await link.settle(lambda: b"after" in link.at_b.frames)
    again = link.at_b.log.index("connected a", 1)
    assert link.at_b.log[again + 1 :] == [b"after"]
    # What did arrive before is a prefix: one connection loses only its end.
    before = [frame for frame in link.at_b.log[:again] if isinstance(frame, bytes)]
    assert before == [b"before %d" % number for number in range(len(before))]


async def test_overflow_closes_the_connection_and_tells_later(link: Link) -> None:
    sent = 0
    while link.a.send("b", 0, b"x"):
        sent += 1
        assert sent <= FRAMES_MAX
    assert link.at_a.connected, "an event was delivered from inside send"
    assert not link.a.send("b", 0, b"x"), "frames after a lost one must not be queued"
    await link.settle(lambda: link.at_a.count("disconnected") == 1)
    await link.settle(lambda: link.at_b.count("disconnected") == 1)
    assert len(link.at_b.frames) <= sent


async def test_a_member_that_left_is_disconnected_and_may_return(link: Link) -> None:
    link.a.set_members(Configuration(5, BOTH[:1]))
    assert link.at_a.connected, "an event was delivered from inside set_members"
    assert not link.a.send("b", 0, b"x")
    assert link.a.incarnation("b") is None
    await link.settle(lambda: not link.at_a.connected)
    await link.settle(lambda: not link.at_b.connected)
    link.a.set_members(Configuration(6, BOTH))
    await link.settle(lambda: link.at_a.connected and link.at_b.connected)
    assert link.at_a.events == [("connected", "b"), ("disconnected", "b"), ("connected", "b")]
    assert link.at_b.events == [("connected", "a"), ("disconnected", "a"), ("connected", "a")]
    assert link.a.send("b", 0, b"after")
    await link.settle(lambda: link.at_b.frames == [b"after"])


async def test_leaving_and_returning_at_once_is_heard_as_both(link: Link) -> None:
    """Frames may have been lost in between, so nobody may take it for one connection."""
    link.a.send("b", 0, b"lost or not")
    link.a.set_members(Configuration(5, BOTH[:1]))
    link.a.set_members(Configuration(6, BOTH))
    late = Recorder()
    link.a.register(7, late)
    assert link.at_a.events == [("connected", "b")]
    await link.settle(lambda: link.at_a.count("connected") == 2)
    await link.settle(lambda: link.at_b.count("connected") == 2)
    assert link.at_a.events == [("connected", "b"), ("disconnected", "b"), ("connected", "b")]
    assert late.events == link.at_a.events
    assert link.at_b.events == [("connected", "a"), ("disconnected", "a"), ("connected", "a")]


async def test_the_same_members_again_change_nothing(link: Link) -> None:
    for index in (0, 0, 4, 4, 9):
        link.a.set_members(Configuration(index, BOTH))
        link.b.set_members(Configuration(index, BOTH))
    assert link.a.send("b", 0, b"x")
    await link.settle(lambda: link.at_b.frames == [b"x"])
    assert link.at_a.events == [("connected", "b")]
    assert link.at_b.events == [("connected", "a")]


async def test_a_node_outside_the_configuration_keeps_its_connections(link: Link) -> None:
    """It joins, or was removed: it must be able to hear that from the members."""
    link.a.set_members(Configuration(5, (Member("b"), Member("c"))))
    assert link.a.send("b", 0, b"x")
    await link.settle(lambda: link.at_b.frames == [b"x"])
    assert link.at_a.events == [("connected", "b")]


async def test_incarnations_are_recorded_on_first_contact(link: Link) -> None:
    assert link.a.incarnation("b") == link.a.recorded_incarnation("b") is not None
    assert link.a.incarnation("b") != link.b.incarnation("a")
    for stranger in ("a", "z"):
        assert link.a.incarnation(stranger) is None
        assert link.a.recorded_incarnation(stranger) is None
    recorded = link.a.recorded_incarnation("b")
    await link.cut()
    assert link.a.incarnation("b") is None
    assert link.a.recorded_incarnation("b") == recorded


async def test_a_replaced_data_folder_connects_and_is_told_apart(link: Link) -> None:
    before = link.b.incarnation("a")
    await link.replace_a()
    await link.settle(lambda: link.at_a.connected and link.at_b.connected)
    assert link.b.recorded_incarnation("a") == before
    assert link.b.incarnation("a") not in (None, before)
    # What the old folder had recorded is gone with it.
    assert link.a.recorded_incarnation("b") == link.a.incarnation("b") is not None
