"""A collection in several shards answers as one that holds all its items itself.

Every operation goes to both: to one collection, and by the steps of the engine's `across` to
several, each in a state of its own. What one refuses, the other refuses, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines import document_partial, vector_writes
from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_writes import ALTER, CREATE
from engines.command import CollectionCommand
from engines.document import DocumentEngine
from engines.document_order import order_key
from engines.document_shapes import parse_sort, sort_key
from engines.engine import Engine, Kind, Refused, Steps, across_of
from engines.errors import InvalidArgument
from engines.interfaces import Rejected
from engines.kv import KvReader
from engines.shards import made_id, shard_of
from engines.vector import VectorEngine
from tests.property.test_document_model import (
    IDS,
    INDEXES,
    documents,
    filters,
    scalars,
    sorts,
    updates,
    values,
)
from tests.property.test_vector_model import filters as vector_filters
from tests.property.test_vector_model import metadata, vectors
from tests.unit.engine_state import State

EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEED = b"seed"
PAGES_MAX = 1_000


class RefusedByShard(Exception):
    """What a part's state answered."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(str(rejected))
        self.rejected = rejected


class Pair:
    """One collection, and one in several shards, with the same settings."""

    def __init__(self, folder: Path, engine: Engine, shards: int, options: Any) -> None:
        self.engine = engine
        self.shards = shards
        self.states = [State(folder / str(number)) for number in range(shards + 1)]
        self.options = engine.settings(options, None)
        across = across_of(engine)
        assert across is not None
        self.across = across
        for state in self.states:
            self._command(state, CREATE, {"engine": engine.name, "settings": options})

    def alter(self, options: Any) -> None:
        self.options = self.engine.settings(options, self.options)
        for state in self.states:
            self._command(state, ALTER, {"settings": options})

    def both(self, operation: str, **parameters: Any) -> tuple[Any, Any]:
        """(what one collection answers, what the shards answer): the code of a refusal."""
        return self.one(operation, parameters), self.several(operation, parameters)

    def one(self, operation: str, parameters: Any) -> Any:
        try:
            if self._writes(operation):
                body = self.engine.prepare(operation, parameters)
                return self._command(self.states[0], operation, body)
            return self._query(self.states[0], operation, parameters)
        except RefusedByShard as error:
            return error.rejected.code.value
        except InvalidArgument as error:
            return error.code

    def several(self, operation: str, parameters: Any) -> Any:
        try:
            if self._writes(operation):
                body = self.engine.prepare(operation, parameters)
                steps = self.across.write(self.options, operation, body, self.shards, SEED)
            else:
                steps = self.across.read(self.options, operation, parameters, self.shards)
            return self._run(steps, operation)
        except RefusedByShard as error:
            return error.rejected.code.value
        except Refused as error:
            return error.code.value
        except InvalidArgument as error:
            return error.code

    def pages(self, operation: str, name: str, **parameters: Any) -> tuple[list[Any], list[Any]]:
        """Everything that the pages of either hold."""
        found: tuple[list[Any], list[Any]] = ([], [])
        for ask, items in zip((self.one, self.several), found, strict=True):
            cursor = None
            for page in count():
                assert page < PAGES_MAX, "it goes round"
                answer = ask(operation, {**parameters, "cursor": cursor})
                if isinstance(answer, str):
                    items.append(answer)
                    break
                assert len(answer[name]) <= parameters.get("limit", len(answer[name]))
                items += answer[name]
                cursor = answer["next_cursor"]
                if cursor is None:
                    break
                assert answer[name], "a page that goes on holds something"
        return found

    def sound(self) -> None:
        """Every state holds together, and every item is in the shard of its id."""
        operation = "vector_list" if self.engine.name == "vector" else "document_find"
        for number, state in enumerate(self.states):
            with state.store.read() as snapshot:
                assert check(snapshot) == []
            items = self._query(state, operation, {"limit": 1000})["items"]
            if number:
                assert {shard_of(item["id"], self.shards) for item in items} <= {number - 1}

    def _writes(self, operation: str) -> bool:
        return self.engine.operations[operation] is Kind.WRITE

    def _run(self, steps: Steps, operation: str) -> Any:
        answers: Any = None
        try:
            while True:
                asked = steps.send(answers).asked
                assert asked
                answers = {
                    shard: unpack_value(pack_value(self._ask(shard, operation, each)))
                    for shard, each in asked.items()
                }
        except StopIteration as end:
            return unpack_value(pack_value(end.value))

    def _ask(self, shard: int, operation: str, asked: Any) -> Any:
        state = self.states[1 + shard]
        if self._writes(operation):
            return self._command(state, operation, asked)
        return self._query(state, operation, unpack_value(pack_value(asked)))

    def _query(self, state: State, operation: str, parameters: Any) -> Any:
        with state.store.read() as snapshot:
            reader = KvReader(snapshot, state.machine.registry, state.machine.indexes)
            answer, _ = reader.collections.query("n", "c", operation, parameters)
        return unpack_value(pack_value(answer))

    def _command(self, state: State, operation: str, body: Any) -> Any:
        command = CollectionCommand("n", "c", operation, pack_value(body), 1000, 7)
        (result,) = state.apply(command)
        if isinstance(result, Rejected):
            raise RefusedByShard(result)
        return unpack_value(result.answer)


