"""Calls about collections, and queries. No I/O here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

from node import client_wire as wire
from node.client_retry import Call, Reply
from node.client_types import JSON, Consistency, Priority
from node.clock import Clock

T = TypeVar("T")

LoadBalancing = Literal["round_robin", "least_loaded", "performance_based", "capability_based"]

_COLLECTIONS = "/v1/collections"
_PAGE_ITEMS = 1_000


class CollectionInfo(TypedDict):
    """One collection. `items`, `item_bytes`: records of its engine, which may be more than were
    stored; `written_index`: of the log, the entry that changed it last; `shards`: in how many
    partitions its items are, and if in several, `written_index` is the sum of theirs."""

    namespace: str
    name: str
    engine: str
    settings: dict[str, Any]
    items: int
    item_bytes: int
    created_at: str
    written_index: int
    shards: NotRequired[int]  # which nodes of older builds do not say


class CollectionPage(TypedDict):
    """Collections in order of their names."""

    items: list[CollectionInfo]
    next_cursor: str | None


class QueryAnswered(TypedDict):
    """What every query is answered. `log_index`: of the write, or of the state that was read."""

    operation: str
    namespace: str
    collection: str
    engine: str
    result: Any
    log_index: int


class QueryResult(QueryAnswered, total=False):
    """`served_by`: id of the node that was chosen, if the request had a routing; `explain`: how
    the answer came about, where that was asked for."""

    served_by: str
    explain: dict[str, Any]


class OptimizerStatus(TypedDict):
    """docs/optimizer.md says what the members hold."""

    node: str | None
    enabled: bool
    since_ms: int
    patterns: dict[str, int]
    executions: int
    cache_hits: int
    trials: dict[str, int]
    cache: list[dict[str, Any]]
    recommendations: list[dict[str, Any]]
    items: list[dict[str, Any]]


class Routing(TypedDict, total=False):
    """Which replica is to answer a stale read; `preferred` and `excluded` are nodes."""

    load_balancing: LoadBalancing
    preferred: list[str]
    excluded: list[str]


class EngineInfo(TypedDict):
    """One engine of a node. `operations`: name → read or write."""

    engine: str
    aliases: list[str]
    capabilities: list[str]
    operations: dict[str, str]


class CollectionCalls(ABC):
    """Part of `ClientApi`."""

    _clock: Clock

    @abstractmethod
    async def _reply(self, call: Call, timeout_ms: int | None) -> Reply:
        """The successful answer to `call`. Raises: HivememError."""

    async def engines(self, *, timeout_ms: int | None = None) -> list[EngineInfo]:
        """The engines of the node that answers."""
        reply = await self._reply(Call("GET", "/v1/engines", timed=False), timeout_ms)
        return wire.parsed(reply.body, lambda fields: cast("list[EngineInfo]", fields["items"]))

    async def openapi(self, *, timeout_ms: int | None = None) -> dict[str, Any]:
        """The HTTP API as the node that answers describes it: every operation of its engines."""
        call = Call("GET", "/openapi.json", leader=False, timed=False)
        return wire.parsed((await self._reply(call, timeout_ms)).body, dict)

    async def create_collection(
        self,
        namespace: str,
        name: str,
        engine: str,
        settings: Mapping[str, Any] | None = None,
        *,
        shards: int = 1,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> dict[str, Any]:
        """A new, empty collection. `shards`: in how many partitions its items are, for good.

        Raises Conflict COLLECTION_EXISTS, BadRequest, …
        """
        fields: wire.Fields = {
            "namespace": namespace,
            "name": name,
            "engine": engine,
            "settings": dict(settings or {}),
        }
        if shards != 1:
            fields["shards"] = shards
        return await self._change_collection("POST", _COLLECTIONS, fields, request_id, timeout_ms)

    async def alter_collection(
        self,
        namespace: str,
        name: str,
        settings: Mapping[str, Any],
        *,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> dict[str, Any]:
        """Change settings that can change. Raises NotFound COLLECTION_NOT_FOUND, BadRequest, …"""
        fields: wire.Fields = {"settings": dict(settings)}
        return await self._change_collection(
            "PATCH", _path(namespace, name), fields, request_id, timeout_ms
        )

    async def drop_collection(
        self,
        namespace: str,
        name: str,
        *,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> bool:
        """Whether there was one to drop."""
        options = {"request_id": request_id or self._clock.new_id()}
        call = Call("DELETE", f"{_path(namespace, name)}{wire.query(options)}", mutates=True)
        reply = await self._reply(call, timeout_ms)
        return wire.parsed(reply.body, lambda fields: fields["dropped"] is True, mutates=True)

    async def collection(
        self, namespace: str, name: str, *, timeout_ms: int | None = None
    ) -> CollectionInfo:
        """Raises NotFound COLLECTION_NOT_FOUND, …"""
        reply = await self._reply(Call("GET", _path(namespace, name)), timeout_ms)
        return wire.parsed(reply.body, _fields_of(CollectionInfo))

    async def collections_page(
        self,
        namespace: str,
        *,
        limit: int = _PAGE_ITEMS,
        cursor: str | None = None,
        timeout_ms: int | None = None,
    ) -> CollectionPage:
        """One page of a namespace's collections."""
        options = {"namespace": namespace, "limit": limit, "cursor": cursor}
        reply = await self._reply(Call("GET", f"{_COLLECTIONS}{wire.query(options)}"), timeout_ms)
        return wire.parsed(reply.body, _fields_of(CollectionPage))

    async def collections(
        self, namespace: str, *, timeout_ms: int | None = None
    ) -> AsyncIterator[CollectionInfo]:
        """Every collection of a namespace, by name."""
        cursor: str | None = None
        while True:
            page = await self.collections_page(namespace, cursor=cursor, timeout_ms=timeout_ms)
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def query(
        self,
        namespace: str,
        collection: str,
        operation: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        writes: bool | None = None,
        consistency: Consistency | None = None,
        max_staleness_ms: int | None = None,
        priority: Priority | None = None,
        capabilities: Sequence[str] = (),
        routing: Routing | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
        explain: bool = False,
    ) -> QueryResult:
        """One operation on a collection; docs/engines/ lists them. `explain`: of a read, say also
        how the answer came about.

        `priority`: of a read that has to wait for a thread; medium unless given.
        `writes` None: asked of a node the first time, by operation. A write is repeated with
        the same request id, so that it is applied once. `capabilities`: what the engine must
        have; `routing`: of a stale read. Raises: HivememError's subclasses.
        """
        if writes is None:
            writes = await self.is_write(operation, timeout_ms=timeout_ms)
        requirements = wire.without_none(
            {
                "consistency": consistency,
                "max_staleness_ms": max_staleness_ms,
                "priority": priority,
            }
        )
        if capabilities:
            requirements["capabilities"] = list(capabilities)
        fields: wire.Fields = {
            "namespace": namespace,
            "collection": collection,
            "operation": operation,
            "parameters": dict(parameters or {}),
            "requirements": requirements,
        }
        if explain:
            fields["explain"] = True
        if routing is not None:
            fields["routing"] = dict(routing)
        if writes:
            fields["request_id"] = request_id or self._clock.new_id()
        stale = not writes and consistency in ("stale", "eventual")
        call = Call(
            "POST",
            "/v1/query",
            headers={"Content-Type": JSON},
            document=wire.dumps(fields),
            mutates=writes,
            leader=not stale,
            spread=stale,
        )
        reply = await self._reply(call, timeout_ms)
        return wire.parsed(reply.body, _fields_of(QueryResult), mutates=writes)

    async def optimizer(
        self, *, limit: int = 100, timeout_ms: int | None = None
    ) -> OptimizerStatus:
        """What the node that answers, the leader if it can be reached, learned of its queries."""
        call = Call("GET", f"/v1/optimizer{wire.query({'limit': limit})}", timed=False)
        reply = await self._reply(call, timeout_ms)
        return wire.parsed(reply.body, _fields_of(OptimizerStatus))

    _writing: dict[str, bool] | None = None  # operation → does it write?

    async def is_write(self, operation: str, *, timeout_ms: int | None = None) -> bool:
        """Whether an operation of a query writes, as a node says.

        Asked once, and again about names that were not in the answer. What is still not known
        counts as a write: another build may know it, and a repetition must not double it.
        """
        if self._writing is None or operation not in self._writing:
            self._writing = {
                name: kind == "write"
                for engine in await self.engines(timeout_ms=timeout_ms)
                for name, kind in engine["operations"].items()
            }
        return self._writing.get(operation, True)

    async def _change_collection(
        self,
        method: str,
        path: str,
        fields: wire.Fields,
        request_id: str | None,
        timeout_ms: int | None,
    ) -> dict[str, Any]:
        fields["request_id"] = request_id or self._clock.new_id()
        headers = {"Content-Type": JSON}
        document = wire.dumps(fields)
        call = Call(method, path, headers=headers, document=document, mutates=True)
        reply = await self._reply(call, timeout_ms)
        return wire.parsed(reply.body, dict, mutates=True)


def _path(namespace: str, name: str) -> str:
    return f"{_COLLECTIONS}/{wire.path(namespace, name)}"


def _fields_of(kind: type[T]) -> Callable[[wire.Fields], T]:
    """The document, which must have every member that a TypedDict requires."""

    def decode(fields: wire.Fields) -> T:
        for name in kind.__required_keys__:  # type: ignore[attr-defined]
            fields[name]
        return cast(T, fields)

    return decode
