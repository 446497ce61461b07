"""Statements of Cypher as plain values, which is how they travel in the log.

The plain form of a tree is `[tag, field, ...]`: no text that a later parser could read
otherwise. `rebuild` takes nothing that is not of the shape below.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from engines.codec import Malformed, Value
from engines.cypher_tree import (
    DEPTH_MAX,
    Binary,
    Call,
    Case,
    Column,
    Create,
    Delete,
    EdgePattern,
    Element,
    Exists,
    HasLabels,
    Junction,
    ListOf,
    Literal,
    MapOf,
    Match,
    Merge,
    NodePattern,
    Parameter,
    PathPattern,
    Project,
    Property,
    RemoveLabels,
    RemoveProperty,
    SetLabels,
    SetProperties,
    SetProperty,
    Slice,
    SortKey,
    Statement,
    Unary,
    Unwind,
    Update,
    Variable,
    When,
)

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
    Call, ListOf, MapOf, Case, Exists,
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
    Exists: (_many(_path, 1), _maybe(_expression)),
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