@contextmanager
def pair(engine: Engine, shards: int, **options: Any) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="hivemem-shards-") as folder:
        found = Pair(Path(folder), engine, shards, options)
        yield found
        found.sound()
        for state in found.states:
            state.machine.close()


# Those that no document refuses: after a refusal other documents are left changed.
changes = st.one_of(
    st.tuples(st.just("$set"), values),
    st.tuples(st.just("$unset"), st.just("")),
    st.tuples(st.just("$max"), scalars),
)


def plain(items: list[Any]) -> list[Any]:
    """Documents without their stamps, as bytes that compare as values do."""
    return [item and (item["id"], item["version"], order_key(item["document"])) for item in items]


many_ids = st.sampled_from([*IDS, *(f"id{number}" for number in range(30))])
stocks = st.lists(st.tuples(many_ids, documents), min_size=1, max_size=25).map(dict)


@EXAMPLES
@given(
    shards=st.integers(2, 5),
    stock=stocks,
    indexes=st.lists(st.sampled_from(INDEXES), max_size=3, unique_by=str),
    queries=st.lists(
        st.tuples(filters, sorts, st.integers(1, 7), st.sampled_from(["x", "y", "x.y", "_id"])),
        min_size=1, max_size=6,
    ),
)  # fmt: skip
def test_reads_of_documents(shards: int, stock: Any, indexes: Any, queries: Any) -> None:
    with pair(DocumentEngine(), shards, indexes=indexes) as both:
        given = [{"_id": name, **document} for name, document in stock.items()]
        one, several = both.both("document_insert", documents=given)
        assert one == several == {"inserted": len(given), "ids": list(stock)}
        for wanted, sort, limit, path in queries:
            one, several = both.both("document_count", filter=wanted)
            assert one == several
            order = {**(sort or {}), **({} if "_id" in (sort or {}) else {"_id": 1})}
            more: dict[str, Any] = {} if sort is None else {"sort": order}
            expected, found = both.pages(
                "document_find", "items", filter=wanted, limit=limit, **more
            )
            if sort is None:  # one collection's order depends on the plan, shards' is that of ids
                expected.sort(key=lambda item: item["id"].encode())
            assert plain(found) == plain(expected)
            if sort is not None:
                _, by_sort = both.pages(
                    "document_find", "items", filter=wanted, sort=sort, limit=limit
                )
                assert sorted(plain(by_sort)) == sorted(plain(expected))
                parsed = parse_sort(sort, "sort")
                keys = [sort_key(item["document"], parsed) for item in by_sort]
                assert keys == sorted(keys)
            expected, found = both.pages(
                "document_distinct", "values", field=path, filter=wanted, limit=limit
            )
            assert found == expected
        names = [*stock, "absent", *IDS]
        expected, found = both.pages("document_get", "items", ids=names, projection={"x": 1})
        assert plain(found) == plain(expected)
        one, several = both.both("document_indexes")
        assert one == several


