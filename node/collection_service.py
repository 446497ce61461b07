"""Use cases of collections: the catalog, and queries, whatever the door.

A query names an operation; the operation says which engine it is of and whether it writes. A
write is checked here as far as it can be without the collection, and then decided by the state
(`engines/engine.py`); a read runs where a state is as fresh as was asked for.

Whether a collection is in several shards, its home says when it is asked, and the node keeps that
in mind: what is asked of a collection that holds its items itself costs nothing more.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from engines.catalog import Collection, collection_of
from engines.codec import Value, check_value, pack_value, unpack_value
from engines.collection_requests import (
    CollectionPage,
    DescribeCollection,
    ExplainQuery,
    ListCollections,
    QueryCollection,
)
from engines.collection_writes import ALTER, CREATE, DROP
from engines.command import validate_namespace
from engines.engine import Engine, Kind, Parameters
from engines.errors import CollectionSharded, InvalidArgument
from engines.interfaces import CollectionResult, Limits, RejectCode, Rejected
from engines.registry import Operation, Registry
from engines.validation import validate_collection
from node.balanced_reads import BalancedReads
from node.clock import Clock
from node.errors import BadRequest, HivememError, Unavailable
from node.http_errors import rejection
from node.http_limits import INLINE_BYTES_MAX
from node.local_reads import ReaderThreads
from node.optimizer import Optimizer
from node.optimizer_service import OptimizerService
from node.parts import alteration_id
from node.queries import Outcome, Query, prepared, shortened
from node.reads import ReadOptions
from node.service import Router
from node.sharded_collections import CollectionGone, Placement, ShardedCollections
from node.sharded_queries import ShardedQueries

TRIES_MAX: Final = 4  # of one query, while what is known of its collection turns out to be old


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
        placement: Placement,
        optimizer: OptimizerService | None = None,
    ) -> None:
        self.sharded = ShardedCollections(router, limits, clock, placement)
        self._queries = ShardedQueries(self.sharded, router, balanced, threads, clock)
        self.optimizer = optimizer or OptimizerService(Optimizer(clock, 0))
        self._router = router
        self._threads = threads
        self.balanced = balanced
        self._limits = limits
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
        shards: int = 1,
    ) -> Value:
        """`shards`: in how many partitions its items are, for good.

        Raises: BadRequest, Conflict (COLLECTION_EXISTS), Unavailable.
        """
        self._check_names(namespace, name)
        found = self.registry.named(engine)
        if found is None:
            known = ", ".join(sorted(self.registry.engines))
            raise InvalidArgument("engine", f"{engine} is not known here; known: {known}")
        check_value(settings, "settings")
        self.sharded.check(found, found.settings(settings, None), shards)
        body: dict[str, Value] = {"engine": found.name, "settings": settings}
        if shards > 1:
            body["shards"] = shards
        result = await self.sharded.propose(namespace, name, CREATE, body, request_id, deadline)
        if _is_refused(result, RejectCode.COLLECTION_DROPPING):
            await self._finish_drop(namespace, name, deadline)
            result = await self.sharded.propose(namespace, name, CREATE, body, request_id, deadline)
        answer, home = _taken_apart(result)
        if home is None:
            return answer
        await self.sharded.complete(home, deadline)
        return {**answer, "shards": shards}

    async def alter(
        self,
        namespace: str,
        name: str,
        settings: dict[str, Any],
        request_id: str | None,
        deadline: float,
    ) -> Value:
        """Raises: BadRequest, NotFound (COLLECTION_NOT_FOUND), Unavailable."""
        self._check_names(namespace, name)
        check_value(settings, "settings")
        body: dict[str, Value] = {"settings": settings}
        result = await self.sharded.propose(namespace, name, ALTER, body, request_id, deadline)
        if _is_refused(result, RejectCode.COLLECTION_SHARDED):
            body["home"] = True
            request_id = request_id and alteration_id(name, request_id)
            result = await self.sharded.propose(namespace, name, ALTER, body, request_id, deadline)
        answer, home = _taken_apart(result)
        if home is not None:
            await self.sharded.follow(home, deadline)
        return answer

    async def drop(
        self, namespace: str, name: str, request_id: str | None, deadline: float
    ) -> Value:
        """Dropping what is not there succeeds and says so. Raises: BadRequest, Unavailable."""
        self._check_names(namespace, name)
        result = await self.sharded.propose(namespace, name, DROP, {}, request_id, deadline)
        answer, home = _taken_apart(result)
        if home is not None:
            await self.sharded.finish_drop(home, deadline)
        return answer

    async def _finish_drop(self, namespace: str, name: str, deadline: float) -> None:
        """Of a former collection of this name; one that is there stays. Raises Unavailable."""
        body: Value = {"id": b""}
        try:
            result = await self.sharded.propose(namespace, name, DROP, body, None, deadline)
            _, home = _taken_apart(result)
            if home is not None:
                await self.sharded.finish_drop(home, deadline)
        except HivememError as error:
            raise Unavailable(
                f"shards of a former collection {name} are not gone yet: {error}", code=error.code
            ) from error

    async def describe(
        self, namespace: str, name: str, read: ReadOptions, deadline: float
    ) -> Collection:
        """Raises: NotFound (COLLECTION_NOT_FOUND), Unavailable."""
        self._check_names(namespace, name)
        shown = await self._router.read(DescribeCollection(namespace, name), read, deadline)
        if shown.found.shards == 1:
            return shown.found
        (measured,) = await self.sharded.measured([shown.found], read, deadline)
        return measured

    async def list(
        self, namespace: str, after: str | None, limit: int, read: ReadOptions, deadline: float
    ) -> CollectionPage:
        """One page of the namespace's collections, by name."""
        validate_namespace(namespace, self._limits)
        request = ListCollections(namespace, after, limit)
        page = (await self._router.read(request, read, deadline)).found
        if all(each.shards == 1 for each in page.collections):
            return page
        measured = await self.sharded.measured(page.collections, read, deadline)
        return page._replace(collections=tuple(measured))

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
        known = self.sharded.known(query.namespace, query.collection)
        for _ in range(TRIES_MAX):
            try:
                if known is None:
                    return await self._undivided(query, operation, deadline)
                return await self._queries.run(query, known, operation.engine, deadline)
            except CollectionSharded as met:
                known = self.sharded.learned(met.collection)
            except CollectionGone:
                known = None
        raise Unavailable(f"collection {query.collection} is being made anew", code="OVERLOADED")

    async def _undivided(self, query: Query, operation: Operation, deadline: float) -> Outcome:
        """Of a collection that holds its items itself. Raises also CollectionSharded."""
        writes = operation.kind is Kind.WRITE
        work = partial(_packed_write if writes else _packed_read, query, operation.engine)
        # A million numbers are looked at, prepared and packed for a third of a second.
        small = query.size <= INLINE_BYTES_MAX
        packed, given = (
            work() if small else await self._threads.offload(work, deadline, query.read.priority)
        )
        if writes:
            command = self.sharded.command(
                query.namespace, query.collection, query.operation, packed, query.request_id
            )
            result = await self.sharded.decided(command, deadline)
            if _is_refused(result, RejectCode.COLLECTION_SHARDED):
                home = await self.sharded.look_up(query.namespace, query.collection, deadline)
                if home.shards == 1:
                    raise CollectionGone  # and made anew in the meantime
                raise CollectionSharded(home)
            done = _accepted(result)
            return Outcome(done.answer, operation.engine.name, Kind.WRITE, done.log_index)
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

    def _check_names(self, namespace: str, name: str) -> None:
        validate_namespace(namespace, self._limits)
        validate_collection(name)


def _packed_write(query: Query, engine: Engine) -> tuple[bytes, None]:
    return pack_value(prepared(query, engine)), None


def _packed_read(query: Query, engine: Engine) -> tuple[bytes, Parameters]:
    """As they travel, and what that holds."""
    parameters = shortened(query, engine)
    return pack_value(parameters), parameters


def _is_refused(result: CollectionResult | Rejected, code: RejectCode) -> bool:
    return isinstance(result, Rejected) and result.code is code


def _accepted(result: CollectionResult | Rejected) -> CollectionResult:
    """Raises HivememError: it was refused."""
    if isinstance(result, Rejected):
        raise rejection(result)
    return result


def _taken_apart(
    result: CollectionResult | Rejected,
) -> tuple[dict[str, Value], Collection | None]:
    """The answer to a change of the catalog, and the home whose parts are to follow."""
    answer = unpack_value(_accepted(result).answer)
    assert isinstance(answer, dict)  # as `collection_writes.py` made it
    home = answer.pop("home", None)
    return answer, None if home is None else collection_of(home)
