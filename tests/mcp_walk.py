"""What every MCP door must do, whatever the transport and whatever is behind it.

Run against an in-memory stand-in by the unit tests and against real clusters by the
cluster tests, so that the stand-in cannot drift from the real thing unnoticed.
"""

from __future__ import annotations

import json
from typing import Any

from mcp import Client

TOOLS = [
    *("get", "put", "list", "delete", "history", "remember", "recall"),
    *("database_query", "database_describe", "database_collection"),
    *("memory_distribute", "memory_health_check"),
]

# Values that naive code loses or changes on the way, and texts that look like JSON.
VALUES: list[Any] = [
    0,
    False,
    "",
    None,
    [],
    {},
    1.5,
    -0.1,
    2**70,
    True,
    [None, 0, {"a": [False, ""]}],
    {"null": None, "deep": {"list": [1, [2, [3]]]}},
    "null",
    "true",
    "0",
    "[1]",
    '{"a": 1}',
    '"quoted"',
    "Grüße, 世界 🐝",
    "line\nbreak\ttab\x00nul",
]


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a call that must succeed; its text must say the same."""
    result = await client.call_tool(tool, arguments)
    text = result.content[0].text
    assert not result.is_error, text
    assert result.structured_content is not None
    told = json.loads(text)
    for name, item in told.items():
        if not isinstance(item, dict | list):
            assert result.structured_content[name] == item
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """The text of a call that must be refused."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    return str(result.content[0].text)


async def walk(client: Client, session: str) -> None:
    """Every tool, in a session of its own."""
    assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
    await _values_keep_their_type(client, session)
    await _writes_are_compared(client, session)
    await _names_are_listed(client, session)
    await _the_past_is_kept(client, session)
    await _the_guide_works(client, session)
    health = await call(client, "memory_health_check")
    assert health["overall"] == "healthy", health
    assert health["issues"] == []
    assert health["components"]["backends"]["healthy"] == 3


async def _values_keep_their_type(client: Client, session: str) -> None:
    missing = await call(client, "get", session=session, key="value-0")
    assert missing["found"] is False
    for number, value in enumerate(VALUES):
        key = f"value-{number}"
        put = await call(client, "put", session=session, key=key, value=value)
        assert put["version"] == 1
        got = await call(client, "get", session=session, key=key)
        assert got["found"] is True
        assert got["value"] == value
        assert type(got["value"]) is type(value), (value, got)
        assert got["encoding"] == ("utf-8" if isinstance(value, str) else "json")
        assert got["version"] == 1
        assert got["revision"] == put["revision"]
        assert got["served_by"]
        shown = (await client.call_tool("get", {"session": session, "key": key})).content[0].text
        assert json.loads(shown)["value"] == value
        other = await call(client, "get", session=f"{session}-other", key=key)
        assert other["found"] is False, "sessions are isolated"
        other = await call(client, "get", namespace="another", session=session, key=key)
        assert other["found"] is False, "namespaces are isolated"


async def _writes_are_compared(client: Client, session: str) -> None:
    place = {"session": session, "key": "compared"}
    first = await call(client, "put", **place, value="a", expect_version=0)
    told = await refusal(client, "put", **place, value="b", expect_version=0)
    assert "VERSION_CONFLICT" in told
    assert "expect_version=1" in told
    second = await call(client, "put", **place, value="b", expect_version=first["version"])
    assert second["version"] == 2
    told = await refusal(client, "delete", **place, expect_version=1)
    assert "expect_version=2" in told
    assert (await call(client, "get", **place))["value"] == "b"
    told = await refusal(client, "put", session=session, key="nowhere", value=1, expect_version=7)
    assert "absent" in told
    assert "expect_version=0" in told
    gone = await call(client, "delete", **place, expect_version=2)
    assert gone["deleted"] is True
    assert gone["version"] == 2
    assert (await call(client, "get", **place))["found"] is False
    assert (await call(client, "delete", **place))["deleted"] is False
    await call(client, "put", session=session, key="brief", value="x", ttl_seconds=3600)
    brief = await call(client, "get", session=session, key="brief")
    assert brief["expires_at"].endswith("Z")


