"""Accepting connections from anybody, with a bound on how many are still strangers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from cluster.transport_config import PeerAddress

logger = logging.getLogger(__name__)

_BACKLOG: Final = 128
_REFUSAL_LOG_SECONDS: Final = 1.0  # strangers must not be able to flood the log
_RETRY_SECONDS: Final = 0.1  # after accept() failed, as it does without file descriptors


class Listener:
    """A listening socket. `serve(sock, remote)` owns each accepted socket it is given.

    `serve` returns once the connection is no longer a stranger: authenticated or gone.
    At most `strangers_max` run at a time; when one more arrives the oldest is
    cancelled, since an honest peer needs milliseconds and a flood waits.

    Accepting is a reader callback and not a task that awaits `sock_accept`: cancelling
    such a task can lose a socket that was accepted in the same turn of the loop.
    """

    def __init__(
        self, serve: Callable[[socket.socket, str], Awaitable[None]], strangers_max: int
    ) -> None:
        self._serve = serve
        self._strangers_max = strangers_max
        self._strangers: dict[asyncio.Task[None], None] = {}  # oldest first
        self._unserved: dict[asyncio.Task[None], socket.socket] = {}  # task yet to begin
        self._socket: socket.socket | None = None
        self._port: int | None = None
        self._retrying: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port bound to; still known after `stop`. Raises RuntimeError before `start`."""
        if self._port is None:
            raise RuntimeError("not listening yet")
        return self._port

    async def start(self, host: str, port: int) -> None:
        """Bind and accept. Port 0: any free port. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            reason = f"cannot listen for peers on {host}:{port}: {error.strerror}"
            raise OSError(error.errno, reason) from error
        self._socket = sock
        self._port = sock.getsockname()[1]
        loop.add_reader(sock, self._accept)

    async def stop(self) -> None:
        """Stop accepting and give up on strangers. Idempotent."""
        if self._retrying is not None:
            self._retrying.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        tasks = list(self._strangers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self) -> None:
        """Take one connection; the loop calls again while more are waiting."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        try:
            sock, address = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # It went away again.
        except OSError as error:
            # Out of file descriptors, as a rule: it stays readable, so rest for a while.
            logger.warning("cannot accept a peer's connection: %s", error.strerror)
            loop.remove_reader(self._socket)
            self._retrying = loop.call_later(
                _RETRY_SECONDS, loop.add_reader, self._socket, self._accept
            )
            return
        sock.setblocking(False)
        if len(self._strangers) >= self._strangers_max:
            next(iter(self._strangers)).cancel()
        task = loop.create_task(self._run(str(PeerAddress(address[0], address[1]))))
        self._strangers[task] = None
        self._unserved[task] = sock
        task.add_done_callback(self._forget)

    async def _run(self, remote: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._serve(self._unserved.pop(task), remote)
        except Exception:
            logger.exception("serving a connection from %s failed", remote)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
        if (unserved := self._unserved.pop(task, None)) is not None:
            unserved.close()  # Cancelled before it began.


class RefusalLog:
    """Counts refused strangers and keeps them visible in the log, at a bounded rate."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_at = clock() - _REFUSAL_LOG_SECONDS
        self._unlogged = 0
        self.count = 0

    def note(self, remote: str, reason: str) -> None:
        self.count += 1
        now = self._clock()
        if now - self._logged_at < _REFUSAL_LOG_SECONDS:
            self._unlogged += 1
            return
        logger.warning(
            "refused a peer connection from %s: %s (%d more not logged)",
            remote, reason, self._unlogged,
        )  # fmt: skip
        self._logged_at = now
        self._unlogged = 0
