"""Verification of a document collection: documents, index entries and counts agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engines.document_indexes import Index, entries, indexes_of
from engines.document_items import (
    DOCUMENT,
    DOCUMENTS_END,
    ENTRY,
    STATE,
    IndexState,
    Record,
    entry_key,
    entry_prefix,
    entry_value,
    load_state,
    unpack_record,
)
from engines.engine import Refused
from engines.space import View


def check(view: View, settings: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, in words. Raises CorruptRecord."""
    indexes = indexes_of(settings)
    state = load_state(view, len(indexes))
    known = list(zip(indexes, state.indexes, strict=True))
    documents = 0
    found = [[0, 0] for _ in known]  # entries, documents with several
    for key, value in view.range(DOCUMENT, DOCUMENTS_END):
        record = unpack_record(key, value)
        documents += 1
        document = record.document()
        if document.get("_id") != record.id or record.version < 1:
            yield f"document {record.id} has another _id, or no version"
        for place, (index, index_state) in enumerate(known):
            if index_state.covers(record.id):
                count, problems = _document_entries(view, index, index_state, record, document)
                found[place][0] += count
                found[place][1] += count > 1
                yield from problems
    if documents != state.documents:
        yield f"there are {documents} documents, its state says {state.documents}"
    numbers = {entry_prefix(each) for each in state.retired}
    for (index, index_state), (count, many) in zip(known, found, strict=True):
        prefix = entry_prefix(index_state.number)
        numbers.add(prefix)
        there = sum(1 for _ in view.prefix(prefix))
        if there != count:
            yield f"index {index.name} has {there} entries; its documents make {count}"
        if many != index_state.many:
            yield (
                f"index {index.name}: {many} documents have several entries, its state says "
                f"{index_state.many}"
            )
    for key, _ in view.range():
        if key[:1] == ENTRY and key[:5] in numbers:
            continue
        if key[:1] != DOCUMENT and key != STATE:
            yield f"an item under {key[:64].hex()} belongs to nothing"


def _document_entries(
    view: View, index: Index, state: IndexState, record: Record, document: Any
) -> tuple[int, list[str]]:
    try:
        wanted = entries(index, document)
    except Refused as error:
        return 0, [f"document {record.id}: {error}"]
    problems: list[str] = []
    for values in wanted.keys:
        if view.get(entry_key(state.number, values, record.id)) != entry_value(values):
            problems.append(f"document {record.id} misses an entry in index {index.name}")
        if index.unique and not wanted.absent:
            prefix = entry_prefix(state.number) + values
            if sum(1 for _ in view.prefix(prefix)) > 1:
                problems.append(f"document {record.id} is not alone in unique index {index.name}")
    return len(wanted.keys), problems
