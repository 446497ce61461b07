"""Cypher on a random graph beside rustworkx on the same graph, in the same run.

Patterns of two hops from a node of known id, and from all nodes; a filter on a property of the
far end; PageRank. In process the engine reads a store without a daemon or a log; over HTTP one
daemon answers, its cache of results kept out by another parameter each time. rustworkx holds the
graph in memory, its nodes' properties in Python. Prints medians in milliseconds: CPU time of
this process, over HTTP elapsed time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

import rustworkx

from tests.benchmark_http import asker, post
from tests.cluster.harness import running_cluster
from tests.unit import engine_state
from tests.unit.test_graph import GraphState

WRITE_ROWS = 500
POINT = "MATCH (a {id: $id})-[:T]->(b)-[:T]->(c) RETURN c.id"
FILTERED = "MATCH (a {id: $id})-[:T]->(b)-[:T]->(c) WHERE c.x < $x RETURN c.id, c.x"
WHOLE = "MATCH (a)-[:T]->(b)-[:T]->(c) RETURN count(*)"
CASES = ("two hops from a node", "the same, a filter at the end", "two hops from all", "PageRank")
FILL = "a node or edge made, 500 in a statement"

Ask = Callable[[str, dict[str, Any]], Any]
Figures = dict[str, float]  # milliseconds


class Drawn(NamedTuple):
    nodes: list[dict[str, Any]]
    edges: list[list[str]]


def drawn(nodes: int, edges: int) -> Drawn:
    chance = Random(1)
    ids = [f"n{number}" for number in range(nodes)]
    made = [{"id": each, "x": chance.randrange(100), "name": f"node {each}"} for each in ids]
    # No loops: Cypher follows an edge once, where rustworkx would go round again.
    return Drawn(made, [chance.sample(ids, 2) for _ in range(edges)])


def fill(ask: Ask, graph: Drawn) -> None:
    for first in range(0, len(graph.nodes), WRITE_ROWS):
        rows = graph.nodes[first : first + WRITE_ROWS]
        query = "UNWIND $rows AS r CREATE (n:P {id: r.id}) SET n += r"
        ask("graph_execute", {"query": query, "parameters": {"rows": rows}})
    for first in range(0, len(graph.edges), WRITE_ROWS):
        pairs = graph.edges[first : first + WRITE_ROWS]
        query = "UNWIND $rows AS r MATCH (a {id: r[0]}), (b {id: r[1]}) CREATE (a)-[:T]->(b)"
        answer = ask("graph_execute", {"query": query, "parameters": {"rows": pairs}})
        assert answer["summary"]["relationships_created"] == len(pairs)


def timed(clock: Callable[[], float], works: list[Callable[[], Any]]) -> tuple[float, list[Any]]:
    """The median in milliseconds, and what each of them found."""
    spent, found = [], []
    for work in works:
        begin = clock()
        found.append(work())
        spent.append((clock() - begin) * 1_000)
    return median(spent), found


def measure(ask: Ask, clock: Callable[[], float], starts: list[str], runs: int) -> Figures:
    """`ask`: an operation and its parameters; returns the engine's answer."""

    def query(text: str, **parameters: Any) -> Callable[[], Any]:
        return lambda: ask("graph_query", {"query": text, "parameters": parameters})["rows"]

    def rank(damping: float) -> Callable[[], Any]:
        wanted = {"algorithm": "pagerank", "limit": 10, "damping": damping}
        return lambda: ask("graph_algorithm", wanted)

    works = {
        CASES[0]: [query(POINT, id=start) for start in starts],
        CASES[1]: [query(FILTERED, id=start, x=10) for start in starts],
        CASES[2]: [query(WHOLE, run=run) for run in range(runs)],
        CASES[3]: [rank(0.85 - run / 1e6) for run in range(runs)],
    }
    query(POINT, id="none")()  # The parser's tables are made once.
    return {case: timed(clock, each)[0] for case, each in works.items()}


