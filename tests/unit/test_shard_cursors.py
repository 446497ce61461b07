"""Pages, cursors and parameters of collections in several shards: bounds, and what is forged."""

from __future__ import annotations

from typing import Any

import pytest

from engines import vector_reads, vector_shards
from engines.codec import Value, pack_value
from engines.cursors import encode_cursor
from engines.document import DocumentEngine
from engines.engine import Engine
from engines.shards import PART, shard_of
from engines.vector import VectorEngine
from tests.property.test_shards import Pair, pair

SMALL_BYTES = 16 << 10


@pytest.mark.parametrize("shards", [2, 3, 5])
@pytest.mark.parametrize("include", [["vector"], ["metadata"], ["metadata", "vector", "text"]])
def test_pages_of_a_listing_end_by_bytes_and_hold_everything(
    monkeypatch: pytest.MonkeyPatch, shards: int, include: list[str]
) -> None:
    monkeypatch.setattr(vector_reads, "PAGE_BYTES_MAX", SMALL_BYTES)
    monkeypatch.setattr(vector_shards, "PAGE_BYTES_MAX", SMALL_BYTES)
    monkeypatch.setattr(vector_shards, "LISTED_BYTES_MAX", 2 * SMALL_BYTES)
    with pair(VectorEngine(), shards, dimensions=16) as both:
        many = 200
        given = [
            {"id": f"i{number:03}", "vector": [1, *range(15)], "metadata": {"k": "x" * 400}}
            for number in range(many)
        ]
        # One that is larger than a page, and goes alone.
        given[77]["metadata"] = {"k": "x" * 2 * SMALL_BYTES}
        both.both("vector_insert", documents=given)
        expected, found = both.pages("vector_list", "items", limit=1_000, include=include)
        assert found == expected
        assert [item["id"] for item in found] == [each["id"] for each in given]
        sizes = _page_sizes(both, include)
        large = [size for size in sizes if size > SMALL_BYTES]
        assert len(large) == ("metadata" in include)
        assert len(sizes) <= 4 * many * 700 // SMALL_BYTES


def _page_sizes(both: Pair, include: list[str]) -> list[int]:
    sizes = []
    more: dict[str, Any] = {}
    while True:
        answer = both.several("vector_list", {"limit": 1_000, "include": include, **more})
        sizes.append(len(pack_value(answer)))
        if answer["next_cursor"] is None:
            return sizes
        more = {"cursor": answer["next_cursor"]}


def test_a_page_of_a_listing_counts_what_stands_around_its_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vector_reads, "PAGE_BYTES_MAX", SMALL_BYTES)
    with pair(VectorEngine(), 2, dimensions=8, scalar="b1") as both:
        given = [{"id": f"{number:0200}", "vector": [1] * 8} for number in range(300)]
        both.both("vector_insert", documents=given)
        answer = both.one("vector_list", {"limit": 1_000})
        assert answer["next_cursor"] is not None
        assert len(pack_value(answer)) <= SMALL_BYTES


_DOCUMENT_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("document_find", {}),
    ("document_get", {"id": "a"}),
    ("document_count", {}),
    ("document_distinct", {"field": "x"}),
    ("document_aggregate", {"pipeline": [{"$count": "n"}]}),
    ("document_indexes", {}),
    ("document_insert", {"document": {"_id": "new"}}),
    ("document_upsert", {"document": {"_id": "new"}}),
    ("document_update", {"filter": {"x": 1}, "update": {"$set": {"y": 1}}}),
    ("document_delete", {"filter": {"x": 1}}),
    ("document_index_build", {}),
]
_VECTOR_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("vector_search", {"vector": [1, 2]}),
    ("vector_get", {"ids": ["a"]}),
    ("vector_list", {}),
    ("vector_count", {}),
    ("vector_info", {}),
    ("vector_insert", {"documents": [{"id": "new", "vector": [1, 2]}]}),
    ("vector_upsert", {"documents": [{"id": "new", "vector": [1, 2]}]}),
    ("vector_update", {"id": "a", "data": {"vector": [1, 2]}}),
    ("vector_delete", {"ids": ["a"]}),
]


