"""Functions of Cypher over values, and aggregates over the rows of a group.

None of them reads a clock or makes a random number, and none depends on the version of
Unicode's tables within a write: replicas may run on different versions of Python.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, isfinite, sqrt
from typing import Any, Final, NamedTuple

from engines.cypher_errors import CypherError
from engines.cypher_graph import Graph
from engines.cypher_values import (
    INTEGER_MAX,
    INTEGER_MIN,
    SIZED,
    VALUE_BYTES_MAX,
    EdgeRef,
    NodeRef,
    Path,
    check_made,
    group_key,
    kind_of,
    order_key,
    weight,
)

LIST_ITEMS_MAX: Final = 10_000  # that range makes
_BLANKS: Final = " \t\n\r\v\f"
_WORK_BYTES: Final = 256  # of values that a unit of work copies
_WORK_ITEMS: Final = 256
_COPYING: Final = frozenset({"tail", "reverse", "keys"})
_SORTED_NAMES: Final = 8  # for a unit of work
_COPIED_MEMBERS: Final = 64
_SPLIT_PARTS: Final = 8
_PART_BYTES: Final = 60  # of a text in a list, besides its characters
_KEPT_BYTES: Final = 60  # of a value's place in a list or set


class Function(NamedTuple):
    """`run`: of the graph and the arguments, of which there are `least` to `most`."""

    least: int
    most: int
    run: Callable[..., Any]


def _fails(name: str, value: Any) -> CypherError:
    return CypherError(f"{name} of {kind_of(value)}")


def _of(name: str, kinds: tuple[type, ...], run: Callable[[Graph, Any], Any]) -> Function:
    """Null of null."""

    def one(graph: Graph, value: Any) -> Any:
        if value is None:
            return None
        if type(value) not in kinds:
            raise _fails(name, value)
        if type(value) in SIZED:
            graph.budget.work(len(value) // _WORK_ITEMS)
            if name in _COPYING:
                check_made(value, name)
        return run(graph, value)

    return Function(1, 1, one)


def _size(graph: Graph, value: Any) -> int:
    return len(value)


def _case(run: Callable[[str], str]) -> Callable[[Graph, str], str]:
    def one(graph: Graph, value: str) -> str:
        if graph.writing and not value.isascii():
            raise CypherError(
                "upper and lower case beyond ASCII depend on the version of Unicode, which "
                "replicas may differ in: not within a write"
            )
        return run(value)

    return one


def _labels(graph: Graph, node: NodeRef) -> list[str]:
    return [*graph.node(node.id).labels]


def _keys(graph: Graph, value: Any) -> list[str]:
    names = value if type(value) is dict else graph.properties(value)
    graph.budget.work(len(names) // _SORTED_NAMES)
    return sorted(names)


def _properties(graph: Graph, value: Any) -> Any:
    if type(value) is dict:
        return value
    properties = graph.properties(value)
    graph.budget.work(len(properties) // _COPIED_MEMBERS)
    return {**properties}


def _end(place: int) -> Callable[[Graph, Any], Any]:
    return lambda graph, edge: NodeRef(edge[place])


def _coalesce(graph: Graph, *values: Any) -> Any:
    return next((each for each in values if each is not None), None)


def _range(graph: Graph, first: Any, last: Any, step: Any = 1) -> Any:
    if any(type(each) is not int for each in (first, last, step)) or step == 0:
        raise CypherError("range takes whole numbers, and a step that is not 0")
    count = max(0, (last - first) // step + 1)  # len() of a range ends at 2^63
    if count > LIST_ITEMS_MAX:
        raise CypherError(f"range makes more than {LIST_ITEMS_MAX} numbers")
    graph.budget.work(count // 8)
    return [first + place * step for place in range(count)]


def _to_integer(graph: Graph, value: Any) -> int | None:
    if type(value) is str:
        number = _to_float(graph, value)
        plain = value.strip(_BLANKS)
        digits = plain.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 20:
            return _fitting(int(plain))
        return None if number is None else _fitting(int(number))
    return _fitting(int(value))


def _fitting(value: int) -> int | None:
    return value if INTEGER_MIN <= value <= INTEGER_MAX else None


def _to_float(graph: Graph, value: Any) -> float | None:
    if type(value) is str and not (value.isascii() and "_" not in value):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if isfinite(found) else None


def _to_boolean(graph: Graph, value: Any) -> bool | None:
    if type(value) is bool:
        return value
    return {"true": True, "false": False}.get(value.strip(_BLANKS).lower())


def _to_string(graph: Graph, value: Any) -> str:
    return ("true" if value else "false") if type(value) is bool else str(value)


def _root(graph: Graph, value: Any) -> float | None:
    return sqrt(value) if value >= 0 else None


def _absolute(graph: Graph, value: Any) -> Any:
    return abs(value)


def _texts(name: str, run: Callable[..., Any], count: int, optional: int = 0) -> Function:
    """Of a text and what else it takes; null if any of it is."""

    def all_of(graph: Graph, *values: Any) -> Any:
        if None in values:
            return None
        if type(values[0]) is not str:
            raise _fails(name, values[0])
        graph.budget.work(sum(map(weight, values)) // _WORK_BYTES)
        try:
            found = run(*values)
        except TypeError:
            raise _fails(name, values[-1]) from None
        if type(found) is list:
            graph.budget.work(len(found) // _SPLIT_PARTS)
        return found

    return Function(count - optional, count, all_of)


def _substring(text: str, start: Any, length: Any = None) -> str:
    wanted = (start,) if length is None else (start, length)
    if any(type(each) is not int or each < 0 for each in wanted):
        raise CypherError("substring takes whole numbers of at least 0")
    return text[start:] if length is None else text[start : start + length]


def _left(text: str, length: Any) -> str:
    return _substring(text, 0, length)


def _right(text: str, length: Any) -> str:
    return text[max(0, len(text) - len(_substring(text, 0, length))) :]


def _replace(text: str, old: str, new: str) -> str:
    if old == "":
        return text
    found = text.count(old)
    if len(text) + found * len(new) > VALUE_BYTES_MAX:
        raise CypherError("replace makes more than a mebibyte")
    return text.replace(old, new)


def _split(text: str, separator: str) -> list[str]:
    count = len(text) if separator == "" else text.count(separator) + 1
    if len(text) + count * _PART_BYTES > VALUE_BYTES_MAX:
        raise CypherError("split makes more than a mebibyte")
    return [*text] if separator == "" else text.split(separator)


_ENTITY: Final = (NodeRef, EdgeRef)
_NUMBER: Final = (int, float)
FUNCTIONS: Final[dict[str, Function]] = {
    "id": _of("id", _ENTITY, lambda graph, value: value.id),
    "elementid": _of("elementId", _ENTITY, lambda graph, value: value.id),
    "labels": _of("labels", (NodeRef,), _labels),
    "type": _of("type", (EdgeRef,), lambda graph, value: value.type),
    "properties": _of("properties", (*_ENTITY, dict), _properties),
    "keys": _of("keys", (*_ENTITY, dict), _keys),
    "startnode": _of("startNode", (EdgeRef,), _end(1)),
    "endnode": _of("endNode", (EdgeRef,), _end(2)),
    "nodes": _of("nodes", (Path,), lambda graph, value: [*value.nodes]),
    "relationships": _of("relationships", (Path,), lambda graph, value: [*value.edges]),
    "length": _of("length", (Path,), lambda graph, value: len(value.edges)),
    "size": _of("size", (list, str, bytes, dict), _size),
    "coalesce": Function(1, 64, _coalesce),
    "head": _of("head", (list,), lambda graph, value: value[0] if value else None),
    "last": _of("last", (list,), lambda graph, value: value[-1] if value else None),
    "tail": _of("tail", (list,), lambda graph, value: value[1:]),
    "reverse": _of("reverse", (list, str), lambda graph, value: value[::-1]),
    "range": Function(2, 3, _range),
    "abs": _of("abs", _NUMBER, _absolute),
    "sign": _of("sign", _NUMBER, lambda graph, value: (value > 0) - (value < 0)),
    "ceil": _of("ceil", _NUMBER, lambda graph, value: float(ceil(value))),
    "floor": _of("floor", _NUMBER, lambda graph, value: float(floor(value))),
    "round": _of("round", _NUMBER, lambda graph, value: float(floor(value + 0.5))),
    "sqrt": _of("sqrt", _NUMBER, _root),
    "tointeger": _of("toInteger", (int, float, str), _to_integer),
    "tofloat": _of("toFloat", (int, float, str), _to_float),
    "toboolean": _of("toBoolean", (bool, str), _to_boolean),
    "tostring": _of("toString", (bool, int, float, str), _to_string),
    "tolower": _of("toLower", (str,), _case(str.lower)),
    "toupper": _of("toUpper", (str,), _case(str.upper)),
    "trim": _texts("trim", lambda text: text.strip(_BLANKS), 1),
    "ltrim": _texts("ltrim", lambda text: text.lstrip(_BLANKS), 1),
    "rtrim": _texts("rtrim", lambda text: text.rstrip(_BLANKS), 1),
    "substring": _texts("substring", _substring, 3, 1),
    "left": _texts("left", _left, 2),
    "right": _texts("right", _right, 2),
    "replace": _texts("replace", _replace, 3),
    "split": _texts("split", _split, 2),
}


# --- Aggregates ------------------------------------------------------------------------


class Aggregate:
    """One aggregate of one group. `distinct`: each value once; null is left out."""

    def __init__(self, graph: Graph, name: str, distinct: bool) -> None:
        self._graph = graph
        self._name = name
        self._seen: set[Any] | None = set() if distinct else None
        self._count = 0
        self._total: Any = 0
        self._best: Any = None
        self._best_key: Any = None
        self._best_size = 0  # of its key, bytes
        self._items: list[Any] = []

    def add(self, value: Any) -> None:
        if value is None:
            return
        if self._seen is not None:
            size = self._graph.budget.keys(value)
            key = group_key(value)
            if key in self._seen:
                return
            self._graph.budget.hold(_KEPT_BYTES + size)
            self._seen.add(key)
        self._count += 1
        match self._name:
            case "sum" | "avg":
                if type(value) not in _NUMBER:
                    raise _fails(self._name, value)
                self._total += value
            case "min" | "max":
                self._choose(value)
            case "collect":
                self._graph.budget.hold(_KEPT_BYTES + weight(value))
                self._items.append(value)
            case _:
                """Counted."""

    def result(self) -> Any:
        match self._name:
            case "count":
                return self._count
            case "sum":
                return self._checked(self._total)
            case "avg":
                return self._checked(self._total / self._count) if self._count else None
            case "collect":
                return self._items
            case _:
                return self._best

    def _choose(self, value: Any) -> None:
        if value is self._best:
            return
        size = self._graph.budget.keys(value) if type(value) in SIZED else 0
        key, old = order_key(value), self._best_key
        if old is None or (key < old if self._name == "min" else key > old):
            self._graph.budget.hold(size - self._best_size)
            self._best, self._best_key, self._best_size = value, key, size

    def _checked(self, value: Any) -> Any:
        if type(value) is int and _fitting(value) is None:
            raise CypherError(f"{self._name} makes a whole number that does not fit 64 bits")
        if type(value) is float and not isfinite(value):
            raise CypherError(f"{self._name} makes no finite number")
        return value


AGGREGATES: Final = frozenset({"count", "sum", "avg", "min", "max", "collect"})
