"""Who gets in over real sockets, what both operators see, and what strangers can cost."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from cluster.framing import CHALLENGE, HELLO, REFUSED
from cluster.transport import PeerAddress, Transport
from tests.unit.transport.nodes import LOOPBACK, NOWHERE, Nodes, Recorder, until


async def _mismatched(
    nodes: Nodes, at_a: dict[str, Any], at_b: dict[str, Any]
) -> tuple[Transport, Recorder, Transport, Recorder]:
    b, heard_b = await nodes.start(**{"node_id": "b", "peers": {"a": NOWHERE}} | at_b)
    peers = {"b": PeerAddress(LOOPBACK, b.port)}
    a, heard_a = await nodes.start(**{"node_id": "a", "peers": peers} | at_a)
    return a, heard_a, b, heard_b


@pytest.mark.parametrize(
    ("at_a", "at_b", "reason"),
    [
        ({"secret": b"another secret, also long enough"}, {}, "the cluster secrets differ"),
        ({"cluster_id": "cluster-2"}, {}, "belongs to cluster cluster-2"),
        ({"config_digest": b"\x09"}, {}, "limits differ on node name-a"),
        (
            {"bootstrap_digest": b"three"},
            {"bootstrap_digest": b"five"},
            "the initial members differ on node name-a",
        ),
    ],
)
async def test_a_refusal_by_the_acceptor_is_seen_on_both_sides(
    nodes: Nodes, at_a: dict[str, Any], at_b: dict[str, Any], reason: str
) -> None:
    a, heard_a, b, heard_b = await _mismatched(nodes, at_a, at_b)
    await until(lambda: reason in (a.peer_states()["b"].last_error or ""))
    await until(lambda: reason in (b.peer_states()["a"].last_error or ""))
    assert heard_a.events == heard_b.events == []
    assert not a.send("b", 0, b"x")
    assert b.connections_refused >= 1


async def test_a_refusal_by_the_dialler_is_seen_on_both_sides(nodes: Nodes) -> None:
    reason = "(id c) answers at the address of node id b"
    a, heard_a, b, heard_b = await _mismatched(nodes, {}, {"node_id": "c"})
    await until(lambda: reason in (a.peer_states()["b"].last_error or ""))
    await until(lambda: reason in (b.peer_states()["a"].last_error or ""))
    assert heard_a.events == heard_b.events == []


async def test_an_unknown_node_is_refused(nodes: Nodes) -> None:
    a, heard_a, _, heard_b = await _mismatched(nodes, {"node_id": "A"}, {})
    await until(lambda: "is not a member" in (a.peer_states()["b"].last_error or ""))
    assert heard_a.events == heard_b.events == []


async def test_a_node_that_reaches_itself_says_so(nodes: Nodes) -> None:
    a = nodes.make("a", {"b": NOWHERE})
    await a.start()
    impostor = nodes.raw("a")
    assert not await impostor.shake_hands(a.port)
    assert "connects to itself" in (impostor.refused or "")


async def test_the_first_incarnation_is_recorded_before_the_peer_is_announced(
    nodes: Nodes,
) -> None:
    order: list[str] = []

    class Ordered(Recorder):
        def peer_connected(self, peer: str) -> None:
            order.append(f"connected {peer}")
            super().peer_connected(peer)

    b = nodes.make(
        "b", {"a": NOWHERE}, on_incarnation=lambda peer, found: order.append(f"{peer}={found}")
    )
    recorder = Ordered()
    b.register(0, recorder)
    await b.start()
    for epoch in (1, 2):
        peer = nodes.raw(epoch=epoch)
        assert await peer.shake_hands(b.port)
        await until(lambda n=epoch: recorder.count("connected") == n)
        peer.close()
        await until(lambda: not recorder.connected)
    assert order == ["a=folder-of-a", "connected a", "connected a"]


async def test_a_replaced_data_folder_connects_and_shows(nodes: Nodes) -> None:
    """Only so can the node come back; what its votes are worth is decided elsewhere."""
    known = {"known_incarnations": {"a": "older"}}
    a, heard_a, b, heard_b = await _mismatched(nodes, {}, known)
    await until(lambda: heard_a.connected and heard_b.connected)
    assert b.incarnation("a") == "folder-of-a"
    assert b.recorded_incarnation("a") == "older"
    assert b.peer_states()["a"].replaced
    assert not a.peer_states()["b"].replaced
    assert nodes.incarnations["b"] == {}, "a record changes only when it is told to"
    b.record_incarnation("a", "folder-of-a")
    assert nodes.incarnations["b"] == {"a": "folder-of-a"}
    assert b.recorded_incarnation("a") == "folder-of-a"
    assert not b.peer_states()["a"].replaced
    await a.stop()
    await until(lambda: not heard_b.connected)
    assert b.incarnation("a") is None


async def test_a_record_that_cannot_be_stored_is_not_believed(nodes: Nodes) -> None:
    def fail(peer: str, found: str) -> None:
        raise OSError(28, "No space left on device")

    b = nodes.make("b", {"a": NOWHERE}, known_incarnations={"a": "old"}, on_incarnation=fail)
    b.record_incarnation("a", "old")  # Nothing to store.
    with pytest.raises(OSError, match="No space left"):
        b.record_incarnation("a", "new")
    assert b.recorded_incarnation("a") == "old"


async def test_two_processes_under_one_id_do_not_cut_each_other_off(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    right = nodes.raw()
    assert await right.shake_hands(b.port)
    await until(lambda: at_b.connected)
    other = nodes.raw(incarnation="a copy's folder", boot=b"copyboot")
    assert not await other.shake_hands(b.port)
    assert "connected already, with another data folder" in (other.refused or "")
    assert at_b.events == [("connected", "a")]
    right.close()
    await until(lambda: not at_b.connected)
    other = nodes.raw(incarnation="a copy's folder", boot=b"copyboot")
    assert await other.shake_hands(b.port)
    await until(lambda: at_b.connected)
    back = nodes.raw(boot=b"backboot")  # The folder that is recorded has precedence.
    assert await back.shake_hands(b.port)
    await until(lambda: b.incarnation("a") == "folder-of-a")
    assert await other.closed_by_other_side()


async def test_a_peer_is_not_announced_when_its_incarnation_cannot_be_recorded(
    nodes: Nodes,
) -> None:
    def fail(peer: str, found: str) -> None:
        raise OSError(28, "No space left on device")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    a, heard_a, _, heard_b = await _mismatched(nodes, {"on_incarnation": fail}, {})
    await until(lambda: "No space left" in (a.peer_states()["b"].last_error or ""))
    assert heard_a.events == []
    assert isinstance(reported[0]["exception"], OSError)
    await until(lambda: not heard_b.connected)


async def test_a_recorded_handshake_cannot_be_replayed(nodes: Nodes) -> None:
    pair = await nodes.pair(relay=True)
    recorded = list(pair.relay.recorded)
    await pair.a.stop()
    await until(lambda: not pair.at_b.connected)
    replay = nodes.raw()
    await replay.connect(pair.b.port)
    answers = []
    for message in recorded:
        replay.writer.write(message)
        frame = await replay.read_frame()
        if frame is None:
            break
        answers.append(frame.kind)
    assert answers == [CHALLENGE, REFUSED]
    assert pair.at_b.count("connected") == 1


async def test_a_stranger_learns_nothing(nodes: Nodes) -> None:
    b, _ = await nodes.start("b", {"a": NOWHERE})
    stranger = nodes.raw(secret=b"a guess of thirty-two characters")
    assert not await stranger.shake_hands(b.port)
    assert await stranger.closed_by_other_side()
    assert len(stranger.received) < 256
    for private in (b"name-b", b"folder-of", b"cluster-1"):
        assert private not in stranger.received


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(100_000),
        b"\xff" * 100_000,
    ],
)
async def test_garbage_is_disconnected_and_harms_nobody(nodes: Nodes, garbage: bytes) -> None:
    pair = await nodes.pair()
    stranger = nodes.raw()
    await stranger.connect(pair.b.port)
    stranger.writer.write(garbage)
    assert await stranger.closed_by_other_side()
    assert stranger.received == b""
    stranger.close()
    pair.a.send("b", 0, b"still here")
    await until(lambda: pair.at_b.frames == [b"still here"])
    assert pair.at_b.events == [("connected", "a")]
    await until(lambda: pair.b.connections_refused == 1)


async def test_frames_before_the_handshake_are_refused(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    eager = nodes.raw()
    await eager.connect(b.port)
    eager.send(b"let me in")
    assert await eager.closed_by_other_side()
    hasty = nodes.raw()
    await hasty.connect(b.port)
    hasty.write_frame(HELLO, bytes(3000))
    assert await hasty.closed_by_other_side()
    assert at_b.log == []


async def test_a_slow_handshake_is_cut_off(nodes: Nodes) -> None:
    b, _ = await nodes.start("b", {"a": NOWHERE}, limits={"handshake_ms_max": 60})
    slow = nodes.raw()
    await slow.connect(b.port)
    step = slow.handshake.begin()
    assert step.kind is not None
    slow.write_frame(step.kind, step.payload)
    answer = await slow.read_frame()
    assert answer is not None
    assert await slow.closed_by_other_side()
    await until(lambda: b.connections_refused == 1)


async def test_a_peer_that_accepts_and_says_nothing_is_given_up(nodes: Nodes) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    mute = await asyncio.start_server(hold, LOOPBACK, 0)
    port = mute.sockets[0].getsockname()[1]
    a, _ = await nodes.start(
        "a", {"b": PeerAddress(LOOPBACK, port)}, limits={"handshake_ms_max": 40}
    )
    await until(lambda: "no answer within 40 ms" in (a.peer_states()["b"].last_error or ""))
    await a.stop()
    mute.close()
    await mute.wait_closed()


async def test_strangers_are_bounded_and_the_oldest_gives_way(nodes: Nodes) -> None:
    # The deadline of the handshake is far away: only eviction can close them.
    limits = {"connections_unauthenticated_max": 3, "handshake_ms_max": 600_000}
    b, at_b = await nodes.start("b", {"a": NOWHERE}, limits=limits)
    strangers = [nodes.raw() for _ in range(5)]
    for stranger in strangers:
        await stranger.connect(b.port)
    for oldest in strangers[:2]:
        assert await oldest.closed_by_other_side()
    honest = nodes.raw()
    assert await honest.shake_hands(b.port)
    await until(lambda: at_b.connected)


async def test_strangers_cannot_flood_the_log(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cluster")
    b, _ = await nodes.start("b", {"a": NOWHERE}, clock=lambda: 0.0)
    for number in range(20):
        stranger = nodes.raw()
        await stranger.connect(b.port)
        stranger.writer.write(bytes(40))
        assert await stranger.closed_by_other_side()
        stranger.close()
        await until(lambda n=number: b.connections_refused == n + 1)
    assert len([r for r in caplog.records if "refused a peer connection" in r.message]) == 1


async def test_refusals_of_a_known_name_do_not_hide_a_working_connection(nodes: Nodes) -> None:
    pair = await nodes.pair()
    impostor = nodes.raw(secret=b"a guess of thirty-two characters")
    assert not await impostor.shake_hands(pair.b.port)
    await until(lambda: pair.b.connections_refused == 1)
    assert pair.b_state.connected
    assert pair.b_state.last_error is None


async def test_a_repeated_failure_is_logged_once(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cluster")
    b, _ = await nodes.start("b", {})
    relay = await nodes.relay(b.port)
    relay.refusing = True
    await nodes.start("a", {"b": PeerAddress(LOOPBACK, relay.port)})
    await until(lambda: relay.connections >= 5)
    messages = {record.getMessage() for record in caplog.records}
    assert len(caplog.records) == len(messages)
