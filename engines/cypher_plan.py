"""The plan of a MATCH: where to begin, which edge to follow next, when to test what.

It begins where the fewest nodes are: at an id that a pattern or WHERE names, at the rarest label
by the counts that the graph keeps, else at all nodes; and goes on along edges that touch what is
bound. A condition is tested as soon as all that it names is bound. Within a write the plan
decides the order of rows, hence whatever follows from that: it depends on the statement and on
counts, which are the same on every replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError
from engines.cypher_expressions import COMPILERS, HIDDEN, Compiler, Evaluate, Row, Scope
from engines.cypher_graph import Graph
from engines.cypher_match import (
    REVERSED,
    EdgeById,
    Expand,
    ExpandMany,
    Given,
    Hop,
    NamePath,
    NodeById,
    NodeScan,
    Step,
    Stream,
    chained,
)
from engines.cypher_values import EdgeRef

_BY_ID, _BY_IDS, _NO_ANCHOR = 1, 10, 1 << 62  # estimated rows
_FITTING: Final = 8  # properties looked at for a unit of work
Names = frozenset[str]


class Link(NamedTuple):
    """An edge of a pattern with the names of what it is between, as written."""

    left: str
    name: str
    right: str
    pattern: tree.EdgePattern


class Condition(NamedTuple):
    test: tree.Expression
    names: Names  # that it depends on


class Compiled(NamedTuple):
    run: Callable[[Row], bool]
    names: Names
    parts: int


class Identity(NamedTuple):
    """What a condition says that an id is, or (`many`) that it is one of."""

    value: tree.Expression
    many: bool
    names: Names  # of the value


class Plan(NamedTuple):
    stream: Stream
    steps: list[Step]
    bound: list[int]  # places that it binds


def plan_match(graph: Graph, scope: Scope, paths: tuple[tree.PathPattern, ...], where: Any) -> Plan:
    """Adds to `scope` what the patterns name. Raises CypherError."""
    return _Planner(graph, scope).plan(paths, where)


def names_in(of: Any) -> Iterator[str]:
    """Of the variables of an expression."""
    if type(of) is tree.Variable:
        yield of.name
    elif isinstance(of, tuple):
        for each in of:
            yield from names_in(each)


def wanted_properties(
    graph: Graph, pattern: tree.NodePattern | tree.EdgePattern
) -> list[tuple[str, tree.Expression]]:
    """Names and values of a pattern's properties."""
    given = pattern.properties
    if given is None:
        return []
    if isinstance(given, tree.MapOf):
        return list(zip(given.names, given.values, strict=True))
    value = graph.parameter(given.name)
    if not isinstance(value, Mapping):
        raise CypherError(f"parameter {given.name} is to be a map of properties")
    graph.budget.compiled(len(value))
    return [(name, tree.Element(given, tree.Literal(name))) for name in value]


def conjuncts(of: tree.Expression | None) -> Iterator[tree.Expression]:
    if isinstance(of, tree.Junction) and of.operator == "AND":
        for each in of.operands:
            yield from conjuncts(each)
    elif of is not None:
        yield of


