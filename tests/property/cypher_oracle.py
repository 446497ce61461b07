"""A naive reading of openCypher: every way to lay a pattern onto a small graph, one by one.

Queries are drawn as pairs of a text and a function of bindings, so that nothing of the engine,
its parser least of all, is used to know what the text means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Env = dict[str, Any]


class N(NamedTuple):
    """A node."""

    id: str


class E(NamedTuple):
    """An edge."""

    edge: str
    source: str
    target: str
    type: str


class P(NamedTuple):
    """A path, as far as queries here ask for it."""

    edges: tuple[E, ...]


@dataclass
class World:
    """`nodes`: id to labels and properties. `edges`: id to the edge and its properties."""

    nodes: dict[str, tuple[list[str], dict[str, Any]]] = field(default_factory=dict)
    edges: dict[str, tuple[E, dict[str, Any]]] = field(default_factory=dict)

    def property(self, of: Any, name: str) -> Any:
        if of is None:
            return None
        if name == "id":
            return of[0]
        table: Any = self.nodes if isinstance(of, N) else self.edges
        return table[of[0]][1].get(name)

    def shown(self, value: Any) -> Any:
        if isinstance(value, N):
            labels, properties = self.nodes[value.id]
            return {"id": value.id, "labels": sorted(labels), "properties": properties}
        if isinstance(value, E):
            return {
                "id": value.edge, "from": value.source, "to": value.target, "type": value.type,
                "properties": self.edges[value.edge][1],
            }  # fmt: skip
        if isinstance(value, list):
            return [self.shown(each) for each in value]
        return value


# --- Null-aware values -----------------------------------------------------------------


def family(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def eq(a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    if family(a) != family(b):
        return False
    if isinstance(a, list):
        if len(a) != len(b):
            return False
        found = [eq(x, y) for x, y in zip(a, b, strict=True)]
        return False if False in found else None if None in found else True
    return bool(a == b)


def lt(a: Any, b: Any) -> bool | None:
    if family(a) != family(b) or family(a) not in ("boolean", "number", "str"):
        return None
    return bool(a < b)


def list_compare(sign: str, a: Any, b: Any) -> bool | None:
    """By the first elements that differ; a list that begins another is less."""
    if not (isinstance(a, list) and isinstance(b, list)):
        return None
    for x, y in zip(a, b, strict=False):
        if eq(x, y) is None:
            return None
        if not eq(x, y):
            return lt(x, y) if sign in ("<", "<=") else lt(y, x)
    return {"<": len(a) < len(b), "<=": len(a) <= len(b), ">": len(a) > len(b)}.get(
        sign, len(a) >= len(b)
    )


def no(a: bool | None) -> bool | None:
    return None if a is None else not a


def both(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else None if a is None or b is None else True


def either(a: bool | None, b: bool | None) -> bool | None:
    return no(both(no(a), no(b)))


def odd(a: bool | None, b: bool | None) -> bool | None:
    return None if a is None or b is None else a != b


def among(a: Any, items: Any) -> bool | None:
    if items is None:
        return None
    found: bool | None = False
    for each in items:
        found = either(found, eq(a, each))
    return found


def strict(value: Any) -> Any:
    """Equal only for what is the same, types and all; it can be sorted."""
    if isinstance(value, dict):
        return "map", tuple(sorted((name, strict(each)) for name, each in value.items()))
    if isinstance(value, list):
        return "list", tuple(strict(each) for each in value)
    return type(value).__name__, repr(value)


RANK = ("N", "E", "list", "str", "boolean", "number", "NoneType")  # ascending


class Sortable:
    """openCypher's order over all values: null is the greatest."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Sortable) -> bool:
        a, b = self.value, other.value
        if family(a) != family(b):
            return RANK.index(family(a)) < RANK.index(family(b))
        if isinstance(a, list):
            return [Sortable(each) for each in a] < [Sortable(each) for each in b]
        return a is not None and bool(a < b)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Sortable)
        return not self < other and not other < self

    __hash__ = None  # type: ignore[assignment]


# --- Patterns --------------------------------------------------------------------------

Maker = Callable[[World, Env], Any]


