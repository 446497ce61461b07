"""How each built-in engine is written and read: for the tests that every engine passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Parameters = dict[str, Any]
Operation = tuple[str, Parameters]


@dataclass(frozen=True)
class Sample:
    """`write(n)` stores item n; `read(n)` asks for it; `found(result, n)`: is it the answer?

    `broad`: a read that looks at everything. `refused`: writes that `apply` refuses once item 1
    is there, though some of what they hold could be done. `listing`: a read that answers every
    item in pages, and the member of its answer that holds them.
    """

    engine: str
    write: Callable[[int], Operation]
    read: Callable[[int], Operation]
    found: Callable[[Any, int], bool]
    broad: Operation
    refused: tuple[Operation, ...]
    settings: Parameters = field(default_factory=dict)
    setup: tuple[Operation, ...] = ()
    listing: tuple[str, str] | None = None
    label: str = ""  # of one of several samples of an engine

    @property
    def name(self) -> str:
        return self.label or self.engine


def _cypher(operation: str, query: str, **parameters: Any) -> Operation:
    return operation, {"query": query, "parameters": parameters}


SAMPLES = (
    Sample(
        "document",
        lambda n: ("document_insert", {"document": {"_id": f"d{n}", "n": n, "word": f"w{n % 5}"}}),
        lambda n: ("document_find", {"filter": {"n": n}}),
        lambda result, n: [each["id"] for each in result["items"]] == [f"d{n}"],
        ("document_search", {"query": "w1 w2 w3", "filter": {"n": {"$ne": 0}}, "limit": 1000}),
        (("document_insert", {"documents": [{"_id": "new"}, {"_id": "d1"}]}),),
        settings={
            "indexes": [{"fields": ["n"], "unique": True}],
            "text": {"fields": {"word": 2}},
        },
        listing=("document_find", "items"),
    ),
    Sample(
        "graph",
        lambda n: ("graph_create_node", {"id": f"n{n}", "labels": ["L"], "properties": {"n": n}}),
        lambda n: ("graph_get", {"id": f"n{n}"}),
        lambda result, n: result["node"]["properties"] == {"n": n},
        ("graph_traverse", {"start": "hub", "max_depth": 1, "limit": 1000}),
        (
            ("graph_create_node", {"id": "n1"}),
            ("graph_create_edge", {"from": "n1", "to": "absent", "type": "t"}),
        ),
        setup=(
            ("graph_create_node", {"id": "hub"}),
            *(("graph_create_node", {"id": f"spoke{n}"}) for n in range(100)),
            *(
                ("graph_create_edge", {"from": "hub", "to": f"spoke{n}", "type": "t"})
                for n in range(100)
            ),
        ),
        listing=("graph_list_edges", "items"),
    ),
    Sample(
        "graph",
        lambda n: _cypher(
            "graph_execute",
            "MERGE (h:Hub {id: 'hub'}) CREATE (x:L {id: $id, n: $n})-[:IN {n: $n}]->(h) RETURN x",
            id=f"n{n}",
            n=n,
        ),
        lambda n: _cypher(
            "graph_query", "MATCH (x:L {id: $id})-[r:IN]->(h) RETURN x.n, r.n, h.id", id=f"n{n}"
        ),
        lambda result, n: result["rows"] == [[n, n, "hub"]],
        _cypher("graph_query", "MATCH (a)-[r]-(b) WHERE a.n <> 1 RETURN count(r)"),
        (
            _cypher("graph_execute", "CREATE (:New)-[:T]->(:New) CREATE (:L {id: 'n1'})"),
            _cypher("graph_execute", "UNWIND [2, 1, 0] AS x CREATE (:New {x: 1 / x})"),
        ),
        label="cypher",
    ),
    Sample(
        "relational",
        lambda n: ("sql_execute", {"sql": "INSERT INTO t VALUES (?, ?)", "params": [n, f"v{n}"]}),
        lambda n: ("sql_query", {"sql": "SELECT v FROM t WHERE n = ?", "params": [n]}),
        lambda result, n: result["rows"] == [[f"v{n}"]],
        ("sql_query", {"sql": "SELECT count(*) FROM t a, t b, t c, t d"}),
        (
            (
                "sql_execute",
                {
                    "statements": [
                        {"sql": "INSERT INTO t VALUES (-1, 'x')"},
                        {"sql": "INSERT INTO t VALUES (1, 'y')"},
                    ]
                },
            ),
        ),
        setup=(("sql_execute", {"sql": "CREATE TABLE t (n INTEGER PRIMARY KEY, v)"}),),
    ),
    Sample(
        "text",
        lambda n: ("text_insert", {"documents": [{"id": f"d{n}", "text": f"the bee is word{n}"}]}),
        lambda n: ("text_search", {"query": f"word{n}"}),
        lambda result, n: [hit["id"] for hit in result["hits"]] == [f"d{n}"],
        ("text_search", {"query": "bee", "metadata": {"absent": 1}}),
        (("text_insert", {"documents": [{"id": "new", "text": "x"}, {"id": "d1", "text": "y"}]}),),
        listing=("text_list", "documents"),
    ),
    Sample(
        "timeseries",
        lambda n: (
            "series_append",
            {"points": [{"metric": "m", "tags": {"n": str(n)}, "time_ms": n, "value": n + 0.5}]},
        ),
        lambda n: ("series_last", {"metric": "m", "tags": {"n": str(n)}}),
        lambda result, n: f"{n}.5" in str(result),
        ("series_list", {"limit": 1000}),
        (
            (
                "series_append",
                {
                    "points": [
                        {"metric": "new", "time_ms": 1, "value": 1},
                        {"metric": "m", "tags": {"n": "1"}, "time_ms": 1, "value": 2},
                    ]
                },
            ),
        ),
        settings={"duplicates": "reject"},
        listing=("series_list", "items"),
    ),
    Sample(
        "vector",
        lambda n: (
            "vector_insert",
            {"documents": [{"id": f"v{n}", "vector": _vector(n), "text": f"bee word{n}"}]},
        ),
        lambda n: ("vector_search", {"vector": _vector(n), "limit": 1}),
        lambda result, n: [each["id"] for each in result["matches"]] == [f"v{n}"],
        ("hybrid_search", {"query": "bee", "vector": [1, 0, 0, 0], "filter": {"absent": 1}}),
        (
            (
                "vector_insert",
                {
                    "documents": [
                        {"id": "new", "vector": [1, 0, 0, 0]},
                        {"id": "v1", "vector": [1, 0, 0, 0]},
                    ]
                },
            ),
            (
                "vector_insert",
                {
                    "documents": [
                        {"id": "new", "vector": [1, 0, 0, 0]},
                        {"id": "short", "vector": [1, 0]},
                    ]
                },
            ),
        ),
        settings={"dimensions": 4, "text": {"language": "english"}},
        listing=("vector_list", "items"),
    ),
)


def _vector(number: int) -> list[float]:
    """Directions of their own, for numbers up to some hundreds."""
    angle, height = number * 0.7, 1 + number % 17
    return [math.cos(angle), math.sin(angle), height / 7, (number % 29) / 11]
