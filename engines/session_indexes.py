"""Full-text indexes of sessions: one for each that was searched lately, in memory.

An index is told which keys an apply changed, after its commit, and begins with the snapshot of
the search that asks for it first: what changed between that snapshot and the moment from which
on it is told is read from the log of changes.

Threads. The thread that applies tells and clears; any thread searches. `_found` is never
changed, but replaced by another dictionary, so that telling needs no lock: whether there is
any index is one look at it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final, Protocol

from engines.environment import Databases
from engines.errors import BuilderBusy, QueryCancelled
from engines.made_changes import Parts
from engines.record_text import key_text
from engines.store import Snapshot, Store
from engines.text_index import Source, TextIndex, await_lock

SESSIONS_MAX: Final = 16  # indexes of one state; the one that was searched longest ago goes first
CACHE_KIB: Final = 4 << 10  # of each in memory; what is beyond lies in a file
# Keys that changed since they were taken in, and their bytes. An index that hears of more is
# not searched any more, and goes.
WAITING_MAX: Final = 20_000
WAITING_BYTES_MAX: Final = 4 << 20
FIELDS: Final = ("key", "value")
_LANGUAGE: Final = "english"
_TOLD_AT_ONCE: Final = 500  # keys, while the thread that applies may have others to tell


class SessionSource(Source, Protocol):
    """One session in one snapshot. An item's value is the text of the record's, in UTF-8."""

    @property
    def owner(self) -> bytes:
        """The session's key in `sessions`."""

    @property
    def databases(self) -> Databases:
        """Which state it is of, by identity."""

    def at(self, snapshot: Snapshot) -> SessionSource:
        """The same session in another snapshot."""

    @property
    def revision(self) -> int:
        """Of the snapshot's newest change."""

    def changed_since(self, revision: int) -> set[bytes] | None:
        """Keys that changed after `revision`; None: too many, or it is not known any more."""