class Expr(NamedTuple):
    text: str
    value: Maker


class NodeP(NamedTuple):
    name: str
    shown: bool  # is the name in the text?
    labels: list[str]
    properties: list[tuple[str, Expr]]

    def text(self) -> str:
        return f"({self.name * self.shown}{''.join(f':{each}' for each in self.labels)}" + (
            f"{properties_text(self.properties)})"
        )


class EdgeP(NamedTuple):
    name: str
    shown: bool
    types: list[str]
    direction: str
    hops: tuple[int, int] | None
    properties: list[tuple[str, Expr]]

    def text(self) -> str:
        inner = self.name * self.shown + (f":{'|'.join(self.types)}" if self.types else "")
        if self.hops is not None:
            inner += f"*{self.hops[0]}..{self.hops[1]}"
        inner += properties_text(self.properties)
        left, right = (
            ("<-" if self.direction == "in" else "-"),
            ("->" if self.direction == "out" else "-"),
        )
        return f"{left}[{inner}]{right}" if inner else f"{left}{right}"


def properties_text(properties: list[tuple[str, Expr]]) -> str:
    inner = ", ".join(f"{name}: {value.text}" for name, value in properties)
    return f" {{{inner}}}" if inner else ""


class PathP(NamedTuple):
    name: str | None
    nodes: list[NodeP]
    edges: list[EdgeP]

    def text(self) -> str:
        parts = [self.nodes[0].text()]
        for edge, node in zip(self.edges, self.nodes[1:], strict=True):
            parts += [edge.text(), node.text()]
        return (f"{self.name} = " if self.name else "") + "".join(parts)


def fits(world: World, of: Any, labels: list[str], wanted: list[tuple[str, Any]]) -> bool:
    own = world.nodes[of.id][0] if isinstance(of, N) else []
    return all(label in own for label in labels) and all(
        eq(world.property(of, name), value) is True for name, value in wanted
    )


def steps(world: World, node: str, direction: str, types: list[str]) -> Iterator[tuple[E, str]]:
    for edge, _ in world.edges.values():
        if types and edge.type not in types:
            continue
        ways = []
        if direction != "in" and edge.source == node:
            ways.append(edge.target)
        if direction != "out" and edge.target == node:
            ways.append(edge.source)
        yield from ((edge, other) for other in dict.fromkeys(ways))


def trails(
    world: World, node: str, pattern: EdgeP, wanted: list[tuple[str, Any]], most: int
) -> Iterator[tuple[list[E], str]]:
    """Every way of at most so many edges, none of them twice."""
    yield [], node
    if most == 0:
        return
    for way, end in trails(world, node, pattern, wanted, most - 1):
        if len(way) == most - 1:
            for edge, other in steps(world, end, pattern.direction, pattern.types):
                if edge not in way and fits(world, edge, [], wanted):
                    yield [*way, edge], other


def all_trails(
    world: World, node: str, pattern: EdgeP, wanted: list[tuple[str, Any]], least: int, most: int
) -> list[tuple[list[E], str]]:
    found = [
        (way, end)
        for length in range(least, most + 1)
        for way, end in trails(world, node, pattern, wanted, length)
        if len(way) == length
    ]
    unique: dict[Any, tuple[list[E], str]] = {(tuple(way), end): (way, end) for way, end in found}
    return list(unique.values())


def matches(world: World, env: Env, paths: list[PathP]) -> list[Env]:
    """Every way to bind what the paths name; properties are checked when all is bound."""
    found = []
    for bound, _ in _lay(world, env, paths, frozenset()):
        if all(
            fits(world, bound[node.name], node.labels, _values(world, bound, node.properties))
            for path in paths
            for node in path.nodes
        ) and all(
            edge.hops is not None
            or fits(world, bound[edge.name], [], _values(world, bound, edge.properties))
            for path in paths
            for edge in path.edges
        ):
            found.append(bound)
    return found


def _values(world: World, env: Env, wanted: list[tuple[str, Expr]]) -> list[tuple[str, Any]]:
    return [(name, value.value(world, env)) for name, value in wanted]


