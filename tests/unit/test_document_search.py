"""Full-text search over documents: what is searched, what is found, and when it changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from engines.document import DocumentEngine
from engines.errors import InvalidArgument
from engines.kv import KvReader
from engines.store import Snapshot
from tests.unit.one_collection import OneCollection, collection

TEXT = {"fields": {"title": 3, "notes.body": 1, "tags": 1}}


class DocumentState(OneCollection):
    engine = DocumentEngine()


def document_state(path: Path, **settings: Any) -> AbstractContextManager[DocumentState]:
    return collection(DocumentState, path, **settings)


def refused(state: DocumentState, **parameters: Any) -> str:
    """The field that a search is refused for."""
    with pytest.raises(InvalidArgument) as refusal:
        state.query("document_search", **parameters)
    return refusal.value.field


@pytest.fixture
def state(tmp_path: Path) -> Iterator[DocumentState]:
    with document_state(tmp_path, text=TEXT) as made:
        yield made


def insert(state: DocumentState, **documents: Any) -> None:
    given = [{"_id": identity, **document} for identity, document in documents.items()]
    answer = state.write("document_insert", documents=given)
    assert answer["inserted"] == len(given)


def found(state: DocumentState, query: str, **more: Any) -> list[str]:
    hits = state.query("document_search", query=query, **more)["hits"]
    return [hit["id"] for hit in hits]


def test_texts_of_the_chosen_paths_are_found_stemmed(state: DocumentState) -> None:
    insert(
        state,
        a={"title": "Rotating tokens"},
        b={"notes": [{"body": "tokens rotate"}, {"body": 7}]},
        c={"tags": ["rotation", None, "token"]},
        d={"other": "rotate tokens"},
        e={"title": {"deep": "rotate"}, "tags": 5},
    )
    assert sorted(found(state, "rotate tokens", mode="all")) == ["a", "b", "c"]
    assert found(state, "rotate tokens")[0] == "a"
    assert found(state, '"tokens rotate"') == ["b"]
    assert sorted(found(state, "tok*")) == ["a", "b", "c"]
    assert found(state, "deep") == []


def test_a_heavier_field_comes_first_and_weights_can_be_given(state: DocumentState) -> None:
    insert(state, a={"title": "bee"}, b={"tags": ["bee"]})
    assert found(state, "bee") == ["a", "b"]
    assert found(state, "bee", weights={"title": 0, "tags": 9}) == ["b", "a"]


def test_what_is_written_is_found_at_once_and_what_is_gone_is_not(state: DocumentState) -> None:
    insert(state, a={"title": "bee"})
    assert found(state, "bee") == ["a"]
    state.write("document_update", id="a", update={"$set": {"title": "wasp"}})
    assert (found(state, "bee"), found(state, "wasp")) == ([], ["a"])
    state.write("document_delete", id="a")
    assert found(state, "wasp") == []


def test_a_filter_and_a_projection_hold_for_hits(state: DocumentState) -> None:
    insert(state, **{f"d{n}": {"title": f"bee {n}", "n": n} for n in range(30)})
    answer = state.query(
        "document_search", query="bee", filter={"n": {"$gte": 25}}, projection={"n": 1}
    )
    assert sorted(hit["document"]["n"] for hit in answer["hits"]) == [25, 26, 27, 28, 29]
    assert answer["exhaustive"] is True
    assert answer["hits"][0]["document"].keys() == {"_id", "n"}


def test_hits_say_what_they_are(state: DocumentState) -> None:
    insert(state, a={"title": "the queen bee"})
    (hit,) = state.query("document_search", query="bees", snippets=True)["hits"]
    assert hit["score"] > 0
    assert (hit["id"], hit["version"], hit["snippet"]) == ("a", 1, "the queen [bee]")
    assert hit["document"] == {"_id": "a", "title": "the queen bee"}


def test_an_answer_is_bounded_and_says_whether_it_is_all(state: DocumentState) -> None:
    insert(state, **{f"d{n}": {"title": "bee", "big": "x" * 900_000} for n in range(12)})
    answer = state.query("document_search", query="bee", limit=12)
    assert 1 < len(answer["hits"]) < 12
    assert answer["exhaustive"] is False
    few = state.query("document_search", query="bee", limit=2)
    assert (len(few["hits"]), few["exhaustive"]) == (2, True)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters.query"),
        ({"query": 5}, "parameters.query"),
        ({"query": "..."}, "parameters.query"),
        ({"query": "x", "mode": "some"}, "parameters.mode"),
        ({"query": "x", "weights": {"titel": 1}}, "parameters.weights.titel"),
        ({"query": "x", "weights": {"title": -1}}, "parameters.weights.title"),
        ({"query": "x", "limit": 0}, "parameters.limit"),
        ({"query": "x", "filter": {"$bad": 1}}, "parameters.filter.$bad"),
        ({"query": "x", "nonsense": 1}, "parameters.nonsense"),
    ],
)
def test_bad_searches_are_refused(state: DocumentState, parameters: Any, field: str) -> None:
    assert refused(state, **parameters) == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (5, "settings.text"),
        ({}, "settings.text.fields"),
        ({"fields": {}}, "settings.text.fields"),
        ({"fields": {"a..b": 1}}, "settings.text.fields.a..b"),
        ({"fields": {"a": "1"}}, "settings.text.fields.a"),
        ({"fields": {f"f{n}": 1 for n in range(17)}}, "settings.text.fields"),
        ({"fields": {"a": 1}, "language": "klingon"}, "settings.text.language"),
        ({"fields": {"a": 1}, "more": 1}, "settings.text.more"),
    ],
)
def test_bad_settings_are_refused(text: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        DocumentState.engine.settings({"text": text}, None)
    assert refusal.value.field == field


def test_search_can_be_switched_on_changed_and_off(tmp_path: Path) -> None:
    with document_state(tmp_path) as state:
        insert(state, a={"title": "bee", "body": "wasp"})
        assert refused(state, query="bee") == "collection"
        state.alter(text={"fields": {"title": 1}})
        assert (found(state, "bee"), found(state, "wasp")) == (["a"], [])
        state.alter(text={"fields": {"body": 1}})
        assert (found(state, "bee"), found(state, "wasp")) == ([], ["a"])
        state.alter(indexes=[{"fields": ["title"]}])
        assert found(state, "wasp") == ["a"]
        state.alter(text=None)
        assert refused(state, query="wasp") == "collection"


def test_a_restart_finds_the_same(tmp_path: Path) -> None:
    with document_state(tmp_path, text=TEXT) as state:
        insert(state, a={"title": "bee"})
        state.reopen()
        insert(state, b={"tags": ["bee"]})
        assert sorted(found(state, "bee")) == ["a", "b"]


def test_an_older_snapshot_finds_what_it_holds(tmp_path: Path) -> None:
    """A search of a newer one may have been faster."""
    with document_state(tmp_path, text=TEXT) as state:
        insert(state, a={"title": "bee"}, b={"title": "wasp"})

        def ask(snapshot: Snapshot, query: str) -> list[Any]:
            reader = KvReader(snapshot, state.machine.registry, state.machine.indexes)
            found = reader.collections.query("n", "c", "document_search", {"query": query})[0]
            assert isinstance(found, dict)
            hits: Any = found["hits"]
            return [(hit["id"], hit["document"]["title"]) for hit in hits]

        with state.store.read() as old:
            state.write("document_upsert", document={"_id": "a", "title": "wasp"})
            assert found(state, "bee") == []
            assert ask(old, "bee") == [("a", "bee")]
            assert ask(old, "wasp") == [("b", "wasp")]
            assert sorted(found(state, "wasp")) == ["a", "b"]
