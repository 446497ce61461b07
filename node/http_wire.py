"""Where HTTP meets connections, and what is answered beneath every handler.

aiohttp's low-level server is used, without its Application: requests are routed by their
raw target (see http_params), and what the parser itself refuses gets our one error shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from node.errors import HivememError, InternalError, Unavailable
from node.http_call import JSON_TYPE, Call
from node.http_errors import RETRY_AFTER_SECONDS, bad_request, error_body, status_of
from node.http_limits import HttpLimits
from node.http_reply import SERVER

READ_BUFFER_BYTES = 64 << 10  # per connection; aiohttp stops reading at twice that
LINGER_SECONDS = 2.0  # an unread body is read away this long, so that the answer arrives
BACKLOG_CONNECTIONS = 1024  # not yet accepted

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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
