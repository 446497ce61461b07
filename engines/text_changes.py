"""For which snapshots an index is right, item by item.

Snapshots come in any order: a search may have an older one than what the index has taken in
already. So for each item that changed lately it is known from which log index on what the index
shows of it is right, and up to which one; for any other snapshot it is *due*, and taken in as
that one has it. A snapshot that is older than what is remembered cannot be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

REMEMBERED_MAX: Final = 20_000  # items that are taken in as they last became
REMEMBERED_BYTES_MAX: Final = 4 << 20  # of their keys
_ALWAYS: Final = -1


class _Pending(NamedTuple):
    """Right for snapshots from `since` on and before `until`; it last changed at `last`."""

    since: int
    until: int
    last: int


class Waiting(NamedTuple):
    items: int
    bytes: int  # of their keys


class Changes:
    """Of one index. Not locked. Log indexes are those of entries."""

    def __init__(self) -> None:
        self._pending: dict[bytes, _Pending] = {}
        self._pending_bytes = 0  # of their keys
        self._settled: dict[bytes, int] = {}  # item → its last change, which is taken in
        self._settled_bytes = 0
        self._newest = _ALWAYS  # of those
        self._oldest = _ALWAYS  # snapshots from here on can be judged

    def begin(self, log_index: int) -> None:
        """The index is made of a snapshot whose items last changed there."""
        self._oldest = max(self._oldest, log_index)

    def changed(self, key: bytes, log_index: int) -> None:
        """In any order, as long as nothing is taken in between."""
        before = self._pending.get(key)
        if before is None:
            self._await(key, _Pending(self._unsettle(key), log_index, log_index))
        else:
            self._pending[key] = before._replace(
                until=min(before.until, log_index), last=max(before.last, log_index)
            )

    @property
    def waiting(self) -> Waiting:
        """What changed since it was taken in."""
        return Waiting(len(self._pending), self._pending_bytes)

    def copy(self, applied: int) -> Changes:
        """What `due` of that snapshot looks at, for who must not hold this for that long."""
        copied = Changes()
        copied._pending = self._pending.copy()
        copied._newest = self._newest
        if applied < self._newest:
            copied._settled = self._settled.copy()
        return copied

    def knows(self, applied: int) -> bool:
        """Is it known what is due for a snapshot of that log index?"""
        return applied >= self._oldest

    def due(self, applied: int) -> list[bytes]:
        """Items of which the index shows another state than that snapshot's."""
        due = [
            key for key, (since, until, _) in self._pending.items() if not since <= applied < until
        ]
        if applied < self._newest:
            due += [key for key, last in self._settled.items() if last > applied]
        return due

    def taking(self, keys: Iterable[bytes]) -> None:
        """Of these nothing is right until `taken`: what takes them in may end halfway."""
        for key in keys:
            before = self._pending.get(key)
            if before is None:
                self._await(key, _Pending(_ALWAYS, _ALWAYS, self._unsettle(key)))
            else:
                self._pending[key] = _Pending(_ALWAYS, _ALWAYS, before.last)

    def taken(self, keys: Sequence[bytes], applied: int) -> None:
        """These are as that snapshot has them. They may have changed again meanwhile."""
        for key in keys:
            last = self._pending[key].last
            if applied < last:
                self._pending[key] = _Pending(applied, applied + 1, last)
            else:
                del self._pending[key]
                self._pending_bytes -= len(key)
                self._settled[key] = last
                self._settled_bytes += len(key)
                self._newest = max(self._newest, last)
        self._forget()

    def _await(self, key: bytes, pending: _Pending) -> None:
        """An item that was not among those before."""
        self._pending[key] = pending
        self._pending_bytes += len(key)

    def _unsettle(self, key: bytes) -> int:
        """Its last change that is taken in."""
        last = self._settled.pop(key, None)
        if last is None:
            return _ALWAYS
        self._settled_bytes -= len(key)
        return last

    def _forget(self) -> None:
        """Those that were taken in first, so that not too many are remembered."""
        count, size = len(self._settled), self._settled_bytes
        leaving: list[bytes] = []
        # One walk: each look for the first of a dictionary would pass all that have left it.
        for key in self._settled:
            if count <= REMEMBERED_MAX and size <= REMEMBERED_BYTES_MAX:
                break
            leaving.append(key)
            count -= 1
            size -= len(key)
        for key in leaving:
            self._oldest = max(self._oldest, self._unsettle(key))
