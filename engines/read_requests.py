"""Reads as values: each runs on the state here, or travels to a node that holds the data.

A request is valid once it exists: its bounds are checked as it is made, whether by a door
or by the codec (`read_codec.py`). Every page is bounded by items and by bytes and says
whether there is more, so that pages of several partitions can be merged into one
(`read_merge.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from engines.errors import InvalidArgument
from engines.interfaces import INTEGER_MAX, MIB, ChangeId, Held, HistoryPage, Record, RecordPage

if TYPE_CHECKING:  # which imports engines, and they the bounds below
    from engines.kv_reader import KvReader

T_co = TypeVar("T_co", covariant=True)

PAGE_ITEMS_MAX = 1_000  # records, changes or names of one page
PAGE_BYTES_MAX = 16 * MIB  # value bytes of one answer; its first item always fits
WALK_ITEMS_MAX = 10_000  # of one page of a walk, which holds no values
WALK_BYTES_MAX = 1 * MIB  # of names
HELD_BYTES = 1 * MIB  # value bytes that are read in one turn of a loop, unless said otherwise
MANY_ITEMS_MAX = 4_096  # records asked for by name in one request
KEY_BYTES_MAX = 0xFFFF  # the largest that `Limits` can allow
_CHANGE_ID_MAX = (1 << 64) - 1  # of a number in a cursor, which callers may make up


class Shown(NamedTuple, Generic[T_co]):
    """What a read found, and the revision of the state that it was found in."""

    found: T_co
    revision: int


class ReadRequest(Protocol[T_co]):
    """One read. `offload`: it may take milliseconds, which the event loop does not have."""

    offload: ClassVar[bool]

    def run(self, reader: KvReader) -> Shown[T_co]:
        """Read. Any thread. Raises: CorruptRecord; see each request."""


class NamePage(NamedTuple):
    """Names in byte order."""

    names: tuple[str, ...]
    more: bool  # True: continue after names[-1]


class Listed(NamedTuple):
    """A live record, as a walk over a namespace shows it."""

    session: str
    key: bytes
    expires_ms: int  # 0: never


class ListedPage(NamedTuple):
    """Records in byte order of session and key."""

    records: tuple[Listed, ...]
    more: bool  # True: continue after (session, key) of records[-1]


class Wanted(NamedTuple):
    """A record asked for by name."""

    namespace: str
    session: str
    key: bytes


class WantedHeld(NamedTuple):
    """The same, by a reader in a hurry; `values`: with its value."""

    namespace: str
    session: str
    key: bytes
    values: bool


# --- Single records ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetRecord:
    """The live record, or None."""

    namespace: str
    session: str
    key: bytes
    values: bool = True
    offload: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_names(self.namespace, self.key)

    def run(self, reader: KvReader) -> Shown[Record | None]:
        record = reader.get(self.namespace, self.session, self.key, values=self.values)
        return Shown(record, reader.revision)


@dataclass(frozen=True, slots=True)
class GetRecordAt:
    """The record as it was right after `at_revision`, or None.

    Raises also: Compacted; InvalidArgument for a revision that is yet to come.
    """

    namespace: str
    session: str
    key: bytes
    at_revision: int
    offload: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_names(self.namespace, self.key)
        check_range("at_revision", self.at_revision, 0, INTEGER_MAX)

    def run(self, reader: KvReader) -> Shown[Record | None]:
        record = reader.get_at(self.namespace, self.session, self.key, self.at_revision)
        return Shown(record, reader.revision)


@dataclass(frozen=True, slots=True)
class GetMany:
    """Records of any sessions, in the order asked for; None for one that is not there.

    A value that does not fit into what is left of `bytes_max` is left out: that record's
    value is None.
    """

    wanted: tuple[Wanted, ...]
    bytes_max: int = PAGE_BYTES_MAX
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("wanted", len(self.wanted), 1, MANY_ITEMS_MAX)
        check_range("bytes_max", self.bytes_max, 1, PAGE_BYTES_MAX)
        for namespace, _, key in self.wanted:
            check_names(namespace, key)

    def run(self, reader: KvReader) -> Shown[tuple[Record | None, ...]]:
        records: list[Record | None] = []
        room = self.bytes_max
        for namespace, session, key in self.wanted:
            record = reader.get(namespace, session, key, values=False)
            if record is not None and (record.size <= room or room == self.bytes_max):
                room -= record.size
                record = reader.get(namespace, session, key)
            records.append(record)
        return Shown(tuple(records), reader.revision)


@dataclass(frozen=True, slots=True)
class GetHeld:
    """The first records of those asked for, briefly: until their values are `bytes_max`.

    What is not answered has to be asked for again; the first always is answered.
    """

    wanted: tuple[WantedHeld, ...]
    bytes_max: int = HELD_BYTES
    offload: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range("wanted", len(self.wanted), 1, MANY_ITEMS_MAX)
        check_range("bytes_max", self.bytes_max, 1, PAGE_BYTES_MAX)
        for namespace, _, key, _ in self.wanted:
            check_names(namespace, key)

    def run(self, reader: KvReader) -> Shown[tuple[Held | None, ...]]:
        found: list[Held | None] = []
        size = 0
        for namespace, session, key, values in self.wanted:
            held = reader.held(namespace, session, key, values=values)
            found.append(held)
            if held is not None and values:
                size += held.size
                if size >= self.bytes_max:
                    break
        return Shown(tuple(found), reader.revision)


# --- Pages -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScanSession:
    """A session's records whose key starts with `prefix` and is > `after`, in byte order."""

    namespace: str
    session: str
    prefix: bytes
    after: bytes | None
    limit: int
    values: bool
    bytes_max: int = PAGE_BYTES_MAX
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names(self.namespace)
        check_page(self.limit, self.bytes_max)
        check_range("prefix", len(self.prefix), 0, KEY_BYTES_MAX)
        check_range("after", len(self.after or b""), 0, KEY_BYTES_MAX)

    def run(self, reader: KvReader) -> Shown[RecordPage]:
        page = reader.scan(
            self.namespace, self.session, self.prefix, self.after, self.limit, self.bytes_max,
            self.values,
        )  # fmt: skip
        return Shown(page, reader.revision)


