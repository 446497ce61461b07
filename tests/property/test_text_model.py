"""The text engine against a dictionary of words, with everything that may happen in between."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.check import check
from engines.text import TEXT
from tests.unit.engine_state import State

WORDS = ("ant", "bee", "cat", "dog", "eel")
IDS = st.sampled_from("abcdef")
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("text_upsert"), IDS, TEXTS),
        st.tuples(st.just("text_delete"), IDS, st.none()),
        st.tuples(st.sampled_from(["search", "reopen", "replace"]), st.just(""), st.none()),
    ),
    max_size=14,
)


def naive(texts: dict[str, str], words: tuple[str, ...]) -> set[str]:
    return {name for name, text in texts.items() if set(words) <= set(text.split())}


def compare(state: State, texts: dict[str, str]) -> None:
    for words in [(word,) for word in WORDS] + [("ant", "bee"), ("cat", "dog")]:
        answer = state.query(
            "c", "text_search", query=" ".join(words), mode="all", limit=100, include="ids"
        )
        assert {hit["id"] for hit in answer["hits"]} == naive(texts, words), words
        scores = [hit["score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True)


def write(state: State, operation: str, parameters: dict[str, Any]) -> None:
    state.collection(operation, "c", TEXT.prepare(operation, parameters))


def replace(state: State, folder: Path) -> None:
    copy = folder / "copy"
    with open(copy, "wb") as file:
        index, term = state.machine.copy_to(file.fileno())
    state.machine.replace(copy, index, term, thorough=True)


@given(STEPS)
@settings(max_examples=40)
def test_searches_find_what_a_dictionary_finds(steps: list[tuple[str, str, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder) / "one")
        twin = State(Path(folder) / "two")
        created = {"engine": "text", "settings": {"language": "none"}}
        for each in (state, twin):
            each.collection("collection_create", "c", created)
        texts: dict[str, str] = {}
        for kind, name, text in steps:
            if kind == "text_upsert":
                parameters: dict[str, Any] = {"documents": [{"id": name, "text": text}]}
                texts[name] = str(text)
            elif kind == "text_delete":
                parameters = {"ids": [name]}
                texts.pop(name, None)
            else:
                if kind == "reopen":
                    state.reopen()
                elif kind == "replace":
                    replace(state, Path(folder))
                compare(state, texts)
                continue
            for each in (state, twin):
                write(each, kind, parameters)
        compare(state, texts)
        compare(twin, texts)
        assert state.digest() == twin.digest()
        with state.store.read() as snapshot:
            assert check(snapshot) == []
        state.machine.close()
        twin.machine.close()
