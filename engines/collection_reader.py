"""Reads of collections in one snapshot: what there is, and what their engines answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeAlias, cast

from engines.catalog import (
    CATALOG,
    DROPPING,
    Collection,
    collection_key,
    find_collection,
    unpack_collection,
)
from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.counters import load_counters
from engines.derived import DerivedIndex, DerivedIndexes
from engines.engine import AnswersTogether, Engine, KeepsUp, Kind
from engines.errors import (
    CollectionSharded,
    EngineError,
    InvalidArgument,
    QueryCancelled,
    UnknownRead,
)
from engines.registry import Registry
from engines.result_cache import Kept, Request, ResultCache
from engines.space import View
from engines.store import Snapshot
from engines.tuning import Tuning
from engines.validation import PART_MARK

NO_COLLECTION = "COLLECTION_NOT_FOUND"
_MARK = PART_MARK.encode()
BRIEF_BYTES_MAX = 4 << 10  # parameters: much is done for each item where there are many


class Answer(NamedTuple):
    """What a query was answered, packed, and the collection as it was then."""

    packed: bytes
    collection: Collection
    value: Value = None  # what `packed` holds, where it was computed just now


class PartSize(NamedTuple):
    """What one part of a collection holds; see `Collection`."""

    items: int
    item_bytes: int
    written_index: int


class Part(NamedTuple):
    """Where a part is found; see `validation.PART_MARK`."""

    namespace: str
    name: str


class Due(NamedTuple):
    """A write that is due."""

    collection: Collection
    operation: str
    parameters: Mapping[str, Any]


class Place(NamedTuple):
    """How far a look at all collections has come."""

    collection: bytes  # its key in `collections`, or one before it
    after: bytes  # within it


BEGINNING = Place(CATALOG, b"")  # behind what is left of dropped ones


class _Asked(NamedTuple):
    """One of several requests that are answered together."""

    place: int
    request: Request
    parameters: Mapping[str, Any]


Answers: TypeAlias = list[Answer | EngineError | None]


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
        """Collections of the namespace whose name is > `after`, at most `limit`, in order; none
        of them is a part of another."""
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
                if _MARK in key:
                    continue
                found.append(unpack_collection(key, record))
        return found

    def dropped(self) -> bool:
        """Are there items of dropped collections?"""
        with self._snapshot.txn.cursor(db=self._snapshot.databases.collections) as cursor:
            return cursor.first() and bytes(cursor.key()[:1]) == b"\x00"

    def sizes(self, namespace: str, names: Sequence[str]) -> tuple[PartSize | None, ...]:
        """What each of these parts holds; None: it is not there. Raises CorruptRecord."""
        found = (self._find(namespace, name) for name in names)
        return tuple(
            None if each is None else PartSize(each.items, each.item_bytes, each.written_index)
            for each in found
        )

    def parts(self, after: Part | None, limit: int) -> tuple[Part, ...]:
        """Parts of collections of several shards that are here, behind `after`, at most so many."""
        start = CATALOG if after is None else collection_key(*after) + b"\x00"
        found: list[Part] = []
        with self._snapshot.txn.cursor(db=self._snapshot.databases.collections) as cursor:
            if not cursor.set_range(start):
                return ()
            for key in cursor.iternext(values=False):
                place = bytes(key)
                if _MARK in place:
                    namespace, _, name = place.decode().partition("\0")
                    found.append(Part(namespace, name))
                    if len(found) == limit:
                        break
        return tuple(found)

    def dropping(self, limit: int) -> tuple[Collection, ...]:
        """Homes that were dropped and have parts yet, at most so many. Raises CorruptRecord."""
        with self._snapshot.txn.cursor(db=self._snapshot.databases.collections) as cursor:
            if not cursor.set_range(DROPPING):
                return ()
            pairs = ((bytes(key), record) for key, record in islice(cursor.iternext(), limit))
            left = takewhile(lambda pair: pair[0] < CATALOG, pairs)
            return tuple(unpack_collection(key, record) for key, record in left)

    def upkeep(self, now_ms: int, place: Place) -> tuple[Due | None, Place | None]:
        """What is due in the first collection at or after `place` whose engine keeps up, and
        where to look on: None at the end. Raises CorruptRecord, QueryCancelled."""
        found = self._kept_up(place.collection)
        if found is None:
            return None, None
        collection, engine = found
        key = collection.key
        after = place.after if key == place.collection else b""
        items = self._snapshot.databases.items
        view = View(self._snapshot.txn, items, collection, self.applied_index, self._stop)
        write, following = engine.upkeep(view, collection.settings, now_ms, after)
        due = None if write is None else Due(collection, *write)
        if following is None:
            return due, Place(key + b"\x00", b"")
        return due, Place(key, following)

    def _kept_up(self, first: bytes) -> tuple[Collection, KeepsUp] | None:
        """The first collection whose key is >= `first` and whose engine keeps up."""
        with self._snapshot.txn.cursor(db=self._snapshot.databases.collections) as cursor:
            if not cursor.set_range(first):
                return None
            for key, record in cursor.iternext():
                collection = unpack_collection(bytes(key), record)
                engine: object = self._registry.engines.get(collection.engine)
                if isinstance(engine, KeepsUp) and collection.shards == 1:
                    return collection, engine
        return None

    def query(
        self, namespace: str, name: str, operation: str, parameters: Mapping[str, Any]
    ) -> tuple[Value, Collection]:
        """What the collection's engine answers. Raises also InvalidArgument, QueryCancelled."""
        collection = self.find(namespace, name)
        engine, _ = self._reading(collection, operation)
        return self._answered(collection, engine, operation, parameters)[0], collection

    def answer(
        self,
        namespace: str,
        name: str,
        operation: str,
        packed: bytes,
        given: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The same, packed, and out of the cache where it is there. `packed`: parameters; `given`:
        what they hold, if it is at hand.

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
        parameters = _unpacked(packed) if given is None else given
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
        return Answer(found, collection, value)

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

    def answer_together(
        self,
        namespace: str,
        name: str,
        operation: str,
        many: Sequence[tuple[bytes, Mapping[str, Any] | None]],
    ) -> Answers:
        """As `answer` each of them, by an engine that answers such together; None: ask it alone.
        `many`: each as `packed` and `given` there.

        Raises as `answer` does, but for what is at fault with one of them.
        """
        collection = self.find(namespace, name)
        engine, kind = self._reading(collection, operation)
        # Not isinstance of the protocol, which looks at every attribute: 7.5 µs.
        if operation not in getattr(engine, "together", ()):
            return [None] * len(many)
        results = None
        if kind is Kind.READ and self._indexes is not None:
            results = self._indexes.results
        answers: Answers = [None] * len(many)
        asked: list[_Asked] = []
        notes: list[object] = []
        for place, (packed, given) in enumerate(many):
            request = Request(collection.id, collection.written_index, operation, packed)
            kept = None if results is None else results.get(request)
            if kept is not None:
                answers[place] = Answer(kept.answer, collection)
                notes.append(kept.note)
                continue
            try:
                parameters = _unpacked(packed) if given is None else given
                asked.append(_Asked(place, request, parameters))
            except UnknownRead as error:
                answers[place] = error
        if asked:
            able = cast(AnswersTogether, engine)
            self._compute(collection, able, operation, asked, answers, results)
        for note in notes:
            self._tuning.found(note)
        return answers

    def _compute(
        self,
        collection: Collection,
        engine: AnswersTogether,
        operation: str,
        asked: Sequence[_Asked],
        answers: Answers,
        results: ResultCache | None,
    ) -> None:
        """What is not kept, into `answers`."""
        tuning = self._tuning
        parameters = [each.parameters for each in asked]
        tuning.begin(collection, operation, parameters[0])
        try:
            view = self._view(collection, cast(Engine, engine))
            found = engine.query_together(view, collection.settings, operation, parameters)
        except QueryCancelled:
            tuning.cancelled()
            raise
        computed = [
            (each, value, pack_value(value))
            for each, value in zip(asked, found, strict=True)
            if value is not None and not isinstance(value, InvalidArgument)
        ]
        for each, value in zip(asked, found, strict=True):
            if isinstance(value, InvalidArgument):
                answers[each.place] = value
        note = tuning.end(len(computed)) if computed else None
        for each, value, answer in computed:
            answers[each.place] = Answer(answer, collection, value)
            if results is not None and not view.volatile:
                results.put(each.request, Kept(answer, note))

    def _reading(self, collection: Collection, operation: str) -> tuple[Engine, Kind]:
        if collection.shards > 1:
            raise CollectionSharded(collection)
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
        view = self._view(collection, engine)
        return engine.query(view, collection.settings, operation, parameters), view.volatile

    def _view(self, collection: Collection, engine: Engine) -> View:
        index = self._index(collection, engine)
        items = self._snapshot.databases.items
        return View(
            self._snapshot.txn, items, collection, self.applied_index, self._stop, index,
            self._tuning,
        )  # fmt: skip

    def _index(self, collection: Collection, engine: Engine) -> DerivedIndex | None:
        if self._indexes is None:
            return None
        found = self._indexes.at_hand(collection.id)
        if found is not None:
            return found
        make = partial(engine.index, collection.settings)
        if not self._tuning.brief:
            return self._indexes.ready(collection.id, make, partial(self._fresh_view, collection))
        if make() is not None:
            raise QueryCancelled("an index is to be built first")
        return None

    def _fresh_view(self, collection: Collection, snapshot: Snapshot) -> View:
        """Of a snapshot that is newer than this one."""
        applied = load_counters(snapshot.txn, snapshot.databases).applied_index
        get = partial(snapshot.txn.get, db=snapshot.databases.collections)
        fresh = find_collection(get, collection.namespace, collection.name)
        if fresh is not None and fresh.id == collection.id:
            collection = fresh  # its items may have changed since
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
