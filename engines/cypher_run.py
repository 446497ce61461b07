"""A statement of Cypher on a graph: its clauses put together, and run.

Reads stream: a row passes from clause to clause, and nothing waits but what has to be sorted or
grouped. In a statement that writes, each clause takes all rows before the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError, CypherLimit
from engines.cypher_expressions import Compiler, Row, Scope
from engines.cypher_graph import Graph
from engines.cypher_plan import plan_match
from engines.cypher_project import Projection
from engines.cypher_writer import Writer
from engines.cypher_writes import Clause, Create, Delete, Merge, Update

_ROW_BYTES: Final = 200
Stage = Callable[[Iterator[Row]], Iterator[Row]]


class Program:
    """A statement, ready to run once on one graph. Raises CypherError for what is wrong in it."""

    def __init__(self, statement: tree.Statement, graph: Graph, writer: Writer | None) -> None:
        """`writer`: None in a statement that only reads."""
        self._graph = graph
        self._writer = writer
        self._written = False  # by a clause so far
        self._stages: list[Stage] = []
        self._explained: list[dict[str, Any]] = []
        self.columns: list[str] | None = None  # None: it answers no rows
        self._scope = self._first = Scope()
        for clause in statement.clauses:
            self._stages.append(self._stage(clause))

    def rows(self) -> list[list[Any]]:
        """As JSON holds them. All clauses have run then. Raises CypherError."""
        limits, graph = self._graph.budget.limits, self._graph
        rows: Iterator[Row] = iter([[None] * self._first.size])
        for stage in self._stages:
            rows = stage(rows)
        found: list[list[Any]] = []
        for row in rows:
            if self.columns is None:
                continue
            if len(found) == limits.result_rows_max:
                raise CypherLimit(f"answers more than {limits.result_rows_max} rows: use LIMIT")
            graph.budget.answer(_ROW_BYTES)
            found.append([graph.shown(value) for value in row])
        return found

    def explained(self) -> list[dict[str, Any]]:
        """The plan: one operator after another."""
        return self._explained

    def _stage(self, clause: tree.Clause) -> Stage:
        match clause:
            case tree.Match():
                return self._match(clause)
            case tree.Unwind():
                return self._unwind(clause)
            case tree.Project():
                return self._project(clause)
            case _:
                return self._write(clause)

    def _match(self, clause: tree.Match) -> Stage:
        plan = plan_match(self._graph, self._scope, clause.paths, clause.where)
        for step in plan.steps:
            found = {**step.explained(), "conditions": len(step.conditions)}
            self._explained.append({**found, "optional": True} if clause.optional else found)
        stream, bound, row_made = plan.stream, plan.bound, self._graph.budget.row

        def run(rows: Iterator[Row]) -> Iterator[Row]:
            for row in rows:
                for _ in stream(row):
                    row_made()
                    yield row

        def run_optional(rows: Iterator[Row]) -> Iterator[Row]:
            for row in rows:
                missing = True
                for _ in stream(row):
                    missing = False
                    row_made()
                    yield row
                if missing:
                    for place in bound:
                        row[place] = None
                    row_made()
                    yield row

        return run_optional if clause.optional else run

    def _unwind(self, clause: tree.Unwind) -> Stage:
        of = Compiler(self._graph, self._scope).compile(clause.of)
        name = clause.variable.name
        if name in self._scope.bindings:
            raise CypherError(f"variable {name} is bound already", clause.variable.place)
        slot = self._scope.add(name, "value").slot
        self._explained.append({"operator": "Unwind", "variable": name})
        row_made = self._graph.budget.row

        def run(rows: Iterator[Row]) -> Iterator[Row]:
            for row in rows:
                value = of(row)
                items = value if type(value) is list else [] if value is None else [value]
                for item in items:
                    row_made()
                    row[slot] = item
                    yield row

        return run

    def _project(self, clause: tree.Project) -> Stage:
        made = Projection(self._graph, clause, self._scope)
        self._scope = made.scope
        names = [column.name for column in made.columns]
        if clause.last:
            self.columns = names
        found: dict[str, Any] = {"operator": "Return" if clause.last else "With", "columns": names}
        for name, said in (
            ("grouped", made.grouped), ("distinct", clause.distinct),
            ("sorted", bool(clause.order)),
        ):  # fmt: skip
            if said:
                found[name] = True
        if made.limit is not None:
            found["limit"] = made.limit
        self._explained.append(found)
        if not self._written:
            return made.run
        # LIMIT may end what comes before it, and what writes must run to its end.
        return lambda rows: made.run(iter([row[:] for row in rows]))

    def _write(self, clause: tree.Clause) -> Stage:
        if self._writer is None:
            raise CypherError("it writes")
        made: Clause
        found: dict[str, Any] = {"operator": type(clause).__name__}
        match clause:
            case tree.Create():
                made = Create(self._writer, self._scope, clause.paths)
            case tree.Merge():
                made = merge = Merge(self._writer, self._scope, clause)
                found["match"] = [step.explained() for step in merge.plan.steps]
            case tree.Update():
                made = Update(self._writer, self._scope, clause.changes)
            case tree.Delete():
                made = Delete(self._writer, self._scope, clause)
            case _:
                raise AssertionError(clause)
        self._written = True
        self._explained.append(found)
        return made.run