@pytest.mark.parametrize("part", [None, "x", 7, {"bytes_max": 1}, pack_value({"bytes_max": 1})])
@pytest.mark.parametrize(
    ("engine", "options", "calls"),
    [
        (DocumentEngine(), {}, _DOCUMENT_CALLS),
        (VectorEngine(), {"dimensions": 2}, _VECTOR_CALLS),
    ],
)
def test_what_nodes_add_is_not_the_callers_to_give(
    engine: Engine, options: Any, calls: list[tuple[str, dict[str, Any]]], part: Value
) -> None:
    with pair(engine, 2, **options) as both:
        for operation, parameters in calls:
            answer = both.several(operation, {**parameters, PART: part})
            assert answer == "INVALID_ARGUMENT", operation


_FIND = ["find", None, {"n": 1}, None, "shards"]  # of a sort by n: two pieces, with that of the id
_FORGED_PLACES: list[list[Value]] = [
    [], [1], [[], "a"], [[b"x"], "a"], [[b"x", b"y", b"z"], "a"], [[b"x", "y"], "a"],
    [[b"x", None], "a"], [["x", "y"], "a"], [[b"x", b"y"], b"a"], [[b"x", b"y"], None],
    [[b"x", b"y"], "a", 1], [b"xy", "a"], [{"x": b"y"}, "a"], ["sort", b"x", "a"], [None, None],
]  # fmt: skip


@pytest.mark.parametrize("indexes", [[], [{"fields": ["n"]}]])
def test_forged_places_are_refused(indexes: Any) -> None:
    with pair(DocumentEngine(), 2, indexes=indexes) as both:
        documents = [{"_id": f"{number:02}", "n": 1} for number in range(20)]
        both.both("document_insert", documents=documents)
        for place in _FORGED_PLACES:
            given = {"sort": {"n": 1}, "cursor": encode_cursor(_FIND, place)}
            assert both.several("document_find", given) == "INVALID_CURSOR", place
        # Of the right shape it is a place like any other, wherever it leads to.
        given = {"sort": {"n": 1}, "cursor": encode_cursor(_FIND, [[b"\0" * 9_000, b""], "a"])}
        assert len(both.several("document_find", given)["items"]) == len(documents)


_UPDATE: dict[str, Any] = {"filter": {"n": 1}, "update": {"$set": {"m": 1}}}
_PIPELINE = [{"$group": {"_id": "$n"}}]
_LIST: list[Value] = ["vector_list", {}]
_PLACES = {("document_distinct", bytes), ("document_aggregate", int)}
_ODD: list[Value] = [
    -1, 1 << 62, True, 1.5, b"", b"a", b"v", b"v\0", b"v\0\x09a", "", ":", "9:", "x:a", "0", [], {},
]  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "scope", "parameters"),
    [
        ("document_get", ["get", ["a", "b"], None], {"ids": ["a", "b"]}),
        ("document_distinct", ["distinct", "n", None], {"field": "n"}),
        ("document_aggregate", ["aggregate", _PIPELINE], {"pipeline": _PIPELINE}),
        ("document_update", [_UPDATE["filter"], _UPDATE["update"]], _UPDATE),
        ("document_delete", [{"n": 1}, None], {"filter": {"n": 1}}),
    ],
)
def test_forged_cursors_of_documents_are_refused(
    operation: str, scope: list[Value], parameters: dict[str, Any]
) -> None:
    with pair(DocumentEngine(), 2) as both:
        both.both("document_insert", documents=[{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])
        for position in _ODD:
            given = {**parameters, "cursor": encode_cursor(scope, position)}
            answer = both.several(operation, given)
            if answer != "INVALID_CURSOR":  # a place like any other
                assert (operation, type(position)) in _PLACES, (position, answer)


@pytest.mark.parametrize(
    ("operation", "scope", "parameters"),
    [
        ("vector_list", _LIST, {}),
        ("vector_delete", {"k": 1}, {"filter": {"k": 1}}),
    ],
)
def test_forged_cursors_of_vectors_are_refused(
    operation: str, scope: Value, parameters: dict[str, Any]
) -> None:
    with pair(VectorEngine(), 2, dimensions=2) as both:
        names = ["a", next(name for name in "bcdefgh" if shard_of(name, 2) != shard_of("a", 2))]
        both.both("vector_insert", documents=[{"id": each, "vector": [1, 2]} for each in names])
        for position in _ODD:
            given = {**parameters, "cursor": encode_cursor(scope, position)}
            answer = both.several(operation, given)
            if answer != "INVALID_CURSOR":
                assert type(position) is bytes, (position, answer)
                assert position[:1] in (b"", b"v"), (position, answer)
