"""One handler per route: decode, call the service, encode. Errors are raised, never returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from engines.command import Delete, Put
from engines.interfaces import Record
from engines.read_requests import NamePage, Shown
from node import cursors, http_views
from node.clock import Clock
from node.cursors import Listing
from node.forget import Forget
from node.http_bodies import BYTES_TYPE
from node.http_call import Answer, Call
from node.http_errors import bad_request, error_body, status_of
from node.http_limits import (
    FORGET_KEYS_DEFAULT,
    FORGET_KEYS_MAX,
    INLINE_BYTES_MAX,
    JSON_BODY_BYTES_MAX,
    TIMEOUT_MS_MAX,
)
from node.http_operations import decode_batch, decode_txn, expires_ms
from node.http_params import (
    READ_PARAMETERS,
    Query,
    key_name,
    key_prefix,
    namespace_name,
    page_limit,
    session_name,
    session_path,
)
from node.http_receive import BodyReader
from node.http_views import dump
from node.http_watch import WatchStreams
from node.metrics import CONTENT_TYPE as METRICS_TYPE
from node.metrics import Metrics
from node.service import Get, Service
from node.views import NodeInfo, ReadinessCheck
from node.watch import Selector

T = TypeVar("T")

CLUSTER_TIMEOUT_MS = 1_000  # a member that is paused holds `/v1/cluster` up this long

_PUT = frozenset({"ttl_seconds", "if_version", "request_id", "timeout_ms"})
_DELETE = frozenset({"if_version", "request_id", "timeout_ms"})
_FORGET = frozenset({"prefix", "limit", "max_revision", "timeout_ms"})
_NAMES = READ_PARAMETERS | {"limit", "cursor"}
_KEYS = _NAMES | {"prefix", "values"}
_HISTORY = _NAMES | {"values", "at_revision"}
_WATCH = frozenset({"namespace", "session", "prefix", "since", "values"})
_NONE: frozenset[str] = frozenset()


class Handlers:
    """Everything the routes do."""

    def __init__(
        self,
        service: Service,
        info: NodeInfo,
        streams: WatchStreams,
        bodies: BodyReader,
        metrics: Metrics,
        clock: Clock,
        node_name: str,
    ) -> None:
        self._service = service
        self._info = info
        self._streams = streams
        self._bodies = bodies
        self._metrics = metrics
        self._clock = clock
        self._node_name = node_name

    # --- Keys ----------------------------------------------------------------------

    async def put_key(self, call: Call) -> Answer:
        namespace, session, key = self._key(call)
        query = Query(call.query, _PUT)
        deadline = call.start + query.timeout_seconds()
        ttl, if_version = query.ttl_ms(), query.integer("if_version", 0)
        request_id = query.text("request_id")
        value = await self._bodies.read(
            call, self._service.limits.value_bytes_max, "VALUE_TOO_LARGE", deadline
        )
        now = self._service.now_ms()
        result = await self._service.put(
            Put(
                namespace,
                session,
                key,
                value,
                call.request.headers.get("Content-Type") or BYTES_TYPE,
                now,
                expires_ms(ttl, now),
                if_version,
                request_id,
            ),
            deadline,
        )
        return Answer(dump(http_views.put(result)), wrote=True)

    async def get_key(self, call: Call) -> Answer:
        namespace, session, key = self._key(call)
        query = Query(call.query, READ_PARAMETERS)
        deadline = call.start + query.timeout_seconds()
        values = call.request.method != "HEAD"
        record = await self._service.get(
            namespace, session, key, query.read_options(), deadline, values=values
        )
        return self._record(record)

    async def delete_key(self, call: Call) -> Answer:
        namespace, session, key = self._key(call)
        query = Query(call.query, _DELETE)
        deadline = call.start + query.timeout_seconds()
        command = Delete(
            namespace,
            session,
            key,
            self._service.now_ms(),
            query.integer("if_version", 0),
            query.text("request_id"),
        )
        result = await self._service.delete(command, deadline)
        return Answer(dump(http_views.delete(result)), wrote=True)

    async def forget_keys(self, call: Call) -> Answer:
        namespace, session = session_path(call.names, self._service.limits)
        query = Query(call.query, _FORGET)
        prefix = key_prefix(query, self._service.limits)
        if not prefix and "prefix" in query:
            # More likely a variable that was not set than all keys.
            raise bad_request("prefix", "is empty; leave it out to forget the whole session")
        request = Forget(
            namespace,
            session,
            prefix,
            query.integer("limit", 1, FORGET_KEYS_MAX) or FORGET_KEYS_DEFAULT,
            query.integer("max_revision", 0),
        )
        done = await self._service.forget(request, call.start + query.timeout_seconds())
        return Answer(dump(http_views.forgotten(done)), wrote=True)

    def _key(self, call: Call) -> tuple[str, str, bytes]:
        limits = self._service.limits
        namespace, session, key = call.names
        return (
            namespace_name(namespace, limits),
            session_name(session, limits),
            key_name(key, limits),
        )

    def _record(self, record: Record) -> Answer:
        """A record as GET shows it; for HEAD, which read no value, with its length."""
        headers = {
            "ETag": f'"{record.version}"',
            "X-Hivemem-Version": str(record.version),
            "X-Hivemem-Revision": str(record.revision),
            "X-Hivemem-Served-By": self._node_name,
        }
        expires_at = http_views.rfc3339(record.expires_ms)
        if expires_at is not None:
            headers["X-Hivemem-Expires-At"] = expires_at
        if record.value is None:
            headers["Content-Length"] = str(record.size)
        return Answer(record.value or b"", headers=headers, content_type=record.content_type)

    # --- Listings ------------------------------------------------------------------

    async def list_keys(self, call: Call) -> Answer:
        namespace, session = session_path(call.names, self._service.limits)
        query = Query(call.query, _KEYS)
        prefix = key_prefix(query, self._service.limits)
        scope = (namespace.encode(), session.encode(), prefix)
        values = query.flag("values", False)
        page, revision = await self._service.keys(
            namespace,
            session,
            prefix,
            cursors.position(query.text("cursor"), Listing.KEYS, scope),
            page_limit(query),
            query.read_options(),
            call.start + query.timeout_seconds(),
            values=values,
        )
        following = None
        if page.more:
            following = cursors.encode(Listing.KEYS, scope, page.records[-1].key)
        size = sum(record.size for record in page.records) if values else 0
        return Answer(
            await self._encode(
                size,
                lambda: dump(
                    http_views.page(
                        [http_views.item(record, values=values) for record in page.records],
                        following,
                        revision,
                    )
                ),
            )
        )

    async def list_sessions(self, call: Call) -> Answer:
        namespace = namespace_name(call.names[0], self._service.limits)
        query = Query(call.query, _NAMES)
        scope = (namespace.encode(),)
        shown = await self._service.sessions(
            namespace,
            cursors.name_position(query.text("cursor"), Listing.SESSIONS, scope),
            page_limit(query),
            query.read_options(),
            call.start + query.timeout_seconds(),
        )
        return _names_page(shown, "session", Listing.SESSIONS, scope)

    async def list_namespaces(self, call: Call) -> Answer:
        query = Query(call.query, _NAMES)
        shown = await self._service.namespaces(
            cursors.name_position(query.text("cursor"), Listing.NAMESPACES, ()),
            page_limit(query),
            query.read_options(),
            call.start + query.timeout_seconds(),
        )
        return _names_page(shown, "namespace", Listing.NAMESPACES, ())

    async def history(self, call: Call) -> Answer:
        namespace, session, key = self._key(call)
        query = Query(call.query, _HISTORY)
        read, deadline = query.read_options(), call.start + query.timeout_seconds()
        at_revision = query.integer("at_revision", 0)
        if at_revision is not None:
            for name in ("limit", "cursor", "values"):
                if name in query:
                    raise bad_request(name, "does not go together with at_revision")
            return self._record(
                await self._service.get_at(namespace, session, key, at_revision, read, deadline)
            )
        scope = (namespace.encode(), session.encode(), key)
        before = cursors.position(query.text("cursor"), Listing.HISTORY, scope)
        values = query.flag("values", True)
        found, revision = await self._service.history(
            namespace,
            session,
            key,
            None if before is None else cursors.unpack_change_id(before),
            page_limit(query),
            read,
            deadline,
            values=values,
        )
        following = None
        if found.more:
            last = cursors.pack_change_id(found.changes[-1].id)
            following = cursors.encode(Listing.HISTORY, scope, last)
        size = sum(change.size for change in found.changes) if values else 0
        return Answer(
            await self._encode(
                size,
                lambda: dump(http_views.history(found, following, revision, values=values)),
            )
        )

    # --- Several at once -----------------------------------------------------------

    async def txn(self, call: Call) -> Answer:
        limits, now = self._service.limits, self._service.now_ms()
        body = await self._json_body(call)
        command, timeout_ms = await self._decode(call, body, lambda: decode_txn(body, limits, now))
        result = await self._service.txn(command, call.start + timeout_ms / 1000)
        records = (getattr(outcome, "record", None) for outcome in result.results)
        size = sum(record.size for record in records if record is not None)
        encoded = await self._encode(size, lambda: dump(http_views.txn(command, result)))
        return Answer(encoded, wrote=True)

    async def batch(self, call: Call) -> Answer:
        now = self._service.now_ms()
        body = await self._json_body(call)
        operations, timeout_ms = await self._decode(call, body, lambda: decode_batch(body, now))
        outcomes = await self._service.batch(operations, call.start + timeout_ms / 1000)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                self._metrics.errors[outcome.code] += 1
        size = sum(outcome.size for outcome in outcomes if isinstance(outcome, Record))
        leader = self._info.leader_http()
        encoded = await self._encode(size, lambda: dump(http_views.batch(outcomes, leader)))
        return Answer(encoded, wrote=any(not isinstance(item, Get) for item in operations))

    async def _json_body(self, call: Call) -> bytes:
        if call.query:
            Query(call.query, _NONE)  # what belongs into the body is refused here
        # The request's own deadline stands in the body.
        deadline = call.start + TIMEOUT_MS_MAX / 1000
        return await self._bodies.read(call, JSON_BODY_BYTES_MAX, "BODY_TOO_LARGE", deadline)

    async def _decode(self, call: Call, body: bytes, decode: Callable[[], T]) -> T:
        if len(body) <= INLINE_BYTES_MAX:
            return decode()
        return await self._service.offload(decode, call.start + TIMEOUT_MS_MAX / 1000)

    async def _encode(self, size: int, encode: Callable[[], bytes]) -> bytes:
        """Run `encode`, on a reader thread if it deals with `size` bytes of values."""
        return encode() if size <= INLINE_BYTES_MAX else await self._service.on_thread(encode)

    # --- Watch ---------------------------------------------------------------------

    async def watch(self, call: Call) -> web.StreamResponse:
        limits = self._service.limits
        query = Query(call.query, _WATCH)
        if "namespace" not in query:
            raise bad_request("namespace", "is missing")
        namespace = namespace_name(query.given()["namespace"], limits)
        session: str | None = None
        if "session" in query:
            session = session_name(query.given()["session"].replace("+", " "), limits)
        prefix = key_prefix(query, self._service.limits)
        if prefix and session is None:
            raise bad_request("prefix", "needs session")
        selector = Selector(namespace, session, prefix)
        since = query.text("since")
        where = None if since is None else self._streams.positions(selector, since, "since")
        # A browser repeats the first request's `since` when it reconnects; what it saw
        # last stands in the header.
        last_seen = call.request.headers.get("Last-Event-ID")
        if last_seen:
            where = self._streams.positions(selector, last_seen, "Last-Event-ID")
        return await self._streams.serve(call, selector, where, values=query.flag("values", True))

    # --- Cluster and health --------------------------------------------------------

    async def status(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        return Answer(dump(http_views.status(self._info.local_status())))

    async def cluster(self, call: Call) -> Answer:
        query = Query(call.query, frozenset({"timeout_ms"}))
        deadline = call.start + query.timeout_seconds(CLUSTER_TIMEOUT_MS)
        view = await self._info.cluster_status(max(0.001, deadline - self._clock.monotonic()))
        return Answer(dump(http_views.cluster(view)))

    async def live(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        return Answer(dump({"live": True}))

    async def ready(self, call: Call) -> Answer:
        query = Query(call.query, frozenset({"verbose"}))
        verbose = query.text("verbose") == "" or query.flag("verbose", False)
        checks = self._info.readiness()
        shown: http_views.Json = {}
        if verbose:
            shown["checks"] = [_check(check) for check in checks]
        failed = next((check for check in checks if not check.ok), None)
        if failed is None:
            return Answer(dump({"ready": True, **shown}))
        error = failed.error()
        self._metrics.errors[error.code] += 1
        return Answer(
            error_body(error, self._info.leader_http(), **shown),
            status=status_of(error),
            headers={"X-Hivemem-Error": error.code},
        )

    async def metrics(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        return Answer(self._metrics.render(), content_type=METRICS_TYPE)


def _check(check: ReadinessCheck) -> http_views.Json:
    return {"name": check.name, "ok": check.ok, "message": check.message}


def _names_page(
    shown: Shown[NamePage], field: str, listing: Listing, scope: tuple[bytes, ...]
) -> Answer:
    (names, more), revision = shown
    following = cursors.encode(listing, scope, names[-1].encode()) if more else None
    return Answer(dump(http_views.page([{field: name} for name in names], following, revision)))
