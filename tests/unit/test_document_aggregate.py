"""Aggregation pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines import document_aggregate
from engines.errors import InvalidArgument
from tests.unit.document_state import documents

SALES: list[dict[str, Any]] = [
    {"_id": "1", "city": "Rome", "n": 3, "tags": ["a", "b"], "at": {"d": 1}},
    {"_id": "2", "city": "Oslo", "n": 1.5, "tags": [], "at": {"d": 2}},
    {"_id": "3", "city": "Rome", "n": 4, "tags": ["b"], "at": {"d": 3}},
    {"_id": "4", "city": None, "n": "x", "at": {"d": 2}},
    {"_id": "5", "n": 2, "tags": None},
]

PIPELINES: list[tuple[list[Any], list[Any]]] = [
    ([{"$match": {"city": "Rome"}}, {"$count": "n"}], [{"n": 2}]),
    ([{"$match": {"city": "none"}}, {"$count": "n"}], []),
    (
        [{"$group": {"_id": "$city", "sum": {"$sum": "$n"}, "count": {"$count": {}}}}],
        [
            {"_id": None, "sum": 2, "count": 2},
            {"_id": "Oslo", "sum": 1.5, "count": 1},
            {"_id": "Rome", "sum": 7, "count": 2},
        ],
    ),
    (
        [{"$group": {"_id": None, "avg": {"$avg": "$n"}, "min": {"$min": "$n"},
                     "max": {"$max": "$n"}, "ones": {"$sum": 1}}}],
        [{"_id": None, "avg": 2.625, "min": 1.5, "max": "x", "ones": 5}],
    ),
    (
        [{"$sort": {"at.d": -1}}, {"$match": {"city": "Rome"}},
         {"$group": {"_id": {"c": "$city"}, "first": {"$first": "$n"}, "last": {"$last": "$n"},
                     "all": {"$push": "$at.d"}}}],
        [{"_id": {"c": "Rome"}, "first": 4, "last": 3, "all": [3, 1]}],
    ),
    (
        [{"$unwind": "$tags"}, {"$group": {"_id": "$tags", "who": {"$addToSet": "$_id"}}}],
        [{"_id": "a", "who": ["1"]}, {"_id": "b", "who": ["1", "3"]}],
    ),
    (
        [{"$unwind": {"path": "$tags", "preserveNullAndEmptyArrays": True}},
         {"$project": {"tags": 1}}],
        [{"_id": "1", "tags": "a"}, {"_id": "1", "tags": "b"}, {"_id": "2"},
         {"_id": "3", "tags": "b"}, {"_id": "4"}, {"_id": "5", "tags": None}],
    ),
    ([{"$sort": {"n": 1}}, {"$skip": 1}, {"$limit": 2}, {"$project": {"n": 1}}],
     [{"_id": "5", "n": 2}, {"_id": "1", "n": 3}]),
    (
        [{"$match": {"_id": "1"}},
         {"$project": {"_id": 0, "day": "$at.d", "c": {"x": "$city", "y": "$none"},
                       "l": {"$literal": "$n"}, "two": ["$n", "$none"]}}],
        [{"day": 1, "c": {"x": "Rome"}, "l": "$n", "two": [3, None]}],
    ),
    ([{"$match": {"_id": "2"}}, {"$project": {"at": 0, "tags": 0}}],
     [{"_id": "2", "city": "Oslo", "n": 1.5}]),
    ([{"$group": {"_id": "$city"}}, {"$match": {"_id": {"$ne": None}}}, {"$count": "cities"}],
     [{"cities": 2}]),
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "rows"), PIPELINES, ids=[str(n) for n in range(11)])
def test_pipeline(tmp_path: Path, pipeline: list[Any], rows: list[Any]) -> None:
    with documents(tmp_path, {"fields": ["city"]}) as docs:
        docs.insert(*SALES)
        assert docs.read("document_aggregate", pipeline=pipeline) == {
            "items": rows,
            "next_cursor": None,
        }
        assert docs.pages("document_aggregate", pipeline=pipeline, limit=1) == rows


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "stage", [None, True, 1, "$match", [], ["$match"], {}, {"$match": {}, "$limit": 1}], ids=repr
)
def test_a_stage_is_an_object_with_one_member(tmp_path: Path, place: int, stage: Any) -> None:
    with documents(tmp_path) as docs:
        with pytest.raises(InvalidArgument) as error:
            docs.read("document_aggregate", pipeline=[{"$match": {}}] * place + [stage])
        assert error.value.field == f"parameters.pipeline[{place}]"


def test_sums_that_no_number_holds(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        docs.insert({"a": 2**64 - 1, "b": 1e308}, {"a": 2**64 - 1, "b": 1e308})
        group = {"_id": None, "a": {"$sum": "$a"}, "b": {"$sum": "$b"}}
        (row,) = docs.read("document_aggregate", pipeline=[{"$group": group}])["items"]
        assert row == {"_id": None, "a": float(2**65 - 2), "b": None}


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ({"$sort": {"t": 1}}, "$sort"),
        ({"$group": {"_id": "$t"}}, "$group"),
        ({"$group": {"_id": None, "all": {"$push": "$$ROOT"}}}, "$group"),
        ({"$group": {"_id": None, "all": {"$addToSet": "$t"}}}, "$group"),
    ],
    ids=repr,
)
def test_what_a_pipeline_holds_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, field: str
) -> None:
    monkeypatch.setattr(document_aggregate, "HELD_BYTES_MAX", 2_000)
    with documents(tmp_path) as docs:
        docs.insert(*({"t": f"{n}" * 100} for n in range(30)))
        with pytest.raises(InvalidArgument) as error:
            docs.read("document_aggregate", pipeline=[stage])
        assert error.value.field == f"parameters.pipeline[0].{field}"
        docs.read("document_aggregate", pipeline=[{"$limit": 3}, stage])
