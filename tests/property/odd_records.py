"""Valid requests of documents, graphs and SQL, to be made odd by `odd_parameters.py`."""

from __future__ import annotations

from tests.property.odd_parameters import Odd

DOCUMENT = Odd(
    "document",
    (
        {
            "indexes": [
                {"fields": ["n"]},
                {"fields": ["a.b", "tags"]},
                {"fields": ["u"], "unique": True, "name": "own"},
            ],
            "text": {"fields": {"s": 2, "tags": 1}},
        },
        {},
    ),
    (
        (
            "document_insert",
            {
                "documents": [
                    {"_id": "d1", "n": 1, "a": {"b": 2}, "tags": ["x", "y"], "u": 1},
                    {"_id": "d2", "n": 2.5, "a": [{"b": 1}, {"b": None}], "tags": [], "w": "text"},
                    {"_id": "d3", "n": None, "big": 2**63, "s": "abc", "u": 3},
                ]
            },
        ),
    ),
    (
        (
            "document_insert",
            {"document": {"_id": "d4", "n": 4, "a": {"b": [1, {"c": 2}]}, "tags": ["z"]}},
        ),
        (
            "document_insert",
            {
                "documents": [
                    {"n": 1.5, "u": 2},
                    {"_id": "d5", "n": [1, 2], "tags": [[1], {"q": 1}]},
                ]
            },
        ),
        ("document_upsert", {"document": {"_id": "d1", "n": 7}, "if_version": 1}),
        ("document_upsert", {"documents": [{"_id": "d2", "n": {"b": 1}}, {"n": -0.0}]}),
        (
            "document_update",
            {
                "id": "d1",
                "update": {"$set": {"a.b": 3, "n": 5}, "$inc": {"big": 1}, "$unset": {"w": ""}},
            },
        ),
        (
            "document_update",
            {
                "filter": {"n": {"$gte": 1}},
                "update": {
                    "$mul": {"n": 2},
                    "$min": {"m": 1},
                    "$max": {"a.c": 2},
                    "$rename": {"s": "t"},
                },
                "limit": 10,
            },
        ),
        (
            "document_update",
            {
                "filter": {"_id": "up", "q": 1},
                "update": {
                    "$push": {"tags": {"$each": [1, 2], "$slice": -2}},
                    "$addToSet": {"set": {"$each": [1, 1.0]}},
                    "$pull": {"other": {"$gt": 1}},
                },
                "upsert": True,
            },
        ),
        (
            "document_update",
            {
                "filter": {"$or": [{"n": {"$in": [1, 2]}}, {"tags": "x"}]},
                "merge": {"a": {"b": None, "c": {"d": 1}}},
            },
        ),
        ("document_delete", {"id": "d3", "if_version": 1}),
        (
            "document_delete",
            {"filter": {"a.b": {"$exists": True}, "n": {"$not": {"$lt": 3}}}, "limit": 2},
        ),
        ("document_index_build", {"limit": 10}),
    ),
    (
        (
            "document_find",
            {
                "filter": {"n": {"$gt": 1, "$lte": 2**64 - 1}},
                "sort": {"n": -1, "a.b": 1},
                "projection": {"n": 1},
                "limit": 2,
                "explain": True,
            },
        ),
        (
            "document_find",
            {
                "filter": {
                    "s": {"$regex": "^a.c$", "$options": "i"},
                    "tags": {"$all": ["x"], "$size": 2},
                },
                "projection": {"a": 0},
            },
        ),
        (
            "document_find",
            {
                "filter": {
                    "$nor": [{"a": {"$elemMatch": {"b": 1}}}],
                    "n": {"$nin": [None, []], "$ne": 1},
                }
            },
        ),
        ("document_get", {"ids": ["d1", "d2", "nix"], "projection": {"tags": 1}}),
        ("document_count", {"filter": {"a.b": {"$in": [1, None, "x"]}}}),
        ("document_distinct", {"field": "tags", "filter": {"n": {"$exists": True}}, "limit": 5}),
        (
            "document_aggregate",
            {
                "pipeline": [
                    {"$match": {"n": {"$gt": 0}}},
                    {"$unwind": {"path": "$tags", "preserveNullAndEmptyArrays": True}},
                    {
                        "$group": {
                            "_id": "$tags",
                            "s": {"$sum": "$n"},
                            "a": {"$avg": "$big"},
                            "m": {"$max": "$a"},
                            "f": {"$first": "$$ROOT"},
                            "p": {"$push": "$n"},
                            "t": {"$addToSet": "$a.b"},
                            "c": {"$count": {}},
                        }
                    },
                    {"$sort": {"s": -1, "_id": 1}},
                    {"$project": {"s": 1, "both": ["$s", {"$literal": "$x"}]}},
                    {"$skip": 0},
                    {"$limit": 5},
                ],
                "limit": 2,
            },
        ),
        (
            "document_aggregate",
            {
                "pipeline": [
                    {
                        "$group": {
                            "_id": None,
                            "s": {"$sum": "$big"},
                            "l": {"$last": "$n"},
                            "i": {"$min": "$u"},
                        }
                    },
                    {"$count": "k"},
                ]
            },
        ),
        (
            "document_search",
            {
                "query": "abc x -y",
                "mode": "any",
                "weights": {"s": 0.5},
                "filter": {"n": {"$exists": True}},
                "projection": {"n": 1},
                "limit": 2,
                "snippets": True,
            },
        ),
        ("document_indexes", {}),
    ),
)

