"""One method per call of the HTTP API: build the request, decode the answer. No I/O here.

`HivememClient` (node/client.py) inherits these and supplies `_reply`, which finds a node
and retries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from node import client_wire as wire
from node.client_batch import batch_document, run_batch
from node.client_collections import CollectionCalls
from node.client_members import MemberCalls
from node.client_retry import Call, Reply
from node.client_search import SearchCalls
from node.client_snapshots import SnapshotCalls
from node.client_txn import Transaction
from node.client_types import (
    JSON,
    BatchOperation,
    BatchResult,
    ClusterView,
    Consistency,
    DeleteResult,
    Forgotten,
    HistoryItem,
    HistoryPage,
    Item,
    NamePage,
    NodeStatus,
    Page,
    PutResult,
    TxnResult,
    Value,
)
from node.clock import Clock
from node.errors import BadRequest, HivememError

T = TypeVar("T")

PAGE_ITEMS = 1000  # items asked for at once when listing everything
FORGET_KEYS = 10_000  # deleted by one request of several


class ClientApi(MemberCalls, SnapshotCalls, CollectionCalls, SearchCalls):
    """The API's calls. Each raises HivememError's subclasses.

    `timeout_ms` (1 to 60,000) bounds a whole call with its retries; None: the client's.
    """

    _clock: Clock

    @abstractmethod
    async def _once(self, endpoint: str, call: Call, timeout_ms: int | None) -> Reply:
        """The answer of one node, asked once. Raises: HivememError."""

    @abstractmethod
    def _deadline(self, timeout_ms: int | None) -> float:
        """Monotonic seconds."""

    # --- Records -------------------------------------------------------------------

    async def get(
        self,
        namespace: str,
        session: str,
        key: str,
        *,
        consistency: Consistency | None = None,
        max_staleness_ms: int | None = None,
        min_revision: int | None = None,
        timeout_ms: int | None = None,
    ) -> Value:
        """The record. Raises: NotFound, Unavailable, DeadlineExceeded, …"""
        reads = _reads(consistency, max_staleness_ms, min_revision)
        path = f"/v1/kv/{wire.path(namespace, session, key)}"
        reply = await self._read(path, reads, timeout_ms)
        return wire.value_of(reply.headers, reply.body)

    async def put(
        self,
        namespace: str,
        session: str,
        key: str,
        value: bytes | str,
        *,
        content_type: str | None = None,
        ttl_seconds: float | None = None,
        if_version: int | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> PutResult:
        """Store `value`. `if_version` 0: only if the key is absent. Raises: Conflict, …

        `content_type` None: text for a str, octet-stream for bytes. `request_id`: give the
        same one to repeat a call whose outcome is unknown.
        """
        options: dict[str, object] = {
            "ttl_seconds": ttl_seconds,
            "if_version": if_version,
            "request_id": request_id or self._clock.new_id(),
        }
        call = Call(
            "PUT",
            f"/v1/kv/{wire.path(namespace, session, key)}{wire.query(options)}",
            headers={"Content-Type": wire.content_type_of(value, content_type)},
            body=wire.body_of(value),
            mutates=True,
        )
        return await self._write(call, wire.put_result, timeout_ms)

    async def put_json(
        self,
        namespace: str,
        session: str,
        key: str,
        value: object,
        *,
        ttl_seconds: float | None = None,
        if_version: int | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> PutResult:
        """Store `value` as JSON (application/json); `Value.json()` reads it back."""
        return await self.put(
            namespace,
            session,
            key,
            wire.json_value(value),
            content_type=JSON,
            ttl_seconds=ttl_seconds,
            if_version=if_version,
            request_id=request_id,
            timeout_ms=timeout_ms,
        )

    async def delete(
        self,
        namespace: str,
        session: str,
        key: str,
        *,
        if_version: int | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> DeleteResult:
        """Delete a record; deleting what is absent is no error. Raises: Conflict, …"""
        options: dict[str, object] = {
            "if_version": if_version,
            "request_id": request_id or self._clock.new_id(),
        }
        target = f"/v1/kv/{wire.path(namespace, session, key)}{wire.query(options)}"
        call = Call("DELETE", target, mutates=True)
        return await self._write(call, wire.delete_result, timeout_ms)

    async def forget_page(
        self,
        namespace: str,
        session: str,
        *,
        prefix: str | None = None,
        limit: int = PAGE_ITEMS,
        max_revision: int | None = None,
        timeout_ms: int | None = None,
    ) -> Forgotten:
        """Delete up to `limit` (at most 10,000) of a session's keys, in one request.

        `max_revision`: keep what changed after it; None: what changes from the call on. The
        answer's `revision` goes on under the same bound. A repetition after a lost answer, which
        the call itself may make too, does not count what was deleted before it.
        Raises BadRequest for a prefix that is empty.
        """
        _refuse_empty(prefix)
        if max_revision is None:
            max_revision = await self._bound(namespace, session, prefix, timeout_ms)
        options = {"prefix": prefix, "limit": limit, "max_revision": max_revision}
        target = f"/v1/kv/{wire.path(namespace, session)}{wire.query(options)}"
        return await self._write(Call("DELETE", target, mutates=True), wire.forgotten, timeout_ms)

    async def forget(
        self,
        namespace: str,
        session: str,
        *,
        prefix: str | None = None,
        timeout_ms: int | None = None,
    ) -> Forgotten:
        """Delete all keys of a session (with `prefix`: those that start with it) that are there
        now, in as many requests as it takes; `timeout_ms` is of each of them.

        Not one step: others see some keys gone before the rest. What is written after the call
        began is kept. It may be repeated; an error of a call that deleted keys is not definite.
        Raises BadRequest for a prefix that is empty.
        """
        _refuse_empty(prefix)
        bound = await self._bound(namespace, session, prefix, timeout_ms)
        done = Forgotten(0, 0, True, bound)
        while done.more:
            try:
                page = await self.forget_page(
                    namespace,
                    session,
                    prefix=prefix,
                    limit=FORGET_KEYS,
                    max_revision=done.revision,
                    timeout_ms=timeout_ms,
                )
            except HivememError as error:
                if done.deleted:
                    error.with_effect(f"{done.deleted} keys were deleted by requests before it")
                raise
            # Each request begins at the first key, and sees what was kept before it again.
            done = replace(page, deleted=done.deleted + page.deleted, revision=done.revision)
        return done

    async def _bound(
        self, namespace: str, session: str, prefix: str | None, timeout_ms: int | None
    ) -> int:
        """The revision up to which keys are forgotten, decided before anything is deleted: a
        request that is sent again would otherwise list, and delete, what was written since it
        was sent first."""
        listed = await self.list_page(
            namespace, session, prefix=prefix, limit=1, timeout_ms=timeout_ms
        )
        return listed.revision

    # --- Listings ------------------------------------------------------------------

    async def list_page(
        self,
        namespace: str,
        session: str,
        *,
        prefix: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        values: bool = False,
        consistency: Consistency | None = None,
        max_staleness_ms: int | None = None,
        min_revision: int | None = None,
        timeout_ms: int | None = None,
    ) -> Page:
        """One page of a session's records, keys in byte order."""
        parameters = {"prefix": prefix or None, "limit": limit, "cursor": cursor, "values": values}
        reads = _reads(consistency, max_staleness_ms, min_revision)
        path = f"/v1/kv/{wire.path(namespace, session)}"
        reply = await self._read(path, {**parameters, **reads}, timeout_ms)
        return wire.parsed(reply.body, wire.page)

    async def list(
        self,
        namespace: str,
        session: str,
        *,
        prefix: str | None = None,
        values: bool = False,
        consistency: Consistency | None = None,
        timeout_ms: int | None = None,
    ) -> AsyncIterator[Item]:
        """Every record of a session, page by page (each page at its own revision)."""
        cursor: str | None = None
        while True:
            page = await self.list_page(
                namespace,
                session,
                prefix=prefix,
                limit=PAGE_ITEMS,
                cursor=cursor,
                values=values,
                consistency=consistency,
                timeout_ms=timeout_ms,
            )
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def sessions_page(
        self,
        namespace: str,
        *,
        limit: int = PAGE_ITEMS,
        cursor: str | None = None,
        timeout_ms: int | None = None,
    ) -> NamePage:
        path = f"/v1/kv/{wire.path(namespace)}"
        reply = await self._read(path, {"limit": limit, "cursor": cursor}, timeout_ms)
        return wire.parsed(reply.body, wire.name_page("session"))

    def sessions(self, namespace: str, *, timeout_ms: int | None = None) -> AsyncIterator[str]:
        """Names of a namespace's sessions, in order."""
        return _names(
            lambda cursor: self.sessions_page(namespace, cursor=cursor, timeout_ms=timeout_ms)
        )

    async def namespaces_page(
        self,
        *,
        limit: int = PAGE_ITEMS,
        cursor: str | None = None,
        timeout_ms: int | None = None,
    ) -> NamePage:
        reply = await self._read("/v1/kv", {"limit": limit, "cursor": cursor}, timeout_ms)
        return wire.parsed(reply.body, wire.name_page("namespace"))

    def namespaces(self, *, timeout_ms: int | None = None) -> AsyncIterator[str]:
        """Names of all namespaces that hold keys or collections, in order."""
        return _names(lambda cursor: self.namespaces_page(cursor=cursor, timeout_ms=timeout_ms))

    async def history_page(
        self,
        namespace: str,
        session: str,
        key: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        values: bool = True,
        consistency: Consistency | None = None,
        timeout_ms: int | None = None,
    ) -> HistoryPage:
        """One page of a record's retained changes, newest first."""
        parameters = {"limit": limit, "cursor": cursor, "values": values}
        path = f"/v1/history/{wire.path(namespace, session, key)}"
        reads = _reads(consistency, None, None)
        reply = await self._read(path, {**parameters, **reads}, timeout_ms)
        return wire.parsed(reply.body, wire.history_page)

    async def history(
        self,
        namespace: str,
        session: str,
        key: str,
        *,
        values: bool = True,
        timeout_ms: int | None = None,
    ) -> AsyncIterator[HistoryItem]:
        """A record's retained changes, newest first."""
        cursor: str | None = None
        while True:
            page = await self.history_page(
                namespace,
                session,
                key,
                limit=PAGE_ITEMS,
                cursor=cursor,
                values=values,
                timeout_ms=timeout_ms,
            )
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def get_at(
        self,
        namespace: str,
        session: str,
        key: str,
        revision: int,
        *,
        timeout_ms: int | None = None,
    ) -> Value:
        """The record as it was at `revision`. Raises: NotFound, CompactedError."""
        path = f"/v1/history/{wire.path(namespace, session, key)}"
        reply = await self._read(path, {"at_revision": revision}, timeout_ms)
        return wire.value_of(reply.headers, reply.body)

    # --- Several at once -----------------------------------------------------------

    def txn(self, namespace: str, session: str) -> Transaction:
        """A transaction to fill and commit."""
        return Transaction(namespace, session, self._commit)

    async def _commit(
        self, txn: Transaction, request_id: str | None, timeout_ms: int | None
    ) -> TxnResult:
        document = txn.document(request_id or self._clock.new_id())
        return await self._write(_post("/v1/txn", document), wire.txn_result, timeout_ms)

    async def batch(
        self, operations: Sequence[BatchOperation], *, timeout_ms: int | None = None
    ) -> Sequence[BatchResult | HivememError]:
        """Up to 1000 independent operations; one result, or error, for each, in order.

        Operations that no quorum could decide are tried again within the deadline, each
        with its own request id. Errors of single operations are returned; what concerns
        the batch as a whole is raised.
        """
        deadline = self._deadline(timeout_ms)
        return await run_batch(operations, self._batch_once, self._clock, deadline)

    async def _batch_once(
        self, operations: Sequence[BatchOperation], timeout_ms: int
    ) -> Sequence[BatchResult | HivememError]:
        call = _post("/v1/batch", batch_document(operations))
        return await self._write(call, wire.batch_results(operations), timeout_ms)

    # --- The cluster ---------------------------------------------------------------

    async def status(
        self, endpoint: str | None = None, *, timeout_ms: int | None = None
    ) -> NodeStatus:
        """What a node says of itself: the one at `endpoint`, asked once, or any."""
        reply = await self._from(endpoint, "/v1/status", timeout_ms)
        return wire.parsed(reply.body, wire.node_status)

    async def cluster(self, *, timeout_ms: int | None = None) -> ClusterView:
        """All nodes, as the one that answers sees them."""
        call = Call("GET", "/v1/cluster", leader=False, timed=False)
        return wire.parsed((await self._reply(call, timeout_ms)).body, wire.cluster_view)

    async def health(self, endpoint: str | None = None, *, timeout_ms: int | None = None) -> bool:
        """Whether a node is ready: it knows a leader and keeps up. False also if unreachable."""
        try:
            await self._from(endpoint, "/readyz", timeout_ms)
        except HivememError:
            return False
        return True

    async def _from(self, endpoint: str | None, path: str, timeout_ms: int | None) -> Reply:
        call = Call("GET", path, leader=False, timed=False)
        if endpoint is None:
            return await self._reply(call, timeout_ms)
        return await self._once(endpoint, call, timeout_ms)

    # --- Ways of calling -----------------------------------------------------------

    async def _read(
        self, path: str, parameters: Mapping[str, object], timeout_ms: int | None
    ) -> Reply:
        stale = parameters.get("consistency") in ("stale", "eventual")
        target = f"{path}{wire.query(parameters)}"
        return await self._reply(Call("GET", target, leader=not stale, spread=stale), timeout_ms)

    async def _write(
        self, call: Call, decode: Callable[[wire.Fields], T], timeout_ms: int | None
    ) -> T:
        reply = await self._reply(call, timeout_ms)
        return wire.parsed(reply.body, decode, mutates=True)


def _reads(
    consistency: Consistency | None, max_staleness_ms: int | None, min_revision: int | None
) -> dict[str, object]:
    return {
        "consistency": consistency,
        "max_staleness_ms": max_staleness_ms,
        "min_revision": min_revision,
    }


def _post(target: str, document: bytes) -> Call:
    headers = {"Content-Type": JSON}
    return Call("POST", target, headers=headers, document=document, mutates=True)


async def _names(next_page: Callable[[str | None], Awaitable[NamePage]]) -> AsyncIterator[str]:
    cursor: str | None = None
    while True:
        page = await next_page(cursor)
        for name in page.names:
            yield name
        cursor = page.next_cursor
        if cursor is None:
            return


def _refuse_empty(prefix: str | None) -> None:
    """More likely a variable that was not set than all keys."""
    if prefix == "":
        raise BadRequest("is empty; leave it out to forget the whole session", field="prefix")