@dataclass(frozen=True, slots=True)
class ListHistory:
    """A key's retained changes older than `before` (None: all), newest first."""

    namespace: str
    session: str
    key: bytes
    before: ChangeId | None
    limit: int
    values: bool
    bytes_max: int = PAGE_BYTES_MAX
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names(self.namespace, self.key)
        check_page(self.limit, self.bytes_max)
        for number in self.before or ():
            check_range("before", number, 0, _CHANGE_ID_MAX)

    def run(self, reader: KvReader) -> Shown[HistoryPage]:
        page = reader.history(
            self.namespace, self.session, self.key, self.before, self.limit, self.bytes_max,
            self.values,
        )  # fmt: skip
        return Shown(page, reader.revision)


@dataclass(frozen=True, slots=True)
class ListSessions:
    """Sessions of the namespace that hold a live record, those > `after`."""

    namespace: str
    after: str | None
    limit: int
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names(self.namespace)
        check_page(self.limit)

    def run(self, reader: KvReader) -> Shown[NamePage]:
        names = reader.sessions(self.namespace, self.after, self.limit + 1)
        return Shown(_name_page(names, self.limit), reader.revision)


@dataclass(frozen=True, slots=True)
class ListNamespaces:
    """Namespaces that hold a live record or a collection, those > `after`."""

    after: str | None
    limit: int
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_page(self.limit)

    def run(self, reader: KvReader) -> Shown[NamePage]:
        names = reader.namespaces(self.after, self.limit + 1)
        return Shown(_name_page(names, self.limit), reader.revision)


@dataclass(frozen=True, slots=True)
class WalkNamespace:
    """Every live record of the namespace behind `after`, (session, key); None: from the start."""

    namespace: str
    after: tuple[str, bytes] | None
    limit: int
    bytes_max: int = WALK_BYTES_MAX
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names(self.namespace)
        check_range("limit", self.limit, 1, WALK_ITEMS_MAX)
        check_range("bytes_max", self.bytes_max, 1, WALK_BYTES_MAX)
        if self.after is not None:
            check_range("after", len(self.after[1]), 0, KEY_BYTES_MAX)

    def run(self, reader: KvReader) -> Shown[ListedPage]:
        listed: list[Listed] = []
        size = 0
        for record in self._behind(reader):
            if len(listed) >= self.limit or size >= self.bytes_max:
                return Shown(ListedPage(tuple(listed), True), reader.revision)
            listed.append(record)
            size += listed_bytes(record)
        return Shown(ListedPage(tuple(listed), False), reader.revision)

    def _behind(self, reader: KvReader) -> Iterator[Listed]:
        session, after = self.after if self.after is not None else (None, None)
        while True:
            if session is not None:
                page = reader.scan(
                    self.namespace, session, b"", after, self.limit + 1, self.bytes_max, False
                )
                for record in page.records:
                    yield Listed(session, record.key, record.expires_ms or 0)
                if page.more:
                    after = page.records[-1].key
                    continue
            following = reader.sessions(self.namespace, session, 1)
            if not following:
                return
            session, after = following[0], None


def _name_page(names: list[str], limit: int) -> NamePage:
    """`names`: one more than `limit` was asked for."""
    return NamePage(tuple(names[:limit]), len(names) > limit)


def listed_bytes(record: Listed) -> int:
    """What a record counts against a walk's `bytes_max`."""
    return len(record.session.encode()) + len(record.key)


def check_names(namespace: str, key: bytes = b"?") -> None:
    """Names that an answer may be compared with. Raises InvalidArgument."""
    # A NUL would end the namespace where another one ends: the boundary between tenants.
    if not namespace or "\x00" in namespace or "\x01" in namespace:
        raise InvalidArgument("namespace", "must be a name without control characters")
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise InvalidArgument("key", f"is {len(key)} bytes; must be 1 to {KEY_BYTES_MAX}")


def check_page(limit: int, bytes_max: int = PAGE_BYTES_MAX) -> None:
    """A page's bounds. Raises InvalidArgument."""
    check_range("limit", limit, 1, PAGE_ITEMS_MAX)
    check_range("bytes_max", bytes_max, 1, PAGE_BYTES_MAX)


def check_range(field: str, value: int, least: int, most: int) -> None:
    """Raises InvalidArgument, naming `field`."""
    if not least <= value <= most:
        raise InvalidArgument(field, f"is {value}; must be {least} to {most}")
