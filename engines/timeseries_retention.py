"""Dropping: expired chunks, rollup rows past their own retention, and what a delete names.

Everything here is bounded by a budget, since a series may hold any number of chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from engines.space import Space
from engines.timeseries_chunks import (
    chunk_at,
    chunk_key,
    chunks,
    first_chunk,
    get_chunk,
    make_chunk,
    points_of,
)
from engines.timeseries_columns import TIME_MS_MAX
from engines.timeseries_rollups import drop_rows, keep_rows
from engines.timeseries_series import Series
from engines.timeseries_settings import rollups_of

ROWS_MADE_MAX: Final = 1_000  # of rollups by one command; the last chunk may exceed it


@dataclass(slots=True)
class Budget:
    """How much one command may still drop, and what it has dropped."""

    chunks: int
    rows: int
    making: int = ROWS_MADE_MAX  # rows that may still be made
    chunks_spent: int = 0
    points_spent: int = 0
    rows_spent: int = 0

    def share(self, chunks_max: int) -> Budget:
        """A budget of its own for one series, to be given to `spend` afterwards."""
        return Budget(min(self.chunks, chunks_max), self.rows, self.making)

    def spend(self, own: Budget) -> None:
        self.chunks -= own.chunks_spent
        self.rows -= own.rows_spent
        self.making = own.making
        self.chunks_spent += own.chunks_spent
        self.points_spent += own.points_spent
        self.rows_spent += own.rows_spent

    @property
    def left(self) -> bool:
        """Of each of them."""
        return self.chunks > 0 and self.rows > 0 and self.making > 0

    def took(self, points: int) -> None:
        """A chunk that was dropped, or lost this many points."""
        self.chunks -= 1
        self.chunks_spent += 1
        self.points_spent += points

    def took_rows(self, count: int) -> None:
        self.rows -= count
        self.rows_spent += count


def cutoff_ms(series: Series, settings: Mapping[str, Any], now_ms: int) -> int:
    """Points before this time are expired, or their rollups have been made."""
    retention = settings["retention_ms"]
    cutoff = -TIME_MS_MAX if retention is None else now_ms - retention
    return cutoff if series.rolled_ms is None else max(cutoff, series.rolled_ms)


def drop_expired(
    space: Space, series: Series, settings: Mapping[str, Any], now_ms: int, budget: Budget
) -> Series:
    """Without chunks whose every point is expired, the oldest first, and without old rows."""
    identity, rollups = series.id, rollups_of(settings)
    cutoff = cutoff_ms(replace(series, rolled_ms=None), settings, now_ms)
    while series.chunks and budget.chunks > 0 and budget.making > 0 and series.first_ms < cutoff:
        chunk = get_chunk(space, identity, series.first_ms)
        if chunk.last_ms >= cutoff:
            break
        if rollups:
            points = points_of(identity, chunk)
            made = sum(keep_rows(space, identity, points, rollup) for rollup in rollups)
            budget.making -= made
            series = replace(series, rows=series.rows + made, rolled_ms=chunk.last_ms + 1)
        space.delete(chunk_key(identity, chunk.first_ms))
        budget.took(chunk.count)
        series = _reduced(space, series, chunk.count, 1)
    for rollup in rollups:
        if rollup.retention_ms is not None and series.rows and budget.rows > 0:
            end = now_ms - rollup.retention_ms
            count = drop_rows(space, identity, rollup.window_ms, -TIME_MS_MAX, end, budget.rows)
            budget.took_rows(count)
            series = replace(series, rows=series.rows - count)
    return series


def drop_between(
    space: Space,
    series: Series,
    settings: Mapping[str, Any],
    first_ms: int,
    end_ms: int,
    budget: Budget,
) -> tuple[Series, bool]:
    """Without points of first_ms <= time < end_ms and rows that lie within.

    Returns also whether that is all, or the budget was spent before.
    """  # fmt: skip
    identity = series.id
    points = gone = 0
    done = True
    found = chunks(space, identity, first_ms, end_ms) if series.chunks else iter(())
    for chunk in found:
        if budget.chunks <= 0:
            done = False
            break
        inside, left = chunk.count, None
        if chunk.first_ms < first_ms or chunk.last_ms >= end_ms:
            left = points_of(identity, chunk).outside(first_ms, end_ms)
            inside -= left.count
            if not inside:
                continue
        space.delete(chunk_key(identity, chunk.first_ms))
        if left is not None:
            space.put(chunk_key(identity, left.first_ms), make_chunk(left).pack())
        budget.took(inside)
        points += inside
        gone += left is None
    if points:
        series = _reduced(space, series, points, gone)
    if not done:
        return series, False
    for rollup in rollups_of(settings):
        if series.rows:
            count = drop_rows(space, identity, rollup.window_ms, first_ms, end_ms, budget.rows)
            budget.took_rows(count)
            series = replace(series, rows=series.rows - count)
            if budget.rows <= 0:
                return series, False
    return series, True


def _reduced(space: Space, series: Series, points: int, chunks_gone: int) -> Series:
    """With fewer points and chunks; its times are looked up again."""
    series = replace(series, points=series.points - points, chunks=series.chunks - chunks_gone)
    if not series.chunks:
        return replace(series, first_ms=0, last_ms=0, open_ms=0)
    identity = series.id
    first = first_chunk(space, identity)
    last = chunk_at(space, identity, TIME_MS_MAX)
    assert first is not None  # there are chunks: at least one is first, and one is last
    assert last is not None
    return replace(series, first_ms=first.first_ms, last_ms=last.last_ms, open_ms=last.first_ms)
