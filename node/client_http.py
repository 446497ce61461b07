"""Connections to nodes: one attempt of one call, and event streams. The only importer of
aiohttp's client, and it decides nothing: retries are node/client_retry.py's.
"""

from __future__ import annotations

import io
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
from yarl import URL

from node import client_errors
from node.client_retry import Call, SendFailed, node_timeout_ms
from node.errors import BadRequest

CONNECT_SECONDS_MAX = 1.0  # for one TCP and TLS handshake
LARGE_BYTES = 1 << 19  # of a body
KEEPALIVE_SECONDS = 15.0  # idle connections are closed before a node would do it
_NO_LIMIT = aiohttp.ClientTimeout(total=None)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer, read completely. `headers` ignore case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Attempt:
    """Travels with a request through the library, which says when it got a connection."""

    sent: bool = False


class HttpStream:
    """An open answer whose body goes on: events, or a snapshot."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises: SendFailed."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as reason:
            raise SendFailed(_text(reason), sent=True) from reason

    def close(self) -> None:
        self._response.close()


class Connections:
    """Pools of connections to nodes, made in the event loop of their first use.

    `connections_max` bounds those of calls, per node, so that a node which hangs cannot
    take all of them; event streams have a pool of their own, so that watches cannot.
    """

    def __init__(
        self,
        *,
        token: str | None,
        ca_file: str | None,
        cluster_id: str | None,
        connections_max: int,
        streams_max: int,
    ) -> None:
        """Raises: BadRequest, if the CA file or the token cannot be used."""
        self._headers = {} if token is None else {"Authorization": f"Bearer {_header(token)}"}
        if cluster_id is not None:
            self._headers["Hivemem-Cluster"] = cluster_id
        self._tls = None if ca_file is None else _trust(ca_file)
        self._connections_max = connections_max
        self._streams_max = streams_max
        self._calls: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None
        self._closed = False

    async def aclose(self) -> None:
        self._closed = True
        for session in (self._calls, self._streams):
            if session is not None:
                await session.close()

    async def send(self, address: str, call: Call, seconds: float) -> HttpReply:
        """One attempt at one node. Raises: SendFailed."""
        session = self._calls = self._calls or self._session(self._connections_max, traced=True)
        target, body = call.at(node_timeout_ms(seconds))
        attempt = _Attempt()
        try:
            async with session.request(
                call.method,
                URL(address + target, encoded=True),
                data=_payload(body),
                headers=call.headers,
                allow_redirects=False,
                timeout=_timeout(seconds),
                trace_request_ctx=attempt,
            ) as response:
                content = await response.read()
                return HttpReply(response.status, response.headers, content)
        except TimeoutError as reason:
            message = f"no answer within {seconds:.3g} s" if attempt.sent else "no connection"
            raise SendFailed(message, sent=attempt.sent, timed_out=True) from reason
        except (aiohttp.ClientError, OSError) as reason:
            raise SendFailed(_text(reason), sent=attempt.sent) from reason
        except ValueError as reason:  # such as a line break in a content type
            raise BadRequest(f"the request cannot be sent: {reason}") from reason

    async def open(
        self, address: str, target: str, accept: str = "text/event-stream"
    ) -> HttpStream:
        """Open an answer that goes on. Raises: SendFailed, HivememError (the node's answer)."""
        session = self._streams = self._streams or self._session(self._streams_max)
        try:
            response = await session.get(
                URL(address + target, encoded=True),
                headers={"Accept": accept},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX),
            )
            if response.status == 200:
                return HttpStream(response)
            async with response:
                raise client_errors.error(response.status, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as reason:
            raise SendFailed(_text(reason), sent=False) from reason

    def _session(self, connections_max: int, *, traced: bool = False) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this client is closed")
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=connections_max,
            ssl=self._tls or True,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=_NO_LIMIT,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Values come back as stored, so nothing on the way may be told to compress them.
            skip_auto_headers=("Accept-Encoding", "Accept", "User-Agent"),
            auto_decompress=False,
            trace_configs=[_tracing()] if traced else [],
        )
        # The library would send a PUT or DELETE again by itself and say nothing of it: the
        # second one's "not found" would then pass for the answer to the first.
        session._retry_connection = False
        return session


def _tracing() -> aiohttp.TraceConfig:
    """Notes when a request has a connection: from then on it may have reached the node.

    The exception alone does not say: an error while connecting and one while sending may
    be of the same class.
    """

    async def connected(
        session: aiohttp.ClientSession, context: SimpleNamespace, parameters: object
    ) -> None:
        attempt = context.trace_request_ctx
        assert isinstance(attempt, _Attempt)
        attempt.sent = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(connected)
    tracing.on_connection_reuseconn.append(connected)
    return tracing


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Large bodies are written in pieces, so that other calls get their turn meanwhile."""
    return io.BytesIO(body) if body is not None and len(body) > LARGE_BYTES else body


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=seconds,
        sock_connect=min(seconds, CONNECT_SECONDS_MAX),
        ceil_threshold=3600,  # else the library rounds up to whole seconds
    )


def _text(reason: Exception) -> str:
    if isinstance(reason, aiohttp.ClientConnectorError):
        # Its own text repeats the address and names the library's internals.
        error = reason.os_error
        return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return str(reason) or type(reason).__name__


def _header(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadRequest("the bearer token holds characters that no token has", field="token")
    return token


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as reason:  # an SSLError is one, too
        raise BadRequest(f"{ca_file} holds no usable PEM certificates: {reason}") from reason
