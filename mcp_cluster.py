"""The cluster as a running MCP server knows it: calls of the client that tools are made of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import mcp_answers as answers
import mcp_schemas as schemas
import mcp_values
from mcp_collections import Collections
from node.client import (
    ClusterView,
    Consistency,
    HistoryPage,
    HivememClient,
    NodeStatus,
    Page,
    Value,
)
from node.client_collections import OptimizerStatus
from node.clock import Clock
from node.errors import HivememError, NotFound

AnyPage = TypeVar("AnyPage")

VIEW_MS_MAX = 2000  # ms; how long a health check waits for a node that answers
PARTICIPANTS_SECONDS_MAX = 0.5  # how much longer a decision waits for the cluster's members
GUIDE_NAMESPACE = "default"  # the guide's tools know sessions and keys only


@dataclass(slots=True)
class Cluster:
    """The client of one running server, and what the server remembers between calls."""

    client: HivememClient
    clock: Clock
    cluster_id: str | None = None
    revision_seen: int = 0  # stale reads wait for it: an agent sees what it wrote and read before
    collections: Collections = field(init=False)

    def __post_init__(self) -> None:
        self.collections = Collections(self.client, self.clock)

    def saw(self, revision: int) -> None:
        self.revision_seen = max(self.revision_seen, revision)

    def now(self) -> str:
        return answers.rfc3339(datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC))

    async def read(
        self,
        namespace: str,
        session: str,
        key: str,
        consistency: Consistency,
        timeout_ms: int | None = None,
    ) -> Value | None:
        """The record, or None if there is none."""
        stale = consistency in ("stale", "eventual")
        try:
            found = await self.client.get(
                namespace,
                session,
                key,
                consistency=consistency,
                min_revision=self.revision_seen or None if stale else None,
                timeout_ms=timeout_ms,
            )
        except NotFound as error:
            _require_missing_key(error)
            return None
        self.saw(found.revision)
        return found

    async def keys(
        self,
        namespace: str,
        session: str,
        prefix: str,
        limit: int,
        cursor: str | None,
        values: bool,
    ) -> schemas.ListAnswer:
        async def fetch(limit: int) -> Page:
            return await self.client.list_page(
                namespace, session, prefix=prefix or None, limit=limit, cursor=cursor, values=values
            )

        return answers.list_answer(await fitting_page(fetch, _item_sizes, limit))

    async def names(self, namespace: str, limit: int, cursor: str | None) -> schemas.ListAnswer:
        """Sessions of a namespace, or all namespaces."""
        if namespace == schemas.ALL_NAMESPACES:
            page = await self.client.namespaces_page(limit=limit, cursor=cursor)
            found = schemas.ListAnswer(namespaces=list(page.names), truncated=False)
        else:
            page = await self.client.sessions_page(namespace, limit=limit, cursor=cursor)
            found = schemas.ListAnswer(sessions=list(page.names), truncated=False)
        found.next_cursor = page.next_cursor
        found.truncated = page.next_cursor is not None
        return found

    async def past(
        self, namespace: str, session: str, key: str, limit: int, cursor: str | None
    ) -> schemas.HistoryAnswer:
        async def fetch(limit: int) -> HistoryPage:
            return await self.client.history_page(
                namespace, session, key, limit=limit, cursor=cursor
            )

        return answers.history_answer(await fitting_page(fetch, _item_sizes, limit))

    async def past_at(
        self, namespace: str, session: str, key: str, revision: int
    ) -> schemas.HistoryAnswer:
        try:
            found = await self.client.get_at(namespace, session, key, revision)
        except NotFound as error:
            _require_missing_key(error)
            return answers.past_answer(None)
        return answers.past_answer(found)

    # --- The guide's tools -----------------------------------------------------------

    async def distribute(
        self,
        operation: schemas.DoneOperation,
        session: str,
        key: str,
        value: object,
        consistency: Consistency,
        timeout_ms: int,
    ) -> tuple[schemas.DistributeResult, ClusterView | None]:
        """Do one operation, and ask meanwhile who takes part; None: not known in time."""
        looking = asyncio.create_task(self.view())
        try:
            result = await self._operate(operation, session, key, value, consistency, timeout_ms)
            await asyncio.wait({looking}, timeout=PARTICIPANTS_SECONDS_MAX)
        finally:
            looking.cancel()
        # What was done is done, whatever became of the question who took part.
        if not looking.done() or looking.exception() is not None:
            return result, None
        view = looking.result()
        return result, None if isinstance(view, HivememError) else view

    async def _operate(
        self,
        operation: schemas.DoneOperation,
        session: str,
        key: str,
        value: object,
        consistency: Consistency,
        timeout_ms: int,
    ) -> schemas.DistributeResult:
        place = (GUIDE_NAMESPACE, session, key)
        if operation == "read":
            return answers.distributed_read(await self.read(*place, consistency, timeout_ms))
        if operation == "write":
            data, content_type = mcp_values.to_bytes(value)
            put = await self.client.put(
                *place, data, content_type=content_type, timeout_ms=timeout_ms
            )
            self.saw(put.revision)
            return answers.distributed_write(data, content_type, put)
        gone = await self.client.delete(*place, timeout_ms=timeout_ms)
        self.saw(gone.revision)
        return schemas.DistributeResult(
            found=gone.deleted, version=gone.version, revision=gone.revision
        )

    async def view(self) -> ClusterView | HivememError:
        """The cluster as one node sees it, or why no node says so in time."""
        try:
            view = await self.client.cluster(timeout_ms=VIEW_MS_MAX)
        except HivememError as error:
            return error
        self.cluster_id = view["cluster_id"]
        return view

    async def leader_status(self, view: ClusterView | HivememError) -> NodeStatus | None:
        """What the leader says of itself; None if there is none, or it does not answer."""
        if isinstance(view, HivememError):
            return None
        leader = next((node for node in view["nodes"] if node["id"] == view["leader"]), None)
        if leader is None or leader["http"] is None:
            return None
        with contextlib.suppress(HivememError):
            return await self.client.status(leader["http"], timeout_ms=VIEW_MS_MAX)
        return None

    async def optimizer(self, view: ClusterView | HivememError) -> OptimizerStatus | None:
        """What the optimizer of the leader has done; None if nobody says."""
        if isinstance(view, HivememError):
            return None
        with contextlib.suppress(HivememError):
            return await self.client.optimizer(limit=1, timeout_ms=VIEW_MS_MAX)
        return None


def _require_missing_key(error: NotFound) -> None:
    """Raise `error` unless a key was not found: a server without the route knows no keys."""
    if error.code != "KEY_NOT_FOUND":
        raise error


def _item_sizes(page: Page | HistoryPage) -> list[int]:
    return answers.item_sizes(page.items)


async def fitting_page(
    fetch: Callable[[int], Awaitable[AnyPage]], sizes: Callable[[AnyPage], list[int]], limit: int
) -> AnyPage:
    """A page that fits into one answer: fetched again, shorter, where it does not.

    `sizes`: bytes of each item of a page. Only the cluster can make the cursor that goes on
    after a shorter page.
    """
    while True:
        page = await fetch(limit)
        found = sizes(page)
        fits = mcp_values.fitting(found, mcp_values.VALUE_BYTES_MAX)
        if fits == len(found):
            return page
        limit = fits
