"""`/v1/snapshots`: which groups there are, a snapshot of one, and its bytes as a stream."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from cluster.interfaces import SnapshotMeta
from cluster.slots import SLOTS
from node.clock import Clock
from node.errors import NotFound, Unavailable
from node.http_bodies import Fields, parse_object
from node.http_call import Answer, Call
from node.http_errors import bad_request
from node.http_limits import MEMBER_BODY_BYTES_MAX, TIMEOUT_MS_MAX, HttpLimits
from node.http_params import Query, decode
from node.http_receive import BodyReader
from node.http_reply import SERVER
from node.http_send import Sender
from node.http_views import Json, dump
from node.snapshot_service import SnapshotService

PIECE_BYTES = 1 << 20  # read from the disk at once; a stream holds no more
ID_PATTERN = r"([0-9]{1,4})-([0-9]{1,19})"  # of a group and a log index
_NAME = re.compile(ID_PATTERN)
_NONE: frozenset[str] = frozenset()
_POST = frozenset({"group", "min_index", "timeout_ms"})
_GET = frozenset({"offset"})


class SnapshotHandlers:
    """One handler per route. Loop thread only."""

    def __init__(
        self,
        service: SnapshotService,
        bodies: BodyReader,
        sender: Sender,
        limits: HttpLimits,
        clock: Clock,
        node_name: str,
    ) -> None:
        self._service = service
        self._bodies = bodies
        self._sender = sender
        self._streams_max = limits.snapshot_streams_max
        self._clock = clock
        self._node_name = node_name
        self._open = 0
        self._closed = False

    async def list_snapshots(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        groups = [self._group(group) for group in self._service.groups.ids()]
        cluster_id = self._service.cluster_id
        return Answer(dump({"cluster_id": cluster_id, "slots": SLOTS, "groups": groups}))

    def _group(self, group: int) -> Json:
        groups = self._service.groups
        slots, source = groups.slots(group), groups.source(group)
        held = [] if source is None else source.snapshots.held
        return {
            "group": group,
            "slots": [[slots[0], slots[-1]]] if slots else [],
            "holders": list(groups.holders(group)),
            "snapshots": [_shown(group, meta) for meta in held],
        }

    async def make_snapshot(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        # The request's own deadline stands in its body.
        deadline = call.start + TIMEOUT_MS_MAX / 1000
        body = await self._bodies.read(call, MEMBER_BODY_BYTES_MAX, "BODY_TOO_LARGE", deadline)
        fields = Fields(parse_object(body) if body else {}, "", _POST)
        prepared = await self._service.prepare(
            fields.optional_integer("group", 0) or 0,
            fields.optional_integer("min_index", 1),
            call.start + fields.timeout_ms() / 1000,
        )
        found: Json = {
            "group": prepared.group,
            "min_index": prepared.min_index,
            "served_by": self._node_name,
            "snapshot": None if prepared.meta is None else _shown(prepared.group, prepared.meta),
        }
        return Answer(dump(found))

    async def get_snapshot(self, call: Call) -> web.StreamResponse:
        """Stream from `offset` to the end; cut off where the node cannot go on.

        Raises, before anything is sent: BadRequest, NotFound, Unavailable OVERLOADED.
        """
        group, index = _name(call)
        meta = self._service.find(group, index)
        offset = Query(call.query, _GET).integer("offset", 0, meta.size) or 0
        if self._open >= self._streams_max:
            message = f"snapshot_streams_max: {self._streams_max} snapshots are being read"
            raise Unavailable(message, code="OVERLOADED")
        response = web.StreamResponse(headers=_headers(group, meta, offset, self._node_name))
        self._open += 1
        try:
            await response.prepare(call.request)
            # How long it lasts says nothing about latency.
            call.figures.observe(response.status, self._clock.monotonic() - call.start)
            call.observed = True
            if await self._stream(call, response, group, meta, offset):
                await response.write_eof()
            elif call.request.transport is not None:
                # Its announced length tells the client that this is not all.
                call.request.transport.abort()
        except ConnectionError:
            pass  # the client went, or took nothing for too long
        finally:
            self._open -= 1
        response.force_close()
        return response

    def close(self) -> None:
        """Streams end at their next piece: what they have left may take minutes."""
        self._closed = True

    async def _stream(
        self, call: Call, response: web.StreamResponse, group: int, meta: SnapshotMeta, offset: int
    ) -> bool:
        """False: the rest cannot be had here (any more)."""
        rate, begun, start = self._service.bytes_per_second_max, self._clock.monotonic(), offset
        while offset < meta.size:
            if self._closed:
                return False
            try:
                data = await self._service.read(group, meta.index, offset, PIECE_BYTES)
            except (NotFound, Unavailable):
                return False
            if not data:
                return False
            await self._sender.send(call.request, response, data)
            call.figures.response_bytes += len(data)
            offset += len(data)
            ahead = (offset - start) / rate - (self._clock.monotonic() - begun) if rate else 0.0
            if ahead > 0:
                await asyncio.sleep(ahead)
        return True


def _headers(group: int, meta: SnapshotMeta, offset: int, node_name: str) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(meta.size - offset),
        "Cache-Control": "no-store",
        "X-Hivemem-Snapshot": f"{group}-{meta.index}",
        "X-Hivemem-Snapshot-Sha256": meta.sha256.hex(),
        "X-Hivemem-Served-By": node_name,
        "Server": SERVER,
    }


def _shown(group: int, meta: SnapshotMeta) -> Json:
    return {
        "id": f"{group}-{meta.index}",
        "index": meta.index,
        "term": meta.term,
        "size": meta.size,
        "sha256": meta.sha256.hex(),
    }


def _name(call: Call) -> tuple[int, int]:
    """Group and index of a snapshot's id. Raises: NotFound, BadRequest."""
    name = decode(call.names[0], "id").decode("utf-8")
    found = _NAME.fullmatch(name)
    if found is None:
        if not name:
            raise NotFound("no such route; docs/http-api.md lists them", code="ROUTE_NOT_FOUND")
        raise bad_request("id", "is a group and a log index, such as 0-4711")
    return int(found[1]), int(found[2])
