"""`changes` within one apply: appended at one end, passed and dropped at the other.

Ids only grow, so what is appended waits in a dict that is in order by itself, and goes
into the store in one call that never searches the tree. The sweep passes changes in
order, too: one walk serves the whole apply.

Invariant: a change is dropped only after the sweep has passed it, or in its passing.
"""

from __future__ import annotations

from collections.abc import Iterator

from engines.digests import Tally
from engines.environment import Databases, Transaction
from engines.errors import CorruptRecord

# Values wait in memory until then; more than that is written at once.
WAITING_BYTES_MAX = 1 << 20


class ChangeLog:
    """See the module docstring. Ids are bytes as `layout.pack_change_id` makes them."""

    __slots__ = (
        "_database",
        "_dropped",
        "_number",
        "_order",
        "_passing",
        "_tally",
        "_txn",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(self, txn: Transaction, databases: Databases, number: int, tally: Tally) -> None:
        """`number`: of the database in `databases`."""
        self._txn = txn
        self._database = databases[number]
        self._number = number
        self._tally = tally
        self._waiting: dict[bytes, bytes] = {}
        self._order: list[bytes] = []  # every id since the last write, dropped ones as well
        self._waiting_bytes = 0
        self._dropped: set[bytes] = set()
        self._passing: Iterator[tuple[bytes, int]] | None = None

    def append(self, change_id: bytes, record: bytes) -> None:
        """Raises CorruptRecord, here or in `flush`, unless the id is the greatest."""
        self._waiting[change_id] = record
        self._order.append(change_id)
        self._waiting_bytes += len(record)
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self._write()

    def get(self, change_id: bytes) -> bytes | memoryview | None:
        """A view is valid until the next append."""
        record = self._waiting.get(change_id)
        return self._txn.get(change_id, db=self._database) if record is None else record

    def drop(self, change_id: bytes) -> None:
        """A change that is missing is noticed here or in `flush`: CorruptRecord."""
        waiting = self._waiting.pop(change_id, None)
        if waiting is None:
            self._dropped.add(change_id)
        else:
            self._waiting_bytes -= len(waiting)

    def next_after(self, floor: bytes) -> tuple[bytes, int]:
        """(id, bytes of the record) of the first change after `floor`, which is the change
        that this returned last, if there is one. Raises CorruptRecord: there is none."""
        if self._passing is None:
            self._passing = self._walk(floor)
        try:
            return next(self._passing)
        except StopIteration:
            message = "the window holds fewer changes than counted"
            raise CorruptRecord("changes", b"", message) from None

    def _walk(self, floor: bytes) -> Iterator[tuple[bytes, int]]:
        """The changes after `floor`: the stored ones first, then those that wait."""
        with self._txn.cursor(db=self._database) as cursor:
            # A NUL more than the floor's key: the smallest key that is greater.
            if cursor.set_range(floor + b"\x00"):
                for change_id, record in cursor.iternext():
                    yield bytes(change_id), len(record)
        # None of these was passed yet: only this walk passes. More may be appended meanwhile.
        for waiting_id in self._order:
            yield waiting_id, len(self._waiting[waiting_id])

    def flush(self) -> None:
        """Write what waits, and drop. Raises CorruptRecord."""
        self._write()
        dropped, self._dropped = self._dropped, set()
        for change_id in sorted(dropped):
            record = self._txn.get(change_id, db=self._database)
            if record is None:
                raise CorruptRecord("changes", change_id, "a change to be dropped is missing")
            self._tally.replaced(self._number, change_id, record, None)
            self._txn.delete(change_id, db=self._database)

    def _write(self) -> None:
        self._passing = None  # It would not see what was written into the page it is in.
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        self._order = []
        if not waiting:
            return
        number, replaced = self._number, self._tally.replaced
        for change_id, record in waiting.items():
            replaced(number, change_id, None, record)
        with self._txn.cursor(db=self._database) as cursor:
            _, added = cursor.putmulti(waiting.items(), append=True)
        if added != len(waiting):
            first = next(iter(waiting))
            raise CorruptRecord("changes", first, "a newer change exists already")
