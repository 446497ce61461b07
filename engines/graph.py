"""A property graph: labelled nodes, and typed edges between them, any number between a pair.

| item | key | value |
|---|---|---|
| node | n, id | labels, properties |
| degrees | d, id | how many edges go out and come in |
| edge | e, id | from, to, type, properties |
| ends of an edge | o or i, node, NUL, type, NUL, edge | the node at the other end |
| label | l, label, NUL, node | empty |
| count | c, n or e; c, l, label; c, o, type | how many there are |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from engines.codec import Value
from engines.derived import DerivedIndex
from engines.engine import Engine, Kind, Parameters, Settings, Stamp
from engines.graph_algorithms import graph_algorithm
from engines.graph_check import problems
from engines.graph_cypher import EXECUTE, QUERY, apply_execute, graph_query, prepare_execute
from engines.graph_lists import graph_list_edges, graph_list_nodes
from engines.graph_walks import (
    graph_count,
    graph_get,
    graph_neighbors,
    graph_shortest_path,
    graph_traverse,
)
from engines.graph_writes import apply_write, prepare_write
from engines.parameters import exactly
from engines.space import Space, View

_WRITES: Final = (
    "graph_create_node", "graph_create_edge", "graph_update_node", "graph_update_edge",
    "graph_delete_node", "graph_delete_edge", EXECUTE,
)  # fmt: skip
_READS: Final[Mapping[str, Callable[[View, Parameters], Value]]] = {
    QUERY: graph_query,
    "graph_algorithm": graph_algorithm,
    "graph_get": graph_get,
    "graph_count": graph_count,
    "graph_list_nodes": graph_list_nodes,
    "graph_list_edges": graph_list_edges,
    "graph_neighbors": graph_neighbors,
    "graph_traverse": graph_traverse,
    "graph_shortest_path": graph_shortest_path,
}


class Graph:
    """The engine `graph`; see `engine.Engine` for what its methods promise."""

    name = "graph"
    aliases: tuple[str, ...] = ("kuzu",)
    capabilities = frozenset({"analytics", "graph_queries", "relationships", "traversal"})
    operations: Mapping[str, Kind] = {
        **dict.fromkeys(_WRITES, Kind.WRITE),
        **dict.fromkeys(_READS, Kind.READ),
    }

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        """There are none."""
        exactly(given, "settings", frozenset())
        return {}

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        if operation == EXECUTE:
            return prepare_execute(parameters)
        return prepare_write(operation, parameters)

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        if operation == EXECUTE:
            return apply_execute(space, body, stamp)
        return apply_write(space, operation, body, stamp)

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """There are no settings."""

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        return _READS[operation](view, parameters)

    def index(self, settings: Settings) -> DerivedIndex | None:
        return None

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        return problems(view)


ENGINE: Final[Engine] = Graph()
