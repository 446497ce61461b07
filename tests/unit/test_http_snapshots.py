"""`/v1/snapshots`: what is made, how it is streamed, and what is refused."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ClusterError, Overloaded, StorageFailed
from cluster.snapshot import Created
from engines.state_file import examine
from node import snapshot_service
from node.auth import Tokens, new_token
from node.errors import Unavailable
from node.http_limits import HttpLimits
from node.http_snapshots import PIECE_BYTES
from tests.unit.http_door import WAIT_SECONDS, OpenDoor, open_door


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as found:
        yield found
        assert found.fatal == []


async def made(door: OpenDoor, **fields: object) -> dict:
    reply = await door.post("/v1/snapshots", fields)
    assert reply.status == 200, reply.body
    return reply.json()


async def test_a_snapshot_holds_what_was_acknowledged_before_it_was_asked_for(
    door: OpenDoor, tmp_path: Path
) -> None:
    for number in range(3):
        await door.put(f"k{number}", b"v" * 100)
        answer = await made(door)
        assert answer["min_index"] == door.machine.applied_index
        snapshot = answer["snapshot"]
        reply = await door.request("GET", f"/v1/snapshots/{snapshot['id']}")
        assert reply.status == 200
        assert len(reply.body) == snapshot["size"] == int(reply.headers["content-length"])
        assert hashlib.sha256(reply.body).hexdigest() == snapshot["sha256"]
        assert reply.headers["x-hivemem-snapshot-sha256"] == snapshot["sha256"]
        assert reply.headers["x-hivemem-served-by"] == "one"
        path = tmp_path / f"{number}.mdb"
        path.write_bytes(reply.body)
        facts = examine(path)
        assert (facts.index, facts.keys) == (snapshot["index"], number + 1)
    assert [read.consistency.value for read in door.router.reads] == ["linearizable"] * 3


async def test_without_a_quorum_there_is_no_snapshot(door: OpenDoor) -> None:
    await door.put("k")
    door.router.barrier_error = Unavailable("nobody answers")
    reply = await door.post("/v1/snapshots", {"group": 0})
    assert (reply.status, reply.code) == (503, "QUORUM_NOT_REACHED")
    assert door.snapshots.newest is None


async def test_what_is_not_ready_in_time_is_asked_for_again(door: OpenDoor) -> None:
    await door.put("k")
    door.snapshots._creating = True  # as while a snapshot of a large state is being made
    answer = await made(door, timeout_ms=30)
    assert answer["snapshot"] is None
    index = answer["min_index"]
    door.snapshots._creating = False
    await door.put("later")
    door.router.barrier_error = Unavailable("not needed again")
    answer = await made(door, min_index=index)
    assert answer["min_index"] == index
    assert answer["snapshot"]["index"] > index
    again = await made(door, min_index=index)
    assert again["snapshot"] == answer["snapshot"], "one that reaches far enough is not made anew"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (StorageFailed("no room", errno.ENOSPC), 507, "DISK_FULL"),
        (Overloaded("all readers are in use"), 503, "OVERLOADED"),
    ],
)
async def test_a_snapshot_that_fails_says_why(
    door: OpenDoor,
    monkeypatch: pytest.MonkeyPatch,
    failure: ClusterError,
    status: int,
    code: str,
) -> None:
    def create(configuration_at: object, done: Created) -> bool:
        done(None, failure)
        return True

    await door.put("k")
    monkeypatch.setattr(door.snapshots, "create", create)
    reply = await door.post("/v1/snapshots", {})
    assert (reply.status, reply.code) == (status, code)


async def test_a_stream_resumes_at_an_offset(door: OpenDoor) -> None:
    for number in range(4):
        await door.put(f"k{number}", bytes(PIECE_BYTES))
    snapshot = (await made(door))["snapshot"]
    assert snapshot["size"] > 2 * PIECE_BYTES
    path = f"/v1/snapshots/{snapshot['id']}"
    whole = (await door.request("GET", path)).body
    for offset in (0, 1, PIECE_BYTES + 7, snapshot["size"] - 1, snapshot["size"]):
        reply = await door.request("GET", f"{path}?offset={offset}")
        assert reply.body == whole[offset:]
    reply = await door.request("GET", f"{path}?offset={snapshot['size'] + 1}")
    assert (reply.status, reply.code, reply.json()["error"]["field"]) == (
        400, "INVALID_ARGUMENT", "offset",
    )  # fmt: skip


async def test_a_stream_that_cannot_go_on_is_cut_off(door: OpenDoor) -> None:
    """Its length was announced: whoever reads it sees that something is missing."""
    await door.put("k", bytes(3 * PIECE_BYTES))
    snapshot = (await made(door))["snapshot"]
    (held,) = door.snapshots._held.values()
    with held.state.open("r+b") as file:
        file.truncate(PIECE_BYTES + 1)
    assert await received(door, snapshot["id"]) < snapshot["size"]
    reply = await door.request("GET", f"/v1/snapshots/{snapshot['id']}")
    assert (reply.status, reply.code) == (404, "SNAPSHOT_NOT_FOUND"), "it is set aside"


async def test_a_stream_ends_with_the_replica_that_leaves_the_node(
    door: OpenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots that are closed call nobody back."""
    monkeypatch.setattr(snapshot_service, "READ_PATIENCE_SECONDS", 0.05)
    await door.put("k", bytes(PIECE_BYTES))
    snapshot = (await made(door))["snapshot"]
    door.snapshots.close()
    assert await received(door, snapshot["id"]) < snapshot["size"]


