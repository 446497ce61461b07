"""The vector engine: what is refused, what searches find, what is kept on disk."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import vector_index, vector_writes
from engines.errors import InvalidArgument, QueryCancelled
from engines.interfaces import RejectCode, Rejected
from engines.kv import KvReader
from engines.space import ItemChange, View
from engines.tuning import Tuning
from engines.vector import VectorEngine
from engines.vector_filter import compile_filter
from tests.unit.vector_state import VectorState, vector_state

Documents = list[dict[str, Any]]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[VectorState]:
    with vector_state(tmp_path / "state") as found:
        yield found


def clustered(count: int, dimensions: int, seed: int = 1) -> Any:
    """Shape: (count, dimensions) float32, around sixteen centres."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((16, dimensions))
    spread = 0.4 * chance.standard_normal((count, dimensions))
    return (centres[np.arange(count) % 16] + spread).astype(np.float32)


def documents(vectors: Any) -> Documents:
    return [
        {"id": f"d{place}", "vector": vector.tolist(), "metadata": {"n": place}}
        for place, vector in enumerate(vectors)
    ]


def fill(state: VectorState, vectors: Any) -> None:
    given = documents(vectors)
    for start in range(0, len(given), 1_000):
        state.write("vector_upsert", documents=given[start : start + 1_000])


# --- Parameters ------------------------------------------------------------------------

