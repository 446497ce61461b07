"""Writes of documents: what is checked where they are asked for, and what they do.

A write by filter goes over the documents in order of their ids, in steps: one command looks at
EXAMINED_MAX documents at most and changes CHANGED_MAX, and its answer says where the next one
goes on. So no command holds up a node, and a document is never changed twice by one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from engines.codec import Value, check_value, pack_value
from engines.cursors import encode_cursor
from engines.document_filter import Filter, parse_filter
from engines.document_items import DOCUMENTS_END, Record, document_key, find_record, unpack_record
from engines.document_parameters import (
    DOCUMENT_BYTES_MAX,
    DOCUMENTS_MAX,
    VERSION_MAX,
    Fields,
    check_id,
)
from engines.document_plan import choose
from engines.document_update import Change, parse_merge, parse_update, set_at
from engines.document_walk import Walk
from engines.document_work import TRIED_VALUES_MAX, Work, values_in
from engines.document_writes import BUILD_DOCUMENTS_MAX, Documents
from engines.engine import Refused
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.parameters import PREFIX as ROOT

CHANGED_MAX: Final = 1_000  # documents of one command by filter
CHANGED_BYTES_MAX: Final = 16 << 20  # of those documents, packed
CHANGED_ENTRIES_MAX: Final = 10_000  # of indexes, by one command by filter
EXAMINED_MAX: Final = 5_000  # documents of one command by filter
EXAMINED_BYTES_MAX: Final = 8 << 20
FREE_CONDITIONS: Final = 8  # of a filter; each so many more make a step as much shorter
UPDATE_WORK_BYTES_MAX: Final = 1 << 20  # of an update, packed, times the documents changed
INSERTED_ENTRIES_MAX: Final = 10_000  # of indexes, by one insert

Body = Mapping[str, Any]


# --- Checks, where the write is asked for -------------------------------------------------


def prepare(operation: str, parameters: Mapping[str, Any]) -> Value:
    """The body of the command. Raises InvalidArgument."""
    match operation:
        case "document_insert":
            fields = Fields(parameters, "document", "documents")
            return {"documents": _documents(fields), "one": "document" in fields}
        case "document_upsert":
            return _prepare_upsert(parameters)
        case "document_update":
            return _prepare_update(parameters)
        case "document_delete":
            return _selection(
                Fields(parameters, "id", "filter", "if_version", "limit", "cursor"), None
            )
        case _:
            fields = Fields(parameters, "limit")
            limit = fields.integer("limit", 1, BUILD_DOCUMENTS_MAX, BUILD_DOCUMENTS_MAX)
            return {"limit": limit}


def _documents(fields: Fields) -> list[Value]:
    if fields.one_of("document", "documents") == "document":
        return [_document(fields.members("document"), f"{ROOT}.document")]
    return [
        _document(each, f"{ROOT}.documents[{place}]")
        for place, each in enumerate(fields.items("documents", DOCUMENTS_MAX))
    ]


def _document(given: object, field: str) -> Value:
    if not isinstance(given, dict):
        raise InvalidArgument(field, "must be an object")
    if "_id" in given:
        check_id(given["_id"], f"{field}._id")
    size = len(pack_value(given))
    if size > DOCUMENT_BYTES_MAX:
        raise InvalidArgument(
            field, f"is {size} bytes; at most {DOCUMENT_BYTES_MAX}", "VALUE_TOO_LARGE"
        )
    return given


def _prepare_upsert(parameters: Mapping[str, Any]) -> Value:
    fields = Fields(parameters, "document", "documents", "if_version")
    if "if_version" in fields and "document" not in fields:
        fields.refuse("if_version", "is for one document")
    return {
        "documents": _documents(fields),
        "one": "document" in fields,
        "if_version": _if_version(fields),
    }


def _prepare_update(parameters: Mapping[str, Any]) -> Value:
    fields = Fields(
        parameters, "id", "filter", "update", "merge", "upsert", "if_version", "limit", "cursor"
    )
    kind = fields.one_of("update", "merge")
    if kind == "update":
        parse_update(parameters["update"], f"{ROOT}.update", Work())
    else:
        parse_merge(parameters["merge"], f"{ROOT}.merge")
    upsert = fields.boolean("upsert")
    if upsert and "cursor" in fields:
        fields.refuse("cursor", "is for an update without upsert")
    body = _selection(fields, parameters[kind])
    return {**body, kind: parameters[kind], "upsert": upsert}


def _selection(fields: Fields, change: Value) -> dict[str, Value]:
    """Which documents: {"id"} or {"filter"}, with what is said beside it."""
    if fields.one_of("id", "filter") == "id":
        for name in ("limit", "cursor"):
            if name in fields:
                fields.refuse(name, "is for a filter")
        return {"id": check_id(fields.text("id"), f"{ROOT}.id"), "if_version": _if_version(fields)}
    if "if_version" in fields:
        fields.refuse("if_version", "is for one id")
    given = fields.members("filter")
    _write_filter(given)
    after = fields.position([given, change], str)
    limit = fields.integer("limit", 1, CHANGED_MAX, CHANGED_MAX)
    return {"filter": given, "limit": limit, "after": after}


def _write_filter(given: object) -> Filter:
    found = parse_filter(given, f"{ROOT}.filter")
    if found.regex:
        # Every replica has to find the same, and in a time that is known.
        raise InvalidArgument(
            f"{ROOT}.filter", "$regex is for reads: find the documents, then write by their ids"
        )
    return found


def _if_version(fields: Fields) -> int | None:
    if "if_version" not in fields:
        return None
    return fields.integer("if_version", 0, VERSION_MAX, 0)


# --- Effects ---------------------------------------------------------------------------------


def insert(documents: Documents, body: Body) -> Value:
    """document_insert. Raises Refused, and so the others."""
    ids: list[Value] = []
    for field, document in _given(body):
        record = documents.insert(_with_id(documents, document), field)
        ids.append(record.id)
        _bound_entries(documents)
    return {"inserted": len(ids), "ids": ids}


def _given(body: Body) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents, and what the caller knows them as."""
    for place, document in enumerate(body["documents"]):
        yield f"{ROOT}.document" if body["one"] else f"{ROOT}.documents[{place}]", document