class SessionIndexes:
    """Those of one state, which `store` holds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        # One at a time: each takes a reader's thread for as long as its caller waits.
        self._building: TextIndex | None = None
        self._found: Mapping[bytes, _Entry] = {}
        self._searches = 0
        self._ended = False

    def __bool__(self) -> bool:
        """Is anybody to be told of changes? Any thread."""
        return bool(self._found)

    def __len__(self) -> int:
        return len(self._found)

    # --- The thread that applies -----------------------------------------------------

    def changed(self, changes: Sequence[Parts], log_index: int) -> None:
        """What one apply did, after its commit; `log_index`: of its last entry."""
        found = self._found
        keys: dict[bytes, list[bytes]] = {}
        for parts in changes:
            owner = parts[3].key
            if owner in found:
                keys.setdefault(owner, []).append(parts[4])
        # All of them, since a search waits until its index has heard of all that it may see.
        for owner, entry in found.items():
            waiting = entry.index.hear(keys.get(owner, ()), log_index)
            if waiting.items > WAITING_MAX or waiting.bytes > WAITING_BYTES_MAX:
                self._put_away(self._without([owner]))

    def clear(self) -> None:
        """The whole state is another one, or nobody noted what changed."""
        with self._lock:
            entries, self._found = _ending(self._found.values()), {}
        self._put_away(entries)

    def close(self) -> None:
        """The state ends."""
        self._ended = True
        self.clear()

    # --- Searches --------------------------------------------------------------------

    @contextmanager
    def searching(self, source: SessionSource) -> Iterator[TextIndex]:
        """The index of a session, for searches of `source`.

        Raises QueryCancelled: nobody waits any more; or, while somebody does, the index was put
        away, and another one is to be asked for. Raises BuilderBusy: it is not built yet, and
        another one is being. Raises CorruptRecord, and other EngineErrors where it fails.
        """
        entry = self._entry(source.owner)
        if entry is not None and self._built(entry, source):
            yield entry.index
            return
        # Of a state that is being replaced, or ends: what it holds is not indexed any more.
        with closing(_new_index()) as index:
            with self._one_build(index):
                index.build(source)
            yield index

    def _entry(self, owner: bytes) -> _Entry | None:
        """It is told of changes from now on. None: there are no indexes any more. Raises
        BuilderBusy."""
        with self._lock:
            if self._ended:
                return None
            self._searches += 1
            entry = self._found.get(owner)
            leaving: list[_Entry] = []
            if entry is None or entry.index.failed:
                self._check_builder()  # or another index would go for nothing
                others = (item for item in self._found.items() if item[0] != owner)
                kept = sorted(others, key=lambda item: item[1].searched)
                count = max(0, len(kept) - (SESSIONS_MAX - 1))
                leaving = _ending(each for _, each in kept[:count])
                entry = _Entry(_new_index())
                self._found = {**dict(kept[count:]), owner: entry}
            entry.searched = self._searches
        self._put_away(leaving)
        return entry

    def _built(self, entry: _Entry, source: SessionSource) -> bool:
        """Once it is built. False: the snapshot is of a state that was replaced."""
        await_lock(entry.building, source)
        try:
            if not entry.built:
                with self._one_build(entry.index):
                    self._build(entry, source)
            return entry.databases is source.databases
        finally:
            entry.building.release()

    @contextmanager
    def _one_build(self, index: TextIndex) -> Iterator[None]:
        """Raises BuilderBusy; QueryCancelled: the index was put away."""
        with self._lock:
            if index.closing:  # and what is being built may be the one in its place
                raise QueryCancelled("the index was put away")
            self._check_builder()
            self._building = index
        try:
            yield
        finally:
            with self._lock:
                if self._building is index:
                    self._building = None

    def _check_builder(self) -> None:
        # One that was put away ends at its next look.
        if self._building is not None and not self._building.closing:
            raise BuilderBusy

    def _build(self, entry: _Entry, source: SessionSource) -> None:
        index = entry.index
        # A snapshot that is opened now misses nothing: what comes after it, the index is told.
        with self._store.read() as snapshot:
            now = source.at(snapshot)
            if entry.databases not in (None, now.databases):
                # What was built so far is of another state.
                self._put_away(self._without([source.owner]))
                raise QueryCancelled("the state was replaced")
            entry.databases = now.databases
            if now.databases is not source.databases:
                return
            missed = now.changed_since(source.revision)
            if missed is None:
                index.build(now)
            else:
                # They may have changed right after the search's snapshot, or right before this.
                keys = list(missed)
                for start in range(0, len(keys), _TOLD_AT_ONCE):
                    some = keys[start : start + _TOLD_AT_ONCE]
                    index.hear(some, source.applied_index + 1)
                    index.hear(some, now.applied_index)
                index.hear((), now.applied_index)
        if missed is not None:
            index.build(source)
        entry.built = True

    def _without(self, owners: Iterable[bytes]) -> list[_Entry]:
        """Those entries, which are not found any more."""
        with self._lock:
            found = dict(self._found)
            entries = _ending(found.pop(owner) for owner in owners if owner in found)
            self._found = found
        return entries

    def _put_away(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            entry.index.close()


class _Entry:
    def __init__(self, index: TextIndex) -> None:
        self.index = index
        self.searched = 0  # the number of the search that asked for it last
        self.building = threading.Lock()
        self.built = False
        self.databases: Databases | None = None  # of the state that it is built from


def _ending(entries: Iterable[_Entry]) -> list[_Entry]:
    """Before others may take their places: nobody is to wait for what they are at."""
    ending = list(entries)
    for entry in ending:
        entry.index.closing = True
    return ending


@contextmanager
def alone(source: SessionSource) -> Iterator[TextIndex]:
    """An index of that snapshot alone. Raises CorruptRecord, QueryCancelled."""
    with closing(_new_index()) as index:
        index.build(source)
        yield index


def _new_index() -> TextIndex:
    def texts(key: bytes, value: bytes) -> tuple[str, Sequence[str]]:
        return "", (key_text(key), value.decode())

    return TextIndex(FIELDS, _LANGUAGE, texts, CACHE_KIB)
