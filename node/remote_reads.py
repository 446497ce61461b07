"""Reads that run on another node: where the data is, or where a replica is not damaged.

A call carries the group, how fresh the answer must be, and the request as a value. The
node that is asked makes its own barrier, as for its own clients, and never passes the read
on. Answers begin with one byte: 0, what was found or the state's refusal of the request
follows; 1, an error as JSON.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar

from cluster.errors import RemoteCallFailed
from cluster.transport import Transport
from engines.collection_requests import QueryAnswer
from engines.errors import Compacted, CorruptRecord, InvalidArgument, ReadersBusy, UnknownRead
from engines.read_codec import decode_answer, decode_read, encode_answer, encode_read
from engines.read_requests import ReadRequest, Shown
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError, Unavailable
from node.http_errors import FATAL, as_hivemem
from node.http_limits import INLINE_BYTES_MAX, TIMEOUT_MS_MAX
from node.local_reads import ReaderThreads
from node.reads import PRIORITIES, Consistency, Priority, ReadOptions, ReplicaLeft

T = TypeVar("T")

READ: Final = 6  # method; 1 to 5 are those of `forward.py`
VERSION: Final = 1
VERSION_PRIORITY: Final = 2  # the head ends with the priority; without: it is the default
_HEAD = struct.Struct("<BIIBqq")  # version, group, ms, consistency, staleness or -1, revision or -1
_CONSISTENCIES: Final = (Consistency.LINEARIZABLE, Consistency.LEADER, Consistency.STALE)
_NONE: Final = -1
_REVISION_MAX: Final = (1 << 63) - 1
_FOUND, _ERROR = b"\x00", b"\x01"
# What is answered as it is, since it is as true for the node that asked.
_PASSED_ON: Final[dict[str, type[HivememError]]] = {
    "Unavailable": Unavailable,
    "DeadlineExceeded": DeadlineExceeded,
}


class DamagedReplica(RemoteCallFailed):
    """The record is damaged on the node that was asked: another replica may have it whole."""

    def __init__(self, node: str, error: CorruptRecord) -> None:
        super().__init__(f"node {node}: {error}", definite=True)
        self.node = node


class GroupReads(Protocol):
    """One group's reads, wherever they are answered."""

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]: ...


class OwnReads(Protocol):
    """One group's reads on this node, as its `Router` has them. They are not passed on."""

    async def read_here(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]: ...


class RemoteReads:
    """Both ends of these calls on one node. Loop thread only."""

    def __init__(
        self,
        transport: Transport,
        threads: ReaderThreads,
        clock: Clock,
        fail: Callable[[BaseException], None],
    ) -> None:
        """`fail` hears of damage to this node's own state."""
        self._transport = transport
        self._threads = threads
        self._clock = clock
        self._fail = fail
        self._groups: dict[int, tuple[OwnReads, Callable[[], bool]]] = {}
        transport.on_call(READ, self._answer)

    def serve(self, group: int, reads: OwnReads, votes: Callable[[], bool] = lambda: True) -> None:
        """Answer other nodes' reads of `group` from here, while this node `votes` in it: one
        that is still catching up would let them wait."""
        self._groups[group] = reads, votes

    def withdraw(self, group: int) -> None:
        """The group is here no more."""
        self._groups.pop(group, None)

    async def read(
        self,
        node: str,
        group: int,
        request: ReadRequest[T],
        options: ReadOptions,
        timeout_seconds: float,
    ) -> Shown[T]:
        """What `node` answers from its replica of `group`.

        Raises: PeerUnreachable, RemoteCallFailed, DamagedReplica; Compacted or
        InvalidArgument if the request has that answer; Unavailable or DeadlineExceeded if the
        other node could not answer as freshly, or as soon, as was asked.
        """
        payload = _head(group, options, timeout_seconds) + encode_read(request)
        answer = await self._transport.call(node, READ, payload, timeout_seconds)
        if answer[:1] != _FOUND:
            _raise_error(answer[1:])
        decode = partial(decode_answer, request, memoryview(answer)[1:])
        try:
            large = len(answer) > INLINE_BYTES_MAX
            return await self._threads.on_thread(decode) if large else decode()
        except CorruptRecord as error:
            raise DamagedReplica(node, error) from error
        except UnknownRead as error:
            raise RemoteCallFailed(f"node {node}: {error}", definite=True) from error

    async def _answer(self, peer: str, payload: bytes) -> bytes:
        try:
            group, options, seconds, request = _request(payload)
            reads, votes = self._groups.get(group, (None, None))
            if reads is None or votes is None or not votes():
                raise RemoteCallFailed(f"group {group} is not on this node", definite=True)
            return await self._run(reads, request, options, self._clock.monotonic() + seconds)
        except UnknownRead as error:
            return _encode_error(RemoteCallFailed(str(error), definite=True))
        except ReadersBusy as error:
            return _encode_error(as_hivemem(error, writes=False))
        except ReplicaLeft:
            left = RemoteCallFailed("the group is not on this node any more", definite=True)
            return _encode_error(left)
        except (HivememError, RemoteCallFailed) as error:
            return _encode_error(error)

    async def _run(
        self, reads: OwnReads, request: ReadRequest[Any], options: ReadOptions, deadline: float
    ) -> bytes:
        try:
            shown = await reads.read_here(request, options, deadline)
        except FATAL as error:
            self._fail(error)
            if not isinstance(error, CorruptRecord):
                raise
            return _FOUND + encode_answer(request, error)
        except (Compacted, InvalidArgument) as error:
            return _FOUND + encode_answer(request, error)
        encode = partial(encode_answer, request, shown)
        found = shown.found
        brief = isinstance(found, QueryAnswer) and len(found.answer) <= INLINE_BYTES_MAX
        if brief or not request.offload:
            return _FOUND + encode()
        return _FOUND + await self._threads.on_thread(encode)


