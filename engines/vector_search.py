"""Nearest vectors in what one snapshot holds.

Candidates come from the graph, and from the rows behind it one by one; from all of those that
are visible to the snapshot the distances are computed anew, so an answer may lack a vector
that is near but never holds one that is gone, nor a distance that is rounded. A filter that
few vectors match is evaluated first and its vectors are compared one by one; one that many
match is evaluated on a longer list of candidates. What remains too short is searched exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from engines.tuning import Tuning
from engines.vector_distance import Doubles, exact, rough
from engines.vector_doubt import in_doubt
from engines.vector_filter import Filter
from engines.vector_index import Sight
from engines.vector_items import unpack_metadata
from engines.vector_rounding import MARGIN, ROUNDED_FACTOR
from engines.vector_rows import Array, Places

CELLS_MAX: Final = 1 << 21  # distances, or components, in memory at once
FEW_ROWS: Final = 2_000  # that match: comparing them all costs no more than a graph's search
FEW_SHARE: Final = 0.02  # below it a filter is evaluated first
SAMPLE_ROWS: Final = 256  # a filter is tried on
OVERSAMPLE: Final = 3  # candidates for each match that is expected among them
FILTER_FACTOR_MAX: Final = 2
ALIVE_SHARE_MIN: Final = 1 / 16  # reckoned with; few rows may all be dead
CANDIDATES_MAX: Final = 8_192
POSTED_SHARE: Final = 0.2  # of the rows, that comparing one by one may pay for


class Hits(NamedTuple):
    rows: list[int]
    distances: list[float]


class Wanted(NamedTuple):
    metric: str
    limit: int
    expansion: int  # candidates that the graph looks at, at least; 0: as its settings say
    exact: bool
    condition: Filter | None


def search(
    sight: Sight,
    queries: Array,
    wanted: Wanted,
    step: Callable[[], None],
    tuning: Tuning | None = None,
) -> list[Hits]:
    """Per query up to `limit` rows, nearest first; equals by id.

    Shape: queries (m, d), as stored. `step`: called in loops, may raise.
    """
    tuning = tuning or Tuning()
    share = 1.0
    if wanted.condition is not None:
        few, share, posted = _estimate(sight, wanted.condition, step)
        # Whose rows are known already may be compared one by one: then nothing is missed.
        choice = posted is not None and not wanted.exact and sight.graph_rows > 0
        if choice and tuning.choose("filter", "graph", ("rows_first",)) == "rows_first":
            few = posted
        if few is not None:
            _report(tuning, sight, "rows_first", len(few), None)
            return _among(sight, queries, few, wanted, step)
    if wanted.exact or sight.graph_rows == 0:
        every = _matching(sight, wanted.condition, step)
        _report(tuning, sight, "exact", len(every), None)
        return _among(sight, queries, every, wanted, step)
    return _by_graph(sight, queries, wanted, share, step, tuning)


def _report(
    tuning: Tuning, sight: Sight, strategy: str, examined: int, share: float | None
) -> None:
    work = tuning.work
    work.examined = examined
    work.approximate = strategy == "graph"
    if tuning.explain:
        work.plan = {
            "strategy": strategy,
            "candidates": examined,
            "matching_share": share,  # by a sample
            "rows": sight.count,
            "graph_rows": sight.graph_rows,
        }


def _by_graph(
    sight: Sight,
    queries: Array,
    wanted: Wanted,
    share: float,
    step: Callable[[], None],
    tuning: Tuning,
) -> list[Hits]:
    graph = sight.graph
    assert graph is not None
    alive = max(ALIVE_SHARE_MIN, 1 - sight.rows.dead / max(1, sight.count))
    # A graph of rounded vectors mistakes the order of what is near.
    enough = wanted.limit * (1 if graph.precise else ROUNDED_FACTOR) + MARGIN
    expected = 0.0
    if wanted.condition is not None:
        # What the filter takes from the candidates that a search looks at is added, within bounds.
        looked_at = graph.expansion * min(1 / share, FILTER_FACTOR_MAX)
        expected = max(wanted.limit * OVERSAMPLE / share, looked_at)
    count = int(max(enough, expected) / alive) + 1
    count = min(max(count, wanted.expansion), CANDIDATES_MAX, sight.graph_rows)
    _report(tuning, sight, "graph", count, None if wanted.condition is None else share)
    pending = np.arange(sight.graph_rows, sight.count)
    pending = pending[sight.visible(pending)]
    if wanted.condition is not None:
        pending = _filtered(sight, pending, wanted.condition, step)
    found: list[Hits] = []
    again: list[int] = []  # queries of which rounding may have hidden something
    block = max(1, CELLS_MAX // (enough * queries.shape[1]))
    for start in range(0, len(queries), block):
        step()
        some = queries[start : start + block]
        near, told = graph.search(some, count)
        edge = told[:, -1]
        near, told = _usable(sight, near, told, enough, wanted.condition, step)
        away = _away(sight, some, near, wanted.metric)
        if not graph.precise and count < sight.graph_rows:
            doubts = in_doubt(away, told, edge, wanted.limit)
            again += (start + np.flatnonzero(doubts)).tolist()
        if len(pending):
            more = _nearest(sight, some, pending, wanted, step)
            near = np.concatenate([near, more], axis=1)
            away = np.concatenate([away, _away(sight, some, more, wanted.metric)], axis=1)
        found += _ranked(sight, near, away, wanted)
    sight.doubted(len(again))
    short = {place for place, hits in enumerate(found) if len(hits.rows) < wanted.limit}
    if again or short:
        every = _matching(sight, wanted.condition, step)
        places = sorted({*again, *(each for each in short if len(every) > len(found[each].rows))})
        exactly = _among(sight, queries[places], every, wanted, step) if places else []
        for place, hits in zip(places, exactly, strict=True):
            found[place] = hits
    return found


def _usable(
    sight: Sight,
    near: Places,
    told: Doubles,
    count: int,
    condition: Filter | None,
    step: Callable[[], None],
) -> tuple[Places, Doubles]:
    """Of each query's candidates, best first, the first `count` that are visible and match, and
    what was told of them."""
    if condition is None and near.min() >= 0 and sight.visible(near).all():
        return near[:, :count], told[:, :count]  # as nearly always: nothing was deleted
    good = (near >= 0) & sight.visible(np.where(near < 0, 0, near))
    if condition is None:
        order = np.argsort(~good, axis=1, kind="stable")[:, :count]
        rows = np.take_along_axis(np.where(good, near, -1), order, axis=1)
        return rows, np.take_along_axis(told, order, axis=1)
    kept = np.full((len(near), count), -1, np.int64)
    kept_told = np.full((len(near), count), np.inf)
    metadata = sight.rows.metadata
    for place in range(len(near)):
        filled = 0
        for column in np.flatnonzero(good[place]).tolist():
            step()
            row = int(near[place, column])
            if condition.matches(unpack_metadata(metadata[row])):
                kept[place, filled] = row
                kept_told[place, filled] = told[place, column]
                filled += 1
                if filled == count:
                    break
    return kept, kept_told


def _among(
    sight: Sight, queries: Array, rows: Places, wanted: Wanted, step: Callable[[], None]
) -> list[Hits]:
    """The nearest of these rows, which are visible and match."""
    found: list[Hits] = []
    count = min(wanted.limit + MARGIN, max(1, len(rows)))
    block = max(1, CELLS_MAX // (count * queries.shape[1]))
    for start in range(0, len(queries), block):
        some = queries[start : start + block]
        near = _nearest(sight, some, rows, wanted, step)
        found += _ranked(sight, near, _away(sight, some, near, wanted.metric), wanted)
    return found


def _nearest(
    sight: Sight, queries: Array, rows: Places, wanted: Wanted, step: Callable[[], None]
) -> Places:
    """Of each query the nearest rows, and some more, in any order; -1 where there are fewer."""
    count = wanted.limit + MARGIN
    best = np.full((len(queries), count), -1, np.int64)
    distances = np.full((len(queries), count), np.inf)
    block = max(256, CELLS_MAX // max(len(queries), queries.shape[1]))
    whole = len(rows) == sight.count
    for start in range(0, len(rows), block):
        step()
        some = rows[start : start + block]
        # A slice is no copy.
        place = slice(int(some[0]), int(some[-1]) + 1) if whole else some
        vectors, inverse = sight.vectors[place], sight.inverse[place]
        away = rough(wanted.metric, queries, vectors, inverse)
        both = np.concatenate([distances, away], axis=1)
        numbers = np.concatenate([best, np.broadcast_to(some, away.shape)], axis=1)
        kept = np.argpartition(both, count - 1, axis=1)[:, :count]
        distances = np.take_along_axis(both, kept, axis=1)
        best = np.take_along_axis(numbers, kept, axis=1)
    return best


def _away(sight: Sight, queries: Array, candidates: Places, metric: str) -> Doubles:
    """Exact distances of each query's candidates; inf where there is none (-1)."""
    if candidates.min(initial=0) >= 0:
        return exact(metric, queries, sight.vectors[candidates])
    distances = exact(metric, queries, sight.vectors[np.where(candidates < 0, 0, candidates)])
    distances[candidates < 0] = np.inf
    return distances


