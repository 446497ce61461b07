"""Commands on collections, apply side: create, alter, drop, sweep, and what engines write.

A dropped collection is gone at once for whoever asks; its items are removed by `Sweep`
commands, a bounded number with each, which the leader proposes while something is left. So no
entry takes time in proportion to a collection.

A collection of several shards (`catalog.py`, `shards.py`) is created, altered and dropped at its
home first, which decides; the node that asked then does the same to the parts. A part is made
with the home's settings, and takes later ones over by their version: in whatever order they come,
the newest stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from struct import error as StructError
from typing import Any, Final

from engines.catalog import (
    COLLECTIONS_MAX,
    DROPPED,
    SETTINGS_BYTES_MAX,
    SHARDS_MAX,
    Collection,
    collection_fields,
    collection_key,
    dropped_key,
    dropping_key,
    find_collection,
    find_dropping,
    pack_collection,
    pack_dropping,
)
from engines.codec import BODY_DEPTH_MAX, Value, check_value, pack_value, unpack_value
from engines.counters import Counters
from engines.engine import Engine, Kind, Refused, Stamp
from engines.errors import InvalidArgument, UnknownCommand
from engines.interfaces import (
    INTEGER_MAX,
    CollectionResult,
    RejectCode,
    Rejected,
    SweepResult,
)
from engines.layout import seal
from engines.mutations import CollectionCommand, Sweep
from engines.overlay import Overlay
from engines.registry import Registry
from engines.shards import check_shards
from engines.space import ItemChange, Space

CREATE: Final = "collection_create"
ALTER: Final = "collection_alter"
DROP: Final = "collection_drop"
FORGET: Final = "collection_forget"  # that a home was dropped, once its parts are gone

MESSAGE_CHARACTERS_MAX: Final = 2_000  # of a refusal
FIELD_CHARACTERS_MAX: Final = 500

# What Python says of values that code was not made for: a function of the body and the state,
# so that every replica meets it, and all would stop at the entry. What is of one replica alone
# (memory, its disk, a damaged record) is none of these. See DESIGN.md, "Bodies that fit nothing".
_UNFORESEEN: Final = (
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StructError,
)  # fmt: skip
# Always the same: it may be kept with a request id, and other builds word exceptions otherwise.
_UNFIT: Final = "the engine cannot do this command"


class CollectionWrites:
    """Runs commands on collections inside one apply's write transaction."""

    def __init__(
        self,
        overlay: Overlay,
        counters: Counters,
        registry: Registry,
        changes: list[ItemChange] | None,
    ) -> None:
        """`changes`: where to note what became of items; None: nowhere."""
        self._collections = overlay.collections
        self._items = overlay.items
        self._counters = counters
        self._registry = registry
        self._changes = changes
        # Ids whose derived indexes are of no use any more: are they gone, too?
        self.ended: dict[bytes, bool] = {}
        # Operations, and what they raised though engines should not.
        self.unforeseen: list[tuple[str, Exception]] = []

    def run(self, command: CollectionCommand, log_index: int) -> CollectionResult | Rejected:
        """Raises UnknownCommand (this build has no such engine), CorruptRecord."""
        try:
            body = _body(command)
            match command.operation:
                case "collection_create":
                    answer = pack_value(self._create(command, body, log_index))
                case "collection_alter":
                    answer = pack_value(self._alter(command, body, log_index))
                case "collection_drop":
                    answer = pack_value(self._drop(command, body))
                case "collection_forget":
                    answer = pack_value(self._forget(command, body))
                case _:
                    answer = self._write(command, body, log_index)
        except Refused as refusal:
            return _rejected(refusal.code, str(refusal), refusal.field, refusal.version)
        except InvalidArgument as error:
            message = str(error).removeprefix(f"{error.field}: ")
            return _rejected(RejectCode.INVALID_ARGUMENT, message, error.field)
        except _UNFORESEEN as error:
            self.unforeseen.append((command.operation, error))
            return _rejected(RejectCode.INVALID_ARGUMENT, _UNFIT, "parameters")
        return CollectionResult(answer, log_index)

    def sweep(self, command: Sweep) -> SweepResult:
        """Remove items of dropped collections, the oldest first."""
        left, removed = command.items_max, 0
        while left > 0:
            waiting = self._collections.keys(DROPPED, b"\x01", False, 1)
            if not waiting:
                break
            identity = waiting[0][len(DROPPED) :]
            space = Space(self._items, _remains(identity))
            keys = [key for key, _ in islice(space.range(), left)]
            for key in keys:
                space.delete(key)
            space.commit(None)
            removed += len(keys)
            left -= max(1, len(keys))
            if len(keys) == 0:
                self._collections.delete(waiting[0])
        return SweepResult(removed)

    def _create(self, command: CollectionCommand, body: Mapping[str, Any], index: int) -> Value:
        name = body["engine"]
        if type(name) is not str:
            raise InvalidArgument("engine", "must be text")
        engine = self._registry.named(name)
        if engine is None:
            raise UnknownCommand(f"engine {name!r} is not known to this build")
        found = self._find(command)
        if found is not None:
            raise Refused(
                RejectCode.COLLECTION_EXISTS,
                f"collection {command.collection} exists, of engine {found.engine}",
                "collection",
            )
        if self._counters.collections >= COLLECTIONS_MAX:
            raise Refused(
                RejectCode.LIMIT_EXCEEDED, f"there are {COLLECTIONS_MAX} collections already"
            )
        if self._dropping(command) is not None:
            raise Refused(
                RejectCode.COLLECTION_DROPPING,
                f"another collection {command.collection} is being dropped",
                "collection",
            )
        settings = _bounded(engine.settings(_object(body, "settings"), None))
        shards = _number(body, "shards", 1, SHARDS_MAX)
        check_shards(engine, settings, shards)
        collection = Collection(
            command.namespace, command.collection, self._counters.allocate(), engine.name,
            settings, command.now_ms, index, shards=shards,
            settings_version=_number(body, "settings_version", 0, INTEGER_MAX),
        )  # fmt: skip
        self._counters.collections += 1
        self._collections.put(collection.key, pack_collection(collection))
        home = {} if shards == 1 else {"home": collection_fields(collection)}
        return {"created": True, "engine": engine.name, "settings": settings, **home}

    def _alter(self, command: CollectionCommand, body: Mapping[str, Any], index: int) -> Value:
        collection = self._existing(command)
        engine = self._engine(collection)
        if collection.shards > 1:
            return self._alter_home(collection, engine, body, index)
        version, current = collection.settings_version, collection.settings
        if "settings_version" in body:  # a part's, as a whole, whatever it had before
            version = _number(body, "settings_version", 0, INTEGER_MAX)
            if version <= collection.settings_version:
                return {"altered": False, "settings": dict(current)}
            settings = _bounded(engine.settings(_object(body, "settings"), None))
        else:
            settings = _bounded(engine.settings(_object(body, "settings"), current))
        space = Space(self._items, collection)
        engine.altered(space, collection.settings, settings)
        self.ended[collection.id] = False
        altered = replace(collection, settings=settings, settings_version=version)
        self._keep(altered, space, index)
        return {"altered": settings != current, "settings": settings}

    def _alter_home(
        self, home: Collection, engine: Engine, body: Mapping[str, Any], index: int
    ) -> Value:
        """What the parts are to have, which whoever asks for it then tells them."""
        if body.get("home") is not True:
            raise _is_sharded(home)
        settings = _bounded(engine.settings(_object(body, "settings"), home.settings))
        check_shards(engine, settings, home.shards)
        altered = settings != home.settings
        if altered:
            home = replace(
                home, settings=settings, settings_version=home.settings_version + 1,
                written_index=index,
            )  # fmt: skip
            self._collections.put(home.key, pack_collection(home))
        return {"altered": altered, "settings": settings, "home": collection_fields(home)}

    def _drop(self, command: CollectionCommand, body: Mapping[str, Any]) -> Value:
        """`body`: with an id, only the collection of that id; an empty one asks what is left of
        one that was dropped, and drops nothing."""
        collection = self._find(command)
        if collection is None or collection.id != body.get("id", collection.id):
            left = self._dropping(command)
            home = {} if left is None else {"home": collection_fields(left)}
            return {"dropped": False, **home}
        self._collections.delete(collection.key)
        if collection.shards > 1:
            self._collections.put(dropping_key(collection.key), pack_dropping(collection))
            self._counters.collections -= 1
            return {"dropped": True, "home": collection_fields(collection)}
        key = dropped_key(collection.id)
        self._collections.put(key, seal(key, pack_value([])))
        self._counters.collections -= 1
        self.ended[collection.id] = True
        return {"dropped": True}

    def _forget(self, command: CollectionCommand, body: Mapping[str, Any]) -> Value:
        """A home that was dropped; `body`: its id, lest it is another one by now."""
        left = self._dropping(command)
        if left is None or left.id != body.get("id"):
            return {"forgotten": False}
        self._collections.delete(dropping_key(left.key))
        return {"forgotten": True}

    def _dropping(self, command: CollectionCommand) -> Collection | None:
        key = collection_key(command.namespace, command.collection)
        return find_dropping(self._collections.get, key)

    def _write(self, command: CollectionCommand, body: Any, index: int) -> bytes:
        """The answer, packed: nothing may fail once the items are kept."""
        collection = self._existing(command)
        if collection.shards > 1:
            raise _is_sharded(collection)
        engine = self._engine(collection)
        if engine.operations.get(command.operation) is not Kind.WRITE:
            raise Refused(
                RejectCode.INVALID_ARGUMENT,
                f"{command.operation} is no write of engine {engine.name}, which the collection "
                "belongs to",
                "operation",
            )
        space = Space(self._items, collection)
        stamp = Stamp(command.now_ms, command.seed)
        answer = pack_value(
            engine.apply(space, collection.settings, command.operation, body, stamp)
        )
        if space.changed:
            self._keep(collection, space, index)
        return answer

    def _keep(self, collection: Collection, space: Space, index: int) -> None:
        space.commit(self._changes)
        now = replace(
            collection, written_index=index, items=space.items, item_bytes=space.item_bytes
        )
        self._collections.put(now.key, pack_collection(now))

    def _find(self, command: CollectionCommand) -> Collection | None:
        return find_collection(self._collections.get, command.namespace, command.collection)

    def _existing(self, command: CollectionCommand) -> Collection:
        found = self._find(command)
        if found is None:
            raise Refused(
                RejectCode.COLLECTION_NOT_FOUND,
                f"there is no collection {command.collection} in {command.namespace}",
                "collection",
            )
        return found

    def _engine(self, collection: Collection) -> Engine:
        engine = self._registry.engines.get(collection.engine)
        if engine is None:
            raise UnknownCommand(f"engine {collection.engine!r} is not known to this build")
        return engine


