"""One watch over several partitions: each one's order is kept, and every change comes once.

Theory of operation. A task per partition takes batches from its feed, and takes the next
one only when the last was handed out: what is held is bounded by one batch a partition,
and a partition that is fast does not push others aside. The position of a partition is
that of its last change that was handed out or, if no batch of it waits, wherever its feed
is. The positions of all partitions together are the event id: to resume there misses
nothing and repeats nothing, whichever partitions were ahead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from engines.errors import Compacted
from engines.interfaces import SUB_MAX, Change, ChangeId
from node import watch_token
from node.watch import WatchEnded


class Feed(Protocol):
    """The changes of one partition: `PartitionFeed`."""

    @property
    def group(self) -> int: ...

    @property
    def position(self) -> ChangeId: ...

    async def next(self) -> list[Change]: ...

    def close(self) -> None: ...


class Delivery(NamedTuple):
    """Changes of one group, in order."""

    group: int
    changes: list[Change]
    ids: list[str] | None  # event ids; None: the changes' own


class PartitionCompacted(Exception):
    """Changes of one partition are no longer kept. `resume`: the event id after them."""

    def __init__(self, group: int, compacted_revision: int, resume: str) -> None:
        super().__init__(f"partition {group}: revisions before {compacted_revision} are not kept")
        self.group = group
        self.compacted_revision = compacted_revision
        self.resume = resume


class FanIn:
    """See the module. One task at a time may wait in `next`. Loop thread only.

    With a single feed, event ids are the changes' own.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        """Of all partitions, in the order of their ids; they have begun. Closes them."""
        self._feeds = feeds
        self._several = len(feeds) > 1
        self._reached = [feed.position for feed in feeds]  # of what was handed out
        self._waiting: deque[tuple[int, list[Change]]] = deque()  # at most one of each feed
        self._free = [asyncio.Event() for _ in feeds]  # no batch of the feed waits
        self._awake = asyncio.Event()
        self._failure: tuple[int, Exception] | None = None
        self._ended = False
        for free in self._free:
            free.set()
        self._tasks = [asyncio.create_task(self._pump(at)) for at in range(len(feeds))]

    @property
    def resume_id(self) -> str:
        """The event id of all that was handed out, and of what does not match beyond it."""
        return self._id_of([self._position(at) for at in range(len(self._feeds))])

    async def next(self, timeout: float) -> Delivery | None:
        """What follows in some partition; None if nothing came within `timeout` seconds.

        Raises: WatchEnded; PartitionCompacted, or Compacted with a single feed.
        """
        while True:
            if self._ended:
                raise WatchEnded
            if self._failure is not None:
                self._raise(*self._failure)
            if self._waiting:
                return self._hand_out(*self._waiting.popleft())
            try:
                async with asyncio.timeout(timeout):
                    await self._awake.wait()
            except TimeoutError:
                return None
            self._awake.clear()

    def end(self) -> None:
        """Make `next` raise WatchEnded, also one that waits already. Idempotent."""
        self._ended = True
        self._awake.set()

    def close(self) -> None:
        """Idempotent."""
        for task in self._tasks:
            task.cancel()
        for feed in self._feeds:
            feed.close()

    async def _pump(self, at: int) -> None:
        feed, free = self._feeds[at], self._free[at]
        try:
            while True:
                changes = await feed.next()
                # No await between what moved the feed's position and this: whoever asks for
                # the position sees that a batch waits.
                if changes:
                    free.clear()
                    self._waiting.append((at, changes))
                    self._awake.set()
                    await free.wait()
        except Exception as error:
            if self._failure is None:
                self._failure = (at, error)
            self._awake.set()

    def _hand_out(self, at: int, changes: list[Change]) -> Delivery:
        feed = self._feeds[at]
        ids = self._ids(at, changes) if self._several else None
        self._reached[at] = changes[-1].id
        self._free[at].set()
        return Delivery(feed.group, changes, ids)

    def _ids(self, at: int, changes: Iterable[Change]) -> list[str]:
        """The event id after each change; those of the other partitions stay."""
        parts = [
            b"" if each == at else watch_token.encode_one(self._position(each))
            for each in range(len(self._feeds))
        ]
        ids: list[str] = []
        for change in changes:
            parts[at] = watch_token.encode_one(change.id)
            ids.append(watch_token.join(parts))
        return ids

    def _position(self, at: int) -> ChangeId:
        if self._free[at].is_set():
            self._reached[at] = max(self._reached[at], self._feeds[at].position)
        return self._reached[at]

    def _raise(self, at: int, error: Exception) -> None:
        if not self._several or not isinstance(error, Compacted):
            raise error
        positions = [self._position(each) for each in range(len(self._feeds))]
        positions[at] = ChangeId(error.compacted_revision, SUB_MAX)
        resume = watch_token.encode(positions)
        raise PartitionCompacted(self._feeds[at].group, error.compacted_revision, resume)

    def _id_of(self, positions: Sequence[ChangeId]) -> str:
        if self._several:
            return watch_token.encode(positions)
        return watch_token.plain(positions[0])
