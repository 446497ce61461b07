"""A state machine with the vector engine on a temporary store: for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_writes import ALTER, CREATE, DROP
from engines.command import CollectionCommand, encode
from engines.interfaces import CollectionResult, Limits, Rejected
from engines.kv import KvReader
from engines.registry import Registry
from engines.state_machine import StateMachine
from engines.store import Store
from engines.vector import VectorEngine
from engines.vector_index import VectorIndex
from tests.unit.engine_state import MAP_BYTES, NOW, Entry

SETTLE_SECONDS = 60.0


class VectorState:
    """Namespace n, collection c. `graph_rows_min`: vectors before there is a graph."""

    def __init__(self, path: Path, graph_rows_min: int = 8) -> None:
        self.path = path
        self.engine = VectorEngine(graph_rows_min)
        self.registry = Registry((self.engine,))
        self.log: list[Entry] = []
        self.open()

    def open(self) -> None:
        self.store = Store(self.path, MAP_BYTES, 16)
        self.machine = StateMachine(self.store, Limits(), registry=self.registry)

    def reopen(self) -> None:
        self.machine.close()
        self.open()

    def create(self, **settings: Any) -> Any:
        return self.run(CREATE, {"engine": "vector", "settings": settings})

    def alter(self, **settings: Any) -> Any:
        return self.run(ALTER, {"settings": settings})

    def drop(self) -> Any:
        return self.run(DROP, {})

    def write(self, operation: str, **parameters: Any) -> Any:
        return self.run(operation, self.engine.prepare(operation, parameters))

    def run(self, operation: str, body: Any) -> Any:
        """The answer, or what the state refused it with."""
        index = self.machine.applied_index + 1
        command = CollectionCommand("n", "c", operation, pack_value(body), NOW, index)
        return self.apply(Entry(index, 1, [encode(command)]))[0]

    def apply(self, entry: Entry) -> list[Any]:
        self.log.append(entry)
        (results,) = self.machine.apply([entry])
        return [_shown(result) for result in results]

    def query(self, operation: str, **parameters: Any) -> Any:
        with self.store.read() as snapshot:
            reader = KvReader(snapshot, self.registry, self.machine.indexes)
            return reader.collections.query("n", "c", operation, parameters)[0]

    def search(self, vector: Any, **parameters: Any) -> list[tuple[str, float]]:
        found = self.query("vector_search", vector=vector, **parameters)
        return [(match["id"], match["distance"]) for match in found["matches"]]

    @property
    def index(self) -> VectorIndex:
        self.query("vector_info")
        with self.store.read() as snapshot:
            reader = KvReader(snapshot, self.registry, self.machine.indexes)
            identity = reader.collections.find("n", "c").id
        index = self.machine.indexes.ready(identity, lambda: None, lambda _: _never())
        assert isinstance(index, VectorIndex)
        return index

    def settle(self) -> VectorIndex:
        """The index, once everything is in the graph."""
        index = self.index
        assert index.settled(SETTLE_SECONDS)
        return index

    def check(self) -> list[str]:
        with self.store.read() as snapshot:
            return check(snapshot)


@contextmanager
def vector_state(path: Path, **settings: Any) -> Iterator[VectorState]:
    """With a collection of these settings, and found to hold together at the end."""
    state = VectorState(path)
    created = state.create(**{"dimensions": 2, **settings})
    assert isinstance(created, Mapping), created
    yield state
    assert state.check() == []
    state.machine.close()


def _shown(result: object) -> Any:
    if isinstance(result, CollectionResult):
        return unpack_value(result.answer)
    assert isinstance(result, Rejected)
    return result


def _never() -> Any:
    raise AssertionError("the index is there")
