"""Where HTTP meets bytes: connections, request bodies, and the sending of answers.

aiohttp's low-level server is used, without its Application: requests are routed by their
raw target (see http_params), and what the parser itself refuses gets our one error shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from node.admission import ByteBudget
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError, InternalError, Unavailable
from node.http_errors import RETRY_AFTER_SECONDS, bad_request, error_body, status_of
from node.http_limits import HttpLimits
from node.http_reply import SERVER, SmallReply, is_plain
from node.metrics import RouteFigures

JSON_TYPE = "application/json; charset=utf-8"

READ_BUFFER_BYTES = 64 << 10  # per connection; aiohttp stops reading at twice that
LINGER_SECONDS = 2.0  # an unread body is read away this long, so that the answer arrives
BACKLOG_CONNECTIONS = 1024  # not yet accepted
PIECE_BYTES = 64 << 10  # a large answer is written in pieces of this size
# Below this, and with nothing waiting to be sent, the transport takes an answer at once.
SMALL_BYTES = 32 << 10

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Call:
    """One request on its way through a handler."""

    request: web.BaseRequest
    start: float  # Clock.monotonic() seconds
    names: list[str]  # of the path, still percent-encoded
    query: str  # still percent-encoded
    figures: RouteFigures
    body_bytes_held: int = 0
    observed: bool = False  # counted in the metrics already


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back. `wrote`: it may follow a change, so it must not be dropped."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE
    wrote: bool = False


class Door(web.Server):
    """Accepts connections, at most `connections_max` at once."""

    def __init__(self, handler: Handler, limits: HttpLimits) -> None:
        super().__init__(handler)
        self._limits = limits
        self._open: set[web.RequestHandler] = set()
        self.refused = 0  # connections beyond connections_max

    @property
    def open_count(self) -> int:
        return len(self._open)

    def __call__(self) -> web.RequestHandler:
        limits = self._limits
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_connection_seconds_max,
            max_line_size=limits.request_line_bytes_max,
            max_field_size=limits.header_bytes_max,
            max_headers=limits.headers_max,
            lingering_time=LINGER_SECONDS,
            read_bufsize=READ_BUFFER_BYTES,
            # A value is returned as it was sent, so it is never unpacked on the way in.
            auto_decompress=False,
            access_log=None,
        )

    def admit(self, connection: web.RequestHandler) -> bool:
        if len(self._open) >= self._limits.connections_max:
            self.refused += 1
            return False
        self._open.add(connection)
        return True

    def forget(self, connection: web.RequestHandler) -> None:
        self._open.discard(connection)


class Connection(web.RequestHandler):
    """One connection; answers in our error shape what never became a request."""

    __slots__ = ("_door", "_held_back", "on_lost")

    def __init__(self, door: Door, **options: object) -> None:
        super().__init__(door, **options)  # type: ignore[arg-type]
        self._door = door
        self._held_back = False  # was reading paused since it was resumed?
        self.on_lost: Callable[[], object] | None = None  # for who waits and does not write

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._door.admit(self):
            super().connection_made(transport)
            return
        self.force_close()
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_refused_connection())
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.forget(self)
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    def pause_reading(self) -> None:
        self._held_back = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called twice for every body, at its end and when it is read. For most there is nothing
        to resume, and aiohttp would have its parser look for more."""
        if self._held_back:
            self._held_back = False
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called for what the parser refuses, and for errors beneath our handler."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        error: HivememError
        if isinstance(exc, LineTooLong):
            error = bad_request("request", "the request line or a header is too long")
        elif isinstance(exc, HttpProcessingError):
            error = bad_request("request", "is not well-formed HTTP/1.1")
        else:
            self.log_exception("error beneath the handler", exc_info=exc)
            error = InternalError("internal error; the node's log has the details", definite=False)
        response = error_response(error, None)
        response.force_close()
        return response


class WhileTheClientWaits:
    """A `with` block that is cancelled when the client is gone: for reads that may take long."""

    __slots__ = ("_connection",)

    def __init__(self, call: Call) -> None:
        connection = call.request.protocol
        assert isinstance(connection, Connection)
        self._connection = connection

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connection.on_lost = task.cancel

    def __exit__(self, *raised: object) -> None:
        self._connection.on_lost = None


def _refused_connection() -> bytes:
    error = Unavailable("connections_max: too many connections are open", code="OVERLOADED")
    body = error_body(error, None)
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {JSON_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {RETRY_AFTER_SECONDS}\r\n"
        f"Connection: close\r\nServer: {SERVER}\r\n\r\n"
    )
    return head.encode("ascii") + body


def error_response(
    error: HivememError, leader: str | None, body: bytes | None = None
) -> web.Response:
    """The answer to a failed request. HEAD shows its code in `X-Hivemem-Error` alone."""
    headers = {"Content-Type": JSON_TYPE, "Server": SERVER, "X-Hivemem-Error": error.code}
    if error.code == "OVERLOADED":
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif error.code == "UNAUTHENTICATED":
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        status=status_of(error),
        headers=headers,
        body=error_body(error, leader) if body is None else body,
    )


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