GRAPH = Odd(
    "graph",
    ({},),
    (
        ("graph_create_node", {"id": "ann", "labels": ["P", "Q"], "properties": {"age": 41}}),
        ("graph_create_node", {"id": "bob", "labels": ["P"]}),
        ("graph_create_node", {"id": "cat"}),
        (
            "graph_create_edge",
            {"id": "e1", "from": "ann", "to": "bob", "type": "knows", "properties": {"w": 2}},
        ),
        (
            "graph_create_edge",
            {"id": "e2", "from": "bob", "to": "cat", "type": "owns", "properties": {"w": 0.5}},
        ),
        (
            "graph_create_edge",
            {"from": "ann", "to": "ann", "type": "knows", "properties": {"w": 1e308}},
        ),
        ("graph_create_node", {"id": "far"}),
        ("graph_create_node", {"id": "off"}),
        (
            "graph_create_edge",
            {"from": "cat", "to": "far", "type": "far", "properties": {"w": 1e308}},
        ),
        (
            "graph_create_edge",
            {"from": "far", "to": "off", "type": "far", "properties": {"w": 1e308}},
        ),
    ),
    (
        ("graph_create_node", {"id": "dan", "labels": ["P"], "properties": {"a": {"b": [1]}}}),
        (
            "graph_create_edge",
            {"id": "e3", "from": "ann", "to": "cat", "type": "knows", "properties": {"w": 1e308}},
        ),
        (
            "graph_create_edge",
            {
                "id": "e4",
                "from": "cat",
                "to": "bob",
                "type": "knows",
                "properties": {"w": 2**64 - 1},
            },
        ),
        ("graph_update_node", {"id": "ann", "set": {"age": 42}, "unset": ["x"], "labels": ["R"]}),
        ("graph_update_edge", {"id": "e1", "set": {"w": 3}, "unset": ["v"]}),
        (
            "graph_execute",
            {
                "query": "MATCH (a {id: $from}) MERGE (a)-[r:knows {w: $w}]->(b:P {id: 'new'}) "
                "ON CREATE SET b.age = a.age + $w, b += $more REMOVE a:Q RETURN b.age, r",
                "parameters": {"from": "ann", "w": 2, "more": {"x": [1, None]}},
            },
        ),
        (
            "graph_execute",
            {
                "query": "UNWIND $rows AS row CREATE (n:R {v: row.v}) "
                "WITH n WHERE n.v > 1 DELETE n",
                "parameters": {"rows": [{"v": 1}, {"v": 2.5}, {"v": "x"}]},
            },
        ),
        ("graph_execute", {"query": "MATCH (n {id: 'cat'}) DETACH DELETE n"}),
        ("graph_delete_edge", {"id": "e2"}),
        ("graph_delete_node", {"id": "ann"}),
    ),
    (
        ("graph_list_nodes", {"label": "P", "limit": 1}),
        ("graph_list_edges", {"limit": 2}),
        (
            "graph_query",
            {
                "query": "MATCH p = (a:P)-[r:knows*1..2]->(b) WHERE a.age >= $age OR b.id IN $ids "
                "RETURN b.id, count(*) AS n, collect(a.age), avg(a.age) "
                "ORDER BY n DESC LIMIT $most",
                "parameters": {"age": 1, "ids": ["bob", None], "most": 3},
            },
        ),
        (
            "graph_query",
            {
                "query": "UNWIND $list AS x WITH x, x * $factor AS y "
                "RETURN x, y / $factor, size($text)",
                "parameters": {"list": [1, 2.5, 1e308], "factor": 3, "text": "abc"},
            },
        ),
        ("graph_algorithm", {"algorithm": "pagerank", "damping": 0.5, "weight": "w", "limit": 2}),
        ("graph_algorithm", {"algorithm": "degree", "direction": "out", "types": ["knows"]}),
        ("graph_algorithm", {"algorithm": "weakly_connected_components", "members": 2}),
        ("graph_get", {"id": "ann"}),
        ("graph_get", {"edge": "e1"}),
        ("graph_count", {"label": "P", "type": "knows"}),
        (
            "graph_neighbors",
            {"id": "ann", "direction": "both", "types": ["knows", "owns"], "limit": 1},
        ),
        (
            "graph_traverse",
            {
                "start": "ann",
                "direction": "both",
                "max_depth": 3,
                "types": ["knows"],
                "filter": {"labels": ["P"], "properties": {"age": 41}},
                "limit": 1,
            },
        ),
        (
            "graph_shortest_path",
            {"from": "ann", "to": "cat", "direction": "both", "weight": "w", "max_cost": 1e308},
        ),
        ("graph_shortest_path", {"from": "cat", "to": "off", "weight": "w"}),
        ("graph_shortest_path", {"from": "ann", "to": "bob", "types": ["knows"]}),
    ),
)

