"""Random graphs and random queries over the subset of Cypher, as texts and as what they mean."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.property import cypher_oracle as oracle
from tests.property.cypher_oracle import (
    ColumnP,
    E,
    EdgeP,
    Env,
    Expr,
    NodeP,
    PathP,
    Sortable,
    World,
)

NAMES = ("a", "ab", "b", "é")  # one begins another
TYPES = ("T", "TT", "U")
LABELS = ("P", "Q")
ROWS_MAX = 2_000
LITERALS: dict[str, Any] = {
    "null": None, "true": True, "false": False, "0": 0, "1": 1, "1.5": 1.5, "'x'": "x",
    "'xy'": "xy", "''": "", "[1]": [1], "[1, null]": [1, None], "[]": [], "'a'": "a",
}  # fmt: skip
VALUES: tuple[Any, ...] = (0, 1, 2, True, False, "", "x", "xy", [1], [1, None])


def properties(chance: Random) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in "wx":
        if chance.random() < 0.7:
            made[name] = chance.randint(0, 2)
    if chance.random() < 0.6:
        made["s"] = chance.choice(VALUES)
    return made


def random_world(chance: Random) -> World:
    world = World()
    for name in chance.sample(NAMES, chance.choice((0, 2, 3, 4, 4, 4, 4, 4))):
        labels = [label for label in LABELS if chance.random() < 0.5]
        world.nodes[name] = labels, properties(chance)
    ends = [*world.nodes]
    for number in range(chance.randint(2, 7) if ends else 0):
        edge = E(f"e{number}", chance.choice(ends), chance.choice(ends), chance.choice(TYPES))
        world.edges[edge.edge] = edge, properties(chance)
    return world


class Query(NamedTuple):
    """`ordered`: are rows to come in that order? `limited`: how many of which, in any order."""

    text: str
    run: Callable[[World], list[Env] | None]  # None: too many to be worth it
    columns: list[str]
    lists: list[str]  # columns of collect, whose order is nobody's promise
    ordered: bool
    skip: int
    limit: int | None


class Drawing:
    """Draws a query, clause by clause. `kinds`: of the variables so far."""

    def __init__(self, chance: Random) -> None:
        self.random = chance
        self.kinds: dict[str, str] = {}
        self.texts: list[str] = []
        self.stages: list[Callable[[World, list[Env]], list[Env]]] = []
        self.made = 0

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def named(self, *kinds: str) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def fresh(self, letter: str) -> str:
        self.made += 1
        return f"{letter}{self.made}"

    # -- expressions

    def number(self, depth: int = 1) -> Expr:
        entities, numbers = self.named("node", "edge"), self.named("number")
        ways = ["literal", *["property"] * 3 * bool(entities), *["variable"] * 2 * bool(numbers)]
        way = self.pick(*ways, *["sum"] * (depth > 0))
        if way == "literal":
            value = self.pick(0, 1, 2, 3)
            return Expr(str(value), lambda world, env: value)
        if way == "property":
            return self.property(self.pick(*entities), self.pick("w", "x"))
        if way == "variable":
            return self.variable(self.pick(*numbers))
        left, right = self.number(depth - 1), self.number(depth - 1)
        sign = self.pick("+", "-", "*")

        def both(world: World, env: Env) -> Any:
            a, b = left.value(world, env), right.value(world, env)
            if a is None or b is None:
                return None
            return a + b if sign == "+" else a - b if sign == "-" else a * b

        return Expr(f"({left.text} {sign} {right.text})", both)

    def property(self, name: str, member: str) -> Expr:
        return Expr(f"{name}.{member}", lambda world, env: world.property(env[name], member))

    def variable(self, name: str) -> Expr:
        return Expr(name, lambda world, env: env[name])

    def anything(self) -> Expr:
        entities = self.named("node", "edge")
        ways = ["literal", "number", *["property"] * 3 * bool(entities)]
        for kind in ("node", "edge", "edges", "path", "any"):
            ways += [kind] * bool(self.named(kind))
        way = self.pick(*ways)
        if way == "literal":
            text = self.pick(*LITERALS)
            return Expr(text, lambda world, env: LITERALS[text])
        if way == "number":
            return self.number()
        if way == "property":
            return self.property(self.pick(*entities), self.pick("w", "s", "s", "id"))
        name = self.pick(*self.named(way))
        if way == "node":
            return Expr(f"id({name})", lambda world, env: None if env[name] is None
                        else env[name].id)  # fmt: skip
        if way == "edge":
            return Expr(f"type({name})", lambda world, env: None if env[name] is None
                        else env[name].type)  # fmt: skip
        if way in ("edges", "path"):
            return self.of_edges(name, way == "path")
        return self.variable(name)

    def of_edges(self, name: str, is_path: bool) -> Expr:
        """How many a list or path holds, or the id of its first or last."""
        listed = f"relationships({name})" if is_path else name

        def edges(env: Env) -> Any:
            found = env[name]
            return found.edges if is_path and found is not None else found

        place = self.pick(None, 0, -1)
        if place is None:
            counted = f"{'length' if is_path else 'size'}({name})"
            return Expr(counted, lambda world, env: None if env[name] is None
                        else len(edges(env)))  # fmt: skip
        return Expr(
            f"id({'head' if place == 0 else 'last'}({listed}))",
            lambda world, env: edges(env)[place].edge if edges(env) else None,
        )

    def condition(self, depth: int = 2) -> Expr:
        if depth > 0 and self.named("node") and self.chance(12):
            return self.exists()
        way = self.pick("compare", "numbers", "numbers", "null", "in", "text", "label",
                        *["not", "and", "or", "xor"] * (depth > 0))  # fmt: skip
        if way in ("and", "or", "xor"):
            left, right = self.condition(depth - 1), self.condition(depth - 1)
            join = {"and": oracle.both, "or": oracle.either, "xor": oracle.odd}[way]
            return Expr(
                f"({left.text} {way.upper()} {right.text})",
                lambda world, env: join(left.value(world, env), right.value(world, env)),
            )
        if way == "not":
            inner = self.condition(depth - 1)
            return Expr(f"NOT ({inner.text})", lambda world, env: oracle.no(
                inner.value(world, env)))  # fmt: skip
        if way == "label" and self.named("node"):
            name, label = self.pick(*self.named("node")), self.pick(*LABELS)
            return Expr(f"{name}:{label}", lambda world, env: None if env[name] is None
                        else label in world.nodes[env[name].id][0])  # fmt: skip
        if way == "numbers":
            return self.comparison(self.number(), self.number())
        left, right = self.anything(), self.anything()
        if way == "null":
            negated = self.chance(50)
            return Expr(
                f"{left.text} IS {'NOT ' * negated}NULL",
                lambda world, env: (left.value(world, env) is None) != negated,
            )
        if way == "in":
            items = [self.anything() for _ in range(self.random.randint(0, 2))]
            return Expr(
                f"{left.text} IN [{', '.join(each.text for each in items)}]",
                lambda world, env: oracle.among(
                    left.value(world, env), [each.value(world, env) for each in items]
                ),
            )
        if way == "text":
            return self.text_test(left, right)
        return self.comparison(left, right)

    def exists(self) -> Expr:
        around = dict(self.kinds)
        path = self.path(self.pick(1, 1, 2))
        where = self.condition(0) if self.chance(30) else None
        self.kinds = around  # its names are its own
        text = path.text() + (f" WHERE {where.text}" if where else "")
        return Expr(f"EXISTS {{ {text} }}", lambda world, env: any(
            where is None or where.value(world, found) is True
            for found in oracle.matches(world, env, [path])
        ))  # fmt: skip

    def text_test(self, left: Expr, right: Expr) -> Expr:
        tests: dict[str, Callable[[str, str], bool]] = {
            "STARTS WITH": str.startswith, "ENDS WITH": str.endswith,
            "CONTAINS": lambda a, b: b in a,
        }  # fmt: skip
        word = self.pick(*tests)

        def test(world: World, env: Env) -> bool | None:
            a, b = left.value(world, env), right.value(world, env)
            return tests[word](a, b) if isinstance(a, str) and isinstance(b, str) else None

        return Expr(f"{left.text} {word} {right.text}", test)

    def comparison(self, left: Expr, right: Expr) -> Expr:
        sign = self.pick("=", "<>", "<", "<=", ">", ">=")

        def compare(world: World, env: Env) -> bool | None:
            a, b = left.value(world, env), right.value(world, env)
            if sign == "=":
                return oracle.eq(a, b)
            if sign == "<>":
                return oracle.no(oracle.eq(a, b))
            if isinstance(a, list) or isinstance(b, list):
                return oracle.list_compare(sign, a, b)
            return {
                "<": lambda: oracle.lt(a, b), "<=": lambda: oracle.no(oracle.lt(b, a)),
                ">": lambda: oracle.lt(b, a), ">=": lambda: oracle.no(oracle.lt(a, b)),
            }[sign]()  # fmt: skip

        return Expr(f"{left.text} {sign} {right.text}", compare)

    # -- clauses

    def node(self) -> NodeP:
        bound = self.named("node")
        if bound and self.chance(30):
            name, shown = self.pick(*bound), True
        else:
            shown = self.chance(70)
            name = self.fresh("n" if shown else "hidden")
        labels = [self.pick(*LABELS)] if self.chance(15) else []
        wanted = self.wanted()
        if shown:
            self.kinds[name] = "node"
        return NodeP(name, shown, labels, wanted)

    def wanted(self) -> list[tuple[str, Expr]]:
        if not self.chance(8):
            return []
        way = self.pick("w", "id", "s")
        if way == "id":
            name = self.pick(*NAMES)
            return [("id", Expr(f"'{name}'", lambda world, env: name))]
        if way == "w":
            return [("w", self.number(0))] if self.before else [("w", self.literal("0", "1"))]
        return [("s", self.literal(*LITERALS))]

    def literal(self, *texts: str) -> Expr:
        text = self.pick(*texts)
        return Expr(text, lambda world, env: LITERALS[text])

    before = False

    def edge(self) -> EdgeP:
        shown = self.chance(60)
        name = self.fresh("r" if shown else "hidden")
        types = self.random.sample(TYPES, self.pick(0, 0, 0, 1, 2))
        hops = None
        if self.chance(25):
            least = self.random.randint(0, 2)
            hops = least, least + self.random.randint(0, 2)
        wanted = [("w", self.literal("0", "1"))] if self.chance(15) else []
        if self.chance(8):
            number = self.pick(0, 1, 2)
            wanted = [("id", Expr(f"'e{number}'", lambda world, env: f"e{number}"))]
        if shown:
            self.kinds[name] = "edge" if hops is None else "edges"
        return EdgeP(name, shown, types, self.pick("out", "in", "both", "both"), hops, wanted)

    def path(self, length: int) -> PathP:
        nodes, edges = [self.node()], []
        for _ in range(length):
            edges.append(self.edge())
            nodes.append(self.node())
        name = self.fresh("p") if self.chance(20) else None
        if name is not None:
            self.kinds[name] = "path"
        return PathP(name, nodes, edges)

    def match(self) -> None:
        optional = self.chance(30)
        known = {*self.kinds}
        lengths = self.pick([0], [1], [1], [2], [2], [1, 0], [1, 1], [3])
        paths = [self.path(length) for length in lengths]
        where = self.condition() if self.chance(35) else None
        text = f"{'OPTIONAL ' * optional}MATCH {', '.join(path.text() for path in paths)}"
        self.texts.append(text + (f" WHERE {where.text}" if where else ""))
        added = [name for name in self.kinds if name not in known]

        def run(world: World, rows: list[Env]) -> list[Env]:
            made: list[Env] = []
            for row in rows:
                found = [
                    env
                    for env in oracle.matches(world, row, paths)
                    if where is None or where.value(world, env) is True
                ]
                # What the text does not name is no variable of the next clause.
                kept = [
                    {name: env[name] for name in env if not name.startswith("hidden")}
                    for env in found
                ]
                made += kept or ([{**row, **dict.fromkeys(added)}] if optional else [])
            return made

        self.stages.append(run)

    def unwind(self) -> None:
        items = [self.number() for _ in range(self.random.randint(0, 3))]
        name = self.fresh("u")
        self.texts.append(f"UNWIND [{', '.join(each.text for each in items)}] AS {name}")
        self.kinds[name] = "number"
        self.stages.append(lambda world, rows: [
            {**row, name: each.value(world, row)} for row in rows for each in items
        ])  # fmt: skip

    def columns(self, passes: bool) -> list[ColumnP]:
        made: list[ColumnP] = []
        aggregated = self.chance(35)
        entities = self.named("node", "edge")
        for _ in range(self.random.randint(1, 3)):
            way = self.pick("any", "number", *["entity"] * 2 * bool(entities))
            if aggregated and self.chance(60):
                made.append(self.aggregate())
            elif way == "entity":
                name = self.pick(*entities)
                alias = self.fresh(name[0])
                made.append(ColumnP(alias, self.variable(name), None))
                if passes:
                    self.next_kinds[alias] = self.kinds[name]
            else:
                alias = self.fresh("c")
                value = self.number() if way == "number" else self.anything()
                made.append(ColumnP(alias, value, None))
                self.next_kinds[alias] = "number" if way == "number" else "any"
        return made

    def aggregate(self) -> ColumnP:
        name = self.pick("count", "count", "sum", "avg", "min", "max", "collect")
        distinct = self.chance(30)
        alias = self.fresh("c")
        if name == "count" and self.chance(50):
            self.next_kinds[alias] = "number"
            return ColumnP(alias, None, ("count", False))
        value = self.number() if name in ("sum", "avg") else self.anything()
        self.next_kinds[alias] = "number" if name in ("count", "sum", "avg") else "opaque"
        return ColumnP(alias, value, (name, distinct))

    def passed(self) -> None:
        """WITH."""
        self.next_kinds: dict[str, str] = {}
        distinct = self.chance(25)
        columns = self.columns(True)
        self.kinds = self.next_kinds
        where = self.condition(1) if self.chance(40) else None
        text = f"WITH {'DISTINCT ' * distinct}{', '.join(each.text() for each in columns)}"
        self.texts.append(text + (f" WHERE {where.text}" if where else ""))
        self.stages.append(lambda world, rows: [
            row
            for row in oracle.project(world, rows, columns, distinct)
            if where is None or where.value(world, row) is True
        ])  # fmt: skip

    def returned(self) -> Query:
        self.next_kinds = {}
        distinct = self.chance(25)
        columns = self.columns(False)
        lists = [each.name for each in columns if each.aggregate and each.aggregate[0] == "collect"]
        text = f"RETURN {'DISTINCT ' * distinct}{', '.join(each.text() for each in columns)}"
        keys = [(each.name, self.chance(40)) for each in columns if each.name not in lists]
        ordered = bool(keys) and not lists and self.chance(40)
        if ordered:
            sort = ", ".join(f"{name}{' DESC' * descending}" for name, descending in keys)
            text += f" ORDER BY {sort}"
        skip = self.random.randint(0, 2) if self.chance(20) else 0
        limit = self.random.randint(0, 4) if self.chance(30) else None
        text += (f" SKIP {skip}" if skip else "") + (f" LIMIT {limit}" if limit is not None else "")
        stages = [*self.stages]

        def run(world: World) -> list[Env] | None:
            rows: list[Env] = [{}]
            for stage in stages:
                rows = stage(world, rows)
                if len(rows) > ROWS_MAX:
                    return None
            made = oracle.project(world, rows, columns, distinct)
            for name, descending in reversed(keys if ordered else []):
                made.sort(key=lambda row: Sortable(row[name]), reverse=descending)
            return made

        names = [each.name for each in columns]
        whole = "\n".join([*self.texts, text])
        return Query(whole, run, names, lists, ordered, skip, limit)


def random_query(chance: Random) -> Query:
    drawing = Drawing(chance)
    for place in range(chance.randint(1, 3)):
        clause = drawing.pick("match", "match", "match", "unwind", "with")
        if clause == "match" or place == 0:
            drawing.match()
        elif clause == "unwind":
            drawing.unwind()
        else:
            drawing.passed()
    return drawing.returned()
