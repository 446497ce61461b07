"""`/v1/watch`: subscriptions of the hub as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from aiohttp import web

from engines.errors import Compacted
from engines.interfaces import SUB_MAX, Change, ChangeId
from node import http_views, watch_token
from node.admission import ByteBudget
from node.clock import Clock
from node.http_call import Call
from node.http_errors import bad_request
from node.http_limits import HttpLimits
from node.http_params import position
from node.http_reply import SERVER
from node.http_send import Sender
from node.http_wire import Connection
from node.service import Service
from node.watch import Selector, WatchEnded
from node.watch_fan_in import Delivery, PartitionCompacted
from node.watch_sources import OpenWatch, Watches

KEEPALIVE_SECONDS = 10.0
STOP_SECONDS = 1.0  # open streams may finish what they are sending
LOOP_ENCODE_BYTES_MAX = 256 << 10  # value bytes that are encoded on the loop thread

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # else a proxy holds events back until it has a bufferful
    "Server": SERVER,
}


class FrameCache:
    """Encoded events, oldest out first: a change is encoded once, however many watch it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames: OrderedDict[tuple[int, ChangeId, bool], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, group: int, change: Change, *, values: bool) -> bytes | None:
        return self._frames.get((group, change.id, values))

    def put(self, group: int, change: Change, frame: bytes, *, values: bool) -> None:
        key = (group, change.id, values)
        if key in self._frames or len(frame) > self._bytes_max:
            return
        self._frames[key] = frame
        self._bytes += len(frame)
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._frames.popitem(last=False)[1])


class WatchStreams:
    """All open event streams of one node. Loop thread only."""

    def __init__(
        self,
        watches: Watches,
        service: Service,
        sender: Sender,
        budget: ByteBudget,
        limits: HttpLimits,
        clock: Clock,
        node_name: str,
    ) -> None:
        self._watches = watches
        self._service = service
        self._sender = sender
        self._budget = budget
        self._clock = clock
        self._node_name = node_name
        self._frames = FrameCache(limits.watch_frames_bytes_max)
        self._open: dict[int, web.BaseRequest] = {}  # by id: requests do not hash
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def positions(self, selector: Selector, since: str, field: str) -> Sequence[ChangeId]:
        """Where a watch resumes, in each group that it follows. Raises: BadRequest."""
        groups = self._watches.groups(selector)
        if groups == 1:
            return (position(since, field),)
        if since == "0":
            return (ChangeId(0, SUB_MAX),) * groups
        if since[:1].isdecimal():
            raise bad_request(
                field,
                "must be 0 or an event id of such a watch: revisions are those of one partition, "
                "and a watch without session follows all of them",
            )
        try:
            return watch_token.decode(since, groups)
        except ValueError as error:
            raise bad_request(field, str(error)) from None

    async def serve(
        self, call: Call, selector: Selector, since: Sequence[ChangeId] | None, *, values: bool
    ) -> web.StreamResponse:
        """Stream until the client goes, the node stops, or the changes were compacted.

        `since`: of each group, as `positions` gives them. Raises, before anything is sent:
        Unavailable OVERLOADED or STOPPING, or if a partition does not say where to begin.
        """
        request = call.request
        watch = await self._watches.open(selector, since, values=values)
        response = web.StreamResponse(headers=_HEADERS)
        # A watch that has nothing to send would learn of its client's end late.
        assert isinstance(request.protocol, Connection)
        request.protocol.on_lost = watch.end
        self._open[id(request)] = request
        self._all_closed.clear()
        try:
            await response.prepare(request)
            # How long a watch lasts says nothing about latency; how soon it opens does.
            call.figures.observe(response.status, self._clock.monotonic() - call.start)
            call.observed = True
            await self._stream(call, response, watch, values=values)
            await response.write_eof()
        except ConnectionError:
            pass  # the client went, or took nothing for too long
        finally:
            watch.close()
            self._open.pop(id(request), None)
            if not self._open:
                self._all_closed.set()
        response.force_close()
        return response

    async def close(self) -> None:
        """End every stream, at once where its client takes what is left."""
        self._watches.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._all_closed.wait()
        except TimeoutError:
            for request in self._open.values():
                if request.transport is not None:
                    request.transport.abort()

    async def _stream(
        self,
        call: Call,
        response: web.StreamResponse,
        watch: OpenWatch,
        *,
        values: bool,
    ) -> None:
        ready: http_views.Json = {
            "revision": watch.start_revision,
            "served_by": self._node_name,
        }
        await self._send(call, response, http_views.sse("ready", ready, watch.resume_id))
        while True:
            try:
                delivery = await watch.next(KEEPALIVE_SECONDS)
            except WatchEnded:
                return
            except (Compacted, PartitionCompacted) as error:
                await self._send(call, response, http_views.sse("compacted", _gone(error)))
                return
            if delivery is not None:
                await self._send_changes(call, response, delivery, values=values)
            else:
                # The id alone dispatches no event, but a client that resumes uses it: a
                # quiet watch then does not ask for what is no longer kept.
                alive = f": alive\nid: {watch.resume_id}\n\n"
                await self._send(call, response, alive.encode("ascii"))

    async def _send_changes(
        self, call: Call, response: web.StreamResponse, delivery: Delivery, *, values: bool
    ) -> None:
        size = sum(change.size for change in delivery.changes) if values else 0
        if size <= LOOP_ENCODE_BYTES_MAX:
            await self._send(call, response, self._encode(delivery, values=values))
            return
        # Large frames wait for room before they are made; a slow client holds its room
        # until it has taken them or is cut off.
        room = 2 * size
        await self._sender.within(call.request, self._budget.wait(room))
        try:
            frames = await self._service.on_thread(
                lambda: _with_ids(
                    [http_views.event(change, values=values) for change in delivery.changes],
                    delivery.ids,
                )
            )
            for frame in frames:
                await self._send(call, response, frame)
        finally:
            self._budget.give(room)

    def _encode(self, delivery: Delivery, *, values: bool) -> bytes:
        frames: list[bytes] = []
        for change in delivery.changes:
            frame = self._frames.get(delivery.group, change, values=values)
            if frame is None:
                frame = http_views.event(change, values=values)
                self._frames.put(delivery.group, change, frame, values=values)
            frames.append(frame)
        frames = _with_ids(frames, delivery.ids)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def _send(self, call: Call, response: web.StreamResponse, data: bytes) -> None:
        call.figures.response_bytes += len(data)
        await self._sender.send(call.request, response, data)


def _with_ids(frames: list[bytes], ids: Sequence[str] | None) -> list[bytes]:
    """Encoded events under other ids than the changes' own."""
    if ids is None:
        return frames
    return [
        http_views.under_id(frame, identity) for frame, identity in zip(frames, ids, strict=True)
    ]


def _gone(error: Compacted | PartitionCompacted) -> http_views.Json:
    """What is no longer kept, and where the watch may go on."""
    fields: http_views.Json = {"compacted_revision": error.compacted_revision}
    if isinstance(error, PartitionCompacted):
        fields |= {"partition": error.group, "since": error.resume}
    return fields
