"""WITH and RETURN: columns, grouping, DISTINCT, ORDER BY, SKIP and LIMIT.

Without ORDER BY and aggregates rows pass one by one, and LIMIT ends what comes before. With
ORDER BY and LIMIT only as many rows are kept as are wanted, and a few more.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError
from engines.cypher_expressions import HIDDEN, Compiler, Evaluate, Row, Scope
from engines.cypher_functions import AGGREGATES, Aggregate
from engines.cypher_graph import Graph
from engines.cypher_tree import bare, children
from engines.cypher_values import group_key, is_true, order_key, shallow_size, weight

_ROW_BYTES: Final = 200  # of a row that is held, besides its values
_SPARE_ROWS: Final = 1_000  # beyond the wanted ones, before the rest is let go
_LARGE_ROW_BYTES: Final = 4_096  # smaller ones are not counted while they pass
_LONG_KEY_BYTES: Final = 1_024  # of what the keys of a row take


class Held(NamedTuple):
    """A row that waits to be sorted. Sizes in bytes; `size`: of all of it."""

    keys: list[Any]
    row: Row
    keys_size: int
    size: int


class Projection:
    """`scope`: of the rows that it makes. Raises CypherError."""

    def __init__(self, graph: Graph, clause: tree.Project, before: Scope) -> None:
        self._graph = graph
        self._clause = clause
        self._before = before
        self.scope = Scope()
        self.columns = self._all_columns()
        self.grouped = any(map(has_aggregate, (each.value for each in self.columns)))
        self._grouping = Grouping(graph, self.columns, before) if self.grouped else None
        compiler = Compiler(graph, before)
        self._values: list[Evaluate] = []
        if self._grouping is None:
            self._values = [compiler.compile(each.value) for each in self.columns]
        for column in self.columns:
            self.scope.add(column.name, self._kind(column.value))
        self._order = self._sort_keys()
        self.skip = self._count(clause.skip, "SKIP") or 0
        self.limit = self._count(clause.limit, "LIMIT")
        self._where = None
        if clause.where is not None:
            self._where = Compiler(graph, self.scope).compile(clause.where)

    def run(self, rows: Iterator[Row]) -> Iterator[Row]:
        pairs = self._pairs(rows)
        if self._order:
            made = self._sorted(pairs)
        else:
            end = None if self.limit is None else self.skip + self.limit
            made = islice((new for _, new in pairs), self.skip, end)
        padding = [None] * (self.scope.size - len(self.columns))
        hold = self._graph.budget.hold
        for row in made:
            full = row + padding
            if self._where is None or is_true(self._where(full)):
                size = sum(map(shallow_size, row))
                if size < _LARGE_ROW_BYTES:
                    yield full
                    continue
                # A row of each clause is there at a time.
                hold(size)
                yield full
                hold(-size)

    def _pairs(self, rows: Iterator[Row]) -> Iterator[tuple[Row, Row]]:
        """Each new row with what ORDER BY may look at."""
        made: Iterator[tuple[Row, Row]]
        if self._grouping is not None:
            made = ((row, row) for row in self._grouping.run(rows))
        else:
            made = self._plain(rows)
        return self._once(made) if self._clause.distinct else made

    def _plain(self, rows: Iterator[Row]) -> Iterator[tuple[Row, Row]]:
        values, wide = self._values, bool(self._order) and not self._clause.distinct
        units, work = 1 + len(values) // 4, self._graph.budget.work
        for row in rows:
            work(units)
            new = [value(row) for value in values]
            yield (row + new if wide else new), new

    def _once(self, pairs: Iterator[tuple[Row, Row]]) -> Iterator[tuple[Row, Row]]:
        seen: set[Any] = set()
        budget = self._graph.budget
        for pair in pairs:
            size = budget.keys(*pair[1])
            key = tuple(map(group_key, pair[1]))
            if key not in seen:
                budget.hold(size + _ROW_BYTES)
                seen.add(key)
                yield pair

    def _sorted(self, pairs: Iterator[tuple[Row, Row]]) -> Iterator[Row]:
        """Rows that are equal in all keys stay in the order that they came in."""
        wanted = None if self.limit is None else self.skip + self.limit
        budget = self._graph.budget
        held: list[Held] = []
        for wide, new in pairs:
            values = [key(wide) for key, _ in self._order]
            keys_size = budget.keys(*values)
            size = _ROW_BYTES + sum(map(weight, new)) + keys_size
            budget.hold(size)
            held.append(Held([*map(order_key, values)], new, keys_size, size))
            if wanted is not None and len(held) >= 2 * wanted + _SPARE_ROWS:
                held = self._best(held, wanted)
        held = self._best(held, len(held) if wanted is None else wanted)
        for each in held[self.skip :]:
            yield each.row

    def _best(self, held: list[Held], wanted: int) -> list[Held]:
        # Short keys are compared within the time that is counted for their rows.
        compared = sum(each.keys_size // _LONG_KEY_BYTES for each in held)
        self._graph.budget.work(len(held) // 2 + compared * len(held).bit_length())
        for place in reversed(range(len(self._order))):
            held.sort(key=lambda each: each.keys[place], reverse=self._order[place][1])
        self._graph.budget.hold(-sum(each.size for each in held[wanted:]))
        return held[:wanted]

    def _all_columns(self) -> list[tree.Column]:
        columns = [*self._clause.columns]
        if self._clause.everything:
            names = [name for name in self._before.bindings if not name.startswith(HIDDEN)]
            if not names:
                raise CypherError("* where there are no variables")
            columns = [tree.Column(tree.Variable(name), name) for name in names] + columns
        for place, column in enumerate(columns):
            if any(column.name == each.name for each in columns[:place]):
                raise CypherError(f"two columns are called {column.name}")
        return columns

    def _kind(self, value: tree.Expression) -> str:
        if type(value) is tree.Variable:
            return self._before.find(value).kind
        return "value"

    def _sort_keys(self) -> list[tuple[Evaluate, bool]]:
        if not self._clause.order:
            return []
        scope = Scope()
        if self.grouped or self._clause.distinct:
            offset = 0
        else:
            offset = self._before.size
            scope.bindings.update(self._before.bindings)
        for place, column in enumerate(self.columns):
            binding = self.scope.bindings[column.name]
            scope.bindings[column.name] = binding._replace(slot=offset + place)
            if type(column.value) is not tree.Variable:
                scope.known[bare(column.value)] = offset + place
        scope.size = offset + len(self.columns)
        compiler = Compiler(self._graph, scope)
        return [(compiler.compile(each.value), each.descending) for each in self._clause.order]

    def _count(self, of: tree.Expression | None, name: str) -> int | None:
        if of is None:
            return None
        value = Compiler(self._graph, Scope(), f"{name} takes no variables").compile(of)([])
        if type(value) is not int or value < 0:
            raise CypherError(f"{name} is to be a whole number of at least 0")
        return value


class Grouping:
    """Rows that are equal in the columns without aggregates are one."""

    def __init__(self, graph: Graph, columns: list[tree.Column], before: Scope) -> None:
        self._graph = graph
        compiler = Compiler(graph, before)
        inner = Scope()
        self._keys: list[Evaluate] = []
        for column in columns:
            if not has_aggregate(column.value):
                inner.known.setdefault(bare(column.value), inner.place())
                self._keys.append(compiler.compile(column.value))
        self._calls: list[tuple[tree.Call, Evaluate]] = []
        for column in columns:
            for call in aggregates_in(column.value):
                if bare(call) not in inner.known:
                    inner.known[bare(call)] = inner.place()
                    self._calls.append((call, self._argument(compiler, call)))
        self._columns: list[Evaluate] = []
        for column in columns:
            try:
                self._columns.append(Compiler(graph, inner).compile(column.value))
            except CypherError as error:
                raise CypherError(
                    f"column {column.name}: beside an aggregate may stand what is a column by "
                    f"itself, and constants ({error})"
                ) from None

    def run(self, rows: Iterator[Row]) -> Iterator[Row]:
        groups: dict[Any, tuple[list[Any], list[Aggregate]]] = {}
        keys, calls, graph = self._keys, self._calls, self._graph
        units = 1 + len(calls) // 2
        if not keys:
            alone = self._fresh()
            pairs = [(each, argument) for each, (_, argument) in zip(alone, calls, strict=True)]
            for row in rows:
                graph.budget.work(units)
                for aggregate, argument in pairs:
                    aggregate.add(argument(row))
            groups[()] = [], alone
        for row in rows:
            values = [key(row) for key in keys]
            graph.budget.work(units)
            size = graph.budget.keys(*values)
            place = tuple(map(group_key, values))
            group = groups.get(place)
            if group is None:
                graph.budget.hold(size + _ROW_BYTES * (1 + len(calls)))
                group = groups[place] = values, self._fresh()
            for aggregate, (_, argument) in zip(group[1], calls, strict=True):
                aggregate.add(argument(row))
        for values, aggregates in groups.values():
            whole = values + [each.result() for each in aggregates]
            yield [column(whole) for column in self._columns]

    def _fresh(self) -> list[Aggregate]:
        return [Aggregate(self._graph, call.name, call.distinct) for call, _ in self._calls]

    def _argument(self, compiler: Compiler, call: tree.Call) -> Evaluate:
        if call.name == "count" and not call.arguments:
            return lambda row: True  # count(*): any value but null
        if len(call.arguments) != 1:
            raise CypherError(f"{call.name} takes one argument", call.place)
        return compiler.compile(call.arguments[0])


def has_aggregate(of: Any) -> bool:
    return next(aggregates_in(of), None) is not None


def aggregates_in(of: Any) -> Iterator[tree.Call]:
    """The outermost ones."""
    if type(of) is tree.Call and of.name in AGGREGATES:
        yield of
        return
    for each in children(of):
        yield from aggregates_in(each)
