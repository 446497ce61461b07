"""What the MCP tools of collections must do, on one node in a process and on real clusters."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp import Client

from tests.engine_samples import SAMPLES
from tests.mcp_walk import call, refusal


async def walk(client: Client, namespace: str) -> None:
    """Every engine and every tool, in a namespace of its own."""
    await _every_engine_is_written_and_read(client, namespace)
    await _what_there_is_is_described(client, namespace)
    await _collections_change_and_go(client, namespace)
    await remembering(client, f"{namespace}-memory")


async def _every_engine_is_written_and_read(client: Client, namespace: str) -> None:
    for sample in SAMPLES:
        place = {"namespace": namespace, "collection": sample.name}
        made = await call(
            client, "database_collection", action="create", **place,
            engine=sample.engine, settings=sample.settings,
        )  # fmt: skip
        assert made["done"] is True
        assert made["engine"] == sample.engine
        for operation in (*sample.setup[:1], sample.write(1), sample.write(2)):
            wrote = await query(client, place, operation)
            assert wrote["queryId"], "a write has an id, with which it can be repeated"
            # Without more said it is eventual, and still sees what was just written.
        read = await query(client, place, sample.read(2))
        assert sample.found(read["result"], 2), read
        assert read["engineId"] == sample.engine
        assert read["queryId"] is None
        assert read["logIndex"] >= wrote["logIndex"]
        for level in ("strong", "weak", "eventual"):
            read = await query(client, place, sample.read(1), requirements={"consistency": level})
            assert sample.found(read["result"], 1), (level, read)
        for refused in sample.refused:
            told = await told_of(client, place, refused)
            assert "Nothing was changed" in told
    told = await told_of(client, {"namespace": namespace, "collection": "text"}, ("sql_query", {}))
    assert told.startswith("INVALID_ARGUMENT")


async def _what_there_is_is_described(client: Client, namespace: str) -> None:
    shown = await call(client, "database_describe", namespace=namespace)
    assert [each["name"] for each in shown["collections"]] == sorted(s.name for s in SAMPLES)
    assert all(each["items"] > 0 for each in shown["collections"])
    engines = {each["engine"]: each for each in shown["engines"]}
    assert set(engines) >= {sample.engine for sample in SAMPLES}
    page = await call(client, "database_describe", namespace=namespace, limit=4)
    assert page["truncated"] is True
    rest = await call(client, "database_describe", namespace=namespace, cursor=page["next_cursor"])
    assert rest["engines"] is None, "they were on the first page"
    assert page["collections"] + rest["collections"] == shown["collections"]
    for name, engine in engines.items():
        (one,) = (await call(client, "database_describe", about=name))["engines"]
        assert set(one["operations"]) == set(engine["operations"])
        assert all(told.partition(": ")[2] for told in one["operations"].values())
        assert one["settings_schema"]["type"] == "object"


async def _collections_change_and_go(client: Client, namespace: str) -> None:
    place = {"namespace": namespace, "collection": "text"}
    told = await refusal(
        client, "database_collection", action="create", **place, engine="text", settings={}
    )
    assert told.startswith("COLLECTION_EXISTS")
    changed = await call(
        client, "database_collection", action="alter", **place, settings={"language": "none"}
    )
    assert changed["settings"]["language"] == "none"
    told = await refusal(
        client, "database_collection", action="alter", **place, settings={"langage": "none"}
    )
    assert "langage" in told
    for expected in (True, False):
        gone = await call(client, "database_collection", action="drop", **place)
        assert gone["done"] is expected
    told = await told_of(client, place, ("text_count", {}))
    assert told.startswith("COLLECTION_NOT_FOUND"), "an eventual read sees the drop"


async def remembering(client: Client, namespace: str) -> None:
    """Nothing is set up before; many agents begin at once."""
    where = {"namespace": namespace}
    nothing = await call(client, "recall", query="bees", **where)
    assert nothing["hits"] == []
    texts = [f"The number {number} bee dances" for number in range(8)]
    made = await asyncio.gather(*(call(client, "remember", text=text, **where) for text in texts))
    assert all(each["created"] for each in made)
    found = await call(client, "recall", query="dancing bees", **where)
    assert sorted(hit["text"] for hit in found["hits"]) == texts
    assert {hit["id"] for hit in found["hits"]} == {each["id"] for each in made}
    first = await call(
        client, "remember", text="Ann likes tea", id="ann", session="s1",
        metadata={"kind": "taste", "none": None}, time="2026-05-08T15:56:00+02:00", **where,
    )  # fmt: skip
    assert first == {"id": "ann", "created": True}
    again = await call(client, "remember", text="Ann likes coffee", id="ann", session="s1", **where)
    assert again == {"id": "ann", "created": False}
    await call(
        client, "remember", text="Bob likes tea", session="s2",
        metadata={"kind": "taste", "none": None}, time="2026-05-08T15:56:00+02:00", **where,
    )  # fmt: skip
    assert (await call(client, "recall", query="ann tea", session="s1", **where))["hits"] != []
    (hit,) = (await call(client, "recall", query="tea", **where))["hits"]
    assert hit["time"] == "2026-05-08T13:56:00.000Z"
    assert hit["metadata"] == {"kind": "taste", "none": None}
    assert hit["session"] == "s2"
    for given, number in (
        ({"metadata": {"kind": "taste"}}, 1),
        ({"metadata": {"kind": "fact"}}, 0),
        ({"session": "s1"}, 1),
        ({"after": "2026-05-08T13:56:00Z", "before": "2026-05-08T13:56:01Z"}, 1),
        ({"before": "2026-05-08T13:56:00Z"}, 0),
        ({"limit": 1}, 1),
    ):
        hits = (await call(client, "recall", query="likes", **given, **where))["hits"]
        assert len(hits) == number, (given, hits)


async def query(
    client: Client, place: dict[str, Any], operation: tuple[str, dict[str, Any]], **more: Any
) -> dict[str, Any]:
    name, parameters = operation
    answer = await call(
        client, "database_query", operation=name, parameters=parameters, **place, **more
    )
    assert answer["status"] == "completed"
    assert answer["executionTime"] > 0
    return answer


async def told_of(
    client: Client, place: dict[str, Any], operation: tuple[str, dict[str, Any]], **more: Any
) -> str:
    name, parameters = operation
    return await refusal(
        client, "database_query", operation=name, parameters=parameters, **place, **more
    )
