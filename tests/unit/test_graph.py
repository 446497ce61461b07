"""The engine `graph`: what it refuses, answers and deletes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from engines import graph_walks
from engines.cursors import encode_cursor
from engines.errors import InvalidArgument
from engines.graph import ENGINE
from engines.graph_writes import DELETE_EDGES_MAX, PROPERTIES_BYTES_MAX
from engines.interfaces import RejectCode, Rejected
from engines.registry import Registry
from tests.unit.one_collection import OneCollection, collection


class GraphState(OneCollection):
    engine = ENGINE

    def nodes(self, *ids: str, **fields: Any) -> None:
        for name in ids:
            assert self.write("graph_create_node", id=name, **fields)["created"]

    def edge(self, source: str, target: str, kind: str = "knows", **properties: Any) -> Any:
        return self.write(
            "graph_create_edge", **{"from": source, "to": target}, type=kind, properties=properties
        )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[GraphState]:
    with collection(GraphState, tmp_path / "state") as made:
        yield made


def test_it_is_built_in() -> None:
    assert Registry().named("kuzu") is Registry().named("graph") is ENGINE


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("graph_create_node", {"label": "P"}, "label"),
        ("graph_create_node", {"id": ""}, "id"),
        ("graph_create_node", {"id": "a\x00b"}, "id"),
        ("graph_create_node", {"id": "a" * 129}, "id"),
        ("graph_create_node", {"labels": "P"}, "labels"),
        ("graph_create_node", {"labels": ["P", 1]}, "labels[1]"),
        ("graph_create_node", {"properties": []}, "properties"),
        ("graph_create_node", {"properties": {"a": float("nan")}}, "properties.a"),
        ("graph_create_node", {"properties": {"a": "x" * PROPERTIES_BYTES_MAX}}, "properties"),
        ("graph_create_edge", {"from": "a", "to": "b"}, "type"),
        ("graph_create_edge", {"from": "a", "to": 1, "type": "t"}, "to"),
        ("graph_update_node", {"id": "a"}, "set"),
        ("graph_update_edge", {"id": "a", "unset": [1]}, "unset[0]"),
        ("graph_update_edge", {"id": "a", "labels": []}, "labels"),
        ("graph_delete_node", {}, "id"),
        ("graph_delete_edge", {"id": "a", "cascade": True}, "cascade"),
    ],
)
def test_a_write_that_is_wrong_stores_nothing(
    state: GraphState, operation: str, parameters: dict[str, Any], field: str
) -> None:
    before = state.digest()
    with pytest.raises(InvalidArgument) as raised:
        state.write(operation, **parameters)
    assert raised.value.field == f"parameters.{field}"
    assert state.digest() == before


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("graph_get", {}, "id"),
        ("graph_get", {"id": "a", "edge": "e"}, "id"),
        ("graph_neighbors", {"id": "none"}, "id"),
        ("graph_neighbors", {"id": "a", "direction": "up"}, "direction"),
        ("graph_neighbors", {"id": "a", "limit": 1_001}, "limit"),
        ("graph_neighbors", {"id": "a", "types": "knows"}, "types"),
        ("graph_neighbors", {"id": "a", "cursor": "?"}, "cursor"),
        ("graph_traverse", {"start": "a", "startNode": "a"}, "start"),
        ("graph_traverse", {"startNode": "none"}, "startNode"),
        ("graph_traverse", {"start": "a", "max_depth": 21}, "max_depth"),
        ("graph_traverse", {"start": "a", "filter": {"label": "P"}}, "filter.label"),
        ("graph_traverse", {"start": "a", "filter": {"labels": [1]}}, "filter.labels[0]"),
        ("graph_shortest_path", {"from": "a", "to": "none"}, "to"),
        ("graph_shortest_path", {"from": "a", "to": "a", "max_cost": -1}, "max_cost"),
        ("graph_count", {"label": 1}, "label"),
    ],
)
def test_a_query_that_is_wrong_names_its_field(
    state: GraphState, operation: str, parameters: dict[str, Any], field: str
) -> None:
    state.nodes("a")
    with pytest.raises(InvalidArgument) as raised:
        state.query(operation, **parameters)
    assert raised.value.field == f"parameters.{field}"


def refused(answer: Any, code: RejectCode, field: str) -> None:
    assert isinstance(answer, Rejected)
    assert (answer.code, answer.field) == (code, f"parameters.{field}")


def test_what_the_state_refuses(state: GraphState) -> None:
    state.nodes("a", "b")
    known = state.edge("a", "b")["id"]
    create = {"from": "a", "to": "b", "type": "t", "id": known}
    refused(state.write("graph_create_node", id="a"), RejectCode.ITEM_EXISTS, "id")
    refused(state.write("graph_create_edge", **create), RejectCode.ITEM_EXISTS, "id")
    refused(state.edge("a", "none"), RejectCode.ITEM_NOT_FOUND, "to")
    refused(state.edge("none", "a"), RejectCode.ITEM_NOT_FOUND, "from")
    update = {"id": "none", "set": {"x": 1}}
    refused(state.write("graph_update_node", **update), RejectCode.ITEM_NOT_FOUND, "id")
    refused(state.write("graph_update_edge", **update), RejectCode.ITEM_NOT_FOUND, "id")
    half = {"id": "a", "set": {"x": "y" * (PROPERTIES_BYTES_MAX // 2)}}
    assert state.write("graph_update_node", **half)["changed"]
    half["set"] = {"z": "y" * (PROPERTIES_BYTES_MAX // 2)}
    refused(state.write("graph_update_node", **half), RejectCode.LIMIT_EXCEEDED, "set")
    assert state.query("graph_count") == {"nodes": 2, "edges": 1}


def test_nodes_and_edges_change(state: GraphState) -> None:
    made = state.write("graph_create_node", labels=["P", "A", "P"], properties={"a": 1, "b": None})
    name = made["id"]
    changed = {"id": name, "set": {"c": [1]}, "unset": ["a"], "labels": ["A", "Z"]}
    assert state.write("graph_update_node", **changed) == {"id": name, "changed": True}
    assert state.write("graph_update_node", **changed) == {"id": name, "changed": False}
    assert state.query("graph_get", id=name)["node"] == {
        "id": name, "labels": ["A", "Z"], "properties": {"b": None, "c": [1]},
        "out_degree": 0, "in_degree": 0,
    }  # fmt: skip
    assert [state.query("graph_count", label=label)["nodes"] for label in "APZ"] == [1, 0, 1]
    edge = state.edge(name, name, "likes", since=2020)["id"]
    state.write("graph_update_edge", id=edge, set={"since": True})
    assert state.query("graph_get", edge=edge)["edge"] == {
        "id": edge, "from": name, "to": name, "type": "likes", "properties": {"since": True},
    }  # fmt: skip
    assert state.query("graph_count", type="likes") == {"edges": 1}
    assert state.write("graph_delete_edge", id=edge) == {"deleted": True}
    assert state.write("graph_delete_edge", id=edge) == {"deleted": False}
    assert state.query("graph_get", edge=edge) == {"edge": None}


def test_a_node_goes_with_its_edges(state: GraphState) -> None:
    state.nodes("a", "b", "c")
    for pair in ("ab", "ab", "ba", "aa", "bc"):
        state.edge(*pair)
    assert state.write("graph_delete_node", id="a") == {"deleted": True, "edges": 4}
    assert state.write("graph_delete_node", id="a") == {"deleted": False, "edges": 0}
    assert state.query("graph_count") == {"nodes": 2, "edges": 1}


def test_a_node_of_too_many_edges_stays(state: GraphState) -> None:
    state.nodes("hub", "b")
    with patch("engines.graph_writes.DELETE_EDGES_MAX", 3):
        for _ in range(4):
            state.edge("hub", "b")
        answer = state.write("graph_delete_node", id="hub")
        refused(answer, RejectCode.LIMIT_EXCEEDED, "id")
        assert "4" in answer.message
    assert state.query("graph_count", type="knows") == {"edges": 4}
    assert DELETE_EDGES_MAX > 4


def test_neighbours_in_pages(state: GraphState) -> None:
    state.nodes("a", "ab", "b", "c")
    for source, target, kind in (
        ("a", "b", "x"), ("a", "b", "x"), ("c", "a", "x"), ("a", "a", "y"), ("ab", "c", "x"),
        ("a", "c", "xx"),
    ):  # fmt: skip
        state.edge(source, target, kind)
    for direction, types, count in (
        ("both", None, 6), ("out", None, 4), ("in", None, 2), ("both", ["x"], 3),
        ("out", ["xx", "y"], 2), ("in", ["z"], 0),
    ):  # fmt: skip
        given = {"id": "a", "direction": direction, "types": types}
        whole = state.query("graph_neighbors", **given)
        assert len(whole["items"]) == count
        assert whole["next_cursor"] is None
        paged: list[Any] = []
        cursor = None
        while True:
            page = state.query("graph_neighbors", **given, limit=1, cursor=cursor)
            paged.extend(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert paged == whole["items"]
        for item in paged:
            here, there = ("from", "to") if item["direction"] == "out" else ("to", "from")
            assert item["edge"][here] == "a"
            assert item["edge"][there] == item["node"]["id"]


def test_traverse(state: GraphState) -> None:
    state.nodes("a", "c", labels=["P"], properties={"on": True})
    state.nodes("b", "d", labels=["Q"], properties={"on": 1})
    for pair in ("ab", "bc", "cd", "ac", "da"):
        state.edge(*pair)
    found = state.query("graph_traverse", startNode="a")["nodes"]
    assert sorted((node["id"], node["depth"]) for node in found) == [("b", 1), ("c", 1), ("d", 2)]
    found = state.query("graph_traverse", start="a", direction="in", max_depth=1)["nodes"]
    assert [(node["id"], node["previous"]) for node in found] == [("d", "a")]
    for wanted, ids in (
        ({"labels": ["P"]}, ["c"]), ({"properties": {"on": 1}}, ["b", "d"]),
        ({"properties": {"on": True}}, ["c"]), ({"properties": {"off": None}}, []),
    ):  # fmt: skip
        found = state.query("graph_traverse", start="a", filter=wanted)["nodes"]
        assert sorted(node["id"] for node in found) == ids
    first = state.query("graph_traverse", start="a", limit=2)
    rest = state.query("graph_traverse", start="a", limit=2, cursor=first["next_cursor"])
    assert len({node["id"] for node in first["nodes"] + rest["nodes"]}) == 3
    assert rest["next_cursor"] is None


def test_shortest_path(state: GraphState) -> None:
    state.nodes(*"abcd")
    for pair, cost in (("ab", 1), ("bc", 1.5), ("ac", 4), ("cd", 0), ("ac", 3)):
        state.edge(*pair, cost=cost)
    ask = {"from": "a", "to": "d"}
    fewest = state.query("graph_shortest_path", **ask)
    assert (fewest["cost"], fewest["nodes"]) == (2, ["a", "c", "d"])
    cheapest = state.query("graph_shortest_path", **ask, weight="cost")
    assert (cheapest["cost"], cheapest["nodes"]) == (2.5, ["a", "b", "c", "d"])
    assert len(cheapest["edges"]) == 3
    assert not state.query("graph_shortest_path", **ask, weight="cost", max_cost=2)["found"]
    assert not state.query("graph_shortest_path", **ask, direction="in")["found"]
    assert state.query("graph_shortest_path", **{"from": "a", "to": "a"})["nodes"] == ["a"]
    with pytest.raises(InvalidArgument, match=r"parameters\.weight: edge"):
        state.query("graph_shortest_path", **ask, weight="price")


def test_listings_are_in_order_of_ids_and_of_their_own_items(state: GraphState) -> None:
    for name in ("b", "a", "ä"):
        state.write("graph_create_node", id=name, labels=["P", "PQ"] if name == "b" else ["PQ"])
    made = [state.edge("a", "b"), state.edge("b", "b", n=1)]
    nodes = state.query("graph_list_nodes")["items"]
    assert [node["id"] for node in nodes] == ["a", "b", "ä"]
    assert nodes[1] == {"id": "b", "labels": ["P", "PQ"], "properties": {}}
    assert [each["id"] for each in state.query("graph_list_nodes", label="P")["items"]] == ["b"]
    assert len(state.query("graph_list_nodes", label="PQ")["items"]) == 3
    assert state.query("graph_list_nodes", label="Q") == {"items": [], "next_cursor": None}
    edges = state.query("graph_list_edges")["items"]
    assert sorted(each["id"] for each in edges) == sorted(each["id"] for each in made)
    for position in (b"d", b"ea", b"lPQ", b"\xff"):
        forged = encode_cursor(["graph_list_nodes", {}], position)
        with pytest.raises(InvalidArgument, match="cursor"):
            state.query("graph_list_nodes", cursor=forged)


def test_walks_are_bounded(state: GraphState) -> None:
    state.nodes(*"abcdef")
    for pair in ("ab", "bc", "cd", "de", "ef"):
        state.edge(*pair)
    for limit in ("VISITED_NODES_MAX", "VISITED_EDGES_MAX"):
        with patch.object(graph_walks, limit, 3):
            with pytest.raises(InvalidArgument, match=r"parameters\.max_depth: more than 3"):
                state.query("graph_traverse", start="a", max_depth=9)
            with pytest.raises(InvalidArgument, match=r"parameters\.max_cost: more than 3"):
                state.query("graph_shortest_path", **{"from": "a", "to": "f"})
            assert len(state.query("graph_traverse", start="a", max_depth=3)["nodes"]) == 3
