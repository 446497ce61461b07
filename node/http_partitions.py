"""The routes about partitions: where they are, and which nodes give theirs away."""

from __future__ import annotations

from typing import Protocol

from node import http_views
from node.http_bodies import Fields, parse_object
from node.http_call import Answer, Call
from node.http_limits import MEMBER_BODY_BYTES_MAX, TIMEOUT_MS_MAX
from node.http_members import deadline_of, node_of
from node.http_params import Query
from node.http_receive import BodyReader
from node.http_views import dump
from node.partition_service import PartitionsView

_DRAIN = frozenset({"draining", "timeout_ms"})
_NONE: frozenset[str] = frozenset()


class PartitionAdmin(Protocol):
    """What is needed of node/partition_service.py."""

    async def view(self) -> PartitionsView: ...

    async def drain(self, node: str, draining: bool, deadline: float) -> None: ...


class PartitionHandlers:
    """One handler per route: decode, call, encode."""

    def __init__(self, partitions: PartitionAdmin, bodies: BodyReader) -> None:
        self._partitions = partitions
        self._bodies = bodies

    async def partitions(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        return Answer(dump(http_views.partitions(await self._partitions.view())))

    async def drain_member(self, call: Call) -> Answer:
        node = node_of(call)
        Query(call.query, _NONE)
        until = call.start + TIMEOUT_MS_MAX / 1000  # the request's own stands in the body
        body = await self._bodies.read(call, MEMBER_BODY_BYTES_MAX, "BODY_TOO_LARGE", until)
        fields = Fields(parse_object(body), "", _DRAIN)
        draining = fields.boolean("draining")
        await self._partitions.drain(node, draining, deadline_of(call, fields))
        return Answer(dump({"id": node, "draining": draining}), wrote=True)