F32 = base64.b64encode(struct.pack("<2f", 1, 2)).decode()
NAN = base64.b64encode(struct.pack("<2f", 1, float("nan"))).decode()


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "vector"),
        ({"vector": "x"}, "vector"),
        ({"vector": []}, "vector"),
        ({"vector": [1, "2"]}, "vector[1]"),
        ({"vector": [1, True]}, "vector[1]"),
        ({"vector": [1, 1e39]}, "vector[1]"),
        ({"vector": [1, float("nan")]}, "vector[1]"),
        ({"vector": [1, float("inf")]}, "vector[1]"),
        ({"vector": [1, 10**400]}, "vector"),
        ({"vector": {"f32": NAN}}, "vector[1]"),
        ({"vector": {"f32": "=="}}, "vector.f32"),
        ({"vector": {"f32": "AAAA"}}, "vector.f32"),
        ({"vector": {"f32": 1}}, "vector.f32"),
        ({"vector": {"f64": F32}}, "vector.f64"),
        ({"vector": {}}, "vector.f32"),
        ({"vector": [1, 2], "id": ""}, "id"),
        ({"vector": [1, 2], "id": 1}, "id"),
        ({"vector": [1, 2], "id": "x" * 257}, "id"),
        ({"vector": [1, 2], "metadata": []}, "metadata"),
        ({"vector": [1, 2], "metadata": {"a": float("nan")}}, "metadata.a"),
        ({"vector": [1, 2], "metadata": {"a": "x" * (64 << 10)}}, "metadata"),
        ({"vector": [1, 2], "text": 1}, "text"),
        ({"vector": [1, 2], "tags": 1}, "tags"),
    ],
)
def test_a_bad_document_is_refused_by_its_field(document: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        VectorEngine().prepare("vector_insert", {"documents": [{"vector": [1, 2]}, document]})
    assert caught.value.field == f"parameters.documents[1].{field}"


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("vector_insert", {}, "parameters.documents"),
        ("vector_insert", {"documents": []}, "parameters.documents"),
        ("vector_insert", {"documents": [{"vector": [1]}] * 1001}, "parameters.documents"),
        ("vector_insert", {"documents": [{"id": "a", "vector": [1]}] * 2},
         "parameters.documents[1].id"),
        ("vector_insert", {"documents": [1]}, "parameters.documents[0]"),
        ("vector_update", {"id": "a"}, "parameters.data"),
        ("vector_update", {"id": "a", "data": {}}, "parameters.data"),
        ("vector_update", {"data": {"text": "x"}}, "parameters.id"),
        ("vector_delete", {}, "parameters"),
        ("vector_delete", {"ids": ["a"], "filter": {}}, "parameters"),
        ("vector_delete", {"ids": "a"}, "parameters.ids"),
        ("vector_delete", {"filter": {"$and": [{"a": {"$foo": 1}}]}},
         "parameters.filter.$and[0].a.$foo"),
        ("vector_delete", {"filter": {"a": 1}, "cursor": "zz"}, "parameters.cursor"),
    ],
)  # fmt: skip
def test_a_bad_write_is_refused_by_its_field(
    operation: str, parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        VectorEngine().prepare(operation, parameters)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters"),
        ({"vector": [1, 2], "vectors": [[1, 2]]}, "parameters"),
        ({"vector": [1, 2, 3]}, "parameters.vector"),
        ({"vector": [0, 0]}, "parameters.vector"),
        ({"vectors": [[1, 2], [1]]}, "parameters.vectors[1]"),
        ({"vector": [1, 2], "limit": 0}, "parameters.limit"),
        ({"vector": [1, 2], "limit": 1001}, "parameters.limit"),
        ({"vector": [1, 2], "limit": True}, "parameters.limit"),
        ({"vector": [1, 2], "options": {"limit": 0}}, "parameters.options.limit"),
        ({"vector": [1, 2], "options": {"top": 1}}, "parameters.options.top"),
        ({"vector": [1, 2], "limit": 1, "options": {"limit": 1}}, "parameters.options.limit"),
        ({"vector": [1, 2], "exact": 1}, "parameters.exact"),
        ({"vector": [1, 2], "include": ["all"]}, "parameters.include[0]"),
        ({"vector": [1, 2], "filter": {"$nor": []}}, "parameters.filter.$nor"),
        ({"vector": [1, 2], "filter": {"a": {"$in": 1}}}, "parameters.filter.a.$in"),
        ({"vector": [1, 2], "model": "other"}, "parameters.model"),
        ({"vectors": [[1, 2]] * 200, "limit": 1000}, "parameters.limit"),
    ],
)
def test_a_bad_search_is_refused_by_its_field(
    state: VectorState, parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        state.query("vector_search", **parameters)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"dimensions": 2, "metric": "cosine"}, "metric"),
        ({"dimensions": 2, "scalar": "i8", "metric": "ip"}, "scalar"),
        ({"dimensions": 8, "scalar": "b1", "metric": "cos"}, "metric"),
        ({"dimensions": 9, "scalar": "b1"}, "dimensions"),
        ({"dimensions": 2, "expansion_add": 1}, "expansion_add"),
        ({"dimensions": 2, "size": 1}, "size"),
    ],
)
def test_bad_settings_are_refused_by_their_name(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        VectorEngine().settings(given, None)
    assert caught.value.field == f"settings.{field}"


@pytest.mark.parametrize(
    "given",
    [{"dimensions": 3}, {"metric": "ip"}, {"model": "m"}, {"scalar": "b1"}, {"vectors_max": 0}],
)
def test_what_stored_vectors_depend_on_cannot_change(given: dict[str, Any]) -> None:
    engine = VectorEngine()
    with pytest.raises(InvalidArgument):
        engine.settings(given, engine.settings({"dimensions": 2}, None))


# --- Writes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "parameters", "code", "field"),
    [
        ("vector_insert", {"documents": [{"id": "new", "vector": [1, 1]},
                                         {"id": "a", "vector": [1, 1]}]},
         RejectCode.ITEM_EXISTS, "parameters.documents[1].id"),
        ("vector_insert", {"documents": [{"id": "new", "vector": [1, 1]}, {"vector": [1]}]},
         RejectCode.INVALID_ARGUMENT, "parameters.documents[1].vector"),
        ("vector_upsert", {"documents": [{"id": "new", "vector": [1, 1]}, {"vector": [0, 0]}]},
         RejectCode.INVALID_ARGUMENT, "parameters.documents[1].vector"),
        ("vector_upsert", {"documents": [{"vector": [1, 1]}], "model": "m"},
         RejectCode.INVALID_ARGUMENT, "parameters.model"),
        ("vector_insert", {"documents": [{"vector": [1, 1]}] * 3},
         RejectCode.LIMIT_EXCEEDED, None),
        ("vector_update", {"id": "b", "data": {"vector": [1, 1]}},
         RejectCode.ITEM_NOT_FOUND, "parameters.id"),
        ("vector_update", {"id": "a", "data": {"vector": [1]}},
         RejectCode.INVALID_ARGUMENT, "parameters.data.vector"),
    ],
)  # fmt: skip
def test_a_write_that_the_state_refuses_leaves_nothing(
    state: VectorState,
    operation: str,
    parameters: dict[str, Any],
    code: RejectCode,
    field: str | None,
) -> None:
    state.alter(vectors_max=3)
    state.write("vector_insert", documents=[{"id": "a", "vector": [1, 0]}])
    refused = state.write(operation, **parameters)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.field) == (code, field)
    assert state.query("vector_count") == {"count": 1}
    assert state.query("vector_get", ids=["a", "new"]) == {
        "items": [{"id": "a", "metadata": {}, "vector": [1.0, 0.0], "text": None}],
        "missing": ["new"],
    }


