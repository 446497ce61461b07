"""Heads of small answers, byte by byte, and who gets one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node.http_reply import SmallReply
from tests.unit.http_door import OpenDoor, Reply, open_door, parse_reply

KEY = "/v1/kv/n/s/k"
HEAD = b"Host: 127.0.0.1\r\n"


def sent(**fields: object) -> bytes:
    given = {"status": 200, "headers": {}, "content_type": "a/b", "body": b"body", "now": 0}
    return SmallReply(**{**given, **fields})._sent  # type: ignore[arg-type]


def lower(reply: Reply) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


def test_a_head() -> None:
    lines = (
        "HTTP/1.1 201 Created", "Server: hivemem", "Content-Type: a/b", "X-One: 1", "X-Two: é",
        "Content-Length: 4", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "", "body",
    )  # fmt: skip
    given = sent(headers={"X-One": "1", "X-Two": "é"}, status=201)
    assert given == "\r\n".join(lines).encode()


@pytest.mark.parametrize("broken", ["x\r\nSet-Cookie: a", "x\ny", "x\ry"])
def test_no_header_breaks_out_of_its_line(broken: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        sent(content_type=broken)
    with pytest.raises(ValueError, match="line break"):
        sent(headers={"X-One": broken})
    with pytest.raises(ValueError, match="line break"):
        sent(headers={broken: "1"})


async def kept_open(door: OpenDoor, path: str) -> Reply:
    """What is answered on a connection that goes on, and is used again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        for _ in range(2):
            writer.write(f"GET {path} HTTP/1.1\r\n".encode() + HEAD + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            reply = parse_reply(head + await reader.readexactly(size), "GET")
    finally:
        writer.close()
    return reply


async def test_all_ways_of_asking_get_the_same_answer(tmp_path: Path) -> None:
    """A plain request gets its answer from us, the others from aiohttp: they agree."""
    async with open_door(tmp_path) as door:
        written = await door.request("PUT", KEY, body=b"value", headers={"Content-Type": "a/b"})
        assert written.status == 200
        plain = await kept_open(door, KEY)
        closing = await door.request("GET", KEY)
        old = await door.raw(f"GET {KEY} HTTP/1.0\r\n".encode() + HEAD + b"\r\n")
        ours = lower(plain)
        assert (ours["content-type"], ours["server"], ours["content-length"]) == (
            "a/b", "hivemem", "5",
        )  # fmt: skip
        for other in (closing, old):
            assert (other.status, other.body) == (plain.status, plain.body) == (200, b"value")
            theirs = lower(other)
            theirs.pop("connection", None)
            assert {**theirs, "date": ""} == {**ours, "date": ""}
        shown = await door.request("HEAD", KEY)
        assert (shown.status, shown.body) == (200, b"")
        assert lower(shown)["content-length"] == "5"
