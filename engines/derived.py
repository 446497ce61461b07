"""Indexes in memory that are made from items: one for each collection whose engine has one.

An index is told of changes after they are in the state, on the thread that applies; what
takes long it does on a thread of its own. A query has a snapshot and an index which may know
more, or less, than that snapshot: the snapshot decides, the index finds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from engines.result_cache import ResultCache
from engines.space import ItemChange, View
from engines.store import Snapshot, Store


class DerivedIndex(Protocol):
    """One collection's index."""

    def build(self, view: View) -> None:
        """Take in every item of a snapshot, once, before anything is searched. May be long; a
        reader's thread. Changes may come meanwhile (`changed`): some of them in `view` already."""

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None:
        """Items as one apply left them, in order. The thread that applies: must be quick."""

    def close(self) -> None:
        """It is not needed any more. Any thread, while others may search it."""


class DerivedIndexes:
    """The indexes of one state, which `store` holds."""

    def __init__(self, store: Store) -> None:
        self.results = ResultCache()  # which are derived, too
        self._store = store
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
        with self._lock:
            entry = self._found.get(identity)
            if entry is None:
                index = make()
                if index is None:
                    return None
                # From here on it hears of changes: none falls between it and the snapshot below.
                entry = self._found[identity] = _Entry(index)
        if not entry.built:
            with entry.building:
                if not entry.built:
                    with self._store.read() as snapshot:
                        entry.index.build(view(snapshot))
                    entry.built = True
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

    @property
    def wanted(self) -> bool:
        """Is there any index that has to hear of changes?"""
        return bool(self._found)

    def dropped(self, identity: bytes) -> None:
        """The collection is gone, or is to be indexed otherwise."""
        with self._lock:
            entry = self._found.pop(identity, None)
        if entry is not None:
            entry.index.close()

    def clear(self) -> None:
        """The whole state is another one, or ends."""
        self.results.clear()
        for identity in list(self._found):
            self.dropped(identity)


class _Entry:
    def __init__(self, index: DerivedIndex) -> None:
        self.index = index
        self.building = threading.Lock()
        self.built = False
