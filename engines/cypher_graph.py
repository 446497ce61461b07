"""The graph as a statement of Cypher sees it: nodes and edges by reference, read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from engines.cypher_budget import Budget
from engines.cypher_errors import CypherConflict, MissingParameter
from engines.cypher_values import EdgeRef, NodeRef, Path, weight
from engines.errors import CorruptRecord
from engines.graph_items import (
    ID_BYTES_MAX,
    LABELS,
    NODES,
    Edge,
    Node,
    count_key,
    edge_key,
    ends,
    label_key,
    node_key,
    read_count,
    read_edge,
    read_node,
)
from engines.interfaces import RejectCode
from engines.space import Item, Space, View

_KEPT_BYTES_MAX: Final = 8 << 20  # of nodes and edges that were read
_WAYS_MAX: Final = 100_000  # edges that a read has followed and keeps, some 30 MB
_WAYS_OF_NODE_MAX: Final = 1_000
_WORK_BYTES: Final = 64  # of a record, decoded for a unit of work


class Graph:
    """One statement's view of nodes and edges. `writing`: they may change meanwhile."""

    def __init__(
        self,
        items: View | Space | Nothing,
        parameters: Mapping[str, Any],
        budget: Budget,
        writing: bool,
    ) -> None:
        self.items: Any = items
        self.budget = budget
        self.writing = writing
        self._parameters = parameters
        self._nodes: dict[str, Node] = {}
        self._edges: dict[str, Edge] = {}
        self._kept = 0
        self._gone: set[bytes] = set()
        self._ways: dict[tuple[str, str, tuple[str, ...]], list[tuple[EdgeRef, str]]] = {}
        self._ways_kept = 0

    def parameter(self, name: str) -> Any:
        """Raises MissingParameter."""
        try:
            return self._parameters[name]
        except KeyError:
            raise MissingParameter(name) from None

    def node(self, identity: str) -> Node:
        """Raises CypherConflict (deleted meanwhile), CorruptRecord."""
        found = self._nodes.get(identity)
        if found is None:
            key = node_key(identity)
            found = read_node(key, self._read(key, "node", identity))
            self._nodes[identity] = found
        return found

    def edge(self, identity: str) -> Edge:
        """The same."""
        found = self._edges.get(identity)
        if found is None:
            key = edge_key(identity)
            found = read_edge(key, self._read(key, "relationship", identity))
            self._edges[identity] = found
        return found

    def forget(self, of: NodeRef | EdgeRef, gone: bool = False) -> None:
        """It has changed, or is gone."""
        kept: dict[str, Any] = self._nodes if type(of) is NodeRef else self._edges
        kept.pop(of.id, None)
        if gone:
            self._gone.add(_key_of(of))

    def is_gone(self, of: NodeRef | EdgeRef) -> bool:
        """Has this statement deleted it?"""
        return _key_of(of) in self._gone and self.items.get(_key_of(of)) is None

    def is_node(self, identity: str) -> bool:
        return identity in self._nodes or self._holds(node_key(identity))

    def is_edge(self, identity: str) -> bool:
        return identity in self._edges or self._holds(edge_key(identity))

    def has_labels(self, identity: str, labels: tuple[str, ...]) -> bool:
        get = self.items.get
        return all(get(label_key(label, identity)) is not None for label in labels)

    def nodes(self) -> Iterator[str]:
        """Ids of all."""
        for key, _ in self.items.prefix(NODES):
            self.budget.node()
            yield key[1:].decode()

    def labelled(self, label: str) -> Iterator[str]:
        """Ids of nodes with this label."""
        prefix = b"%b%b\x00" % (LABELS, label.encode())
        for key, _ in self.items.prefix(prefix):
            self.budget.node()
            yield key[len(prefix) :].decode()

    def count(self, label: str | None) -> int:
        """Of nodes, those with a label or all."""
        key = count_key(NODES) if label is None else count_key(LABELS, label)
        return read_count(self.items, key)

    def edges_of(
        self, node: str, direction: str, types: tuple[str, ...]
    ) -> Iterator[tuple[EdgeRef, str]]:
        """Edges of a node and the node at the other end; a loop once."""
        asked = node, direction, types
        known = self._ways.get(asked)
        count = self.budget.edge
        if known is not None:
            self.budget.step(0)
            for way in known:
                count()
                yield way
            return
        # A look for each type on each side, whether there is anything or not.
        self.budget.work(max(1, len(types)) * (2 if direction == "both" else 1))
        ways: list[tuple[EdgeRef, str]] = []
        for end in ends(self.items, node, direction, types):
            count()
            if end.outgoing:
                way = EdgeRef(end.edge, node, end.other, end.type), end.other
            elif direction != "both" or end.other != node:
                way = EdgeRef(end.edge, end.other, node, end.type), end.other
            else:
                continue
            if len(ways) <= _WAYS_OF_NODE_MAX:
                ways.append(way)
            yield way
        # A pattern of several hops comes to the same nodes again and again.
        left = _WAYS_MAX - self._ways_kept
        if not self.writing and len(ways) <= min(left, _WAYS_OF_NODE_MAX):
            self._ways[asked] = ways
            self._ways_kept += len(ways) + 1

    def properties(self, of: NodeRef | EdgeRef) -> Mapping[str, Any]:
        if type(of) is NodeRef:
            return self.node(of.id).properties
        return self.edge(of.id).properties

    def shown(self, value: Any) -> Any:
        """As JSON holds it, counted as part of the answer."""
        kind = type(value)
        if kind is NodeRef:
            return self._counted(self.node(value.id).shown())
        if kind is EdgeRef:
            return self._counted(self.edge(value.id).shown())
        if kind is Path:
            nodes, edges = map(self.shown, value.nodes), map(self.shown, value.edges)
            return {"nodes": [*nodes], "relationships": [*edges]}
        if kind is list:
            return [self.shown(each) for each in value]
        if kind is dict:
            return {self._counted(name): self.shown(each) for name, each in value.items()}
        return self._counted(value)

    def _counted(self, value: Any) -> Any:
        self.budget.answer(weight(value))
        return value

    def _holds(self, key: bytes) -> bool:
        """`key`: of an id that callers may make up, of any length."""
        return 1 < len(key) <= ID_BYTES_MAX + 1 and self.items.get(key) is not None

    def _read(self, key: bytes, what: str, identity: str) -> bytes:
        packed: bytes | None = self.items.get(key)
        if packed is None and key in self._gone:
            raise CypherConflict(
                RejectCode.ITEM_NOT_FOUND, f"{what} {identity} was deleted by this statement"
            )
        if packed is None:
            raise CorruptRecord("items", key, "an edge or label names what is not there")
        self.budget.work(len(packed) // _WORK_BYTES)
        self._kept += len(packed) + 500
        if self._kept > _KEPT_BYTES_MAX:
            self._nodes.clear()
            self._edges.clear()
            self._kept = len(packed) + 500
        return packed


def _key_of(of: NodeRef | EdgeRef) -> bytes:
    return node_key(of.id) if type(of) is NodeRef else edge_key(of.id)


class Nothing:
    """Items of an empty graph: to check a statement before it meets one."""

    def get(self, key: bytes) -> bytes | None:
        return None

    def range(self, *_: object, **__: object) -> Iterator[Item]:
        return iter(())

    prefix = range
