"""The search route: what it answers, byte for byte as described, and its deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import pytest
import pytest_asyncio

from engines import session_indexes
from engines.record_text import key_text
from node.reads import Consistency
from tests.openapi_check import Document
from tests.unit.http_door import OpenDoor, open_door

SEARCH = "/v1/search/{namespace}/{session}"
SECONDS = 20.0


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as opened:
        yield opened


async def test_an_item_is_that_of_a_listing_with_score_and_snippet(door: OpenDoor) -> None:
    for key, value in ((b"a/b c", b"the bees dance"), (b"photo", b"\xff\x00")):
        await door.request("PUT", f"/v1/kv/n/s/{quote(key)}?ttl_seconds=9", value)
    document = Document((await door.request("GET", "/openapi.json")).json())
    listed = (await door.request("GET", "/v1/kv/n/s?values=true")).json()["items"]
    plain = (await door.request("GET", "/v1/kv/n/s")).json()["items"]
    reply = await door.request(
        "GET", "/v1/search/n/s?query=dance+photo&values=true&snippets=true&key_weight=0.5"
    )
    document.check("GET", SEARCH, reply.status, reply.headers, reply.body)
    answer = reply.json()
    assert (answer["more"], answer["revision"]) == (False, 2)
    found = sorted(answer["items"], key=lambda item: item["key"])
    snippets = ["the bees [dance]", "[photo]"]
    assert all(item.pop("score") > 0 for item in found)
    assert found == [
        {**item, "snippet": snippet} for item, snippet in zip(listed, snippets, strict=True)
    ]
    bare = await door.request("GET", "/v1/search/n/s?query=%22bees%20dance%22&limit=1")
    document.check("GET", SEARCH, bare.status, bare.headers, bare.body)
    (item,) = bare.json()["items"]
    assert item.pop("score") > 0
    assert item == plain[0]


async def test_what_is_not_there_finds_nothing(door: OpenDoor) -> None:
    reply = await door.request("GET", "/v1/search/n/none?query=bees")
    assert reply.json() == {"items": [], "more": False, "revision": 0}


async def test_large_values_are_encoded_and_bounded(door: OpenDoor) -> None:
    for key in ("a", "b", "c"):
        await door.request("PUT", f"/v1/kv/n/s/{key}", b"bees " + b"x" * ((8 << 20) - 5))
    reply = await door.request("GET", "/v1/search/n/s?query=bees&values=true")
    assert [(item["key"], item["size"]) for item in reply.json()["items"]] == [
        ("a", 8 << 20),
        ("b", 8 << 20),
    ]
    assert reply.json()["more"] is True


async def test_it_is_as_fresh_as_asked(door: OpenDoor) -> None:
    await door.put("bees", b"dance")
    for query, expected in (("", "linearizable"), ("&consistency=weak", "leader")):
        await door.request("GET", f"/v1/search/n/s?query=bees{query}")
        assert door.router.reads[-1].consistency is Consistency(expected)
    target = "/v1/search/n/s?query=bees&consistency=stale&max_staleness_ms=7&min_revision=1"
    assert (await door.request("GET", target)).status == 200
    options = door.router.reads[-1]
    assert (options.consistency, options.max_staleness_ms, options.min_revision) == (
        Consistency.STALE,
        7,
        1,
    )


@pytest.mark.parametrize("path", ["n", "n/s/k", "", "n/s/"])
async def test_other_paths_are_no_routes(door: OpenDoor, path: str) -> None:
    reply = await door.request("GET", f"/v1/search/{path}?query=bees")
    assert (reply.status, reply.code) == (404, "ROUTE_NOT_FOUND")


async def test_building_beyond_the_deadline_is_refused_and_gone_on_with(door: OpenDoor) -> None:
    await door.put("bees", b"dance")
    await door.put("wasps", b"dance")
    release = threading.Event()

    def slow(key: bytes) -> str:
        assert release.wait(SECONDS)
        return key_text(key)

    with patch.object(session_indexes, "key_text", slow):
        late = await door.request("GET", "/v1/search/n/s?query=dance&timeout_ms=50")
        assert (late.status, late.code) == (504, "DEADLINE_EXCEEDED")
        # The loop goes on meanwhile.
        assert (await door.request("GET", "/v1/kv/n/s/bees")).status == 200
        following = asyncio.create_task(door.request("GET", "/v1/search/n/s?query=dance"))
        release.set()
        assert [item["key"] for item in (await following).json()["items"]] == ["bees", "wasps"]


async def test_a_second_session_is_refused_while_the_first_ones_index_is_made(
    door: OpenDoor,
) -> None:
    await door.put("bees", b"dance")
    await door.request("PUT", "/v1/kv/n/other/k", b"dance")
    document = Document((await door.request("GET", "/openapi.json")).json())
    begun, release = threading.Event(), threading.Event()

    def slow(key: bytes) -> str:
        begun.set()
        assert release.wait(SECONDS)
        return key_text(key)

    with patch.object(session_indexes, "key_text", slow):
        first = asyncio.create_task(door.request("GET", "/v1/search/n/s?query=dance"))
        try:
            assert await asyncio.to_thread(begun.wait, SECONDS)
            refused = await door.request("GET", "/v1/search/n/other?query=dance")
            assert (refused.status, refused.code) == (503, "OVERLOADED")
            assert refused.headers["retry-after"] == "1"
            document.check("GET", SEARCH, refused.status, refused.headers, refused.body)
            # The other thread answers listings meanwhile.
            assert (await door.request("GET", "/v1/kv/n/other")).status == 200
        finally:
            release.set()
        assert [item["key"] for item in (await first).json()["items"]] == ["bees"]
    assert (await door.request("GET", "/v1/search/n/other?query=dance")).status == 200
