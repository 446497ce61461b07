"""Full-text search over the records of one session, as a read (`read_requests.py`).

The index finds (`session_indexes.py`); the snapshot's records decide and are answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from engines.environment import Databases
from engines.errors import Compacted, InvalidArgument, QueryCancelled
from engines.interfaces import MIB, SUB_MAX, ChangeId, Record
from engines.keyspace import session_key
from engines.kv_reader import KvReader
from engines.read_requests import (
    KEY_BYTES_MAX,
    PAGE_BYTES_MAX,
    Shown,
    check_names,
    check_range,
)
from engines.record_text import value_text
from engines.session_indexes import FIELDS, WAITING_BYTES_MAX, alone
from engines.store import Snapshot
from engines.text_index import TextHit, TextIndex
from engines.text_match import MODES, match_expression

HITS_MAX: Final = 100
HITS_DEFAULT: Final = 10
WEIGHT_MAX: Final = 1_000.0
WEIGHT_DEFAULT: Final = 1.0
SNIPPET_WORDS: Final = 24
_PAGE_ITEMS: Final = 256  # read at once for an index
_PAGE_BYTES: Final = 1 * MIB
_MISSED_MAX: Final = 10_000  # changes that are looked at rather than building from anew


class RecordHit(NamedTuple):
    """A live record that was found. `score`: of BM25, greater is better."""

    record: Record
    score: float
    snippet: str | None  # None only where none was asked for


class HitPage(NamedTuple):
    """The best ones, best first; equal scores in order of their keys."""

    hits: tuple[RecordHit, ...]
    more: bool  # True: more records match


@dataclass(frozen=True, slots=True)
class SearchSession:
    """A session's records that match `query` (`text_match.py`) and whose key starts with `prefix`.

    Raises also: QueryCancelled.
    """

    namespace: str
    session: str
    query: str
    mode: str = MODES[0]
    prefix: bytes = b""
    limit: int = HITS_DEFAULT
    values: bool = False
    snippets: bool = False
    key_weight: float = WEIGHT_DEFAULT
    value_weight: float = WEIGHT_DEFAULT
    bytes_max: int = PAGE_BYTES_MAX
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names(self.namespace)
        check_range("prefix", len(self.prefix), 0, KEY_BYTES_MAX)
        check_range("limit", self.limit, 1, HITS_MAX)
        check_range("bytes_max", self.bytes_max, 1, PAGE_BYTES_MAX)
        for field in ("key_weight", "value_weight"):
            if not 0.0 <= getattr(self, field) <= WEIGHT_MAX:  # NaN is not
                raise InvalidArgument(field, f"must be a number from 0 to {WEIGHT_MAX:g}")
        if self.mode not in MODES:
            raise InvalidArgument("mode", f"must be one of {', '.join(MODES)}")
        match_expression(self.query, self.mode, "query")

    def run(self, reader: KvReader) -> Shown[HitPage]:
        source = RecordTexts(reader, self.namespace, self.session)
        if source.empty:
            # For want of records no other session's index is put away.
            return Shown(HitPage((), False), reader.revision)
        while True:
            try:
                with _searching(reader, source) as index:
                    return Shown(self._found(reader, source, index), reader.revision)
            except QueryCancelled:
                if source.stopped:
                    raise
                # Somebody still waits: the index was put away meanwhile, and is made again.

    def _found(self, reader: KvReader, source: RecordTexts, index: TextIndex) -> HitPage:
        expression = match_expression(self.query, self.mode, "query")
        weights = dict(zip(FIELDS, (self.key_weight, self.value_weight), strict=True))
        found = index.search(source, expression, weights, self.limit + 1, self.prefix)
        hits, more = self._records(reader, found)
        snippets: dict[bytes, str] = {}
        if self.snippets and hits:
            keys = [record.key for record, _, _ in hits]
            snippets = index.snippets(source, expression, keys, SNIPPET_WORDS)
            hits = [hit._replace(snippet=snippets.get(hit.record.key, "")) for hit in hits]
        return HitPage(tuple(hits), more)

    def _records(self, reader: KvReader, found: list[TextHit]) -> tuple[list[RecordHit], bool]:
        """Those that are alive, and whether there are more than are shown."""
        hits: list[RecordHit] = []
        size = 0
        for key, score in found:
            if len(hits) == self.limit or size >= self.bytes_max:
                return hits, True
            record = reader.get(self.namespace, self.session, key, values=self.values)
            if record is not None:
                hits.append(RecordHit(record, score, None))
                size += record.size if self.values else 0
        return hits, False


class RecordTexts:
    """What is searched of a session's records in one snapshot. `SessionSource`."""

    def __init__(self, reader: KvReader, namespace: str, session: str) -> None:
        self._reader = reader
        self._namespace = namespace
        self._session = session
        self.owner = session_key(namespace, session)

    @property
    def applied_index(self) -> int:
        return self._reader.applied_index

    @property
    def written_index(self) -> int:
        """It is not kept for sessions when they changed."""
        return self._reader.applied_index

    @property
    def databases(self) -> Databases:
        return self._reader.databases

    @property
    def revision(self) -> int:
        return self._reader.revision

    @property
    def stopped(self) -> bool:
        return self._reader.stop()

    @property
    def empty(self) -> bool:
        """Are there no records?"""
        found = self._reader.scan(self._namespace, self._session, b"", None, 1, 1, False)
        return not found.records

    def long(self) -> None:
        """A search of records is never asked for as one that is brief."""

    def get(self, key: bytes) -> bytes | None:
        self._step()
        record = self._reader.get(self._namespace, self._session, key)
        return None if record is None else _text(record)

    def range(self, first: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        after = first[:-1] or None  # what lies between the two is left out below
        more = True
        while more:
            page = self._reader.scan(
                self._namespace, self._session, b"", after, _PAGE_ITEMS, _PAGE_BYTES, True
            )
            for record in page.records:
                self._step()
                if record.key >= first:
                    yield record.key, _text(record)
            more = page.more
            after = page.records[-1].key if more else None

    def at(self, snapshot: Snapshot) -> RecordTexts:
        reader = KvReader(snapshot)
        reader.stop = self._reader.stop
        return RecordTexts(reader, self._namespace, self._session)

    def changed_since(self, revision: int) -> set[bytes] | None:
        keys: set[bytes] = set()
        size = 0
        since = ChangeId(revision, SUB_MAX)
        for _ in range(_MISSED_MAX // _PAGE_ITEMS):
            try:
                changes = self._reader.changes(since, _PAGE_ITEMS, _PAGE_BYTES, values=False)
            except Compacted:
                return None
            for change in changes:
                if (change.namespace, change.session) != (self._namespace, self._session):
                    continue
                if change.key not in keys:
                    keys.add(change.key)
                    size += len(change.key)
            if size > WAITING_BYTES_MAX:
                return None
            if not changes:
                return keys
            since = changes[-1].id
        return None

    def _step(self) -> None:
        if self.stopped:
            raise QueryCancelled("the deadline passed")


def _searching(reader: KvReader, source: RecordTexts) -> AbstractContextManager[TextIndex]:
    indexes = reader.session_indexes
    return alone(source) if indexes is None else indexes.searching(source)


def _text(record: Record) -> bytes:
    assert record.value is not None
    return value_text(record.value, record.content_type).encode()
