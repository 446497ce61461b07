"""Filters, the order of values, sorts and projections, as functions of a document."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from engines.document_filter import parse_filter
from engines.document_order import order_key
from engines.document_paths import reached
from engines.document_regex import PATTERN_BYTES_MAX, compile_regex
from engines.document_shapes import parse_projection
from engines.errors import InvalidArgument

# Each less than the next.
IN_ORDER: list[Any] = [
    None, -(2**63), -1.5, -1, 0, 5e-324, 0.5, 1, 2**53, 2**53 + 1, 2.0**53 + 2, 2**64 - 1, 1e300,
    "", "\x00", "\x00a", "a", "a\x00", "aa", "b", "é", "\U0001f600",
    {}, {"a": 1}, {"a": 1, "b": 0}, {"a": 2}, {"b": 0},
    [], [None], [1], [1, 0], [2], ["a"], [[]], b"", b"\x00", b"\x00\xff", b"a", False, True,
]  # fmt: skip


def test_keys_are_in_the_order_of_values() -> None:
    keys = [order_key(value) for value in IN_ORDER]
    assert all(one < other for one, other in pairwise(keys))
    assert not any(b != a and b.startswith(a) for a in keys for b in keys)


def test_numbers_are_equal_whatever_their_type() -> None:
    assert order_key(1) == order_key(1.0)
    assert order_key(0.0) == order_key(-0.0) == order_key(0)
    assert order_key(2**53) == order_key(2.0**53)
    assert order_key(1) != order_key(True)
    assert order_key({"a": 1, "b": 2}) == order_key({"b": 2.0, "a": 1})


@pytest.mark.parametrize(
    ("document", "path", "values"),
    [
        ({"a": {"b": 1}}, "a.b", [1]),
        ({"a": [{"b": 1}, {"c": 2}, {"b": [3]}]}, "a.b", [1, [3]]),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.1.b", [2]),
        ({"a": [5, 6]}, "a.1", [6]),
        ({"a": {"1": 7}}, "a.1", [7]),
        ({"a": [[{"b": 1}]]}, "a.b", []),
        ({"a": 1}, "a.b", []),
        ({"a": [5, 6]}, "a.01", []),
    ],
)
def test_paths(document: Any, path: str, values: list[Any]) -> None:
    assert reached(document, tuple(path.split("."))) == values


DOCUMENT = {
    "n": 5, "f": 2.5, "t": "Agent seven", "yes": True, "no": None, "tags": ["a", "b"],
    "deep": {"x": {"y": 1}}, "list": [{"k": 1, "v": 10}, {"k": 2, "v": 20}], "empty": [],
    "matrix": [[1, 2], [3]],
}  # fmt: skip

MATCHING: list[Any] = [
    {}, {"n": 5}, {"n": 5.0}, {"n": {"$eq": 5}}, {"n": {"$ne": 6}}, {"n": {"$gt": 4, "$lt": 6}},
    {"n": {"$gte": 5}}, {"n": {"$lte": 5}}, {"n": {"$in": [1, 5]}}, {"n": {"$nin": [1, 2]}},
    {"yes": True}, {"yes": {"$ne": 1}}, {"no": None}, {"absent": None}, {"absent": {"$ne": 1}},
    {"no": {"$exists": True}}, {"absent": {"$exists": False}}, {"absent": {"$in": [None]}},
    {"no": {"$lte": None}}, {"tags": "a"}, {"tags": ["a", "b"]}, {"tags": {"$all": ["b", "a"]}},
    {"tags": {"$size": 2}}, {"empty": {"$size": 0}}, {"empty": []}, {"tags": {"$in": ["b"]}},
    {"tags.0": "a"}, {"deep.x.y": 1}, {"deep": {"x": {"y": 1.0}}}, {"list.k": 2},
    {"list": {"$elemMatch": {"k": 1, "v": 10}}}, {"list.k": {"$gt": 1, "$lt": 2}},
    {"list": {"$all": [{"$elemMatch": {"k": 1}}, {"$elemMatch": {"k": 2}}]}},
    {"tags": {"$elemMatch": {"$gte": "b", "$lt": "c"}}}, {"matrix": [3]}, {"matrix.0": 2},
    {"t": {"$regex": "^agent", "$options": "i"}}, {"t": {"$regex": "s.v"}},
    {"tags": {"$regex": "^b$"}}, {"t": {"$not": {"$regex": "^x"}}}, {"n": {"$not": {"$gt": 5}}},
    {"t": {"$not": {"$gt": 5}}}, {"$and": [{"n": 5}, {"yes": True}]},
    {"$or": [{"n": 6}, {"f": 2.5}]}, {"$nor": [{"n": 6}, {"f": 1}]}, {"n": 5, "f": 2.5},
]  # fmt: skip

OTHERS: list[Any] = [
    {"n": 6}, {"n": "5"}, {"n": {"$ne": 5}}, {"n": {"$gt": 5}}, {"n": {"$gt": "a"}},
    {"t": {"$gt": 1}}, {"yes": 1}, {"n": True}, {"n": {"$in": []}}, {"n": {"$nin": [5.0]}},
    {"no": {"$exists": False}}, {"n": None}, {"tags": {"$ne": "a"}}, {"tags": ["b", "a"]},
    {"tags": {"$all": ["a", "c"]}}, {"tags": {"$all": []}}, {"tags": {"$size": 1}},
    {"n": {"$size": 1}}, {"deep": {"x": {}}}, {"list": {"$elemMatch": {"k": 1, "v": 20}}},
    {"list.k": {"$gt": 2}}, {"t": {"$regex": "^agent"}}, {"n": {"$regex": "5"}},
    {"$and": [{"n": 5}, {"yes": False}]}, {"$or": [{"n": 6}]}, {"$nor": [{"n": 5}]},
    {"no": {"$gt": None}}, {"tags": {"$elemMatch": {"$gt": "b"}}}, {"matrix": 3}, {"n": {}},
]  # fmt: skip


@pytest.mark.parametrize("given", MATCHING, ids=repr)
def test_filter_matches(given: Any) -> None:
    assert parse_filter(given, "f").matches(DOCUMENT)


@pytest.mark.parametrize("given", OTHERS, ids=repr)
def test_filter_does_not_match(given: Any) -> None:
    assert not parse_filter(given, "f").matches(DOCUMENT)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "f"),
        ({"$where": "1"}, "f.$where"),
        ({"a": {"$near": 1}}, "f.a.$near"),
        ({"a": {"$gt": 1, "b": 2}}, "f.a.b"),
        ({"$and": []}, "f.$and"),
        ({"$and": {}}, "f.$and"),
        ({"$and": [{"a": {"$in": 3}}]}, "f.$and[0].a.$in"),
        ({"$or": [{"b": 1}, 3]}, "f.$or[1]"),
        ({"a..b": 1}, "f.a..b"),
        ({"": 1}, "f."),
        ({"a": {"$exists": 1}}, "f.a.$exists"),
        ({"a": {"$size": -1}}, "f.a.$size"),
        ({"a": {"$size": True}}, "f.a.$size"),
        ({"a": {"$not": 1}}, "f.a.$not"),
        ({"a": {"$not": {}}}, "f.a.$not"),
        ({"a": {"$elemMatch": 1}}, "f.a.$elemMatch"),
        ({"a": {"$all": [{"$elemMatch": {"$x": 1}}]}}, "f.a.$all[0].$elemMatch.$x"),
        ({"a": {"$options": "i"}}, "f.a.$options"),
        ({"a": {"$regex": 1}}, "f.a.$regex"),
        ({"a": {"$regex": "("}}, "f.a.$regex"),
        ({"a": {"$regex": r"(a)\1"}}, "f.a.$regex"),
        ({"a": {"$regex": "(?=a)"}}, "f.a.$regex"),
        ({"a": {"$regex": "a", "$options": "x"}}, "f.a.$options"),
        ({"a": {"$regex": "a" * (PATTERN_BYTES_MAX + 1)}}, "f.a.$regex"),
        ({"a": {"$regex": "(ab|ba){200}c"}}, "f.a.$regex"),
        ({"$or": [{"a": 1}] * 1_001}, "f.$or"),
    ],
    ids=repr,
)
def test_filter_refused(given: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_filter(given, "f")
    assert refused.value.field == field


def test_regex_does_not_backtrack() -> None:
    # Python's `re` needs 2**100 steps for this one: it would not end.
    assert not compile_regex("(a|a)*b$", "", "f")("a" * 100_000)


@pytest.mark.parametrize(
    ("projection", "shown"),
    [
        (None, {"_id": "i", "a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 3]}),
        ({"a": 1}, {"_id": "i", "a": {"b": 1, "c": 2}}),
        ({"a.b": True}, {"_id": "i", "a": {"b": 1}}),
        ({"a.b": 1, "_id": 0}, {"a": {"b": 1}}),
        ({"a": 0}, {"_id": "i", "l": [{"x": 1, "y": 2}, 3]}),
        ({"_id": 0, "l": 0}, {"a": {"b": 1, "c": 2}}),
        ({"l.x": 1}, {"_id": "i", "l": [{"x": 1}]}),
        ({"l.x": False}, {"_id": "i", "a": {"b": 1, "c": 2}, "l": [{"y": 2}, 3]}),
        ({"a": 1, "a.b": 1}, {"_id": "i", "a": {"b": 1, "c": 2}}),
        ({"_id": 1}, {"_id": "i"}),
        ({"_id": 0}, {"a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 3]}),
        ({}, {"_id": "i", "a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 3]}),
    ],
)
def test_projection(projection: Any, shown: Any) -> None:
    document = {"_id": "i", "a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 3]}
    project = parse_projection(projection, "p")
    assert (document if project is None else project(document)) == shown


@pytest.mark.parametrize("given", [[], {"a": 2}, {"a": "x"}, {"a": 1, "b": 0}, {"a..b": 1}])
def test_projection_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument):
        parse_projection(given, "p")
