"""Bytes of reads and of their answers, for other nodes.

Both begin with one byte of codec version; then a MessagePack array whose first element is
the kind. Types are checked exactly, a request's bounds are its own, and an answer must
fit the request that it answers: whatever does not is UnknownRead, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

from engines.catalog import Collection, collection_fields, collection_of
from engines.codec import (
    Malformed,
    Packable,
    array,
    boolean,
    data,
    integer,
    number,
    optional,
    pack,
    pack_value,
    text,
    unpack,
    unpack_value,
)
from engines.collection_reader import PartSize
from engines.collection_requests import (
    CollectionPage,
    DescribeCollection,
    ExplainQuery,
    ListCollections,
    MeasureParts,
    QueryAnswer,
    QueryCollection,
)
from engines.errors import (
    CollectionSharded,
    Compacted,
    CorruptRecord,
    InvalidArgument,
    UnknownRead,
)
from engines.interfaces import (
    Change,
    ChangeId,
    ChangeKind,
    Held,
    HistoryPage,
    Record,
    RecordPage,
)
from engines.read_parts import Check, each, items_of, natural, record_of, row, rows
from engines.read_requests import (
    GetHeld,
    GetMany,
    GetRecord,
    GetRecordAt,
    Listed,
    ListedPage,
    ListHistory,
    ListNamespaces,
    ListSessions,
    NamePage,
    ReadRequest,
    ScanSession,
    Shown,
    WalkNamespace,
    Wanted,
    WantedHeld,
)
from engines.result_codec import record_parts
from engines.search_codec import hit_page, hit_page_parts
from engines.session_search import SearchSession

T = TypeVar("T")

VERSION = 1
_VERSION_BYTE = bytes([VERSION])
# Kinds of answers that are errors; the others are the numbers of their requests.
_COMPACTED, _CORRUPT, _INVALID, _SHARDED = 101, 102, 103, 104
_ARGUMENT_CODES = frozenset(
    (
        "INVALID_ARGUMENT",
        "INVALID_CURSOR",
        "KEY_TOO_LARGE",
        "VALUE_TOO_LARGE",
        "BODY_TOO_LARGE",
        "COLLECTION_NOT_FOUND",
    )
)

Refusal = Compacted | CorruptRecord | InvalidArgument


def encode_read(request: ReadRequest[Any]) -> bytes:
    """The request's bytes."""
    kind = _NUMBERS[type(request)]
    values = [getattr(request, name) for name in _KINDS[kind].names]
    return _VERSION_BYTE + pack([kind, *values])


def decode_read(packed: bytes | memoryview) -> ReadRequest[Any]:
    """The request that `encode_read` wrote. Raises UnknownRead."""
    parts = _array_of(packed, "request")
    try:
        number = integer(parts[0])
        kind = _KINDS.get(number)
        if kind is None:
            raise UnknownRead(f"read kind {number} is not known to this build")
        values = each(kind.checks, parts[1:])
        request: ReadRequest[Any] = kind.request(*values)
    except (Malformed, InvalidArgument) as error:
        raise UnknownRead(f"malformed read: {error}") from error
    return request


def encode_answer(request: ReadRequest[T], answer: Shown[T] | Refusal) -> bytes:
    """The bytes of what `request` was answered with."""
    return _VERSION_BYTE + pack(_answer_parts(request, answer))


def decode_answer(request: ReadRequest[T], packed: bytes | memoryview) -> Shown[T]:
    """The answer to `request` that `encode_answer` wrote.

    Raises: Compacted, CorruptRecord, InvalidArgument if that is the answer; UnknownRead.
    """
    parts = _array_of(packed, "answer")
    try:
        number = integer(parts[0])
        if number in _REFUSALS:
            refusal = _REFUSALS[number](*parts[1:])
        else:
            if number != _NUMBERS[type(request)]:
                raise Malformed(f"kind {number} does not answer a {type(request).__name__}")
            revision, found = parts[1:]
            return Shown(_KINDS[number].found(request, found), natural(revision))
    except (Malformed, TypeError, ValueError) as error:
        raise UnknownRead(f"malformed answer to a read: {error}") from error
    raise refusal


def _array_of(packed: bytes | memoryview, what: str) -> tuple[object, ...]:
    version = packed[0] if len(packed) else None
    if version != VERSION:
        raise UnknownRead(f"read codec version {version}; this build knows {VERSION}")
    try:
        parts = array(unpack(memoryview(packed)[1:]))
        if not parts:
            raise Malformed("an empty array")
    except Malformed as error:
        raise UnknownRead(f"malformed {what} of a read: {error}") from error
    return parts