def upsert(documents: Documents, body: Body) -> Value:
    """document_upsert: whole documents in place of those with the same ids."""
    records: list[Record] = []
    inserted = replaced = 0
    for field, given in _given(body):
        document = _with_id(documents, given)
        old = documents.find(document["_id"])
        _check_version(old, body["if_version"])
        if old is None:
            inserted += 1
            records.append(documents.insert(document, field))
        else:
            records.append(documents.replace(old, document, field))
            replaced += records[-1] is not old
        _bound_entries(documents)
    return {
        "inserted": inserted,
        "replaced": replaced,
        "ids": [record.id for record in records],
        "versions": [record.version for record in records],
    }


def update(documents: Documents, body: Body) -> Value:
    """document_update."""
    work = Work()
    changes = _changes(body, work)
    step = _step(documents, body, work)
    matched = modified = 0
    version: int | None = None
    upserted: str | None = None
    following = step.following
    last = None
    size = len(pack_value(body.get("update", body.get("merge"))))
    for record in step.records:
        if _full(documents) or matched * size > UPDATE_WORK_BYTES_MAX:
            following = last
            break
        work.on_document = 0
        new = _changed(documents, record, changes)
        matched += 1
        modified += new is not record
        version = new.version
        last = record.id
    if not step.records and body["upsert"]:
        if following is not None:
            raise Refused(
                RejectCode.LIMIT_EXCEEDED,
                f"an upsert looks at {EXAMINED_MAX} documents at most, or fewer large ones; use a "
                "filter that an index answers",
                f"{ROOT}.upsert",
            )
        new = documents.insert(_upserted(documents, body, changes), ROOT)
        version, upserted = new.version, new.id
    answer: dict[str, Value] = {
        "matched": matched,
        "modified": modified,
        "upserted_id": upserted,
    }
    if "id" in body:
        return {**answer, "version": version}
    return {**answer, **_more(body, following)}


def delete(documents: Documents, body: Body) -> Value:
    """document_delete."""
    step = _step(documents, body, Work())
    deleted = 0
    following = step.following
    last = None
    for record in step.records:
        if _full(documents):
            following = last
            break
        documents.delete(record)
        deleted += 1
        last = record.id
    if "id" in body:
        return {"deleted": deleted}
    return {"deleted": deleted, **_more(body, following)}


def build_indexes(documents: Documents, body: Body) -> Value:
    """document_index_build: a step of taking the documents that are there into new indexes."""
    documents.clear(body["limit"])
    indexed = documents.build(body["limit"])
    ready = all(state.built is None for state in documents.state.indexes)
    return {"indexed": indexed, "ready": ready, "cleared": not documents.state.retired}


class _Step(NamedTuple):
    records: list[Record]  # that match, in order of their ids
    following: str | None  # there may be more behind this id; None: there are not


