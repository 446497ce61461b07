"""The text engine: what is found, in which order, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_requests import QueryCollection
from engines.errors import InvalidArgument, QueryCancelled
from engines.interfaces import CollectionResult, RejectCode, Rejected
from engines.text import TEXT
from engines.text_index import TextIndex
from engines.text_match import match_expression
from tests.unit.engine_state import State

DOCUMENTS = (
    {"id": "1", "text": "The quick brown fox jumps over the lazy dog"},
    {"id": "2", "text": "A fox ran; foxes are running in the forest", "session": "s1"},
    {"id": "3", "text": "Café au lait, and a résumé", "time_ms": 50, "metadata": {"lang": "fr"}},
    {"id": "4", "text": "brown bread and quick snacks", "metadata": {"lang": "en", "rank": 2}},
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    state.collection("collection_create", "c", {"engine": "text", "settings": {}})
    yield state
    with state.store.read() as snapshot:
        assert check(snapshot) == []
    state.machine.close()


def write(state: State, operation: str, **parameters: Any) -> Any:
    result = state.collection(operation, "c", TEXT.prepare(operation, parameters))
    return unpack_value(result.answer) if isinstance(result, CollectionResult) else result


def found(state: State, query: str, **more: Any) -> list[str]:
    hits = state.query("c", "text_search", query=query, **more)["hits"]
    return [hit["id"] for hit in hits]


def test_without_spaces_a_word_is_the_whole_run(state: State) -> None:
    write(state, "text_insert", documents=[{"id": "z", "text": "我喜欢绿茶。你好 世界 🎉"}])
    assert found(state, "我喜欢绿茶") == found(state, "我喜*") == found(state, "世界") == ["z"]
    assert found(state, "绿茶") == []
    with pytest.raises(InvalidArgument, match="word"):
        found(state, "🎉")


@pytest.mark.parametrize(
    ("query", "more", "ids"),
    [
        ("fox", {}, ["2", "1"]),  # twice in a text as long is better than once
        ("FOXES", {}, ["2", "1"]),
        ("run", {}, ["2"]),
        ("cafe resume", {}, ["3"]),
        ("quick brown", {"mode": "all"}, ["4", "1"]),
        ("quick brown", {"mode": "phrase"}, ["1"]),
        ('"quick brown" -bread', {}, ["1"]),
        ("brown -bread", {}, ["1"]),
        ("for*", {}, ["2"]),
        ("the and fox", {}, ["2", "1"]),
        ("nothing", {}, []),
        ("fox", {"sessions": ["s1"]}, ["2"]),
        ("fox", {"sessions": ["s2"]}, []),
        ("brown bread", {"metadata": {"lang": "en"}}, ["4"]),
        ("brown lait", {"metadata": {"lang": ["fr", "de"]}}, ["3"]),
        ("lait fox", {"to_ms": 100}, ["3"]),
        ("lait fox", {"from_ms": 100, "limit": 1}, ["2"]),
        ("fox) OR (lait", {}, ["3", "2", "1"]),
        ('fox" OR', {}, ["2", "1"]),
        ("NEAR(fox dog)", {"mode": "all"}, []),
    ],
)
def test_what_is_found(state: State, query: str, more: dict[str, Any], ids: list[str]) -> None:
    write(state, "text_insert", documents=list(DOCUMENTS))
    assert found(state, query, **more) == ids


def test_a_search_sees_what_was_written_before_it(state: State) -> None:
    assert found(state, "fox") == []
    write(state, "text_insert", documents=list(DOCUMENTS))
    assert found(state, "fox") == ["2", "1"]
    write(state, "text_upsert", documents=[{"id": "1", "text": "a hen"}])
    assert (found(state, "fox"), found(state, "hen"), found(state, "lazy")) == (["2"], ["1"], [])
    assert write(state, "text_delete", ids=["2", "9"]) == {"deleted": 1}
    assert found(state, "fox") == []
    state.reopen()
    assert (found(state, "fox"), found(state, "hen")) == ([], ["1"])


def test_another_state_in_its_place_is_searched(state: State, tmp_path: Path) -> None:
    write(state, "text_insert", documents=list(DOCUMENTS))
    copy = tmp_path / "copy"
    with open(copy, "wb") as file:
        index, term = state.machine.copy_to(file.fileno())
    write(state, "text_upsert", documents=[{"id": "1", "text": "a hen"}])
    assert found(state, "hen") == ["1"]
    state.machine.replace(copy, index, term)
    assert (found(state, "hen"), found(state, "fox")) == ([], ["2", "1"])


def test_a_search_waits_for_what_was_committed_and_not_told_yet(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would answer without the newest text, and the answer would be kept."""
    assert found(state, "fox") == []  # there is an index
    request = QueryCollection("n", "c", "text_search", pack_value({"query": "fox"}))
    answers: list[Any] = []
    searching = threading.Thread(target=lambda: answers.append(state.read(request.run)))
    tell = state.machine.indexes.changed

    def told_late(changes: Any, log_index: int) -> None:
        searching.start()
        searching.join(0.3)
        assert answers == []
        tell(changes, log_index)

    monkeypatch.setattr(state.machine.indexes, "changed", told_late)
    write(state, "text_insert", documents=list(DOCUMENTS))
    searching.join(10)
    (shown,) = answers
    hits: Any = unpack_value(shown.found.answer)
    assert [hit["id"] for hit in hits["hits"]] == ["2", "1"]


