"""A collection of time series in a state machine on a temporary store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_writes import ALTER, CREATE
from engines.command import CollectionCommand
from engines.interfaces import Rejected
from engines.kv import KvReader
from engines.timeseries import ENGINE
from tests.unit.engine_state import State

SEED = 7


class SeriesState(State):
    """Namespace n, collection c."""

    def create(self, **settings: Any) -> Any:
        return self.command(CREATE, {"engine": "timeseries", "settings": settings})

    def alter(self, **settings: Any) -> Any:
        return self.command(ALTER, {"settings": settings})

    def write(self, operation: str, **parameters: Any) -> Any:
        """The engine's answer, or Rejected. Raises InvalidArgument."""
        return self.command(operation, ENGINE.prepare(operation, parameters))

    def command(self, operation: str, body: Any) -> Any:
        made = CollectionCommand("n", "c", operation, pack_value(body), self.now, SEED)
        (result,) = self.apply(made)
        return result if isinstance(result, Rejected) else unpack_value(result.answer)

    def append(self, *points: tuple[int, float], metric: str = "m", **tags: str) -> Any:
        times, values = [point[0] for point in points], [point[1] for point in points]
        run = {"metric": metric, "tags": tags, "times": times, "values": values}
        return self.write("series_append", columns=run)

    def query(self, operation: str, **parameters: Any) -> Any:
        with self.store.read() as snapshot:
            reader = KvReader(snapshot, self.machine.registry, self.machine.indexes)
            answer, _ = reader.collections.query("n", "c", operation, parameters)
            return unpack_value(pack_value(answer))

    def points(self, metric: str = "m", **tags: Any) -> list[list[Any]]:
        """Of the one series that there is."""
        found = self.query("series_range", metric=metric, tags=tags, limit=10_000)["series"]
        assert len(found) <= 1
        return found[0]["points"] if found else []

    def series(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.query("series_list", limit=1_000)["items"]
        return items

    def problems(self) -> list[str]:
        with self.store.read() as snapshot:
            return check(snapshot)


@contextmanager
def series_state(path: Path, **settings: Any) -> Iterator[SeriesState]:
    """A collection that must hold together when the test is over."""
    state = SeriesState(path)
    state.create(**settings)
    yield state
    assert state.problems() == []
    state.machine.close()
