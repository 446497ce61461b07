"""Algorithms over a graph, against naive ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from engines import graph_algorithms
from engines.errors import InvalidArgument, QueryCancelled
from tests.unit.one_collection import collection
from tests.unit.test_graph import GraphState

NODES = [f"n{number}" for number in range(9)]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[GraphState]:
    with collection(GraphState, tmp_path / "state") as made:
        yield made


def drawn(state: GraphState, seed: int) -> list[tuple[str, str, float]]:
    """Edges with weights; parallel ones and loops among them."""
    chance = Random(seed)
    state.nodes(*NODES)
    edges = []
    for _ in range(chance.randint(4, 14)):
        edge = chance.choice(NODES), chance.choice(NODES), chance.choice([1.0, 2.0, 0.5])
        state.edge(edge[0], edge[1], w=edge[2])
        edges.append(edge)
    return edges


def ask(state: GraphState, algorithm: str, **given: Any) -> Any:
    return state.query("graph_algorithm", algorithm=algorithm, **given)


def scores(answer: Any) -> dict[str, float]:
    items = answer["items"]
    assert items == sorted(items, key=lambda each: (-each["score"], each["id"]))
    return {each["id"]: each["score"] for each in items}


def reached(edges: list[tuple[str, str, float]], start: str, both: bool) -> set[str]:
    seen = {start}
    for _ in NODES:
        for source, target, _ in edges:
            if source in seen:
                seen.add(target)
            if both and target in seen:
                seen.add(source)
    return seen


def paths(edges: set[tuple[str, str]], start: str, goal: str) -> list[list[str]]:
    """The shortest ones."""
    found = [[start]]
    for _ in NODES:
        whole = [path for path in found if path[-1] == goal]
        if whole:
            return whole
        found = [[*path, b] for path in found for a, b in edges if a == path[-1]]
    return []


@pytest.mark.parametrize("seed", range(6))
def test_as_naive_ones_find_it(state: GraphState, seed: int) -> None:
    edges = drawn(state, seed)
    for name, both in (
        ("weakly_connected_components", True), ("strongly_connected_components", False),
    ):  # fmt: skip
        wanted = set()
        for node in NODES:
            own = reached(edges, node, both)
            wanted.add(tuple(sorted(each for each in own if node in reached(edges, each, both))))
        answer = ask(state, name)
        assert answer["components"] == len(wanted)
        assert [each["nodes"] for each in answer["items"]] == [
            [*each] for each in sorted(wanted, key=lambda each: (-len(each), each))
        ]
    for weight in (None, "w"):
        rank = dict.fromkeys(NODES, 1 / len(NODES))
        for _ in range(300):
            new = dict.fromkeys(NODES, 0.15 / len(NODES))
            for node in NODES:
                out = [(b, w if weight else 1) for a, b, w in edges if a == node]
                # Who points at nobody points at everybody.
                for target, share in out or [(each, 1) for each in NODES]:
                    whole = sum(w for _, w in out) or len(NODES)
                    new[target] += 0.85 * rank[node] * share / whole
            rank = new
        assert scores(ask(state, "pagerank", weight=weight)) == pytest.approx(rank, abs=1e-8)
    simple = {(a, b) for a, b, _ in edges if a != b}
    between = dict.fromkeys(NODES, 0.0)
    for start, goal in product(NODES, NODES):
        shortest = paths(simple, start, goal) if start != goal else []
        for path in shortest:
            for node in path[1:-1]:
                between[node] += 1 / len(shortest)
    assert scores(ask(state, "betweenness")) == pytest.approx(between)
    degrees = {node: sum((a == node) + (b == node) for a, b, _ in edges) for node in NODES}
    assert scores(ask(state, "degree")) == degrees
    out = {node: sum(a == node for a, _, _ in edges) for node in NODES}
    assert scores(ask(state, "degree", direction="out")) == out


def test_a_part_and_the_first_of_many(state: GraphState) -> None:
    state.nodes("a", "b", "c", labels=["P", "Q"])
    state.nodes("x", labels=["P"])
    state.nodes("ab")  # a name that another begins; its edges are none of a's
    state.edge("ab", "b", "t")
    for pair, kind in (("ab", "t"), ("ax", "t"), ("bc", "u")):
        state.edge(*pair, kind)
    whole = ask(state, "weakly_connected_components")
    assert (whole["nodes"], whole["relationships"], whole["components"]) == (5, 4, 1)
    part = ask(state, "weakly_connected_components", labels=["Q", "P"], types=["t"], members=1)
    assert (part["nodes"], part["relationships"], part["components"]) == (3, 1, 2)
    assert part["items"] == [{"size": 2, "nodes": ["a"]}, {"size": 1, "nodes": ["c"]}]
    assert ask(state, "degree", limit=2)["items"] == [
        {"id": "b", "score": 3}, {"id": "a", "score": 2},
    ]  # fmt: skip
    empty = {"nodes": 0, "relationships": 0}
    assert ask(state, "pagerank", labels=["None"]) == {**empty, "items": []}
    assert ask(state, "betweenness", labels=["None"]) == {**empty, "items": []}


def test_pagerank_with_weights_of_nothing_and_with_much_damping(state: GraphState) -> None:
    state.nodes("a", "b", "c")
    state.edge("a", "b", w=0)
    state.edge("b", "c", w=0)
    assert set(scores(ask(state, "pagerank", weight="w")).values()) == {round(1 / 3, 12)}
    for pair in ("cb", "cb", "ba"):
        state.edge(*pair, w=1)
    with pytest.raises(InvalidArgument, match=r"parameters\.damping: no result"):
        ask(state, "pagerank", damping=0.9999)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "algorithm"),
        ({"algorithm": "louvain"}, "algorithm"),
        ({"algorithm": "degree", "damping": 0.5}, "damping"),
        ({"algorithm": "pagerank", "damping": 1}, "damping"),
        ({"algorithm": "pagerank", "weight": "since"}, "weight"),
        ({"algorithm": "pagerank", "weight": 1}, "weight"),
        ({"algorithm": "pagerank", "labels": "P"}, "labels"),
        ({"algorithm": "pagerank", "types": [1]}, "types[0]"),
        ({"algorithm": "degree", "direction": "up"}, "direction"),
        ({"algorithm": "degree", "limit": 0}, "limit"),
        ({"algorithm": "weakly_connected_components", "members": 101}, "members"),
        ({"algorithm": "degree", "color": 1}, "color"),
    ],
)
def test_what_is_wrong_names_its_field(
    state: GraphState, given: dict[str, Any], field: str
) -> None:
    state.nodes("a")
    state.edge("a", "a")
    with pytest.raises(InvalidArgument) as raised:
        state.query("graph_algorithm", **given)
    assert raised.value.field == f"parameters.{field}"


def test_it_is_bounded_and_can_be_cancelled(state: GraphState) -> None:
    state.nodes(*(f"m{number:03}" for number in range(100)))
    for number in range(99):
        state.edge(f"m{number:03}", f"m{number + 1:03}")
    for limit, algorithm, field in (
        ("GRAPH_NODES_MAX", "degree", "labels"), ("GRAPH_EDGES_MAX", "pagerank", "types"),
        ("BETWEENNESS_MAX", "betweenness", "labels"),
    ):  # fmt: skip
        with (
            patch.object(graph_algorithms, limit, 50),
            pytest.raises(InvalidArgument, match="more than 50") as raised,
        ):
            ask(state, algorithm)
        assert raised.value.field == f"parameters.{field}"
    # Nodes without relationships do not count; each that has some counts for each.
    state.nodes(*(f"alone{number}" for number in range(20)))
    for limit, fits in ((100 * (100 + 99), True), (100 * (100 + 99) - 1, False)):
        with patch.object(graph_algorithms, "BETWEENNESS_MAX", limit):
            if fits:
                assert ask(state, "betweenness")["nodes"] == 120
            else:
                with pytest.raises(InvalidArgument, match="100 nodes that have relationships"):
                    ask(state, "betweenness")
    state.nodes("z1", "z2", labels=["Z"])
    with patch.object(graph_algorithms, "GRAPH_EDGES_MAX", 50):
        # The others are not looked at.
        assert ask(state, "degree", labels=["Z"])["relationships"] == 0
    with patch.object(graph_algorithms, "GRAPH_NODES_MAX", 1):
        for labels in (["Z"], ["Z", "Z"]):
            with pytest.raises(InvalidArgument, match="more than 1 nodes"):
                ask(state, "degree", labels=labels)
    with state.reader() as reader:
        reader.stop = lambda: True
        with pytest.raises(QueryCancelled):
            reader.collections.query("n", "c", "graph_algorithm", {"algorithm": "pagerank"})
