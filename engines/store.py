"""One LMDB environment: the state of one Raft group. `state_file` looks at copies at rest.

What it is on the disk, and what survives what: `environment.py`.

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
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb

from engines.environment import DATA, Databases, Environment, Transaction
from engines.errors import StoreFailed

CLOSE_WAIT_SECONDS = 10.0  # for open snapshots to end; a read is far shorter

_OLD = ".old"  # suffix of a replaced directory until it is gone


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

    def write(self, expected: int = 0) -> WriteTransaction:
        """The write transaction, for a `with` block: commits, or aborts on an exception.

        `expected`: bytes of pages that it may need. One thread only. Entering raises StoreFailed,
        also if the disk has no room for them. Leaving raises StoreFull or StoreFailed; nothing is
        kept then.
        """
        return WriteTransaction(self, expected)

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
        self._environment.prefetch()
        self._environment.env.copyfd(fd, compact=True, txn=self.txn)


class WriteTransaction:
    """See Store.write. Entering gives the LMDB transaction."""

    __slots__ = ("_expected", "_store", "_txn")

    def __init__(self, store: Store, expected: int) -> None:
        self._store = store
        self._expected = expected

    def __enter__(self) -> Transaction:
        store = self._store
        if store._closed:
            raise StoreFailed(f"store {store.path} is closed")
        # LMDB would wait for the first one for ever: they are in the same thread.
        if store._writing:
            raise RuntimeError("a write transaction is open already")
        self._txn = store._environment.begin(write=True, expected=self._expected)
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
