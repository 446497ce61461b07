"""Requests between the nodes of one group: propose at the leader, ask it for a read index,
change who belongs to it, ask for status.

A request is forwarded once: the leader's side answers NotLeader rather than pass it on.
Answers start with one byte: 0, the result follows; 1, an error as JSON.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from cluster.errors import (
    ChangeRefused,
    ClusterError,
    DiskFull,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RemoteCallFailed,
)
from cluster.interfaces import Consensus
from cluster.membership import Add, Change, Configuration, Member, Promote, Remove, Update
from engines.command import decode_result, encode_result
from engines.interfaces import Result
from node.group_calls import Caller

PROPOSE, READ_INDEX, STATUS, CHANGE_MEMBERSHIP, TRANSFER_LEADERSHIP = 1, 2, 3, 4, 5  # methods
COMMITTED_MEMBERS = 16
_OK, _ERROR = b"\x00", b"\x01"
_INDEX = struct.Struct("<Q")
_UNCONFIRMED = b"\x01"  # READ_INDEX payload: consistency `leader`, no quorum round

_CHANGES: dict[str, type[Add | Promote | Remove | Update]] = {
    "add": Add,
    "promote": Promote,
    "remove": Remove,
    "update": Update,
}


class UnknownMember(ChangeRefused):
    """A change of, or a transfer to, a node that is not a member."""


_ERRORS: dict[str, type[ClusterError]] = {
    "DiskFull": DiskFull,
    "Overloaded": Overloaded,
    "NoQuorum": NoQuorum,
    "OutcomeUnknown": OutcomeUnknown,
}


_REFUSALS: dict[str, type[ChangeRefused]] = {
    "ChangeRefused": ChangeRefused,
    "UnknownMember": UnknownMember,
}


def encode_error(error: ClusterError) -> bytes:
    leader = error.leader if isinstance(error, NotLeader) else None
    body = {
        "error": type(error).__name__,
        "message": str(error),
        "leader": leader,
        "definite": error.definite,
    }
    if isinstance(error, ChangeRefused):
        body["field"] = error.field
    return _ERROR + json.dumps(body).encode()


NOT_HERE = encode_error(NotLeader(None))  # of a node that does not host the group at all


def _raise_error(body: bytes) -> NoReturn:
    fields = json.loads(body)
    kind, message = fields["error"], fields["message"]
    if kind == "NotLeader":
        raise NotLeader(fields["leader"])
    if kind in _REFUSALS:
        raise _REFUSALS[kind](message, fields["field"])
    if kind in _ERRORS:
        raise _ERRORS[kind](message)
    raise RemoteCallFailed(message, definite=fields["definite"])


def payload_of(answer: bytes) -> bytes:
    """What follows the status byte. Raises the error that the other node answered."""
    if answer[:1] != _OK:
        _raise_error(answer[1:])
    return answer[1:]


async def propose_at(caller: Caller, node: str, command: bytes, timeout_seconds: float) -> Result:
    """Have `node` replicate one encoded command as the leader.

    Raises NotLeader, Overloaded, OutcomeUnknown, PeerUnreachable.
    """
    return decode_result(payload_of(await caller.call(node, PROPOSE, command, timeout_seconds)))


class Forwarder:
    """Both ends of these requests on one node. Loop thread only."""

    def __init__(self, transport: Caller, group: Consensus) -> None:
        self._transport = transport
        self._group = group
        self._loop = asyncio.get_running_loop()
        transport.on_call(PROPOSE, self._serve_propose)
        transport.on_call(READ_INDEX, self._serve_read_index)
        transport.on_call(COMMITTED_MEMBERS, self._serve_committed_members)

    def on_status(self, handler: Callable[[], bytes]) -> None:
        """Answer other nodes' status requests with what `handler` gives."""

        def serve(peer: str, payload: bytes) -> Awaitable[bytes]:
            future: asyncio.Future[bytes] = self._loop.create_future()
            future.set_result(handler())
            return future

        self._transport.on_call(STATUS, serve)

    async def propose(self, leader: str, command: bytes, timeout_seconds: float) -> Result:
        """See `propose_at`."""
        return await propose_at(self._transport, leader, command, timeout_seconds)

    async def read_index(self, leader: str, *, confirmed: bool, timeout_seconds: float) -> int:
        """The leader's read index; unconfirmed: what it has applied, whoever leads now."""
        payload = b"" if confirmed else _UNCONFIRMED
        answer = await self._transport.call(leader, READ_INDEX, payload, timeout_seconds)
        return int(_INDEX.unpack(payload_of(answer))[0])

    def on_membership(
        self,
        change: Callable[[Change, float], Awaitable[Configuration]],
        transfer: Callable[[str | None, float], Awaitable[str]],
    ) -> None:
        """Answer other nodes' requests with what these return, or raise as a ClusterError.

        Both are given the seconds that they may take.
        """

        async def serve_change(peer: str, payload: bytes) -> bytes:
            request = json.loads(payload)
            try:
                configuration = await change(_change(request), request["seconds"])
            except ClusterError as error:
                return encode_error(error)
            return _OK + _encode_configuration(configuration)

        async def serve_transfer(peer: str, payload: bytes) -> bytes:
            request = json.loads(payload)
            try:
                leader = await transfer(request["target"], request["seconds"])
            except ClusterError as error:
                return encode_error(error)
            return _OK + json.dumps({"leader": leader}).encode()

        self._transport.on_call(CHANGE_MEMBERSHIP, serve_change)
        self._transport.on_call(TRANSFER_LEADERSHIP, serve_transfer)

    async def change_membership(
        self, leader: str, change: Change, timeout_seconds: float
    ) -> Configuration:
        """Have the leader make one change.

        Raises NotLeader, ChangeRefused, UnknownMember, OutcomeUnknown, PeerUnreachable.
        """
        kind = next(name for name, each in _CHANGES.items() if isinstance(change, each))
        fields = {name: getattr(change, name) for name in change.__dataclass_fields__}
        payload = json.dumps({"change": kind, "fields": fields, "seconds": timeout_seconds})
        answer = await self._transport.call(
            leader, CHANGE_MEMBERSHIP, payload.encode(), timeout_seconds
        )
        return _configuration(payload_of(answer))

    async def transfer_leadership(
        self, leader: str, target: str | None, timeout_seconds: float
    ) -> str:
        """Have the leader hand over; returns who leads then. Raises as `change_membership`."""
        payload = json.dumps({"target": target, "seconds": timeout_seconds}).encode()
        answer = await self._transport.call(leader, TRANSFER_LEADERSHIP, payload, timeout_seconds)
        return str(json.loads(payload_of(answer))["leader"])

    async def committed_members(self, peer: str, timeout_seconds: float) -> Configuration:
        """The newest configuration that a peer knows to be committed.

        Raises PeerUnreachable, NotLeader: it does not hold the group.
        """
        answer = await self._transport.call(peer, COMMITTED_MEMBERS, b"", timeout_seconds)
        return _configuration(payload_of(answer))

    async def status(self, peer: str, timeout_seconds: float) -> bytes:
        return await self._transport.call(peer, STATUS, b"", timeout_seconds)

    def _serve_committed_members(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()
        future.set_result(_OK + _encode_configuration(self._group.committed_configuration()))
        return future

    def _serve_propose(self, peer: str, command: bytes) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()

        def done(result: object, error: ClusterError | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_result(encode_error(error))
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
                future.set_result(encode_error(NotLeader(role.leader)))
            return future

        def done(index: int | None, error: ClusterError | None) -> None:
            if future.cancelled():
                return
            if index is None:
                future.set_result(encode_error(error or NoQuorum("no read index")))
            else:
                future.set_result(_OK + _INDEX.pack(index))

        self._group.read_index(done)
        return future


def _encode_configuration(configuration: Configuration) -> bytes:
    members = [list(member) for member in configuration.members]
    return json.dumps({"index": configuration.index, "members": members}).encode()


def _configuration(data: bytes) -> Configuration:
    found = json.loads(data)
    return Configuration(found["index"], tuple(Member(*row) for row in found["members"]))


def _change(request: dict[str, Any]) -> Change:
    """The change of a CHANGE_MEMBERSHIP request."""
    fields = request["fields"]
    if request["change"] == "add":
        return Add(Member(*fields["member"]))
    return _CHANGES[request["change"]](**fields)
