"""Cypher's text to a tree: the only importer of lark."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any, Final

from lark import Lark, Token, Tree, UnexpectedInput, v_args
from lark.exceptions import UnexpectedToken, VisitError
from lark.visitors import Transformer_NonRecursive

from engines import cypher_tree as tree
from engines.cypher_errors import PATTERN_HINT, CypherError
from engines.cypher_grammar import GRAMMAR, NOT_OFFERED
from engines.cypher_parts import (
    ANY_EDGE,
    WANTED,
    Hops,
    NamedColumn,
    Names,
    Part,
    binary,
    integer_of,
    name_of,
    parts_of,
    place_of,
    project,
    unescaped,
)

STATEMENT_BYTES_MAX: Final = 8 << 10  # 0.1 s to parse
_KEPT_STATEMENTS: Final = 256  # parsed, for who asks the same again; some 10 MiB at most
_KEPT_CHARACTERS_MAX: Final = 1_000  # of each
_UNBOUNDED: Final = "* needs an upper bound, as in *1..3"
_EXPECTED_MAX: Final = 8  # that an error names
# A node and the beginning of a relationship, where the grammar wants an expression.
_PATTERN: Final = re.compile(r"\([^()]*\)\s*(<\s*)?-\s*(\[[^\]]*\]\s*)?-\s*>?\s*\(?")
_OF_EXPRESSIONS: Final = frozenset({"_CASE", "PERCENT"})  # can stand in no other place
_CLASSES: Final = frozenset({"NAME", "INTEGER", "FLOAT", "STRING"})


def parse(text: str) -> tree.Statement:
    """`text`: at most STATEMENT_BYTES_MAX long. Raises CypherError."""
    return _parse(text) if len(text) > _KEPT_CHARACTERS_MAX else _parse_once(text)


def _parse(text: str) -> tree.Statement:
    try:
        parsed = _parser().parse(text)
    except UnexpectedInput as error:
        raise _syntax_error(text, error) from None
    builder = _Builder(text)
    try:
        statement: tree.Statement = builder.transform(parsed)
    except VisitError as error:
        if isinstance(error.orig_exc, CypherError):
            raise error.orig_exc from None
        raise
    if tree.is_deeper(statement, tree.DEPTH_MAX):
        raise CypherError(f"is nested deeper than {tree.EXPRESSION_DEPTH_MAX}")
    return statement


_parse_once = lru_cache(maxsize=_KEPT_STATEMENTS)(_parse)


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _syntax_error(text: str, error: UnexpectedInput) -> CypherError:
    place = (error.line, error.column)
    start: Any = error.pos_in_stream
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return CypherError(f"ends too early; {_expected(error)}")
    found = NOT_OFFERED.match(text, start) or NOT_OFFERED.search(_word_before(text, start))
    if found:
        return CypherError(f"{found.group()} is not part of what is offered", place)
    what = re.match(r"\w+|.", text[start:], re.DOTALL)
    shown = "" if what is None else what.group()[:40]
    hint = PATTERN_HINT if _is_pattern(text, error) else _expected(error)
    return CypherError(f"unexpected {shown!r}; {hint}", place)


def _is_pattern(text: str, error: UnexpectedInput) -> bool:
    """Whether what stands there is a pattern used as an expression."""
    start: Any = error.pos_in_stream
    found = any(each.start() < start <= each.end() for each in _PATTERN.finditer(text))
    return found and not _OF_EXPRESSIONS.isdisjoint(_accepted(error))


def _accepted(error: UnexpectedInput) -> set[str]:
    """Names of terminals that could stand there."""
    return getattr(error, "accepts", None) or getattr(error, "allowed", None) or set()


def _word_before(text: str, start: int) -> str:
    """The word that `start` follows: it is what the parser could not go on from."""
    found = re.search(r"(\w+)\s*[({]?\s*$", text[:start])
    return "" if found is None else found.group(1) + " "


def _expected(error: UnexpectedInput) -> str:
    """What could stand there, in words, as far as it is not too much."""
    names = _accepted(error)
    terminals = {each.name: each.pattern.value for each in _parser().terminals}
    words = sorted(
        name.removeprefix("_") if name.startswith("_") or name in _CLASSES
        else f"'{terminals.get(name, name)}'"
        for name in names
    )  # fmt: skip
    shown = words if len(words) <= _EXPECTED_MAX else [*words[:_EXPECTED_MAX], "…"]
    return f"expected {'one of ' if len(shown) > 1 else ''}{', '.join(shown)}"


@v_args(inline=True)
class _Builder(Transformer_NonRecursive[Any, Any]):
    """Each method makes the tree of the rule of its name. `text`: of the whole statement."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def start(self, *parts: Any) -> tree.Statement:
        explained = parts[0] == "explain"
        return tree.Statement(explained, parts[1:] if explained else parts)

    # -- clauses

    def explain(self) -> str:
        return "explain"

    def optional(self) -> bool:
        return True

    def where(self, condition: Any) -> Part:
        return Part("where", condition)

    def match(self, *parts: Any) -> tree.Match:
        named = parts_of(parts)
        (paths,) = (each for each in parts if type(each) is tuple)
        return tree.Match(parts[0] is True, paths, named.get("where"))

    def unwind(self, of: Any, variable: tree.Variable) -> tree.Unwind:
        return tree.Unwind(of, variable)

    def distinct(self) -> Part:
        return Part("distinct", True)

    def star(self) -> str:
        return "*"

    def columns(self, *columns: Any) -> Part:
        return Part("columns", columns)

    @v_args(tree=True)
    def column(self, node: Tree[Any]) -> NamedColumn:
        value: Any = node.children[0]
        if len(node.children) == 2:
            return NamedColumn(value, str(node.children[1]), True, None)
        if type(value) is tree.Variable:
            return NamedColumn(value, value.name, True, None)
        meta = node.meta
        text = self._text[meta.start_pos : meta.end_pos]
        return NamedColumn(value, text, False, (meta.line, meta.column))

    def ascending(self, of: Any) -> tree.SortKey:
        return tree.SortKey(of, False)

    def descending(self, of: Any) -> tree.SortKey:
        return tree.SortKey(of, True)

    def order(self, *keys: Any) -> Part:
        return Part("order", keys)

    def skip(self, of: Any) -> Part:
        return Part("skip", of)

    def limit(self, of: Any) -> Part:
        return Part("limit", of)

    def body(self, *parts: Any) -> dict[str, Any]:
        return parts_of(parts)

    def returned(self, body: dict[str, Any]) -> tree.Project:
        return project(True, body)

    def passed(self, body: dict[str, Any], where: Any = None) -> tree.Project:
        return project(False, body | parts_of([where]))

    def create(self, paths: Any) -> tree.Create:
        return tree.Create(paths)

    def on_create(self, changes: Any) -> Part:
        return Part("create", changes)

    def on_match(self, changes: Any) -> Part:
        return Part("match", changes)

    def merge(self, path: tree.PathPattern, *parts: Any) -> tree.Merge:
        made = {"create": (), "match": ()}
        for part in parts:
            made[part.name] += part.value
        return tree.Merge(path, made["create"], made["match"])

    def changes(self, *changes: Any) -> tuple[Any, ...]:
        return changes

    def property(self, of: Any, name: str) -> tree.Property:
        return tree.Property(of, name)

    def property_of(self, found: tree.Property) -> tree.Property:
        return found

    def set_property(self, of: tree.Property, value: Any) -> tree.SetProperty:
        return tree.SetProperty(of.of, of.name, value)

    def set_properties(self, variable: tree.Variable, value: Any) -> tree.SetProperties:
        return tree.SetProperties(variable, False, value)

    def add_properties(self, variable: tree.Variable, value: Any) -> tree.SetProperties:
        return tree.SetProperties(variable, True, value)

    def set_labels(self, variable: tree.Variable, labels: Any) -> tree.SetLabels:
        return tree.SetLabels(variable, tuple(labels))

    def remove_property(self, of: tree.Property) -> tree.RemoveProperty:
        return tree.RemoveProperty(of.of, of.name)

    def remove_labels(self, variable: tree.Variable, labels: Any) -> tree.RemoveLabels:
        return tree.RemoveLabels(variable, tuple(labels))

    def update(self, *changes: Any) -> tree.Update:
        whole = changes[0] if type(changes[0]) is tuple else changes
        return tree.Update(whole)

    def deleted(self, *targets: Any) -> tree.Delete:
        return tree.Delete(False, targets)

    def detached(self, *targets: Any) -> tree.Delete:
        return tree.Delete(True, targets)

    # -- patterns

    def paths(self, *paths: Any) -> tuple[Any, ...]:
        return paths

    def path(self, *parts: Any) -> tree.PathPattern:
        nodes, edges = parts[-1]
        return tree.PathPattern(parts[0] if len(parts) == 2 else None, nodes, edges)

    def chain(self, *parts: Any) -> tuple[Any, Any]:
        return parts[::2], parts[1::2]

    def labels(self, *labels: str) -> Names:
        return Names(labels)

    types = labels

    def wanted(self, of: Any) -> Any:
        return of

    def node(self, *parts: Any) -> tree.NodePattern:
        variable = next((each for each in parts if type(each) is tree.Variable), None)
        labels = next((each for each in parts if type(each) is Names), Names())
        wanted = next((each for each in parts if type(each) in WANTED), None)
        return tree.NodePattern(variable, tuple(labels), wanted)

    @v_args(meta=True)
    def hops_any(self, meta: Any, _: Any) -> Hops:
        raise CypherError(_UNBOUNDED, (meta.line, meta.column))

    def hops_exact(self, count: Token) -> Hops:
        return Hops(integer_of(count), integer_of(count))

    def hops_range(self, *parts: Token) -> Hops:
        place = next(number for number, each in enumerate(parts) if each.type == "RANGE")
        if place + 1 == len(parts):
            raise CypherError(_UNBOUNDED, place_of(parts[place]))
        return Hops(integer_of(parts[0]) if place else 1, integer_of(parts[-1]))

    def detail(self, *parts: Any) -> tree.EdgePattern:
        variable = next((each for each in parts if type(each) is tree.Variable), None)
        types = next((each for each in parts if type(each) is Names), Names())
        wanted = next((each for each in parts if type(each) in WANTED), None)
        hops = next((each for each in parts if type(each) is Hops), None)
        least, most = (None, None) if hops is None else hops
        return tree.EdgePattern(variable, tuple(types), "both", least, most, wanted)

    def edge_out(self, detail: Any = None) -> tree.EdgePattern:
        return (detail or ANY_EDGE)._replace(direction="out")

    def edge_in(self, detail: Any = None) -> tree.EdgePattern:
        return (detail or ANY_EDGE)._replace(direction="in")

    def edge_both(self, detail: Any = None) -> tree.EdgePattern:
        return detail or ANY_EDGE

    edge_any = edge_both

    # -- expressions

    def any_of(self, *operands: Any) -> tree.Junction:
        return tree.Junction("OR", operands)

    def odd_of(self, *operands: Any) -> tree.Junction:
        return tree.Junction("XOR", operands)

    def all_of(self, *operands: Any) -> tree.Junction:
        return tree.Junction("AND", operands)

    def negated(self, of: Any) -> tree.Unary:
        return tree.Unary("NOT", of)

    def comparator(self, token: Token) -> str:
        return str(token)

    def compared(self, *parts: Any) -> Any:
        """`a < b < c` is `a < b AND b < c`."""
        pairs = tuple(
            tree.Binary(parts[place], parts[place - 1], parts[place + 1])
            for place in range(1, len(parts), 2)
        )
        return pairs[0] if len(pairs) == 1 else tree.Junction("AND", pairs)

    added = binary("+")
    subtracted = binary("-")
    multiplied = binary("*")
    divided = binary("/")
    remainder = binary("%")
    is_in = binary("IN")
    starts_with = binary("STARTS WITH")
    ends_with = binary("ENDS WITH")
    contains = binary("CONTAINS")

    def is_null(self, of: Any) -> tree.Unary:
        return tree.Unary("IS NULL", of)

    def is_not_null(self, of: Any) -> tree.Unary:
        return tree.Unary("IS NOT NULL", of)

    def minus(self, of: Any) -> tree.Unary:
        return tree.Unary("-", of)

    def plus(self, of: Any) -> Any:
        return of

    def has_labels(self, of: Any, labels: Any) -> tree.HasLabels:
        return tree.HasLabels(of, tuple(labels))

    def element(self, of: Any, at: Any) -> tree.Element:
        return tree.Element(of, at)

    def slice(self, of: Any, *parts: Any) -> tree.Slice:
        place = next(number for number, each in enumerate(parts) if type(each) is Token)
        first = parts[0] if place else None
        return tree.Slice(of, first, parts[place + 1] if len(parts) > place + 1 else None)

    def integer(self, token: Token) -> tree.Literal:
        return tree.Literal(integer_of(token))

    def decimal(self, token: Token) -> tree.Literal:
        value = float(token)
        if value == float("inf"):
            raise CypherError("a number beyond what 64 bits hold", place_of(token))
        return tree.Literal(value)

    def text(self, token: Token) -> tree.Literal:
        return tree.Literal(unescaped(token))

    def true(self) -> tree.Literal:
        return tree.Literal(True)

    def false(self) -> tree.Literal:
        return tree.Literal(False)

    def null(self) -> tree.Literal:
        return tree.Literal(None)

    def variable(self, token: Token) -> tree.Variable:
        return tree.Variable(name_of(token), place_of(token))

    def name(self, token: Token) -> str:
        return name_of(token)

    def parameter(self, name: Any) -> tree.Parameter:
        return tree.Parameter(str(name))

    def arguments(self, *arguments: Any) -> tuple[Any, ...]:
        return arguments

    def call(self, name: tree.Variable, arguments: Any = ()) -> tree.Call:
        return tree.Call(name.name.lower(), False, arguments, name.place)

    def call_distinct(self, name: tree.Variable, arguments: Any) -> tree.Call:
        return tree.Call(name.name.lower(), True, arguments, name.place)

    def call_star(self, name: tree.Variable) -> tree.Call:
        if name.name.lower() != "count":
            raise CypherError(f"{name.name}(*) is not known; count(*) is", name.place)
        return tree.Call("count", False, (), name.place)

    def list_of(self, items: Any = ()) -> tree.ListOf:
        return tree.ListOf(items)

    def pair(self, name: str, value: Any) -> tuple[str, Any]:
        return name, value

    def map(self, *pairs: Any) -> tree.MapOf:
        names = tuple(name for name, _ in pairs)
        if len({*names}) < len(names):
            raise CypherError("a map names a member twice")
        return tree.MapOf(names, tuple(value for _, value in pairs))

    def exists(self, paths: Any, where: Any = None) -> tree.Exists:
        return tree.Exists(paths, None if where is None else where.value)

    def when(self, condition: Any, result: Any) -> tree.When:
        return tree.When(condition, result)

    def otherwise(self, of: Any) -> Part:
        return Part("else", of)

    def case(self, *parts: Any) -> tree.Case:
        whens = tuple(each for each in parts if type(each) is tree.When)
        subject = None if type(parts[0]) is tree.When else parts[0]
        return tree.Case(subject, whens, parts_of(parts).get("else"))
