"""Values of Cypher: null-aware equality and comparison, order, grouping, size, and JSON.

A value is null, a boolean, number, text, bytes, list, map (dict), node, relationship or path.
Source: openCypher 9, "Comparability, equality, orderability and equivalence".
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from engines.cypher_errors import CypherError

VALUE_DEPTH_MAX: Final = 100  # lists and maps within each other
VALUE_BYTES_MAX: Final = 1 << 20  # of a text, list or map that an expression makes
_PLACE_BYTES: Final = 8  # of a value in a list, besides itself
INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 64) - 1  # of results, too: other operations can store as much


class NodeRef(NamedTuple):
    id: str


class EdgeRef(NamedTuple):
    id: str
    source: str
    target: str
    type: str


class Path(NamedTuple):
    nodes: tuple[NodeRef, ...]
    edges: tuple[EdgeRef, ...]


_RANKS: Final[dict[type, int]] = {
    dict: 0, NodeRef: 1, EdgeRef: 2, list: 3, Path: 4, bytes: 5, str: 6, bool: 7, int: 8,
    float: 8, type(None): 9,
}  # fmt: skip
_NAMES: Final = (
    "a map", "a node", "a relationship", "a list", "a path", "bytes", "text", "a boolean",
    "a number", "null",
)  # fmt: skip
SIZED: Final = frozenset({str, bytes, list, dict})  # a pass over them may be long


def kind_of(value: Any) -> str:
    """In words."""
    return _NAMES[_RANKS[type(value)]]


def equal(left: Any, right: Any) -> bool | None:
    """`left = right`; None: unknown."""
    if left is None or right is None:
        return None
    if _RANKS[type(left)] != _RANKS[type(right)]:
        return False
    if type(left) is list:
        if len(left) != len(right):
            return False
        return _all(equal(a, b) for a, b in zip(left, right, strict=True))
    if type(left) is dict:
        if left.keys() != right.keys():
            return False
        return _all(equal(value, right[name]) for name, value in left.items())
    found: bool = left == right
    return found


def less(left: Any, right: Any, or_equal: bool) -> bool | None:
    """`left < right` or `<=`; None: unknown, or they cannot be compared."""
    rank = _RANKS[type(left)]
    if rank != _RANKS[type(right)]:
        return None
    if rank in (6, 7, 8):
        found: bool = left <= right if or_equal else left < right
        return found
    if rank != 3:
        return None
    for a, b in zip(left, right, strict=False):
        same = equal(a, b)
        if same is None:
            return None
        if not same:
            return less(a, b, or_equal)
    return len(left) <= len(right) if or_equal else len(left) < len(right)


def order_key(value: Any) -> Any:
    """For sorting: every value has its place, null the last."""
    rank = _RANKS[type(value)]
    if rank == 3:
        return rank, tuple(map(order_key, value))
    if rank == 0:
        return rank, tuple((name, order_key(value[name])) for name in sorted(value))
    if rank == 9:
        return (rank,)
    return rank, value


def group_key(value: Any) -> Any:
    """Hashable; equal for what DISTINCT and grouping take for the same: null is as null."""
    kind = type(value)
    if kind is list:
        return 3, tuple(map(group_key, value))
    if kind is dict:
        return 0, tuple((name, group_key(value[name])) for name in sorted(value))
    return _RANKS[kind], value


def weight(value: Any, depth: int = 0) -> int:
    """Bytes that it takes, about. Raises CypherError for what is nested too deep: whatever is
    made passes here before something else goes down into it."""
    kind = type(value)
    if kind is str or kind is bytes:
        return 50 + len(value)
    if kind is list or kind is dict:
        if depth == VALUE_DEPTH_MAX:
            raise CypherError(f"lists and maps nested deeper than {VALUE_DEPTH_MAX}")
        if kind is list:
            return 60 + sum(weight(each, depth + 1) for each in value)
        return 100 + sum(len(name) + weight(each, depth + 1) for name, each in value.items())
    if kind is Path:
        return 100 + 400 * len(value.nodes)
    return 200 if kind in (NodeRef, EdgeRef) else 32


def shallow_size(value: Any) -> int:
    """Bytes of it without those of values within, which it may share."""
    kind = type(value)
    return (
        len(value) * (1 if kind is str or kind is bytes else _PLACE_BYTES) if kind in SIZED else 0
    )


def check_made(value: Any, what: str) -> None:
    """Of values that were there before. Raises CypherError."""
    if shallow_size(value) > VALUE_BYTES_MAX:
        raise CypherError(f"{what} makes more than {VALUE_BYTES_MAX} bytes")


def depth_of(value: Any) -> int:
    """Of lists within each other; 0: it is none."""
    return 1 + max(map(depth_of, value), default=0) if type(value) is list else 0


def is_true(value: Any) -> bool:
    """Of a condition: null is not. Raises CypherError."""
    if value is True:
        return True
    if value is False or value is None:
        return False
    raise CypherError(f"a condition is {kind_of(value)}, not a boolean")


def boolean(value: Any, operator: str) -> bool | None:
    if value is None or type(value) is bool:
        found: bool | None = value
        return found
    raise CypherError(f"{operator} of {kind_of(value)}")


def _all(parts: Any) -> bool | None:
    unknown = False
    for part in parts:
        if part is False:
            return False
        unknown |= part is None
    return None if unknown else True
