"""What this node's optimizer shows of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engines.result_cache import CacheFigures
from node.optimizer import Optimizer
from node.optimizer_views import pattern_view
from node.recommendations import recommend
from node.trials import State

Caches = Callable[[], Sequence[tuple[int, CacheFigures]]]


class OptimizerService:
    """Loop thread only."""

    def __init__(self, optimizer: Optimizer, caches: Caches = list) -> None:
        """`caches`: the result caches of the groups that are here."""
        self._optimizer = optimizer
        self._caches = caches

    def view(self, limit: int) -> dict[str, Any]:
        """Patterns that took the most time first, at most `limit`."""
        optimizer, caches = self._optimizer, self._caches()
        with optimizer.lock:
            patterns = list(optimizer.patterns)
            trials = [trial for pattern in patterns for trial in pattern.trials.values()]
            outcomes = [verdict.outcome for trial in trials for verdict in trial.history]
            most = sorted(patterns, key=lambda pattern: -pattern.seconds)[:limit]
            return {
                "node": optimizer.node,
                "enabled": optimizer.enabled,
                "since_ms": optimizer.started_ms,
                "patterns": {
                    "count": len(patterns),
                    "max": optimizer.patterns.patterns_max,
                    "forgotten": optimizer.patterns.forgotten,
                },
                "executions": sum(pattern.executions for pattern in patterns),
                "cache_hits": sum(pattern.hits for pattern in patterns),
                "trials": {
                    "trying": sum(trial.state is State.TRYING for trial in trials),
                    "adopted": sum(trial.adopted is not None for trial in trials),
                    "rolled_back": outcomes.count("rolled_back"),
                    "rejected": outcomes.count("worse") + outcomes.count("not_better"),
                },
                "cache": [_cache_view(group, figures) for group, figures in caches],
                "recommendations": recommend(patterns, caches, optimizer.patterns.forgotten),
                "items": [pattern_view(pattern) for pattern in most],
            }


def _cache_view(group: int, figures: CacheFigures) -> dict[str, Any]:
    lookups = figures.hits + figures.misses
    return {
        "group": group,
        "hits": figures.hits,
        "misses": figures.misses,
        "hit_rate": figures.hits / lookups if lookups else None,
        "evictions": figures.evictions,
        "entries": figures.entries,
        "bytes": figures.size,
        "bytes_max": figures.size_max,
    }
