"""Requests and responses over a peer connection: the caller's table, the callee's handlers.

Calls have no order among each other. A call's outcome is definite when it certainly
never reached the handler: it was refused, or the connection closed while the call was
still entirely in this node's send queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

from cluster.errors import PeerUnreachable, RemoteCallFailed
from cluster.framing import REPLY, REPLY_ERROR, REPLY_REFUSED, Frame
from cluster.send_queue import Lane

logger = logging.getLogger(__name__)

CallHandler = Callable[[str, bytes], Awaitable[bytes]]

_CALL_IDS: Final = 1 << 32
_ERROR_BYTES_MAX: Final = 4 * 1024


class PendingCall:
    """A call that waits for its answer. `number` is its place in `lane`."""

    __slots__ = ("call_id", "future", "lane", "number", "timer")

    def __init__(self, call_id: int, future: asyncio.Future[bytes], lane: Lane) -> None:
        self.call_id = call_id
        self.future = future
        self.lane = lane
        self.number = lane.queued
        self.timer: asyncio.TimerHandle | None = None


class CallTable:
    """The calls of this node over one connection.

    Invariant: at most `calls_inflight_max` pending; each is removed exactly once, by
    `forget`, whatever ended it.
    """

    def __init__(self, calls_inflight_max: int) -> None:
        self._calls_inflight_max = calls_inflight_max
        self._pending: dict[int, PendingCall] = {}
        self._last_id = 0

    @property
    def full(self) -> bool:
        return len(self._pending) >= self._calls_inflight_max

    def next_id(self) -> int:
        """An id that no pending call has."""
        while True:
            self._last_id = (self._last_id + 1) % _CALL_IDS
            if self._last_id not in self._pending:
                return self._last_id

    def add(self, call_id: int, lane: Lane, timeout_seconds: float) -> PendingCall:
        """Remember a call that was just put into `lane`."""
        loop = asyncio.get_running_loop()
        call = PendingCall(call_id, loop.create_future(), lane)
        call.timer = loop.call_later(timeout_seconds, _time_out, call)
        self._pending[call_id] = call
        return call

    def forget(self, call: PendingCall) -> None:
        """The caller waits no longer; a later answer is dropped."""
        if call.timer is not None:
            call.timer.cancel()
        self._pending.pop(call.call_id, None)

    def answered(self, frame: Frame) -> None:
        """Hand a REPLY, REPLY_ERROR or REPLY_REFUSED to its caller."""
        call = self._pending.get(frame.id)
        if call is None or call.future.done():
            return  # Timed out or cancelled: nobody waits any more.
        if frame.kind == REPLY:
            call.future.set_result(frame.payload)
            return
        message = frame.payload.decode(errors="replace")
        if frame.kind == REPLY_REFUSED:
            call.future.set_exception(PeerUnreachable(message, definite=True))
        else:
            call.future.set_exception(RemoteCallFailed(message, definite=bool(frame.tag)))

    def fail(self, reason: str, *, still_sending: bool) -> None:
        """End every pending call. `still_sending`: what is queued may yet be sent."""
        for call in self._pending.values():
            if not call.future.done():
                unsent = not still_sending and call.number > call.lane.started
                call.future.set_exception(PeerUnreachable(reason, definite=unsent))


def _time_out(call: PendingCall) -> None:
    if not call.future.done():
        # Not definite even if it is still queued: it may be sent later.
        call.future.set_exception(PeerUnreachable("no answer in time", definite=False))


class Answerer(Protocol):
    """The connection that a call came from."""

    def answer(self, kind: int, tag: int, call_id: int, payload: bytes) -> None:
        """Send the answer, if the connection is still open."""


class CallServer:
    """The handlers of this node's calls. Bounds the calls in flight per calling peer."""

    def __init__(self, calls_inflight_max: int) -> None:
        self._calls_inflight_max = calls_inflight_max
        self._handlers: dict[int, CallHandler] = {}
        self._inflight: Counter[str] = Counter()
        self._tasks: set[asyncio.Future[bytes]] = set()

    def register(self, method: int, handler: CallHandler) -> None:
        """`handler` is called on the loop thread; returning a Future avoids a task."""
        if not 0 <= method < 1 << 16:
            raise ValueError("method must fit 16 bits")
        if method in self._handlers:
            raise ValueError(f"method {method} already has a handler")
        self._handlers[method] = handler

    def serve(self, connection: Answerer, peer: str, frame: Frame) -> None:
        """Run the handler and answer when it is done. Never raises for its failures."""
        handler = self._handlers.get(frame.tag)
        if handler is None:
            connection.answer(REPLY_REFUSED, 0, frame.id, b"no handler for this method")
            return
        if self._inflight[peer] >= self._calls_inflight_max:
            connection.answer(REPLY_REFUSED, 0, frame.id, b"too many calls in flight")
            return
        try:
            awaitable = handler(peer, frame.payload)
        except Exception as error:
            _answer_error(connection, frame.id, error)
            return
        future = asyncio.ensure_future(awaitable)
        if future.done():
            _answer(connection, frame.id, future)
            return
        self._inflight[peer] += 1
        if future is not awaitable:
            self._tasks.add(future)  # The loop itself holds tasks only weakly.
        future.add_done_callback(partial(self._done, connection, peer, frame.id))

    def close(self) -> None:
        """Cancel the handlers that are tasks; futures belong to whoever returned them."""
        for task in self._tasks:
            task.cancel()

    def _done(
        self, connection: Answerer, peer: str, call_id: int, future: asyncio.Future[bytes]
    ) -> None:
        self._inflight[peer] -= 1
        self._tasks.discard(future)
        _answer(connection, call_id, future)


def _answer(connection: Answerer, call_id: int, future: asyncio.Future[bytes]) -> None:
    if future.cancelled():
        _answer_error(connection, call_id, asyncio.CancelledError())
    elif (error := future.exception()) is not None:
        _answer_error(connection, call_id, error)
    else:
        connection.answer(REPLY, 0, call_id, future.result())


def _answer_error(connection: Answerer, call_id: int, error: BaseException) -> None:
    if not hasattr(error, "definite") and not isinstance(error, asyncio.CancelledError):
        # The caller gets one line; where it happened is only known here.
        logger.error("a call's handler failed", exc_info=error)
    definite = bool(getattr(error, "definite", False))
    message = f"{type(error).__name__}: {error}".encode()[:_ERROR_BYTES_MAX]
    connection.answer(REPLY_ERROR, int(definite), call_id, message)
