"""Cypher on the engine `graph`: the corners of its meaning, its errors, its bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from engines import graph_cypher
from engines.cypher_budget import READ_LIMITS, WRITE_LIMITS, Budget, CypherLimits
from engines.cypher_check import (
    CLAUSES_MAX,
    COLUMNS_MAX,
    EXISTS_DEPTH_MAX,
    HOPS_MAX,
    PATTERN_EDGES_MAX,
)
from engines.cypher_codec import plain, rebuild
from engines.cypher_errors import CypherError, CypherLimit
from engines.cypher_functions import FUNCTIONS
from engines.cypher_graph import Graph, Nothing
from engines.cypher_parser import STATEMENT_BYTES_MAX, parse
from engines.cypher_run import Program
from engines.cypher_tree import EXPRESSION_DEPTH_MAX, Statement, bare
from engines.cypher_writer import Writer
from engines.engine import Kind, Stamp
from engines.errors import InvalidArgument, UnknownCommand
from engines.graph_cypher import PARAMETERS_BYTES_MAX, WRITE_PARAMETERS_BYTES_MAX
from engines.interfaces import RejectCode, Rejected
from tests.unit.one_collection import collection
from tests.unit.test_graph import GraphState


class CypherState(GraphState):
    def ask(self, text: str, **parameters: Any) -> list[list[Any]]:
        found: list[list[Any]] = self.query("graph_query", query=text, parameters=parameters)[
            "rows"
        ]
        return found

    def one(self, text: str, **parameters: Any) -> Any:
        """The only value of the only row."""
        ((value,),) = self.ask(text, **parameters)
        return value

    def execute(self, text: str, **parameters: Any) -> Any:
        return self.write("graph_execute", query=text, parameters=parameters)

    def fails(self, text: str, **parameters: Any) -> str:
        with pytest.raises(InvalidArgument) as raised:
            self.query("graph_query", query=text, parameters=parameters)
        assert raised.value.field == "parameters.query"
        return str(raised.value).removeprefix("parameters.query: ")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[CypherState]:
    with collection(CypherState, tmp_path / "state") as made:
        yield made


@pytest.fixture
def people(state: CypherState) -> CypherState:
    """ann knows bob and carl, bob knows carl, carl knows himself; dog is owned by ann."""
    answer = state.execute(
        "CREATE (a:Person {id: 'ann', age: 41}), (b:Person {id: 'bob', age: 7}), "
        "(c:Person {id: 'carl'}), (d:Dog {id: 'dog', age: 7.0}), (a)-[:KNOWS {id: 'ab'}]->(b), "
        "(a)-[:KNOWS {id: 'ac'}]->(c), (b)-[:KNOWS {id: 'bc'}]->(c), (c)-[:KNOWS {id: 'cc'}]->(c), "
        "(a)-[:OWNS {id: 'ad', since: 2019}]->(d)"
    )
    assert answer["summary"]["nodes_created"] == 4
    assert answer["summary"]["relationships_created"] == 5
    return state


# --- Values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("null = null", None),
        ("null <> 1", None),
        ("NOT null", None),
        ("true OR null", True),
        ("false OR null", None),
        ("false AND null", False),
        ("true AND null", None),
        ("true XOR null", None),
        ("1 IN [2, null]", None),
        ("1 IN [1, null]", True),
        ("null IN []", False),
        ("null IN [1]", None),
        ("[1, null] = [1, 2]", None),
        ("[1, null] = [2, null]", False),
        ("[1] = [1, null]", False),
        ("{a: 1} = {a: 1.0}", True),
        ("1 = '1'", False),
        ("1 = true", False),
        ("1 < 'a'", None),
        ("1 < 1.5", True),
        ("'a' < 'b' <= 'b'", True),
        ("1 < 2 > 3", False),
        ("[1, 2] < [1, 3]", True),
        ("null IS NULL", True),
        ("1 + null", None),
        ("9223372036854775807 + 9223372036854775807 + 1", (1 << 64) - 1),
        ("-9223372036854775807 - 1", -(1 << 63)),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 / 2.0", 3.5),
        ("2 + 3 * 4 - 1", 13),
        ("'a' + 1", "a1"),
        ("[1] + 2 + [3]", [1, 2, 3]),
        ("[1, 2, 3][-1]", 3),
        ("[1, 2, 3][5]", None),
        ("[1, 2, 3][1..]", [2, 3]),
        ("{a: {b: 1}}.a.b", 1),
        ("{a: 1}['a']", 1),
        ("'abc' STARTS WITH 'ab' AND 'abc' ENDS WITH 'c' AND 'abc' CONTAINS 'b'", True),
        ("'a' STARTS WITH null", None),
        ("CASE 2 WHEN 1 THEN 'a' WHEN 2 THEN 'b' END", "b"),
        ("CASE WHEN null THEN 1 ELSE 2 END", 2),
        ("coalesce(null, 2, 3)", 2),
        ("size('äb') + size([1])", 3),
        ("range(5, 1, -2)", [5, 3, 1]),
        ("toInteger('12') + toInteger(' 3.9')", 15),
        ("toInteger('x')", None),
        ("toFloat('1e3')", 1000.0),
        ("toString(1.5) + toString(true)", "1.5true"),
        ("toBoolean('TRUE')", True),
        ("toUpper('a') + toLower('B') + trim(' c ')", "Abc"),
        ("substring('hello', 1, 3) + left('ab', 1) + right('ab', 1)", "ellab"),
        ("replace('aXbX', 'X', '-') + head(split('c,d', ','))", "a-b-c"),
        ("abs(-3) + sign(-2)", 2),
        ("[ceil(1.2), floor(-1.2), round(2.5), sqrt(4)]", [2.0, -2.0, 3.0, 2.0]),
        ("reverse([1, 2]) + tail([1, 2]) + [last([3])]", [2, 1, 2, 3]),
        ("keys({b: 1, a: 2})", ["a", "b"]),
        ("'it\\'s \\u0041\\n'", "it's A\n"),
        ("1 /* one */ + 1 // two", 2),
    ],
)
def test_expressions(state: CypherState, expression: str, value: Any) -> None:
    found = state.one(f"RETURN {expression}")
    assert (found, type(found)) == (value, type(value))


def test_values_come_back_as_given(state: CypherState) -> None:
    given = {"a": 0, "b": False, "c": "", "d": None, "e": [1, {"f": b"\x00"}], "g": 1 << 63}
    assert state.one("RETURN $p", p=given) == given
    kept = {name: value for name, value in given.items() if value is not None}
    state.execute("CREATE (n {id: 'a'}) SET n = $p", p=given)
    assert state.one("MATCH (n) RETURN properties(n)") == kept
    assert state.query("graph_get", id="a")["node"]["properties"] == kept


def test_order_over_all_kinds(people: CypherState) -> None:
    listed = "[null, 1, 'a', true, [1], {a: 1}, 0.5, false, null, n]"
    ordered = people.ask(f"MATCH (n:Dog) UNWIND {listed} AS x RETURN x ORDER BY x")
    node = people.query("graph_query", query="MATCH (n:Dog) RETURN n")["rows"][0][0]
    expected = [{"a": 1}, node, [1], "a", False, True, 0.5, 1, None, None]
    assert [value for (value,) in ordered] == expected
    ordered = people.ask(f"MATCH (n:Dog) UNWIND {listed} AS x RETURN x ORDER BY x DESC")
    assert [value for (value,) in ordered] == expected[::-1]


# --- Patterns --------------------------------------------------------------------------


def ids(rows: list[list[Any]]) -> list[str]:
    return sorted("".join(str(each) for each in row) for row in rows)


def test_an_edge_is_bound_once_within_a_match(people: CypherState) -> None:
    both = people.ask("MATCH (a)-[r]-(b)-[s]-(c) RETURN id(r), id(s)")
    assert both
    assert all(r != s for r, s in both)
    apart = people.ask("MATCH (a)-[r:OWNS]-() MATCH ()-[s:OWNS]-(b) RETURN id(r), id(s)")
    assert ["ad", "ad"] in apart
    assert people.one("MATCH (a)-[:OWNS]->(), (b)-[:OWNS]->() RETURN count(*)") == 0


def test_directions_and_loops(people: CypherState) -> None:
    assert ids(people.ask("MATCH ({id: 'carl'})-[r]->() RETURN r.id")) == ["cc"]
    assert ids(people.ask("MATCH ({id: 'carl'})<-[r]-() RETURN r.id")) == ["ac", "bc", "cc"]
    # A loop is one way, whatever the direction.
    assert ids(people.ask("MATCH ({id: 'carl'})-[r]-() RETURN r.id")) == ["ac", "bc", "cc"]
    assert ids(people.ask("MATCH (a)-[r]->(a) RETURN r.id")) == ["cc"]
    assert ids(people.ask("MATCH (a {id: 'bob'})<-->(b) RETURN b.id")) == ["ann", "carl"]
    assert people.one("MATCH (a)-[:KNOWS|OWNS]->() RETURN count(*)") == 5
    assert people.one("MATCH (a)-[:KNOWS|:KNOWS]->() RETURN count(*)") == 4


def test_variable_length_and_paths(people: CypherState) -> None:
    found = people.ask(
        "MATCH p = (a {id: 'ann'})-[r:KNOWS*0..3]->(b) RETURN length(p), size(r), b.id"
    )
    assert sorted(found) == [
        [0, 0, "ann"], [1, 1, "bob"], [1, 1, "carl"], [2, 2, "carl"], [2, 2, "carl"],
        [3, 3, "carl"],
    ]  # fmt: skip
    path = people.one("MATCH p = (:Dog)<-[:OWNS]-(a)-[:KNOWS]->({id: 'bob'}) RETURN p")
    assert [node["id"] for node in path["nodes"]] == ["dog", "ann", "bob"]
    assert [edge["id"] for edge in path["relationships"]] == ["ad", "ab"]
    assert people.one("MATCH (a)-[*2..2 {since: 2019}]-(b) RETURN count(*)") == 0
    assert people.one("MATCH (a)-[*1 {since: 2019}]->(b) RETURN b.id") == "dog"


def test_optional_match_and_null_nodes(people: CypherState) -> None:
    rows = people.ask("MATCH (a) OPTIONAL MATCH (a)-[:OWNS]->(d) RETURN a.id, d.id ORDER BY a.id")
    assert rows == [["ann", "dog"], ["bob", None], ["carl", None], ["dog", None]]
    found = people.ask(
        "MATCH (a {id: 'bob'}) OPTIONAL MATCH (a)-[r:OWNS]->(d) "
        "OPTIONAL MATCH (d)-[s]-(e) RETURN d, labels(d), type(r), d:Dog, e, size(labels(d))"
    )
    assert found == [[None] * 6]
    assert people.ask("OPTIONAL MATCH (x:None) MATCH (x) RETURN x") == []
    assert people.ask("OPTIONAL MATCH (x:None) MATCH (x)-->(y) RETURN y") == []


def test_exists(people: CypherState) -> None:
    asked = "MATCH (a) WHERE {} RETURN a.id ORDER BY a.id"
    for condition, found in (
        ("EXISTS { (a)-->() }", ["ann", "bob", "carl"]),
        ("NOT exists { MATCH (a)-->(:Person) }", ["dog"]),
        ("EXISTS { (a)-[r:KNOWS]->(b) WHERE b.age > 5 AND a.age > b.age }", ["ann"]),
        ("EXISTS { (a)-[:KNOWS*2..3]->(b {id: 'carl'}) } AND NOT EXISTS { (a)-[:OWNS]->() }",
         ["bob"]),
        ("EXISTS { (a)-->(b) WHERE EXISTS { (b)<-[:OWNS]-(a) } }", ["ann"]),
    ):  # fmt: skip
        assert [name for (name,) in people.ask(asked.format(condition))] == found
    rows = people.ask("MATCH (a) RETURN EXISTS { (a)-->() } AS e, count(*) ORDER BY e")
    assert rows == [[False, 1], [True, 3]]
    rows = people.ask(
        "MATCH (a) RETURN a.id ORDER BY EXISTS { (a)<-[:OWNS]-() } DESC, a.id LIMIT 1"
    )
    assert rows == [["dog"]]
    answer = people.execute("MATCH (a) WHERE NOT EXISTS { (a)-->() } SET a.leaf = true")
    assert answer["summary"]["properties_set"] == 1


def test_the_id_is_a_property(people: CypherState) -> None:
    assert people.one("MATCH (n {id: 'ann'}) RETURN n.id = id(n) AND elementId(n) = n['id']")
    assert people.one("MATCH ()-[r {id: 'ad'}]->(d) RETURN d.id") == "dog"
    assert people.ask("MATCH (n {id: 7}) RETURN n") == []
    assert people.ask("MATCH (n) WHERE n.id = $long RETURN n", long="é" * 400) == []
    assert people.ask("MATCH ({id: 'bob'})-[r {id: 'ab'}]-(a) RETURN a.id") == [["ann"]]
    assert people.ask("MATCH ({id: 'bob'})-[r {id: 'ab'}]->() RETURN 1") == []
    assert people.ask("MATCH ({id: 'dog'})-[r {id: 'ab'}]-() RETURN 1") == []
    assert people.one("MATCH ()-[r {id: 'ab'}]-() RETURN count(*)") == 2
    assert people.one("MATCH (n)-[r {id: 'cc'}]-(n) RETURN count(*)") == 1
    two = people.ask("MATCH (n) WHERE n.id IN ['dog', 'no', 'ann', 'dog', 1] RETURN n.id")
    assert two == [["dog"], ["ann"]]
    # A property of that name, which another operation may have stored, is behind it.
    people.write("graph_create_node", id="odd", properties={"id": 5})
    assert people.ask("MATCH (n {id: 'odd'}) RETURN n.id, properties(n).id") == [["odd", 5]]


# --- Projections -----------------------------------------------------------------------


def test_grouping(people: CypherState) -> None:
    rows = people.ask("MATCH (a)-[:KNOWS]->(b) RETURN a.id AS who, count(*) AS n ORDER BY who")
    assert rows == [["ann", 2], ["bob", 1], ["carl", 1]]
    assert people.ask("MATCH (n:None) RETURN count(n), sum(n.x), avg(n.x), collect(n)") == [
        [0, 0, None, []]
    ]
    assert people.ask("MATCH (n:None) RETURN n.x, count(*)") == []
    row = people.ask("MATCH (n) RETURN count(n.age), count(DISTINCT n.age), max(n.age) - 1")
    assert row == [[3, 2, 40]]
    # Null groups with null, and 7 with 7.0.
    found = people.ask("MATCH (n) RETURN n.age AS age, count(*) AS n ORDER BY n DESC, age")
    assert found == [[7, 2], [41, 1], [None, 1]]
    rows = people.ask("MATCH (n:Person) RETURN n.id ORDER BY n.age DESC, n.id")
    assert rows == [["carl"], ["ann"], ["bob"]]
    assert people.ask("MATCH (a)-->(b) RETURN a.id ORDER BY a.id LIMIT 1") == [["ann"]]
    rows = people.ask("MATCH (a)-->() RETURN a.id, count(*) ORDER BY count(*) DESC LIMIT 1")
    assert rows == [["ann", 3]]


def test_with_and_unwind(people: CypherState) -> None:
    assert people.ask(
        "MATCH (a)-->(b) WITH a, count(b) AS n WHERE n > 1 MATCH (a)-[:OWNS]->(d) RETURN d.id, n"
    ) == [["dog", 3]]
    assert people.ask("UNWIND [] AS x RETURN x") == people.ask("UNWIND null AS x RETURN x") == []
    assert people.ask("UNWIND [[1, 2], 3] AS x UNWIND x AS y RETURN y") == [[1], [2], [3]]
    assert people.ask("MATCH (n) WITH n ORDER BY n.id SKIP 1 LIMIT 2 RETURN n.id") == [
        ["bob"], ["carl"],
    ]  # fmt: skip
    answer = people.query("graph_query", query="MATCH (n:Dog)-[r]-(m) WITH * RETURN *, 1 + 1")
    assert answer["columns"] == ["n", "r", "m", "1 + 1"]
    assert people.one("WITH [1, 2] AS l WITH l, size(l) AS s RETURN l[s - 1]") == 2


def test_few_rows_are_kept_for_the_first_of_many(state: CypherState) -> None:
    text = "UNWIND range(1, 9999) AS x WITH x % 100 AS y, x AS x RETURN x ORDER BY y DESC LIMIT 3"
    assert state.ask(text) == [[99], [199], [299]]  # equals in the order that they came in


# --- Errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MATCH (n) RETURN m", "line 1, column 18: variable m is not defined"),
        ("MATCH (n)\nWHERE n.x ==\n 1 RETURN n", "line 2, column 12: unexpected '='"),
        ("MATCH (n) RETURN n UNION MATCH (m) RETURN m", "column 20: UNION is not part of"),
        ("CALL db.labels()", "CALL is not part of what is offered"),
        ("MATCH p = shortestPath((a)-[*1..2]-(b)) RETURN p", "shortestPath is not part of"),
        ("MATCH (n) WHERE EXISTS { (n)-->(x) } RETURN x", "variable x is not defined"),
        (
            "MATCH (n) WHERE EXISTS { (n)-->(x) WHERE y.a = 1 } RETURN n",
            "variable y is not defined",
        ),
        ("RETURN 1 LIMIT CASE WHEN EXISTS { (n) } THEN 1 END", "LIMIT takes no variables"),
        ("FOREACH (x IN [1] | CREATE ())", "FOREACH is not part of"),
        ("MATCH (a)-[*]->(b) RETURN b", "column 12: * needs an upper bound"),
        ("MATCH (a)-[*1..99]->(b) RETURN b", "hops go from 0 to 30"),
        ("MATCH (a)-[*3..2]->(b) RETURN b", "hops go from 0 to 30"),
        ("MATCH (n)", "must end with RETURN"),
        ("MATCH (n) WITH n", "must end with RETURN"),
        ("MATCH (n) WITH n.x RETURN 1", "column 16: an expression in WITH needs a name"),
        ("RETURN 1 MATCH (n) RETURN n", "nothing may follow RETURN"),
        ("RETURN 1 AS a, 2 AS a", "two columns are called a"),
        ("RETURN *", "* where there are no variables"),
        ("MATCH (n) RETURN count(count(n))", "may stand in WITH and RETURN only"),
        ("MATCH (n) WHERE count(n) > 1 RETURN n", "count() may stand in WITH and RETURN only"),
        ("MATCH (n) RETURN n.x + count(*)", "beside an aggregate may stand"),
        ("MATCH (n)-[n]->() RETURN n", "variable n is bound already"),
        ("MATCH (a)-[r]->() MATCH (b)-[r]->() RETURN r", "variable r is bound already"),
        ("MATCH ()-[r]->() MATCH (r) RETURN r", "variable r is a relationship, not a node"),
        ("RETURN nosuch(1)", "column 8: function nosuch is not known"),
        ("RETURN size()", "size does not take these arguments"),
        ("RETURN size(1)", "size of a number"),
        ("RETURN 1 LIMIT -1", "LIMIT is to be a whole number of at least 0"),
        ("MATCH (n) RETURN n LIMIT n.x", "LIMIT takes no variables"),
        ("RETURN 1 / 0", "a division by zero"),
        ("RETURN 1 + true", "+ of a boolean"),
        ("RETURN 9223372036854775807 * 4", "does not fit 64 bits"),
        ("RETURN -9223372036854775807 - 2", "does not fit 64 bits"),
        ("RETURN 9223372036854775808", "beyond 2^63 - 1"),
        ("MATCH (a) WHERE (a)-->() RETURN a", "column 22: unexpected '>'; a pattern is no"),
        ("MATCH (a) WHERE NOT (a)-[:X]->(:B) RETURN a", "stands in EXISTS { }"),
        ("MATCH (a) WHERE (a)<-[r:X]-() RETURN a", "stands in EXISTS { }"),
        ("MATCH (a) WHERE (a)<--() RETURN a", "stands in EXISTS { }"),
        ("MATCH (a) WHERE (a {x: 1})-->() RETURN a", "stands in EXISTS { }"),
        ("MATCH (a) WHERE (:A)-->(a) RETURN a", "stands in EXISTS { }"),
        ("MATCH (a) RETURN size((a)-->())", "stands in EXISTS { }"),
        ("MATCH (a)-[:X y]->(b) RETURN a", "unexpected 'y'; expected one of"),
        ("RETURN 1e308 * 10", "no finite number"),
        ("UNWIND [1] AS x WITH x WHERE x RETURN x", "a condition is a number"),
        ("RETURN NOT 1", "NOT of a number"),
        ("RETURN '", "unexpected"),
        (f"RETURN {'(' * 100}1{')' * 100} + {'-' * 100}1", "is nested deeper than"),
        (f"MATCH (:{'L' * 65}) RETURN 1", "must be 1 to 64"),
        ("MATCH (n:A) RETURN n;;", "unexpected ';'"),
        ("MATCH " + ", ".join(["()"] * 17) + " RETURN 1", "at most 16"),
        ("MATCH (a) " * 33 + "RETURN 1", "has 34 clauses"),
        (f"MATCH (a{':A' * 17}) RETURN 1", "has 17 labels in one place; at most 16"),
        (f"MATCH ()-[:{'|'.join('A' * 33)}]-() RETURN 1", "has 33 types in one place"),
        (f"RETURN {', '.join(f'1 AS c{n}' for n in range(65))}", "has 65 columns in one place"),
    ],
)
def test_what_is_wrong_is_said(state: CypherState, text: str, message: str) -> None:
    assert message in state.fails(text)


@pytest.mark.parametrize(
    "text",
    [
        *("MATCH (a) RETURN COUNT { (a)-->() }", "MATCH (a:Person) RETURN a {.age}"),
        *("MATCH (a:Person) WHERE exists(a.age) RETURN a", "PROFILE MATCH (a) RETURN a"),
        *("MATCH (a:Person|Dog) RETURN a", "MATCH (a:!Dog) RETURN a", "RETURN 'text'[0]"),
        *("RETURN timestamp()", "RETURN datetime()", "RETURN date()", "RETURN rand()"),
        *("RETURN randomUUID()", "RETURN reduce(s = 0, x IN [1] | s + x)"),
        *("RETURN any(x IN [1] WHERE x = 1)", "RETURN all(x IN [1] WHERE x = 1)"),
        *("RETURN none(x IN [1] WHERE x = 1)", "RETURN single(x IN [1] WHERE x = 1)"),
        *("CALL { RETURN 1 } RETURN 2", "FOREACH (x IN [1] | CREATE ())"),
    ],
)
def test_what_the_page_leaves_out_is_refused(people: CypherState, text: str) -> None:
    assert people.fails(text)


def test_a_pattern_that_reads_as_a_subtraction_is_told_so(people: CypherState) -> None:
    told = people.fails("MATCH (a {id: 'ann'}), (b) WHERE (a)--(b) RETURN a")
    assert "- of a node; a pattern is no expression; as a condition it stands in EXISTS" in told


def test_parameters(state: CypherState) -> None:
    assert state.ask("RETURN $a, $1, $a.b", **{"a": {"b": 2}, "1": 3}) == [[{"b": 2}, 3, 2]]
    for operation, text, most in (
        ("graph_query", "RETURN $x", PARAMETERS_BYTES_MAX),
        ("graph_execute", "CREATE ({a: $x})", WRITE_PARAMETERS_BYTES_MAX),
    ):
        for given, field in (
            ({"query": text}, "parameters.x"),
            ({"query": text, "parameters": {"x": float("nan")}}, "parameters.x"),
            ({"query": text, "parameters": {"x": "y" * most}}, "parameters"),
            ({"query": text, "parameters": []}, "parameters"),
            ({"query": text, "cypher": text}, "query"),
            ({"parameters": {}}, "query"),
            ({"query": 1}, "query"),
            ({"query": "RETURN 1 //" + "x" * STATEMENT_BYTES_MAX}, "query"),
            ({"query": text, "limit": 1}, "limit"),
            ({"cypher": "RETURN"}, "cypher"),
        ):
            run = state.query if operation == "graph_query" else state.write
            with pytest.raises(InvalidArgument) as raised:
                run(operation, **given)
            assert raised.value.field == f"parameters.{field}"
    assert state.query("graph_query", cypher="RETURN 1 AS x") == {"columns": ["x"], "rows": [[1]]}


def test_reads_and_writes_keep_to_their_operation(state: CypherState) -> None:
    assert "use graph_execute" in state.fails("CREATE (n)")
    with pytest.raises(InvalidArgument, match="use graph_query"):
        state.execute("MATCH (n) RETURN n")
    with pytest.raises(InvalidArgument, match="use graph_query"):
        state.execute("EXPLAIN CREATE (n)")


def test_the_plan_is_told(people: CypherState) -> None:
    def plan(text: str, **more: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = people.query("graph_query", query=text, **more)["plan"]
        return found

    steps = plan("EXPLAIN MATCH (p:Person)-[:OWNS]->(d:Dog) WHERE d.age > 3 RETURN p")
    assert [step["operator"] for step in steps] == ["NodesOfLabel", "Expand", "Return"]
    assert (steps[0]["variable"], steps[0]["estimated_rows"]) == ("d", 1)
    assert (steps[1]["from"], steps[1]["direction"]) == ("d", "in")
    steps = plan("MATCH (a)-->(b) WHERE $id = b.id RETURN a", parameters={"id": "x"}, explain=True)
    assert (steps[0]["operator"], steps[0]["variable"]) == ("NodeById", "b")
    steps = plan("EXPLAIN MATCH ()-[r]->() WHERE id(r) = 'ad' DELETE r")
    assert [step["operator"] for step in steps] == ["RelationshipById", "Delete"]
    (step,) = plan("EXPLAIN MERGE (a {id: 'ann'})-[:T]->(b {id: 'bob'})")
    # Both ends by id, then from the one with fewer relationships.
    kinds = [each["operator"] for each in step["match"]]
    assert (kinds, step["match"][2]["to_bound"]) == (["NodeById", "NodeById", "Expand"], True)
    steps = plan("EXPLAIN MATCH (n) WHERE n:Dog AND n.age > 3 RETURN n")
    assert (steps[0]["operator"], steps[0]["label"]) == ("NodesOfLabel", "Dog")
    assert people.one("MATCH ()-[r:OWNS]->() RETURN count(r)") == 1


def test_reads_are_bounded(people: CypherState) -> None:
    for limit, text, message in (
        ("visited_nodes_max", "MATCH (n) RETURN n.id", "visits more than 3 nodes"),
        ("visited_edges_max", "MATCH (a:Person)-->(b) RETURN 1", "follows more than 3 rel"),
        ("rows_max", "UNWIND [1, 2, 3, 4] AS x RETURN count(x)", "makes more than 3 rows"),
        ("work_max", "RETURN range(1, 1000) + 1", "takes more than 3 units"),
        ("held_bytes_max", "UNWIND [1, 2] AS x RETURN x ORDER BY x", "holds rows of more than 3"),
        ("held_bytes_max", "UNWIND [1, 2] AS x RETURN DISTINCT x", "holds rows of more than 3"),
        ("held_bytes_max", "UNWIND [1, 2] AS x RETURN collect(x)", "holds rows of more than 3"),
        ("result_rows_max", "UNWIND [1, 2, 3, 4] AS x RETURN x", "answers more than 3 rows"),
        ("result_bytes_max", "RETURN 'abcd'", "answers more than 3 bytes"),
        ("result_bytes_max", "MATCH (n) RETURN collect(n)", "answers more than 3 bytes"),
        ("work_max", f"RETURN {'1 + ' * 62}1", "takes more than 3 units"),
    ):
        limits = READ_LIMITS._replace(**{limit: 3})
        with patch.object(graph_cypher, "READ_LIMITS", limits):
            assert message in people.fails(text)
    with patch.object(graph_cypher, "READ_LIMITS", READ_LIMITS._replace(visited_nodes_max=1)):
        assert len(people.ask("MATCH (n) RETURN n LIMIT 1")) == 1
    assert "more than 10000 numbers" in people.fails("RETURN range(1, 10001)")
    ends = {"a": -(1 << 63), "b": (1 << 64) - 1}
    assert "more than 10000 numbers" in people.fails("RETURN range($a, $b)", **ends)
    assert people.ask("RETURN range($a, $b, $b), range(5, 1, -2), range(1, 5, -1)", **ends) == [
        [[ends["a"], (1 << 63) - 1], [5, 3, 1], []]
    ]
    answer = people.execute("CREATE () WITH range($a, $b) AS x RETURN size(x)", **ends)
    refused(answer, RejectCode.INVALID_ARGUMENT, "more than 10000 numbers")
    doubled = "WITH $x AS x " + "WITH [x, x] AS x " * 6 + "RETURN size(x)"
    assert "a list or map of more than" in people.fails(doubled, x="y" * 100_000)
    deeper = "WITH 1 AS x " + f"WITH {'[' * 50}x{']' * 50} AS x " * 30 + "RETURN x"
    assert "nested deeper than 100" in people.fails(deeper)
    assert "+ makes more than" in people.fails("RETURN $x + $x", x="y" * 600_000)


def nested_exists(depth: int, innermost: str = "true") -> str:
    """Of a condition on n: each in a place that is both tested and looked up."""
    test = innermost
    for _ in range(depth):
        test = f"EXISTS {{ MATCH (n) WHERE n.id = CASE WHEN {test} THEN 1 END }}"
    return f"MATCH (x) WHERE {test} "


def test_nested_exists_is_bounded(state: CypherState) -> None:
    assert state.ask(nested_exists(EXISTS_DEPTH_MAX) + "RETURN 1") == []
    for depth in (EXISTS_DEPTH_MAX + 1, 10):
        text = nested_exists(depth)
        assert state.fails(text + "RETURN 1") == "EXISTS is nested deeper than 4"
        with pytest.raises(InvalidArgument, match="EXISTS is nested deeper than 4"):
            state.engine.prepare("graph_execute", {"query": text + "CREATE ()"})
    text = f"MATCH (x) WHERE {'EXISTS { MATCH () WHERE ' * 5}true{' }' * 5} CREATE ()"
    refusal = state.command("graph_execute", [1, "query", plain(parse(text)), {}])
    assert isinstance(refusal, Rejected)
    assert "EXISTS is nested deeper than 4" in refusal.message


def test_what_is_compiled_is_counted(state: CypherState) -> None:
    def parts(text: str, **parameters: Any) -> int:
        budget = Budget(WRITE_LIMITS, lambda *_: None)
        graph = Graph(Nothing(), parameters, budget, writing=True)
        Program(parse(text), graph, Writer(graph, Stamp(0, 0)))
        return budget.compiled_parts

    # A condition is compiled once, whatever it is within; what is looked up, once more.
    plainly = ["EXISTS { MATCH (n) WHERE " * n + "true" + " }" * n for n in (1, 2, 3)]
    assert [parts(f"MATCH (x) WHERE {each} CREATE ()") for each in plainly] == [2, 3, 4]
    numbers = ", ".join("1" * 2_600)
    for text in (
        f"CREATE ({{x: [{numbers}]}})",
        f"MERGE (n {{id: [{numbers}]}})",
        nested_exists(2, f"1 IN [{numbers}]") + "CREATE ()",
        "MATCH (a) " + "WITH a ORDER BY a.x " * (CLAUSES_MAX - 2) + "SET a.x = 1",
        "MATCH " + ", ".join(["(a)-[:T {x: 1}]->()"] * PATTERN_EDGES_MAX) + " SET a.x = 1",
    ):
        assert len(text) < STATEMENT_BYTES_MAX
        assert parts(text) < WRITE_LIMITS.compiled_max
    wide = {f"p{number}": 1 for number in range(WRITE_LIMITS.compiled_max)}
    with pytest.raises(CypherLimit, match="more than 20000 parts"):
        parts("MATCH (a $wide) SET a.x = 1", wide=wide)


# --- Writes ----------------------------------------------------------------------------


def refused(answer: Any, code: RejectCode, message: str) -> None:
    assert isinstance(answer, Rejected)
    assert (answer.code, answer.field) == (code, "parameters.query")
    assert message in answer.message


def test_what_the_state_refuses_changes_nothing(people: CypherState) -> None:
    before = people.ask("MATCH (n) OPTIONAL MATCH (n)-[r]->() RETURN n, r")
    wrong = RejectCode.INVALID_ARGUMENT
    for text, code, message in (
        ("CREATE (:New) CREATE ({id: 'ann'})", RejectCode.ITEM_EXISTS, "there is a node ann"),
        ("MATCH (a:Dog) CREATE (a)-[:T {id: 'ab'}]->(a)", RejectCode.ITEM_EXISTS, " ab"),
        ("CREATE ({id: 7})", wrong, "id: must be text"),
        ("CREATE ({id: ''})", wrong, "must be 1 to 128"),
        ("MATCH (a:Dog) SET a.x = a", wrong, "a node cannot be a property"),
        ("MATCH (a:Dog) SET a.x = [1, {b: a}]", wrong, "a node cannot be a property"),
        ("MATCH (a:Dog) SET a += {id: 'x'}", wrong, "the id of dog cannot change"),
        ("MATCH (a:Dog) SET a = 1", wrong, "properties from a number"),
        ("MATCH (a {id: 'ann'}) DELETE a", wrong, "use DETACH DELETE"),
        ("MATCH (a:Dog) DETACH DELETE a RETURN a.age", RejectCode.ITEM_NOT_FOUND, "was deleted"),
        (
            "MATCH (a:Dog), (b {id: 'bob'}) DETACH DELETE a CREATE (a)-[:T]->(b)",
            RejectCode.ITEM_NOT_FOUND,
            "node dog was deleted",
        ),
        ("MERGE (n:Person {id: 'dog'})", RejectCode.ITEM_EXISTS, "there is a node dog"),
        ("MERGE (n {x: null})", wrong, "MERGE of a property that is null"),
        ("CREATE (n) WITH n WHERE 1 / 0 = 1 RETURN n", wrong, "a division by zero"),
        ("CREATE (n {t: toUpper('é')})", wrong, "beyond ASCII"),
        ("UNWIND range(1, 17) AS x MERGE (n:A) SET n:B WITH n, x CREATE (:C) CREATE (:D) "
         "SET n.x = x / 0", wrong, "a division by zero"),
    ):  # fmt: skip
        refused(people.execute(text), code, message)
        assert people.ask("MATCH (n) OPTIONAL MATCH (n)-[r]->() RETURN n, r") == before
    labels = "".join(f":L{number}" for number in range(16))
    refused(people.execute(f"CREATE (n{labels}) SET n:L16"), RejectCode.LIMIT_EXCEEDED, "16 labels")
    large = {"x": "y" * 65_537}
    answer = people.execute("CREATE (n $p)", p=large)
    refused(answer, RejectCode.LIMIT_EXCEEDED, "properties of more than 65536 bytes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE (a)-[:T]-(b)", "needs a direction"),
        ("CREATE (a)-[]->(b)", "needs one type"),
        ("CREATE (a)-[:T|U]->(b)", "needs one type"),
        ("CREATE (a)-[:T*1..2]->(b)", "needs one type, and no length"),
        ("CREATE p = (a)", "takes no name"),
        ("MATCH (a) CREATE (a:L)", "variable a is bound already"),
        ("MATCH (a) MERGE (a {x: 1})-[:T]->(b)", "variable a is bound already"),
        ("MATCH ()-[r]->() CREATE ()-[r:T]->()", "variable r is bound already"),
        ("MERGE (a)-[:T*1..2]->(b)", "MERGE takes no relationship of variable length"),
        ("MATCH (a) SET a.id = 'x'", "an id cannot change"),
        ("MATCH (a) SET b.x = 1", "variable b is not defined"),
        ("CREATE (a {x: nosuch(1)})", "function nosuch is not known"),
        ("CREATE (n) MATCH (m)", "must end with RETURN"),
    ],
)
def test_a_write_that_cannot_be_meant_never_reaches_the_log(
    state: CypherState, text: str, message: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        state.engine.prepare("graph_execute", {"query": text})
    assert raised.value.field == "parameters.query"
    assert message in str(raised.value)


def test_a_clause_reads_what_the_one_before_left(state: CypherState) -> None:
    state.execute("UNWIND [1, 2] AS x CREATE (:N {x: x})")
    # It takes all of its rows before it makes any: two, not four or more.
    answer = state.execute("MATCH (n:N) CREATE (m:N {x: n.x + 10}) RETURN m.x")
    assert answer["rows"] == [[11], [12]]
    state.execute("MATCH (n:N) SET n.x = n.x + 1, n.y = n.x")
    assert state.ask("MATCH (n:N) RETURN n.x, n.y ORDER BY n.x") == [[x, x] for x in (2, 3, 12, 13)]
    answer = state.execute("UNWIND [1, 1, 2] AS x MERGE (m:M {x: x}) RETURN count(DISTINCT m)")
    assert answer["rows"] == [[2]]
    assert answer["summary"]["nodes_created"] == 2
    # LIMIT ends no write, but what is read before one: two of many go.
    answer = state.execute("MATCH (n:N) WITH n LIMIT 2 DETACH DELETE n")
    assert answer["summary"]["nodes_deleted"] == 2
    answer = state.execute("UNWIND range(1, 5) AS x CREATE (n:K) RETURN n LIMIT 0")
    assert answer["rows"] == []
    assert state.query("graph_count", label="K") == {"nodes": 5}


def test_made_ids_come_from_the_stamp(state: CypherState) -> None:
    first = state.execute("CREATE (a)-[r:T]->(b) RETURN a.id, b.id, r.id")["rows"][0]
    base = f"{state.now:012x}{state.seed:016x}"
    assert first == [base, f"{base}-1", f"{base}-2"]


def test_deletes(people: CypherState) -> None:
    answer = people.execute("MATCH (a {id: 'ann'})-[r]->(b) DELETE r, a RETURN count(b)")
    assert answer["rows"] == [[3]]
    counts = [answer["summary"][f"{kind}_deleted"] for kind in ("nodes", "relationships")]
    assert counts == [1, 3]
    answer = people.execute("MATCH p = ({id: 'bob'})-->() DETACH DELETE p")
    assert answer["summary"]["nodes_deleted"] == 2
    assert people.ask("MATCH (n) RETURN n.id") == [["dog"]]
    answer = people.execute("OPTIONAL MATCH (n:None) DETACH DELETE n SET n.x = 1 REMOVE n.y, n:Dog")
    assert not any(answer["summary"].values())


def test_writes_are_bounded(people: CypherState) -> None:
    before = people.digest()
    for limit, text, message in (
        ("visited_nodes_max", "MATCH (n) SET n.x = 1", "visits more than 3 nodes"),
        ("visited_edges_max", "MATCH (a:Person)-[r]->() SET r.x = 1", "follows more than 3"),
        ("rows_max", "UNWIND [1, 2, 3, 4] AS x CREATE ()", "makes more than 3 rows"),
        ("work_max", "CREATE ({x: range(1, 1000)})", "takes more than 3 units"),
        ("held_bytes_max", "CREATE ()", "holds rows of more than 3 bytes"),
        ("work_max", f"CREATE ({{x: 1 IN [{', '.join('2' * 80)}]}})", "takes more than 3 units"),
        ("changed_max", "CREATE (), (), (), ()", "changes more than 3 nodes"),
        ("changed_max", "MATCH (a {id: 'carl'}) DETACH DELETE a", "changes more than 3"),
        ("result_rows_max", "CREATE () WITH 1 AS x UNWIND [1, 2, 3, 4] AS y RETURN y", "4 rows"),
    ):
        limits = WRITE_LIMITS._replace(**{limit: 3})
        with patch.object(graph_cypher, "WRITE_LIMITS", limits):
            answer = people.execute(text)
        refused(answer, RejectCode.LIMIT_EXCEEDED, message.replace("4 rows", "more than 3 rows"))
    assert people.ask("MATCH (n) RETURN count(n)") == [[4]]
    assert before != people.digest()  # refusals are remembered; items are as they were


def passes(limits: CypherLimits, text: str, **parameters: Any) -> tuple[str | None, int]:
    """What refuses a statement on an empty graph, if anything, and the steps that it took."""
    steps = [0]

    def step(more: int) -> None:
        steps[0] += 1 + more

    graph = Graph(Nothing(), parameters, Budget(limits, step), writing=False)
    try:
        Program(parse(text), graph, None).rows()
    except CypherLimit as error:
        return str(error), steps[0]
    return None, steps[0]


PASSES = (  # $a, $b: lists of numbers, equal but for the last; $m: a map; each row looks at them
    "WITH $a AS a, count(*) AS c RETURN c",
    "RETURN max([x] + $a)",
    "RETURN count(DISTINCT $a)",
    "WITH x ORDER BY $a LIMIT 1 RETURN x",
    "WITH DISTINCT $a AS a RETURN 1",
    "WITH CASE $a WHEN $b THEN 1 END AS y RETURN count(y)",
    "WITH CASE [$a] WHEN [$b] THEN 1 END AS y RETURN count(y)",
    "WITH $a = $b AS y RETURN count(y)",
    "WITH [[[$a]]] < [[[$b]]] AS y RETURN count(y)",
    "WITH x IN [x] + $a AS y RETURN count(y)",
    "WITH size(keys($m)) AS y RETURN count(y)",
    "WITH size($s) AS n, $s STARTS WITH $s AS y RETURN count(y)",
    "WITH size(split($s, 'x')) AS y RETURN count(y)",
    "MATCH (n) WHERE n.id IN [x] + $a RETURN count(n)",
)


@pytest.mark.parametrize("text", PASSES)
def test_passes_over_whole_values_are_charged(text: str) -> None:
    """Each row is: with all else unbounded, many rows are refused, and few pass."""
    a = [1] * 4_000
    given = {"a": a, "b": [*a[:-1], 2], "m": {f"k{n}": n for n in range(1_000)}, "s": "x" * 9_000}
    loose = READ_LIMITS._replace(work_max=WRITE_LIMITS.work_max, held_bytes_max=1 << 40)
    assert passes(loose, f"UNWIND range(1, 3) AS x {text}", **given)[0] is None
    message, steps = passes(loose, f"UNWIND range(1, 3000) AS x {text}", **given)
    assert message == f"takes more than {loose.work_max} units of work"
    # And who waits no more is noticed meanwhile: an item is a step, and some units are.
    assert steps > loose.work_max // 10


def test_rows_that_pass_on_are_charged() -> None:
    limits = READ_LIMITS._replace(work_max=10_000)
    many = ", ".join(f"max(x + {number}) AS m{number}" for number in range(20))
    for text in (
        "WITH x " * 12 + "RETURN count(x)",
        f"RETURN {many}",
        f"RETURN x % 2 AS y, {many}",
        "WITH x ORDER BY " + ", ".join(["x"] * 20) + " RETURN count(x)",
    ):
        assert passes(limits, f"UNWIND range(1, 100) AS x {text}")[0] is None
        message, _ = passes(limits, f"UNWIND range(1, 1000) AS x {text}")
        assert message == "takes more than 10000 units of work"


def test_a_list_that_stays_is_looked_through_once() -> None:
    ids = [f"n{number}" for number in range(5_000)]
    for text in (
        "UNWIND range(1, 3000) AS x WITH x IN $ids AS y RETURN count(y)",
        "UNWIND range(1, 3000) AS x WITH x, $ids AS ids WHERE NOT x IN ids RETURN count(x)",
        "UNWIND range(1, 3000) AS x WITH max($ids) AS y RETURN 1",
    ):
        limits = READ_LIMITS._replace(work_max=20_000)
        assert passes(limits, text, ids=ids)[0] is None
    assert passes(READ_LIMITS, "RETURN 1 IN $x, 2.0 IN $x, 5 IN $x", x=[1, 2, None])[0] is None


def test_sort_keys_are_held() -> None:
    """They take more than the values that they are of, even when those are one and the same."""
    a = [1] * 10_000
    for text in ("WITH x ORDER BY $a RETURN x", "WITH x ORDER BY $a + x RETURN x"):
        limits = READ_LIMITS._replace(held_bytes_max=20 << 20)
        message, _ = passes(limits, f"UNWIND range(1, 1000) AS x {text}", a=a)
        assert message is not None
        assert message.startswith(f"holds rows of more than {20 << 20} bytes")
    # Those that are let go are not counted any more.
    text = "UNWIND range(1, 1500) AS x WITH x ORDER BY $a LIMIT 1 RETURN x"
    assert passes(READ_LIMITS, text, a=[1] * 200)[0] is None


def test_values_of_rows_that_pass_are_held() -> None:
    """Rows of all clauses are there at a time, and each may have values of its own."""
    made = ", ".join(f"$s + 'x' AS s{number}" for number in range(10))
    text = f"WITH {made} " * 8
    message, _ = passes(READ_LIMITS, f"{text} RETURN 1", s="x" * 1_000_000)
    assert message is not None
    assert message.startswith(f"holds rows of more than {64 << 20} bytes")
    # Of rows that pass one after another, only one.
    text = "UNWIND range(1, 1000) AS x WITH x, $s + 'x' AS s RETURN count(s)"
    assert passes(READ_LIMITS, text, s="x" * 1_000_000)[0] is None
    for copied in ("tail($a)", "reverse($a)", "$a[1..]", "keys($m)"):
        with pytest.raises(CypherError, match="makes more than 1048576 bytes"):
            passes(
                READ_LIMITS, f"RETURN {copied}",
                a=[1] * 140_000, m=dict.fromkeys(map(str, range(140_000))),
            )  # fmt: skip


def test_writes_with_large_parameters_are_refused(people: CypherState) -> None:
    """Whatever is done with a parameter of the size that is allowed, for each row."""
    a = [1] * 200_000
    before = people.one("MATCH (n) RETURN count(n)")
    for text in (
        "WITH $a AS a, count(*) AS c CREATE ()",
        "WITH max($a) AS a CREATE ()",
        "WITH x ORDER BY $a LIMIT 1 CREATE ()",
        "WITH count(DISTINCT $a) AS a CREATE ()",
        "WITH x WHERE x IN $a CREATE ()",
        "WITH CASE $a WHEN $a THEN 1 END AS y CREATE ()",
        "MATCH (n:Person) WHERE n.age IN $a SET n.x = 1",
    ):
        answer = people.execute(f"UNWIND range(1, 40) AS x {text}", a=a)
        refused(answer, RejectCode.LIMIT_EXCEEDED, "takes more than 50000 units of work")
    nulls = {f"k{number}": None for number in range(20_000)}
    answer = people.execute("UNWIND range(1, 2000) AS x MATCH (n:Dog) SET n += $m", m=nulls)
    refused(answer, RejectCode.LIMIT_EXCEEDED, "takes more than 50000 units of work")
    labels = " AND ".join(["n:" + ":".join(["Person"] * 16)] * 60)
    with patch.object(graph_cypher, "WRITE_LIMITS", WRITE_LIMITS._replace(work_max=2_000)):
        answer = people.execute(f"MATCH (n) WHERE {labels} SET n.x = 1")
    refused(answer, RejectCode.LIMIT_EXCEEDED, "takes more than 2000 units of work")
    assert people.one("MATCH (n) RETURN count(n)") == before


def test_a_write_nested_deeper_than_the_log_holds_is_refused_before_it(
    people: CypherState,
) -> None:
    def done(depth: int) -> str:
        text = f"MATCH (n:Dog) SET n.x = {'NOT ' * depth}true"
        try:
            answer = people.execute(text)
        except InvalidArgument as error:
            return str(error)
        return str(answer["summary"]["properties_set"])

    answers = [done(depth) for depth in range(20, EXPRESSION_DEPTH_MAX - 2)]
    # Never a refusal from the log: what is prepared is what is applied.
    fitting = answers.count("1")
    assert 0 < fitting < len(answers)
    assert answers[:fitting] == ["1"] * fitting
    for answer in answers[fitting:]:
        assert answer.startswith("parameters.query: is nested too deep for a write")


# --- The document ---------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[2] / "docs" / "engines" / "graph.md").read_text()


def test_the_documents_examples_are_true(state: CypherState) -> None:
    bodies = [json.loads(each) for each in re.findall(r"-d '(\{.*?\})'\n", DOCUMENT, re.DOTALL)]
    answers = []
    for body in bodies:
        if "operation" not in body:
            continue
        write = state.engine.operations[body["operation"]] is Kind.WRITE
        run = state.write if write else state.query
        answers.append((body["operation"], run(body["operation"], **body["parameters"])))
    (answer,) = [answer for operation, answer in answers if operation == "graph_query"]
    assert f"`{json.dumps(answer)}`" in DOCUMENT
    assert all(not isinstance(answer, Rejected) for _, answer in answers)
    (ranked,) = [answer for operation, answer in answers if operation == "graph_algorithm"]
    assert [each["id"] for each in ranked["items"]] == ["carl", "bob", "ann"]


def test_the_document_names_every_function_and_limit() -> None:
    (row,) = re.findall(r"^\| functions \| (.*) \|$", DOCUMENT, re.MULTILINE)
    assert sorted(name.lower() for name in re.findall(r"`(\w+)`", row)) == sorted(FUNCTIONS)
    for name in ("visited_nodes_max", "visited_edges_max", "rows_max", "work_max"):
        pair = [getattr(limits, name) for limits in (READ_LIMITS, WRITE_LIMITS)]
        assert f"| {pair[0]:,} | {pair[1]:,} |" in DOCUMENT, name
    assert f"| bytes of a statement | {STATEMENT_BYTES_MAX >> 10} KiB |" in DOCUMENT
    sizes = [each >> 10 for each in (PARAMETERS_BYTES_MAX, WRITE_PARAMETERS_BYTES_MAX)]
    assert f"| bytes of `parameters` | {sizes[0] >> 10} MiB | {sizes[1]} KiB |" in DOCUMENT
    held = [limits.held_bytes_max >> 20 for limits in (READ_LIMITS, WRITE_LIMITS)]
    assert f"| {held[0]} MiB | {held[1]} MiB |" in DOCUMENT
    answers = [
        f"{limits.result_rows_max:,}; {limits.result_bytes_max >> 20} MiB"
        for limits in (READ_LIMITS, WRITE_LIMITS)
    ]
    assert f"| {answers[0]} | {answers[1]} |" in DOCUMENT
    assert f"| – | {WRITE_LIMITS.changed_max:,} |" in DOCUMENT
    bounds = f"{CLAUSES_MAX}; {COLUMNS_MAX}; {PATTERN_EDGES_MAX}; {HOPS_MAX}"
    assert f"| {bounds} | {bounds} |" in DOCUMENT
    bounds = f"{EXISTS_DEPTH_MAX}; {WRITE_LIMITS.compiled_max:,}"
    assert f"| {bounds} | {bounds} |" in DOCUMENT


# --- The log ---------------------------------------------------------------------------


STATEMENTS = (
    "MATCH p = (a:A:B {x: $x})-[r:T|U*0..2 {y: 1}]->(b)<--(c) WHERE NOT a.x IN [1, 'é'] AND b:C "
    "OR a.y IS NULL XOR c.z[0][..1] STARTS WITH 'a' WITH DISTINCT a, count(*) AS n ORDER BY n DESC "
    "SKIP 1 LIMIT 2 WHERE n > 1.5 UNWIND [1] AS u SET a.x = -u, a += {y: null}, a:D REMOVE a.z",
    "MERGE (a {id: 'x'}) ON CREATE SET a.x = 1 ON MATCH SET a = $p RETURN *, CASE a.x WHEN 1 THEN "
    "2 ELSE 3 END, count(DISTINCT a)",
    "OPTIONAL MATCH (a) WHERE EXISTS { (a)-[:T]->(b) WHERE b.x = 1 } CREATE (a)-[:T]->(b {x: 1}) "
    "WITH a, b DETACH DELETE a DELETE b",
)


@pytest.mark.parametrize("text", STATEMENTS)
def test_the_plain_form_says_the_same(text: str) -> None:
    statement = parse(text)
    assert bare(rebuild(plain(statement))) == bare(statement)
    assert isinstance(rebuild(plain(statement)), Statement)


def test_a_body_from_the_log_is_not_trusted(state: CypherState) -> None:
    _, name, written, parameters = state.engine.prepare("graph_execute", {"query": STATEMENTS[2]})

    def broken(value: Any) -> Iterator[Any]:
        """Each place in turn is something else."""
        yield from (7, None, ["Nothing"])
        if isinstance(value, list):
            yield value[:-1]
            for place, each in enumerate(value):
                for other in broken(each):
                    yield [*value[:place], other, *value[place + 1 :]]

    whole = [name, written, parameters]
    tried = 0
    for other in [*broken(whole)]:
        body = [1, *other] if isinstance(other, list) else other
        answer = state.command("graph_execute", body)
        tried += 1
        if isinstance(answer, Rejected):
            assert answer.field is not None
            assert answer.field.startswith("parameters.")
    assert tried > 200
    deep: Any = ["Literal", 1]
    for _ in range(80):
        deep = ["Unary", "-", deep]
    body = [1, "query", ["Statement", False, [["Delete", False, [deep]]]], {}]
    assert isinstance(state.command("graph_execute", body), Rejected)
    with pytest.raises(UnknownCommand):
        state.command("graph_execute", [2, name, written, parameters])
