"""SQLite over items: a database whose pages are the items of a collection.

SQLite asks its *file* for pages and gives it pages back; here the file is a collection's space
within an apply, or a view of a snapshot. So a database is replicated, checked, copied and
repaired as all items are; a write is kept or dropped with its command; and any number of reads
see each its own snapshot, while writes go on.

What a database holds is a function of the statements: pages are zeroed before they are used
again (`secure_delete`), `now` is the command's time, and randomness comes from its seed. It is one
of SQLite's version too, which writes its number into the first page: apsw carries its own, so
that nodes of one build have the same.

The only importer of apsw. Source: sqlite.org/fileformat2.html, sqlite.org/vfs.html.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, Final, Protocol

import apsw

from engines.errors import CorruptRecord, EngineError
from engines.relational_functions import (
    CALL_BYTES,
    PATTERN_BYTES_MAX,
    VALUE_BYTES_MAX,
    Work,
    bounded_functions,
    counted_functions,
)

PAGE_BYTES: Final = 1024  # three of them, sealed, fit a page of LMDB
CACHE_KIB: Final = 4 << 10  # of one connection
RANDOM_BYTES_MAX: Final = 1 << 20  # of one call of randomblob
_RANDOM_WORK: Final = 16  # a random byte takes as long as so many that are gone through
BRIEF_VALUE_BYTES: Final = 64 << 10
_PAGE = b"p"
_COUNT = b"n"  # an item: how many pages there are
_PAGES_MAX = (1 << 32) - 2
ROWID_MAX: Final = (1 << 63) - 1
_JULIAN_EPOCH_MS = 210_866_760_000_000  # of 1970, as SQLite counts: since 4714 BC
_VFS = "hivemem-items"
_MAIN = "main.db"

# What a statement may need of SQLite at most.
_LIMITS: Final = {
    apsw.SQLITE_LIMIT_LENGTH: VALUE_BYTES_MAX,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    apsw.SQLITE_LIMIT_COLUMN: 500,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 200,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: PATTERN_BYTES_MAX,  # LIKE takes text times pattern
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_VARIABLE_NUMBER: 10_000,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 50,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}

SQLError = apsw.Error
# What is of one replica, and no refusal by all of them.
OutOfMemory = apsw.NoMemError
Interrupted = apsw.InterruptError
sqlite_version = apsw.sqlite_lib_version


def is_taken(error: BaseException) -> bool:
    """Did another row have that key already?"""
    # `extendedresult` is on every error of SQLite's; the stubs do not say so.
    return isinstance(error, apsw.ConstraintError) and getattr(error, "extendedresult", 0) in (
        apsw.SQLITE_CONSTRAINT_UNIQUE,
        apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
        apsw.SQLITE_CONSTRAINT_ROWID,
    )


def is_full(error: BaseException) -> bool:
    """Has the database as many pages as it may have?"""
    return isinstance(error, apsw.FullError)


class PageStore(Protocol):
    """Where pages lie: `View`, or `Space`, which can also put them."""

    def get(self, key: bytes) -> bytes | None: ...


class _NoPages:
    """Of a connection that waits to be used."""

    stopped = True

    def get(self, key: bytes) -> bytes | None:
        raise EngineError("a database is read outside of a query")


NO_PAGES: Final = _NoPages()


class Database:
    """One connection to the database of one collection. One thread at a time.

    `store` may be exchanged between statements: SQLite looks whether the first page has changed
    before it trusts what it has cached. `trouble` is what went wrong below SQLite, which knows
    no more of it than that a page could not be read. `last_row_used`: a write gave a row the
    greatest rowid there is. SQLite chooses the rowids after that one by chance, by a generator
    that is the process's own.
    """

    def __init__(self, store: PageStore, *, writable: bool) -> None:
        self.store = store
        self.trouble: BaseException | None = None
        self.now_ms: int | None = None  # None: there is no now
        self.last_row_used = False
        self._random: Iterator[int] | None = None
        self._work = Work()
        name = _vfs().register(self)
        try:
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            if not writable:
                flags = apsw.SQLITE_OPEN_READONLY
            # It reads the first page.
            self.connection: apsw.Connection = run(
                self, lambda: apsw.Connection(name, vfs=_VFS, flags=flags)
            )
        finally:
            _vfs().forget(name)
        try:
            run(self, lambda: self._settle(writable))
        except BaseException:
            self.close()
            raise

    def _settle(self, writable: bool) -> None:
        connection = self.connection
        for limit, value in _LIMITS.items():
            connection.limit(limit, value)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        self.run_all(
            f"PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY; "
            "PRAGMA foreign_keys = ON"
        )
        functions = counted_functions(_plain, self._work) if writable else bounded_functions(_plain)
        for name, arguments, call in functions:
            connection.create_scalar_function(
                name, call, arguments, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
            )
        if writable:
            # Statements that fail are undone by SQLite, commands by the space.
            self.run_all(
                f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = MEMORY; "
                "PRAGMA secure_delete = ON"
            )
            connection.set_update_hook(self._row_changed)
            # Innocuous: defaults and triggers may use them, too.
            for name, draw, arguments in (
                ("random", self._next_random, 0), ("randomblob", self._random_blob, 1),
            ):  # fmt: skip
                connection.create_scalar_function(
                    name, draw, arguments, flags=apsw.SQLITE_INNOCUOUS
                )

    def limit_values(self, *, brief: bool) -> None:
        """How long a value may be: as ever, or so short that copying it is nothing."""
        most = BRIEF_VALUE_BYTES if brief else _LIMITS[apsw.SQLITE_LIMIT_LENGTH]
        self.connection.limit(apsw.SQLITE_LIMIT_LENGTH, most)

    def run_all(self, statements: str) -> None:
        """Every statement to its end: apsw stops at the first row otherwise."""
        for _ in self.connection.execute(statements):
            pass

    @property
    def idle(self) -> bool:
        """Is no statement under way, which would hold its snapshot?"""
        return self.connection.txn_state() == apsw.SQLITE_TXN_NONE

    def stamp(self, now_ms: int, seed: int) -> None:
        """The time and the randomness of what follows."""
        self.now_ms = now_ms
        self._random = _randomness(seed)

    def close(self) -> None:
        self.connection.close(True)

    def _row_changed(self, kind: int, database: str, table: str, row: int) -> None:
        if row == ROWID_MAX and kind != apsw.SQLITE_DELETE:
            self.last_row_used = True

    def _next_random(self, *_: Any) -> int:
        self._work.add(CALL_BYTES)
        return self._drawn()

    def _drawn(self) -> int:
        assert self._random is not None
        return next(self._random)

    def _random_blob(self, *given: Any) -> bytes:
        (size,) = given
        endless = size in (math.inf, -math.inf)
        wanted = RANDOM_BYTES_MAX + 1 if endless else max(1, int(size or 0))
        if wanted > RANDOM_BYTES_MAX:
            raise ValueError("randomblob: at most 1 MiB")
        self._work.add(CALL_BYTES + wanted * _RANDOM_WORK)
        numbers = (self._drawn() for _ in range(-(-wanted // 8)))
        return b"".join(number.to_bytes(8, signed=True) for number in numbers)[:wanted]

    # --- The file ------------------------------------------------------------------

    def read(self, size: int, offset: int) -> bytes:
        """Bytes within one page; fewer beyond the end."""
        number, start = divmod(offset, PAGE_BYTES)
        key = _page_key(number)
        page = self.store.get(key)
        if page is None and number < self.pages():
            raise CorruptRecord("items", key, "a page of the database is missing")
        return b"" if page is None else page[start : start + size]

    def write(self, data: bytes, offset: int) -> None:
        """One whole page."""
        number, start = divmod(offset, PAGE_BYTES)
        if start or len(data) != PAGE_BYTES or number > _PAGES_MAX:
            raise EngineError(f"SQLite writes {len(data)} bytes at {offset}: no page")
        store: Any = self.store
        store.put(_page_key(number), data)
        if number >= self.pages():
            store.put(_COUNT, (number + 1).to_bytes(4))

    def truncate(self, size: int) -> None:
        store: Any = self.store
        kept = -(-size // PAGE_BYTES)
        for number in range(kept, self.pages()):
            store.delete(_page_key(number))
        store.put(_COUNT, kept.to_bytes(4))

    def pages(self) -> int:
        count = self.store.get(_COUNT)
        return 0 if count is None else int.from_bytes(count)


_helpers = threading.local()


def _plain(name: str, values: tuple[Any, ...]) -> Any:
    """What SQLite's own function answers, on a connection where none is replaced."""
    connection = getattr(_helpers, "connection", None)
    if connection is None:
        connection = _helpers.connection = apsw.Connection(":memory:")
        for limit, most in _LIMITS.items():
            connection.limit(limit, most)
    marks = ", ".join("?" * len(values))
    ((found,),) = connection.execute(f"SELECT {name}({marks})", values)
    return found


