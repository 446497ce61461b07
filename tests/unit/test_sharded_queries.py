"""Queries of collections of several shards: retries, refusals by one shard, bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engines.errors import InvalidArgument
from node.errors import BadRequest, Conflict, NotFound, Unavailable
from node.reads import LINEARIZABLE, ReadOptions
from tests.unit.shard_partitions import COMMANDS_MAX, FAR, SHARDS, Crash, fill, ids, partitions


async def test_a_query_is_answered_from_all_shards_and_says_so(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(node, "c")
        reads = node.reads
        assert await node.query("c", "document_count") == {"count": 20}
        assert node.reads == reads + SHARDS, "the home is not asked again"
        one = await node.outcome("c", "document_get", {"id": "d01"})
        assert one.log_index > 0
        several = await node.outcome("c", "document_count", {})
        assert several.log_index == 0
        described = await node.described("c")
        assert (described.shards, described.items) == (SHARDS, 20 + SHARDS), "and their states"
        await node.query("c", "document_insert", document={"_id": "one more"})
        assert (await node.described("c")).written_index > described.written_index
        await node.query("c", "document_delete", id="one more")
        await node.create("plain")
        page = await node.service.list("n", None, 10, LINEARIZABLE, FAR)
        assert [(each.name, each.items) for each in page.collections] == [("c", 23), ("plain", 0)]
        with pytest.raises(BadRequest, match="revisions"):
            await node.service.describe("n", "c", ReadOptions(min_revision=1), FAR)


async def test_a_node_asks_the_home_once(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        await cluster.node().create("c", shards=SHARDS)
        node = cluster.node()
        await node.query("c", "document_insert", document={"_id": "a"})
        assert (node.commands, node.reads) == (2, 1)
        await node.query("c", "document_insert", document={"_id": "b"})
        assert (node.commands, node.reads) == (3, 1)


async def test_operations_of_another_engine_are_refused_as_ever(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        for operation, parameters in (("vector_count", {}), ("kv", {})):
            with pytest.raises(InvalidArgument) as caught:
                await node.query("c", operation, **parameters)
            assert caught.value.field == "operation"
        for _ in range(2):  # before and after the node knows the home
            with pytest.raises(InvalidArgument, match="no write of engine document"):
                await node.query("c", "vector_delete", ids=["a"])


async def test_a_write_that_misses_a_part_makes_it_and_a_retry_knows(tmp_path: Path) -> None:
    given = [{"n": number} for number in range(12)]
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        node.fail_at = 2  # one part is made, two are missing
        with pytest.raises(Crash):
            await node.create("c", shards=SHARDS)
        other = cluster.node()
        first = await other.query("c", "document_insert", "r", documents=given)
        assert first["inserted"] == 12
        assert await cluster.node().query("c", "document_insert", "r", documents=given) == first
        assert len(await ids(other, "c")) == 12
        with pytest.raises(Conflict) as caught:
            await other.query("c", "document_insert", "r", documents=[{"n": 99}])
        assert caught.value.code == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("applied", [False, True])
async def test_a_retry_of_a_write_does_it_once(tmp_path: Path, applied: bool) -> None:
    given = [{"n": number} for number in range(12)]
    for step in range(COMMANDS_MAX):
        with partitions(tmp_path / str(step)) as cluster:
            node = cluster.node()
            await node.create("c", shards=SHARDS)
            node.fail_at, node.applied, node.crash = node.commands + step, applied, False
            said = (False, "OUTCOME_UNKNOWN")
            try:
                first = await node.query("c", "document_insert", "r", documents=given)
            except Unavailable as error:
                said = (error.definite, error.code)
                first = None
            answer = await cluster.node().query("c", "document_insert", "r", documents=given)
            assert said == (False, "OUTCOME_UNKNOWN")
            assert first in (None, answer)
            assert answer["inserted"] == 12
            assert sorted(answer["ids"]) == await ids(node, "c")
            if first is not None:
                return
    raise AssertionError("it never ended")


async def test_a_retry_of_a_walk_over_the_shards_changes_nothing_twice(tmp_path: Path) -> None:
    update = {"filter": {"n": {"$gte": 0}}, "update": {"$inc": {"n": 100}}, "limit": 15}
    for step in range(COMMANDS_MAX):
        with partitions(tmp_path / str(step)) as cluster:
            node = cluster.node()
            await node.create("c", shards=SHARDS)
            await fill(node, "c")
            node.fail_at, node.applied, node.crash = node.commands + step, True, False
            try:
                first = await node.query("c", "document_update", "r", **update)
            except Unavailable:
                first = None
            answer = await cluster.node().query("c", "document_update", "r", **update)
            assert answer["matched"] == 15
            assert answer["more"] is True
            changed = {"filter": {"n": {"$gte": 100}}}
            assert (await node.query("c", "document_count", **changed))["count"] == 15
            twice = {"filter": {"n": {"$gte": 200}}}
            assert (await node.query("c", "document_count", **twice))["count"] == 0
            if first is not None:
                return
    raise AssertionError("it never ended")


async def test_a_refusal_by_one_shard_names_the_callers_item_and_what_was_done(
    tmp_path: Path,
) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        await node.query("c", "document_insert", document={"_id": "d13"})
        documents = [{"_id": f"d{number:02}"} for number in range(20)]
        with pytest.raises(Conflict) as caught:
            await node.query("c", "document_insert", documents=documents)
        error = caught.value
        assert (error.code, error.field) == ("ITEM_EXISTS", "parameters.documents[13]._id")
        assert error.definite is False
        assert "not atomic across shards: of 3 these did their part: " in error.message
        there = await ids(node, "c")
        assert 1 < len(there) < 20, "the other shards have theirs"
        with pytest.raises(Conflict) as caught:
            await node.query("c", "document_insert", document={"_id": "d13"})
        assert caught.value.definite is True, "one shard alone refuses whole"


async def test_a_shard_that_does_not_answer_fails_a_read_and_ends_the_others(
    tmp_path: Path,
) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(node, "c")
        known = node.service.sharded.known("n", "c")
        assert known is not None
        node.silent = {cluster.group_of(known.parts[1])}
        ended: list[str] = []
        answer = node.read

        async def read(request: Any, options: Any, deadline: float) -> Any:
            if request.session == known.parts[1]:
                return await answer(request, options, deadline)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(request.session)
                raise

        node.read = read  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="does not answer"):
            await node.query("c", "document_count")
        await asyncio.sleep(0)
        assert sorted(ended) == sorted({known.parts[0], known.parts[2]})


async def test_a_partition_without_a_leader_refuses_for_certain(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        node.down = set(cluster.groups)
        with pytest.raises(Unavailable) as caught:
            await node.query("c", "document_insert", documents=[{"n": 1}, {"n": 2}, {"n": 3}])
        assert caught.value.definite is True
        node.down.clear()
        assert await node.query("c", "document_count") == {"count": 0}


async def test_answers_that_are_too_large_together_are_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node import sharded_queries

    monkeypatch.setattr(sharded_queries, "ANSWERS_BYTES_MAX", 100)
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(node, "c")
        with pytest.raises(InvalidArgument, match="over 100 bytes together"):
            await node.query("c", "document_find")
        assert (await node.query("c", "document_count"))["count"] == 20


async def test_a_missing_collection_is_missing(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node, other = cluster.node(), cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(other, "c", 3)
        await node.drop("c")
        for request in (
            other.query("c", "document_count"),
            other.query("c", "document_insert", document={"_id": "x"}),
            other.described("c"),
        ):
            with pytest.raises((NotFound, InvalidArgument)) as caught:
                await request
            assert caught.value.code == "COLLECTION_NOT_FOUND"
        assert cluster.left() == 0
