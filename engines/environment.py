"""LMDB's environment: one file, its map, its databases. `store.py` shares it out.

**Durability.** It is opened without sync: the log is the truth and this is the log applied. A
commit survives the death of the process, since the page cache does. It does not survive power
loss, and worse, LMDB without sync may then be left torn; who owns the directory throws it away
after a machine crash.

**The map is written to**, so that a page which was made anew costs no call. Room on the disk is
had beforehand (`file_space.py`). The file is as long as the map meanwhile, with a hole behind
what is used; a clean end cuts it off.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

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
from engines.file_space import FileSpace, FileSpaceUnavailableError
from engines.layout import seal, unseal
from engines.resident import find_mapping, release

FORMAT = b"hivemem state 4"
DATA = "data.mdb"  # LMDB's name for the file
PREFETCH_SHARE = 0.25  # of the machine's memory that a state may take to be read ahead whole

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
    """LMDB's environment in one directory. For `store.py`."""

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
            self.env = self._open(file, length)
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise UnknownFormat(str(path), f"not a store: {error}") from error
        except (lmdb.Error, OSError) as error:
            raise StoreFailed(f"cannot open the store {path}: {error}") from error
        try:
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

    def _open(self, file: Path, length: int | None) -> lmdb.Environment:
        """With a writable map, unless the file system has none, or cannot promise room.

        `length`: of the file before. Raises lmdb.Error, OSError.
        """
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
            env = opened(writemap=True)
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError):
            raise
        except lmdb.Error:
            _cut(file, length)
            return opened()
        try:
            self._space = FileSpace(file, env.info()["map_size"])
            self._space.ensure(_used_bytes(env))
        except OSError as error:
            env.close()
            if self._space is not None:
                self._space.close()
                self._space = None
            _cut(file, length)
            if not isinstance(error, FileSpaceUnavailableError):
                raise
            return opened()
        return env

    def _open_databases(self) -> Databases:
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

    def begin(self, *, write: bool, expected: int = 0) -> Transaction:
        """`expected`: bytes of pages that a write may need."""
        if write:
            self._have_room(expected)
        try:
            return self.env.begin(write=write, buffers=True)
        except lmdb.ReadersFullError as error:
            raise ReadersBusy(self.readers_max) from error
        except lmdb.Error as error:
            raise self.translated(error) from error

    def _have_room(self, expected: int) -> None:
        if self._space is None:
            return
        try:
            self._space.ensure(_used_bytes(self.env, self._page_bytes), expected)
        except OSError as error:
            raise StoreFailed(f"no room for the store {self.path}: {error}") from error

    def prefetch(self) -> None:
        """Before all of it is read. Not if it would take a good part of the memory."""
        if self._space is None:
            return
        used = _used_bytes(self.env, self._page_bytes)
        if used <= PREFETCH_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            with suppress(OSError):  # it is only slower
                self._space.prefetch(used)

    def close(self) -> None:
        """Once nothing reads or writes; the file is cut to what is used."""
        self._close(None if self._space is None else _used_bytes(self.env, self._page_bytes))

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


def _used_bytes(env: lmdb.Environment, page_bytes: int | None = None) -> int:
    """Of the file: up to the last page that was ever written."""
    size = env.stat()["psize"] if page_bytes is None else page_bytes
    return (env.info()["last_pgno"] + 1) * size


def _cut(file: Path, length: int | None) -> None:
    if length is not None:
        with suppress(OSError):  # it is only long
            os.truncate(file, length)
