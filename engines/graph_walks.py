"""Reads of a graph: what there is, neighbours, and walks that are bounded in what they visit."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from math import inf, isfinite
from typing import Any, Final, NamedTuple

from engines.codec import Value, check_value
from engines.cursors import decode_cursor, encode_cursor, scope_of
from engines.errors import CorruptRecord, InvalidArgument
from engines.graph_items import (
    EDGES,
    ID_BYTES_MAX,
    LABELS,
    LABELS_MAX,
    NAME_BYTES_MAX,
    NODES,
    OUT,
    PROPERTY_BYTES_MAX,
    Edge,
    End,
    Node,
    count_key,
    ends,
    find_edge,
    find_node,
    node_key,
    read_count,
    read_degrees,
)
from engines.parameters import PREFIX, array, choice, exactly, integer
from engines.read_requests import PAGE_BYTES_MAX
from engines.space import View
from engines.timeseries_parameters import one_text

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000  # items of one page
DEPTH_DEFAULT: Final = 3
DEPTH_MAX: Final = 20
VISITED_NODES_MAX: Final = 10_000  # of one walk
VISITED_EDGES_MAX: Final = 100_000
TYPES_MAX: Final = 32
DIRECTIONS: Final = ("out", "in", "both")
_PAGED: Final = frozenset({"limit", "cursor"})
_NONE: Final[frozenset[str]] = frozenset()


class _Step(NamedTuple):
    """How a walk came to a node."""

    depth: int
    previous: str | None
    edge: str | None


def graph_get(view: View, given: Mapping[str, Any]) -> Value:
    """A node, or with `edge` an edge; null if there is none."""
    exactly(given, PREFIX, _NONE, frozenset({"id", "edge"}))
    if ("id" in given) == ("edge" in given):
        raise InvalidArgument(f"{PREFIX}.id", "give either id, of a node, or edge")
    if "edge" in given:
        edge = find_edge(view, _id(given, "edge"))
        return {"edge": None if edge is None else edge.shown()}
    node = find_node(view, _id(given, "id"))
    if node is None:
        return {"node": None}
    out, into = read_degrees(view, node.id)
    degrees: dict[str, Value] = {"out_degree": out, "in_degree": into}
    return {"node": {**node.shown(), **degrees}}


def graph_count(view: View, given: Mapping[str, Any]) -> Value:
    """Nodes and edges, or only those of a label or of a type."""
    exactly(given, PREFIX, _NONE, frozenset({"label", "type"}))
    answer: dict[str, Value] = {}
    if "label" in given or "type" not in given:
        label = given.get("label")
        key = count_key(NODES) if label is None else count_key(LABELS, _name(label, "label"))
        answer["nodes"] = read_count(view, key)
    if "type" in given or "label" not in given:
        kind = given.get("type")
        key = count_key(EDGES) if kind is None else count_key(OUT, _name(kind, "type"))
        answer["edges"] = read_count(view, key)
    return answer


def graph_neighbors(view: View, given: Mapping[str, Any]) -> Value:
    """One item for each edge of a node: the edge, and the node at its other end."""
    exactly(given, PREFIX, frozenset({"id"}), _PAGED | {"direction", "types"})
    node = _id(given, "id")
    _existing(view, node, "id")
    limit = _limit(given)
    position = decode_cursor(given.get("cursor"), scope_of("graph_neighbors", given), list)
    after = position[0] if position and type(position[0]) is bytes else b""
    items: list[Value] = []
    room = PAGE_BYTES_MAX
    last = after
    for end in ends(view, node, _direction(given, "both"), _types(given), after):
        other, edge = _existing(view, end.other), _edge(view, end)
        room -= len(other.pack()) + len(edge.pack()) + 1_000
        if len(items) == limit or (room < 0 and items):
            cursor = encode_cursor(scope_of("graph_neighbors", given), [last])
            return {"items": items, "next_cursor": cursor}
        direction = "out" if end.outgoing else "in"
        items.append({"edge": edge.shown(), "direction": direction, "node": other.shown()})
        last = end.key
    return {"items": items, "next_cursor": None}


def graph_traverse(view: View, given: Mapping[str, Any]) -> Value:
    """Nodes that can be reached, nearest first, each once, with the edge it was reached by."""
    known = _PAGED | {"start", "startNode", "direction", "max_depth", "types", "filter"}
    exactly(given, PREFIX, _NONE, known)
    if ("start" in given) == ("startNode" in given):
        raise InvalidArgument(f"{PREFIX}.start", "give start (or startNode)")
    field = "start" if "start" in given else "startNode"
    start = _id(given, field)
    _existing(view, start, field)
    depth_max = _depth(given, DEPTH_DEFAULT)
    labels, properties = _filter(given)
    limit = _limit(given)
    position = decode_cursor(given.get("cursor"), scope_of("graph_traverse", given), list)
    skip = position[0] if position and type(position[0]) is int else 0
    found: list[Value] = []
    room = PAGE_BYTES_MAX
    number = 0
    walk = _walk(view, start, _direction(given, "out"), _types(given), depth_max)
    for identity, step in walk:
        node = _existing(view, identity)
        if not labels <= {*node.labels} or not _has(node, properties):
            continue
        number += 1
        if number <= skip:
            continue
        room -= len(node.pack()) + 1_000
        if len(found) == limit or (room < 0 and found):
            cursor = encode_cursor(scope_of("graph_traverse", given), [number - 1])
            return {"nodes": found, "next_cursor": cursor}
        reached: dict[str, Value] = {
            "depth": step.depth, "previous": step.previous, "edge": step.edge,
        }  # fmt: skip
        found.append({**node.shown(), **reached})
    return {"nodes": found, "next_cursor": None}


def graph_shortest_path(view: View, given: Mapping[str, Any]) -> Value:
    """The path of least cost: of fewest edges, or by a property of edges (`weight`)."""
    optional = frozenset({"direction", "types", "weight", "max_cost"})
    exactly(given, PREFIX, frozenset({"from", "to"}), optional)
    start, goal = _id(given, "from"), _id(given, "to")
    _existing(view, start, "from")
    _existing(view, goal, "to")
    weight = given.get("weight")
    if weight is not None:
        one_text(weight, f"{PREFIX}.weight", PROPERTY_BYTES_MAX)
    cost_max: Any = given.get("max_cost")
    if cost_max is not None and not (_number(cost_max) and cost_max >= 0):
        raise InvalidArgument(f"{PREFIX}.max_cost", "must be a number of at least 0")
    most = inf if cost_max is None else cost_max
    direction, types = _direction(given, "out"), _types(given)
    budget = _Budget(view, "max_cost")
    best: dict[str, tuple[float, str | None, str | None]] = {start: (0, None, None)}
    waiting: list[tuple[float, str]] = [(0, start)]
    done: set[str] = set()
    beyond = False  # was there a path whose cost no float holds?
    while waiting:
        cost, node = heapq.heappop(waiting)
        if node in done:
            continue
        done.add(node)
        budget.node()
        if node == goal:
            return {"found": True, "cost": cost, "visited": len(done), **_path(best, goal)}
        for end in ends(view, node, direction, types):
            budget.edge()
            new = cost + (1 if weight is None else _weight(_edge(view, end), weight))
            beyond = beyond or new == inf
            if new <= most and new < inf and (end.other not in best or new < best[end.other][0]):
                best[end.other] = (new, node, end.edge)
                heapq.heappush(waiting, (new, end.other))
    if beyond and most == inf:
        raise InvalidArgument(f"{PREFIX}.weight", "the path's cost is beyond a float's range")
    return {"found": False, "cost": None, "visited": len(done), "nodes": [], "edges": []}


class _Budget:
    """What one walk may still visit. Raises InvalidArgument, naming what would make it smaller."""

    def __init__(self, view: View, field: str) -> None:
        self._view = view
        self._field = field
        self._nodes = VISITED_NODES_MAX
        self._edges = VISITED_EDGES_MAX
        self._work = view.tuning.work
        self._explain = view.tuning.explain

    def node(self) -> None:
        self._view.step()
        self._nodes -= 1
        self._check(self._nodes, f"more than {VISITED_NODES_MAX} nodes to visit")
        self._work.examined = VISITED_NODES_MAX - self._nodes
        self._report()

    def edge(self) -> None:
        self._edges -= 1
        self._check(self._edges, f"more than {VISITED_EDGES_MAX} edges to follow")
        self._report()

    def _report(self) -> None:
        if self._explain:
            self._work.plan = {
                "visited_nodes": VISITED_NODES_MAX - self._nodes,
                "followed_edges": VISITED_EDGES_MAX - self._edges,
            }

    def _check(self, left: int, what: str) -> None:
        if left < 0:
            raise InvalidArgument(f"{PREFIX}.{self._field}", f"{what}; make it smaller")


def _walk(
    view: View, start: str, direction: str, types: list[str], depth_max: int
) -> Iterator[tuple[str, _Step]]:
    """Breadth first, without the start."""
    budget = _Budget(view, "max_depth")
    seen = {start}
    waiting = deque([(start, 0)])
    while waiting:
        node, depth = waiting.popleft()
        if depth == depth_max:
            return
        for end in ends(view, node, direction, types):
            budget.edge()
            if end.other not in seen:
                budget.node()
                seen.add(end.other)
                waiting.append((end.other, depth + 1))
                yield end.other, _Step(depth + 1, node, end.edge)


def _path(best: Mapping[str, tuple[float, str | None, str | None]], goal: str) -> dict[str, Value]:
    nodes: list[str] = [goal]
    edges: list[str] = []
    while True:
        _, previous, edge = best[nodes[-1]]
        if previous is None or edge is None:
            return {"nodes": nodes[::-1], "edges": edges[::-1]}
        nodes.append(previous)
        edges.append(edge)


def _weight(edge: Edge, name: str) -> float:
    value: Any = edge.properties.get(name)
    if not _number(value) or value < 0:
        raise InvalidArgument(
            f"{PREFIX}.weight", f"edge {edge.id} has no number of at least 0 as {name}"
        )
    return float(value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _edge(view: View, end: End) -> Edge:
    edge = find_edge(view, end.edge)
    if edge is None:
        raise CorruptRecord("items", end.key, "the end of an edge that is not there")
    return edge


def _existing(view: View, identity: str, field: str | None = None) -> Node:
    """`field`: where a caller named it; else an edge did."""
    node = find_node(view, identity)
    if node is not None:
        return node
    if field is None:
        raise CorruptRecord("items", node_key(identity), "an edge names a node that is not there")
    raise InvalidArgument(f"{PREFIX}.{field}", f"there is no node {identity}")


def _filter(given: Mapping[str, Any]) -> tuple[set[str], Mapping[str, Any]]:
    """`filter`: labels that a node must have, and properties that it must have equal."""
    field = f"{PREFIX}.filter"
    wanted = exactly(given.get("filter", {}), field, _NONE, frozenset({"labels", "properties"}))
    labels = wanted.get("labels", [])
    if labels != []:
        array(labels, f"{field}.labels", LABELS_MAX)
    for place, label in enumerate(labels):
        one_text(label, f"{field}.labels[{place}]", NAME_BYTES_MAX)
    properties = wanted.get("properties", {})
    if not isinstance(properties, Mapping):
        raise InvalidArgument(f"{field}.properties", "must be an object")
    check_value(properties, f"{field}.properties")
    return {*labels}, properties


def _has(node: Node, properties: Mapping[str, Any]) -> bool:
    return all(
        name in node.properties
        and node.properties[name] == value
        # Python takes true for 1.
        and (type(node.properties[name]) is bool) == (type(value) is bool)
        for name, value in properties.items()
    )


def _id(given: Mapping[str, Any], name: str) -> str:
    return one_text(given[name], f"{PREFIX}.{name}", ID_BYTES_MAX)


def _name(value: object, field: str) -> str:
    return one_text(value, f"{PREFIX}.{field}", NAME_BYTES_MAX)


def _limit(given: Mapping[str, Any]) -> int:
    limit = given.get("limit")
    return PAGE_DEFAULT if limit is None else integer(limit, f"{PREFIX}.limit", 1, PAGE_MAX)


def _depth(given: Mapping[str, Any], default: int) -> int:
    depth = given.get("max_depth")
    return default if depth is None else integer(depth, f"{PREFIX}.max_depth", 1, DEPTH_MAX)


def _direction(given: Mapping[str, Any], default: str) -> str:
    direction = given.get("direction")
    if direction is None:
        return default
    return choice(direction, f"{PREFIX}.direction", DIRECTIONS)


def _types(given: Mapping[str, Any]) -> list[str]:
    types = given.get("types")
    if types is None:
        return []
    field = f"{PREFIX}.types"
    chosen = array(types, field, TYPES_MAX)
    return sorted(
        {one_text(each, f"{field}[{n}]", NAME_BYTES_MAX) for n, each in enumerate(chosen)}
    )
