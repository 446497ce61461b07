"""The document engine: JSON documents with secondary indexes, in MongoDB's query language.

`docs/engines/document.md` is its reference; `DESIGN-document.md` says what was decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from engines import (
    document_edit,
    document_find,
    document_part,
    document_partial,
    document_search,
)
from engines.codec import Value
from engines.derived import DerivedIndex
from engines.document_aggregate import aggregate
from engines.document_check import check
from engines.document_indexes import Index, indexes_of, parse_indexes
from engines.document_items import STATE, IndexState, State, load_state, pack_state
from engines.document_parameters import Fields
from engines.document_search import parse_text
from engines.document_shards import DocumentShards
from engines.document_writes import BUILD_DOCUMENTS_MAX, RETIRED_MAX, Documents
from engines.engine import Across, Kind, Parameters, Refused, Settings, Stamp
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.parameters import closed
from engines.shards import PART
from engines.space import Space, View

_READS: Final = (
    "document_find",
    "document_get",
    "document_count",
    "document_distinct",
    "document_aggregate",
    "document_search",
    "document_indexes",
)
# Those that a shard answers otherwise than a collection does.
_OF_PARTS: Final[Mapping[str, Callable[[View, Settings, Parameters], Value]]] = {
    "document_find": document_part.find,
    "document_get": document_part.get,
    "document_aggregate": document_partial.partial,
}
_WRITES: Final = {
    "document_insert": document_edit.insert,
    "document_upsert": document_edit.upsert,
    "document_update": document_edit.update,
    "document_delete": document_edit.delete,
    "document_index_build": document_edit.build_indexes,
}


class DocumentEngine:
    """See `engine.Engine`."""

    name = "document"
    aliases: tuple[str, ...] = ("json",)
    capabilities: frozenset[str] = frozenset(
        ("aggregation", "document_query", "secondary_indexes", "text_search", "unique_indexes")
    )
    operations: Mapping[str, Kind] = {
        **dict.fromkeys(_READS, Kind.READ),
        **dict.fromkeys(_WRITES, Kind.WRITE),
    }

    brief: frozenset[str] = frozenset(_READS)
    across: Across = DocumentShards()

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        closed(given, ("indexes", "text"), "settings.")
        before = (current or {}).get("text")
        searched = parse_text(given["text"], before) if "text" in given else before
        return {"indexes": parse_indexes(given, current), "text": searched}

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        return document_edit.prepare(operation, parameters)

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        documents = Documents(space, settings, stamp)
        answer = _WRITES[operation](documents, body)
        documents.finish()
        return answer

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """Indexes that are gone are cleared by later writes; new ones are begun, and ready at
        once if the collection is small."""
        before = indexes_of(old)
        state = load_state(space, len(before))
        known = dict(zip(before, state.indexes, strict=True))
        now = _states(indexes_of(new), known, state)
        kept = {each.number for each in now}
        state.retired += [each.number for each in state.indexes if each.number not in kept]
        state.indexes = now
        if len(state.retired) > RETIRED_MAX:
            raise Refused(
                RejectCode.LIMIT_EXCEEDED,
                f"the entries of {RETIRED_MAX} dropped indexes are not removed yet: run "
                "document_index_build first",
                "settings.indexes",
            )
        space.put(STATE, pack_state(state))
        documents = Documents(space, new, Stamp(0, 0))
        documents.build(BUILD_DOCUMENTS_MAX)
        documents.finish()

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        if PART in parameters and operation in _OF_PARTS and type(parameters[PART]) is bytes:
            return _OF_PARTS[operation](view, settings, parameters)
        match operation:
            case "document_find":
                return document_find.find(view, settings, parameters)
            case "document_get":
                return document_find.get(view, parameters)
            case "document_count":
                return document_find.count(view, settings, parameters)
            case "document_distinct":
                return document_find.distinct(view, settings, parameters)
            case "document_aggregate":
                return aggregate(view, settings, parameters)
            case "document_search":
                return document_search.search(view, settings, parameters)
            case "document_indexes":
                return _describe(view, settings, parameters)
            case _:
                raise InvalidArgument("operation", f"{operation} is no read of documents")

    def index(self, settings: Settings) -> DerivedIndex | None:
        return document_search.make_index(settings)

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        return check(view, settings)


def _states(
    indexes: tuple[Index, ...], known: Mapping[Index, IndexState], state: State
) -> list[IndexState]:
    """One for each index: its own, or a new one if it was not there just like this."""
    found: list[IndexState] = []
    for index in indexes:
        own = known.get(index)
        found.append(own or state.add_index(None if state.documents == 0 else ""))
    return found


def _describe(view: View, settings: Settings, parameters: Parameters) -> Value:
    """document_indexes."""
    Fields(parameters)
    indexes = indexes_of(settings)
    state = load_state(view, len(indexes))
    items: list[Value] = [
        {
            "name": index.name,
            "fields": [".".join(path) for path in index.fields],
            "unique": index.unique,
            "ready": each.built is None,
            "documents_with_several_entries": each.many,
        }
        for index, each in zip(indexes, state.indexes, strict=True)
    ]
    return {"items": items, "documents": state.documents}