def test_documents_come_back_as_they_were_stored(state: VectorState) -> None:
    metadata = {"zero": 0, "no": False, "empty": "", "null": None, "list": [1, {"a": 2}]}
    given = {"id": "é", "vector": {"f32": F32}, "metadata": metadata, "text": ""}
    state.write("vector_insert", documents=[given])
    stored = {"id": "é", "vector": [1.0, 2.0], "metadata": metadata, "text": ""}
    assert state.query("vector_get", ids=["é"])["items"] == [stored]
    answer = state.query("vector_search", vector=[1, 2], include=["metadata", "vector", "text"])
    assert answer["matches"] == [{**stored, "distance": 0.0}]
    assert state.query("vector_list")["items"] == [stored]
    assert state.query("vector_list", include=[])["items"] == [{"id": "é"}]


def test_documents_without_an_id_get_one_each(state: VectorState) -> None:
    ids = state.write("vector_insert", documents=[{"vector": [1, 1]}] * 2)["ids"]
    ids += state.write("vector_insert", documents=[{"vector": [1, 1]}])["ids"]
    assert len(set(ids)) == 3
    assert len(state.query("vector_get", ids=ids)["items"]) == 3


def test_an_update_changes_only_what_it_names(state: VectorState) -> None:
    state.write(
        "vector_insert",
        documents=[{"id": "a", "vector": [1, 0], "metadata": {"k": 1}, "text": "t"}],
    )
    state.write("vector_update", id="a", data={"vector": [0, 1]})
    state.write("vector_update", id="a", data={"text": None})
    expected = {"id": "a", "vector": [0.0, 1.0], "metadata": {"k": 1}, "text": None}
    assert state.query("vector_get", ids=["a"])["items"] == [expected]
    assert state.search([0, 1]) == [("a", 0.0)]


def test_a_deletion_by_filter_goes_on_with_its_cursor(
    state: VectorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_writes, "EXAMINED_MAX", 10)
    fill(state, clustered(25, 2))
    deleted, cursor = [], None
    while not deleted or cursor is not None:
        answer = state.write("vector_delete", filter={"n": {"$lt": 20}}, cursor=cursor)
        deleted.append(answer["deleted"])
        cursor = answer["next_cursor"]
    assert (sum(deleted), len(deleted)) == (20, 3)
    assert state.query("vector_count") == {"count": 5}
    first = state.write("vector_delete", filter={"n": 99})
    with pytest.raises(InvalidArgument, match="cursor"):
        state.engine.prepare(
            "vector_delete", {"filter": {"n": 98}, "cursor": first["next_cursor"] or "AAAA"}
        )


# --- Searches --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "query", "expected"),
    [
        ("cos", [0, 5], [("y", 0.0), ("xy", 1 - 2 / 5**0.5), ("x", 1.0)]),
        ("l2sq", [0, 3], [("xy", 2.0), ("y", 4.0), ("x", 10.0)]),
        ("ip", [1, 1], [("xy", -2.0), ("x", 0.0), ("y", 0.0)]),
    ],
)
def test_distances_are_those_of_the_metric(
    tmp_path: Path, metric: str, query: list[float], expected: list[tuple[str, float]]
) -> None:
    with vector_state(tmp_path / "state", metric=metric) as state:
        given = {"y": [0, 1], "x": [1, 0], "xy": [1, 2]}
        state.write("vector_insert", documents=[{"id": i, "vector": v} for i, v in given.items()])
        found = state.search(query)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [away for _, away in found] == pytest.approx([away for _, away in expected])


