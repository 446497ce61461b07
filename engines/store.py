"""One LMDB environment: the state of one Raft group. `state_file` looks at copies at rest.

**Durability.** The environment is opened without sync: the log is the truth and this is
the log applied. A commit survives the death of the process, since the page cache does.
It does not survive power loss, and worse, LMDB without sync may then be left torn; who
owns the directory throws it away after a machine crash.

**The map is written to**, so that a page which was made anew costs no call. Room on the disk is had
beforehand (`file_space.py`). The file is as long as the map meanwhile, with a hole behind what
is used; a clean end cuts it off.

**Threads.** One thread writes (`write`); any thread reads (`read`). LMDB gives each
reader the state as of its start and neither waits for the other. A snapshot may be
handed to another thread, but used by one at a time.

**Snapshots are short.** LMDB cannot reuse a page that an open snapshot might still
see, so a forgotten one makes the file grow up to `map_bytes`. Hence a snapshot is only
had in a `with` block, their number is bounded by `readers_max`, and every read of
`KvReader` is bounded by a limit and by bytes.

**Replacement.** The whole state may be exchanged for a file (`replace`). Each file is an
*environment* of its own; snapshots that are open then keep theirs, which is closed when the
last of them ends, by a thread of its own. Handles of databases belong to an environment:
take them from the snapshot or, to write, from the store within the transaction.

**Buffers.** Transactions hand out memoryviews into the map, to read a head without
copying megabytes of value. Such a view is valid until the transaction ends or writes:
copy what is kept, and let none escape this package.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

import lmdb

from engines import file_space
from engines.errors import (
    CorruptRecord,
    EngineError,
    ReadersBusy,
    StoreFailed,
    StoreFull,
    UnknownFormat,
)
from engines.file_space import FileSpace
from engines.layout import seal, unseal
from engines.resident import find_mapping, release

FORMAT = b"hivemem state 4"
CLOSE_WAIT_SECONDS = 10.0  # for open snapshots to end; a read is far shorter

DATA = "data.mdb"  # LMDB's name for the file
_OLD = ".old"  # suffix of a replaced directory until it is gone

# A reset transaction is kept for the next reader: beginning one then costs no allocation,
# no lock and no scan of the reader table.
_SPARE_READERS_MAX = 16

# What LMDB says of pages that lead nowhere, in circles, or into pages that are full.
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
    lmdb.BadTxnError,
)

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
    leaving: Database
    expiry: Database
    requests: Database
    request_order: Database
    collections: Database
    items: Database


class Environment:
    """LMDB's environment in one directory. For this module and `Store.replace`."""

    def __init__(self, path: Path, map_bytes: int, readers_max: int) -> None:
        self.map_bytes = map_bytes
        self.readers_max = readers_max
        self.path = path
        self.snapshots = 0  # open ones; guarded by the store's condition
        self._space: FileSpace | None = None
        file = path / DATA
        try:
            path.mkdir(parents=True, exist_ok=True)
            length = file.stat().st_size if file.exists() else None
            self.env = self._open()
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise UnknownFormat(str(path), f"not a store: {error}") from error
        except (lmdb.Error, OSError) as error:
            raise StoreFailed(f"cannot open the store {path}: {error}") from error
        try:
            if self.env.flags()["writemap"]:
                self._space = FileSpace(file, self.env.info()["map_size"])
            self._page_bytes: int = self.env.stat()["psize"]
            # Slots that a killed process left behind would pin its pages for ever.
            self.env.reader_check()
            self.databases = self._open_databases()
        except BaseException as error:
            # As it was: it may be somebody else's.
            self._close(length)
            if isinstance(error, lmdb.Error):
                raise self.translated(error) from error
            raise
        self._mapping = find_mapping(file)

    def _open(self) -> lmdb.Environment:
        """With a writable map, unless the file system has none."""
        opened = partial(
            lmdb.open,
            str(self.path),
            map_size=self.map_bytes,
            max_dbs=len(Databases._fields),
            max_readers=self.readers_max,
            max_spare_txns=min(self.readers_max, _SPARE_READERS_MAX),
            sync=False,
            metasync=False,
            # What is not in memory is read by the page: keys come in any order. The kernel would
            # read what lies around, up to megabytes, and dirty all of that with one page.
            readahead=False,
        )
        if not file_space.AVAILABLE:
            return opened()
        try:
            return opened(writemap=True)
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError):
            raise
        except lmdb.Error:
            return opened()

    def _open_databases(self) -> Databases:
        self._have_room()
        with self.env.begin(write=True, buffers=True) as txn:
            empty = txn.stat()["entries"] == 0
            if not empty and self._format(txn) != FORMAT:
                raise UnknownFormat(
                    str(self.path),
                    f"its format is {self._format(txn)!r}; this build knows {FORMAT!r}",
                )
            databases = Databases(
                *(self.env.open_db(name.encode(), txn=txn) for name in Databases._fields)
            )
            if empty:
                txn.put(b"format", seal(b"format", FORMAT), db=databases.meta)
        return databases

    def _format(self, txn: Transaction) -> bytes | None:
        try:
            meta = self.env.open_db(b"meta", txn=txn, create=False)
        except lmdb.NotFoundError:
            return None
        record = txn.get(b"format", db=meta)
        return None if record is None else unseal("meta", b"format", record)

    def begin(self, *, write: bool) -> Transaction:
        if write:
            self._have_room()
        try:
            return self.env.begin(write=write, buffers=True)
        except lmdb.ReadersFullError as error:
            raise ReadersBusy(self.readers_max) from error
        except lmdb.Error as error:
            raise self.translated(error) from error

    def _used_bytes(self) -> int:
        """Of the file: up to the last page that was ever written."""
        return (self.env.info()["last_pgno"] + 1) * self._page_bytes

    def _have_room(self) -> None:
        if self._space is None:
            return
        try:
            self._space.ensure(self._used_bytes())
        except OSError as error:
            raise StoreFailed(f"no room for the store {self.path}: {error}") from error

    def close(self) -> None:
        """Once nothing reads or writes; the file is cut to what is used."""
        self._close(None if self._space is None else self._used_bytes())

    def _close(self, length: int | None) -> None:
        """`length`: of the file from now on, bytes."""
        self.env.close()
        if self._space is None:
            return
        with suppress(OSError):  # it is only long
            if length is not None:
                self._space.trim(length)
        self._space.close()
        self._space = None

    def release_memory(self) -> None:
        if self._mapping is not None:
            release(self._mapping)

    def translated(self, error: lmdb.Error) -> EngineError:
        if isinstance(error, lmdb.MapFullError):
            return StoreFull(str(self.path), self.map_bytes)
        if isinstance(error, _DAMAGE):
            return CorruptRecord("store", b"", str(error))
        return StoreFailed(f"store {self.path}: {error}")


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
        self._replaced = 0
        self._idle = threading.Condition()
        self._retiring: list[threading.Thread] = []
        # Of a replacement that a crash cut short.
        for leftover in (self._incoming_path, *path.parent.glob(f"{path.name}{_OLD}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        self._environment = Environment(path, map_bytes, readers_max)

    @property
    def databases(self) -> Databases:
        """Handles for the write transaction; a snapshot has its own."""
        return self._environment.databases

    @property
    def replaced(self) -> int:
        """How often the whole state was exchanged."""
        return self._replaced

    @property
    def _incoming_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new")

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

    def replace(self, path: Path, accept: Callable[[Transaction, Databases], None]) -> None:
        """Make the data file at `path` (same file system, not in use) the state; takes it away.

        `accept` looks at the new state first; what it raises refuses it, and nothing has
        changed. The thread that writes, outside of a transaction. Does not wait for open
        snapshots: they keep the state they see. A crash leaves the old directory, the new
        one, or none: then the state is empty, and is to be made anew from elsewhere.
        Raises UnknownFormat, StoreFailed, CorruptRecord.
        """
        self._exchange(path, accept)

    def clear(self) -> None:
        """Make an empty state the state. Otherwise as `replace`."""
        self._exchange(None, lambda txn, databases: None)

    def _exchange(
        self, path: Path | None, accept: Callable[[Transaction, Databases], None]
    ) -> None:
        if self._closed:
            raise StoreFailed(f"store {self.path} is closed")
        if self._writing:
            raise RuntimeError("a write transaction is open")
        incoming = self._incoming_path
        try:
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(mode=0o700)
            if path is not None:
                os.rename(path, incoming / DATA)
            environment = Environment(incoming, self.map_bytes, self.readers_max)
            try:
                _ask(environment, accept)
                self._replaced += 1
                old = self.path.with_name(f"{self.path.name}{_OLD}{self._replaced}")
                os.rename(self.path, old)
                os.rename(incoming, self.path)
            except BaseException:
                environment.close()
                raise
        except OSError as error:
            raise StoreFailed(f"cannot replace the store {self.path}: {error}") from error
        environment.path = self.path
        with self._idle:
            previous, self._environment = self._environment, environment
        thread = threading.Thread(
            target=partial(self._retire, previous, old), name="store-retire", daemon=True
        )
        self._retiring = [each for each in self._retiring if each.is_alive()] + [thread]
        thread.start()

    def _retire(self, environment: Environment, path: Path) -> None:
        """Close a replaced environment after its last snapshot. In a thread of its own:
        freeing gigabytes takes the file system a while."""
        with self._idle:
            self._idle.wait_for(lambda: environment.snapshots == 0)
        environment.close()
        shutil.rmtree(path, ignore_errors=True)

    def release_memory(self) -> None:
        """Give back the memory of pages that were read; they stay in the page cache.
        Any thread."""
        environment = self._enter()
        try:
            environment.release_memory()
        finally:
            self._leave(environment)

    def sync(self) -> None:
        """Bring every commit to stable storage: before a clean end is recorded. Blocks."""
        try:
            self._environment.env.sync(True)
        except lmdb.Error as error:
            raise self._environment.translated(error) from error

    def close(self) -> None:
        """Waits for open snapshots to end, then closes. Idempotent. Not from within one.

        Raises StoreFailed if snapshots are still open after CLOSE_WAIT_SECONDS: closing
        the map under a reader would crash the process.
        """
        with self._idle:
            self._closed = True
            if not self._idle.wait_for(lambda: self._snapshots == 0, CLOSE_WAIT_SECONDS):
                raise StoreFailed(f"{self._snapshots} snapshots of {self.path} are still open")
        for thread in self._retiring:
            thread.join(CLOSE_WAIT_SECONDS)
        self._environment.close()

    def _enter(self) -> Environment:
        """Keep the environment open until `_leave`."""
        with self._idle:
            if self._closed:
                raise StoreFailed(f"store {self.path} is closed")
            self._snapshots += 1
            self._environment.snapshots += 1
            return self._environment

    def _leave(self, environment: Environment) -> None:
        with self._idle:
            self._snapshots -= 1
            environment.snapshots -= 1
            if environment.snapshots == 0:
                self._idle.notify_all()


def _ask(environment: Environment, accept: Callable[[Transaction, Databases], None]) -> None:
    txn = environment.begin(write=False)
    try:
        accept(txn, environment.databases)
    except lmdb.Error as error:
        raise environment.translated(error) from error
    finally:
        txn.abort()


class Snapshot:
    """A read-only transaction; see Store.read. Everything it has exists only inside the
    `with` block."""

    __slots__ = ("_environment", "_store", "databases", "txn")

    txn: Transaction
    databases: Databases

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Self:
        environment = self._store._enter()
        try:
            self.txn = environment.begin(write=False)
        except BaseException:
            self._store._leave(environment)
            raise
        self._environment = environment
        self.databases = environment.databases
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
        environment = self._environment
        self._store._leave(environment)
        if isinstance(error, lmdb.Error):
            raise environment.translated(error) from error

    def bytes_used(self) -> int:
        """Bytes of pages that hold data; free pages, which writes reuse, are not counted."""
        txn = self.txn
        stats = [txn.stat(), *(txn.stat(database) for database in self.databases)]
        return sum(
            stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
            for stat in stats
        )

    def copy_to(self, fd: int) -> None:
        """Write what this snapshot sees, without free pages, as a data file for `replace`.

        `fd`: a pipe or a file. Outside of Python's lock; LMDB needs a few megabytes.
        Meanwhile the pages it sees cannot be reused, so that writes make the file grow.
        """
        self._environment.env.copyfd(fd, compact=True, txn=self.txn)


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
        self._txn = store._environment.begin(write=True)
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
                raise store._environment.translated(error) from error
            return
        try:
            self._txn.commit()
        except lmdb.Error as failure:
            raise store._environment.translated(failure) from failure