def _lay(
    world: World, env: Env, paths: list[PathP], used: frozenset[E]
) -> Iterator[tuple[Env, frozenset[E]]]:
    if not paths:
        yield env, used
        return
    first = paths[0]
    for start in _node(world, env, first.nodes[0]):
        begun = {**env, first.nodes[0].name: start}
        for bound, taken, ends in _along(world, begun, first, 0, used):
            named = bound
            if first.name is not None:
                named = {**bound, first.name: P(tuple(ends))}
            yield from _lay(world, named, paths[1:], taken)


def _along(
    world: World, env: Env, path: PathP, place: int, used: frozenset[E]
) -> Iterator[tuple[Env, frozenset[E], list[E]]]:
    if place == len(path.edges):
        yield env, used, []
        return
    pattern, following = path.edges[place], path.nodes[place + 1]
    here = env[path.nodes[place].name]
    if pattern.hops is None:
        ways = [([edge], other) for edge, other in steps(world, here.id, pattern.direction,
                                                          pattern.types)]  # fmt: skip
    else:
        wanted = _values(world, env, pattern.properties)
        ways = all_trails(world, here.id, pattern, wanted, *pattern.hops)
    for way, other in ways:
        if used & {*way}:
            continue
        if following.name in env and env[following.name] != N(other):
            continue
        bound = {
            **env,
            pattern.name: way[0] if pattern.hops is None else way,
            following.name: N(other),
        }
        for rest, taken, more in _along(world, bound, path, place + 1, used | {*way}):
            yield rest, taken, way + more


def _node(world: World, env: Env, pattern: NodeP) -> list[N]:
    if pattern.name in env:
        return [] if env[pattern.name] is None else [env[pattern.name]]
    return [N(name) for name in world.nodes]


# --- Projections -----------------------------------------------------------------------


class ColumnP(NamedTuple):
    """`aggregate`: name and distinct, of `value` (None: of rows); none for a plain column."""

    name: str
    value: Expr | None
    aggregate: tuple[str, bool] | None

    def text(self) -> str:
        inner = "*" if self.value is None else self.value.text
        if self.aggregate is not None:
            name, distinct = self.aggregate
            inner = f"{name}({'DISTINCT ' * distinct}{inner})"
        return f"{inner} AS {self.name}"


def project(world: World, rows: list[Env], columns: list[ColumnP], distinct: bool) -> list[Env]:
    if not any(column.aggregate for column in columns):
        made = [
            {column.name: column.value.value(world, row) for column in columns if column.value}
            for row in rows
        ]
    else:
        made = list(_grouped(world, rows, columns))
    if distinct:
        made = list({_same(row): row for row in reversed(made)}.values())[::-1]
    return made


def _same(row: Mapping[str, Any]) -> Any:
    def key(value: Any) -> Any:
        if isinstance(value, list):
            return "list", tuple(map(key, value))
        return family(value), value

    return tuple((name, key(value)) for name, value in row.items())


def _grouped(world: World, rows: list[Env], columns: list[ColumnP]) -> Iterator[Env]:
    plain = [column for column in columns if column.aggregate is None]
    groups: dict[Any, tuple[Env, list[Env]]] = {}
    for row in rows:
        keys = {each.name: each.value.value(world, row) for each in plain if each.value}
        groups.setdefault(_same(keys), (keys, []))[1].append(row)
    if not plain and not groups:
        groups[()] = {}, []
    for keys, members in groups.values():
        yield {
            column.name: keys[column.name]
            if column.aggregate is None
            else _aggregate(world, members, column)
            for column in columns
        }


def _aggregate(world: World, rows: list[Env], column: ColumnP) -> Any:
    assert column.aggregate is not None
    name, distinct = column.aggregate
    if column.value is None:
        return len(rows)
    values = [value for row in rows if (value := column.value.value(world, row)) is not None]
    if distinct:
        unique: dict[Any, Any] = {}
        for value in values:
            unique.setdefault(_same({"": value}), value)
        values = list(unique.values())
    match name:
        case "count":
            return len(values)
        case "collect":
            return values
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values) if values else None
        case "min":
            return min(values, key=Sortable, default=None)
        case _:
            return max(values, key=Sortable, default=None)