class _Planner:
    def __init__(self, graph: Graph, scope: Scope) -> None:
        self._graph = graph
        self._scope = scope
        self._compiler = Compiler(graph, scope)
        self._bound: set[str] = {*scope.bindings}
        self._before = frozenset(self._bound)
        self._nodes: dict[str, tree.NodePattern] = {}  # not bound yet, in order of the text
        self._given: list[str] = []  # bound by earlier clauses
        self._labels: dict[str, list[str]] = {}
        self._links: list[Link] = []
        self._edges: list[Link] = []  # followed
        self._conditions: list[Condition] = []
        self._compiled: list[Compiled] = []  # of the conditions, those not tested yet
        self._ids: dict[str, list[Identity]] = {}  # by the variable
        self._steps: list[Step] = []
        self._named: list[tuple[str, str, list[str]]] = []  # path, first node, edges

    def plan(self, paths: tuple[tree.PathPattern, ...], where: tree.Expression | None) -> Plan:
        first = self._scope.size
        for path in paths:
            self._take(path)
        for each in conjuncts(where):
            self._conditions.append(Condition(each, frozenset(names_in(each))))
            if isinstance(each, tree.HasLabels) and isinstance(each.of, tree.Variable):
                self._labels.setdefault(each.of.name, []).extend(each.labels)
        known = self._scope.bindings.keys()
        for condition in self._conditions:
            # Once: each time all within it is compiled, too. A pattern in EXISTS may have names
            # of its own.
            run = self._compiler.condition(condition.test)
            parts = tree.size_of(condition.test)
            self._compiled.append(Compiled(run, condition.names & known, parts))
            self._take_identity(condition.test)
        given = Given(self._graph, [self._slot(each) for each in dict.fromkeys(self._given)])
        self._settle(given, ())
        while self._links or self._nodes:
            self._next()
        for name, start, edges in self._named:
            slots = [self._slot(each) for each in edges]
            step = NamePath(self._graph, name, self._slot(name), self._slot(start), slots)
            self._settle(step, (name,))
        if len(self._steps) > 1 and not (given.slots or given.conditions):
            del self._steps[0]
        bound = [*range(first, self._scope.size)]
        return Plan(chained(self._steps), self._steps, bound)

    # -- what is to be matched

    def _take(self, path: tree.PathPattern) -> None:
        if path.variable is not None:
            self._fresh(path.variable)
            self._scope.add(path.variable.name, "path")
        first = here = self._take_node(path.nodes[0])
        edges: list[str] = []
        for edge, node in zip(path.edges, path.nodes[1:], strict=True):
            edges.append(self._take_edge(edge))
            there = self._take_node(node)
            self._links.append(Link(here, edges[-1], there, edge))
            here = there
        if path.variable is not None:
            self._named.append((path.variable.name, first, edges))

    def _take_node(self, pattern: tree.NodePattern) -> str:
        name = self._name(pattern.variable)
        found = self._scope.bindings.get(name)
        if found is None:
            self._scope.add(name, "node")
            self._nodes[name] = pattern
        elif found.kind not in ("node", "value"):
            place = None if pattern.variable is None else pattern.variable.place
            raise CypherError(f"variable {name} is a {found.kind}, not a node", place)
        if name in self._before:
            self._given.append(name)
        variable = tree.Variable(name)
        if pattern.labels:
            self._labels.setdefault(name, []).extend(pattern.labels)
            self._require(tree.HasLabels(variable, pattern.labels))
        for wanted, value in wanted_properties(self._graph, pattern):
            self._require(tree.Binary("=", tree.Property(variable, wanted), value))
        return name

    def _take_edge(self, pattern: tree.EdgePattern) -> str:
        if pattern.variable is not None:
            self._fresh(pattern.variable)
        name = self._name(pattern.variable)
        many = pattern.most is not None
        self._scope.add(name, "relationships" if many else "relationship")
        if not many:
            variable = tree.Variable(name)
            for wanted, value in wanted_properties(self._graph, pattern):
                self._require(tree.Binary("=", tree.Property(variable, wanted), value))
        return name

    def _take_identity(self, test: tree.Expression) -> None:
        if not isinstance(test, tree.Binary) or test.operator not in ("=", "IN"):
            return
        many = test.operator == "IN"
        sides = [(test.left, test.right), (test.right, test.left)]
        for asked, value in sides[:1] if many else sides:
            name = _with_id(asked)
            if name is not None:
                found = Identity(value, many, frozenset(names_in(value)))
                self._ids.setdefault(name, []).append(found)

    def _require(self, test: tree.Expression) -> None:
        self._conditions.append(Condition(test, frozenset(names_in(test))))

    def _fresh(self, variable: tree.Variable) -> None:
        if variable.name in self._scope.bindings:
            raise CypherError(f"variable {variable.name} is bound already", variable.place)

    def _name(self, variable: tree.Variable | None) -> str:
        return f"{HIDDEN}{self._scope.size}" if variable is None else variable.name

    def _slot(self, name: str) -> int:
        return self._scope.bindings[name].slot

    # -- in which order

    def _next(self) -> None:
        by_id = next((each for each in self._links if self._edge_id(each) is not None), None)
        if by_id is not None:
            self._follow_by_id(by_id)
            return
        costs = {name: self._cost(name) for name in self._nodes}
        best = min(costs, key=lambda name: costs[name], default=None)
        touching = [
            link for link in self._links if link.left in self._bound or link.right in self._bound
        ]
        # What an id names is one row, and an edge between two such nodes is found from the end
        # that has fewer.
        if best is not None and (costs[best] == _BY_ID or not touching):
            self._begin(best)
        else:
            self._follow(min(touching, key=self._hops))

    def _hops(self, link: Link) -> tuple[bool, bool]:
        """Single ones first, and of those such as only have to be checked."""
        both = {link.left, link.right} <= self._bound
        return link.pattern.most is not None, not both

    def _cost(self, name: str) -> int:
        wanted = self._identity(name)
        if wanted is not None:
            return _BY_IDS if wanted.many else _BY_ID
        return min(
            (self._graph.count(label) for label in self._labels.get(name, ())),
            default=self._graph.count(None),
        )

    def _identity(self, name: str) -> Identity | None:
        """The first one of what is bound already. `name`: is not."""
        return next((each for each in self._ids.get(name, ()) if each.names <= self._bound), None)

    def _edge_id(self, link: Link) -> tree.Expression | None:
        wanted = None if link.pattern.most is not None else self._identity(link.name)
        return None if wanted is None or wanted.many else wanted.value

    def _begin(self, name: str) -> None:
        slot, graph = self._slot(name), self._graph
        shown = "" if name.startswith(HIDDEN) else name
        wanted = self._identity(name)
        if wanted is not None:
            value = self._compiler.compile(wanted.value)
            step: Step = NodeById(graph, shown, slot, value, wanted.many)
        else:
            labels = self._labels.get(name)
            label = min(labels, key=graph.count) if labels else None
            step = NodeScan(graph, shown, slot, label)
        self._settle(step, (name,))

    def _follow(self, link: Link) -> None:
        backwards = link.left not in self._bound
        hop, pattern = self._hop(link, backwards), link.pattern
        if pattern.most is None:
            self._settle(Expand(self._graph, hop), (link.name, link.left, link.right), link)
            return
        asked = [
            (name, self._compiler.compile(value))
            for name, value in wanted_properties(self._graph, pattern)
        ]
        for _, value in wanted_properties(self._graph, pattern):
            if not self._before >= {*names_in(value)}:
                raise CypherError(
                    "properties of a relationship of variable length may name what earlier "
                    "clauses bind, and nothing of the same MATCH"
                )

        def wanted(row: Row) -> Mapping[str, Any]:
            return {name: value(row) for name, value in asked}

        least = pattern.least or 0
        step = ExpandMany(self._graph, hop, least, pattern.most, backwards, wanted, self._fits)
        self._settle(step, (link.name, link.left, link.right), link)

    def _follow_by_id(self, link: Link) -> None:
        wanted = self._edge_id(link)
        assert wanted is not None
        begins, arrives = link.left in self._bound, link.right in self._bound
        value = self._compiler.compile(wanted)
        step = EdgeById(self._graph, self._hop(link, False), value, begins, arrives)
        self._settle(step, (link.name, link.left, link.right), link)

    def _fits(self, edge: EdgeRef, wanted: Mapping[str, Any]) -> bool:
        if not wanted:
            return True
        own, budget = self._graph.edge(edge.id).properties, self._graph.budget
        budget.work(len(wanted) // _FITTING)
        return all(
            budget.equal(edge.id if name == "id" else own.get(name), value) is True
            for name, value in wanted.items()
        )

    def _hop(self, link: Link, backwards: bool) -> Hop:
        origin, target = (link.right, link.left) if backwards else (link.left, link.right)
        direction = link.pattern.direction
        names = ["" if each.startswith(HIDDEN) else each for each in (origin, link.name, target)]
        return Hop(
            (names[0], names[1], names[2]), self._slot(origin), self._slot(link.name),
            self._slot(target), REVERSED[direction] if backwards else direction,
            tuple(sorted({*link.pattern.types})),
            target in self._bound or target == origin,
            tuple(self._slot(each.name) for each in self._edges if each.pattern.most is None),
            tuple(self._slot(each.name) for each in self._edges if each.pattern.most is not None),
        )  # fmt: skip

    def _settle(self, step: Step, names: tuple[str, ...], link: Link | None = None) -> None:
        """The next step; it binds `names`, and with them conditions can be tested."""
        if link is not None:
            self._links.remove(link)
            self._edges.append(link)
        self._bound.update(names)
        for name in names:
            self._nodes.pop(name, None)
        left: list[Compiled] = []
        for condition in self._compiled:
            if condition.names <= self._bound:
                step.conditions.append(condition.run)
                step.parts += condition.parts
            else:
                left.append(condition)
        self._compiled = left
        self._steps.append(step)


def _with_id(asked: tree.Expression) -> str | None:
    """The name in `id(name)` or `name.id`."""
    if isinstance(asked, tree.Property):
        of: Any = asked.of if asked.name == "id" else None
    elif isinstance(asked, tree.Call) and asked.name in ("id", "elementid"):
        of = asked.arguments[0] if len(asked.arguments) == 1 else None
    else:
        return None
    return of.name if isinstance(of, tree.Variable) else None


def _exists(compiler: Compiler, of: tree.Exists) -> Evaluate:
    scope = compiler.inner()
    outer, budget = scope.size, compiler.graph.budget
    stream = plan_match(compiler.graph, scope, of.paths, of.where).stream
    own = [None] * (scope.size - outer)

    def test(row: Row) -> bool:
        budget.row()
        return any(True for _ in stream(row[:outer] + own))

    return test


COMPILERS[tree.Exists] = _exists
