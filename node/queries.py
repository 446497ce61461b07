"""A query and what it is answered, whatever the door and however many shards there are."""

from __future__ import annotations

from typing import Any, NamedTuple

from engines.codec import Value, check_value
from engines.engine import Engine, Kind, Parameters
from node.balanced_reads import Routing
from node.reads import ReadOptions


class Query(NamedTuple):
    """One operation on one collection."""

    namespace: str
    collection: str
    operation: str
    parameters: dict[str, Any]
    read: ReadOptions
    request_id: str | None = None
    size: int = 0  # bytes of the request, about
    capabilities: tuple[str, ...] = ()  # that the engine must have
    routing: Routing | None = None  # of a stale read; None: this node answers
    explain: bool = False  # the result is {"result", "explain"}


class Outcome(NamedTuple):
    """What a query was answered. `log_index`: of the write, or of the state that was read, 0 if
    several partitions were asked; `served_by`: id of the replica that a balanced read was answered
    by, if it was one."""

    packed: bytes  # the result: `codec.unpack_value`, which may take its time
    engine: str
    kind: Kind
    log_index: int
    served_by: str | None = None
    value: Value = None  # the result, where it was computed on this node and just now


def prepared(query: Query, engine: Engine) -> Value:
    """The body of a write, checked as far as it can be here. Raises InvalidArgument."""
    check_value(query.parameters, "parameters")
    return engine.prepare(query.operation, query.parameters)


def shortened(query: Query, engine: Engine) -> Parameters:
    """Parameters of a read as they travel. Raises InvalidArgument."""
    shorten = getattr(engine, "shorten", None)
    parameters: Parameters = query.parameters
    if shorten is not None:
        parameters = shorten(query.operation, parameters)
    check_value(parameters, "parameters")
    return parameters
