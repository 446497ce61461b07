"""The steps of a MATCH: each binds places of a row, for every way that there is.

A step is called with a row and yields once for each way, having set its places; the next steps
run in between. So nothing is held but one row, and what is found is filtered at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from engines.cypher_errors import CypherError
from engines.cypher_expressions import WORK_PARTS, Evaluate, Row
from engines.cypher_graph import Graph
from engines.cypher_values import EdgeRef, NodeRef, Path, kind_of
from engines.graph_items import read_degrees

_LISTED_IDS: Final = 4  # looked at for a unit of work
Stream = Callable[[Row], Iterator[None]]
Conditions = list[Callable[[Row], bool]]


class Step(ABC):
    """`conditions`: tested after each binding, before the steps that follow."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.conditions: Conditions = []
        self.parts = 0  # of the conditions

    @abstractmethod
    def ways(self, row: Row) -> Iterator[None]:
        """Bind its places in the row, once for each way that there is."""

    @abstractmethod
    def explained(self) -> dict[str, Any]:
        """What it does, for the plan."""

    def stream(self, following: Stream | None) -> Stream:
        ways, conditions = self.ways, tuple(self.conditions)
        units, work = self.parts // WORK_PARTS, self.graph.budget.work

        def run(row: Row) -> Iterator[None]:
            for _ in ways(row):
                if units:
                    work(units)
                for condition in conditions:
                    if not condition(row):
                        break
                else:
                    if following is None:
                        yield
                    else:
                        yield from following(row)

        return run


def chained(steps: list[Step]) -> Stream:
    stream: Stream | None = None
    for step in reversed(steps):
        stream = step.stream(stream)
    assert stream is not None
    return stream


class Given(Step):
    """Nodes that are bound already: they must not be null."""

    def __init__(self, graph: Graph, slots: list[int]) -> None:
        super().__init__(graph)
        self.slots = slots

    def ways(self, row: Row) -> Iterator[None]:
        if all(node_at(row, slot) is not None for slot in self.slots):
            yield

    def explained(self) -> dict[str, Any]:
        return {"operator": "Bound"}


