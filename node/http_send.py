"""The sending of answers: small ones at once, large ones in pieces, as fast as they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from aiohttp import web

from node.admission import ByteBudget
from node.clock import Clock
from node.http_call import Answer, Call
from node.http_reply import SERVER, SmallReply, is_plain

PIECE_BYTES: Final = 64 << 10  # a large answer is written in pieces of this size
# Below this, and with nothing waiting to be sent, the transport takes an answer at once.
SMALL_BYTES: Final = 32 << 10


class Sender:
    """Sends answers; a client that takes none of a large one is cut off."""

    def __init__(self, budget: ByteBudget, blocked_seconds_max: float, clock: Clock) -> None:
        self._budget = budget
        self._clock = clock
        self._blocked_seconds_max = blocked_seconds_max

    async def respond(self, call: Call, answer: Answer) -> web.StreamResponse:
        """The response to return to aiohttp; a large one is already sent.

        Raises: Unavailable OVERLOADED, for an answer without effects.
        """
        request, size = call.request, len(answer.body)
        call.figures.response_bytes += size
        transport = request.transport
        at_once = transport is None or not transport.get_write_buffer_size()
        if at_once and size <= SMALL_BYTES and is_plain(request, answer.status):
            now = self._clock.now_ms() // 1000
            return SmallReply(answer.status, answer.headers, answer.content_type, answer.body, now)
        headers = {**answer.headers, "Content-Type": answer.content_type, "Server": SERVER}
        if transport is None or (at_once and size <= SMALL_BYTES):
            return web.Response(body=answer.body, status=answer.status, headers=headers)
        if not answer.wrote:
            self._budget.take(size)
        headers["Content-Length"] = str(size)
        response = web.StreamResponse(status=answer.status, headers=headers)
        try:
            if answer.wrote:
                await self.within(request, self._budget.wait(size))
            try:
                await response.prepare(request)
                await self.send(request, response, answer.body)
            finally:
                self._budget.give(size)
        except ConnectionError:
            pass  # nobody is left to tell; aiohttp notices the closed transport
        return response

    async def send(
        self, request: web.BaseRequest, response: web.StreamResponse, data: bytes
    ) -> None:
        """Write in pieces; each must be taken in time. Raises: ConnectionError."""
        view = memoryview(data)
        for start in range(0, len(data), PIECE_BYTES):
            await self.within(request, response.write(view[start : start + PIECE_BYTES]))
            await self.within(request, request.writer.drain())

    async def within(self, request: web.BaseRequest, work: Awaitable[None]) -> None:
        """Await what depends on the client. Raises: ConnectionError, having cut it off."""
        try:
            async with asyncio.timeout(self._blocked_seconds_max):
                await work
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client takes no data") from None
