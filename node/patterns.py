"""Patterns of queries: requests that differ in their constants only, and what they took.

The *shape* of a request is its parameters with the constants taken out: names of members stay,
so do words that say what is to be done (`_WORDS`), paths behind a "$", and the text of SQL
without its literals. Shapes serve for figures and trials alone, so that it does no harm if one
holds two kinds of requests.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from node.search_width import Width
from node.trials import Trial

SHAPE_CHARACTERS_MAX: Final = 500
DEPTH_MAX: Final = 8
MEMBERS_MAX: Final = 32  # of one object or array
POINTS_MAX: Final = 4  # choices within one pattern
EWMA_SHARE: Final = 0.1  # of the newest time in the mean
_WORDS: Final = frozenset(
    (
        "aggregates", "direction", "field", "fill", "group_by", "include", "mode", "sort",
        "projection", "$sort", "$project", "types",
    )
)  # fmt: skip
_IGNORED: Final = frozenset(("cursor", "explain"))
# Strings, numbers that are no part of a name, blob literals; comments are left as they are.
_LITERAL = re.compile(r"[xX]?'(?:[^']|'')*'|(?<![\w.$@:?])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_SPACE = re.compile(r"\s+")

# Quarters of powers of two, in microseconds: 1 µs to 67 s.
_BUCKETS: Final = 4 * 27


class PatternKey(NamedTuple):
    namespace: str
    collection: str
    identity: bytes  # of the collection: another one of that name is another pattern
    operation: str
    shape: str


def shape_of(parameters: Mapping[str, Any]) -> str:
    """Text of at most SHAPE_CHARACTERS_MAX characters."""
    parts: list[str] = []
    _add_object(parts, parameters, DEPTH_MAX, False)
    return "".join(parts)[:SHAPE_CHARACTERS_MAX]


def _add_object(parts: list[str], given: Mapping[str, Any], depth: int, words: bool) -> None:
    parts.append("{")
    for place, name in enumerate(sorted(given)):
        if place == MEMBERS_MAX:
            parts.append("…")
            break
        if name in _IGNORED:
            continue
        value = given[name]
        parts += name, ":"
        if name == "sql" and value.__class__ is str:
            parts.append(_statement(value[: 4 * SHAPE_CHARACTERS_MAX]))
        elif name == "limit" and value.__class__ is int:
            parts.append(f"≤{10 ** len(str(value - 1))}" if 1 < value < 10**9 else "1")
        else:
            _add(parts, value, depth - 1, words or name in _WORDS)
        parts.append(" ")
    parts.append("}")


@lru_cache(256)
def _statement(sql: str) -> str:
    """Its words, one space between them, without literals."""
    return _SPACE.sub(" ", _LITERAL.sub("?", sql)).strip()


def _add(parts: list[str], value: Any, depth: int, words: bool) -> None:
    kind = value.__class__
    if kind is dict:
        if depth == 0:
            parts.append("{…}")
        else:
            _add_object(parts, value, depth, words)
    elif kind is list:
        parts.append("[")
        # Of many alike the first says enough; stages of a pipeline are not alike.
        if value and value[0].__class__ in (dict, list) and depth:
            for each in value[:MEMBERS_MAX]:
                _add(parts, each, depth - 1, words)
        elif words:
            parts.append(",".join(map(str, value[:MEMBERS_MAX])))
        else:
            parts.append("?" if value else "")
        parts.append("]")
    elif words or (kind is str and value[:1] == "$"):
        parts.append(str(value)[:100])
    else:
        parts.append("null" if value is None else "?")


class Histogram:
    """Times, counted in buckets whose bounds are a fifth apart."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.total = 0

    def add(self, seconds: float, times: int = 1) -> None:
        self.counts[_bucket(int(seconds * 4e6))] += times
        self.total += times

    def percentile(self, share: float) -> float | None:
        """Seconds, to the upper bound of its bucket; None: nothing was counted."""
        if not self.total:
            return None
        wanted = share * self.total
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= wanted:
                return _bound(bucket) / 4e6
        raise AssertionError("the counts add up to the total")


def _bucket(quarters: int) -> int:
    """`quarters` of a microsecond: four buckets for each power of two from 1 µs on."""
    power = quarters.bit_length() - 3
    if power < 0:
        return 0
    return min(4 * power + (quarters >> power) - 4 + 1, _BUCKETS - 1)


def _bound(bucket: int) -> int:
    """The first number behind those of the bucket."""
    if bucket == 0:
        return 4
    power, rest = divmod(bucket - 1, 4)
    return (rest + 5) << power


class Pattern:
    """What one pattern of requests took on this node. Guarded by its owner's lock."""

    __slots__ = (
        "computed",
        "examined",
        "failures",
        "fields",
        "histogram",
        "hits",
        "indexes",
        "key",
        "known_indexes",
        "last_used_ms",
        "loop_pause",
        "mean_seconds",
        "overruns",
        "returned",
        "scans",
        "seconds",
        "trials",
        "width",
    )  # fmt: skip

    def __init__(self, key: PatternKey) -> None:
        self.key = key
        self.computed = 0  # answers
        self.hits = 0  # answers out of the cache
        self.failures = 0  # requests that were refused
        self.seconds = 0.0  # of all computed ones
        self.mean_seconds: float | None = None  # weighted, the newest most
        self.histogram = Histogram()
        self.examined: int | None = None  # of all computed ones that said it
        self.returned: int | None = None
        self.last_used_ms = 0
        self.indexes: dict[str, int] = {}  # which served how often
        self.known_indexes: tuple[str, ...] = ()  # of the collection, that only serve
        self.scans = False  # did no index serve the newest one?
        self.fields: tuple[str, ...] = ()  # that an index would need, as the newest scan says
        self.overruns = 0  # times that it was too long for the event loop, in a row
        self.loop_pause = 0  # executions that are not tried there
        self.trials: dict[str, Trial] = {}
        self.width: Width | None = None  # of a search that approximates

    @property
    def executions(self) -> int:
        return self.computed + self.hits

    def took(
        self, seconds: float, examined: int | None, returned: int | None, answers: int = 1
    ) -> None:
        """`seconds` and `examined`: of each of the answers; `returned`: of all together."""
        self.computed += answers
        self.seconds += seconds * answers
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean is None else mean + EWMA_SHARE * (seconds - mean)
        self.histogram.add(seconds, answers)
        if examined is not None:
            self.examined = (self.examined or 0) + examined * answers
        if returned is not None:
            self.returned = (self.returned or 0) + returned


class PatternTable:
    """The patterns used last, at most `patterns_max`."""

    def __init__(self, patterns_max: int) -> None:
        self.patterns_max = patterns_max
        self.forgotten = 0  # patterns that gave way to others
        self._patterns: OrderedDict[PatternKey, Pattern] = OrderedDict()

    def __len__(self) -> int:
        return len(self._patterns)

    def __iter__(self) -> Iterator[Pattern]:
        return iter(self._patterns.values())

    def of(self, key: PatternKey) -> Pattern:
        """The key's pattern, a new one if need be."""
        found = self._patterns.get(key)
        if found is not None:
            self._patterns.move_to_end(key)
            return found
        found = self._patterns[key] = Pattern(key)
        if len(self._patterns) > self.patterns_max:
            self._patterns.popitem(last=False)
            self.forgotten += 1
        return found