def _answer_parts(request: ReadRequest[Any], answer: Shown[Any] | Refusal) -> Packable:
    match answer:
        case Compacted(compacted_revision=revision):
            return (_COMPACTED, revision)
        case CorruptRecord(database=database, key=key, reason=reason):
            return (_CORRUPT, database, key, reason)
        case CollectionSharded(collection=collection):
            return (_SHARDED, _collection_parts(collection))
        case InvalidArgument(field=field, code=code):
            return (_INVALID, field, str(answer).removeprefix(f"{field}: "), code)
        case Shown(found, revision):
            number = _NUMBERS[type(request)]
            return (number, revision, _KINDS[number].parts(found))


# --- Parts of requests -------------------------------------------------------------------


def _code(value: object) -> str:
    code = text(value)
    if code not in _ARGUMENT_CODES:
        raise Malformed("not a code of refused input")
    return code


# --- What is found -----------------------------------------------------------------------


def _record_or_none_parts(record: Record | None) -> Packable:
    return None if record is None else record_parts(record)


def _query_answer_parts(found: QueryAnswer) -> Packable:
    return (found.answer, found.engine, found.applied_index, found.written_index)


def _many_parts(records: tuple[Record | None, ...]) -> Packable:
    return [_record_or_none_parts(record) for record in records]


def _one(request: GetRecord | GetRecordAt, parts: object) -> Record | None:
    if parts is None:
        return None
    record = record_of(request.namespace, request.session, parts)
    wants_value = not isinstance(request, GetRecord) or request.values
    if record.key != request.key or (record.value is not None) != wants_value:
        raise Malformed("another record than the one asked for")
    return record


def _many(request: GetMany, parts: object) -> tuple[Record | None, ...]:
    records: list[Record | None] = []
    for wanted, item in zip(request.wanted, array(parts), strict=True):
        record = None if item is None else record_of(wanted.namespace, wanted.session, item)
        if record is not None and record.key != wanted.key:
            raise Malformed("another record than the one asked for")
        records.append(record)
    return tuple(records)


def _held(request: GetHeld, parts: object) -> tuple[Held | None, ...]:
    found = _helds(parts)
    if not 1 <= len(found) <= len(request.wanted):
        raise Malformed("not as many records as were asked for")
    for wanted, held in zip(request.wanted, found, strict=False):
        if held is not None and (held.value is not None) != wanted.values:
            raise Malformed("a value that was not asked for, or none")
    return found


def _record_page(request: ScanSession, parts: object) -> RecordPage:
    rows, more = array(parts)
    records = tuple(
        record_of(request.namespace, request.session, row) for row in items_of(rows, more, request)
    )
    return RecordPage(records, boolean(more))


def _record_page_parts(page: RecordPage) -> Packable:
    return ([record_parts(record) for record in page.records], page.more)


def _history_page(request: ListHistory, parts: object) -> HistoryPage:
    rows, more, compacted = array(parts)
    names = (request.namespace, request.session, request.key)
    changes = [_change(row) for row in items_of(rows, more, request)]
    found = tuple(Change(change_id, kind, *names, *rest) for change_id, kind, *rest in changes)
    return HistoryPage(found, boolean(more), boolean(compacted))


def _history_page_parts(page: HistoryPage) -> Packable:
    changes = [
        (
            change.id, change.kind.value, change.value, change.size, change.content_type,
            change.version, change.time_ms, change.expires_ms,
        )
        for change in page.changes
    ]  # fmt: skip
    return (changes, page.more, page.compacted)


def _name_page(request: ListSessions | ListNamespaces, parts: object) -> NamePage:
    rows, more = array(parts)
    return NamePage(tuple(map(text, items_of(rows, more, request))), boolean(more))


def _listed_page(request: WalkNamespace, parts: object) -> ListedPage:
    rows, more = array(parts)
    return ListedPage(tuple(map(_listed, items_of(rows, more, request))), boolean(more))


def _collection_parts(collection: Collection) -> Packable:
    return pack_value(collection_fields(collection))


def _any_collection(parts: object) -> Collection:
    fields = unpack_value(data(parts))
    if not isinstance(fields, list):
        raise Malformed("a collection is no array")
    return collection_of(fields)


def _collection(namespace: str, parts: object) -> Collection:
    collection = _any_collection(parts)
    if collection.namespace != namespace:
        raise Malformed("a collection of another namespace")
    return collection


def _described(request: DescribeCollection, parts: object) -> Collection:
    collection = _collection(request.namespace, parts)
    if collection.name != request.session:
        raise Malformed("another collection than the one asked for")
    return collection