def test_bits_are_compared_by_how_many_differ(tmp_path: Path) -> None:
    with vector_state(tmp_path / "state", dimensions=8, scalar="b1") as state:
        rows = {"zeros": [0] * 8, "one": [1] + [0] * 7, "ones": [1] * 8}
        state.write("vector_insert", documents=[{"id": i, "vector": v} for i, v in rows.items()])
        assert state.search([1] * 7 + [0]) == [("ones", 1.0), ("one", 6.0), ("zeros", 7.0)]
        assert state.query("vector_get", ids=["one"])["items"][0]["vector"] == rows["one"]
        refused = state.write("vector_insert", documents=[{"vector": [2] + [0] * 7}])
        assert refused.field == "parameters.documents[0].vector[0]"


def test_a_graph_of_bits_finds_what_is_near(tmp_path: Path) -> None:
    bits = (clustered(600, 64) > 0).astype(int)
    with vector_state(tmp_path / "state", dimensions=64, scalar="b1") as state:
        fill(state, bits)
        assert state.settle().stats()["graph_vectors"] == 600
        info = state.query("vector_info", recall_samples=100)
        assert info["recall_samples"] == 100
        assert info["recall_at_10"] >= 0.95
        assert state.search(bits[7].tolist(), limit=1)[0][1] == 0


@pytest.mark.parametrize("scalar", ["f32", "f16", "i8"])
def test_recall_and_distances_with_and_without_filters(tmp_path: Path, scalar: str) -> None:
    count = 3_000
    vectors = clustered(count, 32)
    with vector_state(tmp_path / "state", dimensions=32, scalar=scalar) as state:
        fill(state, vectors)
        index = state.settle()
        assert index.stats()["graph_vectors"] == count
        queries = clustered(40, 32, seed=2)
        for condition in (None, {"n": {"$lt": 30}}, {"n": {"$lt": 300}}, {"n": {"$lt": 1500}}):
            both = [
                state.query(
                    "vector_search", vectors=queries.tolist(), filter=condition, exact=exact
                )["results"]
                for exact in (False, True)
            ]
            hits = 0
            for found, best in zip(*both, strict=True):
                true = {match["id"]: match["distance"] for match in best["matches"]}
                hits += sum(match["id"] in true for match in found["matches"])
                assert len(true) == 10
                for match in found["matches"]:
                    assert true.get(match["id"], match["distance"]) == match["distance"]
            assert hits >= 0.95 * 10 * len(queries), condition


def test_a_batch_answers_as_its_vectors_do_alone(state: VectorState) -> None:
    fill(state, clustered(200, 2))
    state.settle()
    queries = clustered(5, 2, seed=3).tolist()
    results = state.query("vector_search", vectors=queries, options={"limit": 3})["results"]
    alone = [state.query("vector_search", vector=query, limit=3) for query in queries]
    assert results == alone


