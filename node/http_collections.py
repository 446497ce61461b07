"""The routes of collections and queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, TypeVar

from engines.catalog import SHARDS_MAX, Collection
from engines.codec import Value, may_hold_no_number, unpack_value
from engines.engine import Kind
from engines.interfaces import Limits
from engines.validation import validate_collection
from node import cursors
from node.balanced_reads import Routing
from node.collection_service import CollectionService
from node.cursors import Listing
from node.http_bodies import Fields, parse_object
from node.http_call import Answer, Call
from node.http_limits import (
    INLINE_BYTES_MAX,
    JSON_BODY_BYTES_MAX,
    QUERY_VALUES_MAX,
    TIMEOUT_MS_MAX,
)
from node.http_params import READ_PARAMETERS, decode, namespace_name, page_limit, read_options
from node.http_params import Query as Parameters
from node.http_receive import BodyReader
from node.http_views import Json, dump, rfc3339
from node.http_wire import WhileTheClientWaits
from node.queries import Outcome, Query
from node.reads import (
    LINEARIZABLE,
    PRIORITIES,
    STALENESS_MS_MAX,
    Consistency,
    Priority,
    ReadOptions,
)
from node.replica_choice import LoadBalancing
from node.service import Service

T = TypeVar("T")

DEFAULT_NAMESPACE: Final = "default"

_LIST = READ_PARAMETERS | {"namespace", "limit", "cursor"}
_CREATE = frozenset(
    {"namespace", "name", "engine", "settings", "shards", "request_id", "timeout_ms"}
)
_ALTER = frozenset({"settings", "request_id", "timeout_ms"})
_DROP = frozenset({"request_id", "timeout_ms"})
_QUERY = frozenset(
    {
        "operation",
        "namespace",
        "collection",
        "parameters",
        "requirements",
        "request_id",
        "routing",
        "timeout_ms",
        "explain",
    }
)
_REQUIREMENTS = frozenset({"consistency", "max_staleness_ms", "capabilities", "priority"})
_OPTIMIZER = frozenset({"limit"})
_ROUTING = frozenset({"load_balancing", "preferred", "excluded"})
NAMES_MAX = 64  # capabilities, or nodes, in one request
_NONE: frozenset[str] = frozenset()
_ANYTHING = Fields({}, "requirements", _REQUIREMENTS)


class CollectionHandlers:
    """One handler per route: decode, call, encode."""

    def __init__(
        self, collections: CollectionService, service: Service, bodies: BodyReader
    ) -> None:
        self._collections = collections
        self._service = service
        self._limits: Limits = service.limits
        self._bodies = bodies

    async def list_engines(self, call: Call) -> Answer:
        Parameters(call.query, _NONE)
        items = [
            {
                "engine": engine.name,
                "aliases": list(engine.aliases),
                "capabilities": sorted(engine.capabilities),
                "operations": {name: kind.value for name, kind in engine.operations.items()},
            }
            for engine in self._collections.registry.engines.values()
        ]
        return Answer(dump({"items": items}))

    async def list_collections(self, call: Call) -> Answer:
        query = Parameters(call.query, _LIST)
        namespace = _namespace(query.text("namespace"))
        scope = (namespace.encode(),)
        after = cursors.name_position(query.text("cursor"), Listing.COLLECTIONS, scope)
        page = await self._collections.list(
            namespace, after, page_limit(query), query.read_options(),
            call.start + query.timeout_seconds(),
        )  # fmt: skip
        following = None
        if page.more:
            last = page.collections[-1].name.encode()
            following = cursors.encode(Listing.COLLECTIONS, scope, last)
        items = [_view(each) for each in page.collections]
        return Answer(dump({"items": items, "next_cursor": following}))

    async def create_collection(self, call: Call) -> Answer:
        fields = Fields(await self._body(call), "", _CREATE)
        shards = fields.optional_integer("shards", 1, SHARDS_MAX) or 1
        answer = await self._collections.create(
            _namespace(fields.optional_text("namespace")),
            fields.text("name"),
            fields.text("engine"),
            fields.members("settings"),
            fields.optional_text("request_id"),
            call.start + fields.timeout_ms() / 1000,
            shards,
        )
        return Answer(dump(_object(answer)), 201, wrote=True)

    async def get_collection(self, call: Call) -> Answer:
        namespace, name = self._names(call)
        query = Parameters(call.query, READ_PARAMETERS)
        deadline = call.start + query.timeout_seconds()
        found = await self._collections.describe(namespace, name, query.read_options(), deadline)
        return Answer(dump(_view(found)))

    async def alter_collection(self, call: Call) -> Answer:
        namespace, name = self._names(call)
        fields = Fields(await self._body(call), "", _ALTER)
        answer = await self._collections.alter(
            namespace, name, fields.members("settings"), fields.optional_text("request_id"),
            call.start + fields.timeout_ms() / 1000,
        )  # fmt: skip
        return Answer(dump(_object(answer)), wrote=True)

    async def drop_collection(self, call: Call) -> Answer:
        namespace, name = self._names(call)
        query = Parameters(call.query, _DROP)
        deadline = call.start + query.timeout_seconds()
        answer = await self._collections.drop(namespace, name, query.text("request_id"), deadline)
        return Answer(dump(_object(answer)), wrote=True)

    async def query(self, call: Call) -> Answer:
        body, size = await self._sized_body(call)
        fields = Fields(body, "", _QUERY)
        wanted, options = _ANYTHING, LINEARIZABLE
        if "requirements" in fields:
            wanted = Fields(fields.members("requirements"), "requirements", _REQUIREMENTS)
            options = _read_options(wanted)
        query = Query(
            _namespace(fields.optional_text("namespace")),
            fields.text("collection"),
            fields.text("operation"),
            fields.members("parameters"),
            options,
            fields.optional_text("request_id"),
            size,
            _names_in(wanted, "capabilities"),
            _routing(fields, options),
            "explain" in fields and fields.boolean("explain"),
        )
        deadline = call.start + fields.timeout_ms() / 1000
        if self._collections.writes(query.operation):
            outcome = await self._collections.query(query, deadline)
        else:
            with WhileTheClientWaits(call):
                outcome = await self._collections.query(query, deadline)
        if len(outcome.packed) <= INLINE_BYTES_MAX:
            encoded = _encoded(query, outcome)
        else:
            encoded = await self._service.on_thread(lambda: _encoded(query, outcome))
        return Answer(encoded, wrote=outcome.kind is Kind.WRITE)

    async def replicas(self, call: Call) -> Answer:
        Parameters(call.query, _NONE)
        items = [
            {
                "node": node,
                "in_flight": figures.in_flight,
                "answers": figures.answers,
                "failures": figures.failures,
                "latency_ms": None
                if figures.latency_seconds is None
                else figures.latency_seconds * 1000,
                "failure_share": figures.failure_share,
                "breaker": figures.breaker.value,
            }
            for node, figures in self._collections.balanced.choice.figures.items()
        ]
        return Answer(dump({"items": items}))

    async def optimizer(self, call: Call) -> Answer:
        query = Parameters(call.query, _OPTIMIZER)
        limit = page_limit(query)
        return Answer(dump(self._collections.optimizer.view(limit)))

    async def _body(self, call: Call) -> dict[str, object]:
        return (await self._sized_body(call))[0]

    async def _sized_body(self, call: Call) -> tuple[dict[str, object], int]:
        Parameters(call.query, _NONE)
        deadline = call.start + TIMEOUT_MS_MAX / 1000  # the request's own stands in the body
        body = await self._bodies.read(call, JSON_BODY_BYTES_MAX, "BODY_TOO_LARGE", deadline)
        if len(body) <= INLINE_BYTES_MAX:
            return parse_object(body, QUERY_VALUES_MAX), len(body)
        # Large things go where they do not hold up the loop.
        parsed = await self._service.on_thread(lambda: parse_object(body, QUERY_VALUES_MAX))
        return parsed, len(body)

    def _names(self, call: Call) -> tuple[str, str]:
        namespace, name = call.names
        found = decode(name, "collection").decode("utf-8")
        validate_collection(found)
        return namespace_name(namespace, self._limits), found


def _namespace(given: str | None) -> str:
    """The default where none is given; an empty one is none that could be meant."""
    return DEFAULT_NAMESPACE if given is None else given


def _routing(fields: Fields, options: ReadOptions) -> Routing | None:
    if "routing" not in fields:
        return None
    if options.consistency is not Consistency.STALE:
        fields.refuse("routing", "is only for reads of requirements.consistency stale")
    given = Fields(fields.members("routing"), "routing", _ROUTING)
    strategy = LoadBalancing.ROUND_ROBIN
    if "load_balancing" in given:
        strategy = LoadBalancing(given.choice("load_balancing", tuple(LoadBalancing)))
    return Routing(strategy, _names_in(given, "preferred"), _names_in(given, "excluded"))


def _names_in(fields: Fields, name: str) -> tuple[str, ...]:
    found: list[str] = []
    for place, value in enumerate(fields.array(name, NAMES_MAX)):
        if not isinstance(value, str):
            fields.refuse(f"{name}[{place}]", "must be text")
        found.append(value)
    return tuple(found)


def _read_options(fields: Fields) -> ReadOptions:
    options = read_options(
        fields.optional_text("consistency"),
        fields.optional_integer("max_staleness_ms", 0, STALENESS_MS_MAX),
        path="requirements.",
    )
    if "priority" not in fields:
        return options
    return replace(options, priority=Priority(fields.choice("priority", PRIORITIES)))


def _view(collection: Collection) -> Json:
    return {
        "namespace": collection.namespace,
        "name": collection.name,
        "engine": collection.engine,
        "settings": collection.settings,
        "items": collection.items,
        "item_bytes": collection.item_bytes,
        "created_at": rfc3339(collection.created_ms),
        "written_index": collection.written_index,
        "shards": collection.shards,
    }


def _encoded(query: Query, outcome: Outcome) -> bytes:
    fields: Json = {
        "operation": query.operation,
        "namespace": query.namespace,
        "collection": query.collection,
        "engine": outcome.engine,
        **_result(query, outcome),
        "log_index": outcome.log_index,
    }
    if outcome.served_by is not None:
        fields["served_by"] = outcome.served_by
    return dump(fields, finite=not may_hold_no_number(outcome.packed))


def _result(query: Query, outcome: Outcome) -> Json:
    found = unpack_value(outcome.packed) if outcome.value is None else outcome.value
    return _object(found) if query.explain else {"result": found}


def _object(answer: Value) -> dict[str, Any]:
    assert isinstance(answer, dict)  # as `engines/collection_*.py` made it
    return answer