def _collection_page(request: ListCollections, parts: object) -> CollectionPage:
    rows, more = array(parts)
    found = tuple(_collection(request.namespace, row) for row in items_of(rows, more, request))
    return CollectionPage(found, boolean(more))


def _collection_page_parts(page: CollectionPage) -> Packable:
    return ([_collection_parts(each) for each in page.collections], page.more)


def _part_sizes(request: MeasureParts, parts: object) -> tuple[PartSize | None, ...]:
    found = _sizes(parts)
    if len(found) != len(request.names):
        raise Malformed("not as many parts as were asked for")
    return found


def _same(found: Any) -> Any:
    """Tuples of what the codec knows pack as they are."""
    return found


# --- The kinds ---------------------------------------------------------------------------


class _Kind(NamedTuple):
    """How one request and what it finds are taken apart and put together."""

    request: Callable[..., ReadRequest[Any]]
    names: tuple[str, ...]
    checks: tuple[Check, ...]
    parts: Callable[[Any], Packable]
    found: Callable[[Any, object], Any]


def _kind(
    request: type[Any],
    *checks: Check,
    found: Callable[[Any, object], Any],
    parts: Callable[[Any], Packable] = _same,
) -> _Kind:
    # What is not compared is at hand on this node alone.
    names = tuple(field.name for field in fields(request) if field.compare)
    assert len(names) == len(checks), request
    return _Kind(request, names, checks, parts, found)


_held_or_none = optional(row(Held, optional(data), natural, natural, natural))
_helds = rows(_held_or_none)
_listed = row(Listed, text, data, natural)
_change_id = row(ChangeId, natural, natural)
_change = row(
    lambda *columns: columns, _change_id, lambda kind: ChangeKind(integer(kind)), optional(data),
    natural, text, natural, natural, optional(natural),
)  # fmt: skip
_wanted = rows(row(Wanted, text, text, data))
_wanted_held = rows(row(WantedHeld, text, text, data, boolean))
_names = rows(text)
_sizes = rows(optional(row(PartSize, natural, natural, natural)))
_query_answer = row(QueryAnswer, data, text, natural, natural)
_place = row(lambda *columns: columns, text, data)

# Numbers travel between builds: never reuse one.
_KINDS: dict[int, _Kind] = {
    1: _kind(GetRecord, text, text, data, boolean, parts=_record_or_none_parts, found=_one),
    2: _kind(GetRecordAt, text, text, data, integer, parts=_record_or_none_parts, found=_one),
    3: _kind(GetMany, _wanted, integer, parts=_many_parts, found=_many),
    4: _kind(GetHeld, _wanted_held, integer, found=_held),
    5: _kind(
        ScanSession, text, text, data, optional(data), integer, boolean, integer,
        parts=_record_page_parts, found=_record_page,
    ),
    6: _kind(
        ListHistory, text, text, data, optional(_change_id), integer, boolean, integer,
        parts=_history_page_parts, found=_history_page,
    ),
    7: _kind(ListSessions, text, optional(text), integer, found=_name_page),
    8: _kind(ListNamespaces, optional(text), integer, found=_name_page),
    9: _kind(WalkNamespace, text, optional(_place), integer, integer, found=_listed_page),
    10: _kind(DescribeCollection, text, text, parts=_collection_parts, found=_described),
    11: _kind(
        ListCollections, text, optional(text), integer,
        parts=_collection_page_parts, found=_collection_page,
    ),
    12: _kind(
        QueryCollection, text, text, text, data,
        parts=_query_answer_parts, found=lambda request, parts: _query_answer(parts),
    ),
    13: _kind(
        ExplainQuery, text, text, text, data,
        parts=_query_answer_parts, found=lambda request, parts: _query_answer(parts),
    ),
    14: _kind(
        SearchSession, text, text, text, text, data, integer, boolean, boolean, number, number,
        integer, parts=hit_page_parts, found=hit_page,
    ),
    15: _kind(MeasureParts, text, _names, found=_part_sizes),
}  # fmt: skip
_NUMBERS: dict[object, int] = {kind.request: number for number, kind in _KINDS.items()}
_REFUSALS: dict[int, Callable[..., Refusal]] = {
    _COMPACTED: lambda revision: Compacted(natural(revision)),
    _CORRUPT: lambda database, key, reason: CorruptRecord(text(database), data(key), text(reason)),
    _INVALID: lambda field, message, code: InvalidArgument(text(field), text(message), _code(code)),
    _SHARDED: lambda packed: CollectionSharded(_any_collection(packed)),
}
