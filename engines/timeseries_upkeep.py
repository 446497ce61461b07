"""Which series hold something that has expired, so that the leader asks for its removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from engines.cursors import encode_cursor, scope_of
from engines.engine import Upkeep
from engines.space import View
from engines.timeseries_chunks import get_chunk
from engines.timeseries_columns import TIME_MS_MAX
from engines.timeseries_retention import cutoff_ms
from engines.timeseries_rollups import rows
from engines.timeseries_series import Selection, Series, walk
from engines.timeseries_settings import rollups_of

LOOK_SERIES_MAX: Final = 1_000
_EVERYTHING: Final = Selection(None, {})


def look(view: View, settings: Mapping[str, Any], now_ms: int, after: bytes) -> Upkeep:
    """See `KeepsUp.upkeep`. Raises CorruptRecord, QueryCancelled."""
    if settings["retention_ms"] is None:  # then there are no rollups either, nor ever were
        return Upkeep(None, None)
    for looked, series in enumerate(walk(view, _EVERYTHING, after)):
        view.step()
        assert series is not None  # everything is selected
        if looked == LOOK_SERIES_MAX:
            return Upkeep(None, series.key)
        if _is_due(view, settings, series, now_ms):
            cursor = encode_cursor(scope_of("series_retain", {}), [series.key])
            return Upkeep(("series_retain", {"cursor": cursor}), series.key)
    return Upkeep(None, None)


def _is_due(view: View, settings: Mapping[str, Any], series: Series, now_ms: int) -> bool:
    """Would `drop_expired` drop anything?"""
    cutoff = cutoff_ms(replace(series, rolled_ms=None), settings, now_ms)
    # Chunks go whole, so the first one stays until its last point has expired.
    if (
        series.chunks
        and series.first_ms < cutoff
        and get_chunk(view, series.id, series.first_ms).last_ms < cutoff
    ):
        return True
    if not series.rows:
        return False
    return any(
        _oldest_end(view, series, rollup.window_ms) <= now_ms - rollup.retention_ms
        for rollup in rollups_of(settings)
        if rollup.retention_ms is not None
    )


def _oldest_end(view: View, series: Series, window_ms: int) -> int:
    for start, _ in rows(view, series.id, window_ms, -2 * TIME_MS_MAX, TIME_MS_MAX):
        return start + window_ms
    return 2 * TIME_MS_MAX
