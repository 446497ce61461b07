"""Queries of one running MCP server: what it wrote, its eventual reads see.

A replica that lags may answer an eventual read. Each answer names the index of the log that it
is of, so an answer that is older than what this server saw of the collection is asked for again,
linearizable; so is a refusal, which an older state may explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mcp_results
from mcp_values import VALUE_BYTES_MAX
from node.client import Consistency, HivememClient
from node.client_collections import QueryResult, Routing
from node.client_types import Priority
from node.clock import Clock
from node.errors import BadRequest, Conflict, HivememError, NotFound

Parameters = Mapping[str, Any]
Place = tuple[str, str]  # namespace, collection

SEEN_MAX = 1_000  # collections whose index is remembered; the oldest is forgotten
SHRINKS_MAX = 14  # how often a page is asked for again; the greatest limit is 10,000
_NEVER = 1 << 63  # above every index: only a linearizable answer will do, and it tells the index


@dataclass(frozen=True, slots=True)
class Wanted:
    """One query. `request_id`: of a write; `deadline`: monotonic seconds, for all attempts; None:
    the client's own for each."""

    namespace: str
    collection: str
    operation: str
    parameters: Parameters
    writes: bool
    deadline: float | None = None
    consistency: Consistency = "linearizable"
    capabilities: Sequence[str] = ()
    routing: Routing | None = None
    request_id: str | None = None
    priority: Priority = "medium"

    @property
    def place(self) -> Place:
        return self.namespace, self.collection


@dataclass(slots=True)
class Collections:
    """The collections of a cluster, through its client."""

    client: HivememClient
    clock: Clock
    _seen: dict[Place, int] = field(default_factory=dict)

    def changed(self, namespace: str, collection: str) -> None:
        """The collection was made, altered or dropped, at an index that is not known."""
        self._saw((namespace, collection), _NEVER)

    def _saw(self, place: Place, index: int) -> None:
        self._seen[place] = max(index, self._seen.pop(place, 0))
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    async def fitting(self, wanted: Wanted) -> QueryResult:
        """A read whose result fits into an answer: a shorter page where it does not.

        Raises: HivememError, AnswerTooLarge.
        """
        answer = await self.query(wanted)
        shorter = wanted
        for _ in range(SHRINKS_MAX):
            found = answer["result"]
            if mcp_results.size(found) <= VALUE_BYTES_MAX:
                return answer
            limit = mcp_results.shorter_limit(found, shorter.parameters, VALUE_BYTES_MAX)
            if limit is None:
                break
            shorter = replace(shorter, parameters={**shorter.parameters, "limit": limit})
            try:
                answer = await self.query(shorter)
            except BadRequest:  # Not every operation that has pages takes a limit.
                break
        raise mcp_results.too_large(answer["result"])

    async def query(self, wanted: Wanted) -> QueryResult:
        """Raises: HivememError."""
        if wanted.writes or wanted.consistency != "eventual":
            return await self._confirmed(wanted)
        before = self._seen.get(wanted.place)
        try:
            answer = await self._ask(wanted, wanted.consistency, wanted.routing)
        except (NotFound, BadRequest, Conflict):
            if before is None:
                raise
            return await self._confirmed(wanted)
        if before is not None and answer["log_index"] < before:
            return await self._confirmed(wanted)
        self._saw(wanted.place, answer["log_index"])
        return answer

    async def _confirmed(self, wanted: Wanted) -> QueryResult:
        """A write, or a read at the leader."""
        before = self._seen.get(wanted.place)
        level: Consistency = "leader" if wanted.consistency == "weak" else "linearizable"
        try:
            answer = await self._ask(wanted, level, None)
        except HivememError as error:
            if wanted.writes and not error.definite:
                self._saw(wanted.place, _NEVER)  # whoever looks now must see what became of it
            raise
        newest = level == "linearizable" or wanted.writes
        if newest and self._seen.get(wanted.place) == before:
            # Indexes are of a log; a collection that has moved goes on in another one.
            self._seen.pop(wanted.place, None)
        self._saw(wanted.place, answer["log_index"])
        return answer

    async def _ask(
        self, wanted: Wanted, consistency: Consistency, routing: Routing | None
    ) -> QueryResult:
        return await self.client.query(
            wanted.namespace,
            wanted.collection,
            wanted.operation,
            wanted.parameters,
            writes=wanted.writes,
            consistency=None if wanted.writes else consistency,
            priority=None if wanted.writes else wanted.priority,
            capabilities=wanted.capabilities,
            routing=routing,
            request_id=wanted.request_id,
            timeout_ms=self._left_ms(wanted.deadline),
        )

    def _left_ms(self, deadline: float | None) -> int | None:
        if deadline is None:
            return None
        return max(1, round((deadline - self.clock.monotonic()) * 1000))
