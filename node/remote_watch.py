"""Watches of a group that is on another node: one call per page, which waits for the first
change if there is none yet. Nothing is remembered between pages: each says where it begins.
Who goes away leaves a call behind, which ends by itself once it has waited.

Answers begin with one byte: 0, a page follows; 1, an error as in `forward.py`; 2, what
follows `since` is no longer kept, and from which revision on (8 bytes).
"""

from __future__ import annotations

import struct
from asyncio import Semaphore
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from cluster.errors import NotLeader, Overloaded, RemoteCallFailed
from engines import watch_codec
from engines.errors import Compacted, UnknownRead
from engines.watch_codec import WatchAsk, WatchPage, decode_ask, decode_page, encode_page
from node.errors import Unavailable
from node.forward import encode_error, payload_of
from node.group_calls import Caller, GroupCalls
from node.http_errors import FATAL
from node.http_limits import INLINE_BYTES_MAX
from node.local_reads import ReaderThreads
from node.watch import BATCH_BYTES_MAX, BATCH_CHANGES_MAX, Selector, WatchEnded, WatchHub

WATCH: Final = 19  # method of a call
ANSWER_SECONDS_MAX = 3.0  # beyond what was to be waited for; then another node is asked
# Waiting calls of one node, to all others: half of what one connection takes, so that
# writes and reads always find room.
POLLS_INFLIGHT_MAX = 2048
_PAGE, _COMPACTED = b"\x00", b"\x02"
_REVISION = struct.Struct("<Q")

assert BATCH_BYTES_MAX <= watch_codec.PAGE_BYTES_MAX
assert BATCH_CHANGES_MAX <= watch_codec.PAGE_CHANGES_MAX


class WatchServer:
    """Answers other nodes' watches of one group from its replica here. Loop thread only."""

    def __init__(
        self,
        caller: Caller,
        hub: WatchHub,
        threads: ReaderThreads,
        able: Callable[[], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`able`: may this replica answer? One that is still empty would say that a watch
        begins at its first change. `fail` hears of damage to the state."""
        self._hub = hub
        self._threads = threads
        self._able = able
        self._fail = fail
        caller.on_call(WATCH, self._serve)

    def _serve(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        return self._answer(payload)

    async def _answer(self, payload: bytes) -> bytes:
        try:
            ask = decode_ask(payload)
        except UnknownRead as error:
            return encode_error(RemoteCallFailed(str(error), definite=True))
        if not self._able():
            return encode_error(NotLeader(None))
        try:
            return await self._page(ask)
        except Compacted as error:
            return _COMPACTED + _REVISION.pack(error.compacted_revision)
        except WatchEnded:
            return encode_error(NotLeader(None))
        except Unavailable as error:
            return encode_error(Overloaded(str(error)))
        except FATAL as error:
            self._fail(error)
            return encode_error(RemoteCallFailed(str(error), definite=True))

    async def _page(self, ask: WatchAsk) -> bytes:
        selector = Selector(ask.namespace, ask.session, ask.prefix)
        subscription = self._hub.subscribe(
            selector, ask.since, values=ask.values, batch_bytes_max=ask.bytes_max
        )
        try:
            changes = await subscription.next(ask.wait_ms / 1000)
            page = WatchPage(tuple(changes), subscription.position, subscription.start_revision)
        finally:
            subscription.close()
        encode = partial(encode_page, page)
        large = ask.values and sum(change.size for change in changes) > INLINE_BYTES_MAX
        return _PAGE + (await self._threads.on_thread(encode) if large else encode())


class RemoteWatches:
    """Asks other nodes for pages. Loop thread only."""

    def __init__(self, calls: GroupCalls, threads: ReaderThreads) -> None:
        self._calls = calls
        self._threads = threads
        self._room = Semaphore(POLLS_INFLIGHT_MAX)
        self.polls = 0  # that wait for an answer, or for their turn

    async def page(
        self, node: str, group: int, ask: WatchAsk, answer_seconds: float = ANSWER_SECONDS_MAX
    ) -> WatchPage:
        """What `node` has after `ask.since`; nothing, if nothing came while it waited.

        `answer_seconds`: how long the answer may take beyond that.
        Raises: Compacted; ClusterError when another replica has to be asked.
        """
        self.polls += 1
        try:
            async with self._room:
                seconds = ask.wait_ms / 1000 + answer_seconds
                answer = await self._calls.call(
                    node, WATCH, group, watch_codec.encode_ask(ask), seconds
                )
        finally:
            self.polls -= 1
        if answer[:1] == _COMPACTED and len(answer) == 1 + _REVISION.size:
            raise Compacted(_REVISION.unpack_from(answer, 1)[0])
        packed = payload_of(answer)
        decode = partial(decode_page, ask, packed)
        try:
            large = len(packed) > INLINE_BYTES_MAX
            return await self._threads.on_thread(decode) if large else decode()
        except UnknownRead as error:
            raise RemoteCallFailed(f"node {node}: {error}", definite=True) from error