def _page_key(number: int) -> bytes:
    return _PAGE + number.to_bytes(4)


def _randomness(seed: int) -> Iterator[int]:
    for count in itertools.count():
        digest = blake2b(b"%d %d" % (seed, count), digest_size=8).digest()
        yield int.from_bytes(digest, signed=True)


class _ItemsVFS(apsw.VFS):
    """Opens a `Database`'s pages by the name under which it waits."""

    def __init__(self) -> None:
        super().__init__(_VFS, base="")
        self._lock = threading.Lock()
        self._waiting: dict[str, Database] = {}
        self._numbers = itertools.count()
        self._local = threading.local()

    def register(self, database: Database) -> str:
        with self._lock:
            name = f"{next(self._numbers)}-{_MAIN}"
            self._waiting[name] = database
        return name

    def forget(self, name: str) -> None:
        with self._lock:
            del self._waiting[name]

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB or name is None:
            raise apsw.CantOpenError("no other file than the database can be opened")
        with self._lock:
            database = self._waiting.get(name.filename())
        if database is None:
            raise apsw.CantOpenError("no such database")
        flags[1] = flags[0]
        return _ItemsFile(database)

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False

    def xDelete(self, filename: str, syncdir: bool) -> None:
        raise apsw.IOError("there are no files to delete")

    def xFullPathname(self, name: str) -> str:
        return name

    def xCurrentTimeInt64(self) -> int:
        now = getattr(self._local, "now_ms", None)
        if now is None:
            raise apsw.Error("a read has no clock: give the time as a parameter")
        return int(now) + _JULIAN_EPOCH_MS

    def run(self, database: Database, work: Callable[[], Any]) -> Any:
        """`work` on this thread, with the database's time for `now`."""
        self._local.now_ms = database.now_ms
        try:
            return work()
        finally:
            self._local.now_ms = None


