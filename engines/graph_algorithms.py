"""Algorithms over a whole graph, or a part of it: the only importer of rustworkx.

The part is read into memory, which can be cancelled; the algorithm itself cannot be, and holds
Python's lock, so that what it may be asked for is bounded to about a tenth of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from math import isfinite
from typing import Any, Final, NamedTuple

import rustworkx

from engines.codec import Value
from engines.errors import CorruptRecord, InvalidArgument, QueryCancelled
from engines.graph_items import (
    EDGES,
    LABELS,
    LABELS_MAX,
    NAME_BYTES_MAX,
    NODES,
    OUT,
    count_key,
    end_key,
    find_edge,
    label_key,
    read_count,
    read_end,
)
from engines.parameters import PREFIX, array, choice, exactly, integer
from engines.space import Item, View
from engines.timeseries_parameters import one_text

GRAPH_NODES_MAX: Final = 100_000  # of the part that is looked at
GRAPH_EDGES_MAX: Final = 200_000
BETWEENNESS_MAX: Final = 10_000_000  # nodes times (nodes plus edges): 20 ns for each, at most
TYPES_MAX: Final = 32
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000  # nodes or components of an answer
MEMBERS_DEFAULT: Final = 10
ANSWER_IDS_MAX: Final = 10_000  # of all components of an answer
DAMPING_DEFAULT: Final = 0.85
ITERATIONS_MAX: Final = 200  # of PageRank
_DIGITS: Final = 12  # of a score that are told, so that equal ones are equal
_PRECISION: Final = 1e-9  # of all scores of PageRank together
_NONE: Final[frozenset[str]] = frozenset()


class Part(NamedTuple):
    """`edges`: places in `ids`, with their weights; parallel ones are apart."""

    ids: list[str]  # sorted
    edges: list[tuple[int, int, float]]


def graph_algorithm(view: View, given: Mapping[str, Any]) -> Value:
    """Scores of nodes, the highest first, or components, the largest first."""
    common = frozenset({"labels", "types", "limit"})
    more = {
        "pagerank": frozenset({"damping", "weight"}),
        "degree": frozenset({"direction"}),
        "weakly_connected_components": frozenset({"members"}),
        "strongly_connected_components": frozenset({"members"}),
    }
    exactly(given, PREFIX, frozenset({"algorithm"}), common.union(*more.values()))
    algorithm = choice(given["algorithm"], f"{PREFIX}.algorithm", [*ALGORITHMS])
    exactly(given, PREFIX, frozenset({"algorithm"}), common | more.get(algorithm, _NONE))
    return ALGORITHMS[algorithm](view, given)


def _pagerank(view: View, given: Mapping[str, Any]) -> Value:
    damping: Any = given.get("damping", DAMPING_DEFAULT)
    if type(damping) not in (int, float) or not 0 <= damping < 1:
        raise InvalidArgument(f"{PREFIX}.damping", "must be a number from 0 to less than 1")
    limit = _limit(given)
    part = _read(view, given, given.get("weight"))
    # What weighs nothing is no way; rustworkx would divide by such weights.
    edges = [edge for edge in part.edges if edge[2] > 0]
    try:
        found = rustworkx.pagerank(
            _graph(part.ids, edges), alpha=damping, weight_fn=float, max_iter=ITERATIONS_MAX,
            tol=_PRECISION / max(1, len(part.ids)),
        )  # fmt: skip
    except rustworkx.FailedToConverge:
        raise InvalidArgument(
            f"{PREFIX}.damping", f"no result within {ITERATIONS_MAX} iterations: make it smaller"
        ) from None
    return _ranked(part, [found[place] for place in range(len(part.ids))], limit)


def _degree(view: View, given: Mapping[str, Any]) -> Value:
    field = f"{PREFIX}.direction"
    direction = choice(given.get("direction", "both"), field, ("out", "in", "both"))
    limit = _limit(given)
    part = _read(view, given)
    counts: Counter[int] = Counter()
    for source, target, _ in part.edges:
        if direction != "in":
            counts[source] += 1
        if direction != "out":
            counts[target] += 1
    return _ranked(part, [counts[place] for place in range(len(part.ids))], limit)


def _betweenness(view: View, given: Mapping[str, Any]) -> Value:
    """Of shortest paths along directions; parallel edges are one, and loops none.

    Every node is a start, and each start clears what it keeps of every node: nodes without
    edges, whose score is 0, are left out.
    """
    limit = _limit(given)
    part = _read(view, given)
    edges = sorted({(source, target, 1.0) for source, target, _ in part.edges if source != target})
    linked = sorted({end for edge in edges for end in edge[:2]})
    if len(linked) * (len(linked) + len(edges)) > BETWEENNESS_MAX:
        raise InvalidArgument(
            f"{PREFIX}.labels",
            f"{len(linked)} nodes that have relationships, times themselves and {len(edges)} "
            f"relationships, is more than {BETWEENNESS_MAX}: choose fewer by labels or types",
        )
    places = {place: number for number, place in enumerate(linked)}
    within = [(places[source], places[target], weight) for source, target, weight in edges]
    # One thread: the sums then are the same each time.
    found = rustworkx.digraph_betweenness_centrality(
        _graph(linked, within), normalized=False, parallel_threshold=GRAPH_NODES_MAX + 1
    )
    scores = [0.0] * len(part.ids)
    for number, place in enumerate(linked):
        scores[place] = found[number]
    return _ranked(part, scores, limit)


def _weak(view: View, given: Mapping[str, Any]) -> Value:
    return _components(view, given, rustworkx.weakly_connected_components)


def _strong(view: View, given: Mapping[str, Any]) -> Value:
    return _components(view, given, rustworkx.strongly_connected_components)


def _components(view: View, given: Mapping[str, Any], run: Callable[[Any], Sequence[Any]]) -> Value:
    limit = _limit(given)
    field = f"{PREFIX}.members"
    members = integer(given.get("members", MEMBERS_DEFAULT), field, 0, LIMIT_MAX)
    if members * limit > ANSWER_IDS_MAX:
        raise InvalidArgument(field, f"times limit is more than {ANSWER_IDS_MAX} ids")
    part = _read(view, given)
    found = [sorted(each) for each in run(_graph(part.ids, part.edges))]
    found.sort(key=lambda places: (-len(places), places[0]))
    items: list[Value] = [
        {"size": len(places), "nodes": [part.ids[place] for place in places[:members]]}
        for places in found[:limit]
    ]
    return {**_counted(part), "components": len(found), "items": items}


def _ranked(part: Part, scores: list[float], limit: int) -> Value:
    """The highest first; equals by id."""
    told = [round(score, _DIGITS) for score in scores]
    places = sorted(range(len(told)), key=lambda place: (-told[place], place))[:limit]
    items: list[Value] = [{"id": part.ids[place], "score": told[place]} for place in places]
    return {**_counted(part), "items": items}


def _counted(part: Part) -> dict[str, Value]:
    return {"nodes": len(part.ids), "relationships": len(part.edges)}


def _graph(nodes: Sized, edges: list[tuple[int, int, float]]) -> Any:
    graph: Any = rustworkx.PyDiGraph(multigraph=True)
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from(edges)
    return graph


def _read(view: View, given: Mapping[str, Any], weight: object = None) -> Part:
    """Nodes that have all of `labels`, and edges of `types` between them. Raises
    InvalidArgument, CorruptRecord, QueryCancelled."""
    labels, types = _names(given, "labels", LABELS_MAX), _names(given, "types", TYPES_MAX)
    if weight is not None:
        one_text(weight, f"{PREFIX}.weight", 256)
    ids = _nodes(view, labels)
    places = {identity.encode(): place for place, identity in enumerate(ids)}
    if not labels and not types and read_count(view, count_key(EDGES)) > GRAPH_EDGES_MAX:
        raise _too_many_edges()
    edges: list[tuple[int, int, float]] = []
    for key, value in _edge_ends(view, ids, types) if labels or types else view.prefix(OUT):
        source, target = places.get(key[1 : key.index(b"\x00")]), places.get(value)
        if source is None or target is None:
            continue
        if len(edges) == GRAPH_EDGES_MAX:
            raise _too_many_edges()
        edges.append((source, target, 1.0 if weight is None else _weight(view, key, str(weight))))
    if view.stopped:
        raise QueryCancelled("the deadline passed")
    return Part(ids, edges)


def _edge_ends(view: View, ids: list[str], types: list[str]) -> Iterator[Item]:
    """Of edges that go out from some nodes: without a look at those of all others."""
    for identity in ids:
        view.step()
        for kind in types:
            yield from view.prefix(end_key(OUT, identity, kind))
        if not types:
            yield from view.prefix(OUT + identity.encode() + b"\x00")


def _nodes(view: View, labels: list[str]) -> list[str]:
    prefix = NODES if not labels else b"%b%b\x00" % (LABELS, labels[0].encode())
    key = count_key(NODES) if not labels else count_key(LABELS, labels[0])
    if len(labels) < 2 and read_count(view, key) > GRAPH_NODES_MAX:
        raise _too_many_nodes()
    ids: list[str] = []
    for key, _ in view.prefix(prefix):
        identity = key[len(prefix) :].decode()
        if any(view.get(label_key(label, identity)) is None for label in labels[1:]):
            continue
        if len(ids) == GRAPH_NODES_MAX:
            raise _too_many_nodes()
        ids.append(identity)
    return ids  # in order of their bytes, which is that of their characters


def _too_many_nodes() -> InvalidArgument:
    message = f"there are more than {GRAPH_NODES_MAX} nodes: choose fewer"
    return InvalidArgument(f"{PREFIX}.labels", message)


def _too_many_edges() -> InvalidArgument:
    message = f"there are more than {GRAPH_EDGES_MAX} relationships: choose fewer"
    return InvalidArgument(f"{PREFIX}.types", message)


def _weight(view: View, key: bytes, name: str) -> float:
    """`key`: of an end of the edge."""
    edge = find_edge(view, read_end(key, b"").edge)
    if edge is None:
        raise CorruptRecord("items", key, "the end of an edge that is not there")
    value: Any = edge.properties.get(name)
    if type(value) not in (int, float) or not isfinite(value) or value < 0:
        raise InvalidArgument(
            f"{PREFIX}.weight", f"edge {edge.id} has no number of at least 0 as {name}"
        )
    return float(value)


def _names(given: Mapping[str, Any], name: str, count_max: int) -> list[str]:
    if given.get(name) is None:
        return []
    field = f"{PREFIX}.{name}"
    return sorted(
        {
            one_text(each, f"{field}[{place}]", NAME_BYTES_MAX)
            for place, each in enumerate(array(given[name], field, count_max))
        }
    )


def _limit(given: Mapping[str, Any]) -> int:
    return integer(given.get("limit", LIMIT_DEFAULT), f"{PREFIX}.limit", 1, LIMIT_MAX)


ALGORITHMS: Final[dict[str, Callable[[View, Mapping[str, Any]], Value]]] = {
    "pagerank": _pagerank,
    "degree": _degree,
    "betweenness": _betweenness,
    "weakly_connected_components": _weak,
    "strongly_connected_components": _strong,
}
