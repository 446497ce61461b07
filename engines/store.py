"""One LMDB environment: the state of one Raft group. The only importer of lmdb.

**Durability.** The environment is opened without sync: the log is the truth and this is
the log applied. A commit survives the death of the process, since the page cache does.
It does not survive power loss, and worse, LMDB without sync may then be left torn; who
owns the directory throws it away after a machine crash.

**Threads.** One thread writes (`write`); any thread reads (`read`). LMDB gives each
reader the state as of its start and neither waits for the other. A snapshot may be
handed to another thread, but used by one at a time.

**Snapshots are short.** LMDB cannot reuse a page that an open snapshot might still
see, so a forgotten one makes the file grow up to `map_bytes`. Hence a snapshot is only
had in a `with` block, their number is bounded by `readers_max`, and every read of
`KvReader` is bounded by a limit and by bytes.

**Buffers.** Transactions hand out memoryviews into the map, to read a head without
copying megabytes of value. Such a view is valid until the transaction ends or writes:
copy what is kept, and let none escape this package.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

import lmdb

from engines.errors import (
    CorruptRecord,
    EngineError,
    ReadersBusy,
    StoreFailed,
    StoreFull,
    UnknownFormat,
)
from engines.layout import seal, unseal

FORMAT = b"hivemem state 1"
CLOSE_WAIT_SECONDS = 10.0  # for open snapshots to end; a read is far shorter

# A reset transaction is kept for the next reader: beginning one then costs no allocation,
# no lock and no scan of the reader table.
_SPARE_READERS_MAX = 16

# Quoted: the classes are generic in lmdb's stubs alone.
Transaction: TypeAlias = "lmdb.Transaction[memoryview]"
Cursor: TypeAlias = "lmdb.Cursor[memoryview]"
Database: TypeAlias = "lmdb._Database"


class Databases(NamedTuple):
    """Handles of the named databases; what they hold is drawn in DESIGN.md."""

    meta: Database
    sessions: Database
    leaves: Database
    graves: Database
    changes: Database
    expiry: Database
    requests: Database
    request_order: Database


class Store:
    """Opens, or creates, the environment in the directory `path`.

    `map_bytes` bounds the file; `readers_max` the snapshots open at once.
    Raises UnknownFormat (another format's store, or not a store), StoreFailed.
    """

    def __init__(self, path: Path, map_bytes: int, readers_max: int) -> None:
        self.path = path
        self.map_bytes = map_bytes
        self.readers_max = readers_max
        self._snapshots = 0
        self._writing = False
        self._closed = False
        self._idle = threading.Condition()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(path),
                map_size=map_bytes,
                max_dbs=len(Databases._fields),
                max_readers=readers_max,
                max_spare_txns=min(readers_max, _SPARE_READERS_MAX),
                sync=False,
                metasync=False,
                # With a writable map a full disk would be a SIGBUS instead of an error.
                writemap=False,
            )
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise UnknownFormat(str(path), f"not a store: {error}") from error
        except (lmdb.Error, OSError) as error:
            raise StoreFailed(f"cannot open the store {path}: {error}") from error
        try:
            # Slots that a killed process left behind would pin its pages for ever.
            self._env.reader_check()
            self.databases = self._open_databases()
        except BaseException:
            self._env.close()
            raise

    def _open_databases(self) -> Databases:
        with self.write() as txn:
            empty = txn.stat()["entries"] == 0
            if not empty and self._env_format(txn) != FORMAT:
                raise UnknownFormat(
                    str(self.path),
                    f"its format is {self._env_format(txn)!r}; this build knows {FORMAT!r}",
                )
            databases = Databases(
                *(self._env.open_db(name.encode(), txn=txn) for name in Databases._fields)
            )
            if empty:
                txn.put(b"format", seal(b"format", FORMAT), db=databases.meta)
        return databases

    def _env_format(self, txn: Transaction) -> bytes | None:
        try:
            meta = self._env.open_db(b"meta", txn=txn, create=False)
        except lmdb.NotFoundError:
            return None
        record = txn.get(b"format", db=meta)
        return None if record is None else unseal("meta", b"format", record)

    def read(self) -> Snapshot:
        """A read-only view of the last commit, for a `with` block. Any thread.

        Entering raises ReadersBusy when `readers_max` snapshots are open.
        """
        return Snapshot(self)

    def write(self) -> WriteTransaction:
        """The write transaction, for a `with` block: commits, or aborts on an exception.

        One thread only. Leaving raises StoreFull or StoreFailed; nothing is kept then.
        """
        return WriteTransaction(self)

    def bytes_used(self, txn: Transaction) -> int:
        """Bytes of pages that hold data; free pages, which writes reuse, are not counted."""
        stats = [txn.stat(), *(txn.stat(database) for database in self.databases)]
        return sum(
            stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
            for stat in stats
        )

    def sync(self) -> None:
        """Bring every commit to stable storage: before a clean end is recorded. Blocks."""
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Waits for open snapshots to end, then closes. Idempotent. Not from within one.

        Raises StoreFailed if snapshots are still open after CLOSE_WAIT_SECONDS: closing
        the map under a reader would crash the process.
        """
        with self._idle:
            self._closed = True
            if not self._idle.wait_for(lambda: self._snapshots == 0, CLOSE_WAIT_SECONDS):
                raise StoreFailed(f"{self._snapshots} snapshots of {self.path} are still open")
        self._env.close()

    def _begin(self, *, write: bool) -> Transaction:
        try:
            return self._env.begin(write=write, buffers=True)
        except lmdb.ReadersFullError as error:
            raise ReadersBusy(self.readers_max) from error
        except lmdb.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: lmdb.Error) -> EngineError:
        if isinstance(error, lmdb.MapFullError):
            return StoreFull(str(self.path), self.map_bytes)
        if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
            return CorruptRecord("store", b"", str(error))
        return StoreFailed(f"store {self.path}: {error}")


class Snapshot:
    """A read-only transaction; see Store.read. `txn` exists only inside the `with` block."""

    __slots__ = ("databases", "store", "txn")

    txn: Transaction

    def __init__(self, store: Store) -> None:
        self.store = store
        self.databases = store.databases

    def __enter__(self) -> Self:
        store = self.store
        with store._idle:
            if store._closed:
                raise StoreFailed(f"store {store.path} is closed")
            store._snapshots += 1
        try:
            self.txn = store._begin(write=False)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.txn.abort()
        # LMDB's reader slot is free for others once the object is gone, too.
        del self.txn
        self._release()
        if isinstance(error, lmdb.Error):
            raise self.store._translated(error) from error

    def _release(self) -> None:
        store = self.store
        with store._idle:
            store._snapshots -= 1
            if store._snapshots == 0:
                store._idle.notify_all()


class WriteTransaction:
    """See Store.write. Entering gives the LMDB transaction."""

    __slots__ = ("_store", "_txn")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Transaction:
        store = self._store
        if store._closed:
            raise StoreFailed(f"store {store.path} is closed")
        # LMDB would wait for the first one for ever: they are in the same thread.
        if store._writing:
            raise RuntimeError("a write transaction is open already")
        self._txn = store._begin(write=True)
        store._writing = True
        return self._txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        store = self._store
        store._writing = False
        if error is not None:
            self._txn.abort()
            if isinstance(error, lmdb.Error):
                raise store._translated(error) from error
            return
        try:
            self._txn.commit()
        except lmdb.Error as failure:
            raise store._translated(failure) from failure
