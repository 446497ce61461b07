"""The operations graph_query and graph_execute: statements of Cypher that read, and that write.

A write is parsed where it arrives. The log carries its tree as plain values, with a version, and
its parameters; apply takes nothing of that for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from engines.codec import BODY_DEPTH_MAX, Malformed, Value, check_value, pack_value
from engines.cypher_budget import READ_LIMITS, WRITE_LIMITS, Budget
from engines.cypher_check import check_statement, is_write
from engines.cypher_codec import plain, rebuild
from engines.cypher_errors import CypherConflict, CypherError, CypherLimit, MissingParameter
from engines.cypher_graph import Graph, Nothing
from engines.cypher_parser import STATEMENT_BYTES_MAX, parse
from engines.cypher_run import Program
from engines.cypher_tree import Statement
from engines.cypher_writer import Writer
from engines.engine import Refused, Stamp
from engines.errors import InvalidArgument, UnknownCommand
from engines.interfaces import RejectCode
from engines.parameters import PREFIX, boolean, exactly, members, text
from engines.space import Space, View

QUERY: Final = "graph_query"
EXECUTE: Final = "graph_execute"
PARAMETERS_BYTES_MAX: Final = 1 << 20  # packed
WRITE_PARAMETERS_BYTES_MAX: Final = 256 << 10  # one pass over them is some 0.05 s of each replica
STATEMENTS: Final = ("query", "cypher")  # of the statement: ours, and the one of older callers
_VERSION: Final = 1  # of a write in the log: its shape, and what it does
_NO_STAMP: Final = Stamp(0, 0)


def graph_query(view: View, given: Mapping[str, Any]) -> Value:
    """{columns, rows}; with `explain` {columns, plan}."""
    name, statement, parameters = _given(given, PARAMETERS_BYTES_MAX, frozenset({"explain"}))
    explain = boolean(given.get("explain", False), f"{PREFIX}.explain") or statement.explain
    writes = is_write(statement)
    if writes and not explain:
        raise InvalidArgument(f"{PREFIX}.{name}", f"it writes: use {EXECUTE}")
    budget = Budget(READ_LIMITS, view.step)
    try:
        check_statement(statement)
        graph = Graph(view, parameters, budget, writes)
        program = Program(statement, graph, Writer(graph, _NO_STAMP) if writes else None)
        columns: list[Value] = [*(program.columns or ())]
        if explain:
            return {"columns": columns, "plan": program.explained()}
        return {"columns": columns, "rows": program.rows()}
    except CypherError as error:
        _refuse(error, name)


def prepare_execute(given: Mapping[str, Any]) -> Value:
    """What the log carries. Raises InvalidArgument."""
    name, statement, parameters = _given(given, WRITE_PARAMETERS_BYTES_MAX)
    if statement.explain:
        raise InvalidArgument(f"{PREFIX}.{name}", f"EXPLAIN changes nothing: use {QUERY}")
    if not is_write(statement):
        raise InvalidArgument(f"{PREFIX}.{name}", f"it only reads: use {QUERY}")
    try:
        _program(statement, Nothing(), parameters, _NO_STAMP)
    except CypherError as error:
        _refuse(error, name)
    body: Value = [_VERSION, name, plain(statement), dict(parameters)]
    try:
        check_value(body, PREFIX, BODY_DEPTH_MAX)  # as apply will, when it is in the log
    except InvalidArgument:
        # Whatever else it checks holds: the parameters were checked, and texts are from a text.
        raise InvalidArgument(
            f"{PREFIX}.{name}",
            f"is nested too deep for a write: more than {BODY_DEPTH_MAX} levels in the log",
        ) from None
    return body


def apply_execute(space: Space, body: Any, stamp: Stamp) -> Value:
    """{columns, rows, summary}. Raises Refused, InvalidArgument,
    UnknownCommand, CorruptRecord."""
    name, statement, parameters = _from_log(body)
    field = f"{PREFIX}.{name}"
    try:
        program, writer = _program(statement, space, parameters, stamp)
        rows = program.rows()
    except CypherConflict as error:
        raise Refused(error.code, str(error), field) from error
    except CypherLimit as error:
        raise Refused(RejectCode.LIMIT_EXCEEDED, str(error), field) from error
    except CypherError as error:
        _refuse(error, name)
    summary: dict[str, Value] = {**writer.summary}
    return {"columns": [*(program.columns or ())], "rows": rows, "summary": summary}


def _program(
    statement: Statement, items: Space | Nothing, parameters: Mapping[str, Any], stamp: Stamp
) -> tuple[Program, Writer]:
    check_statement(statement)
    graph = Graph(items, parameters, Budget(WRITE_LIMITS, _no_step), writing=True)
    writer = Writer(graph, stamp)
    return Program(statement, graph, writer), writer


def _given(
    given: Mapping[str, Any], bytes_max: int, optional: frozenset[str] = frozenset()
) -> tuple[str, Statement, Mapping[str, Any]]:
    """Which name the statement came under, the statement, its parameters."""
    exactly(given, PREFIX, frozenset(), frozenset({*STATEMENTS, "parameters"}) | optional)
    name, other = STATEMENTS if "query" in given or "cypher" not in given else STATEMENTS[::-1]
    if name not in given or other in given:
        raise InvalidArgument(f"{PREFIX}.query", "give the statement as query (or cypher)")
    try:
        statement = parse(text(given[name], f"{PREFIX}.{name}", STATEMENT_BYTES_MAX, 1))
    except CypherError as error:
        _refuse(error, name)
    parameters = members(given.get("parameters", {}), f"{PREFIX}.parameters")
    check_value(parameters, f"{PREFIX}.parameters")
    if len(pack_value(parameters)) > bytes_max:
        raise InvalidArgument(f"{PREFIX}.parameters", f"is over {bytes_max} bytes")
    return name, statement, parameters


def _from_log(body: Any) -> tuple[str, Statement, Mapping[str, Any]]:
    """Raises InvalidArgument; UnknownCommand for what another build wrote, and does."""
    match body:
        case [int(version), *_] if version != _VERSION:
            raise UnknownCommand(f"{EXECUTE} of version {version}")
    try:
        match body:
            case [_, str(name), written, dict(parameters)]:
                statement = rebuild(written)
            case _:
                raise Malformed("is no statement")
        if name not in STATEMENTS or not is_write(statement) or statement.explain:
            raise Malformed("is no statement that writes")
    except Malformed as error:
        raise InvalidArgument(f"{PREFIX}.query", f"malformed: {error}") from error
    check_value(parameters, f"{PREFIX}.parameters")
    return name, statement, parameters


def _refuse(error: CypherError, name: str) -> NoReturn:
    if isinstance(error, MissingParameter):
        raise InvalidArgument(f"{PREFIX}.parameters.{error.name}", str(error)) from error
    raise InvalidArgument(f"{PREFIX}.{name}", str(error)) from error


def _no_step(more: int) -> None:
    """Within an apply nobody can stop waiting."""
