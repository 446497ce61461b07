"""What operations on graphs take and answer, as JSON Schema."""

from __future__ import annotations

from typing import Final

from engines.cypher_parser import STATEMENT_BYTES_MAX
from engines.graph_algorithms import ALGORITHMS, MEMBERS_DEFAULT
from engines.graph_algorithms import LIMIT_DEFAULT as ALGORITHM_LIMIT_DEFAULT
from engines.graph_algorithms import LIMIT_MAX as ALGORITHM_LIMIT_MAX
from engines.graph_cypher import EXECUTE, QUERY, STATEMENTS
from engines.graph_items import ID_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX, PROPERTY_BYTES_MAX
from engines.graph_lists import LIST_DEFAULT, LIST_MAX
from engines.graph_walks import (
    DEPTH_DEFAULT,
    DEPTH_MAX,
    DIRECTIONS,
    PAGE_DEFAULT,
    PAGE_MAX,
    TYPES_MAX,
)
from engines.graph_writes import UNSET_MAX
from engines.schema import (
    ANY,
    COUNT,
    CURSOR,
    Described,
    Operation,
    Schema,
    boolean,
    exactly_one,
    integer,
    listed,
    members,
    number,
    of_any,
    one_of,
    or_null,
    page,
    text,
)

_STATEMENT: dict[str, Schema] = {
    **dict.fromkeys(STATEMENTS, text(STATEMENT_BYTES_MAX, 1)),
    "parameters": of_any(description="{name: value} of $name"),
}
_ID = text(ID_BYTES_MAX, 1)
_NAME = text(NAME_BYTES_MAX, 1)
_LABELS = listed(_NAME, LABELS_MAX)
_PROPERTIES = of_any()
_NODE: dict[str, Schema] = {"id": _ID, "labels": _LABELS, "properties": _PROPERTIES}
_EDGE = members({"id": _ID, "from": _ID, "to": _ID, "type": _NAME, "properties": _PROPERTIES})
_CREATED = members({"id": _ID, "created": boolean()})
_CHANGED = members({"id": _ID, "changed": boolean()})
_CHANGES: dict[str, Schema] = {
    "set": _PROPERTIES,
    "unset": listed(text(PROPERTY_BYTES_MAX, 1), UNSET_MAX, 1),
}
_LISTED: dict[str, Schema] = {
    "limit": integer(1, LIST_MAX, default=LIST_DEFAULT),
    "cursor": CURSOR,
}
_PAGED: dict[str, Schema] = {
    "limit": integer(1, PAGE_MAX, default=PAGE_DEFAULT),
    "cursor": CURSOR,
}
_TYPES = listed(_NAME, TYPES_MAX, 1)

