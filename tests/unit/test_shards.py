"""Collections of several shards over partitions of this process: every crash, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.slots import partition_of, session_slot
from engines import collection_writes
from engines.catalog import Collection, pack_collection, unpack_collection
from engines.codec import unpack_value
from engines.errors import InvalidArgument
from engines.layout import unseal
from engines.validation import is_part_name, validate_collection
from node.errors import BadRequest, Conflict, HivememError, NotFound, Unavailable
from node.parts import creation_id, home_of, identity_of, parted
from node.reads import LINEARIZABLE
from tests.unit.shard_partitions import (
    COMMANDS_MAX,
    FAR,
    SHARDS,
    Crash,
    Node,
    Partitions,
    duties,
    fill,
    ids,
    partitions,
)


def home(name: str, shards: int, number: int = 1) -> Collection:
    return Collection("n", name, number.to_bytes(8), "document", {}, 0, shards=shards)


# --- Names, records ---------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "shards"), [(1, 1), (4, 4), (5, 3), (64, 64), (256, 64)])
def test_parts_are_in_partitions_of_their_own_that_follow_the_homes(
    count: int, shards: int
) -> None:
    held: Counter[int] = Counter()
    for number in range(40):
        found = parted(home(f"c{number}", shards, number), _group(count), count)
        groups = [_group(count)(part) for part in found.parts]
        first = _group(count)(f"c{number}")
        assert groups == [(first - 1 + shard) % count + 1 for shard in range(shards)]
        assert all(map(is_part_name, found.parts)), found.parts
        held.update(groups)
    assert sum(held.values()) == 40 * shards
    if count <= 5:
        assert max(held.values()) <= 2 * 40 * shards / count


def _group(count: int) -> Any:
    return lambda name: partition_of(session_slot(name), count)


def test_a_collection_made_anew_has_other_parts() -> None:
    first, second = (parted(home("c", 3, number), _group(4), 4).parts for number in (1, 2))
    assert not set(first) & set(second)
    # After a restore the home's partition may give an id again.
    later = parted(replace(home("c", 3, 1), created_ms=1), _group(4), 4).parts
    assert not set(first) & set(later)
    assert home_of(later[0]) == ("c", identity_of(replace(home("c", 3, 1), created_ms=1)))


@pytest.mark.parametrize("name", ["c~0000000000000001000000000000~7", "~", "c~", "a~b"])
def test_no_caller_says_the_name_of_a_part(name: str) -> None:
    with pytest.raises(InvalidArgument):
        validate_collection(name)


async def test_a_part_is_not_to_be_reached_by_its_name(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        part = next(
            name.removeprefix("n\0")
            for names in cluster.names().values() for name in names if "~" in name
        )  # fmt: skip
        with pytest.raises(InvalidArgument, match="must be made of"):
            await node.query(part, "document_count")
        for request in (node.create(part), node.drop(part), node.alter(part, {})):
            with pytest.raises(InvalidArgument, match="must be made of"):
                await request
        with pytest.raises(InvalidArgument, match="must be made of"):
            await node.described(part)
        page = await node.service.list("n", None, 10, LINEARIZABLE, FAR)
        assert [each.name for each in page.collections] == ["c"]


def test_a_record_without_shards_is_what_it_was() -> None:
    plain = Collection("n", "c", b"\0" * 8, "document", {"a": 1}, 5, 6, 7, 8)
    packed = pack_collection(plain)
    # Version 1 and nine fields, as builds before shards wrote and read them.
    body = unpack_value(unseal("collections", plain.key, packed))
    assert body == [1, "n", "c", b"\0" * 8, "document", {"a": 1}, 5, 6, 7, 8]
    assert unpack_collection(plain.key, packed) == plain
    divided = Collection("n", "c", b"\0" * 8, "document", {}, 5, shards=3, settings_version=2)
    assert unpack_collection(divided.key, pack_collection(divided)) == divided


async def test_a_collection_of_one_shard_is_made_as_ever(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        before = await node.create("plain")
        same = await node.create("same", shards=1)
        assert before == same
        assert set(before) == {"created", "engine", "settings"}
        await fill(node, "plain", 3)
        assert (node.commands, node.reads) == (3, 0), "one command for each request, and no read"
        outcome = await node.outcome("plain", "document_count", {})
        assert outcome.log_index > 0
        assert node.reads == 1


# --- Making -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "shards", "engine", "settings", "message"),
    [
        (4, 5, "document", {}, "1 to 4"),
        (4, 2, "graph", {}, "graph are not divided"),
        (4, 2, "relational", {}, "relational are not divided"),
        (4, 2, "document", {"indexes": [{"fields": ["x"], "unique": True}]}, "unique"),
        (4, 2, "vector", {"dimensions": 2, "text": {}}, "settings.text"),
    ],
)
async def test_what_cannot_be_divided_is_refused_at_creation(
    tmp_path: Path, count: int, shards: int, engine: str, settings: Any, message: str
) -> None:
    with partitions(tmp_path, count) as cluster:
        node = cluster.node()
        with pytest.raises(InvalidArgument, match=message):
            await node.create("c", engine, settings=settings, shards=shards)
        assert cluster.left() == 0
        assert node.commands == 0


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("retried", [False, True])
async def test_a_creation_that_stops_anywhere_is_finished(
    tmp_path: Path, applied: bool, retried: bool
) -> None:
    for step in range(COMMANDS_MAX):
        with partitions(tmp_path / str(step)) as cluster:
            node = cluster.node()
            node.fail_at, node.applied = step, applied
            try:
                await node.create("c", shards=SHARDS, request_id="r")
            except (Crash, HivememError):
                pass
            else:
                assert step == 1 + SHARDS, "a command for the home, one for each part"
                return
            other = cluster.node()
            if retried:
                answer = await other.create("c", shards=SHARDS, request_id="r")
                assert (answer["created"], answer["shards"]) == (True, SHARDS)
            elif step == 0 and not applied:
                with pytest.raises(InvalidArgument, match="there is no collection"):
                    await other.described("c")
                continue
            else:
                with pytest.raises(Conflict, match="exists"):
                    await other.create("c", shards=SHARDS)
            assert (await other.described("c")).items == 0
            assert await cluster.node().query("c", "document_count") == {"count": 0}
            await fill(other, "c")
            assert len(await ids(cluster.node(), "c")) == 20
            assert cluster.left() == 1 + SHARDS
    raise AssertionError("it never ended")


async def test_a_partition_that_takes_no_more_costs_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        for number in range(40):
            await node.create(f"x{number}")
        full = Counter({group: len(names) for group, names in cluster.names().items()})
        most = max(full.values())
        monkeypatch.setattr(collection_writes, "COLLECTIONS_MAX", most)
        with pytest.raises(Conflict) as caught:
            await node.create("c", shards=4, request_id="r")
        assert (caught.value.code, caught.value.definite) == ("LIMIT_EXCEEDED", False)
        # Another node does not know of that, and what it stores is stored.
        written = []
        for number in range(20):
            document = {"_id": f"d{number}", "n": number}
            with contextlib.suppress(HivememError):
                await cluster.node().query("c", "document_insert", document=document)
                written.append(document["_id"])
        assert 0 < len(written) < 20
        with pytest.raises(Conflict):
            await node.create("c", shards=4, request_id="r")
        monkeypatch.undo()
        assert (await node.create("c", shards=4, request_id="r"))["created"]
        assert sorted(await ids(cluster.node(), "c")) == sorted(written)


async def test_a_creation_that_is_repeated_after_a_drop_makes_nothing(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        made = await node.create("c", shards=SHARDS, request_id="r")
        await node.drop("c")
        commands = node.commands
        assert await node.create("c", shards=SHARDS, request_id="r") == made  # from memory
        assert node.commands == commands + 1
        assert cluster.left() == 0
        with pytest.raises(NotFound) as caught:
            await fill(node, "c")
        assert caught.value.code == "COLLECTION_NOT_FOUND"


# --- What a node knows, and is so no longer ----------------------------------------------------


@pytest.mark.parametrize("shards", [1, SHARDS])
async def test_a_node_refuses_nothing_by_what_a_collection_was(tmp_path: Path, shards: int) -> None:
    with partitions(tmp_path) as cluster:
        node, other = cluster.node(), cluster.node()
        await node.create("c", "vector", settings={"dimensions": 3}, shards=SHARDS)
        three = {"documents": [{"id": "a", "vector": [1, 2, 3]}]}
        assert await other.query("c", "vector_insert", **three)
        await node.drop("c")
        await node.create("c", "vector", settings={"dimensions": 4}, shards=shards)
        four = {"documents": [{"id": "a", "vector": [1, 2, 3, 4]}]}
        assert await other.query("c", "vector_insert", **four)
        with pytest.raises((HivememError, InvalidArgument)):
            await other.query("c", "vector_insert", **three)
        await node.drop("c")
        await node.create("c", "document", shards=shards)
        assert await other.query("c", "document_count") == {"count": 0}


async def test_settings_that_another_node_changed_are_shown(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node, other = cluster.node(), cluster.node()
        await node.create("c", "vector", settings={"dimensions": 3}, shards=SHARDS)
        before = (await other.query("c", "vector_info"))["settings"]["expansion_search"]
        await node.alter("c", {"expansion_search": before + 1})
        shown = (await other.query("c", "vector_info"))["settings"]["expansion_search"]
        assert shown == before + 1


async def test_what_is_known_of_a_collection_is_never_older_than_it_was(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        before = await node.described("c")
        await node.alter("c", {"indexes": [{"fields": ["n"]}]})
        after = node.service.sharded.known("n", "c")
        assert after is not None
        assert after.home.settings_version == before.settings_version + 1
        assert node.service.sharded.learned(before).home == after.home


# --- Dropping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
async def test_a_drop_that_stops_anywhere_leaves_nothing_to_a_later_one(
    tmp_path: Path, applied: bool
) -> None:
    for step in range(COMMANDS_MAX):
        with partitions(tmp_path / str(step)) as cluster:
            node, other = cluster.node(), cluster.node()
            await node.create("c", shards=SHARDS)
            await fill(node, "c")
            assert len(await ids(other, "c")) == 20, "which knows it from now on"
            node.fail_at, node.applied = node.commands + step, applied
            try:
                await node.drop("c", "r")
            except (Crash, HivememError):
                dropped = False
            else:
                dropped = True
                assert cluster.left() == 0
            if step == 0 and not applied:
                assert len(await ids(cluster.node(), "c")) == 20
                continue
            third = cluster.node()
            await third.create("c", shards=SHARDS, request_id="again")
            await cluster.node().create("c", shards=SHARDS, request_id="again")
            assert cluster.left() == 1 + SHARDS
            for each in (node if dropped else third, other, third):
                if each is not node:
                    assert await ids(each, "c") == [], "nothing of the former one"
            await fill(other, "c", 5)
            assert len(await ids(third, "c")) == 5
            # The same request again is about the one that it dropped.
            assert (await third.drop("c", "r"))["dropped"] is True
            assert len(await ids(third, "c")) == 5
            if dropped:
                return
    raise AssertionError("it never ended")


async def test_a_plain_collection_takes_no_name_of_one_that_is_being_dropped(
    tmp_path: Path,
) -> None:
    with partitions(tmp_path) as cluster:
        node, other = cluster.node(), cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(other, "c")
        node.fail_at, node.applied = node.commands, True  # only the home is dropped
        with pytest.raises(Crash):
            await node.drop("c")
        third = cluster.node()
        await third.create("c")
        await fill(third, "c", 2)
        assert len(await ids(other, "c")) == 2, "not the former one's"
        assert cluster.left() == 1


async def test_whoever_finishes_a_drop_leaves_the_next_collection_alone(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(node, "c")
        node.fail_at, node.applied = node.commands, True  # only the home is dropped
        with pytest.raises(Crash):
            await node.drop("c")
        slow, quick = cluster.node(), cluster.node()
        go_on = slow.propose

        async def propose(command: Any, deadline: float) -> Any:
            if slow.commands == 1:  # it knows that a former one is left, and then others are faster
                await quick.create("c", shards=SHARDS)
                await fill(quick, "c", 7)
            return await go_on(command, deadline)

        slow.propose = propose  # type: ignore[method-assign]
        with pytest.raises(Conflict) as caught:
            await slow.create("c", shards=SHARDS)
        assert caught.value.code == "COLLECTION_EXISTS"
        assert len(await ids(cluster.node(), "c")) == 7


async def test_a_creation_that_cannot_finish_a_drop_has_done_nothing(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node, other = cluster.node(), cluster.node()
        await node.create("c", shards=SHARDS)
        node.fail_at, node.applied = node.commands, True
        with pytest.raises(Crash):
            await node.drop("c")
        other.down = set(cluster.groups) - {cluster.group_of("c")}
        with pytest.raises(Unavailable, match="not gone yet") as caught:
            await other.create("c")
        assert caught.value.definite is True
        other.down.clear()
        await other.create("c")
        assert cluster.left() == 1


async def test_what_a_drop_left_is_removed_by_the_leader(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        await fill(node, "c")
        node.fail_at, node.applied = node.commands, True
        with pytest.raises(Crash):
            await node.drop("c")
        assert cluster.left() == 1 + SHARDS
        for state in cluster.states.values():
            with state.reader() as reader:
                assert reader.namespaces(None, 10) in ([], ["n"]), "no record of what was dropped"
        elsewhere = set(cluster.groups) - {cluster.group_of("c")}
        assert await duties(cluster, elsewhere).round() == SHARDS - 1, "parts without a home"
        assert cluster.left() == 2, "what is in the home's partition"
        leader = duties(cluster, set(cluster.groups))
        assert await leader.round() == 1
        assert cluster.left() == 0
        assert await leader.round() == 0


async def test_a_late_word_that_parts_are_gone_is_about_its_own_home(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        state = cluster.states[cluster.group_of("c")]
        await node.create("c", shards=SHARDS)
        first = await node.described("c")
        await node.drop("c")
        await node.create("c", shards=SHARDS)
        second = await node.described("c")
        state.collection("collection_drop", "c", {})
        late = state.collection("collection_forget", "c", {"id": first.id})
        assert unpack_value(late.answer) == {"forgotten": False}
        own = state.collection("collection_forget", "c", {"id": second.id})
        assert unpack_value(own.answer) == {"forgotten": True}


async def test_parts_without_a_home_are_removed_and_no_others(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("old", shards=SHARDS)
        await fill(node, "old")
        old = node.service.sharded.known("n", "old")
        for number in range(12):  # more than one round asks for
            await node.create(f"c{number}", shards=4)
        assert old is not None
        # As in a restored backup, whose partitions are of different moments.
        state = cluster.states[cluster.group_of("old")]
        state.collection("collection_drop", "old", {})
        state.collection("collection_forget", "old", {"id": old.home.id})
        await node.create("old")
        leader = duties(cluster, set(cluster.groups))
        removed = [await leader.round() for _ in range(4)]
        assert sum(removed) == SHARDS
        assert cluster.left() == 12 * 5 + 1
        for number in range(12):
            assert await node.query(f"c{number}", "document_count") == {"count": 0}


async def test_a_part_that_is_made_late_makes_nothing_of_what_was_dropped(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        node.fail_at = 2  # one part is made
        with pytest.raises(Crash):
            await node.create("c", shards=SHARDS)
        other = cluster.node()
        known = other.service.sharded.learned(await other.described("c"))
        await other.drop("c")
        assert cluster.left() == 0
        late = cluster.node()
        for shard in range(SHARDS):
            await late.service.sharded._make(known, shard, FAR)
        assert cluster.left() == 0
        assert len({creation_id(part) for part in known.parts}) == SHARDS


async def test_a_home_whose_part_is_gone_for_good_says_so_and_can_be_dropped(
    tmp_path: Path,
) -> None:
    """A restored backup whose partitions are of moments around a drop."""
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        known = node.service.sharded.known("n", "c")
        assert known is not None
        part = known.parts[1]
        cluster.states[cluster.group_of(part)].collection("collection_drop", part, {})
        other = cluster.node()
        codes: list[str] = []
        for request in (
            other.query("c", "document_count"),
            other.query("c", "document_insert", documents=[{"n": 1} for _ in range(20)]),
            *(other.query("c", "document_insert", document={"_id": str(n)}) for n in range(20)),
        ):
            try:
                await request
            except NotFound as error:
                codes.append(error.code)
        assert set(codes) == {"COLLECTION_NOT_FOUND"}
        assert 2 < len(codes) < 22, "the other shards take what is theirs"
        assert (await other.drop("c"))["dropped"] is True
        assert cluster.left() == 0
        await other.create("c", shards=SHARDS)
        assert await other.query("c", "document_count") == {"count": 0}


# --- Altering ---------------------------------------------------------------------------------

INDEXED = {"indexes": [{"fields": ["n"]}]}


async def plans(node: Node, name: str) -> set[str]:
    found = set()
    for number in range(20):
        wanted = {"_id": {"$gte": "d"}, "n": number}
        outcome = await node.outcome(name, "document_find", {"filter": wanted}, explain=True)
        explained: Any = unpack_value(outcome.packed)
        found |= {each["plan"]["plan"] for each in explained["explain"]["shards"]}
    return found


@pytest.mark.parametrize("applied", [False, True])
async def test_a_change_that_stops_anywhere_is_finished_by_a_retry(
    tmp_path: Path, applied: bool
) -> None:
    for step in range(COMMANDS_MAX):
        with partitions(tmp_path / str(step)) as cluster:
            node = cluster.node()
            await node.create("c", shards=SHARDS)
            await fill(node, "c")
            node.fail_at, node.applied = node.commands + step, applied
            try:
                answer = await node.alter("c", INDEXED, "r")
            except (Crash, HivememError):
                answer = await cluster.node().alter("c", INDEXED, "r")
                done = False
            else:
                done = True
            assert answer["altered"] is True
            assert set(answer) == {"altered", "settings"}
            described = await cluster.node().described("c")
            assert described.settings == answer["settings"]
            assert await plans(cluster.node(), "c") == {"index"}
            if done:
                return
    raise AssertionError("it never ended")


async def test_the_newest_settings_stay_in_whatever_order_parts_hear_of_them(
    tmp_path: Path,
) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", "vector", settings={"dimensions": 2}, shards=SHARDS)
        sharded = cluster.node().service.sharded
        versions = []
        for width in (100, 200, 300):
            await node.alter("c", {"expansion_search": width})
            versions.append(await node.described("c"))
        assert [each.settings_version for each in versions] == [1, 2, 3]
        for old in versions[:2]:
            await sharded.follow(old, FAR)
        for group, names in cluster.names().items():
            for key in names:
                with cluster.states[group].reader() as reader:
                    found = reader.collections.find(*key.split("\0"))
                assert found.settings["expansion_search"] == 300


async def test_a_change_that_shards_cannot_keep_is_refused(tmp_path: Path) -> None:
    with partitions(tmp_path) as cluster:
        node = cluster.node()
        await node.create("c", shards=SHARDS)
        with pytest.raises(BadRequest, match="across shards") as caught:
            await node.alter("c", {"indexes": [{"fields": ["x"], "unique": True}]})
        assert caught.value.field == "settings.indexes[0].unique"
        assert (await node.alter("c", {}))["altered"] is False


def test_the_harness_can_fail(tmp_path: Path) -> None:
    """`left` sees parts and records of dropped homes, or the tests above show nothing."""

    async def left(cluster: Partitions) -> list[int]:
        node = cluster.node()
        found = [cluster.left()]
        await node.create("c", shards=2)
        found.append(cluster.left())
        node.fail_at, node.applied = node.commands, True
        with pytest.raises(Crash):
            await node.drop("c")
        return [*found, cluster.left()]

    with partitions(tmp_path) as cluster:
        assert asyncio.run(left(cluster)) == [0, 3, 3]
