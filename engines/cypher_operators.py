"""What the operators of Cypher do to two values; null is contagious where openCypher says so."""

from __future__ import annotations

from collections.abc import Callable
from math import fmod, isfinite
from operator import add, mul, sub
from typing import Any, Final

from engines.cypher_budget import Budget
from engines.cypher_errors import PATTERN_HINT, CypherError
from engines.cypher_values import INTEGER_MAX, INTEGER_MIN, NodeRef, equal, group_key, kind_of, less

_NULL: Final = group_key(None)


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def _number(value: Any, operator: str) -> Any:
    if type(value) not in (int, float):
        # `(a)--(b)` is read as the subtraction of a negative.
        hint = f"; {PATTERN_HINT}" if operator == "-" and type(value) is NodeRef else ""
        raise CypherError(f"{operator} of {kind_of(value)}{hint}")
    return value


def arithmetic(run: Callable[[Any, Any], Any], left: Any, right: Any, operator: str) -> Any:
    if left is None or right is None:
        return None
    found = run(_number(left, operator), _number(right, operator))
    if type(found) is int:
        if not INTEGER_MIN <= found <= INTEGER_MAX:
            raise CypherError(f"{operator} makes a whole number that does not fit 64 bits")
    elif not isfinite(found):
        raise CypherError(f"{operator} makes no finite number")
    return found


def _quotient(left: Any, right: Any) -> Any:
    """Whole numbers are divided towards zero."""
    if right == 0:
        raise CypherError("a division by zero")
    if type(left) is int and type(right) is int:
        found = abs(left) // abs(right)
        return found if (left < 0) == (right < 0) else -found
    return left / right


def _remainder(left: Any, right: Any) -> Any:
    """Of the sign of the dividend."""
    if right == 0:
        raise CypherError("a division by zero")
    if type(left) is int and type(right) is int:
        return left - right * _quotient(left, right)
    return fmod(left, right)


def _added(left: Any, right: Any) -> Any:
    if type(left) is list or type(right) is list:
        if left is None or right is None:
            return None
        first = left if type(left) is list else [left]
        return first + (right if type(right) is list else [right])
    if type(left) is str and type(right) in (str, int, float):
        return left + (right if type(right) is str else str(right))
    if type(right) is str and type(left) in (int, float):
        return str(left) + right
    return arithmetic(add, left, right, "+")


class Members:
    """`left IN right` for many left ones; a list is looked through once while it stays."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._list: Any = None
        self._keys: frozenset[Any] = frozenset()
        self._size = 0  # of the keys, bytes

    def contain(self, left: Any, right: Any) -> bool | None:
        if type(right) is not list or type(left) in (list, dict) or left is None:
            if type(right) is list:
                self._budget.compare(left, right)
            return _contained(left, right)
        if right is not self._list:
            size = self._budget.keys(right)
            self._budget.hold(size - self._size)
            self._size, self._list = size, right
            self._keys = frozenset(
                group_key(each)
                for each in right
                if type(each) is not list and type(each) is not dict
            )
        if group_key(left) in self._keys:
            return True
        return None if _NULL in self._keys else False


def _contained(left: Any, right: Any) -> bool | None:
    """`left IN right`."""
    if right is None:
        return None
    if type(right) is not list:
        raise CypherError(f"IN {kind_of(right)}, not a list")
    unknown = False
    for each in right:
        same = equal(left, each)
        if same:
            return True
        unknown = unknown or same is None
    return None if unknown else False


def _of_texts(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool | None]:
    def run(left: Any, right: Any) -> bool | None:
        return test(left, right) if type(left) is str and type(right) is str else None

    return run


BINARY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": equal,
    "<>": lambda left, right: negated(equal(left, right)),
    "<": lambda left, right: less(left, right, False),
    "<=": lambda left, right: less(left, right, True),
    ">": lambda left, right: less(right, left, False),
    ">=": lambda left, right: less(right, left, True),
    "+": _added,
    "-": lambda left, right: arithmetic(sub, left, right, "-"),
    "*": lambda left, right: arithmetic(mul, left, right, "*"),
    "/": lambda left, right: arithmetic(_quotient, left, right, "/"),
    "%": lambda left, right: arithmetic(_remainder, left, right, "%"),
    "IN": _contained,
    "STARTS WITH": _of_texts(str.startswith),
    "ENDS WITH": _of_texts(str.endswith),
    "CONTAINS": _of_texts(str.__contains__),
}
