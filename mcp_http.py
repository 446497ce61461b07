"""Streamable HTTP for the MCP server: one loopback port, and who may use it.

Loopback only: beyond it there would have to be TLS, tokens and scopes of our own, and this
version has none of them for agents. Where the cluster wants a bearer token, so does this
door: it must never be wider open than what is behind it.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from node.errors import StartupError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PATH = "/mcp"
REQUEST_BYTES_MAX = 32 << 20  # a value of 8 MiB as JSON text, with escapes
SESSIONS_MAX = 1000  # of clients that keep sessions (protocol 2025 and before)
SESSION_IDLE_SECONDS_MAX = 1800
STOP_SECONDS_MAX = 3  # open streams are given this long when the server stops
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises: StartupError if the address is not loopback, or is taken."""
    require_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} on {host} is taken; choose another with --port (0: any)"
            raise StartupError(message) from error
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return opened


def require_loopback(host: str) -> None:
    """Raises: StartupError, saying what to do instead."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise StartupError(
        f"--host {host} is not a loopback address, and this version serves MCP on loopback "
        "only. Run `hivemem mcp` where the agent runs and point it at the cluster with "
        "--endpoints, or put a proxy with TLS and authentication in front of it"
    )


def url(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


def guarded(app: App, token: str | None) -> App:
    """`app`, for those who present the token; as it is if there is none."""
    if token is None:
        return app
    expected = f"Bearer {token}".encode()

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], expected):
                await _refuse(send)
                return
        await app(scope, receive, send)

    return gate


async def _refuse(send: Send) -> None:
    body = b"this cluster needs a bearer token; send it as Authorization: Bearer ...\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(app: App, opened: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
    )
    await uvicorn.Server(config).serve(sockets=[opened])