def test_an_index_that_could_not_be_built_is_built_the_next_time(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(state, "text_insert", documents=list(DOCUMENTS))
    add = TextIndex._add

    def fails(index: TextIndex, items: Any) -> None:
        add(index, items)
        raise QueryCancelled("scripted")

    with monkeypatch.context() as scripted:
        scripted.setattr(TextIndex, "_add", fails)
        with pytest.raises(QueryCancelled):
            found(state, "fox")
    assert found(state, "fox") == ["2", "1"]


def test_exhaustive_says_whether_something_was_left_out(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(state, "text_insert", documents=list(DOCUMENTS))

    def exhaustive(**more: Any) -> bool:
        answer = state.query("c", "text_search", query="fox", **more)
        assert type(answer["exhaustive"]) is bool
        return bool(answer["exhaustive"])

    assert exhaustive()
    assert exhaustive(sessions=["s1"])
    monkeypatch.setattr("engines.text.CANDIDATES_MAX", 1)
    assert not exhaustive(sessions=["s2"])  # the one that was looked at is of another session
    monkeypatch.setattr("engines.text.ANSWER_BYTES_MAX", 10)
    assert not exhaustive()


def test_fields_have_weights_and_a_search_may_change_them(state: State) -> None:
    settings = {"fields": {"title": 10, "body": 1}, "language": "none"}
    state.collection("collection_create", "d", {"engine": "text", "settings": settings})
    documents = [
        {"id": "t", "fields": {"title": "bees", "body": "and of other things"}},
        {"id": "b", "fields": {"title": "things", "body": "bees bees bees"}},
    ]
    body = TEXT.prepare("text_insert", {"documents": documents})
    assert isinstance(state.collection("text_insert", "d", body), CollectionResult)

    def order(**more: Any) -> list[str]:
        answer = state.query("d", "text_search", query="bees", **more)
        return [hit["id"] for hit in answer["hits"]]

    assert order() == ["t", "b"]
    assert order(weights={"title": 0.1, "body": 10}) == ["b", "t"]
    assert state.query("d", "text_search", query="bee")["hits"] == []  # not stemmed
    refused = state.collection("text_insert", "d", TEXT.prepare(
        "text_insert", {"documents": [{"id": "x", "text": "in a field that is not there"}]}
    ))  # fmt: skip
    assert isinstance(refused, Rejected)
    assert refused.code is RejectCode.INVALID_ARGUMENT


def test_snippets_show_where(state: State) -> None:
    write(state, "text_insert", documents=list(DOCUMENTS))
    (hit,) = state.query("c", "text_search", query="bread", snippets=True)["hits"]
    assert hit["snippet"] == "brown [bread] and quick snacks"


def test_ids_are_made_the_same_on_every_replica(state: State) -> None:
    first = write(state, "text_insert", documents=[{"text": "a"}, {"text": "b"}])
    assert len(set(first["ids"])) == 2
    again = state.collection(
        "text_insert", "c", TEXT.prepare("text_insert", {"documents": [{"text": "a"}]}), seed=2
    )
    assert unpack_value(again.answer)["ids"][0] not in first["ids"]
    assert state.query("c", "text_count") == {"count": 3}
    got = state.query("c", "text_get", ids=[first["ids"][1], "absent"])["documents"]
    assert (got[0]["fields"], got[1]) == ({"text": "b"}, None)
    listed = state.query("c", "text_list", include="ids")["documents"]
    assert {each["id"] for each in listed} >= set(first["ids"])
    assert len(listed) == 3


def test_an_id_that_is_there_is_refused_and_nothing_of_the_batch_is_kept(state: State) -> None:
    write(state, "text_insert", documents=[{"id": "2", "text": "here"}])
    refused = write(state, "text_insert", documents=list(DOCUMENTS))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.field) == (RejectCode.ITEM_EXISTS, "parameters.documents[1].id")
    assert state.query("c", "text_count") == {"count": 1}
    assert found(state, "fox") == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters.documents"),
        ({"documents": []}, "parameters.documents"),
        ({"documents": [5]}, "parameters.documents[0]"),
        ({"documents": [{"id": "x"}]}, "parameters.documents[0].fields"),
        ({"documents": [{"id": "x", "text": 5}]}, "parameters.documents[0].text"),
        ({"documents": [{"id": "", "text": "a"}]}, "parameters.documents[0].id"),
        ({"documents": [{"id": "x" * 257, "text": "a"}]}, "parameters.documents[0].id"),
        ({"documents": [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}]},
         "parameters.documents[1].id"),
        ({"documents": [{"text": "a", "colour": 1}]}, "parameters.documents[0].colour"),
        ({"documents": [{"fields": {"text": 1}}]}, "parameters.documents[0].fields.text"),
        ({"documents": [{"text": "a", "time_ms": -1}]}, "parameters.documents[0].time_ms"),
        ({"documents": [{"text": "a" * (1 << 20)}]}, "parameters.documents[0]"),
        ({"documents": [{"text": "a"}], "more": 1}, "parameters.more"),
    ],
)  # fmt: skip
def test_writes_that_are_refused(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TEXT.prepare("text_insert", parameters)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"query": ""}, "parameters.query"),
        ({"query": "?!"}, "parameters.query"),
        ({"query": "x" * 5000}, "parameters.query"),
        ({"query": " ".join(f"w{n}" for n in range(65))}, "parameters.query"),
        ({"query": "a", "limit": 0}, "parameters.limit"),
        ({"query": "a", "limit": 1001}, "parameters.limit"),
        ({"query": "a", "mode": "some"}, "parameters.mode"),
        ({"query": "a", "weights": {"other": 1}}, "parameters.weights"),
        ({"query": "a", "sessions": "s"}, "parameters.sessions"),
        ({"query": "a", "where": {}}, "parameters.where"),
    ],
)
def test_searches_that_are_refused(state: State, parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        state.query("c", "text_search", **parameters)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"fields": {}}, "settings.fields"),
        ({"fields": {f"f{n}": 1 for n in range(9)}}, "settings.fields"),
        ({"fields": {"a": -1}}, "settings.fields.a"),
        ({"language": "latin"}, "settings.language"),
        ({"stemmer": 1}, "settings.stemmer"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TEXT.settings(given, None)
    assert refused.value.field == field


def test_a_search_that_nobody_waits_for_ends(state: State) -> None:
    write(state, "text_insert", documents=[{"text": f"common word{n}"} for n in range(3_000)])
    found(state, "common")
    with state.reader() as reader:
        reader.stop = lambda: True
        with pytest.raises(QueryCancelled):
            reader.collections.query("n", "c", "text_search", {"query": "common"})
    assert len(found(state, "common", limit=1000)) == 1000


def test_no_operator_can_be_spelled() -> None:
    assert match_expression('a" OR b', "all") == '"a" AND "OR" AND "b"'
    assert match_expression("-a b", "any") == '("b") NOT ("a")'
    assert match_expression("well-known x*", "any") == '"well" OR "known" OR "x"*'