def _step(documents: Documents, body: Body, work: Work) -> _Step:
    if "id" in body:
        record = documents.find(body["id"])
        _check_version(record, body["if_version"])
        return _Step([] if record is None else [record], None)
    wanted = _write_filter(body["filter"])
    records: list[Record] = []
    last: str | None = body["after"]
    weight = 1 + wanted.size // FREE_CONDITIONS
    examined = size = 0
    for record in _candidates(documents, wanted, last):
        if examined >= EXAMINED_MAX or size > EXAMINED_BYTES_MAX or work.full:
            return _Step(records, last)
        examined += weight
        size += weight * len(record.packed)
        document = record.document()
        work.done += _tried(wanted, document)
        if wanted.matches(document):
            if len(records) == body["limit"]:
                return _Step(records, records[-1].id)
            records.append(record)
            work.done += work.conditions * values_in(document)
        last = record.id
    return _Step(records, None)


def _tried(wanted: Filter, document: dict[str, Any]) -> int:
    """Conditions times values. Raises Refused."""
    there = (document[name] for name in wanted.members if name in document)
    values = 1 + sum(map(values_in, there))
    if wanted.size * values > TRIED_VALUES_MAX:
        raise Refused(
            RejectCode.INVALID_ARGUMENT,
            f"has {wanted.size} conditions, too many for {values} values of document "
            f"{document['_id']}",
            f"{ROOT}.filter",
        )
    return max(1, wanted.size) * values


def _candidates(documents: Documents, wanted: Filter, after: str | None) -> Iterator[Record]:
    """Documents behind an id, in order of ids, among them all that match: found by an index if
    it leads to few, for only then can they be put into this order."""
    indexes = list(zip(documents.indexes, documents.state.indexes, strict=True))
    plan = choose(wanted.conditions, (), indexes)
    if plan.name:
        index = None if plan.place is None else indexes[plan.place]
        ids: set[str] = set()
        for place, identity in enumerate(Walk(documents.space, plan, index).ids()):
            if place == EXAMINED_MAX:
                break
            ids.add(identity)
        else:
            for identity in sorted(ids):
                if after is None or identity > after:
                    record = find_record(documents.space, identity)
                    if record is not None:
                        yield record
            return
    start = document_key(after) + b"\x00" if after is not None else document_key("")
    for key, value in documents.space.range(start, DOCUMENTS_END):
        yield unpack_record(key, value)


def _full(documents: Documents) -> bool:
    return (
        documents.written_bytes > CHANGED_BYTES_MAX
        or documents.entries_touched > CHANGED_ENTRIES_MAX
    )


def _bound_entries(documents: Documents) -> None:
    if documents.entries_touched > INSERTED_ENTRIES_MAX:
        raise Refused(
            RejectCode.LIMIT_EXCEEDED,
            f"the documents make over {INSERTED_ENTRIES_MAX} entries of indexes; insert fewer",
            f"{ROOT}.documents",
        )


def _more(body: Body, following: str | None) -> dict[str, Value]:
    if following is None:
        return {"more": False, "next_cursor": None}
    change = body.get("update", body.get("merge"))
    return {"more": True, "next_cursor": encode_cursor([body["filter"], change], following)}


def _changes(body: Body, work: Work) -> list[Change]:
    if "merge" in body:
        return [parse_merge(body["merge"], f"{ROOT}.merge")]
    return parse_update(body["update"], f"{ROOT}.update", work)


def _changed(documents: Documents, record: Record, changes: list[Change]) -> Record:
    document = record.document()
    for change in changes:
        change(document)
    check_value(document, "document")
    return documents.replace(record, document, ROOT)


def _upserted(documents: Documents, body: Body, changes: list[Change]) -> dict[str, Any]:
    """A new document: what the filter says it equals, then the update."""
    document: dict[str, Any] = {}
    if "id" in body:
        document["_id"] = body["id"]
    else:
        for path, operator, operand in _write_filter(body["filter"]).conditions:
            if path == ("_id",) and operator == "$eq":
                document["_id"] = check_id(operand, f"{ROOT}.filter._id")
            elif operator == "$eq" and path[0] != "_id":
                set_at(document, path, operand, f"{ROOT}.filter.{'.'.join(path)}")
    document = _with_id(documents, document)
    for change in changes:
        change(document)
    check_value(document, "document")
    return document


def _with_id(documents: Documents, document: dict[str, Any]) -> dict[str, Any]:
    """`_id` first, made if there is none."""
    identity = document["_id"] if "_id" in document else documents.make_id()
    return {"_id": identity, **{name: document[name] for name in document if name != "_id"}}


def _check_version(record: Record | None, wanted: int | None) -> None:
    """0: there must be none."""
    there = 0 if record is None else record.version
    if wanted is not None and wanted != there:
        raise Refused(
            RejectCode.VERSION_CONFLICT,
            f"the document is of version {there}, not {wanted}" if there else "there is none",
            f"{ROOT}.if_version",
            there,
        )
