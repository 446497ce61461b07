"""Requests to whichever node should answer: endpoints, leader, retries, deadline.

The only importer of aiohttp's client. A request is tried again while its deadline lasts
if that is safe: it certainly had no effect, it is a read, or it carries a request id. The
id never changes between tries, so the cluster applies it at most once.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
from yarl import URL

from node import client_wire as wire
from node.clock import SystemClock
from node.errors import HivememError, InternalError, Unavailable

CONNECTIONS_MAX = 256  # open connections of one client
ATTEMPT_SECONDS_MIN = 2.0  # a node that does not answer for so long is left for another
BACKOFF_SECONDS_MIN = 0.02  # pause before the second try; doubles, with jitter
BACKOFF_SECONDS_MAX = 0.5
GRACE_SECONDS = 0.5  # given beyond the deadline for the node's own answer about it
WATCH_SILENCE_SECONDS_MAX = 30.0  # nodes write at least every ten
RESPONSE_LINE_BYTES_MAX = 64 << 20  # one event's data line: a largest value, as base64
_WITH_TIMEOUT = ("/v1/kv/", "/v1/history/")  # paths whose query takes timeout_ms
_RETRIED = frozenset({"QUORUM_NOT_REACHED", "OVERLOADED", "STALE", "OUTCOME_UNKNOWN", "STOPPING"})


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the API. `repeatable`: trying it again cannot apply it twice."""

    method: str
    path: str
    parameters: Mapping[str, object]
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    repeatable: bool = True
    to_leader: bool = True  # prefer the leader: writes, and reads that ask it anyway


class Answer(NamedTuple):
    headers: Mapping[str, str]
    body: bytes
    endpoint: str


class Requester:
    """Sends requests. One event loop; safe for concurrent use within it."""

    def __init__(
        self,
        endpoints: Sequence[str],
        token: str | None,
        ca_file: str | None,
        timeout_ms: int,
    ) -> None:
        if not endpoints:
            raise ValueError("at least one endpoint is needed")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._next = 0
        self._leader: str | None = None
        self._timeout_ms = timeout_ms
        self._clock = SystemClock()
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=self._tls)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            auto_decompress=False,
            read_bufsize=1 << 18,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def new_request_id(self) -> str:
        return self._clock.new_id()

    async def send(self, request: Request, timeout_ms: int | None = None) -> Answer:
        """The answer of a node, with a status below 400. Raises HivememError."""
        total = (timeout_ms or self._timeout_ms) / 1000
        deadline = self._clock.monotonic() + total
        pause = BACKOFF_SECONDS_MIN
        applied_perhaps = False
        while True:
            endpoint = self._choose(request.to_leader)
            remaining = max(deadline - self._clock.monotonic(), 0.001)
            try:
                return await self._attempt(request, endpoint, remaining)
            except HivememError as error:
                applied_perhaps |= not error.definite
                self._learn(endpoint, error)
                final = error.code not in _RETRIED or not (request.repeatable or error.definite)
                pause = min(pause * 2, BACKOFF_SECONDS_MAX)
                wait = pause * (0.5 + self._clock.random().random() / 2)
                if final or self._clock.monotonic() + wait >= deadline:
                    # An earlier try may have been applied, whatever the last one says.
                    error.definite = error.definite and not applied_perhaps
                    raise
                await asyncio.sleep(wait)

    def _choose(self, to_leader: bool) -> str:
        if to_leader and self._leader is not None:
            return self._leader
        return self._endpoints[self._next % len(self._endpoints)]

    def _learn(self, endpoint: str, error: HivememError) -> None:
        """Go to the leader that the error names, or else to the next endpoint."""
        if error.code not in _RETRIED:
            return
        leader = error.leader
        if leader is not None and leader != endpoint:
            self._leader = leader
        elif error.code != "OVERLOADED":
            if endpoint == self._leader:
                self._leader = None
            self._next += 1

    async def _attempt(self, request: Request, endpoint: str, remaining: float) -> Answer:
        assert self._session is not None, "the client is not open"
        reads = request.method in ("GET", "HEAD")
        attempt = min(remaining, max(ATTEMPT_SECONDS_MIN, remaining / 2))
        parameters = dict(request.parameters)
        if request.path.startswith(_WITH_TIMEOUT):
            parameters["timeout_ms"] = max(1, int(attempt * 1000))
        url = URL(f"{endpoint}{request.path}?{wire.query(parameters)}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=attempt + GRACE_SECONDS)
        try:
            async with self._session.request(
                request.method, url, data=request.body, headers=request.headers, timeout=timeout
            ) as response:
                content = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(endpoint, error, definite=True) from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise _unreachable(endpoint, error, definite=reads) from error
        if response.status >= 400:
            raise wire.error(response.status, content)
        return Answer(response.headers, content, endpoint)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of one streamed answer. Raises HivememError; a broken stream raises
        Unavailable from whatever reads it (see `lines`)."""
        assert self._session is not None, "the client is not open"
        endpoint = self._choose(request.to_leader)
        url = URL(f"{endpoint}{request.path}?{wire.query(request.parameters)}", encoded=True)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=ATTEMPT_SECONDS_MIN, sock_read=WATCH_SILENCE_SECONDS_MAX
        )
        try:
            async with self._session.get(url, headers=request.headers, timeout=timeout) as answer:
                if answer.status >= 400:
                    raise wire.error(answer.status, await answer.read())
                yield answer.content
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            failure = _unreachable(endpoint, error, definite=True)
            self._learn(endpoint, failure)
            raise failure from error
        except HivememError as error:
            self._learn(endpoint, error)
            raise

    async def ask(self, endpoint: str, path: str, timeout_seconds: float) -> dict[str, object]:
        """One try at one node: a JSON object. Raises HivememError."""
        answer = await self._attempt(Request("GET", path, {}), endpoint, timeout_seconds)
        try:
            fields = json.loads(answer.body)
        except ValueError as error:
            raise InternalError(f"{endpoint} answered no JSON") from error
        if not isinstance(fields, dict):
            raise InternalError(f"{endpoint} answered no JSON object")
        return fields

    def note_leader(self, endpoint: str | None) -> None:
        self._leader = endpoint

    async def pause(self, failures: int) -> None:
        """Before a watch connects again; longer after each failure in a row."""
        longest = min(BACKOFF_SECONDS_MIN * 2**failures, BACKOFF_SECONDS_MAX)
        await asyncio.sleep(longest * (0.5 + self._clock.random().random() / 2))

    def step(self) -> None:
        """Use another endpoint from now on."""
        self._next += 1


def _unreachable(endpoint: str, error: Exception, *, definite: bool) -> Unavailable:
    reason = str(error) or type(error).__name__
    code = "QUORUM_NOT_REACHED" if definite else "OUTCOME_UNKNOWN"
    return Unavailable(f"{endpoint} cannot be reached: {reason}", code=code, definite=definite)


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a stream without their ends; unlike `readline`, of any length up to the cap."""
    buffer = bytearray()
    async for chunk in content.iter_any():
        buffer += chunk
        *done, rest = bytes(buffer).split(b"\n")
        for line in done:
            yield line.rstrip(b"\r")
        buffer = bytearray(rest)
        if len(buffer) > RESPONSE_LINE_BYTES_MAX:
            raise InternalError("a line of the stream is too long")
