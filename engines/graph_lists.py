"""Listings of a graph: every node, or those with a label, and every edge, in order of their ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from engines.codec import Value
from engines.cursors import decode_cursor, encode_cursor, refuse_cursor, scope_of
from engines.errors import CorruptRecord
from engines.graph_items import (
    EDGES,
    NAME_BYTES_MAX,
    NODES,
    Edge,
    Node,
    find_node,
    label_key,
    read_edge,
    read_node,
)
from engines.parameters import PREFIX, exactly, integer
from engines.read_requests import PAGE_BYTES_MAX
from engines.space import View, after_prefix
from engines.timeseries_parameters import one_text

LIST_DEFAULT: Final = 100
LIST_MAX: Final = 1_000  # items of one page
_AROUND_BYTES: Final = 1_000  # of an item in an answer, besides what is packed
_PAGED: Final = frozenset({"limit", "cursor"})
_NONE: Final[frozenset[str]] = frozenset()


def graph_list_nodes(view: View, given: Mapping[str, Any]) -> Value:
    """Nodes, with `label` those that have it. Raises InvalidArgument, CorruptRecord."""
    exactly(given, PREFIX, _NONE, _PAGED | {"label"})
    if "label" not in given:
        return _page(view, "graph_list_nodes", given, NODES, read_node)
    label = one_text(given["label"], f"{PREFIX}.label", NAME_BYTES_MAX)
    prefix = label_key(label, "")

    def labelled(key: bytes, _: bytes) -> Node:
        node = find_node(view, key[len(prefix) :].decode())
        if node is None:
            raise CorruptRecord("items", key, "the label of a node that is not there")
        return node

    return _page(view, "graph_list_nodes", given, prefix, labelled)


def graph_list_edges(view: View, given: Mapping[str, Any]) -> Value:
    """Edges. Raises InvalidArgument, CorruptRecord."""
    exactly(given, PREFIX, _NONE, _PAGED)
    return _page(view, "graph_list_edges", given, EDGES, read_edge)


def _page(view: View, operation: str, given: Mapping[str, Any], prefix: bytes, read: Any) -> Value:
    """What `read` makes of the items under `prefix`. A cursor is the key of the last of a page."""
    limit = given.get("limit")
    limit = LIST_DEFAULT if limit is None else integer(limit, f"{PREFIX}.limit", 1, LIST_MAX)
    scope = scope_of(operation, given)
    last = decode_cursor(given.get("cursor"), scope, bytes) or b""
    if last and not last.startswith(prefix):  # beyond it lie items of another kind
        refuse_cursor("is not a cursor of this query")
    items: list[Value] = []
    room = PAGE_BYTES_MAX
    found: Iterator[tuple[bytes, bytes]] = view.range(
        last + b"\x00" if last else prefix, after_prefix(prefix)
    )
    for key, value in found:
        item: Node | Edge = read(key, value)
        room -= len(item.pack()) + _AROUND_BYTES
        if len(items) == limit or (room < 0 and items):
            return {"items": items, "next_cursor": encode_cursor(scope, last)}
        items.append(item.shown())
        last = key
    return {"items": items, "next_cursor": None}
