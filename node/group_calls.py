"""Calls between nodes that concern one Raft group: the group's number goes in front.

A node that does not host the group answers with what `absent` says, so that the caller
asks somebody else.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable
from typing import Protocol

from cluster.calls import CallHandler
from cluster.transport import Transport

_GROUP = struct.Struct("<H")


class Caller(Protocol):
    """What a group's requests need of the transport."""

    async def call(self, peer: str, method: int, payload: bytes, timeout_seconds: float) -> bytes:
        """Raises PeerUnreachable, RemoteCallFailed."""

    def on_call(self, method: int, handler: CallHandler) -> None: ...


class GroupCalls:
    """The calls of all groups of one node. Loop thread only."""

    def __init__(self, transport: Transport, absent: bytes) -> None:
        """`absent`: the answer for a group that is not here."""
        self._transport = transport
        self._absent = absent
        self._handlers: dict[int, dict[int, CallHandler]] = {}  # method → group → handler

    def of(self, group: int) -> Caller:
        return _GroupCaller(self, group)

    def forget(self, group: int) -> None:
        """The group is no longer here."""
        for handlers in self._handlers.values():
            handlers.pop(group, None)

    async def call(
        self, peer: str, method: int, group: int, payload: bytes, timeout_seconds: float
    ) -> bytes:
        return await self._transport.call(
            peer, method, _GROUP.pack(group) + payload, timeout_seconds
        )

    def on_call(self, method: int, group: int, handler: CallHandler) -> None:
        handlers = self._handlers.get(method)
        if handlers is None:
            handlers = self._handlers[method] = {}

            def serve(peer: str, payload: bytes) -> Awaitable[bytes]:
                found = handlers.get(_GROUP.unpack_from(payload)[0])
                if found is not None:
                    return found(peer, payload[_GROUP.size :])
                answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                answer.set_result(self._absent)
                return answer

            self._transport.on_call(method, serve)
        if group in handlers:
            raise ValueError(f"method {method} already has a handler for group {group}")
        handlers[group] = handler


class _GroupCaller:
    """See `Caller`."""

    def __init__(self, calls: GroupCalls, group: int) -> None:
        self._calls = calls
        self._group = group

    async def call(self, peer: str, method: int, payload: bytes, timeout_seconds: float) -> bytes:
        return await self._calls.call(peer, method, self._group, payload, timeout_seconds)

    def on_call(self, method: int, handler: CallHandler) -> None:
        self._calls.on_call(method, self._group, handler)
