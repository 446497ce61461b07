"""Odd but plausible parameters: valid ones of every operation, and what is made of them.

`mutated` takes a valid value and changes a few places of it: another type, a number that some
conversion cannot take, a text that some encoding cannot, a member that is not known or that is
missing. It draws from a `random.Random`, so that hypothesis can shrink what it chose.
"""

from __future__ import annotations

import copy
import math
from random import Random
from typing import Any, NamedTuple

from engines.cursors import encode_cursor, scope_of

Parameters = dict[str, Any]
Operation = tuple[str, Parameters]


class Odd(NamedTuple):
    """Of one engine: settings to choose of, and valid requests. `setup` is applied as it is."""

    engine: str
    settings: tuple[Parameters, ...]
    setup: tuple[Operation, ...]
    writes: tuple[Operation, ...]
    reads: tuple[Operation, ...]


NUMBERS: tuple[int | float, ...] = (
    0, 1, 2, -1, 3, 255, 256, 1_000, 65_536, 2**31 - 1, -(2**31), 2**32, 2**53 - 1, 2**53,
    2**53 + 1, 1 - 2**53, -(2**53), 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1,
    2**64, 10**30, -(10**400), -0.0, 0.5, 1e-320, 5e-324, 1e15, 1e38, 3.5e38, 1e154, 1e308,
    -1e308, 1.7976931348623157e308, 2.0**63, 2.0**64, 1.0,
)  # fmt: skip
NOT_FINITE = (math.inf, -math.inf, math.nan)
TEXTS = (
    "", "a", "n", "d1", "1", "0", "-1", "\x00", "a\x00b", "\ud800", "a\udfffb", "é", "e\u0301",
    "İ", "ß", "\u2028", "\U0010ffff", "\ufeff", ".", "..", "a.b", "a.0", "n.n", "$", "$a", "$set",
    "$inc", "_id", "$$ROOT", "$n", "*", '"', '"a b"', "-a", "a*", "'", ";", "%", "(", "[", "\\",
    "(a+)+$", "a{1000}", "\\p{L}", "__proto__", "rowid", "rank", "text", "AND", "NEAR(a b)", " ",
    "\t", "\n", "x" * 255, "x" * 256, "x" * 257, "é" * 128, "x" * 512, "y" * 5_000, "AAAA", "=",
    "inf", "nan", "null",
)  # fmt: skip
CONTAINERS: tuple[Any, ...] = (
    [], {}, [[]], [{}], {"": 1}, {"a": {}}, {"$in": []}, {"$eq": None}, {"a.b": 1}, {"$a": 1},
    {"_id": 1}, {"x" * 600: 1}, {"\x00": 1}, {"\ud800": 1}, [None],
    [1, "a", None, True, 2.5, [], {}], {"base64": "!"}, {"base64": "é"}, {"f32": "AAAAAA=="},
    {"f32": "AACAfw=="}, {"$regex": "a("}, {"$each": []}, [2**64 - 1, -1],
)  # fmt: skip


def scalar(random: Random) -> Any:
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 6:
        return random.choice(TEXTS)
    return random.choice((None, True, False, *NOT_FINITE))


def odd(random: Random) -> Any:
    kind = random.randrange(12)
    if kind < 8:
        return scalar(random)
    if kind < 10:
        return copy.deepcopy(random.choice(CONTAINERS))
    if kind == 10:
        return [scalar(random) for _ in range(random.randrange(1, 4))]
    return nested(random.choice((5, 15, 30, 31, 32, 33, 40)), random)


def nested(depth: int, random: Random) -> Any:
    value: Any = random.choice((1, "a", None))
    for _ in range(depth):
        value = [value] if random.randrange(2) else {"a": value}
    return value


def mutated(value: Any, random: Random, strength: int = 2) -> Any:
    """`value` with up to `strength` places of it changed."""
    made = [copy.deepcopy(value)]
    for _ in range(random.randrange(strength + 1)):
        if made:
            _change(random, made)
    return made[0] if made else None


def _change(random: Random, made: list[Any]) -> None:
    places = _places(made)
    # A whole that is an object stays one: doors see to that.
    inner = places[1:] if isinstance(made[0], dict) else places
    if not inner:
        made[0][random.choice(TEXTS)] = odd(random)
        return
    container, key = random.choice(inner)
    there = container[key]
    kind = random.randrange(10)
    if kind < 5:
        container[key] = odd(random)
    elif kind == 5:
        del container[key]
    elif kind == 6 and isinstance(container, dict):
        container[random.choice(TEXTS)] = container.pop(key)
    elif kind == 7 and isinstance(container, list):
        container.append(copy.deepcopy(there))
    elif kind == 8 and isinstance(there, dict):
        there[random.choice(TEXTS)] = odd(random)
    elif kind == 9 and isinstance(container, dict):
        container[random.choice(TEXTS)] = copy.deepcopy(there)
    else:
        container[key] = [copy.deepcopy(there)]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Every place of a value: what holds it, and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    for container in waiting:
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


# --- Cursors, which callers can make up ------------------------------------------------------

PLACES: tuple[Any, ...] = (
    b"", b"d", b"da", b"i\x00\x00\x00\x01", b"v", b"va", b"sm\x00" + b"\xff" * 16, b"\xff" * 17,
    b"x" * 503, b"x" * 504, b"\xff" * 600, b"o" + b"a" * 600, "", "d1", "\x00", "z" * 600, 0, 1, -1,
    2**53, -(2**53), 2**63 - 1, 2**64 - 1, 1.5, None, True, [], {}, {"start_ms": "x"},
)  # fmt: skip


def with_cursor(engine: str, name: str, given: Parameters, random: Random) -> Parameters:
    """The request with a cursor of its own scope, and a position that nobody gave out."""
    bare = {key: value for key, value in given.items() if key != "cursor"}
    position: Any = random.choice(PLACES)
    if random.randrange(2):
        position = [random.choice((position, "sort", "_id", "", "n"))]
        position += [random.choice(PLACES) for _ in range(random.randrange(3))]
    if position is None:
        return given
    return {**bare, "cursor": encode_cursor(_scope(engine, name, bare), position)}


def _scope(engine: str, name: str, given: Parameters) -> Any:
    """What the engine binds a cursor to."""
    members = {
        "document_find": ("filter", "sort", "projection"),
        "document_distinct": ("field", "filter"),
        "document_aggregate": ("pipeline",),
    }
    if name in members:
        kind = name.removeprefix("document_")
        return [kind, *(given.get(member) for member in members[name])]
    if name == "document_get":
        return ["get", given.get("ids", [given.get("id")]), given.get("projection")]
    if engine == "document":
        return [given.get("filter", {}), given.get("update", given.get("merge"))]
    return given.get("filter") if engine == "vector" else scope_of(name, given)
