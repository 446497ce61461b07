"""Changes of a graph for one statement of Cypher, checked, counted and summed up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from engines.codec import check_value, pack_value
from engines.cypher_errors import CypherConflict, CypherError, CypherLimit
from engines.cypher_graph import Graph
from engines.cypher_values import EdgeRef, NodeRef, kind_of, weight
from engines.engine import Stamp
from engines.errors import InvalidArgument
from engines.graph_items import ID_BYTES_MAX, LABELS_MAX, PROPERTY_BYTES_MAX, Edge, Node
from engines.graph_writes import (
    PROPERTIES_BYTES_MAX,
    add_edge,
    add_node,
    made_id,
    put_edge,
    put_node,
    remove_edge,
    remove_node,
)
from engines.interfaces import RejectCode
from engines.timeseries_parameters import one_text

_STORABLE: Final = frozenset({type(None), bool, int, float, str, bytes, list, dict})
_LABEL_WORK: Final = 8  # units for each label: an item, and a count
_WORK_NAMES: Final = 8
_WORK_BYTES: Final = 64  # of a record, encoded for a unit of work


class Writer:
    """Changes the graph for one statement, and counts what it did."""

    def __init__(self, graph: Graph, stamp: Stamp) -> None:
        self.graph = graph
        self.space = graph.items
        self._stamp = stamp
        self._made = 0  # ids
        self.summary = dict.fromkeys(
            (
                "nodes_created", "nodes_deleted", "relationships_created",
                "relationships_deleted", "properties_set", "labels_added", "labels_removed",
            ),
            0,
        )  # fmt: skip

    def create_node(self, labels: tuple[str, ...], given: dict[str, Any]) -> NodeRef:
        self.graph.budget.change()
        identity, properties = self._identity(given), self._checked(given)
        if self.graph.is_node(identity):
            raise CypherConflict(RejectCode.ITEM_EXISTS, f"there is a node {identity}")
        node = Node(identity, _labels(labels), properties)
        self.graph.budget.work(_LABEL_WORK * len(node.labels))
        add_node(self.space, node)
        self.summary["nodes_created"] += 1
        self.summary["labels_added"] += len(node.labels)
        self.summary["properties_set"] += len(properties)
        return NodeRef(identity)

    def create_edge(self, source: Any, target: Any, kind: str, given: dict[str, Any]) -> EdgeRef:
        self.graph.budget.change()
        identity, properties = self._identity(given), self._checked(given)
        for end in (source, target):
            if type(end) is not NodeRef:
                raise CypherError(f"a relationship from or to {kind_of(end)}")
            if not self.graph.is_node(end.id):
                self.graph.node(end.id)  # says why
        if self.graph.is_edge(identity):
            raise CypherConflict(RejectCode.ITEM_EXISTS, f"there is a relationship {identity}")
        add_edge(self.space, Edge(identity, source.id, target.id, kind, properties))
        self.summary["relationships_created"] += 1
        self.summary["properties_set"] += len(properties)
        return EdgeRef(identity, source.id, target.id, kind)

    def change_properties(self, of: Any, changes: dict[str, Any], replaces: bool = False) -> None:
        """Null removes. `replaces`: what is not named goes, too."""
        if of is None:
            return
        if type(of) not in (NodeRef, EdgeRef):
            raise CypherError(f"{kind_of(of)} has no properties to be set")
        if changes.get("id", of.id) != of.id:
            raise CypherError(f"the id of {of.id} cannot change")
        self.graph.budget.change()
        self.graph.budget.work(len(changes) // _WORK_NAMES)  # any number of them may be null
        before = self.graph.properties(of)
        after = {} if replaces else {**before}
        for name, value in changes.items():
            if value is None:
                after.pop(name, None)
            elif name != "id":
                after[name] = value
        properties = self._checked(after)
        self.summary["properties_set"] += len(changes)
        if type(of) is NodeRef:
            old = self.graph.node(of.id)
            put_node(self.space, replace(old, properties=properties), old)
        else:
            put_edge(self.space, replace(self.graph.edge(of.id), properties=properties))
        self.graph.forget(of)

    def change_labels(self, of: Any, added: tuple[str, ...], gone: tuple[str, ...]) -> None:
        if of is None:
            return
        if type(of) is not NodeRef:
            raise CypherError(f"{kind_of(of)} has no labels to be set")
        self.graph.budget.change()
        old = self.graph.node(of.id)
        kept = [label for label in old.labels if label not in gone]
        new = _labels((*kept, *added))
        self.graph.budget.work(_LABEL_WORK * (len(added) + len(gone)))
        self.summary["labels_added"] += len({*new} - {*old.labels})
        self.summary["labels_removed"] += len({*old.labels} - {*new})
        put_node(self.space, replace(old, labels=new), old)
        self.graph.forget(of)

    def delete_edge(self, edge: EdgeRef) -> None:
        """Unless it is gone already."""
        if not self.graph.is_gone(edge):
            self.graph.budget.change()
            remove_edge(self.space, self.graph.edge(edge.id))
            self.graph.forget(edge, gone=True)
            self.summary["relationships_deleted"] += 1

    def delete_node(self, node: NodeRef, detach: bool) -> None:
        """The same. Its edges, with `detach`, go first; otherwise it must have none."""
        if self.graph.is_gone(node):
            return
        edges = [edge for edge, _ in self.graph.edges_of(node.id, "both", ())]
        if edges and not detach:
            raise CypherError(f"node {node.id} has relationships: use DETACH DELETE")
        for edge in edges:
            self.delete_edge(edge)
        self.graph.budget.change()
        old = self.graph.node(node.id)
        self.graph.budget.work(_LABEL_WORK * len(old.labels))
        remove_node(self.space, old)
        self.graph.forget(node, gone=True)
        self.summary["nodes_deleted"] += 1

    def _identity(self, given: dict[str, Any]) -> str:
        if given.get("id") is None:
            self._made += 1
            return made_id(self._stamp, self._made - 1)
        try:
            return one_text(given["id"], "id", ID_BYTES_MAX)
        except InvalidArgument as error:
            raise CypherError(str(error)) from None

    def _checked(self, given: dict[str, Any]) -> dict[str, Any]:
        """What is to be stored, without nulls and the id."""
        properties = {
            name: value for name, value in given.items() if value is not None and name != "id"
        }
        self.graph.budget.work(weight(properties) // _WORK_BYTES)
        try:
            for name, value in properties.items():
                one_text(name, "a property's name", PROPERTY_BYTES_MAX)
                _storable(value)
            check_value(properties, "properties")
        except InvalidArgument as error:
            raise CypherError(str(error)) from None
        if len(pack_value(properties)) > PROPERTIES_BYTES_MAX:
            raise CypherLimit(f"properties of more than {PROPERTIES_BYTES_MAX} bytes")
        return properties


def _labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    made = tuple(sorted({*labels}))
    if len(made) > LABELS_MAX:
        raise CypherLimit(f"a node of more than {LABELS_MAX} labels")
    return made


def _storable(value: Any) -> None:
    if type(value) not in _STORABLE:
        raise CypherError(f"{kind_of(value)} cannot be a property")
    for each in value if type(value) is list else value.values() if type(value) is dict else ():
        _storable(each)
