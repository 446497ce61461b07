"""What a document collection stores.

| key | value |
|---|---|
| "d" id | version, created, updated (ms); the document, packed |
| "i" number of the index, values, id | length of the values |
| "s" | how many documents; of each index its number, how far it is built; numbers to clear |

Ids are UTF-8, so that documents are in order of their ids by code points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple, Protocol

from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.errors import CorruptRecord
from engines.space import Item, unpack_object

DOCUMENT: Final = b"d"
ENTRY: Final = b"i"
STATE: Final = b"s"
DOCUMENTS_END: Final = b"e"

_HEAD = Struct(">QQQ")  # version, created_ms, updated_ms
_REMEMBERED: Final = 256  # states of collections that were read last
_NUMBER = Struct(">I")
_LENGTH = Struct(">H")
_ENTRY_HEAD_BYTES = 1 + _NUMBER.size


class Items(Protocol):
    """What `Space` and `View` have in common."""

    def get(self, key: bytes) -> bytes | None: ...

    def range(
        self, first: bytes = b"", last: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[Item]: ...


class Record(NamedTuple):
    """A stored document."""

    id: str
    version: int
    created_ms: int
    updated_ms: int
    packed: bytes

    def document(self) -> dict[str, Any]:
        """A fresh copy. Raises CorruptRecord."""
        return unpack_object(document_key(self.id), self.packed)

    def view(self, document: Value = None) -> dict[str, Value]:
        """As callers see it."""
        return {
            "id": self.id,
            "version": self.version,
            "created_ms": self.created_ms,
            "updated_ms": self.updated_ms,
            "document": self.document() if document is None else document,
        }


def document_key(identity: str) -> bytes:
    return DOCUMENT + identity.encode()


def pack_record(record: Record) -> bytes:
    return _HEAD.pack(record.version, record.created_ms, record.updated_ms) + record.packed


def unpack_record(key: bytes, value: bytes) -> Record:
    """Raises CorruptRecord."""
    try:
        version, created_ms, updated_ms = _HEAD.unpack_from(value)
        return Record(key[1:].decode(), version, created_ms, updated_ms, value[_HEAD.size :])
    except (StructError, UnicodeDecodeError) as error:
        raise CorruptRecord("items", key, f"is no document: {error}") from error


def find_record(items: Items, identity: str) -> Record | None:
    """Raises CorruptRecord."""
    key = document_key(identity)
    value = items.get(key)
    return None if value is None else unpack_record(key, value)


def entry_prefix(number: int) -> bytes:
    return ENTRY + _NUMBER.pack(number)


def entry_key(number: int, values: bytes, identity: str) -> bytes:
    return entry_prefix(number) + values + identity.encode()


def entry_value(values: bytes) -> bytes:
    return _LENGTH.pack(len(values))


def entry_id(key: bytes, value: bytes) -> str:
    """The id of the document of an entry. Raises CorruptRecord."""
    try:
        return key[_id_start(key, value) :].decode()
    except UnicodeDecodeError as error:
        raise CorruptRecord("items", key, f"is no entry: {error}") from error


def _id_start(key: bytes, value: bytes) -> int:
    if len(value) != _LENGTH.size:
        raise CorruptRecord("items", key, "is no entry")
    return _ENTRY_HEAD_BYTES + int(_LENGTH.unpack(value)[0])


# --- The state of a collection -----------------------------------------------------------


@dataclass(slots=True)
class IndexState:
    """`number`: never used again. `built`: documents up to this id are in; None: all."""

    number: int
    built: str | None = None
    many: int = 0  # documents with several entries

    def covers(self, identity: str) -> bool:
        return self.built is None or identity <= self.built


@dataclass(slots=True)
class State:
    """One for a collection. `indexes`: in the order of the settings."""

    documents: int = 0
    made: int = 0  # numbers of indexes that were given
    indexes: list[IndexState] = field(default_factory=list)
    retired: list[int] = field(default_factory=list)  # numbers whose entries are to go

    def add_index(self, built: str | None) -> IndexState:
        self.made += 1
        state = IndexState(self.made, built)
        self.indexes.append(state)
        return state


def load_state(items: Items, indexes: int) -> State:
    """`indexes`: how many the settings name. Raises CorruptRecord."""
    packed = items.get(STATE)
    return _fresh(indexes) if packed is None else _unpacked_state(packed, indexes)


def read_state(items: Items, indexes: int) -> State:
    """The same, to be read only: whoever reads the same record again gets the same object."""
    packed = items.get(STATE)
    return _fresh(indexes) if packed is None else _remembered(packed, indexes)


def _fresh(indexes: int) -> State:
    state = State()
    for _ in range(indexes):
        state.add_index(None)
    return state


def _unpacked_state(packed: bytes, indexes: int) -> State:
    try:
        parts: Any = unpack_value(packed)
        documents, made, listed, retired = parts
        states = [IndexState(*each) for each in listed]
        state = State(documents, made, states, list(retired))
    except (Malformed, TypeError, ValueError) as error:
        raise CorruptRecord("items", STATE, f"is no state: {error}") from error
    if len(state.indexes) != indexes:
        raise CorruptRecord("items", STATE, f"tells of {len(states)} indexes, not {indexes}")
    return state


_remembered = lru_cache(_REMEMBERED)(_unpacked_state)


def pack_state(state: State) -> bytes:
    listed: list[Value] = [[each.number, each.built, each.many] for each in state.indexes]
    return pack_value([state.documents, state.made, listed, state.retired])
