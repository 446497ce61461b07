"""What one apply has written, before it is in the store: read through, written once.

The commands of an apply read and write dictionaries in memory; at its end each database
is written in key order, in one call. A write to LMDB costs a call, a release of the
interpreter's lock (which the log's thread may then hold on to) and a search from the
root; neighbours in one page are thus found together and a record that is written twice
is written once.

A *table* is one database within one apply. It is also where the stored and the new bytes
of a record meet (`flush`, `remove`): what must be known of every change of a record, a
digest say, belongs there.

Invariant: reading through a table gives what reading the store would if each write had
been made at once. So the store's bytes do not depend on how entries are batched.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from engines.change_log import ChangeLog
from engines.digests import Tally
from engines.environment import Databases, Transaction

_BY_KEY = itemgetter(0)
_NUMBERS = {name: number for number, name in enumerate(Databases._fields)}


class Table:
    """One database, as the apply leaves it so far."""

    __slots__ = (
        "_append",
        "_database",
        "_number",
        "_stored",
        "_tally",
        "_txn",
        "_written",
        "put",
    )

    def __init__(
        self,
        txn: Transaction,
        databases: Databases,
        number: int,
        tally: Tally,
        *,
        append: bool = False,
    ) -> None:
        """`number`: of the database in `databases`. `append`: every new key is greater than
        all before it, so that pages fill up."""
        self._txn = txn
        self._database = databases[number]
        self._number = number
        self._tally = tally
        self._append = append
        self._stored: dict[bytes, bytes | None] = {}  # what was read
        self._written: dict[bytes, bytes | None] = {}  # None: deleted
        self.put: Callable[[bytes, bytes], None] = self._written.__setitem__

    def get(self, key: bytes) -> bytes | None:
        """The record, as a copy."""
        written = self._written
        # Asked twice rather than tried: in machine code an exception costs a traceback.
        if key in written:
            return written[key]
        record = self._txn.get(key, db=self._database)
        found = self._stored[key] = None if record is None else bytes(record)
        return found

    def delete(self, key: bytes) -> bool:
        """Whether there was one to delete."""
        if self.get(key) is None:
            return False
        self._written[key] = None
        return True

    def pop(self, key: bytes) -> bytes | None:
        """Delete the record and return it."""
        record = self.get(key)
        if record is not None:
            self._written[key] = None
        return record

    def remove(self, key: bytes) -> bool:
        """Delete in the store at once, and write all that waits before it: for who looks
        at a database's neighbours next. Whether there was one."""
        self.flush()
        self._tally.replaced(self._number, key, self._txn.get(key, db=self._database), None)
        return self._txn.delete(key, db=self._database)

    def first_from(self, key: bytes) -> bytes | None:
        """The first key >= `key` in the store, which must hold all (see `remove`)."""
        assert not self._written, "what waits is not in the store"
        with self._txn.cursor(db=self._database) as cursor:
            return bytes(cursor.key()) if cursor.set_range(key) else None

    def keys(self, low: bytes, high: bytes, reverse: bool, count: int) -> list[bytes]:
        """The first `count` keys with low <= key < high, or the last; writes what waits."""
        self.flush()
        found: list[bytes] = []
        with self._txn.cursor(db=self._database) as cursor:
            if reverse:
                there = cursor.prev() if cursor.set_range(high) else cursor.last()
            else:
                there = cursor.set_range(low)
            while there and len(found) < count:
                key = bytes(cursor.key())
                if key < low or key >= high:
                    break
                found.append(key)
                there = cursor.prev() if reverse else cursor.next()
        return found

    def flush(self) -> None:
        """Write what waits, in key order."""
        written = self._written
        stored = self._stored
        if not written:
            stored.clear()
            return
        puts: list[tuple[bytes, bytes]] = []
        number, replaced = self._number, self._tally.replaced
        for key, record in written.items():
            if key in stored:
                replaced(number, key, stored[key], record)
            else:
                replaced(number, key, self._txn.get(key, db=self._database), record)
            if record is not None:
                puts.append((key, record))
            else:
                # Not there if it was put and deleted within the apply.
                self._txn.delete(key, db=self._database)
        if puts:
            puts.sort(key=_BY_KEY)
            with self._txn.cursor(db=self._database) as cursor:
                cursor.putmulti(puts, append=self._append)
        written.clear()
        stored.clear()


class Overlay:
    """The tables of one apply."""

    __slots__ = (
        "_lazy",
        "_table",
        "changes",
        "expiry",
        "graves",
        "leaves",
        "leaving",
        "request_order",
        "requests",
        "sessions",
    )

    def __init__(self, txn: Transaction, databases: Databases, tally: Tally) -> None:
        def table(name: str, *, append: bool = False) -> Table:
            return Table(txn, databases, _NUMBERS[name], tally, append=append)

        self._table = table
        self._lazy: dict[str, Table] = {}  # most applies touch no collection
        self.sessions = table("sessions")
        self.leaves = table("leaves")
        self.graves = table("graves")
        self.changes = ChangeLog(txn, databases, _NUMBERS["changes"], tally)
        self.leaving = table("leaving")
        self.expiry = table("expiry")
        self.requests = table("requests")
        self.request_order = table("request_order", append=True)

    @property
    def collections(self) -> Table:
        return self._of("collections")

    @property
    def items(self) -> Table:
        return self._of("items")

    def _of(self, name: str) -> Table:
        found = self._lazy.get(name)
        if found is None:
            found = self._lazy[name] = self._table(name)
        return found

    def flush(self) -> None:
        """Write everything. Raises CorruptRecord."""
        for table in self._lazy.values():
            table.flush()
        self.sessions.flush()
        self.leaves.flush()
        self.graves.flush()
        self.changes.flush()
        self.leaving.flush()
        self.expiry.flush()
        self.requests.flush()
        self.request_order.flush()
