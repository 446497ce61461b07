"""The routes that have replicas compared and rebuilt."""

from __future__ import annotations

from node.http_bodies import Fields, parse_object
from node.http_call import Answer, Call
from node.http_limits import MEMBER_BODY_BYTES_MAX, TIMEOUT_MS_MAX
from node.http_members import deadline_of, node_of
from node.http_params import Query
from node.http_receive import BodyReader
from node.http_views import dump
from node.integrity_service import IntegrityService

GROUPS_MAX = 256  # a cluster has no more partitions
_DIGESTS = frozenset({"leading", "timeout_ms"})
_RESEED = frozenset({"group", "timeout_ms"})
_NONE: frozenset[str] = frozenset()


class IntegrityHandlers:
    """One handler per route: decode, call, encode."""

    def __init__(self, service: IntegrityService, bodies: BodyReader) -> None:
        self._service = service
        self._bodies = bodies

    async def compare_digests(self, call: Call) -> Answer:
        fields = await self._fields(call, _DIGESTS)
        leading = fields.boolean("leading") if "leading" in fields else False
        outcomes = await self._service.compare(leading=leading, deadline=deadline_of(call, fields))
        return Answer(dump({"comparisons": [each.fields() for each in outcomes]}), wrote=True)

    async def reseed_member(self, call: Call) -> Answer:
        node = node_of(call)
        fields = await self._fields(call, _RESEED)
        group = fields.integer("group", 0, GROUPS_MAX) if "group" in fields else None
        begun = await self._service.reseed(node, group, deadline_of(call, fields))
        return Answer(dump({"node": node, "groups": begun}), wrote=True)

    async def _fields(self, call: Call, known: frozenset[str]) -> Fields:
        """The body's fields; no body is an empty object."""
        Query(call.query, _NONE)
        deadline = call.start + TIMEOUT_MS_MAX / 1000
        body = await self._bodies.read(call, MEMBER_BODY_BYTES_MAX, "BODY_TOO_LARGE", deadline)
        return Fields(parse_object(body) if body else {}, "", known)
