"""Use cases of collections: the catalog, and queries, whatever the door.

A query names an operation; the operation says which engine it is of and whether it writes. A
write is checked here as far as it can be without the collection, and then decided by the state
(`engines/engine.py`); a read runs where a state is as fresh as was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from engines.catalog import Collection
from engines.codec import Value, check_value, pack_value, unpack_value
from engines.collection_requests import (
    CollectionPage,
    DescribeCollection,
    ExplainQuery,
    ListCollections,
    QueryCollection,
)
from engines.collection_writes import ALTER, CREATE, DROP
from engines.command import CollectionCommand, validate, validate_namespace
from engines.engine import Engine, Kind
from engines.errors import InvalidArgument
from engines.interfaces import CollectionResult, Limits, Rejected
from engines.registry import Registry
from engines.validation import validate_collection
from node.balanced_reads import BalancedReads, Routing
from node.clock import Clock
from node.errors import BadRequest, InternalError
from node.http_errors import rejection
from node.http_limits import INLINE_BYTES_MAX
from node.local_reads import ReaderThreads
from node.optimizer import Optimizer
from node.optimizer_service import OptimizerService
from node.reads import ReadOptions
from node.service import Router

SEED_BITS = 63


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
    """What a query was answered. `log_index`: of the write, or of the state that was read;
    `served_by`: id of the replica that a balanced read was answered by."""

    packed: bytes  # the result: `codec.unpack_value`, which may take its time
    engine: str
    kind: Kind
    log_index: int
    served_by: str | None = None
    value: Value = None  # the result, where it was computed on this node and just now


class CollectionService:
    """Loop thread only. Deadlines are `Clock.monotonic()` seconds and cover the whole call."""

    def __init__(
        self,
        router: Router,
        registry: Registry,
        limits: Limits,
        clock: Clock,
        balanced: BalancedReads,
        threads: ReaderThreads,
        optimizer: OptimizerService | None = None,
    ) -> None:
        self.optimizer = optimizer or OptimizerService(Optimizer(clock, 0))
        self._router = router
        self._threads = threads
        self.balanced = balanced
        self._limits = limits
        self._clock = clock
        self.registry = registry

    # --- The catalog ---------------------------------------------------------------

    async def create(
        self,
        namespace: str,
        name: str,
        engine: str,
        settings: dict[str, Any],
        request_id: str | None,
        deadline: float,
    ) -> Value:
        """Raises: BadRequest, Conflict (COLLECTION_EXISTS), Unavailable."""
        found = self.registry.named(engine)
        if found is None:
            known = ", ".join(sorted(self.registry.engines))
            raise InvalidArgument("engine", f"{engine} is not known here; known: {known}")
        check_value(settings, "settings")
        found.settings(settings, None)
        body = pack_value({"engine": found.name, "settings": settings})
        answer, _ = await self._write(namespace, name, CREATE, body, request_id, deadline)
        return unpack_value(answer)

    async def alter(
        self,
        namespace: str,
        name: str,
        settings: dict[str, Any],
        request_id: str | None,
        deadline: float,
    ) -> Value:
        """Raises: BadRequest, NotFound (COLLECTION_NOT_FOUND), Unavailable."""
        check_value(settings, "settings")
        body = pack_value({"settings": settings})
        answer, _ = await self._write(namespace, name, ALTER, body, request_id, deadline)
        return unpack_value(answer)

    async def drop(
        self, namespace: str, name: str, request_id: str | None, deadline: float
    ) -> Value:
        """Dropping what is not there succeeds and says so. Raises: BadRequest, Unavailable."""
        answer, _ = await self._write(namespace, name, DROP, pack_value({}), request_id, deadline)
        return unpack_value(answer)

    async def describe(
        self, namespace: str, name: str, read: ReadOptions, deadline: float
    ) -> Collection:
        """Raises: NotFound (COLLECTION_NOT_FOUND), Unavailable."""
        self._check_names(namespace, name)
        shown = await self._router.read(DescribeCollection(namespace, name), read, deadline)
        return shown.found

    async def list(
        self, namespace: str, after: str | None, limit: int, read: ReadOptions, deadline: float
    ) -> CollectionPage:
        """One page of the namespace's collections, by name."""
        validate_namespace(namespace, self._limits)
        request = ListCollections(namespace, after, limit)
        return (await self._router.read(request, read, deadline)).found

    # --- Queries -------------------------------------------------------------------

    def writes(self, operation: str) -> bool:
        """Does it, as far as is known here?"""
        known = self.registry.operations.get(operation)
        return known is not None and known.kind is Kind.WRITE

    async def query(self, query: Query, deadline: float) -> Outcome:
        """Raises: BadRequest, NotFound, Conflict, Unavailable, DeadlineExceeded."""
        operation = self.registry.operations.get(query.operation)
        if operation is None:
            raise InvalidArgument("operation", f"{query.operation} is not known here")
        self._check_names(query.namespace, query.collection)
        missing = set(query.capabilities) - operation.engine.capabilities
        if missing:
            raise InvalidArgument(
                "requirements.capabilities",
                f"engine {operation.engine.name} has no {', '.join(sorted(missing))}",
            )
        writes = operation.kind is Kind.WRITE
        if query.request_id is not None and not writes:
            raise BadRequest("a read takes no request_id", field="request_id")
        if query.explain and writes:
            raise BadRequest("only reads are explained", field="explain")
        work = partial(_packed_write if writes else _packed_read, query, operation.engine)
        # A million numbers are looked at, prepared and packed for a third of a second.
        small = query.size <= INLINE_BYTES_MAX
        packed, given = (
            work() if small else await self._threads.offload(work, deadline, query.read.priority)
        )
        if writes:
            result, log_index = await self._write(
                query.namespace, query.collection, query.operation, packed, query.request_id,
                deadline,
            )  # fmt: skip
            return Outcome(result, operation.engine.name, Kind.WRITE, log_index)
        kind = ExplainQuery if query.explain else QueryCollection
        request = kind(query.namespace, query.collection, query.operation, packed, given)
        served_by = None
        if query.routing is None:
            shown = await self._router.read(request, query.read, deadline)
        else:
            shown, served_by = await self.balanced.read(
                query.collection, request, query.read, query.routing, deadline
            )
        found = shown.found
        return Outcome(
            found.answer, found.engine, operation.kind, found.applied_index, served_by, found.value
        )

    async def _write(
        self,
        namespace: str,
        name: str,
        operation: str,
        body: bytes,
        request_id: str | None,
        deadline: float,
    ) -> tuple[bytes, int]:
        seed = self._clock.random().getrandbits(SEED_BITS)
        now_ms = self._clock.now_ms()
        command = CollectionCommand(namespace, name, operation, body, now_ms, seed, request_id)
        validate(command, self._limits)
        result = await self._router.propose(command, deadline)
        if isinstance(result, Rejected):
            raise rejection(result)
        if not isinstance(result, CollectionResult):
            raise InternalError("the state machine answered another command", definite=False)
        return result.answer, result.log_index

    def _check_names(self, namespace: str, name: str) -> None:
        validate_namespace(namespace, self._limits)
        validate_collection(name)


def _packed_write(query: Query, engine: Engine) -> tuple[bytes, None]:
    """Parameters as they travel, checked, also by the engine. Raises InvalidArgument."""
    check_value(query.parameters, "parameters")
    return pack_value(engine.prepare(query.operation, query.parameters)), None


def _packed_read(query: Query, engine: Engine) -> tuple[bytes, Mapping[str, Any]]:
    """The same of a read, and what they hold. Raises InvalidArgument."""
    shorten = getattr(engine, "shorten", None)
    parameters = query.parameters if shorten is None else shorten(query.operation, query.parameters)
    check_value(parameters, "parameters")
    return pack_value(parameters), parameters
