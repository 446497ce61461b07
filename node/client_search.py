"""The call that searches a session by words. No I/O here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, cast

from node import client_wire as wire
from node.client_retry import Reply
from node.client_types import Consistency, Hit, HitPage

SearchMode = Literal["any", "all", "phrase"]


class SearchCalls(ABC):
    """Part of `ClientApi`."""

    @abstractmethod
    async def _read(
        self, path: str, parameters: Mapping[str, object], timeout_ms: int | None
    ) -> Reply:
        """The answer to a GET. Raises: HivememError."""

    async def search(
        self,
        namespace: str,
        session: str,
        query: str,
        *,
        mode: SearchMode = "any",
        prefix: str | None = None,
        limit: int = 10,
        values: bool = False,
        snippets: bool = False,
        key_weight: float | None = None,
        value_weight: float | None = None,
        consistency: Consistency | None = None,
        max_staleness_ms: int | None = None,
        min_revision: int | None = None,
        timeout_ms: int | None = None,
    ) -> HitPage:
        """A session's records found by words of their keys and values, best first (BM25).

        `query`: words, "phrases", prefix* and -words. `prefix`: of the keys. `limit`: 1 to 100.
        Raises: BadRequest, Unavailable, DeadlineExceeded, …
        """
        parameters: dict[str, object] = {
            "query": query,
            "mode": mode,
            "prefix": prefix or None,
            "limit": limit,
            "values": values,
            "snippets": snippets,
            "key_weight": None if key_weight is None else float(key_weight),
            "value_weight": None if value_weight is None else float(value_weight),
            "consistency": consistency,
            "max_staleness_ms": max_staleness_ms,
            "min_revision": min_revision,
        }
        path = f"/v1/search/{wire.path(namespace, session)}"
        reply = await self._read(path, parameters, timeout_ms)
        return wire.parsed(reply.body, _hit_page)


def _hit_page(fields: wire.Fields) -> HitPage:
    items = cast("list[wire.Fields]", fields["items"])
    return HitPage(
        hits=tuple(_hit(each) for each in items),
        more=fields["more"] is True,
        revision=cast(int, fields["revision"]),
    )


def _hit(fields: wire.Fields) -> Hit:
    snippet = fields.get("snippet")
    return Hit(
        item=wire.item(fields),
        score=float(cast(float, fields["score"])),
        snippet=None if snippet is None else str(snippet),
    )