def _ranked(sight: Sight, candidates: Places, distances: Doubles, wanted: Wanted) -> list[Hits]:
    """The candidates, which are visible and match, by their exact distances; -1 is none."""
    order = distances.argsort(axis=1, kind="stable")
    counts = (candidates >= 0).sum(axis=1).tolist()
    every = np.arange(len(candidates))[:, None]
    rows = candidates[every, order].tolist()  # those that are none come last
    away = distances[every, order].tolist()
    return [
        _by_id(sight, own[:count], distance[:count], wanted.limit)
        for own, distance, count in zip(rows, away, counts, strict=True)
    ]


def _by_id(sight: Sight, rows: list[int], distances: list[float], limit: int) -> Hits:
    """Sorted by distance: now equals by id, and no more than the limit."""
    if len(set(distances)) != len(distances):
        ids = sight.rows.ids
        pairs = sorted(zip(distances, rows, strict=True), key=lambda pair: (pair[0], ids[pair[1]]))
        distances, rows = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Hits(rows[:limit], distances[:limit])


# --- Filters -------------------------------------------------------------------------


def _estimate(
    sight: Sight, condition: Filter, step: Callable[[], None]
) -> tuple[Places | None, float, Places | None]:
    """The rows that match, if they are few; else the share of rows that do, by a sample, and
    those rows if they are known without a look at each."""
    posted: Places | None = None
    if condition.equality is not None:
        path, values = condition.equality
        rows = np.array(sight.postings(path).rows(values), np.int64)
        rows = rows[rows < sight.count]
        rows = rows[sight.visible(rows)]
        if len(rows) <= max(FEW_ROWS, int(sight.count * FEW_SHARE)):
            only = condition.only
            return (rows if only else _filtered(sight, rows, condition, step)), 0.0, None
        if condition.only and len(rows) <= POSTED_SHARE * sight.count:
            posted = rows
    stride = max(1, sight.count // SAMPLE_ROWS)
    sample = np.arange(0, sight.count, stride)
    sample = sample[sight.visible(sample)]
    share = len(_filtered(sight, sample, condition, step)) / max(1, len(sample))
    if share < FEW_SHARE or sight.count <= FEW_ROWS:
        return _matching(sight, condition, step), share, None
    return None, share, posted


def _matching(sight: Sight, condition: Filter | None, step: Callable[[], None]) -> Places:
    """Every visible row that matches."""
    rows = np.arange(sight.count)
    rows = rows[sight.visible(rows)]
    return rows if condition is None else _filtered(sight, rows, condition, step)


def matching_count(sight: Sight, condition: Filter, step: Callable[[], None]) -> int:
    return len(_matching(sight, condition, step))


def _filtered(sight: Sight, rows: Places, condition: Filter, step: Callable[[], None]) -> Places:
    metadata: Sequence[bytes] = sight.rows.metadata
    kept: list[int] = []
    for row in rows.tolist():
        step()
        if condition.matches(unpack_metadata(metadata[row])):
            kept.append(row)
    return np.array(kept, np.int64)
