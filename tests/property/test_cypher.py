"""Random queries of Cypher on random graphs, against every way to lay a pattern, one by one."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.cypher_oracle import World, strict
from tests.property.cypher_queries import Query, random_query, random_world
from tests.unit.one_collection import collection
from tests.unit.test_graph import GraphState

QUERIES = 10  # on each graph


def fill(state: GraphState, world: World) -> None:
    for name, (labels, properties) in world.nodes.items():
        state.write("graph_create_node", id=name, labels=labels, properties=properties)
    for name, (edge, properties) in world.edges.items():
        given = {"id": name, "from": edge.source, "to": edge.target, "type": edge.type}
        state.write("graph_create_edge", **given, properties=properties)


def shown(world: World, query: Query, row: dict[str, Any]) -> Any:
    values = []
    for name in query.columns:
        value = strict(world.shown(row[name]))
        if name in query.lists:
            value = value[0], tuple(sorted(value[1]))
        values.append(value)
    return tuple(values)


def as_found(query: Query, row: list[Any]) -> Any:
    values = []
    for name, each in zip(query.columns, row, strict=True):
        value = strict(each)
        if name in query.lists:
            value = value[0], tuple(sorted(value[1]))
        values.append(value)
    return tuple(values)


def check(state: GraphState, world: World, query: Query) -> None:
    meant = query.run(world)
    if meant is None:
        return
    answer = state.query("graph_query", query=query.text)
    assert answer["columns"] == query.columns
    found = [as_found(query, row) for row in answer["rows"]]
    whole = [shown(world, query, row) for row in meant]
    end = len(whole) if query.limit is None else query.skip + query.limit
    wanted = whole[query.skip : end]
    if query.ordered:
        assert found == wanted
    else:
        assert len(found) == len(wanted)
        assert not Counter(found) - Counter(whole)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=True))
def test_queries_answer_as_the_naive_reading(chance: Random) -> None:
    world = random_world(chance)
    with (
        tempfile.TemporaryDirectory(prefix="hivemem-cypher-") as folder,
        collection(GraphState, Path(folder) / "state") as state,
    ):
        fill(state, world)
        for _ in range(QUERIES):
            check(state, world, random_query(chance))