def test_what_is_written_is_found_before_it_is_in_the_graph(
    state: VectorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(state, clustered(100, 2))
    state.settle()
    monkeypatch.setattr(vector_index, "IDLE_SECONDS", 600)
    state.write("vector_upsert", documents=[{"id": "new", "vector": [1, 7]}])
    state.write("vector_upsert", documents=[{"id": "d1", "vector": [1, 8]}])
    found = dict(state.search([1, 7], limit=1000))
    assert found["new"] == pytest.approx(0)
    assert len(found) == 101
    assert state.index.stats()["pending_vectors"] == 2


def test_a_graph_of_nothing_but_deleted_vectors_finds_nothing(state: VectorState) -> None:
    fill(state, clustered(100, 2))
    state.settle()
    state.write("vector_delete", filter={"n": {"$gte": 0}})
    assert state.search([1, 1]) == []
    assert state.search([1, 1], filter={"n": {"$ne": 3}}) == []
    state.write("vector_insert", documents=[{"id": "a", "vector": [1, 1]}])
    assert [name for name, _ in state.search([1, 1])] == ["a"]


def test_rows_of_replaced_vectors_do_not_pile_up(
    state: VectorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "DEAD_ROWS_MIN", 20)
    monkeypatch.setattr(vector_index, "IDLE_SECONDS", 0.001)
    for seed in range(8):
        vectors = clustered(40, 2, seed)
        fill(state, vectors)
        stats = state.settle().stats()
        assert stats["dead_vectors"] <= 60
        for place in (0, 17, 39):
            assert state.search(vectors[place].tolist(), limit=1)[0][1] == pytest.approx(0)
        assert len(state.search([1, 1], limit=1000)) == 40


def test_an_index_that_begins_within_an_apply_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is built from the state before the apply, so that it has to hear of that."""
    with vector_state(tmp_path / "state") as state:
        apply = state.engine.apply

        def searched_meanwhile(*given: Any) -> Any:
            state.query("vector_info")
            return apply(*given)

        monkeypatch.setattr(state.engine, "apply", searched_meanwhile)
        state.write("vector_insert", documents=[{"id": "a", "vector": [1, 0]}])
        monkeypatch.undo()
        state.write("vector_insert", documents=[{"id": "b", "vector": [0, 1]}])
        assert [name for name, _ in state.search([1, 0])] == ["a", "b"]


def test_changes_beyond_the_queue_make_a_build_begin_again(
    state: VectorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "QUEUE_BYTES_MAX", 10)
    with state.store.read() as snapshot:
        reader = KvReader(snapshot, state.registry).collections
        collection, items = reader.find("n", "c"), snapshot.databases.items
        index = vector_index.VectorIndex(collection.settings, 8)
        late = reader.applied_index + 1
        index.changed([ItemChange(collection.id, b"va", b"x" * 11)], late)
        with pytest.raises(QueryCancelled):
            index.build(View(snapshot.txn, items, collection, late - 1))
        index.build(View(snapshot.txn, items, collection, late))
        index.close()
        index.ended(10)


# --- On disk ---------------------------------------------------------------------------


def index_file(state: VectorState) -> Path:
    (found,) = state.path.with_name("state.derived").iterdir()
    return found


def test_a_restart_takes_the_saved_graph_and_adds_what_came_since(
    state: VectorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(300, 2)
    fill(state, vectors)
    state.settle()
    state.reopen()
    # Written without an index, as on a node that nobody has searched yet.
    state.write("vector_upsert", documents=[{"id": "d3", "vector": [9, 9]}])
    state.write("vector_delete", ids=["d4"])
    monkeypatch.setattr(vector_index, "IDLE_SECONDS", 600)
    stats = state.index.stats()
    assert (stats["graph_vectors"], stats["pending_vectors"], stats["dead_vectors"]) == (300, 1, 2)
    found = dict(state.search([9, 9], limit=1000))
    assert found["d3"] == pytest.approx(0)
    assert "d4" not in found
    assert len(found) == 299


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "of another collection"])
def test_a_file_that_cannot_be_used_is_made_again(state: VectorState, damage: str) -> None:
    fill(state, clustered(100, 2))
    state.settle()
    state.machine.close()
    file = index_file(state)
    data = bytearray(file.read_bytes())
    match damage:
        case "cut":
            data = data[:-1]
        case "changed":
            data[len(data) // 2] ^= 1
        case "empty":
            data = bytearray()
    file.write_bytes(data)
    state.open()
    if damage == "of another collection":
        fill(state, clustered(100, 2, seed=9))
    stats = state.settle().stats()
    assert stats["graph_vectors"] - stats["dead_vectors"] == 100
    assert len(state.search([1, 1], limit=1000)) == 100
    damaged = file.with_name(f"{file.name}.damaged")
    assert damaged.exists() is (damage != "of another collection")


def test_a_dropped_collection_leaves_no_file(state: VectorState) -> None:
    fill(state, clustered(100, 2))
    state.settle()
    state.reopen()
    assert index_file(state).exists()
    state.drop()
    assert list(state.path.with_name("state.derived").iterdir()) == []


# --- Filters ---------------------------------------------------------------------------

METADATA = {"n": 1, "t": True, "s": "x", "list": [1, "a"], "in": {"ner": 2.0}, "null": None}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, True),
        ({"n": 1}, True),
        ({"n": 1.0}, True),
        ({"n": True}, False),
        ({"t": 1}, False),
        ({"t": True}, True),
        ({"n": {"$gt": 0, "$lt": 2}}, True),
        ({"n": {"$gt": 1}}, False),
        ({"n": {"$gte": 1}}, True),
        ({"n": {"$lte": 0}}, False),
        ({"s": {"$gt": 0}}, False),
        ({"s": {"$gt": "w"}}, True),
        ({"t": {"$gte": 0}}, False),
        ({"list": "a"}, True),
        ({"list": [1, "a"]}, True),
        ({"list": {"$in": ["b", 1]}}, True),
        ({"list": {"$gt": 0}}, True),
        ({"in": {"ner": 2}}, True),
        ({"in.ner": 2}, True),
        ({"in.other": None}, True),
        ({"null": None}, True),
        ({"n": None}, False),
        ({"n": {"$ne": 2}}, True),
        ({"gone": {"$ne": 2}}, True),
        ({"gone": {"$nin": [2]}}, True),
        ({"gone": {"$exists": False}}, True),
        ({"null": {"$exists": True}}, True),
        ({"n": {"$not": {"$gt": 0}}}, False),
        ({"$not": {"n": 2}}, True),
        ({"$or": [{"n": 2}, {"s": "x"}]}, True),
        ({"$and": [{"n": 1}, {"s": "y"}]}, False),
        ({"n": {"$in": []}}, False),
    ],
)
def test_filters(condition: dict[str, Any], expected: bool) -> None:
    assert compile_filter(condition, "filter").matches(METADATA) is expected


class Tuned(Tuning):
    """Takes what it is told to; counts what was found of what is nearest."""

    def __init__(self, name: str | None = None, width: int = 0) -> None:
        super().__init__(explain=True)
        self.offered: list[tuple[str, str, tuple[str, ...]]] = []
        self.compared: list[tuple[int, int, int]] = []
        self._name = name
        self._width = width

    def choose(self, point: str, control: str, others: Sequence[str]) -> str:
        self.offered.append((point, control, tuple(others)))
        return self._name or control

    def width(self, least: int, most: int) -> int:
        return max(least, self._width)

    @property
    def samples_recall(self) -> bool:
        return True

    def recall(self, width: int, found: int, wanted: int) -> None:
        self.compared.append((width, found, wanted))


def tuned_search(state: VectorState, tuning: Tuned, **parameters: Any) -> Any:
    with state.store.read() as snapshot:
        reader = KvReader(snapshot, state.registry, state.machine.indexes)
        reader.tuning = tuning
        return reader.collections.query("n", "c", "vector_search", parameters)[0]


def test_rows_that_are_known_may_be_compared_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.vector_search.FEW_ROWS", 10)
    count = 2_000
    vectors = clustered(count, 16)
    with vector_state(tmp_path / "state", dimensions=16) as state:
        given = documents(vectors)
        for n, document in enumerate(given):
            document["metadata"] = {"group": n % 10, "n": n}
        for start in (0, 1_000):
            state.write("vector_upsert", documents=given[start : start + 1_000])
        state.settle()
        asked = {"vectors": clustered(10, 16, seed=2).tolist(), "filter": {"group": 3}}
        control, other = Tuned(), Tuned("rows_first")
        tuned_search(state, control, **asked)
        assert control.offered == [("filter", "graph", ("rows_first",))]
        assert control.work.plan is not None
        assert control.work.plan["strategy"] == "graph"
        answer = tuned_search(state, other, **asked)
        assert other.work.plan is not None
        assert (other.work.plan["strategy"], other.work.examined) == ("rows_first", 200)
        assert answer == tuned_search(state, Tuned(), **asked, exact=True)
        assert other.compared == []  # nothing can be missed
        for condition in ({"group": {"$gt": 3}}, {"group": 3, "n": {"$gt": 5}}):
            tuning = Tuned()
            tuned_search(state, tuning, **{**asked, "filter": condition})
            assert tuning.offered == []


def test_a_sampled_recall_counts_what_the_exact_search_finds(tmp_path: Path) -> None:
    with vector_state(tmp_path / "state", dimensions=16, expansion_search=8) as state:
        fill(state, clustered(1_000, 16))
        state.settle()
        queries = clustered(3, 16, seed=2).tolist()
        tuning = Tuned(width=900)
        found = tuned_search(state, tuning, vectors=queries)
        assert tuning.compared == [(900, 30, 30)]
        assert found == tuned_search(state, Tuned(), vectors=queries, exact=True)
        for given in ({"exact": True}, {"expansion": 50}):
            tuning = Tuned(width=900)
            tuned_search(state, tuning, vectors=queries, **given)
            assert tuning.compared == []  # the caller says how it is to be searched
