"""Membership over real sockets: who is dialled, at which address, and who is shown the door."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cluster.framing import WELCOME
from cluster.membership import Configuration, Member
from cluster.transport import PeerAddress, Transport
from tests.unit.transport.nodes import LOOPBACK, NOWHERE, Nodes, Recorder, until


def _configuration(index: int, **peers: str) -> Configuration:
    """Members by id, with the address that the configuration gives them."""
    return Configuration(index, tuple(Member(node, peer=peer) for node, peer in peers.items()))


def _at(port: int) -> str:
    return f"{LOOPBACK}:{port}"


def _error(transport: Transport, peer: str) -> str:
    return transport.peer_states()[peer].last_error or ""


async def test_a_new_member_is_dialled_at_once(nodes: Nodes) -> None:
    pair = await nodes.pair()
    c, at_c = await nodes.start("c", {"a": NOWHERE, "b": NOWHERE})
    for node in (pair.a, pair.b):
        node.set_members(_configuration(5, a="", b="", c=_at(c.port)))
    await until(lambda: at_c.count("connected") == 2)
    await until(lambda: pair.at_a.count("connected") == pair.at_b.count("connected") == 2)
    assert sorted(pair.a.peer_states()) == ["b", "c"]
    assert pair.a.send("c", 0, b"welcome")
    await until(lambda: at_c.frames == [b"welcome"])
    late = Recorder()
    pair.b.register(7, late)
    assert sorted(late.events) == [("connected", "a"), ("connected", "c")]


async def test_a_node_that_joins_knocks_until_it_is_a_member(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"c": NOWHERE})
    joiner, at_joiner = await nodes.start("a", {"b": PeerAddress(LOOPBACK, b.port)})
    await until(lambda: "name-a (id a) is not a member that node name-b" in _error(joiner, "b"))
    assert at_b.events == at_joiner.events == []
    b.set_members(_configuration(5, a="", b="", c=""))
    assert at_b.events == []
    await until(lambda: at_b.connected and at_joiner.connected)


@pytest.mark.parametrize("removing", ["the dialler", "the acceptor"])
async def test_a_removed_member_is_disconnected_and_refused(nodes: Nodes, removing: str) -> None:
    pair = await nodes.pair(relay=True)
    if removing == "the dialler":
        stays, hears, left = pair.a, pair.at_a, "b"
    else:
        stays, hears, left = pair.b, pair.at_b, "a"
    stays.set_members(_configuration(5, **{stays.self_id: ""}))
    assert hears.connected
    assert not stays.send(left, 0, b"x")
    assert stays.peer_states() == {}
    await until(lambda: not pair.at_a.connected and not pair.at_b.connected)
    if stays is pair.b:
        reason = "name-a (id a) is not a member that node name-b knows"
        await until(lambda: reason in (pair.a_state.last_error or ""))
    else:
        # It dials no more; somebody else who comes under that id is refused.
        stranger = nodes.raw("b")
        assert not await stranger.shake_hands(pair.a.port)
        assert "(id b) is not a member that node name-a knows" in (stranger.refused or "")
        assert pair.relay.connections == 1
    assert pair.at_a.count("connected") == pair.at_b.count("connected") == 1


async def test_dialling_ends_with_the_membership(nodes: Nodes) -> None:
    a, _ = await nodes.start("a", {"b": NOWHERE})
    await until(lambda: a.peer_states()["b"].last_error)
    a.set_members(_configuration(5, a=""))
    names = {task.get_coro().__name__ for task in asyncio.all_tasks() if not task.cancelling()}
    assert "dial_forever" not in names


async def test_what_was_queued_still_reaches_a_member_that_left(nodes: Nodes) -> None:
    """So does the entry that tells it."""
    pair = await nodes.pair()
    frames = [b"%d" % number for number in range(1000)]
    for frame in frames:
        pair.a.send("b", 0, frame)
    pair.a.set_members(_configuration(5, a=""))
    await until(lambda: not pair.at_b.connected)
    assert pair.at_b.frames == frames
    assert pair.at_a.events == [("connected", "b"), ("disconnected", "b")]


async def test_a_member_that_left_and_does_not_read_is_cut_off(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE}, limits={"stop_ms_max": 50})
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    for _ in range(40):
        assert b.send("a", 0, bytes(1 << 20))
    b.set_members(_configuration(5, b=""))
    await until(lambda: not at_b.connected)
    await until(lambda: not b._connector.connections)


async def test_a_member_that_leaves_during_its_handshake_is_never_announced(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    peer = nodes.raw()
    await peer.connect(b.port)
    step = peer.handshake.begin()
    while not peer.handshake.done:
        assert step.kind is not None
        peer.write_frame(step.kind, step.payload)
        frame = await peer.read_frame()
        assert frame is not None
        step = peer.handshake.receive(frame.kind, frame.payload)
    assert frame.kind == WELCOME
    b.set_members(_configuration(5, b=""))
    assert step.kind is not None
    peer.write_frame(step.kind, step.payload)
    peer.send(b"still here")
    assert await peer.closed_by_other_side()
    assert at_b.log == []


async def test_members_may_change_while_a_frame_is_handled(nodes: Nodes) -> None:
    b = nodes.make("b", {"a": NOWHERE})
    at_b = Recorder()

    class Removing(Recorder):
        def peer_message(self, peer: str, frame: bytes) -> None:
            super().peer_message(peer, frame)
            b.set_members(_configuration(5, b=""))
            assert at_b.connected, "an event was delivered from inside set_members"

    removing = Removing()
    b.register(0, at_b)
    b.register(1, removing)
    await b.start()
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    peer.send(b"remove me", group=1)
    peer.send(b"too late", group=1)
    assert await peer.closed_by_other_side()
    await until(lambda: not at_b.connected)
    assert removing.frames == [b"remove me"]
    assert removing.events == at_b.events == [("connected", "a"), ("disconnected", "a")]


async def test_members_may_change_while_a_disconnection_is_heard(nodes: Nodes) -> None:
    b = nodes.make("b", {"a": NOWHERE})

    class Removing(Recorder):
        def peer_disconnected(self, peer: str) -> None:
            super().peer_disconnected(peer)
            b.set_members(_configuration(5, b=""))

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    removing = Removing()
    b.register(0, removing)
    await b.start()
    first, second = nodes.raw(), nodes.raw(epoch=2)
    assert await first.shake_hands(b.port)
    await until(lambda: removing.connected)
    # It is to replace the first, whose end is heard while this one opens.
    assert await second.shake_hands(b.port)
    assert await second.closed_by_other_side()
    assert removing.events == [("connected", "a"), ("disconnected", "a")]
    assert b.peer_states() == {}
    assert reported == []


async def test_a_changed_address_is_dialled_from_the_next_attempt_on(nodes: Nodes) -> None:
    pair = await nodes.pair(relay=True)
    moved = await nodes.relay(pair.b.port)
    pair.a.set_members(_configuration(5, a="", b=_at(moved.port)))
    assert pair.a_state.address == _at(moved.port)
    assert pair.a.send("b", 0, b"over the old connection")
    await until(lambda: pair.at_b.frames)
    assert moved.connections == 0
    pair.relay.cut()
    await until(lambda: pair.at_a.count("connected") == pair.at_b.count("connected") == 2)
    assert moved.connections == pair.relay.connections == 1


async def test_dialling_goes_round_the_addresses_the_configurations_first(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    file, agreed = await nodes.relay(b.port), await nodes.relay(b.port)
    a = nodes.make("a", {"b": PeerAddress(LOOPBACK, file.port)})
    at_a = Recorder()
    a.register(0, at_a)
    a.set_members(_configuration(5, a="", b=_at(agreed.port)))  # Before the start.
    await a.start()
    await until(lambda: at_a.connected and at_b.connected)
    assert (agreed.connections, file.connections) == (1, 0)
    agreed.refusing = True
    agreed.cut()
    await until(lambda: at_a.count("connected") == 2)
    assert file.connections == 1
    file.refusing = True
    file.cut()
    both = (f"cannot connect to {_at(agreed.port)}", f"cannot connect to {_at(file.port)}")
    await until(lambda: all(text in _error(a, "b") for text in both))
    agreed.refusing = False
    await until(lambda: at_a.connected)


async def test_an_address_where_somebody_else_lives_by_now_does_no_harm(nodes: Nodes) -> None:
    b, _ = await nodes.start("b", {"a": NOWHERE})
    c, at_c = await nodes.start("c", {"a": NOWHERE})
    a, at_a = await nodes.start("a", {"b": PeerAddress(LOOPBACK, b.port)})
    await until(lambda: at_a.connected)
    a.set_members(_configuration(5, a="", b=_at(c.port)))
    await b.stop()
    port = b.port
    await until(lambda: "(id c) answers at the address of node id b" in _error(a, "b"))
    await nodes.start("b", {"a": NOWHERE}, listen_port=port)
    await until(lambda: at_a.connected)
    assert at_a.events == [("connected", "b"), ("disconnected", "b"), ("connected", "b")]
    assert at_c.events == []


async def test_a_member_without_a_usable_address_says_so_and_may_still_come(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cluster")
    b, at_b = await nodes.start("b", {})
    b.set_members(_configuration(5, a="", b="", c="nowhere at all", d=""))
    await until(lambda: "no address" in _error(b, "c") and "no address" in _error(b, "d"))
    assert "peer c cannot be dialled: 'nowhere at all' is not host:port" in caplog.text
    assert b.peer_states()["c"].address == ""
    dialler = nodes.raw("a")
    assert await dialler.shake_hands(b.port)
    await until(lambda: at_b.connected)


async def test_the_settings_files_members_return_with_the_bootstrap_configuration(
    nodes: Nodes,
) -> None:
    """The entry that set others was not committed, and was taken back."""
    pair = await nodes.pair()
    pair.a.set_members(_configuration(5, a=""))
    await until(lambda: not pair.at_a.connected)
    pair.a.set_members(_configuration(0, a="", b=""))
    await until(lambda: pair.at_a.connected and pair.at_b.connected)
    assert sorted(pair.a.peer_states()) == ["b"]


async def test_initial_members_may_differ_once_one_side_has_started(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE}, bootstrap_digest=b"five")
    peers = {"b": PeerAddress(LOOPBACK, b.port)}
    a, at_a = await nodes.start("a", peers, bootstrap_digest=b"three")
    await until(lambda: "the initial members differ on node name-a" in _error(a, "b"))
    b.set_members(_configuration(0, a="", b=""))
    assert at_a.events == at_b.events == []
    b.set_members(_configuration(5, a="", b=""))
    await until(lambda: at_a.connected and at_b.connected)
    # Taken back: what the file says counts again, from the next handshake on.
    b.set_members(_configuration(0, a="", b=""))
    assert at_b.connected
    a.set_members(_configuration(5, a=""))
    await until(lambda: not at_b.connected)
    a.set_members(_configuration(0))
    await until(lambda: "the initial members differ" in _error(a, "b"))


async def test_members_may_change_after_the_stop(nodes: Nodes) -> None:
    b, _ = await nodes.start("b", {"a": NOWHERE})
    await b.stop()
    b.set_members(_configuration(5, b="", c=_at(b.port)))
    assert sorted(b.peer_states()) == ["c"]
    names = {task.get_coro().__name__ for task in asyncio.all_tasks()}
    assert "dial_forever" not in names
