"""The HTTP door: routes, the path of a request, start and stop.

A request passes, in this order: route, authentication, the cluster that it is meant for,
stopping, method, admission, handler. Handlers raise; `_fail` turns what they raise into the
one error shape.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from node import openapi
from node.admission import Admission, ByteBudget
from node.auth import Tokens, refuse_browser
from node.clock import Clock
from node.collection_service import CollectionService
from node.errors import MethodNotAllowed, NotFound, Unavailable, WrongCluster
from node.http_call import Answer, Call
from node.http_collections import CollectionHandlers
from node.http_errors import FATAL, as_hivemem, bad_request
from node.http_handlers import Handlers
from node.http_integrity import IntegrityHandlers
from node.http_limits import HttpLimits
from node.http_members import MemberHandlers, Members
from node.http_openapi import DocumentHandlers
from node.http_params import shown, split_target
from node.http_partitions import PartitionAdmin, PartitionHandlers
from node.http_receive import BodyReader
from node.http_search import SearchHandlers
from node.http_send import Sender
from node.http_snapshots import SnapshotHandlers
from node.http_watch import WatchStreams
from node.http_wire import BACKLOG_CONNECTIONS, Door, error_response
from node.integrity_service import IntegrityService
from node.metrics import Metrics, RouteFigures, Sources
from node.service import Service
from node.snapshot_service import SnapshotService
from node.views import NodeInfo
from node.watch_sources import Watches

# Reading what is damaged must stop the node rather than be answered from.
_WITH_BODY = frozenset({"PUT", "POST", "PATCH"})
_CHANGING = frozenset({"PUT", "POST", "PATCH", "DELETE"})
AT_ONCE_SECONDS = 0.05  # for answers that are already on their way
_UNROUTED = "unrouted"
CLUSTER_HEADER = "Hivemem-Cluster"  # the id of the cluster that a client means


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `handler` names a method of one of the handler classes."""

    method: str
    path: str
    handler: str
    open: bool = False  # answers without a token
    counted: bool = True  # takes part in requests_inflight_max


MEMBERS = "/v1/cluster/members"
MEMBER = f"{MEMBERS}/{{id}}"
SNAPSHOTS = "/v1/snapshots"
SNAPSHOT = f"{SNAPSHOTS}/{{id}}"
COLLECTIONS = "/v1/collections"
COLLECTION = f"{COLLECTIONS}/{{namespace}}/{{collection}}"
SEARCH = "/v1/search/{namespace}/{session}"
KEY = "/v1/kv/{namespace}/{session}/{key}"
ROUTES = (
    Route("PUT", KEY, "put_key"),
    Route("GET", KEY, "get_key"),
    Route("HEAD", KEY, "get_key"),
    Route("DELETE", KEY, "delete_key"),
    Route("GET", "/v1/kv/{namespace}/{session}", "list_keys"),
    Route("DELETE", "/v1/kv/{namespace}/{session}", "forget_keys"),
    Route("GET", "/v1/kv/{namespace}", "list_sessions"),
    Route("GET", "/v1/kv", "list_namespaces"),
    Route("GET", "/v1/history/{namespace}/{session}/{key}", "history"),
    Route("GET", SEARCH, "search"),
    Route("POST", "/v1/txn", "txn"),
    Route("POST", "/v1/batch", "batch"),
    # Watches have their own bound, and last.
    Route("GET", "/v1/watch", "watch", counted=False),
    Route("GET", "/v1/status", "status"),
    Route("GET", "/v1/cluster", "cluster"),
    Route("GET", MEMBERS, "list_members"),
    Route("POST", MEMBERS, "add_member"),
    Route("PATCH", MEMBER, "update_member"),
    Route("DELETE", MEMBER, "remove_member"),
    Route("POST", f"{MEMBER}/promote", "promote_member"),
    Route("POST", f"{MEMBER}/drain", "drain_member"),
    Route("POST", f"{MEMBER}/reseed", "reseed_member"),
    Route("POST", "/v1/cluster/digests", "compare_digests"),
    Route("GET", "/v1/partitions", "partitions"),
    Route("POST", "/v1/cluster/transfer-leadership", "transfer_leadership"),
    Route("GET", "/v1/engines", "list_engines"),
    Route("GET", COLLECTIONS, "list_collections"),
    Route("POST", COLLECTIONS, "create_collection"),
    Route("GET", COLLECTION, "get_collection"),
    Route("PATCH", COLLECTION, "alter_collection"),
    Route("DELETE", COLLECTION, "drop_collection"),
    Route("POST", "/v1/query", "query"),
    Route("GET", "/v1/replicas", "replicas"),
    Route("GET", "/v1/optimizer", "optimizer"),
    Route("GET", SNAPSHOTS, "list_snapshots"),
    Route("POST", SNAPSHOTS, "make_snapshot"),
    # Streams have their own bound, and last.
    Route("GET", SNAPSHOT, "get_snapshot", counted=False),
    # An overloaded node is alive, and has to be able to say that it is overloaded.
    Route("GET", "/livez", "live", open=True, counted=False),
    Route("HEAD", "/livez", "live", open=True, counted=False),
    Route("GET", "/readyz", "ready", open=True, counted=False),
    Route("HEAD", "/readyz", "ready", open=True, counted=False),
    Route("GET", "/metrics", "metrics", counted=False),
    Route("GET", "/openapi.json", "openapi"),
)
_BY_NAMES = ("/v1/kv/{namespace}", "/v1/kv/{namespace}/{session}", KEY)
_HISTORY = "/v1/history/{namespace}/{session}/{key}"
_FIXED = frozenset(route.path for route in ROUTES if "{" not in route.path)


