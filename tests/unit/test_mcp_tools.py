"""The MCP server over an in-memory client: schemas, refusals, limits, advice."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client

import mcp_cluster
import mcp_http
import mcp_memory
import mcp_schemas as schemas
import mcp_schemas_database as shapes
import mcp_server
import mcp_values
from mcp_collections import SEEN_MAX
from node.client import HivememClient
from node.errors import (
    BadRequest,
    CompactedError,
    DeadlineExceeded,
    HivememError,
    InternalError,
    NotFound,
    Unavailable,
)
from tests.mcp_walk import TOOLS, call, refusal, walk
from tests.unit.mcp_memory import Memory, node, view

PLACE = {"session": "s", "key": "k"}


def server(memory: Memory) -> Any:
    return mcp_server.build_server(lambda: cast(HivememClient, memory))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(params=["auto", "legacy"])
async def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(memory: Memory) -> AsyncIterator[Client]:
    # The client's cancel scopes must be left by the task that entered them, and pytest runs
    # the two halves of a fixture in different ones.
    connected: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    finished = asyncio.Event()

    async def hold() -> None:
        async with Client(server(memory)) as client:
            connected.set_result(client)
            await finished.wait()

    holding = asyncio.create_task(hold())
    await asyncio.wait({holding, connected}, return_when=asyncio.FIRST_COMPLETED)
    if not connected.done():
        await holding
    yield connected.result()
    finished.set()
    await holding


async def test_the_whole_walk(memory: Memory, mode: str) -> None:
    async with Client(server(memory), mode=mode) as connected:
        await walk(connected, "walk")
    assert not memory.is_open, "the client is closed with the server"


async def test_listing_tools_needs_no_cluster(memory: Memory, client: Client) -> None:
    memory.fail = Unavailable("nothing there", code="UNREACHABLE")
    assert (await client.list_tools()).tools
    assert memory.calls == []


async def test_tools_are_described_for_agents(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == TOOLS
    reads = {"get", "list", "history", "recall", "database_describe", "memory_health_check"}
    repeatable = {*reads, "delete"}
    for name, tool in tools.items():
        assert tool.title
        assert tool.description
        assert "\n" not in tool.description
        hints = tool.annotations
        assert hints is not None
        assert hints.read_only_hint is (name in reads)
        assert hints.destructive_hint is (name not in reads)
        assert hints.idempotent_hint is (name in repeatable)
        assert hints.open_world_hint is False
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        assert tool.output_schema["properties"]
        assert "title" not in json.dumps(tool.input_schema)
        assert "$ref" not in json.dumps(tool.input_schema), "some clients do not follow it"
    assert "expect_version" in (client.instructions or "")


async def test_descriptions_stay_short(client: Client) -> None:
    """What a model reads of the tools is about a quarter of this in tokens."""
    told = [
        {"name": tool.name, "description": tool.description, "schema": tool.input_schema}
        for tool in (await client.list_tools()).tools
    ]
    assert len(json.dumps(told)) < 11_200


async def test_the_guides_names_and_ranges(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    schema = tools["memory_distribute"].input_schema
    given = schema["properties"]
    assert list(given) == ["operation", "sessionId", "key", "value", "consistency", "timeout"]
    assert schema["required"] == ["operation", "sessionId", "key"]
    assert given["operation"]["enum"] == ["read", "write", "delete", "sync", "repair"]
    assert given["consistency"]["enum"] == ["eventual", "strong", "weak"]
    assert given["consistency"]["default"] == "eventual"
    timeout = given["timeout"]
    assert (timeout["minimum"], timeout["maximum"], timeout["default"]) == (1000, 30000, 5000)
    schema = tools["database_query"].input_schema
    given = schema["properties"]
    assert schema["required"] == ["operation"]
    demands = given["requirements"]["properties"]
    assert demands["consistency"]["enum"] == ["eventual", "strong", "weak"]
    assert demands["consistency"]["default"] == "eventual"
    assert demands["timeout"]["default"] == 30000
    assert demands["capabilities"]["default"] == []
    balancing = given["routing"]["properties"]["loadBalancing"]
    assert balancing["default"] == "performance_based"
    assert len(balancing["enum"]) == 4
    given = tools["memory_health_check"].input_schema["properties"]
    assert given["components"]["items"]["enum"] == ["coordinator", "optimizer", "backends", "all"]
    assert given["components"]["default"] == ["all"]
    assert given["detailed"]["default"] is False


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("get", {"session": "s"}, "key"),
    ("get", {"session": "", "key": "k"}, "session"),
    ("get", {"session": 7, "key": "k"}, "session"),
    ("get", {**PLACE, "consistency": "quorum"}, "consistency"),
    ("get", {**PLACE, "offset": -1}, "offset"),
    ("get", {**PLACE, "keys": "k"}, "keys"),
    ("put", PLACE, "value"),
    ("put", {**PLACE, "value": 1, "expected_version": 2}, "expected_version"),
    ("put", {**PLACE, "value": 1, "expect_version": -1}, "expect_version"),
    ("put", {**PLACE, "value": 1, "expect_version": True}, "expect_version"),
    ("put", {**PLACE, "value": 1, "expect_version": "1.5"}, "expect_version"),
    ("put", {**PLACE, "value": 1, "ttl_seconds": 0}, "ttl_seconds"),
    ("put", {**PLACE, "value": 1, "ttl_seconds": 1e12}, "ttl_seconds"),
    ("put", {**PLACE, "value": json.loads("[" * 70 + "]" * 70)}, "value"),
    ("list", {"limit": 0}, "limit"),
    ("list", {"limit": 201}, "limit"),
    ("list", {"prefix": "p"}, "session"),
    ("list", {"values": True}, "session"),
    ("list", {"namespace": "*", "session": "s"}, "namespace"),
    ("history", {**PLACE, "at_revision": 0}, "at_revision"),
    ("delete", {**PLACE, "force": True}, "force"),
    ("memory_distribute", {"operation": "move", "sessionId": "s", "key": "k"}, "operation"),
    ("memory_distribute", {"operation": "read", "session": "s", "key": "k"}, "sessionId"),
    ("memory_distribute", {"operation": "write", "sessionId": "s", "key": "k"}, "value"),
    (
        "memory_distribute",
        {"operation": "read", "sessionId": "s", "key": "k", "timeout": 999},
        "timeout",
    ),
    (
        "memory_distribute",
        {"operation": "read", "sessionId": "s", "key": "k", "timeout": 30001},
        "timeout",
    ),
    (
        "memory_distribute",
        {"operation": "read", "sessionId": "s", "key": "k", "consistency": "linearizable"},
        "consistency",
    ),
    ("memory_health_check", {"components": ["disk"]}, "components"),
    ("memory_health_check", {"components": []}, "components"),
    ("memory_health_check", {"verbose": True}, "verbose"),
]


@pytest.mark.parametrize(("tool", "arguments", "named"), REFUSED)
async def test_bad_arguments_are_refused_whole_naming_them(
    memory: Memory, client: Client, tool: str, arguments: dict[str, Any], named: str
) -> None:
    told = await refusal(client, tool, **arguments)
    assert told.startswith("INVALID_ARGUMENT")
    assert named in told
    assert "pydantic" not in told
    assert memory.calls == []


async def test_session_names_that_look_like_json_are_names(client: Client) -> None:
    for name in ("null", "[1]", '{"a":1}', "true", "7"):
        await call(client, "put", session=name, key=name, value=1)
        listed = await call(client, "list", session=name, prefix=name)
        assert [item["key"] for item in listed["keys"]] == [name]


async def test_null_stands_for_an_argument_left_out(client: Client) -> None:
    await call(client, "put", **PLACE, value=1, expect_version=None, ttl_seconds=None)
    listed = await call(client, "list", session=None, cursor=None)
    assert listed["sessions"] == ["s"]


async def test_lists_may_come_as_text(client: Client) -> None:
    health = await call(client, "memory_health_check", components='["backends"]')
    assert health["components"]["coordinator"] is None


ERRORS: list[tuple[HivememError, str]] = [
    (Unavailable("no majority", code="QUORUM_NOT_REACHED"), "memory_health_check"),
    (Unavailable("no node", code="UNREACHABLE"), "hivemem up"),
    (Unavailable("busy", code="OVERLOADED"), "Wait a second"),
    (DeadlineExceeded("too slow"), "memory_health_check"),
    (BadRequest("too large", code="VALUE_TOO_LARGE", status=413), "Split the value"),
    (CompactedError("gone"), "without at_revision"),
    (InternalError("a defect"), "tell the operator"),
]


@pytest.mark.parametrize(("error", "advice"), ERRORS, ids=lambda item: getattr(item, "code", ""))
async def test_errors_say_what_to_do(
    memory: Memory, client: Client, error: HivememError, advice: str
) -> None:
    memory.fail = error
    told = await refusal(client, "get", **PLACE)
    assert told.startswith(error.code)
    assert advice in told
    assert "changed" not in told, "a read changes nothing anyway"


async def test_a_definite_failure_of_a_write_says_that_nothing_changed(
    memory: Memory, client: Client
) -> None:
    memory.fail = Unavailable("no majority", code="QUORUM_NOT_REACHED", definite=True)
    for tool, arguments in (("put", {"value": 1}), ("delete", {})):
        assert "Nothing was changed" in await refusal(client, tool, **PLACE, **arguments)


async def test_an_unknown_outcome_is_never_called_a_failure(memory: Memory, client: Client) -> None:
    memory.fail = Unavailable("no majority in time", definite=False)
    for told in (
        await refusal(client, "put", **PLACE, value=1),
        await refusal(client, "delete", **PLACE),
        await refusal(
            client, "memory_distribute", operation="write", sessionId="s", key="k", value=1
        ),
    ):
        assert told.startswith("OUTCOME_UNKNOWN")
        assert "Get the key" in told
        assert "Nothing was changed" not in told


async def test_a_server_without_our_routes_is_no_missing_key(
    memory: Memory, client: Client
) -> None:
    memory.fail = NotFound("no such route", code="ROUTE_NOT_FOUND")
    guide = {"operation": "read", "sessionId": "s", "key": "k"}
    for told in (
        await refusal(client, "get", **PLACE),
        await refusal(client, "history", **PLACE, at_revision=1),
        await refusal(client, "memory_distribute", **guide),
    ):
        assert told.startswith("ROUTE_NOT_FOUND")


async def test_a_long_value_is_truncated_and_can_be_read_on(memory: Memory, client: Client) -> None:
    text = "ä" * mcp_values.VALUE_BYTES_MAX  # two bytes each
    await call(client, "put", **PLACE, value=text)
    parts, offset = [], 0
    while True:
        got = await call(client, "get", **PLACE, offset=offset)
        assert got["size"] == 2 * mcp_values.VALUE_BYTES_MAX
        assert len(got["value"].encode()) <= mcp_values.VALUE_BYTES_MAX
        parts.append(got["value"])
        if not got["truncated"]:
            break
        offset = got["next_offset"]
    assert "".join(parts) == text
    assert len(parts) == 2


async def test_long_json_is_shown_as_truncated_text(client: Client) -> None:
    await call(client, "put", **PLACE, value=["x" * mcp_values.VALUE_BYTES_MAX])
    got = await call(client, "get", **PLACE)
    assert got["truncated"] is True
    assert got["encoding"] == "utf-8"
    assert got["content_type"] == "application/json"


async def test_bytes_that_others_stored_come_as_base64(memory: Memory, client: Client) -> None:
    async with memory:
        await memory.put("default", "s", "k", b"\xff\x00", content_type="image/png")
        memory.is_open = True
        got = await call(client, "get", **PLACE)
        memory.is_open = True
    assert got["encoding"] == "base64"
    assert base64.b64decode(got["value"]) == b"\xff\x00"


async def test_pages_end_where_an_answer_is_full(memory: Memory, client: Client) -> None:
    third = "x" * (mcp_values.VALUE_BYTES_MAX // 3)
    for number in range(5):
        await call(client, "put", session="s", key=f"k{number}", value=third)
    await call(client, "put", session="s", key="k5", value="y" * (mcp_values.VALUE_BYTES_MAX + 1))
    seen: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await call(client, "list", session="s", values=True, cursor=cursor)
        shown = sum(len(item["value"]) for item in page["keys"])
        assert shown <= mcp_values.VALUE_BYTES_MAX
        seen.extend(page["keys"])
        cursor = page["next_cursor"]
        assert page["truncated"] is (cursor is not None)
        if cursor is None:
            break
    assert [item["key"] for item in seen] == [f"k{number}" for number in range(6)]
    assert [item["truncated"] for item in seen] == [False] * 5 + [True]
    assert seen[5]["size"] == mcp_values.VALUE_BYTES_MAX + 1
    past = await call(client, "history", session="s", key="k0")
    assert past["items"][0]["value"] == third


async def test_stale_reads_wait_for_what_this_server_wrote(memory: Memory, client: Client) -> None:
    await call(client, "get", **PLACE, consistency="stale")
    put = await call(client, "put", **PLACE, value=1)
    await call(client, "get", **PLACE, consistency="stale")
    await call(client, "get", **PLACE)
    guide = {"sessionId": "s", "key": "k"}
    await call(client, "memory_distribute", operation="read", **guide)
    assert memory.min_revisions == [None, put["revision"], None, put["revision"]]


async def test_participants_are_the_healthy_nodes_or_unknown(
    memory: Memory, client: Client
) -> None:
    memory.cluster_view = view(node("a"), node("b"), node("c", healthy=False))
    write = {"operation": "write", "sessionId": "s", "key": "k", "value": 1}
    wrote = await call(client, "memory_distribute", **write)
    assert wrote["decision"]["participants"] == ["a", "b"]
    assert wrote["decision"]["id"] == "c1/1"

    async def odd(**_: object) -> None:
        raise KeyError("an odd answer")

    memory.cluster = odd  # type: ignore[method-assign, assignment]
    wrote = await call(client, "memory_distribute", **write)
    assert wrote["decision"]["participants"] is None, "the write is done all the same"
    assert wrote["result"]["version"] == 2


HEALTH = [
    (view(), "healthy", ""),
    (view(node("a"), node("b"), node("c", healthy=False)), "degraded", "node c"),
    (view(node("a"), node("b", healthy=False), node("c", healthy=False)), "critical", "no quorum"),
    (
        view({**node("a"), "healthy": False}, *(node(each, healthy=False) for each in "bc")),
        "critical",
        "no quorum: 1 of 3 nodes answer, 0 of them with a leader; node a knows no leader",
    ),
    (view(leader=None), "critical", "no leader"),
    (view(node("a", healthy=False), node("b"), node("c")), "critical", "no leader"),
    (view(node("a")), "healthy", ""),
]


@pytest.mark.parametrize(("seen", "overall", "issue"), HEALTH)
async def test_health_is_what_the_cluster_says(
    memory: Memory, client: Client, seen: Any, overall: str, issue: str
) -> None:
    memory.cluster_view = seen
    health = await call(client, "memory_health_check")
    assert health["overall"] == overall
    assert health["components"]["coordinator"]["status"] == overall
    assert health["components"]["optimizer"]["status"] == "healthy"
    assert bool(health["issues"]) is bool(issue)
    assert issue in "; ".join(health["issues"])
    assert bool(health["recommendations"]) is bool(issue)
    assert health["components"]["backends"]["total"] == len(seen["nodes"])


async def test_an_unreachable_cluster_is_critical_and_its_size_unknown(
    memory: Memory, client: Client
) -> None:
    memory.fail = Unavailable("no node answers", code="UNREACHABLE")
    health = await call(client, "memory_health_check", detailed=True)
    assert health["overall"] == "critical"
    assert health["components"]["backends"] == {"total": None, "healthy": None, "details": None}
    assert "no node answers" in health["issues"][0]


async def test_health_details_are_the_leaders_own_figures(memory: Memory, client: Client) -> None:
    health = await call(client, "memory_health_check", detailed=True)
    assert memory.calls == ["cluster", "status http://a", "optimizer"]
    optimizer = health["components"]["optimizer"]
    assert optimizer["metrics"] == {
        "executions": 8, "cacheHits": 2, "cacheHitRate": 0.25, "patterns": 3, "adopted": 1,
    }  # fmt: skip
    assert optimizer["details"]["recommendations"][0]["type"] == "index"
    details = health["components"]["coordinator"]["details"]
    assert details["clusterId"] == "c1"
    assert details["keys"] == 1
    assert [each["name"] for each in health["components"]["backends"]["details"]] == ["a", "b", "c"]
    some = await call(client, "memory_health_check", components=["optimizer"])
    assert some["components"]["coordinator"] is None
    assert some["overall"] == "healthy"


async def test_an_optimizer_that_is_off_is_no_illness_and_one_unknown_is_null(
    memory: Memory, client: Client
) -> None:
    memory.optimizes = False
    health = await call(client, "memory_health_check")
    assert health["overall"] == "healthy"
    assert health["components"]["optimizer"]["status"] == "not_initialized"
    memory.fail = Unavailable("no node answers", code="UNREACHABLE")
    health = await call(client, "memory_health_check")
    assert health["components"]["optimizer"] == {"status": None, "metrics": None, "details": None}


async def test_the_page_names_every_tool_argument_and_answer(client: Client) -> None:
    page = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text()
    for tool in (await client.list_tools()).tools:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{tool.name}` |")]
        assert tool.output_schema is not None
        for name in (*tool.input_schema["properties"], *tool.output_schema["properties"]):
            assert f"`{name}`" in row, f"{tool.name}: {name}"
    limits = [
        *(f"{mcp_values.VALUE_BYTES_MAX >> 10} KiB", f"{mcp_values.JSON_DEPTH_MAX} levels"),
        *(f"{schemas.LIST_LIMIT_MAX} items", f"{schemas.TIMEOUT_MS_MAX:,} ms"),
        *(f"{shapes.RECALL_LIMIT_MAX} hits", f"{shapes.QUERY_TIMEOUT_MS_MAX:,} ms"),
        *(f"{mcp_memory.TEXT_CHARACTERS_MAX:,} characters", f"{SEEN_MAX:,} collections"),
        f"{mcp_memory.METADATA_BYTES_MAX:,} bytes",
        f"{mcp_server.UNREACHABLE_MS_MAX:,} ms",
        *(f"{mcp_cluster.VIEW_MS_MAX:,} ms", f"{mcp_http.REQUEST_BYTES_MAX >> 20} MiB"),
        *(f"{mcp_http.SESSIONS_MAX:,} sessions", f"{mcp_http.SESSION_IDLE_SECONDS_MAX:,} s"),
    ]
    for limit in limits:
        assert limit in page
