"""Calls between nodes: answers, errors, and what is known when none comes."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cluster.errors import NotLeader, PeerUnreachable, RemoteCallFailed
from cluster.framing import CALL, REPLY, encode_header
from tests.unit.transport.nodes import NOWHERE, Nodes, Pair, until

ECHO, HANG, FAIL, REFUSE, NOBODY = 1, 2, 3, 4, 99


async def _echo(peer: str, payload: bytes) -> bytes:
    return peer.encode() + b":" + payload


async def _fail(peer: str, payload: bytes) -> bytes:
    raise RuntimeError("handler is broken")


async def _refuse(peer: str, payload: bytes) -> bytes:
    raise NotLeader("c")


class Hanging:
    """A handler whose calls stay open until the test answers them."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[bytes]] = []

    def __call__(self, peer: str, payload: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.calls.append(future)
        return future


async def _serving(nodes: Nodes, **limits: int) -> tuple[Pair, Hanging]:
    pair = await nodes.pair(limits, relay=True)
    hanging = Hanging()
    for node in (pair.a, pair.b):
        node.on_call(ECHO, _echo)
        node.on_call(FAIL, _fail)
        node.on_call(REFUSE, _refuse)
        node.on_call(HANG, hanging)
    return pair, hanging


async def test_both_sides_can_ask(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes)
    assert await pair.a.call("b", ECHO, b"", 5.0) == b"a:"
    assert await pair.b.call("a", ECHO, b"x", 5.0) == b"b:x"


async def test_large_payloads_travel_both_ways(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes)
    payload = bytes(range(256)) * (8 << 12)
    assert await pair.a.call("b", ECHO, payload, 10.0) == b"a:" + payload


async def test_answers_find_their_callers_whatever_their_order(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes)
    callers = [asyncio.ensure_future(pair.a.call("b", HANG, b"", 5.0)) for _ in range(20)]
    await until(lambda: len(hanging.calls) == 20)
    for number, future in reversed(list(enumerate(hanging.calls))):
        future.set_result(b"%d" % number)
    assert await asyncio.gather(*callers) == [b"%d" % number for number in range(20)]


async def test_a_handler_may_answer_with_a_finished_future(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes)

    def ready(peer: str, payload: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(b"ready")
        return future

    pair.b.on_call(5, ready)
    assert await pair.a.call("b", 5, b"", 5.0) == b"ready"
    with pytest.raises(ValueError, match="already has a handler"):
        pair.b.on_call(5, ready)


async def test_an_unexpected_error_travels_and_is_logged_where_it_happened(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    pair, _ = await _serving(nodes)
    with pytest.raises(RemoteCallFailed, match="RuntimeError: handler is broken") as caught:
        await pair.a.call("b", FAIL, b"", 5.0)
    assert not caught.value.definite
    assert [r for r in caplog.records if r.levelno >= logging.ERROR and r.exc_info]
    assert pair.at_a.connected


async def test_an_error_that_is_definite_stays_so(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes)
    with pytest.raises(RemoteCallFailed, match="NotLeader") as caught:
        await pair.a.call("b", REFUSE, b"", 5.0)
    assert caught.value.definite


async def test_an_error_raised_before_anything_is_awaited_travels_too(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes)

    def broken(peer: str, payload: bytes) -> asyncio.Future[bytes]:
        raise KeyError("at once")

    pair.b.on_call(5, broken)
    with pytest.raises(RemoteCallFailed, match="at once"):
        await pair.a.call("b", 5, b"", 5.0)


async def test_a_method_without_handler_is_a_definite_failure(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes)
    with pytest.raises(PeerUnreachable, match="no handler") as caught:
        await pair.a.call("b", NOBODY, b"", 5.0)
    assert caught.value.definite


async def test_calls_to_a_peer_that_is_not_connected_are_definite_failures(nodes: Nodes) -> None:
    a, _ = await nodes.start("a", {"b": NOWHERE})
    await until(lambda: a.peer_states()["b"].last_error)
    with pytest.raises(PeerUnreachable, match=r"not connected: cannot connect to") as caught:
        await a.call("b", ECHO, b"", 5.0)
    assert caught.value.definite
    with pytest.raises(PeerUnreachable, match="not a known peer") as caught:
        await a.call("z", ECHO, b"", 5.0)
    assert caught.value.definite


async def test_no_time_left_is_a_definite_failure(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes)
    with pytest.raises(PeerUnreachable, match="no time left") as caught:
        await pair.a.call("b", HANG, b"", 0.0)
    assert caught.value.definite
    assert hanging.calls == []


async def test_a_timeout_is_not_definite_and_its_late_answer_is_dropped(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes)
    with pytest.raises(PeerUnreachable, match="no answer in time") as caught:
        await pair.a.call("b", HANG, b"", 0.03)
    assert not caught.value.definite
    await until(lambda: hanging.calls)
    hanging.calls[0].set_result(b"too late")
    assert await pair.a.call("b", ECHO, b"next", 5.0) == b"a:next"


async def test_a_cancelled_caller_leaves_nothing_behind(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes, calls_inflight_max=1)
    caller = asyncio.ensure_future(pair.a.call("b", HANG, b"", 5.0))
    await until(lambda: hanging.calls)
    caller.cancel()
    await asyncio.wait([caller])
    hanging.calls[0].set_result(b"nobody waits")
    await until(lambda: pair.b_state.bytes_sent == pair.a_state.bytes_received)
    assert await pair.a.call("b", ECHO, b"x", 5.0) == b"a:x"


async def test_a_lost_connection_leaves_sent_calls_unknown(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes)
    caller = asyncio.ensure_future(pair.a.call("b", HANG, b"", 5.0))
    await until(lambda: hanging.calls)
    pair.relay.cut()
    with pytest.raises(PeerUnreachable) as caught:
        await caller
    assert not caught.value.definite
    await until(lambda: pair.at_a.count("connected") == 2 and pair.at_b.count("connected") == 2)
    hanging.calls[0].set_result(b"to the old connection")
    assert await pair.a.call("b", ECHO, b"x", 5.0) == b"a:x"


async def test_a_call_that_never_left_the_queue_is_definitely_not_done(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    peer = nodes.raw()  # It reads nothing after the handshake.
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    first = asyncio.ensure_future(b.call("a", ECHO, bytes(32 << 20), 60.0))
    sent = b.peer_states()["a"].bytes_sent
    await until(lambda: b.peer_states()["a"].bytes_sent > sent + 100_000)
    second = asyncio.ensure_future(b.call("a", ECHO, bytes(70_000), 60.0))
    await asyncio.sleep(0)
    peer.close()
    errors = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(error) for error in errors] == [PeerUnreachable, PeerUnreachable]
    assert [error.definite for error in errors] == [False, True]


async def test_a_full_send_queue_refuses_calls_and_keeps_the_connection(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE}, limits={"send_queue_bytes_max": 100_000})
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    await until(lambda: at_b.connected)
    blocking = asyncio.ensure_future(b.call("a", ECHO, bytes(32 << 20), 60.0))
    await asyncio.sleep(0)
    with pytest.raises(PeerUnreachable, match="full") as caught:
        await b.call("a", ECHO, b"", 5.0)
    assert caught.value.definite
    assert b.peer_states()["a"].connected
    blocking.cancel()
    await asyncio.wait([blocking])


async def test_calls_in_flight_are_bounded_at_the_caller(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes, calls_inflight_max=2)
    callers = [asyncio.ensure_future(pair.a.call("b", HANG, b"", 5.0)) for _ in range(2)]
    await until(lambda: len(hanging.calls) == 2)
    with pytest.raises(PeerUnreachable, match="too many calls") as caught:
        await pair.a.call("b", ECHO, b"", 5.0)
    assert caught.value.definite
    for future in hanging.calls:
        future.set_result(b"done")
    assert await asyncio.gather(*callers) == [b"done", b"done"]


async def test_calls_in_flight_are_bounded_at_the_callee_across_connections(
    nodes: Nodes,
) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE}, limits={"calls_inflight_max": 2})
    hanging = Hanging()
    b.on_call(HANG, hanging)
    for epoch in (1, 2):
        peer = nodes.raw(epoch=epoch)
        assert await peer.shake_hands(b.port)
        await until(lambda n=epoch: at_b.count("connected") == n)
        assert peer.writer is not None
        peer.writer.write(encode_header(CALL, 0, HANG, epoch, b""))
        await until(lambda n=epoch: len(hanging.calls) == n)
    peer.writer.write(encode_header(CALL, 0, HANG, 3, b""))
    refusal = await peer.read_frame()
    assert refusal is not None
    assert refusal.payload == b"too many calls in flight"
    for future in hanging.calls:
        future.set_result(b"done")
    answer = await peer.read_frame()
    assert answer is not None
    assert (answer.kind, answer.id) == (REPLY, 2)