def resolve(path: str) -> tuple[str, list[str]]:
    """The route's path and the raw names in it. Raises: NotFound ROUTE_NOT_FOUND."""
    if path.startswith("/v1/kv/"):
        names = path[7:].split("/", 2)
        return _BY_NAMES[len(names) - 1], names
    if path in _FIXED:
        return path, []
    if path.startswith("/v1/history/"):
        names = path[12:].split("/", 2)
        if len(names) == 3:
            return _HISTORY, names
    if path.startswith("/v1/search/"):
        names = path[11:].split("/")
        if len(names) == 2:
            return SEARCH, names
    if path.startswith(f"{COLLECTIONS}/"):
        names = path[len(COLLECTIONS) + 1 :].split("/")
        if len(names) == 2:
            return COLLECTION, names
    if path.startswith(f"{MEMBERS}/"):
        name, slash, rest = path[len(MEMBERS) + 1 :].partition("/")
        if rest in ("promote", "drain", "reseed") or not slash:
            return MEMBER + slash + rest, [name]
    if path.startswith(f"{SNAPSHOTS}/"):
        return SNAPSHOT, [path[len(SNAPSHOTS) + 1 :]]
    raise NotFound("no such route; docs/http-api.md lists them", code="ROUTE_NOT_FOUND")


@dataclass(slots=True)
class Target:
    """A route ready to run."""

    route: Route
    handle: Callable[[Call], Awaitable[Answer | web.StreamResponse]]
    figures: RouteFigures


@dataclass(frozen=True, slots=True)
class HttpParts:
    """What the door is built on; the daemon supplies it."""

    service: Service
    collections: CollectionService
    members: Members
    partitions: PartitionAdmin
    snapshots: SnapshotService
    integrity: IntegrityService
    watches: Watches
    info: NodeInfo
    clock: Clock
    node_name: str
    tokens: Tokens | None  # None: no authentication, for loopback only
    cluster_id: str
    limits: HttpLimits = field(default_factory=HttpLimits)
    on_fatal: Callable[[BaseException], None] | None = None


