"""The MCP tools of collections, over a whole node in this process: nothing is made up."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

import mcp_server
from engines.registry import BUILT_IN, Registry
from mcp_memory import METADATA_BYTES_MAX, TEXT_CHARACTERS_MAX
from mcp_results import size
from mcp_values import JSON_DEPTH_MAX, VALUE_BYTES_MAX
from node.client import HivememClient
from node.errors import Unavailable
from tests.example_engine.hivemem_tally import TALLY
from tests.mcp_database_walk import query, told_of, walk
from tests.mcp_walk import call, refusal
from tests.unit.client_nodes import door_address
from tests.unit.http_door import OpenDoor, open_door

PAGE = Path(__file__).parents[2] / "docs" / "mcp.md"
NOTES = {"collection": "notes"}


@asynccontextmanager
async def connected(
    folder: Path, timeout_ms: int = 5_000, registry: Registry | None = None
) -> AsyncIterator[tuple[Client, OpenDoor]]:
    async with open_door(folder, registry=registry) as door:
        server = mcp_server.build_server(
            lambda: HivememClient([door_address(door)], follow=False, timeout_ms=timeout_ms)
        )
        async with Client(server) as client:
            yield client, door


async def create(client: Client, engine: str, **settings: Any) -> None:
    await call(
        client, "database_collection", action="create", engine=engine, settings=settings, **NOTES
    )


async def test_the_whole_walk(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        await walk(client, "walk")


async def test_the_session_of_the_page_works_as_printed(tmp_path: Path) -> None:
    calls = re.findall(r"^    (\w+) (\{.*\})$", PAGE.read_text(), re.MULTILINE)
    assert {name for name, _ in calls} >= {
        *("remember", "recall", "database_query", "database_describe", "database_collection")
    }
    async with connected(tmp_path) as (client, _):
        for name, arguments in calls:
            await call(client, name, **json.loads(arguments))


async def test_every_operation_is_described_so_that_it_can_be_called(tmp_path: Path) -> None:
    """An agent that knows nothing asks, makes a collection of each engine, and does as told."""
    async with connected(tmp_path) as (client, _):
        engines = (await call(client, "database_describe"))["engines"]
        assert len(engines) == 6
        for name in (engine["engine"] for engine in engines):
            (engine,) = (await call(client, "database_describe", about=name))["engines"]
            place = {"collection": f"of-{name}"}
            await call(
                client, "database_collection", action="create", engine=name,
                settings=engine["settings_example"], **place,
            )  # fmt: skip
            for operation in engine["operations"]:
                shown = (await call(client, "database_describe", about=operation))["operation"]
                assert shown["engine"] == name
                assert shown["summary"]
                assert shown["kind"] in ("read", "write", "status")
                assert shown["parameters_schema"]
                assert shown["result_schema"]
                assert size(shown) < 8_000, "a small portion"
                answer = await query(client, place, (operation, shown["parameters_example"]))
                assert (answer["queryId"] is not None) is (shown["kind"] == "write")


async def test_an_engine_that_describes_nothing(tmp_path: Path) -> None:
    """One of another package, which node/openapi_collections.py knows no schemas of."""
    async with connected(tmp_path, registry=Registry((*BUILT_IN, TALLY))) as (client, _):
        await create(client, "counter")
        (engine,) = (await call(client, "database_describe", about="counter"))["engines"]
        assert engine["engine"] == "tally"
        assert engine["operations"]["tally_add"] == "write"
        shown = (await call(client, "database_describe", about="tally_add"))["operation"]
        assert shown["parameters_example"] is None
        added = await query(client, NOTES, ("tally_add", {"name": "n", "amount": 2}))
        assert added["result"] == {"total": 2}
        found = await query(client, NOTES, ("tally_get", {"name": "n"}))
        assert found["result"] == {"total": 2}


async def test_the_guides_way_of_asking(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        await create(client, "document")
        wrote = await call(
            client, "database_query", operation="document_insert",
            parameters={"collection": "notes", "document": {"_id": "a", "none": None, "zero": 0}},
        )  # fmt: skip
        assert wrote["status"] == "completed"
        assert wrote["engineId"] == "document"
        for routing in (
            None,
            {},
            {"loadBalancing": "least_loaded", "preferred": ["one"]},
            {"load_balancing": "round_robin", "preferredEngines": ["n1"], "excludeEngines": []},
            '{"loadBalancing": "capability_based"}',
        ):
            found = await call(
                client, "database_query", operation="document_find",
                parameters='{"collection": "notes", "filter": {}}', routing=routing,
                requirements={"consistency": "eventual", "timeout": 5000, "capabilities": []},
            )  # fmt: skip
            assert found["servedBy"] == "n1"
            (item,) = found["result"]["items"]
            assert item["document"] == {"_id": "a", "none": None, "zero": 0}
        told = await refusal(
            client, "database_query", operation="document_count", **NOTES,
            routing={"excluded": ["one"]}, requirements={"timeout": 300},
        )  # fmt: skip
        assert told.startswith("QUORUM_NOT_REACHED"), "there is no other node"
        text = (
            await client.call_tool(
                "database_query",
                {"operation": "document_find", "parameters": {"collection": "notes"}},
            )
        ).content[0].text  # fmt: skip
        assert json.loads(text)["result"] == found["result"], "nulls that are data stay"


FIND = {"operation": "document_find", **NOTES}
DEEP = json.loads("[" * JSON_DEPTH_MAX + "]" * JSON_DEPTH_MAX)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("database_query", {"operation": "document_find"}, "collection"),
    ("database_query", NOTES, "operation"),
    ("database_query", {**FIND, "collections": "x"}, "collections"),
    ("database_query", {**FIND, "parameters": [1]}, "parameters"),
    ("database_query", {**FIND, "parameters": {"filter": {"a": DEEP}}}, "parameters"),
    ("database_query", {**FIND, "parameters": {"filtre": {}}}, "filtre"),
    ("database_query", {**FIND, "operation": "document_seek"}, "document_seek"),
    ("database_query", {**FIND, "operation": "sql_query"}, "operation"),
    ("database_query", {**FIND, "requestId": "r"}, "requestId"),
    ("database_query", {**FIND, "requirements": {"consistency": "quorum"}}, "consistency"),
    ("database_query", {**FIND, "requirements": {"timeout": 0}}, "requirements.timeout"),
    ("database_query", {**FIND, "requirements": {"timeout": 60_001}}, "requirements.timeout"),
    ("database_query", {**FIND, "requirements": {"timeout": True}}, "requirements.timeout"),
    ("database_query", {**FIND, "requirements": {"priority": "urgent"}}, "requirements.priority"),
    ("database_query", {**FIND, "requirements": {"capabilities": ["fly"]}}, "fly"),
    ("database_query", {**FIND, "routing": {"loadBalancing": "random"}}, "loadBalancing"),
    ("database_query", {**FIND, "routing": {"exclude": ["one"]}}, "exclude"),
    (
        "database_query",
        {**FIND, "requirements": {"consistency": "strong"}, "routing": {}},
        "routing",
    ),
    (
        "database_query",
        {**NOTES, "operation": "document_insert", "parameters": {"document": {}}, "routing": {}},
        "routing",
    ),
    ("database_describe", {"about": ""}, "about"),
    ("database_describe", {"about": "oracle"}, "engines: document, "),
    ("database_describe", {"cursor": "nonsense"}, "cursor"),
    ("database_collection", {"action": "create", "collection": "new"}, "engine"),
    ("database_collection", {"action": "create", "collection": "new", "engine": "x"}, "engine"),
    ("database_collection", {"action": "make", "collection": "new", "engine": "text"}, "action"),
    ("database_collection", {"action": "drop", **NOTES, "engine": "document"}, "engine"),
    ("database_collection", {"action": "drop", **NOTES, "shards": 2}, "shards"),
    (
        "database_collection",
        {"action": "create", "collection": "new", "engine": "document", "shards": 2},
        "shards",
    ),
    ("database_collection", {"action": "drop", **NOTES, "settings": {}}, "settings"),
    ("database_collection", {"action": "alter", **NOTES}, "settings"),
    ("database_collection", {"action": "alter", **NOTES, "settings": {"x": DEEP}}, "settings"),
    ("remember", {"text": ""}, "text"),
    ("remember", {"text": "x", "tags": ["a"]}, "tags"),
    ("remember", {"text": "x", "metadata": [1]}, "metadata"),
    ("remember", {"text": "x", "metadata": {"x": DEEP}}, "metadata"),
    ("remember", {"text": "x", "time": "yesterday"}, "time"),
    ("remember", {"text": "x", "time": "2026-05-08T13:56:00"}, "time"),
    ("remember", {"text": "x", "time": 1760000000}, "time"),
    ("remember", {"text": "x", "time": "1960-05-08T13:56:00Z"}, "time"),
    ("remember", {"text": "\ud800"}, "text"),
    ("recall", {"query": ""}, "query"),
    ("recall", {"query": "x", "limit": 51}, "limit"),
]


async def test_bad_arguments_are_refused_naming_them(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, door):
        await create(client, "document")
        await call(client, "remember", text="there")
        before = door.machine.applied_index
        for tool, arguments, named in REFUSED:
            told = await refusal(client, tool, **arguments)
            assert told.startswith(("INVALID_ARGUMENT", "INVALID_CURSOR")), (arguments, told)
            assert named in told, (arguments, told)
            assert "pydantic" not in told
        told = await refusal(client, "recall", query="- -")
        assert told.startswith("INVALID_ARGUMENT")
        # Of what reaches the log, a refusal changes nothing either.
        (collection, _) = (await call(client, "database_describe"))["collections"][::-1]
        assert collection["items"] == 0
        assert door.machine.applied_index - before <= 2


async def test_refusals_say_where_to_look(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        await create(client, "text")
        told = await told_of(client, NOTES, ("text_find", {}))
        assert "lists the operations" in told
        told = await told_of(client, NOTES, ("text_search", {"words": "x"}))
        assert "parameters.words" in told
        assert "about=the operation" in told
        told = await refusal(
            client, "database_collection", action="alter", settings={"langage": "none"}, **NOTES
        )
        assert "about=the engine" in told
        told = await told_of(client, {"collection": "none"}, ("text_count", {}))
        assert told.startswith("COLLECTION_NOT_FOUND")
        assert "database_collection" in told


async def test_a_write_that_may_be_done_says_how_to_make_sure(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, door):
        await create(client, "text")
        write = ("text_insert", {"documents": [{"text": "bees"}]})
        await query(client, NOTES, write)
        door.router.error = Unavailable("no majority in time", definite=False)
        told = await told_of(client, NOTES, write, requirements={"timeout": 300})
        assert told.startswith("OUTCOME_UNKNOWN")
        assert "Nothing was changed" not in told
        (request_id,) = re.findall(r'requestId "([^"]+)"', told)
        door.router.error = None
        first = await query(client, NOTES, write, requestId=request_id)
        again = await query(client, NOTES, write, requestId=request_id)
        assert again["result"] == first["result"]
        assert again["queryId"] == request_id
        counted = await query(client, NOTES, ("text_count", {}))
        assert counted["result"] == {"count": 2}
        other = ("text_insert", {"documents": [{"text": "wasps"}]})
        told = await told_of(client, NOTES, other, requestId=request_id)
        assert told.startswith("REQUEST_ID_REUSED")


async def test_a_text_that_may_be_stored_is_stored_once(tmp_path: Path) -> None:
    async with connected(tmp_path, timeout_ms=400) as (client, door):
        door.router.error = Unavailable("no majority in time", definite=False)
        told = await refusal(client, "remember", text="bees")
        assert told.startswith("OUTCOME_UNKNOWN")
        (made,) = re.findall(r'id "([^"]+)"', told)
        door.router.error = None
        for created in (True, False):
            again = await call(client, "remember", text="bees", id=made)
            assert again == {"id": made, "created": created}


async def test_pages_that_are_too_long_come_shorter_and_skip_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        await create(client, "document")
        documents = [{"_id": f"{n:04}", "text": "x" * (2_000 + 37 * (n % 70))} for n in range(300)]
        await query(client, NOTES, ("document_insert", {"documents": documents}))
        seen: list[str] = []
        cursor = None
        pages = 0
        while pages == 0 or cursor is not None:
            parameters = {"limit": 1_000} | ({"cursor": cursor} if cursor else {})
            page = await query(client, NOTES, ("document_find", parameters))
            assert page["truncated"] is False
            assert size(page["result"]) <= VALUE_BYTES_MAX
            seen += [item["id"] for item in page["result"]["items"]]
            cursor = page["nextCursor"]
            assert cursor == page["result"]["next_cursor"]
            pages += 1
        assert seen == [document["_id"] for document in documents]
        assert pages <= 6
        told = await told_of(client, NOTES, ("document_get", {"ids": seen}))
        assert told.startswith("ANSWER_TOO_LARGE"), "it takes no limit"
        found = re.search(r"\((\d+) of 300 items fit\)", told)
        assert found
        fewer = await query(client, NOTES, ("document_get", {"ids": seen[: int(found[1])]}))
        assert len(fewer["result"]["items"]) == int(found[1])


async def test_one_thing_that_is_too_long_is_refused_with_advice(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        await create(client, "text")
        long = {"id": "long", "text": "bee " * (VALUE_BYTES_MAX // 3)}
        await query(client, NOTES, ("text_insert", {"documents": [long]}))
        for operation in (("text_get", {"ids": ["long"]}), ("text_search", {"query": "bee"})):
            told = await told_of(client, NOTES, operation)
            assert told.startswith("ANSWER_TOO_LARGE")
            assert "include" in told
        brief = await query(client, NOTES, ("text_search", {"query": "bee", "include": "ids"}))
        assert [hit["id"] for hit in brief["result"]["hits"]] == ["long"]


async def test_a_long_answer_of_a_write_is_cut_and_says_so(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        await create(client, "text")
        count = 1_500
        documents = [{"id": f"{n:0200}", "text": "bee"} for n in range(count)]
        wrote = await query(client, NOTES, ("text_insert", {"documents": documents}))
        assert wrote["truncated"] is True
        shown = wrote["result"]["ids"]
        assert shown == [document["id"] for document in documents[: len(shown)]]
        assert wrote["omitted"] == {"ids": count - len(shown)}
        assert wrote["result"]["inserted"] == count
        assert VALUE_BYTES_MAX * 0.9 < size(wrote["result"]) <= VALUE_BYTES_MAX


async def test_what_recall_shows_is_bounded(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _):
        long = "bee " * TEXT_CHARACTERS_MAX
        for number in range(50):
            await call(client, "remember", text=long, id=f"{number}", session="s")
        found = await call(client, "recall", query="bee", limit=50)
        assert len(found["hits"]) == 50
        assert all(hit["text"] == long[:TEXT_CHARACTERS_MAX] for hit in found["hits"])
        assert all(hit["truncated"] for hit in found["hits"])
        await call(
            client, "remember", text="wasp", metadata={"note": "x" * METADATA_BYTES_MAX}, id="m"
        )
        (hit,) = (await call(client, "recall", query="wasp"))["hits"]
        assert hit["metadata"] is None
        assert hit["truncated"] is True
        whole = await query(client, {"collection": "memory"}, ("text_get", {"ids": ["m"]}))
        assert len(whole["result"]["documents"][0]["metadata"]["note"]) == METADATA_BYTES_MAX


@pytest.mark.parametrize("engine", ["document", "vector"])
async def test_a_collection_of_that_name_that_is_no_memory(tmp_path: Path, engine: str) -> None:
    async with connected(tmp_path) as (client, _):
        settings = {"dimensions": 2} if engine == "vector" else {}
        await call(
            client, "database_collection", action="create", collection="memory", engine=engine,
            settings=settings,
        )  # fmt: skip
        for tool, arguments in (("remember", {"text": "x"}), ("recall", {"query": "x"})):
            told = await refusal(client, tool, **arguments)
            assert told.startswith("INVALID_ARGUMENT")
            assert f"collection memory of namespace default is of engine {engine};" in told
            assert "Nothing was changed" in told
            assert "another namespace" in told
            assert "another name (database_collection" in told
        await call(client, "remember", text="bees", namespace="other")
        assert (await call(client, "recall", query="bees", namespace="other"))["hits"]
