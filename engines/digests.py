"""The hash tree of a state: equal on replicas that hold the same, and cheap to keep so.

Theory of operation. Every record outside of `meta` has a 64-bit hash of its database, key and
value. Its key names one of BUCKETS buckets, and a bucket is the sum, modulo 2^64, of the hashes
of its records: in which order they were written does not matter, and a write subtracts what a
record was and adds what it is. All buckets are one record in `meta`, rewritten with each apply
as the counters are. The root covers the buckets and the rest of `meta`, and is made when asked.

The sums are kept by whoever writes, so that a record which changes by itself is not in them:
whoever reads all records and adds up finds that (`scan.py`, `check.py`). A replica that computed
something else than the others has other sums than they have: they compare (`Checkpoint`).

The hash is XXH3, which is not cryptographic: it tells faults, not forgers. Who can write records
can collide them with others, and gains nothing from it, since all replicas hold the same.
The only importer of xxhash. Source: Merkle 1987 for trees; Bellare and Micciancio 1997 for sums.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from engines.environment import Databases, Transaction
from engines.errors import CorruptRecord
from engines.layout import Buffer, seal, unseal

BUCKETS: Final = 256  # one record of 2 KiB: one LMDB page for each apply
ROOT_BYTES: Final = 16
DIGESTS_KEY: Final = b"digests"
_META: Final = Databases._fields.index("meta")
_BUCKET_SHIFT: Final = 56  # of 64 bits: the highest byte names one of 256
_MASK: Final = (1 << 64) - 1
assert BUCKETS == 1 << (64 - _BUCKET_SHIFT)

Deltas = dict[int, int]  # bucket → what is added to it, not reduced yet


class Digest(NamedTuple):
    """A state's hash tree after one log entry."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    root: bytes  # ROOT_BYTES
    buckets: tuple[int, ...]


def place_of(number: int, key: bytes) -> int:
    """64 bits that a record's key alone decides; the highest 8 are its bucket.

    `number`: of the database, in the order of `Databases`.
    """
    place: int = xxh3_64_intdigest(key, number)
    return place


def name_hash(name: bytes) -> int:
    """64 bits that a name alone decides, on every machine and for ever."""
    found: int = xxh3_64_intdigest(name)
    return found


def add(sums: Deltas, number: int, key: bytes, value: Buffer) -> None:
    """Count a record in; `meta` is not in the tree."""
    if number != _META:
        place = xxh3_64_intdigest(key, number)
        bucket = place >> _BUCKET_SHIFT
        sums[bucket] = sums.get(bucket, 0) + xxh3_64_intdigest(value, place)


def change(sums: Deltas, number: int, key: bytes, old: Buffer | None, new: Buffer | None) -> int:
    """Count what a record was out, and what it is in; None: absent. Returns the difference."""
    place = xxh3_64_intdigest(key, number)
    difference: int = 0
    if old is not None:
        difference -= xxh3_64_intdigest(old, place)
    if new is not None:
        difference += xxh3_64_intdigest(new, place)
    bucket = place >> _BUCKET_SHIFT
    sums[bucket] = sums.get(bucket, 0) + difference
    return difference


def load_buckets(txn: Transaction, databases: Databases) -> array[int]:
    """The stored buckets; zeros in an empty state. Raises CorruptRecord."""
    record = txn.get(DIGESTS_KEY, db=databases.meta)
    buckets = array("Q")
    if record is None:
        buckets.extend([0] * BUCKETS)
        return buckets
    body = unseal("meta", DIGESTS_KEY, record)
    if len(body) != BUCKETS * buckets.itemsize:
        raise CorruptRecord("meta", DIGESTS_KEY, "wrong length")
    buckets.frombytes(body)
    if sys.byteorder == "big":
        buckets.byteswap()
    return buckets


def save_buckets(
    txn: Transaction, databases: Databases, buckets: array[int], deltas: Deltas
) -> None:
    """Add `deltas` to the buckets, and store them."""
    for bucket, delta in deltas.items():
        buckets[bucket] = (buckets[bucket] + delta) & _MASK
    if sys.byteorder == "big":
        buckets = array("Q", buckets)
        buckets.byteswap()
    record = seal(DIGESTS_KEY, buckets.tobytes())
    txn.put(DIGESTS_KEY, record, db=databases.meta)


def digest_of(txn: Transaction, databases: Databases, index: int) -> Digest:
    """The tree of a state, as it is stored, with everything else in `meta` under its root."""
    state = blake2b(digest_size=ROOT_BYTES)
    with txn.cursor(db=databases.meta) as cursor:
        for key, value in cursor.iternext():
            state.update(b"%d %d " % (len(key), len(value)))
            state.update(key)
            state.update(value)
    return Digest(index, state.digest(), tuple(load_buckets(txn, databases)))


def differing(stored: Sequence[int], sums: Deltas) -> list[int]:
    """The buckets that are not the sums of the records that were counted in."""
    return [bucket for bucket in range(BUCKETS) if stored[bucket] != sums.get(bucket, 0) & _MASK]


class Watched(NamedTuple):
    """A change of one record, for who adds up records while they change."""

    number: int  # of the database
    key: bytes
    difference: int


class Tally:
    """How the records that one apply changes change the sums."""

    __slots__ = ("deltas", "watched")

    def __init__(self, watched: list[Watched] | None = None) -> None:
        """`watched`: where to note every change, too; None: nowhere."""
        self.deltas: Deltas = {}
        self.watched = watched

    def replaced(self, number: int, key: bytes, old: Buffer | None, new: Buffer | None) -> None:
        """A record of a database other than `meta` was `old` and is `new`; None: absent."""
        # As `change`, written out: it runs for every record that is written.
        place = xxh3_64_intdigest(key, number)
        difference: int = 0 if new is None else xxh3_64_intdigest(new, place)
        if old is not None:
            difference -= xxh3_64_intdigest(old, place)
        deltas, bucket = self.deltas, place >> _BUCKET_SHIFT
        deltas[bucket] = deltas.get(bucket, 0) + difference
        if self.watched is not None:
            self.watched.append(Watched(number, key, difference))


def total(changes: Iterable[Watched], sums: Deltas) -> None:
    """Add noted changes to the sums of records."""
    for number, key, difference in changes:
        bucket = place_of(number, key) >> _BUCKET_SHIFT
        sums[bucket] = sums.get(bucket, 0) + difference