class HttpServer:
    """The HTTP door of one node. Loop thread only; make it on a running loop."""

    def __init__(self, parts: HttpParts) -> None:
        limits = parts.limits
        self._parts = parts
        self._clock = parts.clock
        self._stopping = False
        self._stopped = False
        self._admission = Admission(limits.requests_inflight_max)
        request_bytes = ByteBudget(
            "request_body_bytes_inflight_max",
            limits.request_body_bytes_inflight_max,
            self._admission,
        )
        response_bytes = ByteBudget(
            "response_body_bytes_inflight_max",
            limits.response_body_bytes_inflight_max,
            self._admission,
        )
        self._door = Door(self._serve, limits)
        self._runner = web.ServerRunner(self._door, shutdown_timeout=limits.stop_seconds_max)
        self._bodies = BodyReader(request_bytes, parts.clock)
        self._sender = Sender(response_bytes, limits.blocked_client_seconds_max, parts.clock)
        self._streams = WatchStreams(
            parts.watches,
            parts.service,
            self._sender,
            response_bytes,
            limits,
            parts.clock,
            parts.node_name,
        )
        self._snapshots = SnapshotHandlers(
            parts.snapshots, self._bodies, self._sender, limits, parts.clock, parts.node_name
        )
        self.metrics = Metrics(
            Sources(
                parts.info.group_figures,
                parts.info.sync_figures,
                parts.watches,
                self._admission,
                request_bytes,
                response_bytes,
                lambda: self._door.open_count,
                parts.service.reads,
            )
        )
        self._targets = self._build_targets()
        self._unrouted = self.metrics.route(_UNROUTED, "any")

    def _build_targets(self) -> dict[str, dict[str, Target]]:
        parts = self._parts
        handlers = Handlers(
            parts.service,
            parts.info,
            self._streams,
            self._bodies,
            self.metrics,
            parts.clock,
            parts.node_name,
        )
        owners = (
            handlers,
            SearchHandlers(parts.service),
            MemberHandlers(parts.members, self._bodies),
            PartitionHandlers(parts.partitions, self._bodies),
            CollectionHandlers(parts.collections, parts.service, self._bodies),
            self._snapshots,
            IntegrityHandlers(parts.integrity, self._bodies),
            DocumentHandlers(self._document),
        )
        targets: dict[str, dict[str, Target]] = {}
        for route in ROUTES:
            owner = next(each for each in owners if hasattr(each, route.handler))
            targets.setdefault(route.path, {})[route.method] = Target(
                route,
                getattr(owner, route.handler),
                self.metrics.route(route.path, route.method),
            )
        return targets

    def _document(self) -> dict[str, object]:
        parts = self._parts
        routes = [
            openapi.Served(each.method, each.path, each.handler, each.open) for each in ROUTES
        ]
        return openapi.document(
            routes,
            parts.service.limits,
            parts.collections.registry,
            parts.info.local_status().version,
            secured=parts.tokens is not None,
        )

    # --- Start and stop ------------------------------------------------------------

    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen. Returns the address bound (port 0 picks one). Raises: OSError."""
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, host, port, ssl_context=ssl_context, backlog=BACKLOG_CONNECTIONS
        )
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        bound = self._runner.addresses[0]
        return str(bound[0]), int(bound[1])

    def begin_stop(self) -> None:
        """From now on new requests are refused as STOPPING. Idempotent."""
        self._stopping = True

    async def stop(self, *, at_once: bool = False) -> None:
        """Refuse what is new, end streams, let requests finish, close. Idempotent.

        Requests that are still running after `stop_seconds_max` are cancelled. `at_once`: all
        are, since nothing that they wait for will come; their clients ask another node.
        """
        self.begin_stop()
        if self._stopped:
            return
        self._stopped = True
        self._snapshots.close()
        await self._streams.close()
        if at_once:
            await self._door.shutdown(AT_ONCE_SECONDS)  # zero would mean: without a limit
        await self._runner.cleanup()

    # --- The path of a request -----------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        start = self._clock.monotonic()
        figures, allow = self._unrouted, ""
        call: Call | None = None
        counted = False
        try:
            raw_path, query = split_target(request.raw_path)
            path, names = resolve(raw_path)
            methods = self._targets[path]
            allow = ", ".join(methods) if request.method not in methods else ""
            target = methods.get(request.method)
            self._check(request, target)
            if target is None:
                raise MethodNotAllowed(f"only {allow} can be used here")
            figures = target.figures
            if request.method not in _WITH_BODY and request.body_exists:
                raise bad_request("body", f"is not allowed with {request.method}")
            if target.route.counted:
                self._admission.enter()
                counted = True
            call = Call(request, start, names, query, figures)
            answer = await target.handle(call)
            if isinstance(answer, Answer):
                response = await self._sender.respond(call, answer)
            else:
                response = answer
        except Exception as error:
            response = self._fail(request, error, allow)
        finally:
            if counted:
                self._admission.leave()
            if call is not None:
                self._bodies.release(call)
        if call is None or not call.observed:
            figures.observe(response.status, self._clock.monotonic() - start)
        return response

    def _check(self, request: web.BaseRequest, target: Target | None) -> None:
        """Raises: Unavailable STOPPING, Unauthenticated, WrongCluster."""
        headers = request.headers
        if target is not None and target.route.open:
            if self._stopping and target.route.handler != "live":
                raise Unavailable("this node is stopping", code="STOPPING")
            return
        if self._parts.tokens is not None:
            self._parts.tokens.authenticate(headers.get("Authorization"))
        else:
            refuse_browser(headers.get("Host"), headers.get("Origin"))
        meant = headers.get(CLUSTER_HEADER)
        if meant is not None and meant != self._parts.cluster_id:
            # Whoever named it would read and write what is another's.
            raise WrongCluster(
                f"this node is of cluster {self._parts.cluster_id}, not of {shown(meant)}"
            )
        if self._stopping:
            raise Unavailable("this node is stopping", code="STOPPING")

    def _fail(self, request: web.BaseRequest, error: Exception, allow: str) -> web.StreamResponse:
        if isinstance(error, FATAL) and self._parts.on_fatal is not None and not self._stopping:
            self._parts.on_fatal(error)
        if isinstance(error, ConnectionError):
            # The client is gone: nobody will read this.
            return error_response(Unavailable("the connection was lost", definite=False), None)
        known = as_hivemem(error, writes=request.method in _CHANGING)
        self.metrics.errors[known.code] += 1
        response = error_response(known, self._parts.info.leader_http())
        if known.code == "METHOD_NOT_ALLOWED":
            response.headers["Allow"] = allow
        # What is left of a body that was refused is not worth reading.
        if self._stopping or not request.content.is_eof():
            response.force_close()
        if request.writer.output_size and request.transport is not None:
            # An answer was begun: a second one would be taken for more of the first.
            request.transport.abort()
        return response
