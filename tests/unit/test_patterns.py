"""Shapes of requests, and figures of patterns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.patterns import SHAPE_CHARACTERS_MAX, Histogram, PatternKey, PatternTable, shape_of

ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"filter": {"a": 1}}, {"filter": {"a": "x"}}),
    ({"filter": {"a": 1, "b": 2}}, {"filter": {"b": True, "a": 3}}),
    ({"vector": [0.1, 0.2]}, {"vector": [0.3] * 300}),
    ({"limit": 20}, {"limit": 99}),
    ({"ids": ["a"]}, {"ids": ["b", "c"]}),
    ({"filter": {}, "cursor": "abc"}, {"filter": {}, "explain": True}),
    (
        {"sql": "SELECT * FROM t1 WHERE id = 5 AND n='it''s'  "},
        {"sql": "SELECT *\n FROM t1 WHERE id = 7.5e3 AND n=''"},
    ),
    ({"sql": "SELECT 1", "params": [1]}, {"sql": "SELECT 2", "params": ["x", 2]}),
]
DIFFERENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"filter": {"a": 1}}, {"filter": {"b": 1}}),
    ({"filter": {"a": 1}}, {"filter": {"a": {"$gt": 1}}}),
    ({"filter": {"a": None}}, {"filter": {"a": 1}}),
    ({"sort": {"a": 1}}, {"sort": {"a": -1}}),
    ({"limit": 10}, {"limit": 1_000}),
    ({"sql": "SELECT a FROM t1"}, {"sql": "SELECT a FROM t2"}),
    ({"aggregates": ["avg"]}, {"aggregates": ["p99"]}),
    ({"pipeline": [{"$group": {"_id": "$a"}}]}, {"pipeline": [{"$group": {"_id": "$b"}}]}),
    ({"pipeline": [{"$skip": 1}, {"$limit": 1}]}, {"pipeline": [{"$skip": 1}]}),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_constants_make_no_difference(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert shape_of(one) == shape_of(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_is_to_be_done_does(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert shape_of(one) != shape_of(other)


json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=50,
)


@given(st.dictionaries(st.text(), json))
def test_a_shape_is_bounded_and_leaves_the_request_as_it_is(given: dict[str, Any]) -> None:
    before = repr(given)
    assert len(shape_of(given)) <= SHAPE_CHARACTERS_MAX
    assert repr(given) == before


def test_deep_and_wide_requests_have_shapes() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"a": [deep]}
    assert len(shape_of({"x": deep})) < 100
    assert len(shape_of({f"n{n}": n for n in range(10_000)})) <= SHAPE_CHARACTERS_MAX


@given(st.lists(st.floats(0, 100), min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_the_bound_of_its_bucket(times: list[float], share: float) -> None:
    histogram = Histogram()
    for time in times:
        histogram.add(time)
    found = histogram.percentile(share)
    assert found is not None
    exact = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    if exact < 60:
        assert exact <= found + 1e-9
        assert found <= max(1e-6, exact * 1.25 + 1e-6)


def test_nothing_is_known_of_what_was_not_measured() -> None:
    assert Histogram().percentile(0.5) is None


def test_the_patterns_used_last_are_kept() -> None:
    table = PatternTable(3)
    keys = [PatternKey("n", "c", b"1", "op", str(number)) for number in range(4)]
    first = table.of(keys[0])
    for key in (*keys[1:3], keys[0], keys[3]):
        table.of(key)
    assert [pattern.key for pattern in table] == [keys[2], keys[0], keys[3]]
    assert table.of(keys[0]) is first
    assert table.forgotten == 1
