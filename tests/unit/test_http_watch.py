"""`/v1/watch` over HTTP: the stream, resuming it, slow clients, stopping."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engines.interfaces import Limits
from node import http_watch
from node.http_limits import HttpLimits
from tests.unit.http_door import OpenDoor, open_door, until

WAIT_SECONDS = 10.0


@dataclass
class Stream:
    """An open event stream; blocks of lines as they come."""

    head: str
    reader: asyncio.StreamReader
    _rest: bytes = b""

    async def block(self) -> dict[str, str]:
        """The next block's fields; a comment has the name "". Raises: EOFError at the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            while b"\n\n" not in self._rest:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                piece = (await self.reader.readexactly(size + 2))[:-2]
                if not size:
                    raise EOFError
                self._rest += piece
        block, _, self._rest = self._rest.partition(b"\n\n")
        return dict(line.split(": ", 1) for line in block.decode().split("\n"))

    async def events(self, count: int) -> list[tuple[str, str, dict]]:
        """The next events: name, id and data, without what keeps the connection alive."""
        found = []
        while len(found) < count:
            block = await self.block()
            if "data" in block:
                found.append((block["event"], block.get("id", ""), json.loads(block["data"])))
        return found


@asynccontextmanager
async def watching(
    door: OpenDoor, query: str, *, last_id: str | None = None, receive_bytes: int | None = None
) -> AsyncIterator[Stream]:
    plain = socket.socket()
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", door.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=receive_bytes or 1 << 26)
    header = "" if last_id is None else f"Last-Event-ID: {last_id}\r\n"
    writer.write(f"GET /v1/watch?{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        yield Stream(head, reader)
    finally:
        writer.close()


async def test_a_stream(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.put("before")
        async with watching(door, "namespace=n") as stream:
            assert stream.head.startswith("HTTP/1.1 200 ")
            assert "content-type: text/event-stream; charset=utf-8" in stream.head.lower()
            ready = (await stream.events(1))[0]
            assert ready == ("ready", "1", {"revision": 1, "served_by": "one"})
            await door.put("a\n\0b", "é\nid: 9\n\n".encode(), "?ttl_seconds=60")
            await door.request("PUT", "/v1/kv/n/t%20u/k", b"\xff")
            await door.request("DELETE", "/v1/kv/n/t%20u/k")
            await door.request("PUT", "/v1/kv/other/s/k", b"")
            await door.put("last", b"")
            put, binary, gone, last = await stream.events(4)
        name, identity, data = put
        assert (name, identity, list(data)) == ("put", "2.0", [
            "type", "namespace", "session", "key", "version", "revision", "time", "expires_at",
            "content_type", "size", "value", "encoding"])  # fmt: skip
        assert (data["type"], data["namespace"], data["session"]) == ("put", "n", "s")
        assert (data["key"], data["value"], data["size"]) == ("a\n\0b", "é\nid: 9\n\n", 10)
        assert data["time"] < data["expires_at"]
        assert (binary[2]["session"], binary[2]["encoding"]) == ("t u", "base64")
        assert gone[:2] == ("delete", "4.0")
        assert (gone[2]["version"], gone[2]["value"], gone[2]["encoding"]) == (1, None, None)
        assert (last[1], last[2]["value"]) == ("6.0", "")
        await until(lambda: door.hub.count == 0, "the watch of a client that went is closed")


async def test_resuming_and_selecting(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for number in range(5):
            await door.put(f"{'ab'[number % 2]}+{number}")
        cases = [
            ("namespace=n&since=0", None, [0, 1, 2, 3, 4]),
            ("namespace=n&since=3", None, [3, 4]),
            ("namespace=n&since=3.0", None, [3, 4]),
            ("namespace=n&since=0", "4.0", [4]),
            ("namespace=n", "2", [2, 3, 4]),
            ("namespace=n&session=s&prefix=a%2B&since=0", None, [0, 2, 4]),
        ]
        for query, last_id, expected in cases:
            async with watching(door, query, last_id=last_id) as stream:
                events = await stream.events(1 + len(expected))
                assert [int(event[2]["key"][2:]) for event in events[1:]] == expected
        async with watching(door, "namespace=n&since=4&values=false") as stream:
            data = (await stream.events(2))[1][2]
            assert "value" not in data
            assert data["size"] == 1


async def test_what_is_no_longer_kept(tmp_path: Path) -> None:
    limits = Limits(watch_window_changes_max=3)
    async with open_door(tmp_path, state_limits=limits) as door:
        for number in range(50):
            await door.put(f"k{number}")
        async with watching(door, "namespace=n&since=1") as stream:
            _, (name, _, data) = await stream.events(2)
            assert (name, list(data)) == ("compacted", ["compacted_revision"])
            with pytest.raises(EOFError):
                await stream.block()
        since = data["compacted_revision"]
        async with watching(door, f"namespace=n&since={since}") as stream:
            events = await stream.events(1 + 50 - since)
            assert events[-1][2]["key"] == "k49"


async def test_a_quiet_stream_is_kept_alive_and_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_watch, "KEEPALIVE_SECONDS", 0.01)
    async with open_door(tmp_path) as door, watching(door, "namespace=quiet") as stream:
        await stream.events(1)
        await door.put("elsewhere")
        block: dict[str, str] = {}
        while block.get("id") != "1.0":
            block = await stream.block()
            assert block[""] == "alive"
        async with watching(door, "namespace=quiet", last_id=block["id"]) as again:
            await again.events(1)
            await door.request("PUT", "/v1/kv/quiet/s/k", b"")
            assert (await again.events(1))[0][1] == (await stream.events(1))[0][1] == "2.0"


async def test_large_events(tmp_path: Path) -> None:
    value = bytes(range(256)) * 16_384
    async with open_door(tmp_path) as door, watching(door, "namespace=n") as stream:
        for number in range(3):
            assert (await door.put(f"k{number}", value)).status == 200
        events = await stream.events(4)
        assert [event[2]["size"] for event in events[1:]] == [len(value)] * 3


async def test_concurrent_writers_and_watchers(tmp_path: Path) -> None:
    """Each watcher sees all 200 writes once, in order, wherever it came in."""
    limits = replace(HttpLimits(), watch_queue_changes_max=3)
    async with open_door(tmp_path, limits=limits) as door:

        async def write(writer: int) -> None:
            for number in range(50):
                assert (await door.put(f"{writer}/{number}")).status == 200

        async def read(since: int) -> list[str]:
            async with watching(door, f"namespace=n&since={since}") as stream:
                return [event[1] for event in (await stream.events(201 - since))[1:]]

        writers = [asyncio.create_task(write(number)) for number in range(4)]
        readers = []
        for since in (0, 10, 50, 120):
            await until(lambda at=since: door.machine.revision >= at, "written so far")
            readers.append(asyncio.create_task(read(since)))
        await asyncio.gather(*writers)
        for since, seen in zip((0, 10, 50, 120), await asyncio.gather(*readers), strict=True):
            assert seen == [f"{revision}.0" for revision in range(since + 1, 201)]


async def test_watches_beyond_the_bound(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), watches_max=1, requests_inflight_max=1)
    async with open_door(tmp_path, limits=limits) as door:
        async with watching(door, "namespace=n") as stream:
            await stream.events(1)
            reply = await door.request("GET", "/v1/watch?namespace=n")
            assert (reply.status, reply.code) == (503, "OVERLOADED")
            assert (await door.put("k")).status == 200  # a watch is no request in flight
            await stream.events(1)
        await until(lambda: door.hub.count == 0, "its client went")
        async with watching(door, "namespace=n") as stream:
            await stream.events(1)


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), blocked_client_seconds_max=0.05)
    query = "namespace=n&since=0"
    async with (
        open_door(tmp_path, limits=limits) as door,
        watching(door, query, receive_bytes=4096),
    ):
        for _ in range(3):
            await door.put("k", bytes(4 << 20))
        await until(lambda: door.hub.count == 0, "the client was cut off")


async def test_streams_end_when_the_node_stops(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, watching(door, "namespace=n") as stream:
        await stream.events(1)
        await door.put("k")
        await stream.events(1)
        async with asyncio.timeout(2):
            await asyncio.gather(door.server.stop(), ends(stream))


async def ends(stream: Stream) -> None:
    with pytest.raises(EOFError):
        await stream.block()


async def test_a_blocked_stream_does_not_hold_up_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_watch, "STOP_SECONDS", 0.05)
    query = "namespace=n&since=0"
    async with open_door(tmp_path) as door, watching(door, query, receive_bytes=4096):
        for _ in range(3):
            await door.put("k", bytes(4 << 20))
        await until(lambda: door.hub.figures.delivered > 0, "sending what nobody takes")
        async with asyncio.timeout(2):
            await door.server.stop()
