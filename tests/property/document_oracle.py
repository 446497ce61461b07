"""A naive document collection: a dict, filters tried on every document, no indexes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cmp_to_key
from typing import Any

ABSENT = object()
KINDS = ("absent", "null", "number", "text", "object", "array", "boolean")


def kind(value: Any) -> str:
    if value is ABSENT:
        return "absent"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "object" if isinstance(value, dict) else "array"


def compare(one: Any, other: Any) -> int:
    """-1, 0 or 1 in the total order of values."""
    ranks = KINDS.index(kind(one)), KINDS.index(kind(other))
    if ranks[0] != ranks[1]:
        return -1 if ranks[0] < ranks[1] else 1
    match kind(one):
        case "absent" | "null":
            return 0
        case "object":
            return compare(_members(one), _members(other))
        case "array":
            for a, b in zip(one, other, strict=False):
                found = compare(a, b)
                if found:
                    return found
            return (len(one) > len(other)) - (len(one) < len(other))
        case _:
            return (one > other) - (one < other)


def _members(value: dict[str, Any]) -> list[Any]:
    return [part for name in sorted(value) for part in (name, value[name])]


order = cmp_to_key(compare)


def reach(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif isinstance(value, dict):
        if path[0] in value:
            yield from reach(value[path[0]], path[1:])
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from reach(item, path)


def candidates(document: Any, path: str) -> list[Any]:
    """Values at the path, and items of arrays there."""
    found: list[Any] = []
    for value in reach(document, path.split(".")):
        found.append(value)
        if isinstance(value, list):
            found.extend(value)
    return found


def matches(document: Any, wanted: dict[str, Any]) -> bool:
    for name, operand in wanted.items():
        if name == "$and":
            good = all(matches(document, each) for each in operand)
        elif name == "$or":
            good = any(matches(document, each) for each in operand)
        elif isinstance(operand, dict) and any(key.startswith("$") for key in operand):
            values = candidates(document, name)
            good = all(_fulfils(values, each, operand[each]) for each in operand)
        else:
            good = _fulfils(candidates(document, name), "$eq", operand)
        if not good:
            return False
    return True


def _fulfils(values: list[Any], operator: str, operand: Any) -> bool:
    match operator:
        case "$eq":
            missing = operand is None and not values
            return missing or any(compare(value, operand) == 0 for value in values)
        case "$ne":
            return not _fulfils(values, "$eq", operand)
        case "$in":
            return any(_fulfils(values, "$eq", each) for each in operand)
        case "$exists":
            return bool(values) == operand
        case _:
            if operand is None and not values and operator in ("$gte", "$lte"):
                return True
            same = [compare(v, operand) for v in values if kind(v) == kind(operand)]
            test = {
                "$gt": lambda c: c > 0, "$gte": lambda c: c >= 0,
                "$lt": lambda c: c < 0, "$lte": lambda c: c <= 0,
            }[operator]  # fmt: skip
            return any(map(test, same))


def sort_values(document: Any, sort: dict[str, int]) -> list[Any]:
    """What decides the order, ascending and descending alike as `order` objects."""
    found = []
    for path, direction in sort.items():
        spread: list[Any] = []
        for value in reach(document, path.split(".")):
            spread.extend(value if isinstance(value, list) else [value])
        spread.sort(key=order)
        found.append((spread[0] if direction > 0 else spread[-1]) if spread else ABSENT)
    return found


def in_order(one: Any, other: Any, sort: dict[str, int]) -> bool:
    """May `one` stand before `other`?"""
    pairs = zip(sort_values(one, sort), sort_values(other, sort), sort.values(), strict=True)
    for a, b, direction in pairs:
        found = compare(a, b) * direction
        if found:
            return found < 0
    return True


def updated(document: dict[str, Any], update: dict[str, Any]) -> dict[str, Any] | None:
    """The document after operators on top-level names; None: it cannot be done."""
    new = copy.deepcopy(document)
    for operator, changes in update.items():
        for name, operand in changes.items():
            old = new.get(name, ABSENT)
            match operator:
                case "$set":
                    new[name] = copy.deepcopy(operand)
                case "$unset":
                    new.pop(name, None)
                case "$inc":
                    if kind(old) not in ("absent", "number"):
                        return None
                    new[name] = operand if old is ABSENT else old + operand
                case "$max":
                    if compare(operand, old) > 0:
                        new[name] = operand
                case "$push" | "$addToSet":
                    if kind(old) not in ("absent", "array"):
                        return None
                    array = [] if old is ABSENT else old
                    if operator == "$push" or all(compare(each, operand) for each in array):
                        array = [*array, operand]
                    new[name] = array
    return new


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, as it stands there."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def violates(documents: dict[str, Any], path: str) -> bool:
    """Do two documents share a value at a path that is to be unique?"""
    seen: dict[Any, str] = {}
    for identity, document in documents.items():
        spread: list[Any] = []
        for value in reach(document, path.split(".")):
            spread.extend(value if isinstance(value, list) else [value])
        for value in spread:
            for other, owner in seen.items():
                if owner != identity and compare(other.value, value) == 0:
                    return True
            seen[_Held(value)] = identity
    return False


class _Held:
    """A value as a key of a dict, by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value
