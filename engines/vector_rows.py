"""The vectors of one collection in memory, one row each, at every log index that is read.

A row never changes: what replaces a vector is a row of its own. Each knows the log index that
made it and the one that ended it, so that a reader sees what its snapshot holds: the rows with
born <= applied index < died. One thread adds at a time; readers look at rows below a count
they took under the same lock, and a larger log index than theirs tells them nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from engines.vector_distance import Doubles, inverse_norms
from engines.vector_filter import Metadata, Scalar, found, scalar
from engines.vector_items import unpack_metadata

Array = npt.NDArray[Any]
Places = npt.NDArray[np.int64]  # row numbers

ALIVE: Final = np.iinfo(np.int64).max
POSTED_FIELDS_MAX: Final = 16  # fields whose values are kept for filters
_CAPACITY_MIN: Final = 64


class Rows:
    """`base`: no reader may look whose snapshot is older."""

    def __init__(self, width: int, bits: bool, base: int, capacity: int = _CAPACITY_MIN) -> None:
        """`width`: components, or bytes of `bits`."""
        kind: Any = np.uint8 if bits else np.float32
        self.base = base
        self.count = 0
        self.dead = 0
        self.vectors: Array = np.zeros((capacity, width), kind)
        self.inverse: Doubles = np.zeros(capacity)
        self.born: Places = np.zeros(capacity, np.int64)
        self.died: Places = np.zeros(capacity, np.int64)
        self.ids: list[str] = []
        self.metadata: list[bytes] = []
        self.postings: dict[str, Postings] = {}
        self._places: dict[str, int] = {}

    def put(self, identity: str, vector: bytes, metadata: bytes, log_index: int) -> None:
        self.remove(identity, log_index)
        row = self.count
        if row == len(self.vectors):
            self._grow()
        own = np.frombuffer(vector, self.vectors.dtype)
        self.vectors[row] = own
        if own.dtype != np.uint8:
            self.inverse[row] = inverse_norms(own[None])[0]
        self.born[row], self.died[row] = log_index, ALIVE
        self.ids.append(identity)
        self.metadata.append(metadata)
        self._places[identity] = row
        self.count = row + 1

    def fill(self, rows: Iterable[tuple[int, str, bytes, bytes]], count: int) -> None:
        """The first `count` rows, some of them: row, id, vector, metadata. The others of them
        were never visible to anybody."""
        while len(self.vectors) < count:
            self._grow()
        self.count = count
        self.ids = [""] * count
        self.metadata = [b""] * count
        self.dead = count
        for row, identity, vector, metadata in rows:
            self.vectors[row] = np.frombuffer(vector, self.vectors.dtype)
            self.died[row] = ALIVE
            self.ids[row] = identity
            self.metadata[row] = metadata
            self._places[identity] = row
            self.dead -= 1
        if self.vectors.dtype != np.uint8:
            self.inverse[:count] = inverse_norms(self.vectors[:count])

    def remove(self, identity: str, log_index: int) -> None:
        row = self._places.pop(identity, None)
        if row is not None:
            self.died[row] = log_index
            self.dead += 1

    def without_dead(self, kept: Places, behind: int, base: int) -> Self:
        """Rows `kept`, and all from `behind` on, renumbered."""
        order = np.concatenate([kept, np.arange(behind, self.count)])
        new = type(self)(self.vectors.shape[1], self.vectors.dtype == np.uint8, base, 1)
        room = max(_CAPACITY_MIN, len(order) + len(order) // 8)
        for name in ("vectors", "inverse", "born", "died"):
            old = getattr(self, name)
            array = np.zeros((room, *old.shape[1:]), old.dtype)
            array[: len(order)] = old[order]
            setattr(new, name, array)
        new.count = len(order)
        new.ids = [self.ids[row] for row in order]
        new.metadata = [self.metadata[row] for row in order]
        alive = new.died[: new.count] == ALIVE
        new.dead = int(new.count - alive.sum())
        new._places = {new.ids[row]: row for row in np.flatnonzero(alive).tolist()}
        return new

    @property
    def memory_bytes(self) -> int:
        """Of arrays and metadata."""
        arrays = (self.vectors, self.inverse, self.born, self.died)
        return sum(array.nbytes for array in arrays) + sum(map(len, self.metadata))

    def _grow(self) -> None:
        capacity = max(_CAPACITY_MIN, len(self.vectors) + len(self.vectors) // 2)
        for name in ("vectors", "inverse", "born", "died"):
            old = getattr(self, name)
            array = np.zeros((capacity, *old.shape[1:]), old.dtype)
            array[: self.count] = old[: self.count]
            setattr(self, name, array)


class Postings:
    """Rows by what they hold in one field, extended as rows come. Under the rows' lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows: dict[Scalar, list[int]] = {}
        self.count = 0  # rows that were looked at

    def add(self, metadata: Metadata) -> None:
        """The next row's."""
        value = found(metadata, self._path)
        values = value if isinstance(value, list) else [value]
        for key in dict.fromkeys(map(scalar, values)):
            if key is not None:
                self._rows.setdefault(key, []).append(self.count)
        self.count += 1

    def skip(self) -> None:
        self.count += 1

    def rows(self, values: Iterable[Scalar]) -> list[int]:
        """Of any of these values, in order."""
        lists = [self._rows.get(value, []) for value in values]
        return list(lists[0]) if len(lists) == 1 else sorted(set().union(*lists))


def posted(rows: Rows, path: str, count: int) -> Postings:
    """The postings of a field over the first `count` rows, made as far as they are missing."""
    postings = rows.postings.pop(path, None) or Postings(path)
    rows.postings[path] = postings  # the one used last stands last
    if len(rows.postings) > POSTED_FIELDS_MAX:
        del rows.postings[next(iter(rows.postings))]
    for row in range(postings.count, count):
        packed = rows.metadata[row]
        if packed:
            postings.add(unpack_metadata(packed))
        else:
            postings.skip()  # a row that was never visible
    return postings