@EXAMPLES
@given(
    shards=st.integers(2, 5),
    stock=stocks,
    writes=st.lists(
        st.one_of(
            st.tuples(st.just("update"), filters, changes),
            st.tuples(st.just("delete"), filters, st.none()),
            st.tuples(st.just("upsert"), many_ids, documents),
            st.tuples(st.just("insert"), many_ids, documents),
            st.tuples(st.just("one"), many_ids, updates),
        ),
        max_size=6,
    ),
    limit=st.integers(1, 4),
)  # fmt: skip
def test_writes_of_documents(shards: int, stock: Any, writes: Any, limit: int) -> None:
    with pair(DocumentEngine(), shards, indexes=[{"fields": ["x"]}]) as both:
        given = [{"_id": name, **document} for name, document in stock.items()]
        both.both("document_upsert", documents=given)
        for kind, what, change in writes:
            match kind:
                case "update":
                    update = {change[0]: {"z": change[1]}}
                    _by_filter(
                        both, "document_update", "matched", limit, filter=what, update=update
                    )
                case "delete":
                    _by_filter(both, "document_delete", "deleted", limit, filter=what)
                case "one":
                    update = {change[0]: {"z": change[1]}}
                    one, several = both.both("document_update", id=what, update=update, upsert=True)
                    assert one == several
                case _:
                    one, several = both.both(f"document_{kind}", document={"_id": what, **change})
                    assert one == several
            expected, found = both.pages("document_find", "items", sort={"_id": 1}, limit=7)
            assert plain(found) == plain(expected)


def _by_filter(both: Pair, operation: str, count: str, limit: int, **parameters: Any) -> None:
    """Step by step until nothing is left: which are changed first differs."""
    totals = []
    for ask in (both.one, both.several):
        total, cursor = 0, None
        while True:
            answer = ask(operation, {**parameters, "limit": limit, "cursor": cursor})
            assert not isinstance(answer, str), answer
            assert answer[count] <= limit
            total += answer[count]
            cursor = answer["next_cursor"]
            assert answer["more"] is (cursor is not None)
            if cursor is None:
                break
        totals.append(total)
    assert totals[0] == totals[1]


@EXAMPLES
@given(
    shards=st.integers(2, 5),
    metric=st.sampled_from(["l2sq", "ip"]),
    stock=st.dictionaries(
        st.integers(0, 60).map("i{}".format), st.tuples(vectors, metadata), max_size=40
    ),
    updates=st.lists(st.tuples(st.integers(0, 60).map("i{}".format), vectors), max_size=5),
    gone=vector_filters,
    searches=st.lists(st.tuples(vectors, vector_filters, st.integers(1, 12)), max_size=6),
)  # fmt: skip
def test_vectors(
    shards: int, metric: str, stock: Any, updates: Any, gone: Any, searches: Any
) -> None:
    with pair(VectorEngine(), shards, dimensions=2, metric=metric) as both:
        given = [
            {"id": name, "vector": list(vector), "metadata": own}
            for name, (vector, own) in stock.items()
        ]
        if given:
            one, several = both.both("vector_insert", documents=given)
            assert one == several
            one, several = both.both("vector_upsert", documents=given[::2])
            assert one == several
        for name, vector in updates:
            one, several = both.both("vector_update", id=name, data={"vector": list(vector)})
            assert one == several
        if gone is not None:
            one, several = both.both("vector_delete", filter=gone)
            assert one == several
        for vector, condition, limit in searches:
            more = {} if condition is None else {"filter": condition}
            one, several = both.both("vector_search", vector=list(vector), limit=limit, **more)
            assert one == several
            queries = [list(vector), [1, 2]]
            one, several = both.both("vector_search", vectors=queries, limit=limit, exact=True)
            assert one == several
            one, several = both.both("vector_count", **more)
            assert one == several
            expected, found = both.pages("vector_list", "items", limit=limit)
            assert found == expected
        names = [*stock, "absent"][::-1]
        one, several = both.both("vector_get", ids=names)
        assert one == several
        one, several = both.both("vector_delete", ids=names)
        assert one == several
        one, several = both.both("vector_info")
        assert (several["vectors"], several["settings"]) == (one["vectors"], one["settings"])


@given(st.text(max_size=20), st.integers(1, 64))
def test_an_item_is_in_one_shard(name: str, shards: int) -> None:
    assert 0 <= shard_of(name, shards) < shards
    assert shard_of(name, 1) == 0


