"""The operations that drop: `series_delete` and `series_retain`, so much in each call.

What is left over is said in the answer, with a cursor to go on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from engines.codec import Value
from engines.cursors import decode_cursor, encode_cursor, scope_of
from engines.parameters import PREFIX, exactly
from engines.space import Space
from engines.timeseries_parameters import one_selection, time_range
from engines.timeseries_retention import Budget, drop_between, drop_expired
from engines.timeseries_series import Selection, Series, keep_series, walk

DROP_CHUNKS_MAX: Final = 256  # of one call
DROP_ROWS_MAX: Final = 2_000  # of rollups
DROP_SERIES_MAX: Final = 1_000  # that one call looks at
_OPTIONAL: Final = frozenset({"tags", "from", "to", "cursor"})
_EVERYTHING: Final = Selection(None, {})


def prepare_delete(given: Mapping[str, Any]) -> Value:
    """Raises InvalidArgument."""
    exactly(given, PREFIX, frozenset({"metric"}), _OPTIONAL)
    selection = one_selection(given)
    tags = {tag: list(values) for tag, values in selection.tags.items()}
    body: dict[str, Value] = {"given": dict(given), "metric": selection.metric, "tags": tags}
    body["between"] = list(time_range(given))
    body["start"] = _start("series_delete", given)
    return body


def prepare_retain(given: Mapping[str, Any]) -> Value:
    """Raises InvalidArgument."""
    exactly(given, PREFIX, frozenset(), frozenset({"cursor"}))
    return {"given": dict(given), "start": _start("series_retain", given)}


def apply_delete(space: Space, settings: Mapping[str, Any], body: Any, now_ms: int) -> Value:
    """Points of the selection's series, of from <= time < to, and rows that lie within."""
    tags = {tag: tuple(values) for tag, values in body["tags"].items()}
    selection = Selection(body["metric"], tags)
    first, end = body["between"]

    def drop(series: Series, budget: Budget) -> tuple[Series, bool]:
        return drop_between(space, series, settings, first, end, budget)

    return _drop(space, "series_delete", body, selection, drop)


def apply_retain(space: Space, settings: Mapping[str, Any], body: Any, now_ms: int) -> Value:
    """Chunks whose points are all expired by the stamp's time, and old rows of rollups."""

    def drop(series: Series, budget: Budget) -> tuple[Series, bool]:
        left = drop_expired(space, series, settings, now_ms, budget)
        return left, budget.left

    return _drop(space, "series_retain", body, _EVERYTHING, drop)


def _drop(
    space: Space,
    operation: str,
    body: Any,
    selection: Selection,
    drop: Callable[[Series, Budget], tuple[Series, bool]],
) -> Value:
    budget = Budget(DROP_CHUNKS_MAX, DROP_ROWS_MAX)
    looked = gone = 0
    following = None
    for series in walk(space, selection, body["start"]):
        looked += 1
        if series is None:
            continue
        if looked > DROP_SERIES_MAX:
            following = series.key
            break
        left, done = drop(series, budget)
        if left != series:
            keep_series(space, left)
            gone += left.empty
        if not done:
            following = series.key
            break
    cursor = (
        None
        if following is None
        else encode_cursor(scope_of(operation, body["given"]), [following])
    )
    return {
        "points": budget.points_spent,
        "chunks": budget.chunks_spent,
        "rollup_rows": budget.rows_spent,
        "series": gone,
        "more": cursor is not None,
        "next_cursor": cursor,
    }


def _start(operation: str, given: Mapping[str, Any]) -> bytes:
    position = decode_cursor(given.get("cursor"), scope_of(operation, given), list)
    return position[0] if position and type(position[0]) is bytes else b""
