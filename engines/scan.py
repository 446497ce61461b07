"""Looking at a whole state in small pieces: every record, its checksum, and its place in the
hash tree.

A piece is read in a transaction of its own, which is short: LMDB reuses no page that an open one
may still see. What is found between two pieces is a state of several moments; see
`TreeWatch` in `digests.py` for how the hash tree is compared all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engines.digests import BUCKETS, DIGESTS_KEY, Deltas, add, differing, load_buckets
from engines.environment import Databases, Transaction
from engines.errors import CorruptRecord
from engines.keyspace import is_directory
from engines.layout import (
    EXPIRY_KEY,
    Buffer,
    change_value,
    pack_change_id,
    unpack_change,
    unpack_leaf,
    unseal,
)
from engines.state_file import opened

RECORD_BYTES_MIN = 256  # what a record counts as: looking at a small one is not cheaper


class Position(NamedTuple):
    """Everything before `key` of the database with this number was looked at."""

    database: int = 0
    key: bytes = b""


class Piece(NamedTuple):
    """What one `scan` has looked at."""

    end: Position | None  # where the next one begins; None: that was the last record
    records: int
    size: int  # bytes, a small record counted as RECORD_BYTES_MIN


Seen = Callable[[int, bytes, Buffer], None]  # number of the database, key, value


def scan(
    txn: Transaction, databases: Databases, start: Position, bytes_max: int, seen: Seen
) -> Piece:
    """Look at records from `start` on, until `bytes_max` are looked at; at least at one.

    Raises CorruptRecord.
    """
    records = size = 0
    for number in range(start.database, len(databases)):
        verify = _VERIFY[number]
        with txn.cursor(db=databases[number]) as cursor:
            key = start.key if number == start.database else b""
            if not (cursor.set_range(key) if key else cursor.first()):
                continue
            for place, value in cursor.iternext():
                key = bytes(place)
                if size >= bytes_max:
                    return Piece(Position(number, key), records, size)
                verify(txn, databases, key, value)
                seen(number, key, value)
                records += 1
                size += max(len(key) + len(value), RECORD_BYTES_MIN)
    return Piece(None, records, size)


def pieces(txn: Transaction, databases: Databases, bytes_max: int, seen: Seen) -> Iterator[Piece]:
    """The whole of one state, piece by piece. Raises CorruptRecord."""
    position: Position | None = Position()
    while position is not None:
        piece = scan(txn, databases, position, bytes_max, seen)
        position = piece.end
        yield piece


def examine_file(
    path: Path, bytes_max: int = 64 << 10, pace: Callable[[int], bool] = lambda size: True
) -> int:
    """Look at every record of the copy of a state in the file at `path`; returns how many.

    `pace` is told the bytes of each piece and may take its time; False: give up.
    Raises CorruptRecord, also where the records are not those of the hash tree; UnknownFormat.
    """
    records = 0
    sums: Deltas = {}
    with opened(path) as (txn, databases):
        for piece in pieces(txn, databases, bytes_max, partial(add, sums)):
            records += piece.records
            if not pace(piece.size):
                return records
        check_sums(load_buckets(txn, databases), sums)
    return records


def check_sums(buckets: Sequence[int], sums: Deltas) -> None:
    """Raises CorruptRecord if the buckets of the hash tree are not the records' sums."""
    wrong = differing(buckets, sums)
    if wrong:
        raise CorruptRecord(
            "meta",
            DIGESTS_KEY,
            f"{len(wrong)} of {BUCKETS} buckets of the hash tree are not the sums of the records: "
            "a record was changed, and its checksum with it",
        )


# --- What makes a record sound, by database ------------------------------------------------


def _sealed(name: str) -> Callable[[Transaction, Databases, bytes, Buffer], None]:
    def verify(txn: Transaction, databases: Databases, key: bytes, value: Buffer) -> None:
        unseal(name, key, value)

    return verify


def _leaf(txn: Transaction, databases: Databases, key: bytes, value: Buffer) -> None:
    if is_directory(key):
        unseal("leaves", key, value)
        return
    leaf = unpack_leaf("leaves", key, value)
    _refers(txn, databases, leaf.revision, leaf.sub, "the value of a live key is missing")


def _grave(txn: Transaction, databases: Databases, key: bytes, value: Buffer) -> None:
    grave = unpack_leaf("graves", key, value)
    _refers(txn, databases, grave.revision, grave.sub, "the deletion of a grave is missing")


def _refers(txn: Transaction, databases: Databases, revision: int, sub: int, missing: str) -> None:
    change_id = pack_change_id(revision, sub)
    if txn.get(change_id, db=databases.changes) is None:
        raise CorruptRecord("changes", change_id, missing)


def _change(txn: Transaction, databases: Databases, key: bytes, value: Buffer) -> None:
    change_value(key, value, unpack_change(key, value))


def _expiry(txn: Transaction, databases: Databases, key: bytes, value: Buffer) -> None:
    if len(key) != EXPIRY_KEY.size or len(value):
        raise CorruptRecord("expiry", key, "not a deadline")


_BY_NAME = {"leaves": _leaf, "graves": _grave, "changes": _change, "expiry": _expiry}
_VERIFY = tuple(_BY_NAME.get(name) or _sealed(name) for name in Databases._fields)