def test_items_spread_and_stay_where_they_are() -> None:
    # These are stored: a hash that places one elsewhere loses it.
    assert [shard_of(name, 8) for name in ("a", "b", "order-17", "é")] == [7, 2, 1, 7]
    counts = [0] * 16
    for number in range(16_000):
        counts[shard_of(f"item-{number}", 16)] += 1
    assert 850 < min(counts) <= max(counts) < 1_150


def test_made_ids_are_the_same_for_a_retry_and_spread() -> None:
    with pair(DocumentEngine(), 4) as both:
        body = {"documents": [{"n": number} for number in range(40)]}
        first = both.several("document_insert", body)
        assert first["ids"] == [made_id(SEED, place) for place in range(40)]
        assert len({shard_of(each, 4) for each in first["ids"]}) == 4
        assert both.several("document_insert", body) == "ITEM_EXISTS"


@pytest.mark.parametrize(
    ("engine", "options", "field"),
    [
        (DocumentEngine(), {"indexes": [{"fields": ["u"], "unique": True}]}, "unique"),
        (DocumentEngine(), {"text": {"fields": {"x": 1}}}, "settings.text"),
        (VectorEngine(), {"dimensions": 2, "text": {"language": "english"}}, "settings.text"),
    ],
)
def test_settings_that_shards_cannot_keep(engine: Engine, options: Any, field: str) -> None:
    across = across_of(engine)
    assert across is not None
    with pytest.raises(InvalidArgument, match="across shards") as caught:
        across.check(engine.settings(options, None))
    assert field in caught.value.field


accumulators = st.sampled_from(
    [
        {"$sum": "$n"}, {"$sum": 1}, {"$avg": "$n"}, {"$min": "$x"}, {"$max": "$y"}, {"$count": {}},
        {"$addToSet": "$x"}, {"$sum": "$x"},
    ]
)  # fmt: skip
before = st.lists(
    st.one_of(
        filters.map(lambda each: {"$match": each}),
        st.just({"$unwind": "$x"}),
        st.just({"$project": {"x": 1, "y": 1, "n": "$n", "both": ["$x", "$y"]}}),
    ),
    max_size=2,
)
behind = st.lists(
    st.sampled_from(
        [
            {"$sort": {"a": -1, "_id": 1}}, {"$limit": 3}, {"$skip": 1}, {"$count": "groups"},
            {"$group": {"_id": None, "all": {"$push": "$_id"}}}, {"$match": {"b": {"$gt": 0}}},
            {"$project": {"a": 1}},
        ]
    ),
    max_size=2,
)  # fmt: skip


@EXAMPLES
@given(
    shards=st.integers(2, 4),
    stock=stocks,
    before=before,
    by=st.sampled_from(["$x", "$y", None, ["$x", "$n"], "$_id"]),
    made=st.dictionaries(st.sampled_from(["a", "b"]), accumulators, max_size=2),
    behind=behind,
    limit=st.integers(1, 6),
)  # fmt: skip
def test_pipelines(
    shards: int, stock: Any, before: Any, by: Any, made: Any, behind: Any, limit: int
) -> None:
    with pair(DocumentEngine(), shards, indexes=[{"fields": ["x"]}]) as both:
        given = [
            {**document, "_id": name, "n": (1 << 62) + number}  # sums are beyond 64 bits
            for number, (name, document) in enumerate(stock.items())
        ]
        both.both("document_insert", documents=given)
        for stage in ({"$group": {"_id": by, **made}}, {"$count": "n"}):
            pipeline = [*before, stage, *behind]
            expected, found = both.pages(
                "document_aggregate", "items", pipeline=pipeline, limit=limit
            )
            assert list(map(order_key, found)) == list(map(order_key, expected))


@pytest.mark.parametrize(
    "pipeline",
    [
        [],
        [{"$match": {"x": 1}}],
        [{"$sort": {"x": 1}}, {"$count": "n"}],
        [{"$limit": 3}, {"$group": {"_id": None}}],
        [{"$group": {"_id": None, "a": {"$first": "$x"}}}],
        [{"$group": {"_id": None, "a": {"$push": "$x"}}}],
        [{"$group": {"_id": None}}, {"$nothing": 1}],
        [{"$group": {"_id": None, "a": {"$sum": "$x", "$min": 1}}}],
        ["$count"],
    ],
)
def test_pipelines_that_are_refused(pipeline: Any) -> None:
    with pair(DocumentEngine(), 2) as both:
        assert both.several("document_aggregate", {"pipeline": pipeline}) == "INVALID_ARGUMENT"


