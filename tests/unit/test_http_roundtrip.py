"""What goes in comes out: keys, values and content types, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.http_door import OpenDoor, Reply, open_door

JSON = {"Content-Type": "application/json"}
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=400) | st.text(
    '/.%?#&=+ \0\n\x7fé\U0001f41d\\"a', min_size=1, max_size=12
)
SESSIONS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60
)
VALUES = st.binary(max_size=3000) | st.sampled_from(
    [b"", b"0", b"false", b'""', b"null", b"\0", b"\xff\xfe", b"data: x\n\nid: 9\n", b"[]", b" "]
)
TYPES = st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


def loosely(key: str) -> str:
    """A key in a path with as little encoded as HTTP allows."""
    return quote(key, safe="/.:@!$&'()*+,;=-_~")


async def check_roundtrip(
    door: OpenDoor, session: str, key: str, value: bytes, content_type: str | None
) -> None:
    strict = f"{quote(session, safe='')}/{quote(key, safe='')}"
    loose = f"{quote(session, safe='')}/{loosely(key)}"
    headers = {} if content_type is None else {"Content-Type": content_type}
    stored = await door.request("PUT", f"/v1/kv/n/{loose}", value, headers)
    assert stored.status == 200, stored
    assert stored.json()["revision"] == door.machine.revision
    shown_type = content_type or "application/octet-stream"
    for path in (strict, loose):
        got = await door.request("GET", f"/v1/kv/n/{path}")
        assert (got.status, got.body, got.headers["content-type"]) == (200, value, shown_type)
        head = await door.request("HEAD", f"/v1/kv/n/{path}")
        assert (head.status, head.body) == (200, b"")
        assert head.headers == {**got.headers, "date": head.headers["date"]}
    revision = stored.json()["revision"]
    past = await door.request("GET", f"/v1/history/n/{strict}?at_revision={revision}")
    assert (past.body, past.headers["content-type"]) == (value, shown_type)
    await check_listed(door, session, key, value, shown_type)
    await check_operations(door, session, key, value)


async def check_listed(
    door: OpenDoor, session: str, key: str, value: bytes, content_type: str
) -> None:
    query = f"?values=true&prefix={quote(key, safe='')}&limit=1"
    listed = await door.request("GET", f"/v1/kv/n/{quote(session, safe='')}{query}")
    item = listed.json()["items"][0]
    assert (item["key"], item["size"], item["content_type"]) == (key, len(value), content_type)
    assert shown(item) == value
    history = await door.request(
        "GET", f"/v1/history/n/{quote(session, safe='')}/{quote(key, safe='')}?limit=1"
    )
    assert shown(history.json()["items"][0]) == value
    sessions = await door.request("GET", "/v1/kv/n?limit=1000")
    assert {"session": session} in sessions.json()["items"]


async def check_operations(door: OpenDoor, session: str, key: str, value: bytes) -> None:
    """The same through a transaction and a batch."""
    encoded = {"value": base64.b64encode(value).decode(), "encoding": "base64"}
    guard = {"key": key, "target": "value", "op": "==", **encoded}
    operations = [{"op": "put", "key": key, **encoded}, {"op": "get", "key": key}]
    names = {"namespace": "n", "session": session}
    done = (await door.post("/v1/txn", {**names, "compare": [guard], "then": operations})).json()
    assert done["succeeded"] is True
    assert done["results"][0]["key"] == done["results"][1]["key"] == key
    assert shown(done["results"][1]) == value
    batch = await door.post("/v1/batch", {"operations": [{"op": "get", **names, "key": key}]})
    assert shown(batch.json()["results"][0]) == value


def shown(item: dict) -> bytes:
    if item["encoding"] == "base64":
        return base64.b64decode(item["value"], validate=True)
    assert item["encoding"] == "utf-8"
    return item["value"].encode()


def test_roundtrips(tmp_path: Path) -> None:
    """Arbitrary names and bytes, on one node for all examples."""
    with asyncio.Runner() as runner:
        opened = open_door(tmp_path)
        door = runner.run(opened.__aenter__())

        @settings(max_examples=50, deadline=None)
        @given(SESSIONS, KEYS, VALUES, TYPES)
        @example(".", ".", b"0", None)
        @example("..", "..", b"false", "application/json")
        @example("a/b", "a/../b", b'""', "text/plain; charset=utf-8")
        @example("a//b", "a//b", b"null", None)
        @example("s", "/", b"", "x")
        @example("s", "//", b"x", None)
        @example("s", " ", b"x", None)
        @example("s", "%", b"x", None)
        @example("s", "%2F", b"x", None)
        @example("s", "+", b"x", None)
        @example("s", "a?b=c&d#e", b"x", None)
        @example("s", "\0", b"\0", None)
        @example("s" * 256, "é" * 2048, b"x", "t" * 256)
        def check(session: str, key: str, value: bytes, content_type: str | None) -> None:
            runner.run(check_roundtrip(door, session, key, value, content_type))

        try:
            check()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def test_the_largest_value(tmp_path: Path) -> None:
    value = bytes(range(256)) * (8 << 12)
    async with open_door(tmp_path) as door:
        assert (await door.put("k" * 4096, value)).status == 200
        got = await door.request("GET", f"/v1/kv/n/s/{'k' * 4096}")
        assert got.body == value
        listed = await door.request("GET", "/v1/kv/n/s?values=true")
        assert shown(listed.json()["items"][0]) == value
        over = await door.put("k", value + b"x")
        assert (over.status, over.code) == (413, "VALUE_TOO_LARGE")
        document = {
            "namespace": "n", "session": "s",
            "then": [{"op": "put", "key": "j", "encoding": "base64",
                      "value": base64.b64encode(value).decode()}, {"op": "get", "key": "j"}],
        }  # fmt: skip
        done = await door.post("/v1/txn", document)
        assert shown(done.json()["results"][1]) == value
        assert (await door.request("GET", "/v1/kv/n/s/j")).body == value


# Answers, field by field


async def test_a_records_life(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        first = await door.put("k", b"one", "?ttl_seconds=0.5&if_version=0")
        assert first.json() == {"version": 1, "revision": 1}
        got = await door.request("GET", "/v1/kv/n/s/k?consistency=weak&min_revision=1")
        assert got.headers["etag"] == '"1"'
        assert got.headers["x-hivemem-version"] == got.headers["x-hivemem-revision"] == "1"
        assert got.headers["x-hivemem-served-by"] == "one"
        listed = (await door.request("GET", "/v1/kv/n/s")).json()
        item = listed["items"][0]
        assert got.headers["x-hivemem-expires-at"] == item["expires_at"]
        assert item["created_at"] == item["updated_at"] < item["expires_at"]
        assert item["created_at"].endswith("Z")
        assert len(item["created_at"]) == len("2026-02-03T04:05:06.007Z")
        assert list(item) == [
            "key", "version", "revision", "created_revision", "content_type", "size",
            "created_at", "updated_at", "expires_at",
        ]  # fmt: skip
        assert (await door.put("k", b"two", "?if_version=1")).json()["version"] == 2
        assert "x-hivemem-expires-at" not in (await door.request("GET", "/v1/kv/n/s/k")).headers
        gone = await door.request("DELETE", "/v1/kv/n/s/k?if_version=2")
        assert gone.json() == {"deleted": True, "version": 2, "revision": 3}
        again = await door.request("DELETE", "/v1/kv/n/s/k")
        assert again.json() == {"deleted": False, "version": None, "revision": 3}
        history = (await door.request("GET", "/v1/history/n/s/k")).json()
        assert [entry["type"] for entry in history["items"]] == ["delete", "put", "put"]
        assert history["items"][0]["value"] is history["items"][0]["encoding"] is None
        assert (history["compacted"], history["next_cursor"]) == (False, None)
        bare = (await door.request("GET", "/v1/history/n/s/k?values=false")).json()
        assert all("value" not in entry for entry in bare["items"])
        assert (await door.request("GET", "/v1/history/n/s/k?at_revision=3")).status == 404


async def test_a_retry_with_the_same_request_id_is_applied_once(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        answers = [
            (await door.put("k", b"v", "?request_id=a%20b&ttl_seconds=60")).json() for _ in range(3)
        ]
        assert answers == [{"version": 1, "revision": 1}] * 3


async def pages(door: OpenDoor, path: str) -> list[dict]:
    found, cursor = [], ""
    while True:
        reply: Reply = await door.request("GET", path + cursor)
        page = reply.json()
        found.extend(page["items"])
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_listings_in_pages(tmp_path: Path, limit: int) -> None:
    names = ["a", "a/b", "b\0", "é", "z"]
    async with open_door(tmp_path) as door:
        for name in names:
            await door.put(name)
            await door.put("history", name.encode())
            await door.request("PUT", f"/v1/kv/n/{quote(f'x{name}'.strip(chr(0)), safe='')}/k", b"")
        await door.request("PUT", "/v1/kv/m/s/k", b"")
        keys = [item["key"] for item in await pages(door, f"/v1/kv/n/s?limit={limit}")]
        assert keys == sorted([*names, "history"], key=str.encode)
        under = [item["key"] for item in await pages(door, f"/v1/kv/n/s?prefix=a&limit={limit}")]
        assert under == ["a", "a/b"]
        sessions = [item["session"] for item in await pages(door, f"/v1/kv/n?limit={limit}")]
        assert sessions == ["s", "xa", "xa/b", "xb", "xz", "xé"]
        spaces = [item["namespace"] for item in await pages(door, f"/v1/kv?limit={limit}")]
        assert spaces == ["m", "n"]
        history = await pages(door, f"/v1/history/n/s/history?limit={limit}")
        assert [shown(item) for item in history] == [n.encode() for n in reversed(names)]
        nowhere = (await door.request("GET", "/v1/kv/n/nowhere")).json()
        assert (nowhere["items"], nowhere["next_cursor"]) == ([], None)


async def test_transactions_take_one_branch(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        document = {
            "namespace": "n", "session": "s",
            "compare": [{"key": "k", "target": "exists", "op": "==", "value": False}],
            "then": [{"op": "put", "key": "k", "value": "", "ttl_seconds": 9},
                     {"op": "get", "key": "k"}, {"op": "delete", "key": "none"}],
            "else": [{"op": "get", "key": "none"}, {"op": "delete", "key": "k"}],
        }  # fmt: skip
        first = (await door.post("/v1/txn", document)).json()
        put, get, delete = first["results"]
        assert first["succeeded"] is True
        assert put == {"op": "put", "key": "k", "version": 1, "revision": 1}
        assert (get["op"], get["found"], get["value"], get["version"]) == ("get", True, "", 1)
        assert get["content_type"] == "text/plain; charset=utf-8"
        assert get["expires_at"] is not None
        assert delete == {"op": "delete", "key": "none", "deleted": False, "version": None}
        second = (await door.post("/v1/txn", document)).json()
        assert second == {
            "succeeded": False,
            "revision": 2,
            "results": [
                {"op": "get", "key": "none", "found": False},
                {"op": "delete", "key": "k", "deleted": True, "version": 1},
            ],
        }


async def test_a_batch_has_a_result_for_each_operation(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        names = {"namespace": "n", "session": "s"}
        operations = [
            {"op": "get", **names, "key": "a"},
            {"op": "put", **names, "key": "a", "value": "x", "if_version": 0},
            {"op": "put", **names, "key": "a", "value": "y", "if_version": 0},
            {"op": "get", **names, "key": "b"},
            {"op": "delete", **names, "key": "b"},
        ]
        reply = await door.post("/v1/batch", {"operations": operations})
        got, put, conflict, missing, deleted = reply.json()["results"]
        assert (got["status"], got["value"]) == (200, "x")
        assert put == {"status": 200, "version": 1, "revision": 1}
        assert (conflict["status"], conflict["error"]["code"]) == (409, "VERSION_CONFLICT")
        assert conflict["error"]["version"] == 1
        assert (missing["status"], missing["error"]["code"]) == (404, "KEY_NOT_FOUND")
        assert deleted == {"status": 200, "deleted": False, "version": None, "revision": 1}
        assert (await door.post("/v1/batch", {"operations": []})).json() == {"results": []}


async def test_a_batch_of_large_gets_is_bounded(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.put("big", bytes(7 << 20))
        await door.put("small", b"x")
        operations = [
            {"op": "get", "namespace": "n", "session": "s", "key": key}
            for key in ("big", "big", "big", "small")
        ]
        results = (await door.post("/v1/batch", {"operations": operations})).json()["results"]
        assert [result["status"] for result in results] == [200, 200, 409, 200]
        assert results[2]["error"]["code"] == "LIMIT_EXCEEDED"


async def test_status_cluster_and_health(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        status = (await door.request("GET", "/v1/status")).json()
        assert status["started_at"] == "2025-10-09T08:53:20.123Z"
        assert status["redis"] == "127.0.0.1:7431"
        assert status["limits"] == {"http.watches_max": {"value": 7, "unit": "watches"}}
        cluster = (await door.request("GET", "/v1/cluster?timeout_ms=50")).json()
        assert (cluster["nodes"][0]["healthy"], cluster["nodes"][0]["pid"]) == (False, None)
        assert cluster["nodes"][0]["redis"] is None
        assert (await door.request("GET", "/livez")).json() == {"live": True}
        assert (await door.request("GET", "/readyz")).json() == {"ready": True}
        door.info.checks = (
            *door.info.checks,
            type(door.info.checks[0])("applied", False, "9 entries behind", "STALE"),
        )
        for query in ("?verbose", "?verbose=true", ""):
            reply = await door.request("GET", f"/readyz{query}")
            assert reply.status == 503
            body = json.loads(reply.body)
            assert body["error"]["code"] == "STALE"
            checks = [check["ok"] for check in body["checks"]] if query else body.get("checks")
            assert checks == ([True, False] if query else None)
        head = await door.request("HEAD", "/readyz")
        assert (head.status, head.body) == (503, b"")
