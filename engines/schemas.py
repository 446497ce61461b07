"""What the built-in engines take and answer, as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from engines.document_schema import DOCUMENT
from engines.graph_schema import GRAPH
from engines.relational_schema import RELATIONAL
from engines.schema import Described
from engines.text_schema import TEXT
from engines.timeseries_schema import TIMESERIES
from engines.vector_schema import VECTOR

SCHEMAS: Final[Mapping[str, Described]] = MappingProxyType(
    {
        "document": DOCUMENT,
        "graph": GRAPH,
        "relational": RELATIONAL,
        "text": TEXT,
        "timeseries": TIMESERIES,
        "vector": VECTOR,
    }
)