def _head(group: int, options: ReadOptions, timeout_seconds: float) -> bytes:
    staleness, revision = options.max_staleness_ms, options.min_revision
    plain = options.priority is Priority.MEDIUM  # which nodes of every build can read
    head = _HEAD.pack(
        VERSION if plain else VERSION_PRIORITY,
        group,
        min(max(1, int(timeout_seconds * 1000)), TIMEOUT_MS_MAX),
        _CONSISTENCIES.index(options.consistency),
        _NONE if staleness is None else staleness,
        _NONE if revision is None else min(revision, _REVISION_MAX),
    )
    return head if plain else head + bytes([options.priority.level])


def _request(payload: bytes) -> tuple[int, ReadOptions, float, ReadRequest[Any]]:
    """(group, options, seconds that it may take, request). Raises UnknownRead."""
    version = payload[0] if payload else None
    size = _HEAD.size + (version == VERSION_PRIORITY)
    if version not in (VERSION, VERSION_PRIORITY) or len(payload) < size:
        raise UnknownRead("not a read call of a version that this build knows")
    _, group, timeout_ms, consistency, staleness, revision = _HEAD.unpack_from(payload)
    level = payload[_HEAD.size] if version == VERSION_PRIORITY else Priority.MEDIUM.level
    if consistency >= len(_CONSISTENCIES) or not 1 <= timeout_ms <= TIMEOUT_MS_MAX:
        raise UnknownRead("malformed read: its consistency or its timeout")
    try:
        options = ReadOptions(
            _CONSISTENCIES[consistency],
            None if staleness == _NONE else staleness,
            None if revision == _NONE else revision,
            PRIORITIES[level],
        )
    except (ValueError, IndexError) as error:
        raise UnknownRead(f"malformed read: {error}") from error
    return group, options, timeout_ms / 1000, decode_read(memoryview(payload)[size:])


def _encode_error(error: HivememError | RemoteCallFailed) -> bytes:
    fields: dict[str, str | None] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, HivememError):
        fields |= {"code": error.code, "leader": error.leader}
    return _ERROR + json.dumps(fields).encode()


def _raise_error(body: bytes) -> NoReturn:
    """A read changes nothing: every failure of one is definite."""
    try:
        fields = json.loads(body)
        message, kind = str(fields["message"]), _PASSED_ON.get(fields["error"])
        if kind is not None:
            leader = fields["leader"]
            raise kind(
                message,
                code=str(fields["code"]),
                leader=leader if isinstance(leader, str) else None,
            )
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteCallFailed("malformed error of a read", definite=True) from error
    raise RemoteCallFailed(message, definite=True)
