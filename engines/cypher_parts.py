"""Parts of a statement of Cypher between its tokens and its tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError

_INTEGER_MAX: Final = (1 << 63) - 1
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


class Token(Protocol):
    """A text, and where it stands, from 1."""

    @property
    def line(self) -> int | None: ...
    @property
    def column(self) -> int | None: ...


class Part(NamedTuple):
    name: str
    value: Any


class NamedColumn(NamedTuple):
    """`named`: by AS, or as a variable; otherwise by its text, which starts at `place`."""

    value: Any
    name: str
    named: bool
    place: tree.Place


class Hops(NamedTuple):
    least: int
    most: int


class Names(tuple[str, ...]):
    """Labels or types."""


WANTED: Final = (tree.MapOf, tree.Parameter)
ANY_EDGE: Final = tree.EdgePattern(None, (), "both", None, None, None)


def parts_of(parts: Any) -> dict[str, Any]:
    return {each.name: each.value for each in parts if type(each) is Part}


def project(last: bool, body: dict[str, Any]) -> tree.Project:
    columns = body["columns"]
    everything = columns[0] == "*"
    made: list[tree.Column] = []
    for column in columns[everything:]:
        if not (last or column.named):
            raise CypherError("an expression in WITH needs a name: AS name", column.place)
        made.append(tree.Column(column.value, column.name))
    return tree.Project(
        last, body.get("distinct", False), everything, tuple(made),
        body.get("order", ()), body.get("skip"), body.get("limit"), body.get("where"),
    )  # fmt: skip


def place_of(token: Token) -> tree.Place:
    return (token.line or 1, token.column or 1)


def integer_of(token: Token) -> int:
    digits = str(token)
    if len(digits) > 19 or int(digits) > _INTEGER_MAX:
        raise CypherError("a whole number beyond 2^63 - 1", place_of(token))
    return int(digits)


def name_of(token: Token) -> str:
    text = str(token)
    return text[1:-1].replace("``", "`") if text[0] == "`" else text


def unescaped(token: Token) -> str:
    def one(found: re.Match[str]) -> str:
        code = found.group(1)
        if code[0] in "uU" and len(code) > 1:
            number = int(code[1:], 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise CypherError(f"\\{code} is no character", place_of(token))
            return chr(number)
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, str(token)[1:-1])


def binary(operator: str) -> Callable[..., tree.Binary]:
    def made(self: Any, left: Any, right: Any) -> tree.Binary:
        return tree.Binary(operator, left, right)

    return made