RELATIONAL = Odd(
    "relational",
    ({}, {"bytes_max": 1 << 20}),
    (
        (
            "sql_execute",
            {
                "statements": [
                    {"sql": "CREATE TABLE t (n INTEGER PRIMARY KEY, v, u TEXT UNIQUE)"},
                    {"sql": "CREATE VIRTUAL TABLE f USING fts5(a)"},
                    {"sql": "INSERT INTO t VALUES (1, 1, 'b'), (2, x'00ff', NULL), (3, 9e999, 0)"},
                ]
            },
        ),
    ),
    (
        (
            "sql_execute",
            {"sql": "INSERT INTO t (v, u) VALUES (?, ?) RETURNING *", "params": [1.5, "k"]},
        ),
        (
            "sql_execute",
            {
                "sql": "INSERT OR REPLACE INTO t VALUES (:n, :v, :u)",
                "params": {"n": 5, "v": {"base64": "AAE="}, "u": None},
            },
        ),
        (
            "sql_execute",
            {
                "statements": [
                    {"sql": "UPDATE t SET v = ?", "params": [True]},
                    {"sql": "DELETE FROM t WHERE n = 2"},
                ]
            },
        ),
        (
            "sql_execute",
            {"sql": "UPDATE t SET v = hex(randomblob(? * 1e300)) RETURNING v", "params": [2]},
        ),
        ("sql_execute", {"sql": "UPDATE t SET v = randomblob(?)", "params": [4]}),
        ("sql_execute", {"sql": "INSERT INTO f VALUES (?)", "params": ["words of text"]}),
        ("sql_execute", {"sql": "INSERT INTO t (v) VALUES (CAST(x'ff' AS TEXT)) RETURNING v"}),
        (
            "sql_execute",
            {
                "sql": "UPDATE t SET v = datetime('now', ?) || strftime(?)",
                "params": ["+1 day", "%s"],
            },
        ),
        (
            "sql_execute",
            {"sql": "INSERT INTO t (v) VALUES (printf('%.*c', ?, 'x'))", "params": [10]},
        ),
        ("sql_execute", {"sql": "UPDATE t SET v = json_set('{}', ?, ?)", "params": ["$.a", 1]}),
        (
            "sql_execute",
            {"sql": "CREATE TABLE IF NOT EXISTS k (x CHECK (x > 0), y AS (x + 1))"},
        ),
        ("sql_execute", {"sql": "ROLLBACK"}),
        ("sql_execute", {"sql": "CREATE VIRTUAL TABLE IF NOT EXISTS r USING rtree(id, a, b)"}),
        ("sql_execute", {"sql": "INSERT INTO r VALUES (?, ?, ?)", "params": [1, 2, 3]}),
        ("sql_execute", {"sql": "INSERT INTO f(f, rank) VALUES (?, ?)", "params": ["merge", 4]}),
        ("sql_execute", {"sql": "EXPLAIN SELECT * FROM f"}),
        ("sql_execute", {"sql": "SELECT trim(?, ?), instr(?, ?)", "params": ["a", "b", "c", "d"]}),
        ("sql_execute", {"sql": "CREATE VIRTUAL TABLE z USING fts4(a)"}),
        ("sql_execute", {"sql": "INSERT OR ROLLBACK INTO t VALUES (1, 1, 1)"}),
        ("sql_execute", {"sql": "SELECT load_extension('x')"}),
        (
            "sql_execute",
            {
                "sql": "SELECT sum(n), -9223372036854775808 / -1, abs(-9223372036854775808), "
                "1e308 * 10 FROM t"
            },
        ),
    ),
    (
        ("sql_query", {"sql": "SELECT * FROM t WHERE n > ? ORDER BY n", "params": [0], "limit": 2}),
        (
            "sql_query",
            {
                "sql": "SELECT n AS \"\", v, CAST(x'ff' AS TEXT) FROM t WHERE u = :u",
                "params": {"u": "b"},
            },
        ),
        (
            "sql_query",
            {"sql": "SELECT highlight(f, 0, '[', ']') FROM f WHERE f MATCH ?", "params": ["words"]},
        ),
        ("sql_query", {"sql": "SELECT 9e999, -9e999, x'00', 'a' || char(0) || 'b', random()"}),
        ("sql_query", {"sql": "SELECT date('now')"}),
        (
            "sql_query",
            {"sql": "SELECT substr(?, ?, ?), round(?, ?)", "params": ["abc", 1, 2, 1.5, 3]},
        ),
        ("sql_query", {"sql": "SELECT value FROM json_each(?)", "params": ["[1,2]"]}),
        ("sql_tables", {}),
    ),
)
