"""Graphs of rounded vectors: where nothing is overlooked by it, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from usearch.index import Index

from engines.vector_distance import Array
from engines.vector_doubt import in_doubt
from engines.vector_rounding import narrowest, to_bfloat16, to_i8
from tests.unit.vector_state import VectorState, vector_state

CHANCE_SEED = 5


def spread(count: int, dimensions: int = 16) -> Array:
    """Around the origin, as embeddings are."""
    chance = np.random.default_rng(CHANCE_SEED)
    return chance.standard_normal((count, dimensions)).astype(np.float32)


def huddled(count: int, dimensions: int = 16) -> Array:
    """Close together and far away: bfloat16 has steps of 0.5 there."""
    return spread(count, dimensions) * np.float32(0.5) + np.float32(100)


@given(st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40))
def test_rounding_is_to_the_nearest_of_eight_bits(value: float) -> None:
    (found,) = to_bfloat16(np.array([value], np.float32))
    low_bits = np.array([found], np.float32).view(np.uint32) & 0xFFFF
    assert low_bits[0] == 0
    assert abs(found - value) <= abs(value) * 2**-8 + 2**-133


@pytest.mark.parametrize(("value", "expected"), [(1 + 2**-8, 1.0), (1 + 3 * 2**-8, 1 + 2**-6)])
def test_what_lies_between_becomes_even(value: float, expected: float) -> None:
    assert to_bfloat16(np.array([value], np.float32)).tolist() == [expected]


def test_i8_is_what_the_library_makes_of_a_vector() -> None:
    vectors = spread(50) * np.float32(3)
    index = Index(ndim=16, metric="cos", dtype="i8")
    index.add(np.arange(50), vectors)
    kept = np.stack([index.get(place, np.int8) for place in range(50)])
    assert np.abs(to_i8(vectors) - kept).max() <= 1  # 127 times a length, in another precision


@pytest.mark.parametrize(("metric", "scalar"), [("cos", "i8"), ("l2sq", "bf16"), ("ip", "bf16")])
def test_what_is_spread_may_be_rounded(metric: str, scalar: str) -> None:
    assert narrowest(metric, spread(9_000)) == scalar


@pytest.mark.parametrize("metric", ["cos", "l2sq"])
def test_what_is_huddled_may_not(metric: str) -> None:
    assert narrowest(metric, huddled(2_000)) == "f32"


def test_what_lies_between_is_rounded_less() -> None:
    assert narrowest("cos", spread(2_000) + np.float32(20)) == "bf16"


def test_few_vectors_are_all_found() -> None:
    assert narrowest("cos", spread(3)) == "i8"


def test_whoever_looks_can_be_stopped() -> None:
    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        narrowest("cos", spread(100), stop)


def fill(state: VectorState, vectors: Array, first: int = 0) -> None:
    for start in range(0, len(vectors), 500):
        documents = [
            {"id": str(first + start + place), "vector": vector}
            for place, vector in enumerate(vectors[start : start + 500].tolist())
        ]
        state.write("vector_insert", documents=documents)


def found_by_graph(state: VectorState, queries: Array) -> float:
    """recall@10 of what the graph alone finds, before anything is searched exactly."""
    both = [
        state.query("vector_search", vectors=queries.tolist(), exact=exact)["results"]
        for exact in (False, True)
    ]
    hits = sum(
        len(
            {match["id"] for match in found["matches"]} & {match["id"] for match in best["matches"]}
        )
        for found, best in zip(*both, strict=True)
    )
    return hits / 10 / len(queries)


def test_a_graph_is_rounded_if_nothing_is_lost_and_distances_are_not(tmp_path: Path) -> None:
    with vector_state(tmp_path / "state", dimensions=16) as state:
        vectors = spread(1_200)
        fill(state, vectors)
        assert state.settle().stats()["graph_scalar"] == "i8"
        assert found_by_graph(state, vectors[:40]) >= 0.99
        own = state.search(vectors[7].tolist(), limit=1)
        assert own[0][0] == "7"
        assert own[0][1] < 1e-12


@pytest.mark.parametrize("metric", ["cos", "l2sq"])
def test_a_graph_of_huddled_vectors_is_precise(tmp_path: Path, metric: str) -> None:
    with vector_state(tmp_path / "state", dimensions=16, metric=metric) as state:
        vectors = huddled(1_200)
        fill(state, vectors)
        assert state.settle().stats()["graph_scalar"] == "f32"
        assert found_by_graph(state, vectors[:40]) >= 0.95


def test_a_graph_becomes_precise_when_what_comes_needs_it(tmp_path: Path) -> None:
    with vector_state(tmp_path / "state", dimensions=16, metric="l2sq") as state:
        fill(state, spread(600))
        assert state.settle().stats()["graph_scalar"] == "bf16"
        fill(state, huddled(2_400), first=600)
        stats = state.settle().stats()
        assert (stats["graph_scalar"], stats["graph_vectors"]) == ("f32", 3_000)
        assert found_by_graph(state, huddled(40)) >= 0.95


def test_a_saved_graph_returns_as_it_was(tmp_path: Path) -> None:
    with vector_state(tmp_path / "state", dimensions=16) as state:
        fill(state, spread(600))
        index = state.settle()
        state.reopen()
        index.ended(60)
        stats = state.settle().stats()
        assert (stats["graph_scalar"], stats["pending_vectors"]) == ("i8", 0)
        assert found_by_graph(state, spread(20)) >= 0.99


# --- What the sample did not see --------------------------------------------------------


def test_what_rounding_may_hide_is_in_doubt() -> None:
    away = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, np.inf], [0.1, 0.2, 0.3, 0.4]])
    told = away + np.array([[0.01, -0.01, 0.0, 0.0], [0.5, 0.5, 0.5, 0.0], [0.3, -0.3, 0, 0]])
    edge = np.array([0.4, 0.9, 0.4])
    # Close to the truth; off, but all alike; and told at random.
    assert in_doubt(away, told, edge, 2).tolist() == [False, False, True]
    assert in_doubt(away, told, np.array([0.22, 0.72, 0.4]), 2).tolist() == [False, False, True]
    assert in_doubt(away, told, np.array([0.2, 0.69, 0.4]), 2).tolist() == [True, True, True]


def test_a_search_that_found_nothing_is_no_doubt_of_rounding() -> None:
    nothing = np.full((1, 3), np.inf)
    assert in_doubt(nothing, nothing, np.array([np.inf]), 2).tolist() == [False]


def test_what_lies_close_together_is_found_in_a_graph_that_rounds(tmp_path: Path) -> None:
    """Fewer than make the graph be looked at anew, and then rounded less: they were in doubt."""
    with vector_state(tmp_path / "state", dimensions=16) as state:
        fill(state, spread(3_000))
        assert state.settle().stats()["graph_scalar"] == "i8"
        chance = np.random.default_rng(9)
        close = spread(1)[0] + 0.002 * chance.standard_normal((1_000, 16)).astype(np.float32)
        fill(state, close, first=3_000)
        index = state.settle()
        assert found_by_graph(state, close[:200]) >= 0.99
        assert wait(lambda: index.stats()["graph_scalar"] != "i8")
        assert found_by_graph(state, close[:200]) >= 0.95
        assert found_by_graph(state, spread(100)) >= 0.95


def wait(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_doubt_is_the_same_whether_all_candidates_are_there_or_not() -> None:
    """The way for whole rows, and the one for rows with gaps, judge the same."""
    chance = np.random.default_rng(3)
    for _ in range(300):
        away = np.sort(chance.random((3, 12)), axis=1)
        told = away + chance.normal(0, 10.0 ** -int(chance.integers(1, 5)), away.shape)
        edge = told.max(axis=1) + chance.random(3) * 0.01
        limit = int(chance.integers(1, 11))
        gaps = np.hstack([away, np.full((3, 1), np.inf)])
        beside = np.hstack([told, np.full((3, 1), np.inf)])
        whole = in_doubt(away, told, edge, limit)
        assert whole.tolist() == in_doubt(gaps, beside, edge, limit).tolist()
