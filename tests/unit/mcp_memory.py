"""A cluster in a dict, with the part of `HivememClient` that the MCP server uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from node.client import (
    ClusterView,
    DeleteResult,
    HistoryItem,
    HistoryPage,
    Item,
    NamePage,
    NodeStatus,
    NodeView,
    Page,
    PutResult,
    Value,
)
from node.errors import BadRequest, Conflict, HivememError, NotFound

NOW = datetime(2026, 5, 8, 13, 56, tzinfo=UTC)


def node(name: str, *, healthy: bool = True) -> NodeView:
    return NodeView(
        id=f"id-{name}",
        name=name,
        role="follower" if healthy else None,
        http=f"http://{name}",
        peer=None,
        redis=None,
        pid=1 if healthy else None,
        version="1" if healthy else None,
        healthy=healthy,
        term=3,
        log_index=9,
        commit_index=9,
        applied_index=9,
        disk_bytes=1,
        memory_bytes=1,
        uptime_seconds=1.0,
    )


def view(*nodes: NodeView, leader: str | None = "id-a") -> ClusterView:
    return ClusterView(
        cluster_id="c1",
        leader=leader,
        term=3,
        nodes=list(nodes) or [node("a"), node("b"), node("c")],
    )


@dataclass
class Memory:
    """Keeps everything; `fail` is raised by every call, `calls` counts them."""

    fail: HivememError | None = None
    calls: list[str] = field(default_factory=list)
    min_revisions: list[int | None] = field(default_factory=list)
    cluster_view: ClusterView = field(default_factory=view)
    optimizes: bool = True
    revision: int = 0
    past: dict[tuple[str, str, str], list[HistoryItem]] = field(default_factory=dict)
    expiry: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    is_open: bool = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_open = False

    def _called(self, name: str) -> None:
        assert self.is_open
        self.calls.append(name)
        if self.fail is not None:
            raise self.fail

    def _live(self, place: tuple[str, str, str]) -> HistoryItem | None:
        past = self.past.get(place)
        return past[-1] if past and past[-1].type == "put" else None

    def _compare(self, place: tuple[str, str, str], if_version: int | None) -> int:
        live = self._live(place)
        version = live.version if live else 0
        if if_version is not None and if_version != version:
            raise Conflict("the versions differ", version=version)
        return version

    def _change(self, place: tuple[str, str, str], **fields: Any) -> HistoryItem:
        self.revision += 1
        change = HistoryItem(revision=self.revision, time=NOW, **fields)
        self.past.setdefault(place, []).append(change)
        return change

    def _value(self, place: tuple[str, str, str], found: HistoryItem) -> Value:
        assert found.value is not None
        return Value(
            value=found.value,
            content_type=found.content_type,
            version=found.version,
            revision=found.revision,
            expires_at=self.expiry.get(place),
            served_by="a",
        )

    async def get(self, *place: str, min_revision: int | None = None, **_: object) -> Value:
        self._called("get")
        self.min_revisions.append(min_revision)
        found = self._live(place)  # type: ignore[arg-type]
        if found is None:
            raise NotFound("no such key")
        return self._value(place, found)  # type: ignore[arg-type]

    async def put(
        self,
        namespace: str,
        session: str,
        key: str,
        value: bytes,
        *,
        content_type: str,
        ttl_seconds: float | None = None,
        if_version: int | None = None,
        timeout_ms: int | None = None,
    ) -> PutResult:
        self._called("put")
        place = (namespace, session, key)
        version = self._compare(place, if_version) + 1
        done = self._change(
            place,
            type="put",
            version=version,
            size=len(value),
            content_type=content_type,
            value=value,
        )
        if ttl_seconds is not None:
            self.expiry[place] = NOW + timedelta(seconds=ttl_seconds)
        return PutResult(done.version, done.revision)

    async def delete(
        self, *place: str, if_version: int | None = None, timeout_ms: int | None = None
    ) -> DeleteResult:
        self._called("delete")
        version = self._compare(place, if_version)  # type: ignore[arg-type]
        if version == 0:
            return DeleteResult(deleted=False, version=None, revision=self.revision)
        done = self._change(
            place,  # type: ignore[arg-type]
            type="delete",
            version=version,
            size=0,
            content_type="",
            value=None,
        )
        return DeleteResult(deleted=True, version=version, revision=done.revision)

    async def list_page(
        self,
        namespace: str,
        session: str,
        *,
        prefix: str | None = None,
        limit: int,
        cursor: str | None = None,
        values: bool = False,
    ) -> Page:
        self._called("list_page")
        after = _position(cursor)
        keys = sorted(
            key
            for (n, s, key) in self.past
            if (n, s) == (namespace, session)
            and key.startswith(prefix or "")
            and key > after
            and self._live((n, s, key))
        )
        items = []
        for key in keys[:limit]:
            live = self._live((namespace, session, key))
            assert live is not None
            items.append(
                Item(
                    key=key,
                    version=live.version,
                    revision=live.revision,
                    created_revision=live.revision,
                    content_type=live.content_type,
                    size=live.size,
                    created_at=NOW,
                    updated_at=NOW,
                    expires_at=None,
                    value=live.value if values else None,
                )
            )
        more = len(keys) > limit
        return Page(tuple(items), f"after:{items[-1].key}" if more else None, self.revision)

    async def sessions_page(
        self, namespace: str, *, limit: int, cursor: str | None = None
    ) -> NamePage:
        self._called("sessions_page")
        return _names({s for (n, s, _) in self.past if n == namespace}, limit, cursor)

    async def namespaces_page(self, *, limit: int, cursor: str | None = None) -> NamePage:
        self._called("namespaces_page")
        return _names({n for (n, _, _) in self.past}, limit, cursor)

    async def history_page(self, *place: str, limit: int, cursor: str | None = None) -> HistoryPage:
        self._called("history_page")
        before = int(_position(cursor) or self.revision + 1)
        past = self.past.get(place, [])  # type: ignore[call-overload]
        items = [item for item in reversed(past) if item.revision < before]
        more = len(items) > limit
        items = items[:limit]
        next_cursor = f"after:{items[-1].revision}" if more else None
        return HistoryPage(tuple(items), next_cursor, compacted=False, revision=self.revision)

    async def get_at(self, namespace: str, session: str, key: str, revision: int) -> Value:
        self._called("get_at")
        place = (namespace, session, key)
        then = [item for item in self.past.get(place, []) if item.revision <= revision]
        if not then or then[-1].type != "put":
            raise NotFound("no such key")
        return self._value(place, then[-1])

    async def cluster(self, *, timeout_ms: int | None = None) -> ClusterView:
        self._called("cluster")
        return self.cluster_view

    async def optimizer(self, *, limit: int = 100, timeout_ms: int | None = None) -> Any:
        self._called("optimizer")
        return {
            "node": "a",
            "enabled": self.optimizes,
            "executions": 8,
            "cache_hits": 2,
            "patterns": {"count": 3, "max": 10, "forgotten": 0},
            "trials": {"trying": 1, "adopted": 1, "rolled_back": 0, "rejected": 0},
            "cache": [],
            "recommendations": [{"type": "index", "priority": "high"}],
            "items": [],
        }

    async def status(self, endpoint: str, *, timeout_ms: int | None = None) -> NodeStatus:
        self._called(f"status {endpoint}")
        return NodeStatus(  # type: ignore[typeddict-item]
            revision=self.revision,
            keys=1,
            commit_index=9,
            applied_index=9,
            durability={"fsync": True},
        )


def _position(cursor: str | None) -> str:
    if cursor is None:
        return ""
    if not cursor.startswith("after:"):
        raise BadRequest("cursor: is not a cursor", code="INVALID_CURSOR", field="cursor")
    return cursor.removeprefix("after:")


def _names(names: set[str], limit: int, cursor: str | None) -> NamePage:
    left = sorted(name for name in names if name > _position(cursor))
    more = len(left) > limit
    return NamePage(tuple(left[:limit]), f"after:{left[limit - 1]}" if more else None)
