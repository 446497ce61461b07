"""Bodies, bounds, deadlines and stopping, down to the bytes."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engines.errors import CorruptRecord
from engines.interfaces import Limits
from node.http_limits import HttpLimits
from tests.unit.http_door import OpenDoor, open_door, parse_reply, until

KEY = "/v1/kv/n/s/k"
SMALL = Limits(value_bytes_max=1000)
HOST = b"Host: 127.0.0.1\r\n"
CLOSE = HOST + b"Connection: close\r\n"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (*pieces, b""))


def put_head(*headers: bytes) -> bytes:
    return (
        b"PUT /v1/kv/n/s/k HTTP/1.1\r\n" + CLOSE + b"".join(h + b"\r\n" for h in headers) + b"\r\n"
    )


# Bodies


async def test_a_chunked_body_is_a_value(tmp_path: Path) -> None:
    async with open_door(tmp_path, state_limits=SMALL) as door:
        sent = put_head(b"Transfer-Encoding: chunked") + chunked(b"a" * 300, b"a" * 200)
        reply = await door.raw(sent)
        assert reply.status == 200
        assert (await door.request("GET", KEY)).body == b"a" * 500


async def test_a_chunked_body_that_grows_too_large(tmp_path: Path) -> None:
    async with open_door(tmp_path, state_limits=SMALL) as door:
        for pieces in ([b"a" * 1001], [b"a" * 500, b"b" * 501], [b"a" * 200_000] * 3):
            reply = await door.raw(put_head(b"Transfer-Encoding: chunked") + chunked(*pieces))
            assert (reply.status, reply.code) == (413, "VALUE_TOO_LARGE")
        assert door.machine.revision == 0


@pytest.mark.parametrize(
    ("target", "code"), [(KEY, "VALUE_TOO_LARGE"), ("/v1/txn", "BODY_TOO_LARGE")]
)
async def test_an_announced_body_is_refused_unread(tmp_path: Path, target: str, code: str) -> None:
    method = "PUT" if target == KEY else "POST"
    async with open_door(tmp_path) as door:
        head = f"{method} {target} HTTP/1.1\r\n".encode() + HOST
        async with connected(door) as (reader, writer):
            writer.write(head + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert code.encode() in answer
        assert door.machine.revision == 0


async def test_a_client_that_expects_100_continue_gets_it(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, connected(door) as (reader, writer):
        writer.write(put_head(b"Content-Length: 3", b"Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert parse_reply(await reader.read(-1), "PUT").status == 200
        assert (await door.request("GET", KEY)).body == b"abc"


async def test_a_body_in_pieces_and_requests_in_a_row(tmp_path: Path) -> None:
    """One connection: a slow body, then pipelined requests, answered in order."""
    async with open_door(tmp_path) as door, connected(door) as (reader, writer):
        head = b"PUT /v1/kv/n/s/k HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n"
        for piece in (head, b"ab", b"cde"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        get = b"GET /v1/kv/n/s/k HTTP/1.1\r\n" + HOST + b"\r\n"
        last = b"GET /v1/kv/n/s/none HTTP/1.1\r\n" + CLOSE + b"\r\n"
        writer.write(get * 3 + last)
        answers = await reader.read(-1)
        assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200"] * 4 + [b"404"]
        assert answers.count(b"\r\n\r\nabcde") == 3


async def test_the_absolute_form_that_proxies_send(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        assert (
            await door.request("PUT", f"http://127.0.0.1{KEY}/..?ttl_seconds=9", b"x")
        ).status == 200
        assert (await door.request("GET", f"{KEY}/..")).body == b"x"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v1/kv HTTP/1.1\r\n\r\n",
        b"GET /v1/kv HTTP/9.9\r\n" + CLOSE + b"\r\n",
        b"GET /v1/kv HTTP/1.1\r\n" + CLOSE + b"X: a\x00b\r\n\r\n",
        b"GET /v1/kv HTTP/1.1\r\n" + CLOSE + b"X: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /v1/kv HTTP/1.1\r\n" + CLOSE + b"X: y\r\n" * 70 + b"\r\n",
        b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n",
        b"GET /v1/kv/\xff HTTP/1.1\r\n" + CLOSE + b"\r\n",
        put_head(b"Content-Length: 5", b"Content-Length: 6") + b"abcdef",
        put_head(b"Content-Length: -5") + b"abcdef",
        put_head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + chunked(b"abcde"),
        put_head(b"Transfer-Encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n",
    ],
    ids=range(13),
)
async def test_what_is_not_http(tmp_path: Path, sent: bytes) -> None:
    async with open_door(tmp_path) as door:
        reply = await door.raw(sent)
        assert (reply.status, reply.code) == (400, "INVALID_ARGUMENT")
        assert door.machine.revision == 0


async def test_a_client_that_goes_in_the_middle_of_its_body(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        async with connected(door) as (_, writer):
            writer.write(put_head(b"Content-Length: 500") + b"a" * 499)
            await writer.drain()
            await until(lambda: inflight(door) == 1, "the request arrived")
        await until(lambda: inflight(door) == 0, "the request ended")
        assert door.machine.revision == 0
        assert metric(door, "hivemem_http_request_body_inflight_bytes") == 0


# Deadlines


async def test_a_body_that_does_not_arrive_in_time(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        head = put_head(b"Content-Length: 5").replace(b"/k ", b"/k?timeout_ms=20 ")
        reply = await door.raw(head + b"abc")
        assert (reply.status, reply.code) == (504, "DEADLINE_EXCEEDED")
        assert reply.json()["error"]["definite"] is True
        assert door.machine.revision == 0


async def test_deadlines_reach_the_router(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.put("k")
        reply = await door.request("GET", KEY + "?min_revision=99&timeout_ms=30")
        assert (reply.status, reply.code) == (504, "DEADLINE_EXCEEDED")
        await door.request("GET", KEY + "?consistency=eventual&max_staleness_ms=7&min_revision=0")
        read = door.router.reads[-1]
        assert (read.consistency, read.max_staleness_ms, read.min_revision) == ("stale", 7, 0)


# Bounds


async def test_requests_beyond_the_bound(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), requests_inflight_max=2)
    async with open_door(tmp_path, limits=limits) as door:
        door.router.hold = asyncio.Event()
        held = [asyncio.create_task(door.put(f"k{number}")) for number in range(2)]
        await until(lambda: inflight(door) == 2, "two requests are in flight")
        reply = await door.put("k3")
        assert (reply.status, reply.code) == (503, "OVERLOADED")
        assert reply.headers["retry-after"] == "1"
        assert (await door.request("GET", "/livez")).status == 200
        assert (await door.request("GET", "/readyz")).status == 200
        assert (await door.request("GET", "/metrics")).status == 200
        door.router.hold.set()
        assert [reply.status for reply in await asyncio.gather(*held)] == [200, 200]
        assert (await door.put("k3")).status == 200


async def test_bodies_beyond_the_bound(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), request_body_bytes_inflight_max=1000)
    async with open_door(tmp_path, limits=limits) as door:
        door.router.hold = asyncio.Event()
        held = asyncio.create_task(door.put("k", b"x" * 800))
        await until(lambda: metric(door, "hivemem_http_request_body_inflight_bytes") == 800, "held")
        for sent in (
            put_head(b"Content-Length: 201") + b"y" * 201,
            put_head(b"Transfer-Encoding: chunked") + chunked(b"y" * 201),
        ):
            reply = await door.raw(sent)
            assert reply.code == "OVERLOADED"
        door.router.hold.set()
        assert (await held).status == 200
        assert (await door.put("k", b"x" * 5000)).status == 200  # alone, it may be larger
        assert metric(door, "hivemem_http_request_body_inflight_bytes") == 0


async def test_large_answers_beyond_the_bound(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), response_body_bytes_inflight_max=1000)
    async with open_door(tmp_path, limits=limits) as door:
        await door.put("k", bytes(8 << 20))
        async with connected(door, receive_bytes=4096) as (reader, writer):
            writer.write(b"GET /v1/kv/n/s/k HTTP/1.1\r\n" + CLOSE + b"\r\n")
            await until(
                lambda: metric(door, "hivemem_http_response_body_inflight_bytes") > 0, "blocked"
            )
            reply = await door.request("GET", KEY)
            assert (reply.status, reply.code) == (503, "OVERLOADED")
            # What changed something is answered late rather than falsely.
            document = {"namespace": "n", "session": "s", "then": [
                {"op": "put", "key": "j", "value": "x"}, {"op": "get", "key": "k"}]}  # fmt: skip
            waiting = asyncio.create_task(door.post("/v1/txn", document))
            await until(lambda: door.machine.revision == 2, "applied")
            assert len(await reader.read(-1)) > 8 << 20
            assert (await waiting).json()["succeeded"] is True
        assert metric(door, "hivemem_http_response_body_inflight_bytes") == 0


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), blocked_client_seconds_max=0.05)
    async with open_door(tmp_path, limits=limits) as door:
        await door.put("k", bytes(8 << 20))
        async with connected(door, receive_bytes=4096) as (_, writer):
            writer.write(b"GET /v1/kv/n/s/k HTTP/1.1\r\n" + CLOSE + b"\r\n")
            await until(lambda: inflight(door) == 1, "the answer is being sent")
            await until(lambda: inflight(door) == 0, "the client was cut off")


async def test_connections_beyond_the_bound(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), connections_max=2)
    async with open_door(tmp_path, limits=limits) as door:
        async with connected(door), connected(door):
            await until(lambda: door.server._door.open_count == 2, "two connections are open")
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            reply = parse_reply(await reader.read(-1), "GET")
            writer.close()
            assert (reply.status, reply.json()["error"]["code"]) == (503, "OVERLOADED")
        await until(lambda: door.server._door.open_count == 0, "they are closed")
        assert (await door.request("GET", "/livez")).status == 200


# Stopping


async def test_while_stopping_what_is_new_is_refused(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.server.begin_stop()
        for reply in (
            await door.put("k"),
            await door.request("GET", "/readyz"),
            await door.request("GET", "/v1/watch?namespace=n"),
        ):
            assert (reply.status, reply.code) == (503, "STOPPING")
            assert reply.headers["connection"] == "close"
        assert (await door.request("GET", "/livez")).status == 200
        assert door.machine.revision == 0


async def test_requests_in_flight_finish_before_the_stop(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.router.hold = asyncio.Event()
        held = asyncio.create_task(door.put("k"))
        await until(lambda: inflight(door) == 1, "the request is in flight")
        stop = asyncio.create_task(door.server.stop())
        await asyncio.sleep(0)
        door.router.hold.set()
        assert (await held).status == 200
        await stop
        await door.server.stop()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", door.port)


async def test_a_stop_at_once_waits_for_nobody(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.router.hold = asyncio.Event()  # nothing ever sets it
        held = asyncio.create_task(door.put("k"))
        await until(lambda: inflight(door) == 1, "the request is in flight")
        await door.server.stop(at_once=True)
        with pytest.raises((ConnectionError, IndexError)):  # closed, without one line
            await held
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", door.port)


async def test_damage_stops_the_node(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        damage = CorruptRecord("leaves", b"k", "checksum mismatch")
        door.router.barrier_error = damage
        reply = await door.request("GET", KEY)
        assert (reply.status, reply.code) == (500, "INTERNAL")
        assert door.fatal == [damage]


# Metrics


async def test_metrics(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.put("k", b"12345")
        await door.request("GET", KEY)
        await door.request("GET", KEY + "none")
        await door.request("GET", "/nowhere")
        reply = await door.request("GET", "/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        key = 'route="/v1/kv/{namespace}/{session}/{key}"'
        for name, value in {
            f'hivemem_http_requests_total{{method="PUT",{key},status_class="2xx"}}': 1,
            f'hivemem_http_requests_total{{method="GET",{key},status_class="2xx"}}': 1,
            f'hivemem_http_requests_total{{method="GET",{key},status_class="4xx"}}': 1,
            'hivemem_http_requests_total{method="any",route="unrouted",status_class="4xx"}': 1,
            f'hivemem_http_request_body_bytes_total{{method="PUT",{key}}}': 5,
            f'hivemem_http_response_body_bytes_total{{method="GET",{key}}}': 5,
            'hivemem_http_errors_total{code="KEY_NOT_FOUND"}': 1,
            'hivemem_http_errors_total{code="ROUTE_NOT_FOUND"}': 1,
            'hivemem_raft_role{group="0",role="leader"}': 1,
            'hivemem_raft_term{group="0"}': 1,
            'hivemem_log_sync_duration_seconds_bucket{le="0.0001"}': 2,
            'hivemem_log_sync_duration_seconds_bucket{le="5.0"}': 2,
            'hivemem_log_sync_duration_seconds_bucket{le="+Inf"}': 3,
            "hivemem_log_sync_duration_seconds_sum": 6.5,
            "hivemem_log_loop_rounds_total": 2,
            'hivemem_keys{group="0"}': 1,
            'hivemem_revision{group="0"}': 1,
            "hivemem_watches": 0,
        }.items():
            assert figure(reply.body, name) == value, name
        # Not measured here, so not shown.
        assert "hivemem_log_bytes{" not in reply.body.decode()
        assert "process_resident_memory_bytes " in reply.body.decode()


def figure(text: bytes, name: str) -> float:
    """The value of one sample; labels may come in any order."""

    def shape(sample: str) -> tuple[str, frozenset[str]]:
        head, _, labels = sample.partition("{")
        return head, frozenset(re.findall(r'\w+="[^"]*"', labels))

    found = [
        float(line.rpartition(" ")[2])
        for line in text.decode().splitlines()
        if not line.startswith("#") and shape(line.rpartition(" ")[0]) == shape(name)
    ]
    assert len(found) == 1, (name, found)
    return found[0]


def metric(door: OpenDoor, name: str) -> float:
    return figure(door.server.metrics.render(), name)


def inflight(door: OpenDoor) -> float:
    return metric(door, "hivemem_http_requests_inflight")


@asynccontextmanager
async def connected(door: OpenDoor, receive_bytes: int | None = None):
    """A connection; `receive_bytes` makes its receive buffer so small that it blocks early."""
    plain = socket.socket()
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", door.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=receive_bytes or 1 << 16)
    try:
        yield reader, writer
    finally:
        writer.close()