def test_what_runs_behind_the_groups_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_partial, "STEPS_MAX", 1_000)
    with pair(DocumentEngine(), 2) as both:
        given = [{"_id": f"{number:03}"} for number in range(100)]
        both.several("document_insert", {"documents": given})
        grouped = [{"$group": {"_id": "$_id"}}]
        small = {"pipeline": grouped, "limit": 1000}
        assert len(both.several("document_aggregate", small)["items"]) == 100
        squared = [
            {"$group": {"_id": None, "all": {"$push": "$_id"}}},
            {"$project": {"a": "$all", "b": "$all"}}, {"$unwind": "$a"}, {"$unwind": "$b"},
            {"$count": "n"},
        ]  # fmt: skip
        large = {"pipeline": [*grouped, *squared]}
        assert both.several("document_aggregate", large) == "INVALID_ARGUMENT"


def test_what_needs_all_documents_is_refused() -> None:
    with pair(DocumentEngine(), 2) as both:
        upsert = {"filter": {"x": 1}, "update": {"$set": {"y": 1}}, "upsert": True}
        names = [name for name in map(str, range(20)) if shard_of(name, 2) == 1]
        for wanted in (
            {"x": 1},
            {"_id": {"$in": names}},
            {"$and": [{"_id": names[0]}, {"_id": names[1]}]},
            {"_id": {"$gte": "a"}},
            {"_id": 5},
        ):
            refused = both.several("document_update", {**upsert, "filter": wanted})
            assert refused == "INVALID_ARGUMENT", wanted
        assert both.several("document_count", {}) == {"count": 0}
        named = {**upsert, "filter": {"_id": "a", "x": 1}}
        assert both.several("document_update", named) == both.one("document_update", named)
        assert both.one("document_get", {"id": "a"})["items"][0]["document"] == {
            "_id": "a", "x": 1, "y": 1,
        }  # fmt: skip


def test_two_documents_of_one_id_are_refused_before_anything_is_stored() -> None:
    with pair(DocumentEngine(), 3) as both:
        twice = {"documents": [{"_id": "a"}, {"_id": "b"}, {"_id": "c"}, {"_id": "a"}]}
        assert both.several("document_insert", twice) == "ITEM_EXISTS"
        assert both.several("document_count", {}) == {"count": 0}


def test_a_vector_that_does_not_fit_is_refused_before_anything_is_stored() -> None:
    with pair(VectorEngine(), 3, dimensions=2) as both:
        given = [{"id": f"i{number}", "vector": [1, 2]} for number in range(9)]
        given.append({"id": "wrong", "vector": [1, 2, 3]})
        assert both.several("vector_insert", {"documents": given}) == "INVALID_ARGUMENT"
        assert both.several("vector_count", {}) == {"count": 0}


@pytest.mark.parametrize(
    ("sort", "wanted"),
    [
        ({"n": 1}, {}),
        ({"n": -1}, {}),
        ({"k": 1, "n": 1}, {}),
        ({"k": -1, "n": -1}, {}),
        ({"n": 1}, {"k": 1}),
        ({"n": -1}, {"k": 1}),
        ({"k": 1, "n": -1}, {"k": 0}),
        ({"n": -1, "_id": -1}, {"n": {"$lt": 3}}),
        ({"_id": -1}, {}),
    ],
)
def test_pages_in_the_order_of_an_index_go_on_where_they_ended(sort: Any, wanted: Any) -> None:
    indexes = [{"fields": ["n"]}, {"fields": ["k", "n"]}]
    with pair(DocumentEngine(), 3, indexes=indexes) as both:
        documents = [
            {"_id": f"{number * 7 % 60:02}", "n": number % 4, "k": number % 2}
            for number in range(60)
        ]
        both.both("document_insert", documents=documents)
        explained = both.several("document_find", {"sort": sort, "filter": wanted, "explain": True})
        assert explained["explain"]["sorted_by_plan"] is True
        *_, last = sort.values()
        total = {**sort, **({} if "_id" in sort else {"_id": last})}
        expected = both.one("document_find", {"sort": total, "filter": wanted})["items"]
        for limit in (1, 7):
            _, found = both.pages("document_find", "items", sort=sort, filter=wanted, limit=limit)
            assert plain(found) == plain(expected)