_WRITES: Final = {
    "graph_create_node": Operation(
        "Make a node",
        members({}, _NODE),
        _CREATED,
        {"id": "ann", "labels": ["Person"], "properties": {"age": 41}},
    ),
    "graph_update_node": Operation(
        "Change a node's properties and labels",
        members({"id": _ID}, {**_CHANGES, "labels": _LABELS}, minProperties=2),
        _CHANGED,
        {"id": "ann", "set": {"city": "Lisbon"}, "unset": ["age"]},
    ),
    "graph_create_edge": Operation(
        "Make an edge between two nodes",
        members({"from": _ID, "to": _ID, "type": _NAME}, {"id": _ID, "properties": _PROPERTIES}),
        _CREATED,
        {"id": "e1", "from": "ann", "to": "ann", "type": "knows", "properties": {"since": 2019}},
    ),
    "graph_update_edge": Operation(
        "Change an edge's properties",
        members({"id": _ID}, _CHANGES, minProperties=2),
        _CHANGED,
        {"id": "e1", "set": {"since": 2020}},
    ),
}
_DELETES: Final = {
    "graph_delete_edge": Operation(
        "Delete an edge", members({"id": _ID}), members({"deleted": boolean()}), {"id": "e1"}
    ),
    "graph_delete_node": Operation(
        "Delete a node and its edges",
        members({"id": _ID}),
        members({"deleted": boolean(), "edges": COUNT}),
        {"id": "ann"},
    ),
}
_READS: Final = {
    "graph_get": Operation(
        "A node by its id, or an edge; null if there is none",
        exactly_one(members({}, {"id": _ID, "edge": _ID}), "id", "edge"),
        members(
            {},
            {
                "node": or_null(members({**_NODE, "out_degree": COUNT, "in_degree": COUNT})),
                "edge": or_null(_EDGE),
            },
            minProperties=1,
            maxProperties=1,
        ),
        {"id": "ann"},
    ),
    "graph_count": Operation(
        "How many nodes and edges there are",
        members({}, {"label": or_null(_NAME), "type": or_null(_NAME)}),
        members({}, {"nodes": COUNT, "edges": COUNT}, minProperties=1),
        {"label": "Person"},
    ),
    "graph_list_nodes": Operation(
        "Every node, or those with a label, in order of the ids, in pages",
        members({}, {**_LISTED, "label": _NAME}),
        page("items", members(_NODE)),
        {"label": "Person"},
    ),
    "graph_list_edges": Operation(
        "Every edge, in order of the ids, in pages",
        members({}, _LISTED),
        page("items", _EDGE),
        {},
    ),
    "graph_neighbors": Operation(
        "A node's edges, and the nodes at their other ends",
        members({"id": _ID}, {**_PAGED, "direction": one_of(DIRECTIONS), "types": _TYPES}),
        page(
            "items",
            members({"edge": _EDGE, "direction": one_of(("out", "in")), "node": members(_NODE)}),
        ),
        {"id": "ann", "direction": "out", "types": ["knows"]},
    ),
    "graph_traverse": Operation(
        "Nodes that can be reached, nearest first, each once",
        exactly_one(
            members(
                {},
                {
                    "start": _ID,
                    "startNode": _ID,
                    "direction": one_of(DIRECTIONS, default="out"),
                    "max_depth": or_null(integer(1, DEPTH_MAX, default=DEPTH_DEFAULT)),
                    "types": _TYPES,
                    "filter": members({}, {"labels": _LABELS, "properties": _PROPERTIES}),
                    **_PAGED,
                },
            ),
            "start",
            "startNode",
        ),
        page(
            "nodes",
            members({**_NODE, "depth": integer(1), "previous": or_null(_ID), "edge": or_null(_ID)}),
        ),
        {"start": "ann", "max_depth": 2, "filter": {"labels": ["Person"]}},
    ),
    "graph_shortest_path": Operation(
        "The path of fewest edges, or of the least sum of a property",
        members(
            {"from": _ID, "to": _ID},
            {
                "direction": one_of(DIRECTIONS, default="out"),
                "types": _TYPES,
                "weight": or_null(text(PROPERTY_BYTES_MAX, 1)),
                "max_cost": or_null(number(0)),
            },
        ),
        members(
            {
                "found": boolean(),
                "cost": or_null(number(0)),
                "visited": COUNT,
                "nodes": listed(_ID),
                "edges": listed(_ID),
            }
        ),
        {"from": "ann", "to": "ann"},
    ),
}
_CYPHER_READS: Final = {
    QUERY: Operation(
        "Answer a statement of Cypher that reads",
        exactly_one(members({}, {**_STATEMENT, "explain": boolean(default=False)}), *STATEMENTS),
        members(
            {"columns": listed(text())}, {"rows": listed(listed(ANY)), "plan": listed(of_any())}
        ),
        {
            "query": "MATCH (a:Person {id: $id})-[:knows]->(b) RETURN b.id, b.age LIMIT 10",
            "parameters": {"id": "ann"},
        },
    ),
    "graph_algorithm": Operation(
        "Rank the nodes of a graph or of a part of it, or find its components",
        members(
            {"algorithm": one_of((*ALGORITHMS,))},
            {
                "labels": _LABELS,
                "types": _TYPES,
                "limit": integer(1, ALGORITHM_LIMIT_MAX, default=ALGORITHM_LIMIT_DEFAULT),
                "damping": number(0, 1),
                "weight": or_null(text(PROPERTY_BYTES_MAX, 1)),
                "direction": one_of(DIRECTIONS),
                "members": integer(0, ALGORITHM_LIMIT_MAX, default=MEMBERS_DEFAULT),
            },
        ),
        members(
            {"items": listed(of_any()), "nodes": COUNT, "relationships": COUNT},
            {"components": COUNT},
        ),
        {"algorithm": "pagerank", "limit": 10},
    ),
}
_CYPHER_WRITES: Final = {
    EXECUTE: Operation(
        "Run a statement of Cypher that writes, all of it or nothing",
        exactly_one(members({}, _STATEMENT), *STATEMENTS),
        members({"columns": listed(text()), "rows": listed(listed(ANY)), "summary": of_any()}),
        {
            "query": "MATCH (a:Person {id: 'ann'}) MERGE (a)-[k:knows]->(c:Person {id: $id})",
            "parameters": {"id": "cy"},
        },
    ),
}

GRAPH: Final = Described(
    members(), {}, {**_WRITES, **_CYPHER_WRITES, **_READS, **_CYPHER_READS, **_DELETES}
)
