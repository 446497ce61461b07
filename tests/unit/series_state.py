"""A collection of time series in a state machine on a temporary store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from engines.timeseries import ENGINE
from tests.unit.one_collection import OneCollection, collection


class SeriesState(OneCollection):
    engine = ENGINE

    def append(self, *points: tuple[int, float], metric: str = "m", **tags: str) -> Any:
        times, values = [point[0] for point in points], [point[1] for point in points]
        run = {"metric": metric, "tags": tags, "times": times, "values": values}
        return self.write("series_append", columns=run)

    def points(self, metric: str = "m", **tags: Any) -> list[list[Any]]:
        """Of the one series that there is."""
        found = self.query("series_range", metric=metric, tags=tags, limit=10_000)["series"]
        assert len(found) <= 1
        return found[0]["points"] if found else []

    def series(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.query("series_list", limit=1_000)["items"]
        return items


def series_state(path: Path, **settings: Any) -> AbstractContextManager[SeriesState]:
    """A collection that must hold together when the test is over."""
    return collection(SeriesState, path, **settings)
