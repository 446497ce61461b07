"""Requests between nodes: propose at the leader, ask it for a read index, ask for status.

A request is forwarded once: the leader's side answers NotLeader rather than pass it on.
Answers start with one byte: 0, the result follows; 1, an error as JSON.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable

from cluster.errors import ClusterError, NoQuorum, NotLeader, OutcomeUnknown, Overloaded
from cluster.interfaces import Consensus
from cluster.transport import Transport
from engines.command import decode_result, encode_result
from engines.interfaces import Result

PROPOSE, READ_INDEX, STATUS = 1, 2, 3  # methods
_OK, _ERROR = b"\x00", b"\x01"
_INDEX = struct.Struct("<Q")
_UNCONFIRMED = b"\x01"  # READ_INDEX payload: consistency `leader`, no quorum round

_ERRORS: dict[str, type[ClusterError]] = {
    "Overloaded": Overloaded,
    "NoQuorum": NoQuorum,
    "OutcomeUnknown": OutcomeUnknown,
}


def _encode_error(error: ClusterError) -> bytes:
    leader = error.leader if isinstance(error, NotLeader) else None
    body = {"error": type(error).__name__, "message": str(error), "leader": leader}
    return _ERROR + json.dumps(body).encode()


def _raise_error(body: bytes) -> None:
    fields = json.loads(body)
    if fields["error"] == "NotLeader":
        raise NotLeader(fields["leader"])
    raise _ERRORS.get(fields["error"], OutcomeUnknown)(fields["message"])


def _payload(answer: bytes) -> bytes:
    """What follows the status byte. Raises the error that the other node answered."""
    if answer[:1] != _OK:
        _raise_error(answer[1:])
    return answer[1:]


class Forwarder:
    """Both ends of these requests on one node. Loop thread only."""

    def __init__(self, transport: Transport, group: Consensus) -> None:
        self._transport = transport
        self._group = group
        self._loop = asyncio.get_running_loop()
        transport.on_call(PROPOSE, self._serve_propose)
        transport.on_call(READ_INDEX, self._serve_read_index)

    def on_status(self, handler: Callable[[], bytes]) -> None:
        """Answer other nodes' status requests with what `handler` gives."""

        def serve(peer: str, payload: bytes) -> Awaitable[bytes]:
            future: asyncio.Future[bytes] = self._loop.create_future()
            future.set_result(handler())
            return future

        self._transport.on_call(STATUS, serve)

    async def propose(self, leader: str, command: bytes, timeout_seconds: float) -> Result:
        """Have the leader replicate one encoded command.

        Raises NotLeader, Overloaded, OutcomeUnknown, PeerUnreachable.
        """
        answer = await self._transport.call(leader, PROPOSE, command, timeout_seconds)
        return decode_result(_payload(answer))

    async def read_index(self, leader: str, *, confirmed: bool, timeout_seconds: float) -> int:
        """The leader's read index; unconfirmed: what it has applied, whoever leads now."""
        payload = b"" if confirmed else _UNCONFIRMED
        answer = await self._transport.call(leader, READ_INDEX, payload, timeout_seconds)
        return int(_INDEX.unpack(_payload(answer))[0])

    async def status(self, peer: str, timeout_seconds: float) -> bytes:
        return await self._transport.call(peer, STATUS, b"", timeout_seconds)

    def _serve_propose(self, peer: str, command: bytes) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()

        def done(result: object, error: ClusterError | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_result(_encode_error(error))
            else:
                future.set_result(_OK + encode_result(result))  # type: ignore[arg-type]

        self._group.submit(command, done)
        return future

    def _serve_read_index(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()
        role = self._group.role()
        if payload == _UNCONFIRMED:
            if role.name == "leader":
                future.set_result(_OK + _INDEX.pack(self._group.status().applied_index))
            else:
                future.set_result(_encode_error(NotLeader(role.leader)))
            return future

        def done(index: int | None, error: ClusterError | None) -> None:
            if future.cancelled():
                return
            if index is None:
                future.set_result(_encode_error(error or NoQuorum("no read index")))
            else:
                future.set_result(_OK + _INDEX.pack(index))

        self._group.read_index(done)
        return future
