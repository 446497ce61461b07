"""A full-text index of one collection, or session: BM25 by SQLite's FTS5. Derived from items.

The index lives in a private database of SQLite that is gone with it: pages beyond its cache
lie in a file without a name, so that memory is bounded and nothing has to be recovered. It is
made anew from the items when it is first searched after a start.

Changes only name items. A search first takes in, as its own snapshot has them, those that the
index shows otherwise (`text_changes.py`): newer than before, or older if a search with a newer
snapshot was faster. For a snapshot that is too old for that, an index is made aside. Searches of
one index take turns.

There is no journal, so that nothing can be undone: an index whose database refused anything (its
folder was full) is put away, and whoever holds it makes another one (`failed`).

Source: Robertson and Zaragoza 2009 (BM25); sqlite.org/fts5.html. One of the importers of sqlite3.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from engines.errors import EngineError, QueryCancelled
from engines.space import ItemChange
from engines.text_changes import Changes, Waiting

CACHE_KIB: Final = 16 << 10  # of one index, in memory
TOKENIZERS: Final = {
    "english": "porter unicode61 remove_diacritics 2",
    "none": "unicode61 remove_diacritics 2",
}
_STEPS: Final = 10_000  # of SQLite's virtual machine between two looks at the caller
_BATCH: Final = 500  # changed items that are taken in at once
_TURN_SECONDS: Final = 0.05  # between two looks at whether the caller still waits
# That many are freed in a fraction of a millisecond; those of a file of 600 MB took 100 ms.
_PAGES_CLOSED_AT_ONCE: Final = 256

# What of an item is searched: (id, one text per field), or None for one that is not.
Texts = Callable[[bytes, bytes], tuple[str, Sequence[str]] | None]


class Source(Protocol):
    """What is searched, as one snapshot has it: a collection's `View`, or a session's records."""

    @property
    def applied_index(self) -> int:
        """The snapshot's last entry of the log."""

    @property
    def written_index(self) -> int:
        """The last entry that changed an item, or a later one up to `applied_index`."""

    @property
    def stopped(self) -> bool:
        """Does nobody wait for the answer any more?"""

    def long(self) -> None:
        """What follows may take long. Raises QueryCancelled where only what is brief is wanted."""

    def get(self, key: bytes) -> bytes | None:
        """The item. Raises CorruptRecord, QueryCancelled."""

    def range(self, first: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Items whose key is >= `first`, in order of their keys. Raises as `get`."""


class TextHit(NamedTuple):
    """`score`: of BM25, greater is better; only those of one search can be compared."""

    key: bytes
    score: float


class TextIndex:
    """See the module. `DerivedIndex`, and searches from any thread."""

    def __init__(
        self, fields: Sequence[str], language: str, texts: Texts, cache_kib: int = CACHE_KIB
    ) -> None:
        """`fields`: their names; `texts`: what of an item is searched, in their order;
        `cache_kib`: pages beyond that lie in a file."""
        self._fields = tuple(fields)
        self._language = language
        self._texts = texts
        self._cache_kib = cache_kib
        self._lock = threading.Lock()
        self._changes = Changes()  # held with _news
        self._heard = -1  # everything up to this log index is taken in, or among the changes
        self._aside: _Aside | None = None
        self._aside_lock = threading.Lock()
        self._news = threading.Condition()  # held for moments only: by the applying thread, too
        self._built_to = b""  # items before this key are taken in
        self.failed = False  # what it holds is in doubt: another one is to be made
        self.closing = False  # what is under way is to end
        self._closed = False  # set with _lock
        self._database = database = sqlite3.connect(
            "", check_same_thread=False, isolation_level=None
        )
        database.executescript(
            f"PRAGMA cache_size = -{cache_kib}; PRAGMA synchronous = OFF; "
            "PRAGMA journal_mode = OFF; CREATE TABLE items (key BLOB PRIMARY KEY);"
        )
        columns = ", ".join(f"f{place}" for place in range(len(self._fields)))
        database.execute(
            f"CREATE VIRTUAL TABLE texts USING fts5({columns}, tokenize = '{TOKENIZERS[language]}')"
        )

    # --- As it changes -----------------------------------------------------------

    def build(self, view: Source) -> None:
        """Take in every item of a snapshot. If that was stopped it may be called again, with a
        newer one: it goes on, and takes what changed meanwhile from those who told it."""
        with self._holding(view):
            with self._news:
                # Also of what was built before it was stopped.
                self._changes.begin(view.written_index)
            with self._taking_in():
                self._take_in_all(view)
        self.hear((), view.applied_index)

    def _take_in_all(self, view: Source) -> None:
        for key, value in view.range(self._built_to):
            self._go_on()
            found = self._texts(key, value)
            if found is not None:
                self._add([(key, found[1])])
            self._built_to = key + b"\x00"

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None:
        """Remember what is to be taken in."""
        self.hear((change.key for change in changes), log_index)

    def hear(self, keys: Iterable[bytes], log_index: int) -> Waiting:
        """These items changed at that entry, and no others did up to it. Which have changed
        since they were taken in. Any thread."""
        with self._news:
            for key in keys:
                self._changes.changed(key, log_index)
            self._heard = max(self._heard, log_index)
            self._news.notify_all()
            return self._changes.waiting

    def close(self) -> None:
        """Nobody waits: a search under way ends at its next look at whether it is still wanted,
        and frees what the index holds."""
        self.closing = True
        with self._news:
            self._news.notify_all()
        aside = self._aside
        if aside is not None:
            aside.texts.close()
        # Who holds it comes here after that.
        if self._lock.acquire(blocking=False):
            try:
                if not self._closed:
                    self._closed = True
                    self._free()
            finally:
                self._lock.release()

    def _free(self) -> None:
        """The database, which nobody uses any more."""
        try:
            (pages,) = self._database.execute("PRAGMA page_count").fetchone()
            if pages > _PAGES_CLOSED_AT_ONCE:
                close = self._database.close
                threading.Thread(target=close, name="text-index-close", daemon=True).start()
                return
        except (sqlite3.Error, RuntimeError):
            pass  # it failed, or there are no more threads
        self._database.close()

    @contextmanager
    def _holding(self, view: Source) -> Iterator[None]:
        """The database, one at a time. What fails, other than that its caller went, leaves it in
        doubt: the index is put away.

        Raises EngineError.
        """
        await_lock(self._lock, view)
        try:
            self._go_on()
            yield
        except (QueryCancelled, _TooOldError):
            raise
        except BaseException as error:
            self.failed = self.closing = True
            if isinstance(error, sqlite3.Error):
                raise EngineError(f"the full-text index: {error}") from error
            raise
        finally:
            self._lock.release()
            if self.closing:
                self.close()

    def _go_on(self) -> None:
        """Raises QueryCancelled once it is of no use any more."""
        if self.closing:
            raise QueryCancelled("what is searched was dropped or changed meanwhile")

    def _await_news(self, view: Source) -> None:
        """The snapshot may hold what was committed a moment ago and not told here yet."""
        written = view.written_index
        with self._news:
            while self._heard < written and not view.stopped:
                self._go_on()
                self._news.wait(_TURN_SECONDS)
            if self._heard < written:
                raise QueryCancelled("the deadline passed")

    def _catch_up(self, view: Source) -> None:
        """Take in what the index shows otherwise, as `view` has it."""
        with self._news:
            changes = self._changes.copy(view.applied_index)
        due = changes.due(view.applied_index)
        if not due:
            return
        with self._taking_in():
            for start in range(0, len(due), _BATCH):
                self._go_on()
                keys = due[start : start + _BATCH]
                with self._news:
                    self._changes.taking(keys)
                self._remove(keys)
                values = ((key, view.get(key)) for key in keys)
                self._add(
                    [
                        (key, texts[1])
                        for key, value in values
                        if value is not None and (texts := self._texts(key, value)) is not None
                    ]
                )
                with self._news:
                    self._changes.taken(keys, view.applied_index)

    @contextmanager
    def _taking_in(self) -> Iterator[None]:
        """One transaction. What was taken in when its caller goes stays, and is taken in again.
        After a failure there may be none any more, and nothing is left to keep."""
        self._database.execute("BEGIN")
        try:
            yield
        except QueryCancelled:
            self._database.execute("COMMIT")
            raise
        self._database.execute("COMMIT")

    def _add(self, items: Sequence[tuple[bytes, Sequence[str]]]) -> None:
        names = ", ".join(f"f{place}" for place in range(len(self._fields)))
        marks = ", ".join("?" * (len(self._fields) + 1))
        statement = f"INSERT INTO texts (rowid, {names}) VALUES ({marks})"
        for key, texts in items:
            # A snapshot may hold what was taken in before.
            self._remove([key])
            row = self._database.execute("INSERT INTO items (key) VALUES (?)", (key,)).lastrowid
            self._database.execute(statement, (row, *texts))

    def _remove(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            found = self._database.execute(
                "SELECT rowid FROM items WHERE key = ?", (key,)
            ).fetchone()
            if found is not None:
                self._database.execute("DELETE FROM texts WHERE rowid = ?", found)
                self._database.execute("DELETE FROM items WHERE rowid = ?", found)

    # --- Searches ------------------------------------------------------------------

    def search(
        self,
        view: Source,
        expression: str,
        weights: Mapping[str, float],
        limit: int,
        prefix: bytes = b"",
    ) -> list[TextHit]:
        """The best `limit` items for an expression (`text_match.py`), best first.

        `weights`: of fields, 1 unless given. `prefix`: of the keys; it changes no score. Ties
        break by key. Raises QueryCancelled, EngineError (it failed, see `failed`).
        """
        factors = ", ".join(str(float(weights.get(name, 1.0))) for name in self._fields)
        # Not as a range of keys, which might be walked instead of what matches.
        within = "AND substr(items.key, 1, ?) = ? " if prefix else ""
        statement = (
            f"SELECT items.key, -bm25(texts, {factors}) AS score FROM texts "
            "JOIN items ON items.rowid = texts.rowid WHERE texts MATCH ? "
            f"{within}ORDER BY score DESC, items.key LIMIT ?"
        )
        bounds = (len(prefix), prefix) if prefix else ()
        try:
            with self._turn(view):
                rows = self._rows(statement, (expression, *bounds, limit))
                hits = [TextHit(bytes(key), float(score)) for key, score in rows]
        except _TooOldError:
            with self._beside(view) as index:
                return index.search(view, expression, weights, limit, prefix)
        self._forget_aside()
        return hits

    def snippets(
        self, view: Source, expression: str, keys: Sequence[bytes], words: int
    ) -> dict[bytes, str]:
        """For items that were found: the piece that fits best, found words in [ ]."""
        marks = ", ".join("?" * len(keys))
        statement = (
            f"SELECT items.key, snippet(texts, -1, '[', ']', '…', {int(words)}) FROM texts "
            "JOIN items ON items.rowid = texts.rowid "
            "WHERE texts MATCH ? AND texts.rowid IN "
            f"(SELECT rowid FROM items WHERE key IN ({marks}))"
        )
        try:
            with self._turn(view):
                rows = self._rows(statement, (expression, *keys))
                return {bytes(key): str(text) for key, text in rows}
        except _TooOldError:
            with self._beside(view) as index:
                return index.snippets(view, expression, keys, words)

    @contextmanager
    def _turn(self, view: Source) -> Iterator[None]:
        """One search's, with the index as its snapshot has it."""
        with self._holding(view):
            self._await_news(view)
            with self._news:
                if not self._changes.knows(view.applied_index):
                    raise _TooOldError
            self._catch_up(view)
            self._database.set_progress_handler(lambda: int(view.stopped or self.closing), _STEPS)
            try:
                yield
            finally:
                self._database.set_progress_handler(None, 0)

    @contextmanager
    def _beside(self, view: Source) -> Iterator[TextIndex]:
        """An index of that snapshot alone. Raises QueryCancelled."""
        view.long()
        await_lock(self._aside_lock, view)
        try:
            self._go_on()
            aside = self._aside
            if aside is None or aside.texts.failed or aside.applied_index != view.applied_index:
                self._put_aside(None)
                index = TextIndex(self._fields, self._language, self._texts, self._cache_kib)
                aside = _Aside(view.applied_index, index)
                self._put_aside(aside)
                try:
                    self._go_on()  # or `close` has seen it
                    index.build(view)
                except BaseException:
                    self._put_aside(None)
                    raise
            yield aside.texts
        finally:
            self._aside_lock.release()

    def _put_aside(self, aside: _Aside | None) -> None:
        if self._aside is not None:
            self._aside.texts.close()
        self._aside = aside

    def _forget_aside(self) -> None:
        """Snapshots as old as that one are rare."""
        if self._aside is not None and self._aside_lock.acquire(blocking=False):
            try:
                self._put_aside(None)
            finally:
                self._aside_lock.release()

    def _rows(self, statement: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise QueryCancelled("the deadline passed") from error
            raise


class _Aside(NamedTuple):
    applied_index: int
    texts: TextIndex


class _TooOldError(Exception):
    """What changed between a snapshot and the index is not remembered."""


def await_lock(lock: threading.Lock, view: Source) -> None:
    """Take it. Raises QueryCancelled: the deadline passed, or only what is brief is wanted."""
    if lock.acquire(blocking=False):
        return
    view.long()
    while not lock.acquire(timeout=_TURN_SECONDS):
        if view.stopped:
            raise QueryCancelled("the deadline passed")