async def test_an_answer_nobody_asked_for_is_ignored(nodes: Nodes) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE})
    peer = nodes.raw()
    assert await peer.shake_hands(b.port)
    peer.write_frame(REPLY, b"unasked", frame_id=12345)
    peer.send(b"after")
    await until(lambda: at_b.frames == [b"after"])


async def test_an_answer_over_the_frame_bound_is_an_error(nodes: Nodes) -> None:
    pair, _ = await _serving(nodes, frame_bytes_max=100_000)
    with pytest.raises(RemoteCallFailed, match="larger than frame_bytes_max"):
        await pair.a.call("b", ECHO, bytes(100_000), 5.0)
    with pytest.raises(ValueError, match="exceeds frame_bytes_max"):
        await pair.a.call("b", ECHO, bytes(100_001), 5.0)
    with pytest.raises(ValueError, match="16 bits"):
        await pair.a.call("b", 1 << 16, b"", 5.0)


async def test_stopping_ends_calls_in_both_directions(nodes: Nodes) -> None:
    pair, hanging = await _serving(nodes)
    cancelled: list[str] = []

    async def patient(peer: str, payload: bytes) -> bytes:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(peer)
            raise
        return b""

    pair.a.on_call(5, patient)
    asking = asyncio.ensure_future(pair.a.call("b", HANG, b"", 60.0))
    asked = asyncio.ensure_future(pair.b.call("a", 5, b"", 60.0))
    await until(lambda: hanging.calls)
    await until(lambda: pair.a_state.bytes_received == pair.b_state.bytes_sent)
    await pair.a.stop()
    errors = await asyncio.gather(asking, asked, return_exceptions=True)
    assert not any(getattr(error, "definite", True) for error in errors)
    assert cancelled == ["b"]
