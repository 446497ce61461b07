"""The state's counters: one record, rewritten once per apply.

They are part of the replicated state: computed from the entries alone, equal on every
replica at the same applied index.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from struct import Struct
from struct import error as StructError

from engines.environment import Databases, Transaction
from engines.errors import CorruptRecord
from engines.interfaces import ChangeId
from engines.layout import CHANGE_ID, pack_change_id, pack_u64, seal, unseal

COUNTERS_KEY = b"counters"
_REMEMBERED = 8  # states that are read again and again: one a group, or two


@dataclass(slots=True)
class Counters:
    """Invariant: floor <= (revision, any); window_changes counts the changes after floor."""

    applied_index: int = 0
    applied_term: int = 0
    revision: int = 0  # of the newest change
    floor_revision: int = 0  # the sweep has passed every change up to
    floor_sub: int = 0  # … (floor_revision, floor_sub), inclusive
    next_id: int = 1  # of directories and roots; never used again
    keys: int = 0  # live records
    value_bytes: int = 0  # of live records
    graves: int = 0  # deleted keys that are still remembered
    changes: int = 0  # records in `changes`
    window_changes: int = 0  # of these, after the floor
    window_bytes: int = 0  # bytes of the records after the floor
    request_first: int = 1  # oldest remembered request id
    request_next: int = 1  # number of the next one
    request_bytes: int = 0  # bytes of the remembered records
    leaving: int = 0  # entries of `leaving`
    collections: int = 0  # those that are not dropped

    @property
    def floor(self) -> ChangeId:
        return ChangeId(self.floor_revision, self.floor_sub)

    @property
    def floor_id(self) -> bytes:
        """The floor as a key of `changes`."""
        return pack_change_id(self.floor_revision, self.floor_sub)

    @floor_id.setter
    def floor_id(self, change_id: bytes) -> None:
        self.floor_revision, self.floor_sub = CHANGE_ID.unpack(change_id)

    @property
    def request_ids(self) -> int:
        return self.request_next - self.request_first

    def allocate(self) -> bytes:
        """A directory id that was never used before."""
        self.next_id += 1
        return pack_u64(self.next_id - 1)


_LAYOUT = Struct(f">{len(fields(Counters))}Q")
_in_order = attrgetter(*(field.name for field in fields(Counters)))


def load_counters(txn: Transaction, databases: Databases) -> Counters:
    """The counters of the state; those of an empty state if there are none."""
    record = txn.get(COUNTERS_KEY, db=databases.meta)
    return Counters() if record is None else _unpacked(bytes(record))


def read_counters(txn: Transaction, databases: Databases) -> Counters:
    """The same, to be read only: whoever reads the same state again gets the same object."""
    record = txn.get(COUNTERS_KEY, db=databases.meta)
    return _EMPTY if record is None else _remembered(bytes(record))


def _unpacked(record: bytes) -> Counters:
    try:
        return Counters(*_LAYOUT.unpack(unseal("meta", COUNTERS_KEY, record)))
    except StructError as error:
        raise CorruptRecord("meta", COUNTERS_KEY, str(error)) from error


_EMPTY = Counters()
_remembered = lru_cache(_REMEMBERED)(_unpacked)


def save_counters(txn: Transaction, databases: Databases, counters: Counters) -> None:
    body = _LAYOUT.pack(*_in_order(counters))
    txn.put(COUNTERS_KEY, seal(COUNTERS_KEY, body), db=databases.meta)
