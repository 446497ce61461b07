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
_RETRY_SECONDS: Final = 0.1  # after accept() failed, as it does without file descriptors


class Listener:
    """A listening socket. `serve(sock, remote)` owns each accepted socket it is given.

    `serve` returns once the connection is no longer a stranger: authenticated or gone.
    At most `strangers_max` run at a time; when one more arrives the oldest is
    cancelled, since an honest peer needs milliseconds and a flood waits.
    """

    def __init__(
        self, serve: Callable[[socket.socket, str], Awaitable[None]], strangers_max: int
    ) -> None:
        self._serve = serve
        self._strangers_max = strangers_max
        self._strangers: dict[asyncio.Task[None], None] = {}  # oldest first
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.evicted = 0

    @property
    def port(self) -> int:
        """The port bound to. Raises RuntimeError before `start`."""
        if self._socket is None:
            raise RuntimeError("not listening")
        port: int = self._socket.getsockname()[1]
        return port

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
        self._accepting = loop.create_task(self._accept_forever(sock))

    async def stop(self) -> None:
        """Stop accepting and give up on strangers. Idempotent."""
        tasks = [*self._strangers]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept_forever(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                logger.warning("cannot accept a peer's connection: %s", error.strerror)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if len(self._strangers) >= self._strangers_max:
                next(iter(self._strangers)).cancel()
                self.evicted += 1
            task = loop.create_task(self._run(sock, str(PeerAddress(address[0], address[1]))))
            self._strangers[task] = None
            task.add_done_callback(self._forget)
            # An accept that succeeds at once does not yield; a flood must not starve
            # the loop, and a task must have begun before it can be cancelled.
            await asyncio.sleep(0)

    async def _run(self, sock: socket.socket, remote: str) -> None:
        try:
            await self._serve(sock, remote)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("serving a connection from %s failed", remote)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
