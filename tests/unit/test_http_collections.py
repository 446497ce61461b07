"""The routes of collections and queries, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engines.errors import QueryCancelled
from engines.registry import BUILT_IN, Registry
from engines.space import View
from node.http_limits import INLINE_BYTES_MAX
from tests.example_engine.hivemem_tally import TALLY
from tests.unit.http_door import WAIT_SECONDS, OpenDoor, Reply, open_door

REGISTRY = Registry((*BUILT_IN, TALLY))


async def send(door: OpenDoor, method: str, path: str, body: Any = None) -> Reply:
    encoded = None if body is None else json.dumps(body).encode()
    return await door.request(method, path, encoded)


async def create(door: OpenDoor, name: str = "c", **more: Any) -> Reply:
    return await send(door, "POST", "/v1/collections", {"name": name, "engine": "tally", **more})


async def query(door: OpenDoor, operation: str, parameters: Any = None, **more: Any) -> Reply:
    body = {"operation": operation, "collection": "c", "parameters": parameters or {}, **more}
    return await send(door, "POST", "/v1/query", body)


async def test_a_collection_from_its_creation_to_its_end(tmp_path: Path) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        made = await create(door, engine="counter", settings={"maximum": 50})
        assert (made.status, made.json()) == (
            201,
            {"created": True, "engine": "tally", "settings": {"maximum": 50}},
        )
        added = await query(door, "tally_add", {"name": "ä", "amount": 5})
        assert added.status == 200
        assert added.json() == {
            "operation": "tally_add", "namespace": "default", "collection": "c",
            "engine": "tally", "result": {"total": 5}, "log_index": door.machine.applied_index,
        }  # fmt: skip
        for level in ("linearizable", "strong", "leader", "stale", "eventual"):
            got = await query(door, "tally_get", {"name": "ä"}, requirements={"consistency": level})
            assert got.json()["result"] == {"total": 5}
        shown = (await send(door, "GET", "/v1/collections/default/c")).json()
        assert (shown["items"], shown["settings"]) == (1, {"maximum": 50})
        assert shown["written_index"] == added.json()["log_index"]
        changed = await send(
            door, "PATCH", "/v1/collections/default/c", {"settings": {"maximum": 9}}
        )
        assert changed.json() == {"altered": True, "settings": {"maximum": 9}}
        dropped = await send(door, "DELETE", "/v1/collections/default/c")
        assert dropped.json() == {"dropped": True}
        gone = await query(door, "tally_get", {"name": "ä"})
        assert (gone.status, gone.json()["error"]["code"]) == (404, "COLLECTION_NOT_FOUND")


async def test_collections_are_listed_page_by_page(tmp_path: Path) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        for name in ("b", "a", "c"):
            await create(door, name)
        await create(door, "elsewhere", namespace="other")
        names: list[str] = []
        cursor = ""
        while True:
            page = (await send(door, "GET", f"/v1/collections?limit=2{cursor}")).json()
            names += [each["name"] for each in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert names == ["a", "b", "c"]


async def test_the_engines_say_what_they_can_do(tmp_path: Path) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        items = (await send(door, "GET", "/v1/engines")).json()["items"]
        tally = next(each for each in items if each["engine"] == "tally")
        assert tally["operations"] == {
            "tally_add": "write", "tally_get": "read", "tally_list": "read",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"operation": "nothing"}, 400, "INVALID_ARGUMENT", "operation"),
        ({"collection": "a/b"}, 400, "INVALID_ARGUMENT", "collection"),
        ({"collection": "absent"}, 404, "COLLECTION_NOT_FOUND", "collection"),
        ({"namespace": ".."}, 400, "INVALID_ARGUMENT", "namespace"),
        ({"namespace": ""}, 400, "INVALID_ARGUMENT", "namespace"),
        ({"parameters": []}, 400, "INVALID_ARGUMENT", "parameters"),
        ({"parameters": {"name": ""}}, 400, "INVALID_ARGUMENT", "parameters.name"),
        ({"parameters": {"name": "x", "amount": 1 << 70}}, 400, "INVALID_ARGUMENT",
         "parameters.amount"),
        ({"parameters": {"name": "x", "amount": -1}}, 400, "INVALID_ARGUMENT", "amount"),
        ({"requirements": {"consistency": "maybe"}}, 400, "INVALID_ARGUMENT",
         "requirements.consistency"),
        ({"requirements": {"max_staleness_ms": 5}}, 400, "INVALID_ARGUMENT",
         "requirements.max_staleness_ms"),
        ({"priority": "high"}, 400, "INVALID_ARGUMENT", "priority"),
        ({"timeout_ms": 0}, 400, "INVALID_ARGUMENT", "timeout_ms"),
        ({"request_id": "é"}, 400, "INVALID_ARGUMENT", "request_id"),
    ],
)  # fmt: skip
async def test_what_is_refused_names_the_field_and_stores_nothing(
    tmp_path: Path, changes: dict[str, Any], status: int, code: str, field: str
) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        await create(door)
        good = {
            "operation": "tally_add", "collection": "c", "parameters": {"name": "x", "amount": 1},
        }  # fmt: skip
        reply = await send(door, "POST", "/v1/query", {**good, **changes})
        error = reply.json()["error"]
        assert (reply.status, error["code"], error.get("field")) == (status, code, field)
        assert error["definite"] is True
        assert (await query(door, "tally_list")).json()["result"] == {"items": []}


async def test_a_repeated_request_writes_once(tmp_path: Path) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        await create(door)
        for _ in range(2):
            again = await query(door, "tally_add", {"name": "x"}, request_id="r")
            assert again.json()["result"] == {"total": 1}
        refused = await query(door, "tally_get", {"name": "x"}, request_id="s")
        assert (refused.status, refused.json()["error"]["field"]) == (400, "request_id")


async def test_a_stale_read_says_which_replica_answered(tmp_path: Path) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        await create(door)
        stale = {"consistency": "stale", "capabilities": ["counting"]}
        routing = {"load_balancing": "performance_based", "preferred": ["one"]}
        got = await query(door, "tally_get", {"name": "x"}, requirements=stale, routing=routing)
        assert (got.status, got.json()["served_by"]) == (200, "n1")
        shown = (await send(door, "GET", "/v1/replicas")).json()["items"]
        assert [(each["node"], each["answers"], each["breaker"]) for each in shown] == [
            ("n1", 1, "closed")
        ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"routing": {}}, "routing"),  # not a stale read
        ({"routing": {"load_balancing": "random"}}, "routing.load_balancing"),
        ({"routing": {"preferred": "one"}}, "routing.preferred"),
        ({"routing": {"excluded": [1]}}, "routing.excluded[0]"),
        ({"routing": {"nodes": []}}, "routing.nodes"),
        ({"requirements": {"capabilities": ["flying"]}}, "requirements.capabilities"),
    ],
)
async def test_routing_that_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    async with open_door(tmp_path, registry=REGISTRY) as door:
        await create(door)
        stale = {} if changes == {"routing": {}} else {"requirements": {"consistency": "stale"}}
        reply = await query(door, "tally_get", {"name": "x"}, **{**stale, **changes})
        assert (reply.status, reply.json()["error"]["field"]) == (400, field)


async def test_a_large_query_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    """Whatever takes time in proportion to it runs on a thread."""
    threads: list[str] = []

    class Watched(type(TALLY)):  # type: ignore[misc]
        def prepare(self, operation: str, parameters: Any) -> Any:
            threads.append(threading.current_thread().name)
            return super().prepare(operation, {"name": "x"})

    async with open_door(tmp_path, registry=Registry((Watched(),))) as door:
        await create(door)
        small = await query(door, "tally_add", {"name": "x"})
        large = await query(door, "tally_add", {"name": "x", "ballast": "y" * INLINE_BYTES_MAX})
        assert (small.json()["result"], large.json()["result"]) == ({"total": 1}, {"total": 2})
    assert threads[0] == threading.current_thread().name
    assert threads[1] != threads[0]


class Patient(type(TALLY)):  # type: ignore[misc]
    """Its reads end when nobody waits for them; `ended` says that one did."""

    name = "patient"
    aliases = ()

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def query(self, view: View, settings: Any, operation: str, parameters: Any) -> Any:
        self.begun.set()
        try:
            while True:
                view.step()
                time.sleep(0.0005)
        except QueryCancelled:
            self.ended.set()
            raise


async def test_a_read_ends_with_the_connection_of_who_asked(tmp_path: Path) -> None:
    engine = Patient()
    async with open_door(tmp_path, registry=Registry((engine,))) as door:
        await create(door, engine="patient")
        body = json.dumps(
            {"operation": "tally_get", "collection": "c", "parameters": {"name": "a"},
             "timeout_ms": 60_000}
        ).encode()  # fmt: skip
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        head = f"POST /v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        assert await asyncio.to_thread(engine.begun.wait, WAIT_SECONDS)
        assert not engine.ended.is_set()
        writer.close()
        assert await asyncio.to_thread(engine.ended.wait, WAIT_SECONDS)
        # And the door goes on as if nothing had been.
        assert (await send(door, "GET", "/v1/collections/default/c")).status == 200