async def _names_are_listed(client: Client, session: str) -> None:
    listed = f"{session}-listed"
    for number in range(5):
        await call(client, "put", session=listed, key=f"k/{number}", value={"n": number})
    await call(client, "put", session=listed, key="other", value="text")
    page = await call(client, "list", session=listed, prefix="k/", limit=3)
    assert [item["key"] for item in page["keys"]] == ["k/0", "k/1", "k/2"]
    assert page["truncated"] is True
    assert page["keys"][0]["encoding"] is None, "no values unless asked for"
    rest = await call(
        client, "list", session=listed, prefix="k/", limit=3, cursor=page["next_cursor"]
    )
    assert [item["key"] for item in rest["keys"]] == ["k/3", "k/4"]
    assert rest["truncated"] is False
    assert rest["next_cursor"] is None
    whole = await call(client, "list", session=listed, values=True)
    assert [item["value"] for item in whole["keys"]] == [{"n": n} for n in range(5)] + ["text"]
    sessions = await call(client, "list", limit=200)
    assert {session, listed} <= set(sessions["sessions"])
    namespaces = await call(client, "list", namespace="*")
    assert "default" in namespaces["namespaces"]
    assert "cursor" in await refusal(client, "list", session=listed, cursor="nonsense")


async def _the_past_is_kept(client: Client, session: str) -> None:
    place = {"session": session, "key": "past"}
    one = await call(client, "put", **place, value=1)
    await call(client, "put", **place, value=None)
    await call(client, "delete", **place)
    past = await call(client, "history", **place)
    assert [item["type"] for item in past["items"]] == ["delete", "put", "put"]
    assert [item["value"] for item in past["items"]] == [None, None, 1]
    assert [item["encoding"] for item in past["items"]] == [None, "json", "json"]
    assert past["compacted"] is False
    page = await call(client, "history", **place, limit=1)
    assert page["truncated"] is True
    then = await call(client, "history", **place, at_revision=one["revision"])
    assert [item["value"] for item in then["items"]] == [1]
    before = await call(client, "history", session=session, key="never")
    assert before["items"] == []


async def _the_guide_works(client: Client, session: str) -> None:
    place = {"sessionId": session, "key": "data_key"}
    value = {"plan": [1, 2], "done": False}
    wrote = await call(client, "memory_distribute", operation="write", **place, value=value)
    assert wrote["operation"] == "write"
    assert wrote["sessionId"] == session
    assert wrote["consistency"] == "eventual"
    assert wrote["result"]["version"] == 1
    decision = wrote["decision"]
    assert decision["status"] == "completed"
    assert decision["id"].endswith(f"/{wrote['result']['revision']}")
    assert len(decision["participants"]) == 3
    for consistency in ("eventual", "strong", "weak"):
        read = await call(
            client, "memory_distribute", operation="read", **place, consistency=consistency
        )
        assert read["result"]["value"] == value
        assert read["result"]["version"] == 1
        assert read["result"]["servedBy"]
        assert read["consistency"] == consistency
    got = await call(client, "get", session=session, key="data_key")
    assert got["value"] == value, "the guide's tools and ours see the same records"
    for falsy in (0, False, "", None):
        await call(client, "memory_distribute", operation="write", **place, value=falsy)
        read = await call(client, "memory_distribute", operation="read", **place)
        assert read["result"]["found"] is True
        assert read["result"]["value"] == falsy
        assert type(read["result"]["value"]) is type(falsy)
    gone = await call(client, "memory_distribute", operation="delete", **place)
    assert gone["result"]["found"] is True
    gone = await call(client, "memory_distribute", operation="delete", **place)
    assert gone["result"]["found"] is False
    missing = await call(
        client, "memory_distribute", operation="read", **place, consistency="strong", timeout=1000
    )
    assert missing["result"]["found"] is False
    assert missing["result"]["version"] is None
    for operation in ("sync", "repair"):
        told = await refusal(client, "memory_distribute", operation=operation, **place)
        assert "not available yet" in told
