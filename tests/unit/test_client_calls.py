"""The client's calls against the real HTTP door: what goes in comes out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node import client_wire as wire
from node.auth import Tokens, new_token
from node.client import (
    BatchDelete,
    BatchGet,
    BatchPut,
    DeleteResult,
    GetResult,
    HivememClient,
    PutResult,
    Value,
)
from node.errors import (
    BadRequest,
    CompactedError,
    Conflict,
    HivememError,
    NotFound,
    Unauthenticated,
    WrongCluster,
)
from tests.unit.client_nodes import addressed_door, door_address

NAMES = ["a", "..", ".", "a//b", "/", "%2F", "a/../b", "\0", "ü €", "?x=1#y&z+", "k" * 4096, "\t"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[HivememClient]:
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as opened,
    ):
        yield opened


async def test_keys_arrive_as_they_are(client: HivememClient):
    for key in NAMES:
        await client.put("n", "s/é ..", key, key.encode() + b"\xff")
    for key in NAMES:
        assert (await client.get("n", "s/é ..", key)).value == key.encode() + b"\xff"
    listed = [item.key async for item in client.list("n", "s/é ..")]
    assert listed == sorted(NAMES, key=str.encode)
    assert [name async for name in client.sessions("n")] == ["s/é .."]
    assert [name async for name in client.namespaces()] == ["n"]
    for key in NAMES:
        assert (await client.delete("n", "s/é ..", key)).deleted


@pytest.mark.parametrize("value", [b"", b"0", b"\0\x01\xff", b"x" * (8 << 20), b"\r\n"])
async def test_bytes_come_back_as_stored(client: HivememClient, value: bytes):
    await client.put("n", "s", "k", value, content_type="x/y; z=1")
    found = await client.get("n", "s", "k")
    assert (found.value, found.content_type) == (value, "x/y; z=1")
    page = await client.list_page("n", "s", values=True)
    assert page.items[0].value == value
    (past,) = [item async for item in client.history("n", "s", "k")]
    assert past.value == value


@pytest.mark.parametrize("value", [0, False, "", None, [], {"a": [1.5, "ü"]}])
async def test_json_values_keep_their_type(client: HivememClient, value: object):
    await client.put_json("n", "s", "k", value)
    found = await client.get("n", "s", "k")
    assert found.content_type == "application/json"
    assert found.json() == value
    assert type(found.json()) is type(value)


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
async def test_what_json_cannot_hold_is_refused(client: HivememClient, value: object):
    with pytest.raises(BadRequest) as caught:
        await client.put_json("n", "s", "k", value)
    assert caught.value.field == "value"


async def test_a_str_is_text_and_bytes_are_bytes(client: HivememClient):
    await client.put("n", "s", "text", "grüße")
    await client.put("n", "s", "bytes", b"gr")
    text, data = await client.get("n", "s", "text"), await client.get("n", "s", "bytes")
    assert (text.text(), text.content_type) == ("grüße", "text/plain; charset=utf-8")
    assert data.content_type == "application/octet-stream"


async def test_versions_ttl_and_conflicts(client: HivememClient):
    assert await client.put("n", "s", "k", "1", if_version=0) == PutResult(1, 1)
    with pytest.raises(Conflict) as caught:
        await client.put("n", "s", "k", "2", if_version=0)
    assert (caught.value.code, caught.value.version) == ("VERSION_CONFLICT", 1)
    assert caught.value.definite
    before = datetime.now(UTC)
    await client.put("n", "s", "k", "2", if_version=1, ttl_seconds=100.5)
    expires_at = (await client.get("n", "s", "k")).expires_at
    assert expires_at is not None
    assert 90 < (expires_at - before).total_seconds() < 110
    result = await client.delete("n", "s", "k", if_version=2)
    assert result == DeleteResult(True, 2, 3)
    assert await client.delete("n", "s", "k") == DeleteResult(False, None, 3)
    with pytest.raises(NotFound) as missing:
        await client.get("n", "s", "k")
    assert missing.value.code == "KEY_NOT_FOUND"


async def test_the_same_request_id_is_applied_once(client: HivememClient):
    first = await client.put("n", "s", "k", "v", request_id="r")
    assert await client.put("n", "s", "k", "v", request_id="r") == first
    assert (await client.get("n", "s", "k")).version == 1


async def test_the_past_can_be_read(client: HivememClient):
    first = await client.put("n", "s", "k", "old")
    await client.put("n", "s", "k", "new")
    await client.delete("n", "s", "k")
    assert (await client.get_at("n", "s", "k", first.revision)).text() == "old"
    kinds = [(item.type, item.version) async for item in client.history("n", "s", "k")]
    assert kinds == [("delete", 2), ("put", 2), ("put", 1)]
    page = await client.history_page("n", "s", "k", limit=1)
    rest = await client.history_page("n", "s", "k", cursor=page.next_cursor)
    assert [item.version for item in rest.items] == [2, 1]
    for _ in range(40):
        await client.put("n", "s", "k", "more")
    with pytest.raises(CompactedError):
        await client.get_at("n", "s", "k", first.revision)


async def test_listing_pages_through_everything(client: HivememClient):
    operations = [BatchPut("n", "s", f"{i:04d}", "v") for i in range(1000)]
    await client.batch(operations)
    await client.batch([BatchPut("n", "s", f"x{i:04d}", "v") for i in range(500)])
    assert len([item async for item in client.list("n", "s")]) == 1500
    assert [item.key async for item in client.list("n", "s", prefix="x000")] == [
        f"x000{i}" for i in range(10)
    ]
    page = await client.list_page("n", "s", limit=7)
    assert len(page.items) == 7
    following = await client.list_page("n", "s", limit=1, cursor=page.next_cursor)
    assert following.items[0].key == "0007"


async def test_records_are_found_by_their_words(client: HivememClient):
    await client.put("n", "s/é", "garden/bees", "they dance")
    await client.put("n", "s/é", "kitchen", b"\xff\x00 bees")
    await client.put_json("n", "s/é", "notes", {"bees": ["are dancing & singing often"]})
    page = await client.search("n", "s/é", "dance", values=True, snippets=True)
    assert [hit.item.key for hit in page.hits] == ["garden/bees", "notes"]
    assert [hit.snippet for hit in page.hits] == ["they [dance]", "are [dancing] & singing often"]
    assert page.hits[0].item.text() == "they dance"
    assert page.hits[0].score > page.hits[1].score > 0
    assert (page.more, page.revision) == (False, 3)
    found = await client.search("n", "s/é", "bees dance", mode="all", key_weight=2, value_weight=0)
    assert [(hit.item.key, hit.item.value, hit.snippet) for hit in found.hits] == [
        ("garden/bees", None, None)
    ]
    few = await client.search("n", "s/é", "danc*", limit=1, consistency="stale", min_revision=1)
    assert (len(few.hits), few.more) == (1, True)
    assert not (await client.search("n", "s/é", "dance", prefix="x")).hits
    with pytest.raises(BadRequest) as caught:
        await client.search("n", "s/é", "-")
    assert caught.value.field == "query"


async def test_a_transaction_compares_and_then_acts(client: HivememClient):
    await client.put("n", "s", "turn", "1")
    txn = client.txn("n", "s")
    txn.when_version("turn", "==", 1).when_value("turn", "==", "1").when_exists("new", False)
    txn.then.put("turn", b"\xff\0").get("turn").delete("gone").put_json("new", {"a": 1})
    txn.otherwise.get("turn")
    result = await txn.commit()
    put, got, deleted, new = result.results
    assert result.succeeded
    assert put == PutResult(2, result.revision)
    assert isinstance(got, GetResult)
    assert got.item is not None
    assert got.item.value == b"\xff\0"
    assert deleted == DeleteResult(False, None, result.revision)
    assert new == PutResult(1, result.revision)
    again = await txn.commit()
    assert not again.succeeded
    (otherwise,) = again.results
    assert isinstance(otherwise, GetResult)
    assert otherwise.item is not None
    assert otherwise.item.version == 2


async def test_a_committed_transaction_is_repeated_harmlessly(client: HivememClient):
    txn = client.txn("n", "s").when_exists("k", False)
    txn.then.put("k", "v")
    first = await txn.commit(request_id="r")
    assert await txn.commit(request_id="r") == first
    assert first.succeeded


async def test_a_batch_answers_for_each_operation(client: HivememClient):
    results = await client.batch(
        [
            BatchPut("n", "s", "a", b"\xff", if_version=0),
            BatchPut("n", "s", "a", "again", if_version=0),
            BatchGet("n", "s", "a"),
            BatchGet("n", "s", "none"),
            BatchDelete("n", "s", "none"),
        ]
    )
    put, conflict, got, missing, deleted = results
    assert put == PutResult(1, 1)
    assert isinstance(conflict, Conflict)
    assert isinstance(got, Value)
    assert got.value == b"\xff"
    assert isinstance(missing, NotFound)
    assert deleted == DeleteResult(False, None, 1)


@pytest.mark.parametrize(
    ("place", "options", "code", "field"),
    [
        (("bad name", "s", "k"), {}, "INVALID_ARGUMENT", "namespace"),
        (("n", "s\n", "k"), {}, "INVALID_ARGUMENT", "session"),
        (("n", "s", "k" * 4097), {}, "KEY_TOO_LARGE", "key"),
        (("n", "s", "k"), {"ttl_seconds": -1.0}, "INVALID_ARGUMENT", "ttl_seconds"),
        (("n", "s", "k"), {"if_version": -1}, "INVALID_ARGUMENT", "if_version"),
        (("n", "s", "k"), {"request_id": "ü"}, "INVALID_ARGUMENT", "request_id"),
    ],
)
async def test_refusals_keep_their_class_code_and_field(
    client: HivememClient, place: tuple[str, str, str], options: dict, code: str, field: str
):
    with pytest.raises(BadRequest) as caught:
        await client.put(*place, "v", **options)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.definite


async def test_status_cluster_and_health(client: HivememClient):
    assert (await client.status())["name"] == "one"
    assert (await client.cluster())["cluster_id"] == "c1"
    assert await client.health()
    assert not await client.health("http://127.0.0.1:1")


async def test_another_cluster_at_the_same_address_is_noticed(tmp_path: Path):
    async with addressed_door(tmp_path) as door:
        async with HivememClient([door_address(door)], cluster_id="c2") as client:
            with pytest.raises(WrongCluster, match="of cluster c1, not of c2") as caught:
                await client.put("n", "s", "k", "v")
            assert caught.value.definite
        assert door.machine.revision == 0
        async with HivememClient([door_address(door)], cluster_id="c1") as client:
            await client.put("n", "s", "k", "v")


async def test_a_token_opens_the_door(tmp_path: Path):
    token, line = new_token("me")
    name, digest = line.split(":")
    tokens = Tokens({name: bytes.fromhex(digest)})
    async with addressed_door(tmp_path, tokens=tokens) as door:
        address = door_address(door)
        async with HivememClient([address], token=token) as client:
            assert await client.put("n", "s", "k", "v") == PutResult(1, 1)
        for wrong in (None, "other"):
            async with HivememClient([address], token=wrong) as client:
                with pytest.raises(Unauthenticated):
                    await client.get("n", "s", "k")
    with pytest.raises(BadRequest):
        HivememClient(["http://127.0.0.1:1"], token="two\r\nlines")


async def test_a_client_can_be_made_outside_of_an_event_loop_and_closed_twice(tmp_path: Path):
    client = HivememClient("http://127.0.0.1:1")
    await client.aclose()
    await client.aclose()


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "1.5"), (10.0, "10"), (1e-07, "0.0000001"), (True, "true"), (0, "0"), ("a b", "a%20b")],
)
def test_parameters_are_plain(value: object, text: str):
    assert wire.query({"x": value, "none": None}) == f"?x={text}"


@pytest.mark.parametrize(
    "data", [b"", b"plain", "ü".encode(), b"\0", b"a\x1b[0m", b"\xff", b"a\nb"]
)
def test_encoded_values_decode_to_the_same_bytes(data: bytes):
    fields = wire.encoded_value(data)
    assert wire.decoded_value(str(fields["value"]), str(fields["encoding"])) == data


def test_an_error_says_the_same_when_shown():
    error = HivememError("what happened", definite=False)
    assert str(error) == error.message


async def test_a_query_has_a_priority(client: HivememClient) -> None:
    await client.create_collection("n", "c", "text")
    for priority in ("low", "medium", "high", "critical", None):
        answer = await client.query("n", "c", "text_count", priority=priority)
        assert answer["result"] == {"count": 0}
    with pytest.raises(BadRequest) as refused:
        await client.query("n", "c", "text_count", priority="urgent")  # type: ignore[arg-type]
    assert refused.value.field == "requirements.priority"


async def test_a_query_says_who_is_to_answer_and_what_the_engine_must_have(client: HivememClient):
    await client.create_collection("n", "c", "text")
    wrote = await client.query("n", "c", "text_insert", {"documents": [{"text": "bee"}]})
    assert "served_by" not in wrote
    found = await client.query(
        "n", "c", "text_count", consistency="stale",
        routing={"load_balancing": "least_loaded", "preferred": ["one"]},
    )  # fmt: skip
    assert (found["result"], found["served_by"]) == ({"count": 1}, "n1")
    with pytest.raises(BadRequest) as caught:
        await client.query("n", "c", "text_count", capabilities=["fly"])
    assert caught.value.field == "requirements.capabilities"
    with pytest.raises(BadRequest) as caught:
        await client.query("n", "c", "text_count", routing={"preferred": ["one"]})
    assert caught.value.field == "routing"


async def test_what_no_node_knows_counts_as_a_write(client: HivememClient):
    """Another build may know it: a repetition must not double it."""
    assert await client.is_write("text_insert")
    assert not await client.is_write("text_search")
    assert await client.is_write("text_invent")


async def test_the_api_is_described(client: HivememClient):
    document = await client.openapi()
    assert "/v1/query" in document["paths"]
