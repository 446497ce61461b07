"""What an operator might change, from what was measured on this node. Pure.

Each recommendation is {type, description, priority, evidence}; evidence holds the figures that it
rests on. Below the bounds here too little was seen to say anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from engines.result_cache import CacheFigures
from node.patterns import Pattern

COMPUTED_MIN: Final = 20  # answers of a pattern
EXAMINED_MEAN_MIN: Final = 200  # for an answer
EXAMINED_SHARE_MIN: Final = 10  # examined for each that was returned
TIME_SHARE_HIGH: Final = 0.1  # of the time of all queries
TIME_SHARE_MEDIUM: Final = 0.01
UNUSED_EXECUTIONS_MIN: Final = 1_000  # of a collection
LOOKUPS_MIN: Final = 1_000  # in a cache
EVICTED_SHARE_MIN: Final = 0.1  # of what was put in
HIT_RATE_MIN: Final = 0.05
RECOMMENDATIONS_MAX: Final = 50

Recommendation = dict[str, Any]
_ORDER: Final = {"high": 0, "medium": 1, "low": 2}


def recommend(
    patterns: Sequence[Pattern], caches: Sequence[tuple[int, CacheFigures]], forgotten: int
) -> list[Recommendation]:
    """Those of high priority first; at most RECOMMENDATIONS_MAX.

    `caches`: of each group; `forgotten`: patterns for which there was no room. Under the
    optimizer's lock.
    """
    found = [
        *_scans(patterns),
        *_unused_indexes(patterns),
        *_recall(patterns),
        *_caches(caches),
        *_forgotten(patterns, forgotten),
    ]
    return sorted(found, key=lambda each: _ORDER[each["priority"]])[:RECOMMENDATIONS_MAX]


def _scans(patterns: Sequence[Pattern]) -> Iterator[Recommendation]:
    """Of patterns that want the same index, the one that takes the most time speaks for all."""
    total = sum(pattern.seconds for pattern in patterns)
    wanted: dict[tuple[str, str, tuple[str, ...]], list[Pattern]] = {}
    for pattern in patterns:
        if _scans_much(pattern):
            key = pattern.key.namespace, pattern.key.collection, pattern.fields
            wanted.setdefault(key, []).append(pattern)
    for (namespace, collection, fields), several in wanted.items():
        seconds = sum(pattern.seconds for pattern in several)
        share = seconds / total if total else 0.0
        priority = _by_share(share)
        worst = max(several, key=lambda pattern: pattern.seconds)
        evidence = {
            "namespace": namespace,
            "collection": collection,
            "operation": worst.key.operation,
            "shape": worst.key.shape,
            "patterns": len(several),
            "computed": sum(pattern.computed for pattern in several),
            "examined": sum(pattern.examined or 0 for pattern in several),
            "returned": sum(pattern.returned or 0 for pattern in several),
            "seconds": seconds,
            "share_of_query_time": share,
        }
        if fields:
            listed = ", ".join(fields)
            yield {
                "type": "index",
                "description": f"an index on [{listed}] of {namespace}/{collection} would serve "
                "requests that look at every document",
                "priority": priority,
                "evidence": {**evidence, "fields": list(fields)},
            }
        else:
            yield {
                "type": "filter",
                "description": f"requests to {namespace}/{collection} look at every document, and "
                "their filter has no equality or range that an index could serve",
                "priority": "low" if priority == "low" else "medium",
                "evidence": evidence,
            }


def _scans_much(pattern: Pattern) -> bool:
    if pattern.computed < COMPUTED_MIN or not pattern.scans or pattern.examined is None:
        return False
    few = pattern.examined >= EXAMINED_SHARE_MIN * max(pattern.returned or 0, 1)
    return few and pattern.examined >= EXAMINED_MEAN_MIN * pattern.computed


def _by_share(share: float) -> str:
    if share >= TIME_SHARE_HIGH:
        return "high"
    return "medium" if share >= TIME_SHARE_MEDIUM else "low"


def _unused_indexes(patterns: Sequence[Pattern]) -> Iterator[Recommendation]:
    collections: dict[tuple[str, str, bytes], list[Pattern]] = {}
    for pattern in patterns:
        key = pattern.key
        own = collections.setdefault((key.namespace, key.collection, key.identity), [])
        own.append(pattern)
    for (namespace, collection, _), own in collections.items():
        executions = sum(pattern.executions for pattern in own)
        if executions < UNUSED_EXECUTIONS_MIN:
            continue
        used = {name for pattern in own for name in pattern.indexes}
        newest = max(own, key=lambda pattern: pattern.last_used_ms)
        for name in newest.known_indexes:
            if name not in used:
                yield {
                    "type": "unused_index",
                    "description": f"no read on this node was served by index {name} of "
                    f"{namespace}/{collection}; each write keeps it (writes by filter may use it, "
                    "and other nodes' reads: look there too)",
                    "priority": "low",
                    "evidence": {
                        "namespace": namespace,
                        "collection": collection,
                        "index": name,
                        "executions": executions,
                        "patterns": len(own),
                    },
                }


def _recall(patterns: Sequence[Pattern]) -> Iterator[Recommendation]:
    for pattern in patterns:
        width = pattern.width
        if width is None or not width.exhausted or width.recall is None:
            continue
        yield {
            "type": "recall",
            "description": f"searches in {pattern.key.namespace}/{pattern.key.collection} find "
            "less than the target at the widest: a graph with more connectivity or expansion_add, "
            "or a scalar that rounds less, would find more",
            "priority": "high",
            "evidence": {
                "namespace": pattern.key.namespace,
                "collection": pattern.key.collection,
                "shape": pattern.key.shape,
                "recall": width.recall,
                "recall_min": width.target,
                "samples": width.samples,
            },
        }


def _caches(caches: Sequence[tuple[int, CacheFigures]]) -> Iterator[Recommendation]:
    for group, figures in caches:
        lookups = figures.hits + figures.misses
        if lookups < LOOKUPS_MIN or not figures.size_max:
            continue
        evidence = {"group": group, **figures._asdict(), "hit_rate": figures.hits / lookups}
        if figures.evictions >= EVICTED_SHARE_MIN * figures.misses:
            yield {
                "type": "cache_size",
                "description": "answers give way to newer ones before they are asked for again: "
                "a larger optimizer.cache_bytes_max would keep them",
                "priority": "medium" if figures.hits >= HIT_RATE_MIN * lookups else "low",
                "evidence": evidence,
            }
        elif figures.hits < HIT_RATE_MIN * lookups:
            yield {
                "type": "caching",
                "description": "few requests are answered out of the cache: they seldom repeat, "
                "or writes come between; optimizer.cache_bytes_max can be less",
                "priority": "low",
                "evidence": evidence,
            }


def _forgotten(patterns: Sequence[Pattern], forgotten: int) -> Iterator[Recommendation]:
    if forgotten > len(patterns) > 0:
        yield {
            "type": "patterns",
            "description": "more patterns than are kept: their figures and trials begin anew each "
            "time; raise optimizer.patterns_max, or send constants as parameters of SQL",
            "priority": "low",
            "evidence": {"kept": len(patterns), "forgotten": forgotten},
        }
