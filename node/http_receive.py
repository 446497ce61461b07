"""The bodies of requests, read within their bounds."""

from __future__ import annotations

import asyncio

from aiohttp import web

from node.admission import ByteBudget
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError
from node.http_call import Call
from node.http_errors import bad_request


class BodyReader:
    """Reads request bodies within their bounds."""

    def __init__(self, budget: ByteBudget, clock: Clock) -> None:
        self._budget = budget
        self._clock = clock

    async def read(self, call: Call, bytes_max: int, code: str, deadline: float) -> bytes:
        """The whole body; b"" if there is none. `code`: the refusal of a longer one.

        What is refused by its announced length is not read at all, and a client that
        waits for `100 Continue` has then not sent it.
        Raises: BadRequest, Unavailable OVERLOADED, DeadlineExceeded, ConnectionError.
        """
        request = call.request
        if not request.body_exists:
            return b""
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise bad_request("Content-Encoding", "only identity is understood")
        length = request.content_length
        if length is not None:
            if length > bytes_max:
                raise _too_large(bytes_max, code)
            self._hold(call, length)
        if "Expect" in request.headers:
            await _send_continue(request)
        data = await self._receive(call, bytes_max, code, deadline, counted=length is not None)
        call.figures.request_bytes += len(data)
        return data

    async def _receive(
        self, call: Call, bytes_max: int, code: str, deadline: float, *, counted: bool
    ) -> bytes:
        payload = call.request.content
        pieces: list[bytes] = []
        size = 0
        try:
            if payload.is_eof():
                # It arrived together with its head: no timer, no waiting.
                pieces.append(payload.read_nowait())
                size = len(pieces[0])
                if not counted:
                    self._hold(call, size)
            else:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    while piece := await payload.readany():
                        size += len(piece)
                        if size > bytes_max:
                            break
                        if not counted:
                            self._hold(call, len(piece))
                        pieces.append(piece)
        except TimeoutError:
            raise DeadlineExceeded("the body did not arrive within the deadline") from None
        except web.RequestPayloadError:
            raise bad_request("body", "is not well-formed in its transfer encoding") from None
        if size > bytes_max:
            raise _too_large(bytes_max, code)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _hold(self, call: Call, size: int) -> None:
        self._budget.take(size)
        call.body_bytes_held += size

    def release(self, call: Call) -> None:
        if call.body_bytes_held:
            self._budget.give(call.body_bytes_held)


def _too_large(bytes_max: int, code: str) -> HivememError:
    field_name = "value" if code == "VALUE_TOO_LARGE" else "body"
    return bad_request(field_name, f"is too large; at most {bytes_max} bytes are allowed", code)


async def _send_continue(request: web.BaseRequest) -> None:
    if request.version >= (1, 1) and request.headers["Expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # It is not part of the answer, which has not begun.
        request.writer.output_size = 0
