"""A statement of Cypher as a tree of named tuples."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

EXPRESSION_DEPTH_MAX: Final = 64  # expressions within each other
DEPTH_MAX: Final = EXPRESSION_DEPTH_MAX + 8  # and the clauses and patterns around them

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


class Exists(NamedTuple):
    """EXISTS { patterns WHERE … }: is there a way to lay them?"""

    paths: tuple[PathPattern, ...]
    where: Expression | None


Expression = (
    Literal | Parameter | Variable | Property | Element | Slice | HasLabels | Unary | Binary
    | Junction | Call | ListOf | MapOf | Case | Exists
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


# --- Any of them -----------------------------------------------------------------------


def bare(tree: Any) -> Any:
    """Without places, so that what says the same is equal."""
    if not isinstance(tree, tuple):
        return (type(tree).__name__, tree)  # true is no 1
    names = getattr(tree, "_fields", None)
    if names is None:
        return ("", *map(bare, tree))
    parts = zip(names, tree, strict=True)
    # The tag, too, since tuples of the same fields are equal.
    return (type(tree).__name__, *(bare(each) for name, each in parts if name != "place"))


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
                below += children(child) if type(child) is tuple else [child]
        if not below:
            return False
        level = below
    return True