def test_every_accumulator_that_merges() -> None:
    with pair(DocumentEngine(), 3) as both:
        documents = [
            {"_id": f"{number:02}", "n": number, "g": number % 2, "big": 1 << 62}
            for number in range(30)
        ]
        both.both("document_insert", documents=documents)
        made = {
            "sum": {"$sum": "$n"}, "avg": {"$avg": "$n"}, "min": {"$min": "$n"},
            "max": {"$max": "$n"}, "count": {"$count": {}}, "set": {"$addToSet": "$g"},
            "far": {"$sum": "$big"},
        }  # fmt: skip
        grouped = {"pipeline": [{"$group": {"_id": "$g", **made}}]}
        answer = both.several("document_aggregate", grouped)
        assert answer == both.one("document_aggregate", grouped)
        odd = answer["items"][1]
        assert (odd["sum"], odd["avg"], odd["min"], odd["max"]) == (225, 15, 1, 29)


def test_a_deletion_by_filter_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_writes, "EXAMINED_MAX", 4)
    with pair(VectorEngine(), 3, dimensions=2) as both:
        given = [
            {"id": f"i{number:02}", "vector": [1, 2], "metadata": {"k": number % 2}}
            for number in range(40)
        ]
        both.both("vector_insert", documents=given)
        cursor, deleted, steps = None, 0, 0
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            answer = both.several("vector_delete", {"filter": {"k": 1}, **more})
            deleted += answer["deleted"]
            steps += 1
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert (deleted, both.several("vector_count", {})) == (20, {"count": 20})
        assert steps >= 8
        assert both.several("vector_count", {"filter": {"k": 1}}) == {"count": 0}


def test_cursors_of_one_collection_are_none_of_several_shards() -> None:
    with pair(DocumentEngine(), 3) as both:
        documents = [{"_id": f"{number:02}", "n": 1} for number in range(40)]
        both.both("document_insert", documents=documents)
        found = {"limit": 2}
        changed = {"filter": {"n": 1}, "update": {"$set": {"m": 1}}, "limit": 2}
        for operation, parameters in (("document_find", found), ("document_update", changed)):
            cursor = both.one(operation, parameters)["next_cursor"]
            again = {**parameters, "cursor": cursor}
            assert both.several(operation, again) == "INVALID_CURSOR"
        cursor = both.several("document_find", found)["next_cursor"]
        assert both.one("document_find", {**found, "cursor": cursor}) == "INVALID_CURSOR"


def test_nothing_is_shown_beyond_what_a_shard_has_shown() -> None:
    with pair(DocumentEngine(), 3) as both:
        names = [f"{number:03}" for number in range(200)]
        crowded = [name for name in names if shard_of(name, 3) == 0][:10]
        others = [name for name in names if shard_of(name, 3) != 0][:20]
        large = "x" * 900_000  # the first shard's page ends by bytes before the others' begin
        for place, name in enumerate(crowded):
            both.several("document_insert", {"document": {"_id": name, "n": place, "x": large}})
        small = [{"_id": name, "n": 100 + place} for place, name in enumerate(others)]
        both.several("document_insert", {"documents": small})
        found: list[str] = []
        cursor = None
        for _ in range(20):
            answer = both.several("document_find", {"sort": {"n": 1}, "cursor": cursor})
            found += [item["id"] for item in answer["items"]]
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert found == [*crowded, *others]


def test_pages_of_large_documents_end_by_bytes_and_hold_everything() -> None:
    with pair(DocumentEngine(), 3) as both:
        large = "x" * 900_000
        for number in range(20):
            both.several(
                "document_insert", {"document": {"_id": f"{number:02}", "x": large, "n": number}}
            )
        found: list[str] = []
        cursor, pages = None, 0
        while True:
            answer = both.several("document_find", {"sort": {"n": -1}, "cursor": cursor})
            found += [item["id"] for item in answer["items"]]
            pages += 1
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert found == [f"{number:02}" for number in reversed(range(20))]
        assert 3 <= pages <= 8
        ids = [f"{number:02}" for number in range(20)]
        got: list[str] = []
        cursor = None
        while True:
            answer = both.several("document_get", {"ids": ids, "cursor": cursor})
            got += [item["id"] for item in answer["items"]]
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert got == ids
