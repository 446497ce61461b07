"""Texts that mean nothing, or nothing good: refused with the field that is at fault, or answered;
never an error of Python, never a statement that the log would read otherwise."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.cypher_codec import plain, rebuild
from engines.cypher_errors import CypherError
from engines.cypher_functions import FUNCTIONS
from engines.cypher_parser import parse
from engines.cypher_tree import bare
from engines.errors import InvalidArgument
from tests.unit.one_collection import collection
from tests.unit.test_graph import GraphState

WORDS = (
    "MATCH", "OPTIONAL", "WHERE", "RETURN", "WITH", "UNWIND", "CREATE", "MERGE", "SET", "REMOVE",
    "DELETE", "DETACH", "ORDER", "BY", "SKIP", "LIMIT", "AS", "DISTINCT", "AND", "OR", "XOR",
    "NOT", "IN", "IS", "NULL", "CASE", "WHEN", "THEN", "ELSE", "END", "ON", "STARTS", "CONTAINS",
    "true", "null", "n", "m", "r", "x", "id", "count", "collect", "size", ":P", ":T", "n.x", "$p",
    "$q", "1", "2.5", "'a'", "(", ")", "[", "]", "{", "}", ",", ":", ".", "..", "*", "+", "-",
    "/", "%", "=", "<>", "<", ">", "<-", "->", "-", "--", "-->", "()", "(n)", "(n:P)", "(m)",
    "-[r]->", "-[:T*1..2]-", "{x:1}", "n.x=1", "`a`", "//", "/*", "*/", ";", "|", "=",
)  # fmt: skip
OPERANDS = (
    "null", "true", "0", "-3", "2.5", "''", "'ab'", "'12'", "[]", "[1, null]", "['a', [n]]", "{}",
    "{a: 1}", "n", "r", "p", "[r]", "n.x", "n.s", "r.x", "$p", "nodes(p)", "9223372036854775807",
    "1e308",
)  # fmt: skip
OPERATORS = (
    "=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "IN", "STARTS WITH", "ENDS WITH",
    "CONTAINS", "AND", "OR", "XOR",
)  # fmt: skip
AGGREGATES = ("count", "sum", "avg", "min", "max", "collect", "collect(DISTINCT", "min(DISTINCT")


@pytest.fixture(scope="module")
def state() -> Iterator[GraphState]:
    with (
        tempfile.TemporaryDirectory(prefix="hivemem-texts-") as folder,
        collection(GraphState, Path(folder) / "state") as made,
    ):
        made.nodes("a", "b", labels=["P"], properties={"x": 1, "s": "é"})
        made.edge("a", "b", "T", x=2)
        yield made


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)))
def test_a_text_is_refused_or_means_something(state: GraphState, text: str) -> None:
    given = {"query": text, "parameters": {"p": {"x": 1}, "q": [1]}}
    with contextlib.suppress(InvalidArgument):
        state.query("graph_query", **given)
    with contextlib.suppress(InvalidArgument):
        state.query("graph_query", **given, explain=True)
    with contextlib.suppress(InvalidArgument):
        state.engine.prepare("graph_execute", given)
    with contextlib.suppress(CypherError):
        statement = parse(text)
        assert bare(rebuild(plain(statement))) == bare(statement)


def wild(chance: Random, depth: int) -> str:
    """An expression whose parts need not fit each other."""
    if depth == 0 or chance.random() < 0.2:
        return chance.choice(OPERANDS)
    inner = [wild(chance, depth - 1) for _ in range(3)]
    match chance.randrange(8):
        case 0 | 1 | 2:
            name = chance.choice([*FUNCTIONS])
            least, most = FUNCTIONS[name].least, min(3, FUNCTIONS[name].most)
            return f"{name}({', '.join(inner[: chance.randint(least, most)])})"
        case 3:
            return f"({inner[0]} {chance.choice(OPERATORS)} {inner[1]})"
        case 4:
            return f"({inner[0]})[{inner[1]}]"
        case 5:
            return f"({inner[0]})[{inner[1]}..{inner[2]}]"
        case 6:
            return f"CASE {inner[0]} WHEN {inner[1]} THEN {inner[2]} END"
        case _:
            return chance.choice(
                [f"({inner[0]}).x", f"({inner[0]}):P", f"NOT ({inner[0]})", f"-({inner[0]})",
                 f"({inner[0]}) IS NULL", f"[{inner[0]}, {inner[1]}]", f"{{a: {inner[0]}}}"]
            )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=True))
def test_values_of_any_kind_anywhere(state: GraphState, chance: Random) -> None:
    start = "MATCH p = (n {id: 'a'})-[r]->() "
    for _ in range(4):
        first, second = wild(chance, 2), wild(chance, 2)
        aggregate = chance.choice(AGGREGATES)
        opened = aggregate if "(" in aggregate else f"{aggregate}("
        for text in (
            f"{start}RETURN {first} AS v ORDER BY {second}, v",
            f"{start}UNWIND {first} AS v RETURN DISTINCT v ORDER BY v LIMIT 3",
            f"{start}WITH {first} AS v, n WHERE v RETURN v",
            f"{start}UNWIND [{first}, {second}] AS v RETURN {opened}v) AS w",
            f"{start}RETURN {first}, count(*) AS c ORDER BY c",
            f"MATCH (n {{id: 'a'}})-[r]-(m {{x: n.x}}), p = (m) WHERE {first} RETURN {second}",
        ):
            with contextlib.suppress(InvalidArgument):
                state.query("graph_query", query=text, parameters={"p": {"x": 1}})
        for text in (
            f"{start}SET n.x = {first}, n += {second}",
            f"{start}CREATE (:Q {{x: {first}, y: {second}}})-[:T {{z: {second}}}]->(n)",
            f"{start}MERGE (:Q {{x: {first}}}) ON MATCH SET n.x = {second}",
            f"{start}DELETE {first}",
        ):
            with contextlib.suppress(InvalidArgument):
                state.write("graph_execute", query=text, parameters={"p": {"x": 1}})
        # Whatever it did, there is something to go on with.
        state.write("graph_execute", query="MATCH (q:Q) DETACH DELETE q")
        state.write("graph_execute", query="MERGE (n:P {id: 'a'}) MERGE (m:P {id: 'b'}) "
                    "MERGE (n)-[:T]->(m)")  # fmt: skip