class NodeById(Step):
    """`many`: of a list of ids; each once."""

    def __init__(self, graph: Graph, name: str, slot: int, wanted: Evaluate, many: bool) -> None:
        super().__init__(graph)
        self.name, self.slot, self.wanted, self.many = name, slot, wanted, many
        self._list: Any = None
        self._ids: list[str] = []  # in it

    def ways(self, row: Row) -> Iterator[None]:
        found = self.wanted(row)
        if self.many and found is not None and type(found) is not list:
            raise CypherError(f"IN {kind_of(found)}, not a list")
        for identity in self._ids_in((found or []) if self.many else [found]):
            self.graph.budget.node()
            if identity and self.graph.is_node(identity):
                row[self.slot] = NodeRef(identity)
                yield

    def _ids_in(self, found: list[Any]) -> list[str]:
        """Looked through once while it stays the same list."""
        if found is not self._list:
            self.graph.budget.work(len(found) // _LISTED_IDS)
            self._ids = [*dict.fromkeys(each for each in found if type(each) is str)]
            self._list = found
        return self._ids

    def explained(self) -> dict[str, Any]:
        return {"operator": "NodeById", "variable": self.name, "estimated_rows": 1}


class NodeScan(Step):
    """All nodes, or those of a label."""

    def __init__(self, graph: Graph, name: str, slot: int, label: str | None) -> None:
        super().__init__(graph)
        self.name, self.slot, self.label = name, slot, label

    def ways(self, row: Row) -> Iterator[None]:
        graph, slot = self.graph, self.slot
        for identity in graph.nodes() if self.label is None else graph.labelled(self.label):
            row[slot] = NodeRef(identity)
            yield

    def explained(self) -> dict[str, Any]:
        found = {"variable": self.name, "estimated_rows": self.graph.count(self.label)}
        if self.label is None:
            return {"operator": "AllNodes", **found}
        return {"operator": "NodesOfLabel", "label": self.label, **found}


class Hop(NamedTuple):
    """An edge to follow, as seen from the node that is bound.

    `arrives`: is the node at the other end bound, too? `unlike`: places of edges of the same
    MATCH, none of which it may be; `unlike_lists`: places of lists of them.
    """

    names: tuple[str, str, str]  # of the origin, the edge, the target
    origin: int
    edge: int
    target: int
    direction: str
    types: tuple[str, ...]
    arrives: bool
    unlike: tuple[int, ...]
    unlike_lists: tuple[int, ...]

    def explained(self, operator: str) -> dict[str, Any]:
        origin, edge, target = self.names
        found: dict[str, Any] = {
            "operator": operator, "from": origin, "variable": edge, "to": target,
            "direction": self.direction, "to_bound": self.arrives,
        }  # fmt: skip
        return {**found, "types": [*self.types]} if self.types else found

    def used(self, row: Row) -> set[str]:
        """Ids of the edges that it may not be."""
        found = {row[place].id for place in self.unlike}
        for place in self.unlike_lists:
            found.update(edge.id for edge in row[place])
        return found


class EdgeById(Step):
    """An edge by its id, and with it the nodes at both ends."""

    def __init__(
        self, graph: Graph, hop: Hop, wanted: Evaluate, begins: bool, arrives: bool
    ) -> None:
        """`begins`, `arrives`: is the node at that end bound already?"""
        super().__init__(graph)
        self.hop, self.wanted, self.begins, self.arrives = hop, wanted, begins, arrives

    def ways(self, row: Row) -> Iterator[None]:
        hop, identity = self.hop, self.wanted(row)
        self.graph.budget.edge()
        if type(identity) is not str or not self.graph.is_edge(identity):
            return
        found = self.graph.edge(identity)
        edge = EdgeRef(identity, found.source, found.target, found.type)
        if (hop.types and edge.type not in hop.types) or identity in hop.used(row):
            return
        ends = (NodeRef(edge.source), NodeRef(edge.target))
        orders = [ends] if hop.direction == "out" else [ends[::-1]]
        if hop.direction == "both" and edge.source != edge.target:
            orders = [ends, ends[::-1]]
        here = node_at(row, hop.origin) if self.begins else None
        there = node_at(row, hop.target) if self.arrives else None
        for origin, target in orders:
            if (self.begins and origin != here) or (self.arrives and target != there):
                continue
            if hop.origin == hop.target and origin != target:
                continue
            row[hop.edge], row[hop.origin], row[hop.target] = edge, origin, target
            yield

    def explained(self) -> dict[str, Any]:
        return {**self.hop.explained("RelationshipById"), "estimated_rows": 1}


class Expand(Step):
    """Along one edge, to any node or to one that is bound."""

    def __init__(self, graph: Graph, hop: Hop) -> None:
        super().__init__(graph)
        self.hop = hop

    def ways(self, row: Row) -> Iterator[None]:
        hop = self.hop
        here = node_at(row, hop.origin)
        if here is None:
            return
        if hop.arrives:
            there = node_at(row, hop.target)
            if there is not None:
                yield from self._between(row, here.id, there.id)
            return
        edge_slot, target, unlike = hop.edge, hop.target, hop.unlike
        banned = hop.used(row) if hop.unlike_lists else ()
        for edge, other in self.graph.edges_of(here.id, hop.direction, hop.types):
            for place in unlike:
                if row[place].id == edge.id:
                    break
            else:
                if edge.id in banned:
                    continue
                row[edge_slot] = edge
                row[target] = NodeRef(other)
                yield

    def _between(self, row: Row, here: str, there: str) -> Iterator[None]:
        """From the end that has fewer edges."""
        hop, direction = self.hop, self.hop.direction
        if sum(read_degrees(self.graph.items, there)) < sum(read_degrees(self.graph.items, here)):
            here, there = there, here
            direction = REVERSED[direction]
        used = hop.used(row)
        for edge, other in self.graph.edges_of(here, direction, hop.types):
            if other == there and edge.id not in used:
                row[hop.edge] = edge
                yield

    def explained(self) -> dict[str, Any]:
        return self.hop.explained("Expand")


class ExpandMany(Step):
    """Along `least` to `most` edges, none of them twice. The edge's place gets their list."""

    def __init__(
        self, graph: Graph, hop: Hop, least: int, most: int, backwards: bool,
        wanted: Callable[[Row], Mapping[str, Any]],
        fits: Callable[[EdgeRef, Mapping[str, Any]], bool],
    ) -> None:  # fmt: skip
        """`backwards`: the origin is the pattern's right end. `fits`: has an edge the wanted
        properties?"""
        super().__init__(graph)
        self.hop, self.least, self.most, self.backwards = hop, least, most, backwards
        self.wanted, self.fits = wanted, fits

    def ways(self, row: Row) -> Iterator[None]:
        hop = self.hop
        here = node_at(row, hop.origin)
        there = node_at(row, hop.target) if hop.arrives else None
        if here is None or (hop.arrives and there is None):
            return
        used, wanted = hop.used(row), self.wanted(row)
        followed: list[EdgeRef] = []
        if self.least == 0 and self._arrived(row, followed, here.id, there):
            yield
        # One iterator for each edge of the way; the last one is moved on first.
        walks = [self.graph.edges_of(here.id, hop.direction, hop.types)] if self.most else []
        while walks:
            step = next(walks[-1], None)
            if step is None:
                walks.pop()
                if followed:
                    used.discard(followed.pop().id)
                continue
            edge, other = step
            if edge.id in used or not self.fits(edge, wanted):
                continue
            followed.append(edge)
            used.add(edge.id)
            if len(followed) >= self.least and self._arrived(row, followed, other, there):
                yield
            if len(followed) < self.most:
                walks.append(self.graph.edges_of(other, hop.direction, hop.types))
            else:
                used.discard(followed.pop().id)

    def _arrived(self, row: Row, edges: list[EdgeRef], node: str, there: NodeRef | None) -> bool:
        if there is not None and there.id != node:
            return False
        row[self.hop.edge] = edges[::-1] if self.backwards else edges[:]
        if there is None:
            row[self.hop.target] = NodeRef(node)
        return True

    def explained(self) -> dict[str, Any]:
        return {**self.hop.explained("ExpandMany"), "hops": [self.least, self.most]}


class NamePath(Step):
    """The path of places: nodes and edges in turn, from the first node."""

    def __init__(self, graph: Graph, name: str, slot: int, first: int, edges: list[int]) -> None:
        super().__init__(graph)
        self.name, self.slot, self.first, self.edges = name, slot, first, edges

    def ways(self, row: Row) -> Iterator[None]:
        nodes: list[NodeRef] = [row[self.first]]
        followed: list[EdgeRef] = []
        for place in self.edges:
            found = row[place]
            for edge in found if type(found) is list else [found]:
                here = nodes[-1].id
                nodes.append(NodeRef(edge.target if edge.source == here else edge.source))
                followed.append(edge)
        row[self.slot] = Path(tuple(nodes), tuple(followed))
        yield

    def explained(self) -> dict[str, Any]:
        return {"operator": "NamePath", "variable": self.name}


REVERSED = {"out": "in", "in": "out", "both": "both"}


def node_at(row: Row, slot: int) -> NodeRef | None:
    found = row[slot]
    if found is not None and type(found) is not NodeRef:
        raise CypherError(f"a pattern's node is bound to {kind_of(found)}")
    return found
