"""A state machine with one collection, for the tests of engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_writes import ALTER, CREATE
from engines.command import CollectionCommand
from engines.engine import Engine
from engines.interfaces import Rejected
from engines.kv import KvReader
from tests.unit.engine_state import State


class OneCollection(State):
    """Namespace n, collection c."""

    engine: Engine
    seed = 7

    def create(self, **settings: Any) -> Any:
        return self.command(CREATE, {"engine": self.engine.name, "settings": settings})

    def alter(self, **settings: Any) -> Any:
        return self.command(ALTER, {"settings": settings})

    def write(self, operation: str, **parameters: Any) -> Any:
        """The engine's answer, or Rejected. Raises InvalidArgument."""
        return self.command(operation, self.engine.prepare(operation, parameters))

    def command(self, operation: str, body: Any) -> Any:
        self.seed += 1
        made = CollectionCommand("n", "c", operation, pack_value(body), self.now, self.seed)
        (result,) = self.apply(made)
        return result if isinstance(result, Rejected) else unpack_value(result.answer)

    def query(self, operation: str, **parameters: Any) -> Any:
        with self.store.read() as snapshot:
            reader = KvReader(snapshot, self.machine.registry, self.machine.indexes)
            answer, _ = reader.collections.query("n", "c", operation, parameters)
            return unpack_value(pack_value(answer))

    def problems(self) -> list[str]:
        with self.store.read() as snapshot:
            return check(snapshot)


S = TypeVar("S", bound=OneCollection)


@contextmanager
def collection(kind: type[S], path: Path, **settings: Any) -> Iterator[S]:
    """A collection that must hold together when the test is over."""
    state = kind(path)
    state.create(**settings)
    yield state
    assert state.problems() == []
    state.machine.close()
