"""What a graph stores: nodes, edges, both ends of each edge, labels, and counts.

The ends of a node's edges lie together, by type, so that its neighbours are a range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.errors import CorruptRecord
from engines.space import Space, View

NODES: Final = b"n"
EDGES: Final = b"e"
OUT: Final = b"o"
IN: Final = b"i"
LABELS: Final = b"l"
COUNTS: Final = b"c"
DEGREES: Final = b"d"  # apart from the node, which an edge then need not write anew

ID_BYTES_MAX: Final = 128  # of a node or an edge
PROPERTY_BYTES_MAX: Final = 256  # of a property's name
NAME_BYTES_MAX: Final = 64  # of a label or a type
LABELS_MAX: Final = 16  # of a node

Items = Space | View


@dataclass(frozen=True, slots=True)
class Node:
    id: str
    labels: tuple[str, ...]  # sorted
    properties: Mapping[str, Any]

    def pack(self) -> bytes:
        return pack_value([list(self.labels), dict(self.properties)])

    def shown(self) -> dict[str, Value]:
        return {"id": self.id, "labels": list(self.labels), "properties": dict(self.properties)}


@dataclass(frozen=True, slots=True)
class Edge:
    id: str
    source: str
    target: str
    type: str
    properties: Mapping[str, Any]

    def pack(self) -> bytes:
        return pack_value([self.source, self.target, self.type, dict(self.properties)])

    def shown(self) -> dict[str, Value]:
        return {
            "id": self.id, "from": self.source, "to": self.target, "type": self.type,
            "properties": dict(self.properties),
        }  # fmt: skip


class Degrees(NamedTuple):
    """How many edges go out and come in; one from a node to itself does both."""

    out: int
    into: int


class End(NamedTuple):
    """An edge as one of its nodes sees it."""

    edge: str
    type: str
    outgoing: bool
    other: str  # the node at the other end
    key: bytes  # where the end is stored


def node_key(identity: str) -> bytes:
    return NODES + identity.encode()


def edge_key(identity: str) -> bytes:
    return EDGES + identity.encode()


def degrees_key(node: str) -> bytes:
    return DEGREES + node.encode()


def label_key(label: str, node: str) -> bytes:
    return b"%b%b\x00%b" % (LABELS, label.encode(), node.encode())


def count_key(kind: bytes, name: str = "") -> bytes:
    """Of nodes or edges: all, or those of a label or type."""
    return COUNTS + kind + name.encode()


def end_key(side: bytes, node: str, kind: str = "", edge: str = "") -> bytes:
    return b"%b%b\x00%b\x00%b" % (side, node.encode(), kind.encode(), edge.encode())


def find_node(items: Items, identity: str) -> Node | None:
    """Raises CorruptRecord."""
    key = node_key(identity)
    packed = items.get(key)
    return None if packed is None else read_node(key, packed)


def find_edge(items: Items, identity: str) -> Edge | None:
    """Raises CorruptRecord."""
    key = edge_key(identity)
    packed = items.get(key)
    return None if packed is None else read_edge(key, packed)


def read_node(key: bytes, packed: bytes) -> Node:
    match _parts(key, packed):
        case [list(labels), dict(properties)]:
            return Node(_tail(key), tuple(map(str, labels)), properties)
        case _:
            raise CorruptRecord("items", key, "is not a node")


def read_edge(key: bytes, packed: bytes) -> Edge:
    match _parts(key, packed):
        case [str(source), str(target), str(kind), dict(properties)]:
            return Edge(_tail(key), source, target, kind, properties)
        case _:
            raise CorruptRecord("items", key, "is not an edge")


def read_count(items: Items, key: bytes) -> int:
    packed = items.get(key)
    match [0] if packed is None else _parts(key, packed):
        case [int(count)]:
            return count
        case _:
            raise CorruptRecord("items", key, "is not a count")


def read_degrees(items: Items, node: str) -> Degrees:
    key = degrees_key(node)
    packed = items.get(key)
    match [0, 0] if packed is None else _parts(key, packed):
        case [int(out), int(into)]:
            return Degrees(out, into)
        case _:
            raise CorruptRecord("items", key, "is not a node's degrees")


def ends(
    items: Items, node: str, direction: str, types: Sequence[str] = (), after: bytes = b""
) -> Iterator[End]:
    """The ends of a node's edges: those that come in first, by type and id; only those behind the
    key `after`. `direction`: out, in or both; `types`: none means all."""
    sides = {"out": (OUT,), "in": (IN,), "both": (IN, OUT)}[direction]
    for side in sides:
        prefixes = [end_key(side, node, kind) for kind in sorted(types)]
        for prefix in prefixes or [side + node.encode() + b"\x00"]:
            if after >= prefix + b"\xff":
                continue
            first = after + b"\x00" if after > prefix else prefix
            for key, value in items.range(first, prefix + b"\xff"):
                yield read_end(key, value)


def read_end(key: bytes, value: bytes) -> End:
    """Raises CorruptRecord."""
    try:
        _, kind, edge = key[1:].decode().split("\x00")
        return End(edge, kind, key[:1] == OUT, value.decode(), key)
    except ValueError as error:
        raise CorruptRecord("items", key, str(error)) from error


def _parts(key: bytes, packed: bytes) -> Value:
    try:
        return unpack_value(packed)
    except Malformed as error:
        raise CorruptRecord("items", key, str(error)) from error


def _tail(key: bytes) -> str:
    return key[1:].decode()
