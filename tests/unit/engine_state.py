"""A state machine on a temporary store, with one entry per command: for unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.check import check, digest
from engines.codec import pack_value
from engines.command import CollectionCommand, Command, Delete, Put, Txn, TxnOp, encode
from engines.interfaces import Change, Limits, Record
from engines.kv import KvReader
from engines.registry import Registry
from engines.state_machine import StateMachine
from engines.store import Store

MAP_BYTES = 64 << 20
NOW = 1_000


@dataclass(frozen=True)
class Entry:
    index: int
    term: int
    commands: list[bytes]


@contextmanager
def checked_state(path: Path) -> Iterator[State]:
    """A state that must hold together when the test is over."""
    state = State(path)
    yield state
    with state.store.read() as snapshot:
        assert check(snapshot) == []
    state.machine.close()


class State:
    """Namespace n, session s, unless said otherwise. `now` is the proposer's clock."""

    def __init__(
        self, path: Path, limits: Limits | None = None, registry: Registry | None = None
    ) -> None:
        """`registry`: other engines than those of this build."""
        self.registry = registry
        self.path = path
        self.limits = limits or Limits()
        self.now = NOW
        self.heard: list[Change] = []
        self.open()

    def open(self) -> None:
        self.store = Store(self.path, MAP_BYTES, 16)
        self.machine = StateMachine(self.store, self.limits, self.heard.extend, self.registry)

    def reopen(self) -> None:
        self.machine.close()
        self.open()

    def apply(self, *commands: Command) -> list[Any]:
        """One entry; the results of its commands."""
        index = self.machine.applied_index + 1
        (results,) = self.machine.apply([Entry(index, 1, [encode(c) for c in commands])])
        return results

    def put(self, key: bytes, value: bytes = b"v", *, ttl: int | None = None, **more: Any) -> Any:
        fields = {"namespace": "n", "session": "s", "content_type": "text/plain", **more}
        expires = None if ttl is None else self.now + ttl
        command = Put(key=key, value=value, now_ms=self.now, expires_ms=expires, **fields)
        return self.apply(command)[0]

    def delete(self, key: bytes, **more: Any) -> Any:
        fields = {"namespace": "n", "session": "s", **more}
        return self.apply(Delete(key=key, now_ms=self.now, **fields))[0]

    def txn(self, *then: TxnOp, **more: Any) -> Any:
        fields = {"compare": (), "otherwise": (), **more}
        return self.apply(Txn("n", "s", then=then, now_ms=self.now, **fields))[0]

    @contextmanager
    def reader(self) -> Iterator[KvReader]:
        with self.store.read() as snapshot:
            yield KvReader(snapshot, self.machine.registry, self.machine.indexes)

    def read(self, question: Callable[[KvReader], Any]) -> Any:
        with self.reader() as reader:
            return question(reader)

    def get(self, key: bytes, *, namespace: str = "n", session: str = "s") -> Record | None:
        record: Record | None = self.read(lambda reader: reader.get(namespace, session, key))
        return record

    def value(self, key: bytes) -> bytes | None:
        record = self.get(key)
        return record.value if record else None

    def collection(self, operation: str, name: str, body: Any, **more: Any) -> Any:
        """One command on the collection `name`; `body` as it stands in the log."""
        fields = {"namespace": "n", "now_ms": self.now, "seed": 1, **more}
        command = CollectionCommand(
            collection=name, operation=operation, body=pack_value(body), **fields
        )
        return self.apply(command)[0]

    def query(self, collection: str, operation: str, **parameters: Any) -> Any:
        """What a collection's engine answers."""
        with self.reader() as reader:
            return reader.collections.query("n", collection, operation, parameters)[0]

    def digest(self) -> bytes:
        with self.store.read() as snapshot:
            return digest(snapshot)
