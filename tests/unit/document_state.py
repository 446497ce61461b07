"""A document collection in a state of its own: for unit tests of the document engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.check import check
from engines.codec import check_value, pack_value, unpack_value
from engines.command import CollectionCommand
from engines.document import DocumentEngine
from engines.interfaces import CollectionResult, Rejected
from engines.kv import KvReader
from tests.unit.engine_state import State

ENGINE = DocumentEngine()
NAMESPACE, NAME = "n", "docs"


@contextmanager
def documents(path: Path, *indexes: dict[str, Any]) -> Iterator[Collection]:
    """A new collection whose state must hold together when the test is over."""
    state = State(path)
    collection = Collection(state)
    collection.catalog(
        "collection_create", {"engine": "document", "settings": {"indexes": list(indexes)}}
    )
    yield collection
    with state.store.read() as snapshot:
        assert check(snapshot) == []
    state.machine.close()


class Collection:
    """`write` and `read` as the door does them; a refusal by the state is returned."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._seed = 0

    def catalog(self, operation: str, body: Any) -> Any:
        return self._command(operation, body)

    def write(self, operation: str, **parameters: Any) -> Any:
        check_value(parameters, "parameters")
        return self._command(operation, ENGINE.prepare(operation, parameters))

    def read(self, operation: str, **parameters: Any) -> Any:
        check_value(parameters, "parameters")
        with self.state.store.read() as snapshot:
            machine = self.state.machine
            reader = KvReader(snapshot, machine.registry, machine.indexes)
            value, _ = reader.collections.query(NAMESPACE, NAME, operation, parameters)
        return unpack_value(pack_value(value))

    def pages(self, operation: str, **parameters: Any) -> list[Any]:
        """The items of all pages."""
        found: list[Any] = []
        cursor = None
        while True:
            answer = self.read(operation, cursor=cursor, **parameters)
            found += answer["items"] if "items" in answer else answer["values"]
            cursor = answer["next_cursor"]
            if cursor is None:
                return found

    def find(self, filter: Any = None, **more: Any) -> list[str]:
        """Ids of what matches."""
        answer = self.read("document_find", filter=filter or {}, **more)
        return [item["id"] for item in answer["items"]]

    def one(self, identity: str) -> Any:
        (item,) = self.read("document_get", id=identity)["items"]
        return item

    def body(self, identity: str) -> Any:
        """A document's members without its id."""
        document = self.one(identity)["document"]
        del document["_id"]
        return document

    def insert(self, *given: dict[str, Any]) -> Any:
        return self.write("document_insert", documents=list(given))

    def update(self, **parameters: Any) -> Any:
        return self.write("document_update", **parameters)

    def digest(self) -> bytes:
        return self.state.digest()

    def _command(self, operation: str, body: Any) -> Any:
        self._seed += 1
        command = CollectionCommand(
            NAMESPACE, NAME, operation, pack_value(body), self.state.now, self._seed
        )
        (result,) = self.state.apply(command)
        if isinstance(result, Rejected):
            return result
        assert isinstance(result, CollectionResult)
        return unpack_value(result.answer)
