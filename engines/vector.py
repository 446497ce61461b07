"""The vector engine: nearest neighbours, with metadata, over items that are the truth.

Operations and limits: docs/engines/vector.md. Decisions: DESIGN-vector.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from engines import vector_hybrid, vector_reads, vector_settings, vector_writes
from engines.codec import Value
from engines.derived import DerivedIndex
from engines.engine import Across, Kind, Parameters, Settings, Stamp
from engines.errors import CorruptRecord, InvalidArgument
from engines.space import Space, View
from engines.vector_index import VectorIndex
from engines.vector_items import PREFIX, item_id, unpack_item, unpack_metadata
from engines.vector_parameters import shortened
from engines.vector_shards import VectorShards

GRAPH_ROWS_MIN: Final = 1_000  # vectors; fewer are compared one by one


class VectorEngine:
    """See `engines.engine.Engine`, `AnswersTogether` and `ShortensReads`."""

    name = "vector"
    aliases: tuple[str, ...] = ("lancedb",)
    capabilities = frozenset({"vector_search", "similarity", "metadata_filter", "hybrid_search"})
    operations: Mapping[str, Kind] = {
        "vector_insert": Kind.WRITE,
        "vector_upsert": Kind.WRITE,
        "vector_update": Kind.WRITE,
        "vector_delete": Kind.WRITE,
        "vector_get": Kind.READ,
        "vector_list": Kind.READ,
        "vector_search": Kind.READ,
        "hybrid_search": Kind.READ,
        "vector_count": Kind.READ,
        "vector_info": Kind.STATUS,
    }

    across: Across = VectorShards()

    def __init__(self, graph_rows_min: int = GRAPH_ROWS_MIN) -> None:
        self._graph_rows_min = graph_rows_min

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        return vector_settings.complete(given, current)

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        return vector_writes.prepare(operation, parameters)

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        return vector_writes.apply(space, settings, operation, body, stamp)

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """Nothing that is stored depends on what can change."""

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        match operation:
            case "vector_search":
                return vector_reads.search(view, settings, parameters)
            case "hybrid_search":
                return vector_hybrid.search(view, settings, parameters)
            case "vector_get":
                return vector_reads.get(view, settings, parameters)
            case "vector_list":
                return vector_reads.listed(view, settings, parameters)
            case "vector_count":
                return vector_reads.count(view, settings, parameters)
            case _:
                return vector_reads.info(view, settings, parameters)

    def shorten(self, operation: str, parameters: Parameters) -> Parameters:
        if operation in ("vector_search", "hybrid_search"):
            return shortened(parameters)
        return parameters

    @property
    def together(self) -> frozenset[str]:
        return frozenset({"vector_search"})

    def query_together(
        self, view: View, settings: Settings, operation: str, many: Sequence[Parameters]
    ) -> list[Value | InvalidArgument | None]:
        return vector_reads.search_together(view, settings, many)

    def index(self, settings: Settings) -> DerivedIndex | None:
        if settings["text"] is not None:
            return vector_hybrid.HybridIndex(settings, self._graph_rows_min)
        return VectorIndex(settings, self._graph_rows_min)

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        width = vector_settings.vector_bytes(settings)
        for key, value in view.range():
            if not key.startswith(PREFIX):
                yield f"an item under {key[:64].hex()}, which is no vector's"
                continue
            try:
                item = unpack_item(key, value)
                unpack_metadata(item.metadata, key)
                identity = item_id(key)
            except (CorruptRecord, UnicodeDecodeError) as error:
                yield str(error)
                continue
            if len(item.vector) != width:
                yield f"vector {identity} has {len(item.vector)} bytes, not {width}"
                continue
            if settings["scalar"] != "b1":
                try:
                    vector_settings.stored(settings, item.vector, identity)
                except InvalidArgument as error:
                    yield str(error)
