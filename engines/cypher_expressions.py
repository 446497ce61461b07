"""Expressions of Cypher as functions of a row.

A row is a list with a place for each variable of its scope; what is compiled once is called for
every row. Null is contagious wherever openCypher says so.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import sub
from typing import Any, Final, NamedTuple

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError
from engines.cypher_functions import AGGREGATES, FUNCTIONS, Function
from engines.cypher_graph import Graph
from engines.cypher_operators import BINARY, Members, arithmetic, negated
from engines.cypher_tree import bare, size_of
from engines.cypher_values import (
    SIZED,
    VALUE_BYTES_MAX,
    EdgeRef,
    NodeRef,
    boolean,
    check_made,
    depth_of,
    is_true,
    kind_of,
    weight,
)

HIDDEN: Final = "\x00"  # begins the names of what has none in the text
_WORK_BYTES: Final = 256  # of values compared or copied for a unit of work
WORK_PARTS: Final = 16  # of an expression

Row = list[Any]
Evaluate = Callable[[Row], Any]


class Binding(NamedTuple):
    """`kind`: node, relationship, relationships, path or value."""

    slot: int
    kind: str


class Scope:
    """The variables of a row. `known`: expressions whose value is in a place of the row."""

    def __init__(self) -> None:
        self.bindings: dict[str, Binding] = {}
        self.known: dict[Any, int] = {}
        self.size = 0  # places

    def add(self, name: str, kind: str) -> Binding:
        made = self.bindings[name] = Binding(self.place(), kind)
        return made

    def place(self) -> int:
        """A new one, without a name."""
        self.size += 1
        return self.size - 1

    def find(self, variable: tree.Variable) -> Binding:
        found = self.bindings.get(variable.name)
        if found is None:
            raise CypherError(f"variable {variable.name} is not defined", variable.place)
        return found


class Compiler:
    """Of `graph`, for rows of `scope`. Raises CypherError for what no row could make right."""

    def __init__(self, graph: Graph, scope: Scope, only: str | None = None) -> None:
        """`only`: variables have no business here; why."""
        self.graph = graph
        self.scope = scope
        self._only = only

    def inner(self) -> Scope:
        """Of a pattern within an expression: it knows the variables around it, and its own are
        nobody else's."""
        if self._only is not None:
            raise CypherError(self._only)
        scope = Scope()
        scope.bindings.update(self.scope.bindings)
        scope.size = self.scope.size
        return scope

    def compile(self, of: tree.Expression) -> Evaluate:
        """A whole expression; a large one is work each time."""
        evaluate, units = self._part(of), size_of(of) // WORK_PARTS
        if units == 0:
            return evaluate
        work = self.graph.budget.work

        def counted(row: Row) -> Any:
            work(units)
            return evaluate(row)

        return counted

    def _part(self, of: tree.Expression) -> Evaluate:
        if self.scope.known:
            slot = self.scope.known.get(bare(of))
            if slot is not None:
                return lambda row: row[slot]
        self.graph.budget.compiled()
        return COMPILERS[type(of)](self, of)

    def condition(self, of: tree.Expression) -> Callable[[Row], bool]:
        """Who tests it counts its parts."""
        evaluate = self._part(of)
        return lambda row: is_true(evaluate(row))

    def literal(self, of: tree.Literal) -> Evaluate:
        value = of.value
        return lambda row: value

    def parameter(self, of: tree.Parameter) -> Evaluate:
        value = self.graph.parameter(of.name)
        return lambda row: value

    def variable(self, of: tree.Variable) -> Evaluate:
        if self._only is not None:
            raise CypherError(self._only, of.place)
        slot = self.scope.find(of).slot
        return lambda row: row[slot]

    def property(self, of: tree.Property) -> Evaluate:
        inner, name, graph = self._part(of.of), of.name, self.graph
        if name == "id":
            return lambda row: _identity(inner(row))

        def get(row: Row) -> Any:
            value = inner(row)
            kind = type(value)
            if kind is NodeRef:
                return graph.node(value.id).properties.get(name)
            if kind is EdgeRef:
                return graph.edge(value.id).properties.get(name)
            if kind is dict:
                return value.get(name)
            if value is None:
                return None
            raise CypherError(f"{kind_of(value)} has no property {name}")

        return get

    def element(self, of: tree.Element) -> Evaluate:
        inner, place, graph = self._part(of.of), self._part(of.at), self.graph

        def get(row: Row) -> Any:
            value, at = inner(row), place(row)
            if value is None or at is None:
                return None
            if type(value) is list and type(at) is int:
                return value[at] if -len(value) <= at < len(value) else None
            if type(at) is str and type(value) is dict:
                return value.get(at)
            if type(at) is str and type(value) in (NodeRef, EdgeRef):
                return value.id if at == "id" else graph.properties(value).get(at)
            raise CypherError(f"{kind_of(value)} has no element at {kind_of(at)}")

        return get

    def slice(self, of: tree.Slice) -> Evaluate:
        inner = self._part(of.of)
        bounds = [None if each is None else self._part(each) for each in (of.first, of.last)]
        graph = self.graph

        def get(row: Row) -> Any:
            value = inner(row)
            ends = [None if each is None else each(row) for each in bounds]
            if value is None or any(
                end is None and each is not None for end, each in zip(ends, bounds, strict=True)
            ):
                return None
            if type(value) is not list or any(type(end) not in (int, type(None)) for end in ends):
                raise CypherError(f"a slice of {kind_of(value)}, or its bounds are no numbers")
            graph.budget.work(len(value) // 8)
            found = value[ends[0] : ends[1]]
            check_made(found, "a slice")
            return found

        return get

    def has_labels(self, of: tree.HasLabels) -> Evaluate:
        inner, labels, graph = self._part(of.of), of.labels, self.graph

        def has(row: Row) -> Any:
            value = inner(row)
            if value is None:
                return None
            if type(value) is EdgeRef:
                return all(label == value.type for label in labels)
            if type(value) is not NodeRef:
                raise CypherError(f"{kind_of(value)} has no labels")
            graph.budget.work(len(labels))
            return graph.has_labels(value.id, labels)

        return has

    def unary(self, of: tree.Unary) -> Evaluate:
        inner = self._part(of.of)
        match of.operator:
            case "IS NULL":
                return lambda row: inner(row) is None
            case "IS NOT NULL":
                return lambda row: inner(row) is not None
            case "NOT":
                return lambda row: negated(boolean(inner(row), "NOT"))
            case _:
                return lambda row: arithmetic(sub, 0, inner(row), "-")

    def binary(self, of: tree.Binary) -> Evaluate:
        left, right, budget = self._part(of.left), self._part(of.right), self.graph.budget
        operator = of.operator
        if operator == "IN":
            members = Members(budget)
            return lambda row: members.contain(left(row), right(row))
        apply = BINARY[operator]
        if operator in ("-", "*", "/", "%"):
            return lambda row: apply(left(row), right(row))
        ordering = operator in ("<", "<=", ">", ">=")

        def sized(row: Row) -> Any:
            a, b = left(row), right(row)
            if type(a) in SIZED or type(b) in SIZED:
                # What lists differ in first is compared again, a list further down.
                times = depth_of(a) if ordering and type(a) is type(b) is list else 1
                size = budget.compare(a, b, times)
                if operator == "+" and size > VALUE_BYTES_MAX:
                    raise CypherError(f"+ makes more than {VALUE_BYTES_MAX} bytes")
            return apply(a, b)

        return sized

    def junction(self, of: tree.Junction) -> Evaluate:
        operands, operator = [self._part(each) for each in of.operands], of.operator
        if operator == "XOR":

            def odd(row: Row) -> bool | None:
                values = [boolean(each(row), operator) for each in operands]
                return None if None in values else sum(map(bool, values)) % 2 == 1

            return odd
        decisive = operator == "OR"

        def joined(row: Row) -> bool | None:
            unknown = False
            for each in operands:
                value = boolean(each(row), operator)
                if value is decisive:
                    return decisive
                unknown = unknown or value is None
            return None if unknown else not decisive

        return joined

    def call(self, of: tree.Call) -> Evaluate:
        if of.name in AGGREGATES:
            raise CypherError(
                f"{of.name}() may stand in WITH and RETURN only, and not in itself", of.place
            )
        function: Function | None = FUNCTIONS.get(of.name)
        if function is None:
            raise CypherError(f"function {of.name} is not known", of.place)
        count = len(of.arguments)
        if of.distinct or not function.least <= count <= function.most:
            raise CypherError(f"{of.name} does not take these arguments", of.place)
        arguments = [self._part(each) for each in of.arguments]
        run, graph = function.run, self.graph
        if count == 1:
            (only,) = arguments
            return lambda row: run(graph, only(row))
        return lambda row: run(graph, *[each(row) for each in arguments])

    def list_of(self, of: tree.ListOf) -> Evaluate:
        items = [self._part(each) for each in of.items]
        work = self.graph.budget.work

        def make(row: Row) -> Any:
            return _made([each(row) for each in items], work)

        return make

    def map_of(self, of: tree.MapOf) -> Evaluate:
        parts = [(name, self._part(value)) for name, value in zip(of.names, of.values, strict=True)]
        work = self.graph.budget.work

        def make(row: Row) -> Any:
            return _made({name: each(row) for name, each in parts}, work)

        return make

    def case(self, of: tree.Case) -> Evaluate:
        subject = None if of.subject is None else self._part(of.subject)
        whens = [(self._part(each.condition), self._part(each.result)) for each in of.whens]
        default = self._part(tree.Literal(None) if of.default is None else of.default)

        equal = self.graph.budget.equal

        def choose(row: Row) -> Any:
            value = None if subject is None else subject(row)
            for condition, result in whens:
                found = condition(row)
                if equal(value, found) if subject is not None else is_true(found):
                    return result(row)
            return default(row)

        return choose


# EXISTS is added by what plans patterns, which compiles expressions itself.
COMPILERS: Final[dict[type, Callable[[Compiler, Any], Evaluate]]] = {
    tree.Literal: Compiler.literal,
    tree.Parameter: Compiler.parameter,
    tree.Variable: Compiler.variable,
    tree.Property: Compiler.property,
    tree.Element: Compiler.element,
    tree.Slice: Compiler.slice,
    tree.HasLabels: Compiler.has_labels,
    tree.Unary: Compiler.unary,
    tree.Binary: Compiler.binary,
    tree.Junction: Compiler.junction,
    tree.Call: Compiler.call,
    tree.ListOf: Compiler.list_of,
    tree.MapOf: Compiler.map_of,
    tree.Case: Compiler.case,
}


def _made(value: Any, work: Callable[[int], None]) -> Any:
    size = weight(value)
    work(size // _WORK_BYTES)
    if size > VALUE_BYTES_MAX:
        raise CypherError(f"a list or map of more than {VALUE_BYTES_MAX} bytes")
    return value


def _identity(value: Any) -> Any:
    if value is None or type(value) in (NodeRef, EdgeRef):
        return None if value is None else value.id
    if type(value) is dict:
        return value.get("id")
    raise CypherError(f"{kind_of(value)} has no property id")
