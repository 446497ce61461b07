"""CREATE, MERGE, SET, REMOVE and DELETE: within an apply, clause by clause.

A writing clause takes all of its rows before it changes anything, so that what it reads is as
the clauses before left it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Final

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError
from engines.cypher_expressions import HIDDEN, Compiler, Row, Scope
from engines.cypher_graph import Graph
from engines.cypher_plan import plan_match, wanted_properties
from engines.cypher_values import EdgeRef, NodeRef, Path, kind_of, weight
from engines.cypher_writer import Writer

_ROW_BYTES: Final = 200  # of a row that is held, besides its values
_WORK_VALUES: Final = 8  # of properties, for a unit of work
Change = Callable[[Row], None]


class Clause(ABC):
    """Runs once for all rows."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def run(self, rows: Iterator[Row]) -> Iterator[Row]:
        budget = self._writer.graph.budget
        held: list[Row] = []
        for row in rows:
            budget.hold(_ROW_BYTES + sum(map(weight, row)))
            held.append(row[:])
        return iter(self.changed(held))

    @abstractmethod
    def changed(self, rows: list[Row]) -> list[Row]:
        """Change the graph for each of the rows; returns those that go on."""


class Create(Clause):
    def __init__(self, writer: Writer, scope: Scope, paths: tuple[tree.PathPattern, ...]) -> None:
        super().__init__(writer)
        self._changes = [
            change for path in paths for change in creations(writer, scope, with_names(scope, path))
        ]
        self._scope = scope

    def changed(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            for change in self._changes:
                change(row)
        return rows


class Merge(Clause):
    """Finds a pattern, or makes all of it that is not bound."""

    def __init__(self, writer: Writer, scope: Scope, clause: tree.Merge) -> None:
        super().__init__(writer)
        graph = writer.graph
        path = with_names(scope, clause.path)
        before = {*scope.bindings}
        compiler = Compiler(graph, scope)
        patterns: list[tree.NodePattern | tree.EdgePattern] = [*path.nodes, *path.edges]
        self._wanted = [
            compiler.compile(value)
            for pattern in patterns
            for _, value in wanted_properties(graph, pattern)
        ]
        for edge in path.edges:
            if edge.most is not None:
                raise CypherError("MERGE takes no relationship of variable length")
        self.plan = plan_match(graph, scope, (path,), None)
        self._changes = creations(writer, scope, path, frozenset(before))
        self._on_create = updates(writer, scope, clause.on_create)
        self._on_match = updates(writer, scope, clause.on_match)

    def changed(self, rows: list[Row]) -> list[Row]:
        made: list[Row] = []
        budget = self._writer.graph.budget
        units = len(self._wanted) // _WORK_VALUES
        for row in rows:
            budget.work(units)
            if any(value(row) is None for value in self._wanted):
                raise CypherError("MERGE of a property that is null")
            found: list[Row] = []
            for _ in self.plan.stream(row):
                budget.row()
                budget.hold(_ROW_BYTES + sum(map(weight, row)))
                found.append(row[:])
            then = self._on_match if found else self._on_create
            if not found:
                for change in self._changes:
                    change(row)
                found.append(row)
            for each in found:
                for change in then:
                    change(each)
            made += found
        return made


class Update(Clause):
    def __init__(self, writer: Writer, scope: Scope, changes: tuple[tree.Change, ...]) -> None:
        super().__init__(writer)
        self._changes = updates(writer, scope, changes)

    def changed(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            for change in self._changes:
                change(row)
        return rows


class Delete(Clause):
    """Relationships of all rows first, then nodes: so that both may be named at once."""

    def __init__(self, writer: Writer, scope: Scope, clause: tree.Delete) -> None:
        super().__init__(writer)
        compiler = Compiler(writer.graph, scope)
        self._detach = clause.detach
        self._targets = [compiler.compile(each) for each in clause.targets]

    def changed(self, rows: list[Row]) -> list[Row]:
        nodes: dict[NodeRef, None] = {}
        edges: dict[EdgeRef, None] = {}
        for row in rows:
            for target in self._targets:
                found = target(row)
                if type(found) is NodeRef:
                    nodes[found] = None
                elif type(found) is EdgeRef:
                    edges[found] = None
                elif type(found) is Path:
                    nodes.update(dict.fromkeys(found.nodes))
                    edges.update(dict.fromkeys(found.edges))
                elif found is not None:
                    raise CypherError(f"DELETE of {kind_of(found)}")
        for edge in edges:
            self._writer.delete_edge(edge)
        for node in nodes:
            self._writer.delete_node(node, self._detach)
        return rows


def with_names(scope: Scope, path: tree.PathPattern) -> tree.PathPattern:
    """Every node and relationship with a variable. `scope` gets none of them yet."""
    if path.variable is not None:
        raise CypherError("a path that is to be made takes no name", path.variable.place)
    count = scope.size

    def named(pattern: Any, number: int) -> Any:
        if pattern.variable is not None:
            return pattern
        return pattern._replace(variable=tree.Variable(f"{HIDDEN}{count}.{number}"))

    nodes = [named(each, 2 * place) for place, each in enumerate(path.nodes)]
    edges = [named(each, 2 * place + 1) for place, each in enumerate(path.edges)]
    return tree.PathPattern(None, tuple(nodes), tuple(edges))


def creations(
    writer: Writer, scope: Scope, path: tree.PathPattern, before: frozenset[str] | None = None
) -> list[Change]:
    """What makes a path, in order. `before`: names that are bound, if `scope` knows more."""
    bound = {*scope.bindings} if before is None else {*before}
    changes: list[Change] = []
    for node in path.nodes:
        assert node.variable is not None
        name = node.variable.name
        if name in bound:
            kind = scope.find(node.variable).kind
            if node.labels or node.properties is not None or kind not in ("node", "value"):
                raise CypherError(f"variable {name} is bound already", node.variable.place)
            continue
        bound.add(name)
        if name not in scope.bindings:
            scope.add(name, "node")
        changes.append(_node_creation(writer, scope, node))
    for place, edge in enumerate(path.edges):
        assert edge.variable is not None
        name = edge.variable.name
        if name in bound:
            raise CypherError(f"variable {name} is bound already", edge.variable.place)
        bound.add(name)
        if len(edge.types) != 1 or edge.most is not None:
            raise CypherError("a relationship to be made needs one type, and no length")
        if before is None and edge.direction == "both":
            raise CypherError("a relationship to be made needs a direction")
        if name not in scope.bindings:
            scope.add(name, "relationship")
        ends = path.nodes[place : place + 2]
        changes.append(_edge_creation(writer, scope, edge, ends))
    return changes


def _node_creation(writer: Writer, scope: Scope, pattern: tree.NodePattern) -> Change:
    assert pattern.variable is not None
    slot, given = scope.find(pattern.variable).slot, _given(writer.graph, scope, pattern)

    def create(row: Row) -> None:
        row[slot] = writer.create_node(pattern.labels, given(row))

    return create


def _edge_creation(
    writer: Writer, scope: Scope, pattern: tree.EdgePattern, ends: tuple[tree.NodePattern, ...]
) -> Change:
    assert pattern.variable is not None
    slot, given = scope.find(pattern.variable).slot, _given(writer.graph, scope, pattern)
    places = [scope.find(end.variable).slot for end in ends if end.variable is not None]
    left, right = places[::-1] if pattern.direction == "in" else places
    (kind,) = pattern.types

    def create(row: Row) -> None:
        row[slot] = writer.create_edge(row[left], row[right], kind, given(row))

    return create


def _given(
    graph: Graph, scope: Scope, pattern: tree.NodePattern | tree.EdgePattern
) -> Callable[[Row], dict[str, Any]]:
    compiler = Compiler(graph, scope)
    parts = [(name, compiler.compile(value)) for name, value in wanted_properties(graph, pattern)]
    units, work = len(parts) // _WORK_VALUES, graph.budget.work

    def given(row: Row) -> dict[str, Any]:
        work(units)
        return {name: value(row) for name, value in parts}

    return given


def updates(writer: Writer, scope: Scope, changes: tuple[tree.Change, ...]) -> list[Change]:
    compiler = Compiler(writer.graph, scope)
    return [_update(writer, compiler, change) for change in changes]


def _update(writer: Writer, compiler: Compiler, change: tree.Change) -> Change:
    if isinstance(change, tree.SetProperty | tree.RemoveProperty):
        of, name = compiler.compile(change.of), change.name
        given_value = change.value if isinstance(change, tree.SetProperty) else tree.Literal(None)
        value = compiler.compile(given_value)
        if name == "id":
            raise CypherError("an id cannot change")
        return lambda row: writer.change_properties(of(row), {name: value(row)})
    target = compiler.compile(change.variable)
    if isinstance(change, tree.SetProperties):
        given, replaces = compiler.compile(change.value), not change.adds
        return lambda row: writer.change_properties(
            target(row), _map_of(writer.graph, given(row)), replaces
        )
    labels = change.labels
    if isinstance(change, tree.SetLabels):
        return lambda row: writer.change_labels(target(row), labels, ())
    return lambda row: writer.change_labels(target(row), (), labels)


def _map_of(graph: Graph, value: Any) -> dict[str, Any]:
    if type(value) in (NodeRef, EdgeRef):
        return {**graph.properties(value)}
    if type(value) is not dict:
        raise CypherError(f"properties from {kind_of(value)}, not a map")
    return value
