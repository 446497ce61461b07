"""`/v1/watch`: subscriptions of the hub as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from aiohttp import web

from engines.errors import Compacted
from engines.interfaces import SUB_MAX, Change, ChangeId
from node import http_views
from node.admission import ByteBudget
from node.clock import Clock
from node.http_limits import HttpLimits
from node.http_wire import SERVER, Call, Connection, Sender
from node.service import Service
from node.watch import Selector, Subscription, WatchEnded, WatchHub

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
        self._frames: OrderedDict[tuple[ChangeId, bool], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, change: Change, *, values: bool) -> bytes | None:
        return self._frames.get((change.id, values))

    def put(self, change: Change, frame: bytes, *, values: bool) -> None:
        key = (change.id, values)
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
        hub: WatchHub,
        service: Service,
        sender: Sender,
        budget: ByteBudget,
        limits: HttpLimits,
        clock: Clock,
        node_name: str,
    ) -> None:
        self._hub = hub
        self._service = service
        self._sender = sender
        self._budget = budget
        self._clock = clock
        self._node_name = node_name
        self._frames = FrameCache(limits.watch_frames_bytes_max)
        self._open: dict[int, web.BaseRequest] = {}  # by id: requests do not hash
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    async def serve(
        self, call: Call, selector: Selector, since: ChangeId | None, *, values: bool
    ) -> web.StreamResponse:
        """Stream until the client goes, the node stops, or the changes were compacted.

        Raises, before anything is sent: Unavailable OVERLOADED or STOPPING.
        """
        request = call.request
        subscription = self._hub.subscribe(selector, since, values=values)
        response = web.StreamResponse(headers=_HEADERS)
        # A watch that has nothing to send would learn of its client's end late.
        assert isinstance(request.protocol, Connection)
        request.protocol.on_lost = subscription.end
        self._open[id(request)] = request
        self._all_closed.clear()
        try:
            await response.prepare(request)
            # How long a watch lasts says nothing about latency; how soon it opens does.
            call.figures.observe(response.status, self._clock.monotonic() - call.start)
            call.observed = True
            await self._stream(call, response, subscription, values=values)
            await response.write_eof()
        except ConnectionError:
            pass  # the client went, or took nothing for too long
        finally:
            subscription.close()
            self._open.pop(id(request), None)
            if not self._open:
                self._all_closed.set()
        response.force_close()
        return response

    async def close(self) -> None:
        """End every stream, at once where its client takes what is left."""
        self._hub.close()
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
        subscription: Subscription,
        *,
        values: bool,
    ) -> None:
        ready: http_views.Json = {
            "revision": subscription.start_revision,
            "served_by": self._node_name,
        }
        await self._send(
            call, response, http_views.sse("ready", ready, _resume_id(subscription.position))
        )
        while True:
            try:
                changes = await subscription.next(KEEPALIVE_SECONDS)
            except WatchEnded:
                return
            except Compacted as error:
                gone: http_views.Json = {"compacted_revision": error.compacted_revision}
                await self._send(call, response, http_views.sse("compacted", gone))
                return
            if changes:
                await self._send_changes(call, response, changes, values=values)
            else:
                # The id alone dispatches no event, but a client that resumes uses it: a
                # quiet watch then does not ask for what is no longer kept.
                identity = _resume_id(subscription.position)
                await self._send(call, response, f": alive\nid: {identity}\n\n".encode("ascii"))

    async def _send_changes(
        self, call: Call, response: web.StreamResponse, changes: Sequence[Change], *, values: bool
    ) -> None:
        size = sum(change.size for change in changes) if values else 0
        if size <= LOOP_ENCODE_BYTES_MAX:
            await self._send(call, response, self._encode(changes, values=values))
            return
        # Large frames wait for room before they are made; a slow client holds its room
        # until it has taken them or is cut off.
        room = 2 * size
        await self._sender.within(call.request, self._budget.wait(room))
        try:
            frames = await self._service.on_thread(
                lambda: [http_views.event(change, values=values) for change in changes]
            )
            for frame in frames:
                await self._send(call, response, frame)
        finally:
            self._budget.give(room)

    def _encode(self, changes: Sequence[Change], *, values: bool) -> bytes:
        frames: list[bytes] = []
        for change in changes:
            frame = self._frames.get(change, values=values)
            if frame is None:
                frame = http_views.event(change, values=values)
                self._frames.put(change, frame, values=values)
            frames.append(frame)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def _send(self, call: Call, response: web.StreamResponse, data: bytes) -> None:
        call.figures.response_bytes += len(data)
        await self._sender.send(call.request, response, data)


def _resume_id(position: ChangeId) -> str:
    """What a client that saw nothing else sends to go on from here."""
    if position.sub == SUB_MAX:
        return str(position.revision)
    return http_views.event_id(position)