async def received(door: OpenDoor, snapshot: str) -> int:
    """How many bytes of an answer arrive before the node closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"GET /v1/snapshots/{snapshot} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    async with asyncio.timeout(WAIT_SECONDS):
        try:
            return len(await reader.read(-1))
        except ConnectionError:
            return 0
        finally:
            writer.close()


async def test_the_list_says_which_groups_there_are(door: OpenDoor) -> None:
    await door.put("k")
    snapshot = (await made(door))["snapshot"]
    reply = await door.request("GET", "/v1/snapshots")
    assert reply.json() == {
        "cluster_id": "c1",
        "slots": 16384,
        "groups": [{"group": 0, "slots": [[0, 16383]], "holders": ["n1"], "snapshots": [snapshot]}],
    }


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"group": -1}, "group"),
        ({"group": "0"}, "group"),
        ({"min_index": 0}, "min_index"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"groups": 0}, "groups"),
    ],
)
async def test_bad_input_is_refused(door: OpenDoor, document: dict, field: str) -> None:
    reply = await door.post("/v1/snapshots", document)
    assert (reply.status, reply.json()["error"]["field"]) == (400, field)
    assert door.snapshots.newest is None


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("0-99", 404, "SNAPSHOT_NOT_FOUND"),
        ("7-1", 404, "SNAPSHOT_NOT_FOUND"),
        ("", 404, "ROUTE_NOT_FOUND"),
        ("0", 400, "INVALID_ARGUMENT"),
        ("0-x", 400, "INVALID_ARGUMENT"),
        ("0-1/2", 400, "INVALID_ARGUMENT"),
    ],
)
async def test_what_is_not_there_is_not_found(
    door: OpenDoor, path: str, status: int, code: str
) -> None:
    reply = await door.request("GET", f"/v1/snapshots/{path}")
    assert (reply.status, reply.code) == (status, code)


async def test_another_nodes_group_is_not_found(door: OpenDoor) -> None:
    reply = await door.post("/v1/snapshots", {"group": 3})
    assert (reply.status, reply.code) == (404, "SNAPSHOT_NOT_FOUND")
    assert reply.json()["error"]["field"] == "group"


async def test_streams_are_bounded(tmp_path: Path) -> None:
    limits = replace(HttpLimits(), snapshot_streams_max=1)
    async with open_door(tmp_path, limits=limits) as door:
        await door.put("k", bytes(7 * PIECE_BYTES))
        await door.put("l", bytes(7 * PIECE_BYTES))
        snapshot = (await made(door))["snapshot"]
        path = f"/v1/snapshots/{snapshot['id']}"
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")  # and takes nothing more
        reply = await door.request("GET", path)
        assert (reply.status, reply.code) == (503, "OVERLOADED")
        assert "snapshot_streams_max" in reply.json()["error"]["message"]
        writer.transport.abort()

        async def served() -> bool:
            return (await door.request("GET", f"{path}?offset={snapshot['size']}")).status == 200

        async with asyncio.timeout(WAIT_SECONDS):
            while not await served():
                await asyncio.sleep(0.01)


async def test_a_token_is_needed(tmp_path: Path) -> None:
    token, line = new_token("t")
    tokens = Tokens({"t": bytes.fromhex(line.partition(":")[2])})
    async with open_door(tmp_path, tokens=tokens) as door:
        for method, path in (
            ("GET", "/v1/snapshots"),
            ("POST", "/v1/snapshots"),
            ("GET", "/v1/snapshots/0-1"),
        ):
            reply = await door.request(method, path)
            assert (reply.status, reply.code) == (401, "UNAUTHENTICATED")
        reply = await door.request(
            "GET", "/v1/snapshots", headers={"Authorization": f"Bearer {token}"}
        )
        assert reply.status == 200
