"""Verification of a graph: every invariant between its items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from engines.graph_items import (
    COUNTS,
    DEGREES,
    EDGES,
    IN,
    LABELS,
    NODES,
    OUT,
    Node,
    count_key,
    end_key,
    label_key,
    read_count,
    read_degrees,
    read_edge,
    read_node,
)
from engines.space import View


def problems(view: View) -> Iterator[str]:
    """In words. Raises CorruptRecord."""
    nodes: dict[str, Node] = {}
    counts: Counter[bytes] = Counter()
    degrees: Counter[tuple[bytes, str]] = Counter()
    expected: dict[bytes, bytes] = {}
    for key, packed in view.prefix(NODES):
        node = read_node(key, packed)
        nodes[node.id] = node
        counts[count_key(NODES)] += 1
        for label in node.labels:
            counts[count_key(LABELS, label)] += 1
            expected[label_key(label, node.id)] = b""
    for key, packed in view.prefix(EDGES):
        edge = read_edge(key, packed)
        counts[count_key(EDGES)] += 1
        counts[count_key(OUT, edge.type)] += 1
        for side, own, other in ((OUT, edge.source, edge.target), (IN, edge.target, edge.source)):
            degrees[side, own] += 1
            expected[end_key(side, own, edge.type, edge.id)] = other.encode()
            if own not in nodes:
                yield f"edge {edge.id} names a node {own} that is not there"
    for node in nodes.values():
        kept_degrees = read_degrees(view, node.id)
        if kept_degrees != (degrees[OUT, node.id], degrees[IN, node.id]):
            yield f"node {node.id} has other degrees than {kept_degrees}"
    for key, _ in view.prefix(DEGREES):
        if key[1:].decode() not in nodes:
            yield f"degrees of {key[1:]!r}, which is no node"
    found: dict[bytes, bytes] = {}
    for prefix in (OUT, IN, LABELS):
        found.update(view.prefix(prefix))
    if found != expected:
        wrong = sorted(
            key for key in found.keys() | expected if found.get(key) != expected.get(key)
        )
        yield f"{len(wrong)} ends of edges or labels are wrong, the first: {wrong[0]!r}"
    kept = {key: read_count(view, key) for key, _ in view.prefix(COUNTS)}
    if kept != dict(counts):
        yield f"counts are {kept}, there are {dict(counts)}"
