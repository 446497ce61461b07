"""Connections over real sockets: frames, order, bounds, reconnection, silence, stop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import time
from typing import Any

import pytest

from cluster.framing import GROUP, MORE, encode_header
from cluster.transport import PeerAddress, TransportLimits
from tests.unit.transport.nodes import LOOPBACK, NOWHERE, Nodes, Recorder, until


async def test_frames_of_every_size_arrive_as_sent(nodes: Nodes) -> None:
    pair = await nodes.pair()
    sizes = [0, 1, 65_535, 65_536, 65_537, 200_000, 8 << 20]
    sent = [bytes((n,)) * size for n, size in enumerate(sizes)]
    for frame in sent:
        assert pair.a.send("b", 0, frame)
        assert pair.b.send("a", 0, frame, bulk=True)
    await until(lambda: len(pair.at_a.frames) == len(pair.at_b.frames) == len(sent))
    assert pair.at_b.frames == sent
    assert pair.at_a.frames == sent
    assert pair.a_state.bytes_sent > sum(sizes)
    assert pair.b_state.bytes_received == pair.a_state.bytes_sent
    assert pair.a_state.queue_bytes == 0


async def test_a_control_frame_overtakes_a_long_bulk_frame(nodes: Nodes) -> None:
    pair = await nodes.pair()
    before = pair.a_state.bytes_sent
    pair.a.send("b", 0, bytes(8 << 20), bulk=True)
    while pair.a_state.bytes_sent < before + 300_000:
        await asyncio.sleep(0)  # One turn of the loop: the bulk frame is under way.
    assert pair.at_b.frames == []
    pair.a.send("b", 0, b"heartbeat")
    await until(lambda: len(pair.at_b.frames) == 2)
    assert pair.at_b.frames[0] == b"heartbeat"


async def test_many_sends_in_one_turn_are_one_write(nodes: Nodes) -> None:
    pair = await nodes.pair(relay=True)
    pair.relay.recorded.clear()
    for _ in range(100):
        pair.a.send("b", 0, b"small")
    await until(lambda: len(pair.at_b.frames) == 100)
    assert len(pair.relay.recorded) == 1


async def test_what_is_urgent_is_written_at_once(nodes: Nodes) -> None:
    pair = await nodes.pair()
    assert pair.a.unsent == set()
    for frame in (b"one", b"two"):
        pair.a.send("b", 0, frame)
    before = pair.a_state.bytes_sent
    pair.a.flush_if_alone()
    assert pair.a_state.bytes_sent > before
    assert pair.a_state.queue_bytes == 0
    assert pair.a.unsent == set()
    await until(lambda: pair.at_b.frames == [b"one", b"two"])


async def test_what_several_groups_send_in_a_turn_leaves_together(nodes: Nodes) -> None:
    pair = await nodes.pair(relay=True)
    for node in (pair.a, pair.b):
        node.register(1, Recorder())
    # What registering says has passed.
    await until(lambda: not pair.a.unsent)
    await until(lambda: pair.b_state.bytes_received == pair.a_state.bytes_sent)
    pair.relay.recorded.clear()
    for group in (0, 1):
        pair.a.send("b", group, b"heartbeat")
        pair.a.flush_if_alone()
    assert len(pair.a.unsent) == 1
    pair.a.flush()
    assert pair.a.unsent == set()
    await until(lambda: pair.at_b.frames == [b"heartbeat"])
    assert len(pair.relay.recorded) == 1


async def test_what_nobody_hurries_is_written_in_the_next_turn(nodes: Nodes) -> None:
    pair = await nodes.pair()
    pair.a.send("b", 0, b"frame")
    assert len(pair.a.unsent) == 1
    await until(lambda: pair.at_b.frames == [b"frame"])
    assert pair.a.unsent == set()


async def test_a_frame_over_the_bound_is_a_mistake_of_the_caller(nodes: Nodes) -> None:
    pair = await nodes.pair({"frame_bytes_max": 100_000})
    with pytest.raises(ValueError, match="exceeds frame_bytes_max"):
        pair.a.send("b", 0, bytes(100_001))
    assert pair.a.send("b", 0, bytes(100_000))
    await until(lambda: len(pair.at_b.frames) == 1)


async def test_reconnects_after_every_cut(nodes: Nodes) -> None:
    pair = await nodes.pair(relay=True)
    for round_number in range(5):
        pair.relay.cut()
        await until(lambda n=round_number: pair.at_a.count("connected") == n + 2)
        await until(lambda n=round_number: pair.at_b.count("connected") == n + 2)
        frame = b"round %d" % round_number
        assert pair.b.send("a", 0, frame)
        await until(lambda f=frame: f in pair.at_a.frames)
    for recorder in (pair.at_a, pair.at_b):
        expected = itertools.cycle(["connected", "disconnected"])
        assert all(name == next(expected) for name, _ in recorder.events)


async def test_a_group_that_joins_later_is_made_known_to_the_peers_that_have_it(
    nodes: Nodes,
) -> None:
    """What it was sent before it was there is lost, so that its peers must begin anew."""
    pair = await nodes.pair()
    at_a, at_b, elsewhere = Recorder(), Recorder(), Recorder()
    pair.a.register(7, at_a)
    assert pair.a.send("b", 7, b"lost")
    await until(lambda: pair.b.frames_unclaimed == 1)
    pair.a.register(8, elsewhere)
    pair.b.register(7, at_b)
    await until(lambda: at_a.count("connected") == 2)
    assert pair.a.send("b", 7, b"heard")
    await until(lambda: at_b.frames == [b"heard"])
    assert at_b.events == [("connected", "a")]
    assert elsewhere.events == pair.at_a.events == [("connected", "b")]


async def test_a_restarted_peer_is_found_again(nodes: Nodes) -> None:
    pair = await nodes.pair()
    port = pair.b.port
    await pair.b.stop()
    await until(lambda: not pair.at_a.connected)
    refused = f"cannot connect to 127.0.0.1:{port}: Connection refused"
    await until(lambda: pair.a_state.last_error == refused)
    again, at_b = await nodes.start("b", {"a": NOWHERE}, listen_port=port)
    await until(lambda: at_b.connected and pair.at_a.connected)
    assert pair.a_state.last_error is None
    again.send("a", 0, b"back")
    await until(lambda: pair.at_a.frames == [b"back"])


async def test_a_newer_connection_replaces_the_older_one(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    first, second = nodes.raw(), nodes.raw(epoch=2)
    assert await first.shake_hands(b.port)
    first.send(b"of the first")
    await until(lambda: at_b.frames)
    assert await second.shake_hands(b.port)
    first.send(b"late")  # Written before the second's, and on a dead connection.
    second.send(b"of the second")
    await until(lambda: b"of the second" in at_b.frames)
    assert at_b.log == [
        "connected a", b"of the first", "disconnected a", "connected a", b"of the second",
    ]  # fmt: skip
    assert await first.closed_by_other_side()
    second.close()
    await until(lambda: not at_b.connected)


async def test_an_older_attempt_does_not_replace_a_newer_connection(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    newer, older = nodes.raw(epoch=2), nodes.raw(epoch=1)
    assert await newer.shake_hands(b.port)
    assert not await older.shake_hands(b.port)
    assert "newer connection" in (older.refused or "")
    restarted = nodes.raw(epoch=1, boot=b"nextboot")
    assert await restarted.shake_hands(b.port)
    await until(lambda: at_b.count("connected") == 2)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (encode_header(GROUP, 0, 0, 0, b"ab") + b"aB", "payload checksum"),
        (b"\0" * 20, "header checksum"),
        (encode_header(99, 0, 0, 0, b""), "unknown kind 99"),
        (encode_header(GROUP, 0x80, 0, 0, b""), "unknown flags"),
        (encode_header(GROUP, 0, 0, 0, bytes(70_000)), "chunk of 70000 bytes"),
        (encode_header(GROUP, MORE, 0, 0, b"") * 2, "in the middle of a frame"),
    ],
)
async def test_a_broken_rule_closes_the_connection_and_is_shown(
    nodes: Nodes, wire: bytes, reason: str
) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    peer.send(b"good")
    await until(lambda: at_b.frames)
    peer.writer.write(wire)
    assert await peer.closed_by_other_side()
    assert at_b.log == ["connected a", b"good", "disconnected a"]
    assert reason in (b.peer_states()["a"].last_error or "")


async def test_a_bit_flipped_on_the_way_is_never_delivered(nodes: Nodes) -> None:
    pair = await nodes.pair(relay=True)
    pair.relay.flip_next = True
    pair.a.send("b", 0, b"precious")
    await until(lambda: pair.at_b.count("connected") == 2)
    assert pair.at_b.frames == []


async def test_a_peer_that_does_not_read_costs_bounded_memory(nodes: Nodes) -> None:
    limits = {"send_queue_bytes_max": 1 << 20}
    b, at_b = await nodes.start("b", {"a": NOWHERE}, limits=limits)
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    frame = bytes(100_000)
    largest = 0
    while b.send("a", 0, frame):
        largest = max(largest, b.peer_states()["a"].queue_bytes)
        await asyncio.sleep(0)
    assert largest < (1 << 20) + 2 * len(frame) + 300_000
    await until(lambda: not at_b.connected)
    state = b.peer_states()["a"]
    assert not state.connected
    assert state.queue_bytes == 0
    assert "send queue full" in (state.last_error or "")


async def test_a_connection_that_overflows_while_receiving_delivers_nothing_more(
    nodes: Nodes,
) -> None:
    class Answering(Recorder):
        def peer_message(self, peer: str, frame: bytes) -> None:
            super().peer_message(peer, frame)
            b.send(peer, 0, b"answer")

    b = nodes.make("b", {"a": NOWHERE}, limits={"send_queue_frames_max": 5})
    at_b = Answering()
    b.register(0, at_b)
    await b.start()
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    one = encode_header(GROUP, 0, 0, 0, b"ask") + b"ask"
    peer.writer.write(one * 50)
    await until(lambda: not at_b.connected)
    assert len(at_b.frames) == 6  # The sixth answer overflowed.


async def test_backoff_starts_again_after_a_success(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []

    def record(limits: TransportLimits, count: int, jitter: float) -> float:
        failures.append(count)
        return 0.001

    monkeypatch.setattr("cluster.dialler.backoff_seconds", record)
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    relay = await nodes.relay(b.port)
    relay.refusing = True
    await nodes.start("a", {"b": PeerAddress(LOOPBACK, relay.port)})
    await until(lambda: len(failures) >= 4)
    relay.refusing = False
    await until(lambda: at_b.connected)
    before = len(failures)
    relay.cut()
    await until(lambda: at_b.count("connected") == 2)
    assert failures[:before] == list(range(before))
    assert failures[before] == 0


async def test_a_silent_peer_is_given_up_by_both_sides(nodes: Nodes) -> None:
    pair = await nodes.pair({"ping_ms": 20, "silence_ms_max": 100}, relay=True)
    pair.relay.silent = True  # Half-open: nobody hears of anything.
    await until(lambda: not pair.at_a.connected and not pair.at_b.connected)
    assert "silent for" in pair.b_state.last_error or "closed by" in pair.b_state.last_error
    pair.relay.silent = False
    pair.relay.cut()
    await until(lambda: pair.at_a.connected and pair.at_b.connected)


async def test_an_idle_connection_is_kept_by_pings(nodes: Nodes) -> None:
    pair = await nodes.pair({"ping_ms": 10, "silence_ms_max": 2_000})
    heard = pair.a_state.bytes_received
    await until(lambda: pair.a_state.bytes_received > heard + 20 * 20)
    assert pair.at_a.events == [("connected", "b")]
    assert pair.at_b.events == [("connected", "a")]


async def test_time_in_which_this_process_did_not_run_is_not_silence(nodes: Nodes) -> None:
    skipped = [0.0]
    b, at_b = await nodes.start(
        "b",
        {"a": NOWHERE},
        limits={"ping_ms": 20, "silence_ms_max": 5_000},
        clock=lambda: time.monotonic() + skipped[0],
    )
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    for _ in range(2):  # Pings: what was received so far is accounted for.
        assert await peer.read_frame() is not None
    skipped[0] = 60.0  # As if stopped and continued: the peer's bytes were not looked at.
    for _ in range(2):
        assert await peer.read_frame() is not None
    assert at_b.connected


async def test_stop_is_idempotent_and_drains_what_is_queued(nodes: Nodes) -> None:
    pair = await nodes.pair()
    for number in range(1000):
        pair.a.send("b", 0, b"%d" % number)
    await asyncio.gather(pair.a.stop(), pair.a.stop())
    await pair.a.stop()
    assert pair.at_a.events == [("connected", "b"), ("disconnected", "b")]
    assert not pair.a.send("b", 0, b"x")
    await until(lambda: not pair.at_b.connected)
    assert pair.at_b.frames == [b"%d" % number for number in range(1000)]


async def test_stop_is_bounded_when_a_peer_does_not_read(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE}, limits={"stop_ms_max": 50})
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    for _ in range(40):
        assert b.send("a", 0, bytes(1 << 20))
    stopping = asyncio.ensure_future(b.stop())
    await until(lambda: not at_b.connected)
    peer.send(b"while draining")
    async with asyncio.timeout(5):
        await stopping
    assert at_b.log == ["connected a", "disconnected a"]


async def test_stop_without_start_and_during_dialling(nodes: Nodes) -> None:
    never = nodes.make("b", {})
    await never.stop()
    with pytest.raises(RuntimeError, match="starts once"):
        await never.start()
    refused = nodes.make("a", {"b": NOWHERE})
    await refused.start()
    await refused.stop()


async def test_a_taken_port_is_named(nodes: Nodes) -> None:
    b, _ = await nodes.start("b", {})
    other = nodes.make("c", {}, listen_port=b.port)
    with pytest.raises(OSError, match=f"cannot listen for peers on 127.0.0.1:{b.port}"):
        await other.start()
    await other.stop()


async def test_an_impossible_host_name_is_shown_and_retried(nodes: Nodes) -> None:
    a, _ = await nodes.start("a", {"b": PeerAddress("no..name", 7000)})
    await until(lambda: a.peer_states()["b"].last_error)
    assert "no..name:7000" in (a.peer_states()["b"].last_error or "")


async def test_a_failing_handler_is_reported_and_ends_the_connection(nodes: Nodes) -> None:
    class Failing(Recorder):
        def peer_message(self, peer: str, frame: bytes) -> None:
            super().peer_message(peer, frame)
            raise RuntimeError("broken invariant")

    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    pair = await nodes.pair()
    failing = Failing()
    pair.b.register(1, failing)
    pair.a.send("b", 1, b"first")
    pair.a.send("b", 1, b"second")
    await until(lambda: pair.at_b.count("disconnected") == 1)
    assert failing.frames == [b"first"]
    assert [str(context["exception"]) for context in reported] == ["broken invariant"]
    await until(lambda: pair.at_b.connected and pair.at_a.connected)


async def test_three_nodes_share_one_connection_per_pair(nodes: Nodes) -> None:
    c, at_c = await nodes.start("c", {"a": NOWHERE, "b": NOWHERE})
    to_c = PeerAddress(LOOPBACK, c.port)
    b, at_b = await nodes.start("b", {"a": NOWHERE, "c": to_c, "b": NOWHERE})
    _, at_a = await nodes.start("a", {"b": PeerAddress(LOOPBACK, b.port), "c": to_c})
    recorders = (at_a, at_b, at_c)
    await until(lambda: all(recorder.count("connected") == 2 for recorder in recorders))
    assert sorted(peer for _, peer in at_b.events) == ["a", "c"]
    assert all(recorder.count("disconnected") == 0 for recorder in recorders)


async def test_running_out_of_file_descriptors_is_survived(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Starved(socket.socket):
        left = 3

        def accept(self) -> tuple[socket.socket, Any]:
            if Starved.left:
                Starved.left -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    monkeypatch.setattr("cluster.listener.socket.socket", Starved)
    monkeypatch.setattr("cluster.listener._RETRY_SECONDS", 0.01)
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    monkeypatch.undo()
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    assert Starved.left == 0
    assert "Too many open files" in caplog.text


async def test_stopping_while_strangers_arrive_leaks_no_socket(nodes: Nodes) -> None:
    """Python warns of a socket that nobody closed, and a warning fails the test."""
    for _ in range(20):
        b, _ = await nodes.start("b", {"a": NOWHERE})
        strangers = [nodes.raw() for _ in range(5)]
        await asyncio.gather(*(stranger.connect(b.port) for stranger in strangers))
        async with asyncio.timeout(0.5):  # stop_ms_max is 1 s: nothing was waited for.
            await b.stop()
        for stranger in strangers:
            assert await stranger.closed_by_other_side()
    gc.collect()