def in_process(folder: Path, graph: Drawn, starts: list[str], runs: int) -> tuple[Figures, int]:
    """And how many ways of two hops there are."""
    engine_state.MAP_BYTES = 4 << 30
    state = GraphState(folder / "state")
    state.create()

    def ask(operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "graph_execute":
            return state.write(operation, **parameters)
        return state.query(operation, **parameters)

    begin = time.process_time()
    fill(ask, graph)
    filled = (time.process_time() - begin) * 1_000 / (len(graph.nodes) + len(graph.edges))
    found = {FILL: filled} | measure(ask, time.process_time, starts, runs)
    ways = state.query("graph_query", query=WHOLE)["rows"][0][0]
    state.machine.close()
    return found, ways


def in_rustworkx(graph: Drawn, starts: list[str], runs: int) -> tuple[Figures, int]:
    made = rustworkx.PyDiGraph()
    places = {node["id"]: made.add_node(node) for node in graph.nodes}
    made.add_edges_from_no_data([(places[a], places[b]) for a, b in graph.edges])

    def hops(start: int) -> list[Any]:
        # Parallel edges are ways of their own: edges, not neighbours.
        return [end for _, there, _ in made.out_edges(start) for _, end, _ in made.out_edges(there)]

    def ids(start: str) -> list[Any]:
        return [[made[end]["id"]] for end in hops(places[start])]

    def filtered(start: str) -> list[Any]:
        ends = (made[end] for end in hops(places[start]))
        return [[end["id"], end["x"]] for end in ends if end["x"] < 10]

    def whole() -> int:
        return sum(len(hops(start)) for start in made.node_indices())

    clock = time.process_time
    every, ways = timed(clock, [whole] * runs)
    figures = {
        CASES[0]: timed(clock, [lambda start=start: ids(start) for start in starts])[0],
        CASES[1]: timed(clock, [lambda start=start: filtered(start) for start in starts])[0],
        CASES[2]: every,
        CASES[3]: timed(
            clock, [lambda: rustworkx.pagerank(made, tol=1e-9 / len(graph.nodes))] * runs
        )[0],
    }
    return figures, ways[0]


async def over_http(folder: Path, graph: Drawn, starts: list[str], runs: int) -> Figures:
    async with running_cluster(folder, 1) as cluster:
        leader = await cluster.wait_leader()
        address = cluster.nodes[leader].http
        return await asyncio.to_thread(_over_http, address, graph, starts, runs)


def _over_http(address: str, graph: Drawn, starts: list[str], runs: int) -> Figures:
    ask = asker(address, "g")
    post(f"{address}/v1/collections", {"name": "g", "engine": "graph"})
    fill(ask, graph)
    return measure(ask, time.perf_counter, starts, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--edges", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=300, help="nodes that patterns begin at")
    parser.add_argument("--runs", type=int, default=3, help="of what looks at everything")
    parser.add_argument("--no-http", action="store_true", help="without a daemon")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    graph = drawn(options.nodes, options.edges)
    starts = [node["id"] for node in Random(2).sample(graph.nodes, options.starts)]
    columns: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="hivemem-graphs-") as name:
        folder = Path(name)
        columns["in process"], ways = in_process(folder, graph, starts, options.runs)
        if not options.no_http:
            (folder / "http").mkdir()
            columns["HTTP, 1 node"] = asyncio.run(
                over_http(folder / "http", graph, starts, options.runs)
            )
        columns["rustworkx"], wanted = in_rustworkx(graph, starts, options.runs)
        assert ways == wanted, (ways, wanted)
    if options.output == "json":
        about = {"python": platform.python_version(), "rustworkx": rustworkx.__version__}
        shape = {"nodes": options.nodes, "edges": options.edges, "ways_of_two_hops": ways}
        print(json.dumps({**about, **shape, "median_ms": columns}))
        return
    print(f"{options.nodes} nodes, {options.edges} edges, {ways} ways of two hops; median ms")
    print(f"| case | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for case in (FILL, *CASES):
        shown = [f"{each[case]:.3g}" if case in each else "–" for each in columns.values()]
        print(f"| {case} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
