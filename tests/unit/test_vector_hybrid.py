"""Hybrid search: what both sides say, how it is fused, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.check import check
from engines.errors import EngineError, InvalidArgument
from engines.interfaces import CollectionResult
from engines.kv import KvReader
from engines.vector import VectorEngine
from engines.vector_hybrid import HybridIndex
from tests.unit.engine_state import State

ENGINE = VectorEngine()
DOCUMENTS = (
    # Near the question and with its words; near alone; worded alone; neither.
    {"id": "both", "vector": [1, 0.1], "text": "bees dance", "metadata": {"at": 900, "k": 1}},
    {"id": "near", "vector": [1, 0], "text": "ants walk", "metadata": {"at": 1000, "k": 2}},
    {"id": "worded", "vector": [0, 1], "text": "dancing bees", "metadata": {"at": 100, "k": 1}},
    {"id": "neither", "vector": [-1, 0], "text": "rain"},
)
QUESTION = {"query": "bees dancing", "vector": [1, 0]}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    settings = {"dimensions": 2, "text": {}}
    state.collection("collection_create", "c", {"engine": "vector", "settings": settings})
    write(state, "vector_insert", documents=list(DOCUMENTS))
    yield state
    with state.store.read() as snapshot:
        assert check(snapshot) == []
    state.machine.close()


def write(state: State, operation: str, **parameters: Any) -> None:
    result = state.collection(operation, "c", ENGINE.prepare(operation, parameters))
    assert isinstance(result, CollectionResult), result


def found(state: State, **more: Any) -> list[str]:
    hits = state.query("c", "hybrid_search", **{**QUESTION, **more})["hits"]
    return [hit["id"] for hit in hits]


@pytest.mark.parametrize(
    ("more", "ids"),
    [
        ({}, ["both", "near", "worded", "neither"]),
        ({"fusion": "rrf"}, ["both", "worded", "near", "neither"]),  # third and second, not first
        ({"text_weight": 1}, ["both", "worded", "near", "neither"]),
        ({"text_weight": 0}, ["near", "both", "worded", "neither"]),
        ({"limit": 2}, ["both", "near"]),
        ({"filter": {"k": 1}}, ["both", "worded"]),
        ({"query": "rain", "text_weight": 1, "limit": 1}, ["neither"]),
        ({"recency": {"field": "at", "half_life_ms": 50, "now_ms": 1000}, "limit": 2},
         ["near", "both"]),
    ],
)  # fmt: skip
def test_what_both_sides_say_together(state: State, more: dict[str, Any], ids: list[str]) -> None:
    assert found(state, **more) == ids


def test_it_sees_what_was_written_before_it(state: State) -> None:
    write(state, "vector_upsert", documents=[{"id": "near", "vector": [0, -1], "text": "bees"}])
    write(state, "vector_delete", ids=["both"])
    assert found(state, limit=1, text_weight=1) == ["worded"]
    assert "both" not in found(state)
    state.reopen()
    assert "both" not in found(state)
    assert set(found(state)) == {"near", "worded", "neither"}


def test_it_is_answered_again_once_the_index_of_its_texts_has_failed(state: State) -> None:
    assert found(state, limit=1) == ["both"]
    (entry,) = state.machine.indexes._found.values()
    assert isinstance(entry.index, HybridIndex)
    entry.index.texts._database.execute("DROP TABLE texts")
    with pytest.raises(EngineError, match="no such table"):
        found(state)
    assert found(state, limit=1) == ["both"]


def test_hits_say_how_they_were_judged(state: State) -> None:
    first = state.query("c", "hybrid_search", **QUESTION, include=["text"])["hits"][0]
    assert (first["id"], first["text"]) == ("both", "bees dance")
    assert first["distance"] == pytest.approx(1 - 1 / 1.01**0.5)
    assert first["text_score"] > 0
    assert first["score"] > 0.9


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"query": None}, "parameters.query"),
        ({"query": "?"}, "parameters.query"),
        ({"vector": [1]}, "parameters.vector"),
        ({"fusion": "sum"}, "parameters.fusion"),
        ({"text_weight": 2}, "parameters.text_weight"),
        ({"recency": {"field": "at"}}, "parameters.recency.half_life_ms"),
        ({"recency": {"field": 1, "half_life_ms": 1, "now_ms": 1}}, "parameters.recency.field"),
        ({"filter": {"$near": 1}}, "parameters.filter.$near"),
        ({"limit": 0}, "parameters.limit"),
        ({"colour": 1}, "parameters.colour"),
    ],
)
def test_what_is_refused(state: State, more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        found(state, **more)
    assert refused.value.field == field


def test_a_collection_without_texts_says_so_until_it_has_them(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    created = {"engine": "vector", "settings": {"dimensions": 2}}
    state.collection("collection_create", "c", created)
    write(state, "vector_insert", documents=list(DOCUMENTS))
    with pytest.raises(InvalidArgument, match="has no texts"):
        found(state)
    settings = {"settings": {"text": {"language": "none"}}}
    assert isinstance(state.collection("collection_alter", "c", settings), CollectionResult)
    assert found(state, query="bees", limit=1) == ["both"]
    state.machine.close()


def test_an_older_snapshot_finds_what_it_holds(state: State) -> None:
    """A search of a newer one may have been faster."""
    ask = {"query": "rain", "vector": [1, 0], "text_weight": 1, "limit": 1}
    with state.store.read() as old:
        changed = [
            {"id": "neither", "vector": [-1, 0], "text": "snow"},
            {"id": "near", "vector": [1, 0], "text": "rain"},
        ]
        write(state, "vector_upsert", documents=changed)
        assert found(state, **ask) == ["near"]
        reader = KvReader(old, state.machine.registry, state.machine.indexes)
        answer: Any = reader.collections.query("n", "c", "hybrid_search", ask)[0]
        assert [hit["id"] for hit in answer["hits"]] == ["neither"]
        assert found(state, **ask) == ["near"]
