"""Indexes in memory that are made from items: one for each collection whose engine has one.

An index is told of changes after they are in the state, on the thread that applies; what
takes long it does on a thread of its own. A query has a snapshot and an index which may know
more, or less, than that snapshot: the snapshot decides, the index finds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from engines.result_cache import ResultCache
from engines.session_indexes import SessionIndexes
from engines.space import ItemChange, View
from engines.store import Snapshot, Store


class DerivedIndex(Protocol):
    """One collection's index."""

    @property
    def failed(self) -> bool:
        """Is it of no use any more, so that another one is to be made?"""

    def build(self, view: View) -> None:
        """Take in every item of a snapshot, once, before anything is searched. May be long; a
        reader's thread. Changes may come meanwhile (`changed`): some of them in `view` already."""

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None:
        """Items as one apply left them, in order. The thread that applies: must be quick."""

    def close(self) -> None:
        """It is not needed any more. Any thread, while others may search it."""


@runtime_checkable
class SavedIndex(DerivedIndex, Protocol):
    """One that may be kept in a file, since building it anew takes long."""

    def keep_in(self, path: Path) -> None:
        """Before `build`: where. What is there may be of any time, or damaged."""

    def discard(self) -> None:
        """As `close`, and the file goes."""

    def ended(self, seconds: float) -> None:
        """After `close`: wait until it is saved, up to `seconds`."""


SAVE_SECONDS_MAX = 10.0  # that the end of a state waits for each index to be saved


class DerivedIndexes:
    """The indexes of one state, which `store` holds.

    `folder`: of indexes' files; beside the state if None.
    """

    def __init__(self, store: Store, folder: Path | None = None) -> None:
        self.results = ResultCache()  # which are derived, too
        self.sessions = SessionIndexes(store)
        self._store = store
        self._folder = folder or store.path.with_name(f"{store.path.name}.derived")
        self._lock = threading.Lock()
        self._found: dict[bytes, _Entry] = {}

    def ready(
        self,
        identity: bytes,
        make: Callable[[], DerivedIndex | None],
        view: Callable[[Snapshot], View],
    ) -> DerivedIndex | None:
        """The index of the collection `identity`, built; None: it has none.

        `make`: an empty one; `view`: the collection in a snapshot. Who comes while it is built
        waits. Raises CorruptRecord, QueryCancelled (from the view).
        """
        entry = self._found.get(identity)
        if entry is not None and entry.index.failed:
            self._close(identity, entry)
        with self._lock:
            entry = self._found.get(identity)
            if entry is None:
                index = make()
                if index is None:
                    return None
                if isinstance(index, SavedIndex):
                    index.keep_in(self._path(identity))
                # From here on it hears of changes: none falls between it and the snapshot below.
                entry = self._found[identity] = _Entry(index)
        if not entry.built:
            with entry.building:
                if not entry.built:
                    with self._store.read() as snapshot:
                        entry.index.build(view(snapshot))
                    entry.built = True
        return entry.index

    def at_hand(self, identity: bytes) -> DerivedIndex | None:
        """The index that `ready` would return at once, if there is one."""
        entry = self._found.get(identity)
        if entry is None or not entry.built or entry.index.failed:
            return None
        return entry.index

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None:
        """What one apply did, after its commit. The thread that applies."""
        by_collection: dict[bytes, list[ItemChange]] = {}
        for change in changes:
            by_collection.setdefault(change.collection, []).append(change)
        for identity, own in by_collection.items():
            entry = self._found.get(identity)
            if entry is not None:
                entry.index.changed(own, log_index)

    def altered(self, identity: bytes) -> None:
        """The collection is to be indexed otherwise."""
        self._close(identity)

    def dropped(self, identity: bytes) -> None:
        """The collection is gone."""
        with self._lock:
            entry = self._found.pop(identity, None)
        if entry is None:
            with suppress(OSError):  # it is of no use to anybody, but does no harm
                self._path(identity).unlink()
        elif isinstance(entry.index, SavedIndex):
            entry.index.discard()
        else:
            entry.index.close()

    def clear(self) -> None:
        """The whole state is another one."""
        self.results.clear()
        self.sessions.clear()
        for identity in list(self._found):
            self._close(identity)

    def close(self) -> None:
        """The state ends."""
        self.sessions.close()
        closed = [self._close(identity) for identity in list(self._found)]
        for index in closed:
            if isinstance(index, SavedIndex):
                index.ended(SAVE_SECONDS_MAX)

    def _close(self, identity: bytes, only: _Entry | None = None) -> DerivedIndex | None:
        """`only`: that one, if it is still there."""
        with self._lock:
            entry = self._found.get(identity)
            if entry is None or only not in (None, entry):
                return None
            del self._found[identity]
        entry.index.close()
        return entry.index

    def _path(self, identity: bytes) -> Path:
        return self._folder / f"{identity.hex()}.index"


class _Entry:
    def __init__(self, index: DerivedIndex) -> None:
        self.index = index
        self.building = threading.Lock()
        self.built = False
