"""Time series: numbers at times, in series that a metric and tags name.

| item | key | value |
|---|---|---|
| series | s, metric, NUL, id | its name, and what there is of it |
| posting | t, digest of metric, tag and value, id | empty |
| chunk | c, id, time of its first point | its points, compressed |
| rollup row | r, id, width of the window, its start | what stays of dropped points |

Points are in chunks alone; all other items follow from them and from what was dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from engines.codec import Value
from engines.derived import DerivedIndex
from engines.engine import Engine, Kind, Parameters, Settings, Stamp, Upkeep
from engines.space import Space, View
from engines.timeseries_append import apply_append, prepare_append
from engines.timeseries_check import problems
from engines.timeseries_drops import apply_delete, apply_retain, prepare_delete, prepare_retain
from engines.timeseries_reads import series_last, series_list, series_range
from engines.timeseries_settings import make_settings
from engines.timeseries_upkeep import look
from engines.timeseries_windows import series_downsample

_PREPARE: Final[Mapping[str, Callable[[Parameters], Value]]] = {
    "series_append": prepare_append,
    "series_delete": prepare_delete,
    "series_retain": prepare_retain,
}
_APPLY: Final[Mapping[str, Callable[[Space, Settings, Any, int], Value]]] = {
    "series_append": apply_append,
    "series_delete": apply_delete,
    "series_retain": apply_retain,
}
_QUERY: Final[Mapping[str, Callable[[View, Parameters], Value]]] = {
    "series_range": series_range,
    "series_last": series_last,
    "series_list": series_list,
}


class TimeSeries:
    """The engine `timeseries`; see `engine.Engine` and `KeepsUp` for what its methods promise."""

    name = "timeseries"
    aliases: tuple[str, ...] = ()
    capabilities = frozenset({"series", "aggregation", "retention", "rollups"})
    operations: Mapping[str, Kind] = {
        **dict.fromkeys(_PREPARE, Kind.WRITE),
        **dict.fromkeys((*_QUERY, "series_downsample"), Kind.READ),
    }

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        return make_settings(given, current)

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        return _PREPARE[operation](parameters)

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        return _APPLY[operation](space, settings, body, stamp.now_ms)

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """Nothing stored depends on them: chunks keep the size they have."""

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        if operation == "series_downsample":
            return series_downsample(view, settings, parameters)
        return _QUERY[operation](view, parameters)

    def upkeep(self, view: View, settings: Settings, now_ms: int, after: bytes) -> Upkeep:
        return look(view, settings, now_ms, after)

    def index(self, settings: Settings) -> DerivedIndex | None:
        return None

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        return problems(view)


ENGINE: Final[Engine] = TimeSeries()
