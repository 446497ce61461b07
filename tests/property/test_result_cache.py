"""A kept answer is the one that a fresh look would give, whatever was written in between."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engines.codec import pack_value, unpack_value
from engines.collection_requests import QueryCollection
from engines.kv import KvReader
from engines.registry import Registry
from engines.result_cache import ANSWER_BYTES_MAX, Kept, Request, ResultCache
from tests.example_engine.hivemem_tally import TALLY
from tests.unit.engine_state import State

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "get", "list", "drop", "alter", "reopen", "old"]),
        st.sampled_from("abc"),
    ),
    max_size=25,
)


@given(STEPS)
def test_it_is_never_stale(steps: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder) / "state", registry=Registry((TALLY,)))
        create = {"engine": "tally", "settings": {}}
        state.collection("collection_create", "c", create)
        old: list[Any] = []
        for kind, name in steps:
            match kind:
                case "add":
                    state.collection("tally_add", "c", [name, 1])
                case "drop":
                    state.collection("collection_drop", "c", {})
                    state.collection("collection_create", "c", create)
                case "alter":
                    state.collection("collection_alter", "c", {"settings": {"maximum": 1_000}})
                case "reopen" if not old:
                    state.reopen()
                case "old" if not old:
                    old.append(state.store.read())
                    old[0].__enter__()
                case "get":
                    compare(state, "tally_get", {"name": name}, old)
                case _:
                    compare(state, "tally_list", {}, old)
        if old:
            old[0].__exit__(None, None, None)
        state.machine.close()


def compare(state: State, operation: str, parameters: Any, old: list[Any]) -> None:
    """Through the cache and without it, in the newest snapshot and in one that is kept open."""
    with state.store.read() as newest:
        for snapshot in (newest, *old, newest):
            request = QueryCollection("n", "c", operation, pack_value(parameters))
            kept = KvReader(snapshot, state.registry, state.machine.indexes)
            answer = request.run(kept).found.answer
            fresh = KvReader(snapshot, state.registry, None)
            assert (
                unpack_value(answer) == fresh.collections.query("n", "c", operation, parameters)[0]
            )


def test_it_is_bounded_and_forgets_the_least_recently_used() -> None:
    cache = ResultCache(bytes_max=10_000)
    requests = [Request(b"c", 1, "get", b"%d" % number) for number in range(30)]
    for request in requests:
        cache.put(request, Kept(b"x" * 700))
        assert cache.get(requests[0]) is not None
        assert cache.figures().size <= 10_000
    assert cache.get(requests[-1]) is not None
    assert cache.get(requests[1]) is None
    cache.put(Request(b"c", 1, "get", b"large"), Kept(b"x" * (ANSWER_BYTES_MAX + 1)))
    assert cache.get(Request(b"c", 1, "get", b"large")) is None
    cache.clear()
    assert cache.figures().entries == cache.figures().size == 0


def test_a_smaller_bound_drops_what_is_beyond_it() -> None:
    cache = ResultCache(bytes_max=10_000)
    requests = [Request(b"c", 1, "get", b"%d" % number) for number in range(8)]
    for request in requests:
        cache.put(request, Kept(b"x" * 700))
    cache.resize(3_000)
    figures = cache.figures()
    assert (figures.entries, figures.evictions, figures.size_max) == (3, 5, 3_000)
    cache.resize(0)
    cache.put(requests[0], Kept(b""))
    assert cache.figures().entries == 0
