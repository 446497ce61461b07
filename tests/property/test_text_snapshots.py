"""Searches of snapshots in any order: each finds what its own holds, with the same scores."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from engines import text_changes
from engines.kv import KvReader
from engines.store import Snapshot
from engines.text import TEXT
from tests.unit.engine_state import State

IDS = "abcd"
WORDS = ("apple", "pear", "plum")
CHANGES = st.dictionaries(
    st.sampled_from(IDS), st.none() | st.sampled_from(WORDS), min_size=1, max_size=3
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), CHANGES),
        st.tuples(st.just("ask"), st.tuples(st.integers(0, 9), st.sampled_from(WORDS))),
    ),
    min_size=6,
    max_size=25,
)


@given(steps=STEPS, remembered=st.sampled_from([0, 2, 100]))
def test_a_search_finds_what_its_snapshot_holds(
    steps: list[tuple[str, Any]], remembered: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as held,
        patch.object(text_changes, "REMEMBERED_MAX", remembered),
    ):
        state = State(Path(folder) / "state")
        held.callback(state.machine.close)
        state.collection("collection_create", "c", {"engine": "text", "settings": {}})
        documents: dict[str, str] = {}
        snapshots: list[tuple[Snapshot, dict[str, str]]] = []
        answers: dict[tuple[int, str], Any] = {}
        for step, details in [("write", {"a": "apple", "b": "pear"}), ("ask", (0, "pear")), *steps]:
            if step == "write":
                _write(state, details)
                documents |= details
                if len(snapshots) < 10:
                    snapshots.append((held.enter_context(state.store.read()), dict(documents)))
            else:
                place, word = details[0] % len(snapshots), details[1]
                snapshot, known = snapshots[place]
                hits = _search(state, snapshot, word)
                assert sorted(hits) == [each for each in IDS if known.get(each) == word]
                assert answers.setdefault((place, word), hits) == hits


def _write(state: State, changes: Mapping[str, str | None]) -> None:
    """One command for each, so that snapshots fall between no two of them."""
    put = [{"id": name, "text": word} for name, word in changes.items() if word is not None]
    gone = [name for name, word in changes.items() if word is None]
    if put:
        body = TEXT.prepare("text_upsert", {"documents": put})
        state.collection("text_upsert", "c", body)
    if gone:
        state.collection("text_delete", "c", TEXT.prepare("text_delete", {"ids": gone}))


def _search(state: State, snapshot: Snapshot, word: str) -> dict[str, float]:
    reader = KvReader(snapshot, state.machine.registry, state.machine.indexes)
    found = reader.collections.query("n", "c", "text_search", {"query": word, "snippets": True})[0]
    assert isinstance(found, dict)
    hits: Any = found["hits"]
    assert all(hit["snippet"] == f"[{word}]" for hit in hits)
    return {hit["id"]: hit["score"] for hit in hits}