class _ItemsFile:
    """A database as the file that SQLite takes it for. Locks mean nothing: nobody shares it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def xRead(self, amount: int, offset: int) -> bytes:
        data: bytes = self._try(lambda: self._database.read(amount, offset))
        return data

    def xWrite(self, data: bytes, offset: int) -> None:
        self._try(lambda: self._database.write(bytes(data), offset))

    def xTruncate(self, newsize: int) -> None:
        self._try(lambda: self._database.truncate(newsize))

    def xFileSize(self) -> int:
        size: int = self._try(lambda: self._database.pages() * PAGE_BYTES)
        return size

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except BaseException as error:
            self._database.trouble = error
            raise apsw.IOError("a page could not be read or written") from None

    def xSync(self, flags: int) -> None: ...

    def xLock(self, level: int) -> None: ...

    def xUnlock(self, level: int) -> None: ...

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return PAGE_BYTES

    def xDeviceCharacteristics(self) -> int:
        return int(apsw.SQLITE_IOCAP_ATOMIC | apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)

    def xClose(self) -> None: ...


_made: list[_ItemsVFS] = []
_making = threading.Lock()


def _vfs() -> _ItemsVFS:
    with _making:
        if not _made:
            _made.append(_ItemsVFS())
        return _made[0]


def run(database: Database, work: Callable[[], Any]) -> Any:
    """Run statements. Raises what went wrong below SQLite, as it was, else SQLError."""
    database.trouble = None
    try:
        return _vfs().run(database, work)
    except apsw.Error:
        if database.trouble is not None:
            raise database.trouble from None
        raise
