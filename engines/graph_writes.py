"""Writes to a graph: nodes, edges, their properties.

Deleting a node deletes its edges, and is refused for more of them than one command may touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from engines.codec import Value, check_value, pack_value
from engines.engine import Refused, Stamp
from engines.errors import InvalidArgument
from engines.graph_items import (
    EDGES,
    ID_BYTES_MAX,
    IN,
    LABELS,
    LABELS_MAX,
    NAME_BYTES_MAX,
    NODES,
    OUT,
    PROPERTY_BYTES_MAX,
    Edge,
    Node,
    count_key,
    degrees_key,
    edge_key,
    end_key,
    ends,
    find_edge,
    find_node,
    label_key,
    node_key,
    read_count,
    read_degrees,
)
from engines.interfaces import RejectCode
from engines.parameters import PREFIX, array, exactly
from engines.space import Space
from engines.timeseries_parameters import one_text

PROPERTIES_BYTES_MAX: Final = 64 << 10  # of a node or an edge, packed
UNSET_MAX: Final = 1_000  # names of properties
DELETE_EDGES_MAX: Final = 1_000  # that go with their node
_NONE: Final[frozenset[str]] = frozenset()
_ID: Final = frozenset({"id"})


def prepare_write(operation: str, given: Mapping[str, Any]) -> dict[str, Value]:
    """Raises InvalidArgument."""
    match operation:
        case "graph_create_node":
            exactly(given, PREFIX, _NONE, frozenset({"id", "labels", "properties"}))
        case "graph_create_edge":
            required = frozenset({"from", "to", "type"})
            exactly(given, PREFIX, required, frozenset({"id", "properties"}))
        case "graph_update_node":
            exactly(given, PREFIX, _ID, frozenset({"set", "unset", "labels"}))
        case "graph_update_edge":
            exactly(given, PREFIX, _ID, frozenset({"set", "unset"}))
        case _:
            exactly(given, PREFIX, _ID)
    if operation.startswith("graph_update") and len(given) == 1:
        raise InvalidArgument(f"{PREFIX}.set", "nothing is to be changed")
    body: dict[str, Value] = {}
    for name, value in given.items():
        field = f"{PREFIX}.{name}"
        if name in ("id", "from", "to"):
            body[name] = one_text(value, field, ID_BYTES_MAX)
        elif name == "type":
            body[name] = one_text(value, field, NAME_BYTES_MAX)
        elif name == "labels":
            body[name] = _labels(value, field)
        elif name == "unset":
            names = array(value, field, UNSET_MAX)
            body[name] = [
                one_text(each, f"{field}[{place}]", PROPERTY_BYTES_MAX)
                for place, each in enumerate(names)
            ]
        else:
            body[name] = _properties(value, field)
    return body


def apply_write(space: Space, operation: str, body: Mapping[str, Any], stamp: Stamp) -> Value:
    """Raises Refused, CorruptRecord."""
    match operation:
        case "graph_create_node":
            return _create_node(space, body, stamp)
        case "graph_create_edge":
            return _create_edge(space, body, stamp)
        case "graph_update_node":
            return _update_node(space, body)
        case "graph_update_edge":
            return _update_edge(space, body)
        case "graph_delete_node":
            return _delete_node(space, body["id"])
        case _:
            edge = find_edge(space, body["id"])
            if edge is not None:
                remove_edge(space, edge)
            return {"deleted": edge is not None}


def _create_node(space: Space, body: Mapping[str, Any], stamp: Stamp) -> Value:
    node = Node(new_id(body, stamp), tuple(body.get("labels", ())), body.get("properties", {}))
    if space.get(node_key(node.id)) is not None:
        raise Refused(RejectCode.ITEM_EXISTS, f"there is a node {node.id}", f"{PREFIX}.id")
    add_node(space, node)
    return {"id": node.id, "created": True}


def _create_edge(space: Space, body: Mapping[str, Any], stamp: Stamp) -> Value:
    edge = Edge(
        new_id(body, stamp), body["from"], body["to"], body["type"], body.get("properties", {})
    )
    if space.get(edge_key(edge.id)) is not None:
        raise Refused(RejectCode.ITEM_EXISTS, f"there is an edge {edge.id}", f"{PREFIX}.id")
    for field, identity in (("from", edge.source), ("to", edge.target)):
        if space.get(node_key(identity)) is None:
            raise _missing("node", identity, field)
    add_edge(space, edge)
    return {"id": edge.id, "created": True}


def add_node(space: Space, node: Node) -> None:
    """One that is not there."""
    space.put(node_key(node.id), node.pack())
    _count(space, NODES, "", 1)
    _label(space, node.id, node.labels, ())


def add_edge(space: Space, edge: Edge) -> None:
    """One that is not there, between nodes that are."""
    _degree(space, edge.source, 1, 0)
    _degree(space, edge.target, 0, 1)
    space.put(edge_key(edge.id), edge.pack())
    space.put(end_key(OUT, edge.source, edge.type, edge.id), edge.target.encode())
    space.put(end_key(IN, edge.target, edge.type, edge.id), edge.source.encode())
    _count(space, EDGES, "", 1)
    _count(space, OUT, edge.type, 1)


def put_node(space: Space, new: Node, old: Node) -> None:
    """Other labels and properties of a node."""
    space.put(node_key(new.id), new.pack())
    _label(space, new.id, new.labels, old.labels)


def put_edge(space: Space, edge: Edge) -> None:
    """Other properties of an edge."""
    space.put(edge_key(edge.id), edge.pack())


def remove_node(space: Space, node: Node) -> None:
    """One without edges."""
    _label(space, node.id, (), node.labels)
    _count(space, NODES, "", -1)
    space.delete(node_key(node.id))


def _update_node(space: Space, body: Mapping[str, Any]) -> Value:
    node = _existing_node(space, body["id"], "id")
    changed = replace(
        node,
        properties=_changed(node.properties, body),
        labels=tuple(body.get("labels", node.labels)),
    )
    put_node(space, changed, node)
    return {"id": node.id, "changed": changed.pack() != node.pack()}


def _update_edge(space: Space, body: Mapping[str, Any]) -> Value:
    edge = find_edge(space, body["id"])
    if edge is None:
        raise _missing("edge", body["id"], "id")
    changed = replace(edge, properties=_changed(edge.properties, body))
    put_edge(space, changed)
    return {"id": edge.id, "changed": changed.pack() != edge.pack()}


def _delete_node(space: Space, identity: str) -> Value:
    node = find_node(space, identity)
    if node is None:
        return {"deleted": False, "edges": 0}
    degree = sum(read_degrees(space, identity))
    if degree > DELETE_EDGES_MAX:
        raise Refused(
            RejectCode.LIMIT_EXCEEDED,
            f"node {identity} has {degree} ends of edges; at most {DELETE_EDGES_MAX} go with a "
            "node: delete edges first",
            f"{PREFIX}.id",
        )
    edges = sorted({end.edge for end in ends(space, identity, "both")})
    for name in edges:
        edge = find_edge(space, name)
        if edge is not None:
            remove_edge(space, edge)
    remove_node(space, node)
    return {"deleted": True, "edges": len(edges)}


def remove_edge(space: Space, edge: Edge) -> None:
    for identity, out, into in ((edge.source, -1, 0), (edge.target, 0, -1)):
        _degree(space, identity, out, into)
    space.delete(edge_key(edge.id))
    space.delete(end_key(OUT, edge.source, edge.type, edge.id))
    space.delete(end_key(IN, edge.target, edge.type, edge.id))
    _count(space, EDGES, "", -1)
    _count(space, OUT, edge.type, -1)


def _degree(space: Space, node: str, out: int, into: int) -> None:
    before = read_degrees(space, node)
    degrees = [before.out + out, before.into + into]
    if any(degrees):
        space.put(degrees_key(node), pack_value(degrees))
    else:
        space.delete(degrees_key(node))


def _label(space: Space, node: str, new: tuple[str, ...], old: tuple[str, ...]) -> None:
    for label in old:
        if label not in new:
            space.delete(label_key(label, node))
            _count(space, LABELS, label, -1)
    for label in new:
        if label not in old:
            space.put(label_key(label, node), b"")
            _count(space, LABELS, label, 1)


def _count(space: Space, kind: bytes, name: str, step: int) -> None:
    key = count_key(kind, name)
    count = read_count(space, key) + step
    if count:
        space.put(key, pack_value([count]))
    else:
        space.delete(key)


def _existing_node(space: Space, identity: str, field: str) -> Node:
    node = find_node(space, identity)
    if node is None:
        raise _missing("node", identity, field)
    return node


def _missing(what: str, identity: str, field: str) -> Refused:
    return Refused(RejectCode.ITEM_NOT_FOUND, f"there is no {what} {identity}", f"{PREFIX}.{field}")


def _changed(properties: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    unset = body.get("unset", ())
    left = {name: value for name, value in properties.items() if name not in unset}
    changed = {**left, **body.get("set", {})}
    if len(pack_value(changed)) > PROPERTIES_BYTES_MAX:
        raise Refused(
            RejectCode.LIMIT_EXCEEDED,
            f"properties would be over {PROPERTIES_BYTES_MAX} bytes",
            f"{PREFIX}.set",
        )
    return changed


def new_id(body: Mapping[str, Any], stamp: Stamp) -> str:
    given: str | None = body.get("id")
    return made_id(stamp) if given is None else given


def made_id(stamp: Stamp, number: int = 0) -> str:
    """`number`: of what one command makes without an id, in order."""
    made = f"{stamp.now_ms:012x}{stamp.seed:016x}"
    return f"{made}-{number}" if number else made


def _labels(value: object, field: str) -> list[Value]:
    if not isinstance(value, list | tuple) or len(value) > LABELS_MAX:
        raise InvalidArgument(field, f"must be an array of at most {LABELS_MAX} labels")
    return [
        *sorted(
            {
                one_text(each, f"{field}[{place}]", NAME_BYTES_MAX)
                for place, each in enumerate(value)
            }
        )
    ]


def _properties(value: object, field: str) -> Value:
    if not isinstance(value, dict):
        raise InvalidArgument(field, "must be an object")
    check_value(value, field)
    for name in value:
        one_text(name, field, PROPERTY_BYTES_MAX)
    if len(pack_value(value)) > PROPERTIES_BYTES_MAX:
        raise InvalidArgument(field, f"is over {PROPERTIES_BYTES_MAX} bytes")
    return value
