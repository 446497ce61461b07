"""Reads of collections in one snapshot: what there is, and what their engines answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from engines.catalog import Collection, collection_key, find_collection, unpack_collection
from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.counters import load_counters
from engines.derived import DerivedIndex, DerivedIndexes
from engines.engine import Engine, Kind
from engines.errors import InvalidArgument, QueryCancelled, UnknownRead
from engines.registry import Registry
from engines.result_cache import Kept, Request, ResultCache
from engines.space import View
from engines.store import Snapshot
from engines.tuning import Tuning

NO_COLLECTION = "COLLECTION_NOT_FOUND"
BRIEF_BYTES_MAX = 4 << 10  # parameters: much is done for each item where there are many


class Answer(NamedTuple):
    """What a query was answered, packed, and the collection as it was then."""

    packed: bytes
    collection: Collection


class CollectionReader:
    """Any thread, one at a time; everything that it returns is a copy."""

    def __init__(
        self,
        snapshot: Snapshot,
        applied_index: int,
        registry: Registry,
        indexes: DerivedIndexes | None,
        stop: Callable[[], bool],
        tuning: Tuning | None = None,
    ) -> None:
        self._tuning = Tuning() if tuning is None else tuning
        self._snapshot = snapshot
        self.applied_index = applied_index
        self._registry = registry
        self._indexes = indexes
        self._stop = stop

    def find(self, namespace: str, name: str) -> Collection:
        """Raises InvalidArgument (COLLECTION_NOT_FOUND), CorruptRecord."""
        found = self._find(namespace, name)
        if found is None:
            raise InvalidArgument(
                "collection", f"there is no collection {name} in {namespace}", NO_COLLECTION
            )
        return found

    def list(self, namespace: str, after: str | None, limit: int) -> list[Collection]:
        """Collections of the namespace whose name is > `after`, at most `limit`, in order."""
        prefix = collection_key(namespace, "")
        start = prefix if after is None else collection_key(namespace, after) + b"\x00"
        found: list[Collection] = []
        with self._snapshot.txn.cursor(db=self._snapshot.databases.collections) as cursor:
            if not cursor.set_range(start):
                return found
            for place, record in cursor.iternext():
                key = bytes(place)
                if len(found) == limit or not key.startswith(prefix):
                    break
                found.append(unpack_collection(key, record))
        return found

    def dropped(self) -> bool:
        """Are there items of dropped collections?"""
        with self._snapshot.txn.cursor(db=self._snapshot.databases.collections) as cursor:
            return cursor.first() and bytes(cursor.key()[:1]) == b"\x00"

    def query(
        self, namespace: str, name: str, operation: str, parameters: Mapping[str, Any]
    ) -> tuple[Value, Collection]:
        """What the collection's engine answers. Raises also InvalidArgument, QueryCancelled."""
        collection = self.find(namespace, name)
        engine, _ = self._reading(collection, operation)
        return self._answered(collection, engine, operation, parameters)[0], collection

    def answer(self, namespace: str, name: str, operation: str, packed: bytes) -> Answer:
        """The same, packed, and out of the cache where it is there. `packed`: parameters.

        Raises also UnknownRead; QueryCancelled, if it is not to be computed on this thread.
        """
        collection = self.find(namespace, name)
        engine, kind = self._reading(collection, operation)
        request = Request(collection.id, collection.written_index, operation, packed)
        results = None
        if kind is Kind.READ and self._indexes is not None:
            results = self._indexes.results
        tuning = self._tuning
        if tuning.explain:
            return Answer(self._explained(collection, engine, request, results), collection)
        kept = None if results is None else results.get(request)
        if kept is not None:
            tuning.found(kept.note)
            return Answer(kept.answer, collection)
        if tuning.brief and not (
            len(packed) <= BRIEF_BYTES_MAX and operation in getattr(engine, "brief", ())
        ):
            raise QueryCancelled("it may take long")
        parameters = _unpacked(packed)
        tuning.begin(collection, operation, parameters)
        try:
            value, volatile = self._answered(collection, engine, operation, parameters)
        except InvalidArgument:
            tuning.failed()
            raise
        except QueryCancelled:
            tuning.cancelled()
            raise
        found = pack_value(value)
        note = tuning.end()
        if results is not None and not volatile:
            results.put(request, Kept(found, note))
        return Answer(found, collection)

    def _explained(
        self, collection: Collection, engine: Engine, request: Request, results: ResultCache | None
    ) -> bytes:
        """The answer, computed whether it is kept or not, and how it came about."""
        tuning = self._tuning
        if tuning.brief:
            raise QueryCancelled("explaining is not brief")
        operation, parameters = request.operation, _unpacked(request.parameters)
        tuning.begin(collection, operation, parameters)
        value, volatile = self._answered(collection, engine, operation, parameters)
        tuning.end()
        work = tuning.work
        explanation: dict[str, Value] = {
            "engine": engine.name,
            "plan": work.plan,
            "examined": work.examined,
            "returned": work.returned,
            "cache": {
                "cacheable": results is not None and not volatile,
                "kept": results is not None and results.holds(request),
            },
            **tuning.explanation(),
        }
        return pack_value({"result": value, "explain": explanation})

    def _reading(self, collection: Collection, operation: str) -> tuple[Engine, Kind]:
        engine = self._registry.engines.get(collection.engine)
        kind = None if engine is None else engine.operations.get(operation)
        if engine is None or kind is None or kind is Kind.WRITE:
            raise InvalidArgument(
                "operation", f"{operation} is no read of engine {collection.engine}"
            )
        return engine, kind

    def _answered(
        self,
        collection: Collection,
        engine: Engine,
        operation: str,
        parameters: Mapping[str, Any],
    ) -> tuple[Value, bool]:
        """The answer, and whether the same question may have another one next time."""
        index = self._index(collection, engine)
        items = self._snapshot.databases.items
        view = View(
            self._snapshot.txn, items, collection, self.applied_index, self._stop, index,
            self._tuning,
        )  # fmt: skip
        return engine.query(view, collection.settings, operation, parameters), view.volatile

    def _index(self, collection: Collection, engine: Engine) -> DerivedIndex | None:
        if self._indexes is None:
            return None
        make = partial(engine.index, collection.settings)
        if self._tuning.brief and not self._indexes.is_ready(collection.id, make):
            raise QueryCancelled("an index is to be built first")
        return self._indexes.ready(collection.id, make, partial(self._fresh_view, collection))

    def _fresh_view(self, collection: Collection, snapshot: Snapshot) -> View:
        """Of a snapshot that is newer than this one."""
        applied = load_counters(snapshot.txn, snapshot.databases).applied_index
        # Not stopped with this query: what takes longer than a query may would never be built.
        return View(snapshot.txn, snapshot.databases.items, collection, applied)

    def _find(self, namespace: str, name: str) -> Collection | None:
        get = partial(self._snapshot.txn.get, db=self._snapshot.databases.collections)
        return find_collection(get, namespace, name)


def _unpacked(packed: bytes) -> dict[str, Any]:
    try:
        parameters = unpack_value(packed)
    except Malformed as error:
        raise UnknownRead(f"malformed parameters: {error}") from error
    if not isinstance(parameters, dict):
        raise UnknownRead("malformed parameters: not an object")
    return parameters