def _is_sharded(home: Collection) -> Refused:
    return Refused(
        RejectCode.COLLECTION_SHARDED,
        f"collection {home.name} is in {home.shards} shards",
        "collection",
    )


def _rejected(
    code: RejectCode, message: str, field: str | None, version: int | None = None
) -> Rejected:
    """Kept with a request id, and both texts may hold what a caller gave."""
    if field is not None:
        field = field[:FIELD_CHARACTERS_MAX]
    return Rejected(code, message[:MESSAGE_CHARACTERS_MAX], version, field)


def _remains(identity: bytes) -> Collection:
    """A dropped collection: of it only its id is of use."""
    return Collection("", "", identity, "", {}, 0)


def _body(command: CollectionCommand) -> Any:
    """What `prepare` returned, if a sound node wrote it. Raises Malformed, InvalidArgument."""
    body = unpack_value(command.body)
    check_value(body, "parameters", BODY_DEPTH_MAX)
    return body


def _bounded(settings: dict[str, Value]) -> dict[str, Value]:
    """They are part of the record that every write of the collection renews."""
    size = len(pack_value(settings))
    if size > SETTINGS_BYTES_MAX:
        raise InvalidArgument("settings", f"are {size} bytes; at most {SETTINGS_BYTES_MAX}")
    return settings


def _number(body: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """`least` where it is absent."""
    found = body.get(name, least)
    if type(found) is not int or not least <= found <= most:
        raise InvalidArgument(name, f"must be a whole number from {least} to {most}")
    return found


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        raise InvalidArgument(name, "must be an object")
    return found
