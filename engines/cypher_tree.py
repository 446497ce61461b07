"""A statement of Cypher as a tree, and as plain values, which is how it travels in the log.

The tree is of named tuples. Its plain form is `[tag, field, ...]` for each of them: what the
log carries is therefore no text that a later parser could read otherwise, and `rebuild` takes
nothing that is not of the shape below.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final, NamedTuple

from engines.codec import Malformed, Value

EXPRESSION_DEPTH_MAX: Final = 64  # expressions within each other

Place = tuple[int, int] | None  # line and column, both from 1; None: of a tree from the log


# --- Expressions -----------------------------------------------------------------------


class Literal(NamedTuple):
    value: bool | int | float | str | None


class Parameter(NamedTuple):
    name: str
    place: Place = None


class Variable(NamedTuple):
    name: str
    place: Place = None


class Property(NamedTuple):
    of: Expression
    name: str


class Element(NamedTuple):
    """`list[place]` or `map[name]`."""

    of: Expression
    at: Expression


class Slice(NamedTuple):
    of: Expression
    first: Expression | None
    last: Expression | None


class HasLabels(NamedTuple):
    of: Expression
    labels: tuple[str, ...]


class Unary(NamedTuple):
    """NOT, -, IS NULL, IS NOT NULL."""

    operator: str
    of: Expression


class Binary(NamedTuple):
    """Comparisons, + - * / %, IN, STARTS WITH, ENDS WITH, CONTAINS."""

    operator: str
    left: Expression
    right: Expression


class Junction(NamedTuple):
    """AND, OR, XOR of two or more."""

    operator: str
    operands: tuple[Expression, ...]


class Call(NamedTuple):
    """`name`: in lower case. `count(*)` is a call of count without arguments."""

    name: str
    distinct: bool
    arguments: tuple[Expression, ...]
    place: Place = None


class ListOf(NamedTuple):
    items: tuple[Expression, ...]


class MapOf(NamedTuple):
    names: tuple[str, ...]
    values: tuple[Expression, ...]


class When(NamedTuple):
    condition: Expression
    result: Expression


class Case(NamedTuple):
    subject: Expression | None
    whens: tuple[When, ...]
    default: Expression | None


Expression = (
    Literal | Parameter | Variable | Property | Element | Slice | HasLabels | Unary | Binary
    | Junction | Call | ListOf | MapOf | Case
)  # fmt: skip


# --- Patterns --------------------------------------------------------------------------


class NodePattern(NamedTuple):
    variable: Variable | None
    labels: tuple[str, ...]
    properties: MapOf | Parameter | None


class EdgePattern(NamedTuple):
    """`direction`: out (to the right), in, both. `least` and `most` hops; None: exactly one."""

    variable: Variable | None
    types: tuple[str, ...]
    direction: str
    least: int | None
    most: int | None
    properties: MapOf | Parameter | None


class PathPattern(NamedTuple):
    """One node more than edges."""

    variable: Variable | None
    nodes: tuple[NodePattern, ...]
    edges: tuple[EdgePattern, ...]


# --- Clauses ---------------------------------------------------------------------------


class Match(NamedTuple):
    optional: bool
    paths: tuple[PathPattern, ...]
    where: Expression | None


class Unwind(NamedTuple):
    of: Expression
    variable: Variable


class Column(NamedTuple):
    value: Expression
    name: str


class SortKey(NamedTuple):
    value: Expression
    descending: bool


class Project(NamedTuple):
    """WITH, or with `last` RETURN. `everything`: of `*`."""

    last: bool
    distinct: bool
    everything: bool
    columns: tuple[Column, ...]
    order: tuple[SortKey, ...]
    skip: Expression | None
    limit: Expression | None
    where: Expression | None


class Create(NamedTuple):
    paths: tuple[PathPattern, ...]


class SetProperty(NamedTuple):
    of: Expression
    name: str
    value: Expression


class SetProperties(NamedTuple):
    """`=`, or with `adds` `+=`."""

    variable: Variable
    adds: bool
    value: Expression


class SetLabels(NamedTuple):
    variable: Variable
    labels: tuple[str, ...]


class RemoveProperty(NamedTuple):
    of: Expression
    name: str


class RemoveLabels(NamedTuple):
    variable: Variable
    labels: tuple[str, ...]


Change = SetProperty | SetProperties | SetLabels | RemoveProperty | RemoveLabels


class Update(NamedTuple):
    """SET or REMOVE."""

    changes: tuple[Change, ...]


class Merge(NamedTuple):
    path: PathPattern
    on_create: tuple[Change, ...]
    on_match: tuple[Change, ...]


class Delete(NamedTuple):
    detach: bool
    targets: tuple[Expression, ...]


Clause = Match | Unwind | Project | Create | Merge | Update | Delete


class Statement(NamedTuple):
    explain: bool
    clauses: tuple[Clause, ...]


# --- Plain form ------------------------------------------------------------------------

Reader = Callable[[Any, int], Any]  # a plain value, and how deep one may still go


def _exact(kind: type) -> Reader:
    def read(value: Any, depth: int) -> Any:
        if type(value) is not kind:
            raise Malformed(f"a {type(value).__name__} where there is to be a {kind.__name__}")
        return value

    return read


def _among(*words: str) -> Reader:
    def read(value: Any, depth: int) -> Any:
        if type(value) is not str or value not in words:
            raise Malformed(f"is none of {', '.join(words)}")
        return value

    return read


def _scalar(value: Any, depth: int) -> Any:
    if value is not None and type(value) not in (bool, int, float, str):
        raise Malformed("is no literal")
    if type(value) is float and not isfinite(value):
        raise Malformed("is no finite number")
    return value


def _maybe(read: Reader) -> Reader:
    return lambda value, depth: None if value is None else read(value, depth)


def _many(read: Reader, least: int = 0) -> Reader:
    def many(value: Any, depth: int) -> Any:
        if type(value) is not list or len(value) < least:
            raise Malformed("is no list, or too short")
        return tuple(read(each, depth) for each in value)

    return many


def _one_of(*kinds: type) -> Reader:
    names = frozenset(kind.__name__ for kind in kinds)

    def read(value: Any, depth: int) -> Any:
        if type(value) is not list or not value or type(value[0]) is not str:
            raise Malformed("is no part of a statement")
        if value[0] not in names:
            raise Malformed(f"is none of {', '.join(sorted(names))}")
        if depth == 0:
            raise Malformed("is nested too deep")
        kind, readers = _SHAPES[value[0]]
        if len(value) != len(readers) + 1:
            raise Malformed(f"a {value[0]} of {len(value) - 1} fields")
        fields = [each(part, depth - 1) for each, part in zip(readers, value[1:], strict=True)]
        return kind(*fields)

    return read


_text, _flag, _count = _exact(str), _exact(bool), _exact(int)
_texts = _many(_text)
_expression = _one_of(
    Literal, Parameter, Variable, Property, Element, Slice, HasLabels, Unary, Binary, Junction,
    Call, ListOf, MapOf, Case,
)  # fmt: skip
_variable = _one_of(Variable)
_path = _one_of(PathPattern)
_wanted = _maybe(_one_of(MapOf, Parameter))
_changes = _many(_one_of(SetProperty, SetProperties, SetLabels, RemoveProperty, RemoveLabels))
_clauses = _many(_one_of(Match, Unwind, Project, Create, Merge, Update, Delete), 1)
COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=")
OPERATORS: Final = (
    *COMPARISONS, "+", "-", "*", "/", "%", "IN", "STARTS WITH", "ENDS WITH", "CONTAINS",
)  # fmt: skip

_FIELDS: Final[dict[type, tuple[Reader, ...]]] = {
    Literal: (_scalar,),
    Parameter: (_text,),
    Variable: (_text,),
    Property: (_expression, _text),
    Element: (_expression, _expression),
    Slice: (_expression, _maybe(_expression), _maybe(_expression)),
    HasLabels: (_expression, _many(_text, 1)),
    Unary: (_among("NOT", "-", "IS NULL", "IS NOT NULL"), _expression),
    Binary: (_among(*OPERATORS), _expression, _expression),
    Junction: (_among("AND", "OR", "XOR"), _many(_expression, 2)),
    Call: (_text, _flag, _many(_expression)),
    ListOf: (_many(_expression),),
    MapOf: (_texts, _many(_expression)),
    When: (_expression, _expression),
    Case: (_maybe(_expression), _many(_one_of(When), 1), _maybe(_expression)),
    NodePattern: (_maybe(_variable), _texts, _wanted),
    EdgePattern: (
        _maybe(_variable), _texts, _among("out", "in", "both"), _maybe(_count), _maybe(_count),
        _wanted,
    ),
    PathPattern: (_maybe(_variable), _many(_one_of(NodePattern), 1), _many(_one_of(EdgePattern))),
    Match: (_flag, _many(_path, 1), _maybe(_expression)),
    Unwind: (_expression, _variable),
    Column: (_expression, _text),
    SortKey: (_expression, _flag),
    Project: (
        _flag, _flag, _flag, _many(_one_of(Column)), _many(_one_of(SortKey)),
        _maybe(_expression), _maybe(_expression), _maybe(_expression),
    ),
    Create: (_many(_path, 1),),
    SetProperty: (_expression, _text, _expression),
    SetProperties: (_variable, _flag, _expression),
    SetLabels: (_variable, _many(_text, 1)),
    RemoveProperty: (_expression, _text),
    RemoveLabels: (_variable, _many(_text, 1)),
    Update: (_changes,),
    Merge: (_path, _changes, _changes),
    Delete: (_flag, _many(_expression, 1)),
    Statement: (_flag, _clauses),
}  # fmt: skip
_SHAPES: Final = {kind.__name__: (kind, readers) for kind, readers in _FIELDS.items()}
DEPTH_MAX: Final = EXPRESSION_DEPTH_MAX + 8  # and the clauses and patterns around them


def plain(tree: Any) -> Value:
    """The plain form; of places in the text nothing is left."""
    if isinstance(tree, tuple):
        readers = _FIELDS.get(type(tree))
        if readers is None:
            return [plain(each) for each in tree]
        return [type(tree).__name__, *(plain(each) for each in tree[: len(readers)])]
    found: Value = tree
    return found


def rebuild(value: Any) -> Statement:
    """The tree that `plain` was given. Raises Malformed."""
    statement: Statement = _one_of(Statement)(value, DEPTH_MAX)
    return statement


def bare(tree: Any) -> Any:
    """Without places, so that what says the same is equal."""
    if not isinstance(tree, tuple):
        return (type(tree).__name__, tree)  # true is no 1
    kind, fields = type(tree), [bare(each) for each in tree]
    readers = _FIELDS.get(kind)
    # The tag, too, since tuples of the same fields are equal.
    return ("", *fields) if readers is None else (kind.__name__, *fields[: len(readers)])


def children(tree: Any) -> list[Any]:
    """The tuples right below, those of trees and those of lists of them."""
    return [each for each in tree if isinstance(each, tuple) and each]


def size_of(tree: Any) -> int:
    """How many parts it has; no recursion beyond its own depth, which is bounded."""
    return 1 + sum(map(size_of, children(tree)))


def is_deeper(tree: Any, depth_max: int) -> bool:
    """Without recursion: a text may nest deeper than Python's stack."""
    level = [tree]
    for _ in range(depth_max):
        below: list[Any] = []
        for each in level:
            for child in children(each):
                below += [child] if type(child) in _FIELDS else children(child)
        if not below:
            return False
        level = below
    return True
