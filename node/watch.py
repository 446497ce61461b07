"""The watch hub: from applied changes to every watcher that asked for them.

Theory of operation. Changes have ids that only grow, and apply publishes them on the loop
thread right after their commit. A subscription is in one of two states:

- *live*: `publish` puts the ids of matching changes into its queue;
- *lagging*: `publish` ignores it; it reads from the store what follows its position.

It starts lagging if it resumes, and becomes lagging when its queue is full. It goes back
to live in `_join`, which reads the last stretch and switches *without awaiting in between*:
what was committed before is in the read, what is committed later is published to it.
So nothing is lost, and since a subscription only takes ids above its position, nothing
comes twice. Queues hold ids, not values: a value is read when it is sent, so that a slow
watcher costs a bounded number of small ids.

Everything but `_read_page` runs on the loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from engines.errors import StoreFailed
from engines.interfaces import INTEGER_MAX, SUB_MAX, Change, ChangeId
from node.errors import Unavailable
from node.local_reads import Readers

T = TypeVar("T")

PAGE_CHANGES_MAX = 1000  # changes looked at in one read of a lagging watch
JOIN_CHANGES_MAX = 200  # changes looked at on the loop thread, to become live
BATCH_CHANGES_MAX = 100  # changes handed out at once
BATCH_BYTES_MAX = 1 << 20  # value bytes handed out at once; the first change always fits
LOOP_BYTES_MAX = 64 << 10  # value bytes that are read on the loop thread
# Only the number of changes may end a page: a short page must mean that nothing follows.
KEY_BYTES_UNBOUNDED = INTEGER_MAX


class Selector(NamedTuple):
    """What a watch wants to see."""

    namespace: str
    session: str | None = None  # None: every session of the namespace
    prefix: bytes = b""

    def matches(self, change: Change) -> bool:
        return (
            change.namespace == self.namespace
            and (self.session is None or change.session == self.session)
            and change.key.startswith(self.prefix)
        )


class WatchEnded(Exception):
    """The watch was ended: the node is stopping, or nobody is left to tell."""


class Queued(NamedTuple):
    id: ChangeId
    size: int  # bytes of the value


class Page(NamedTuple):
    """One read of a lagging watch."""

    changes: list[Change]  # those that match, with values if they were asked for
    position: ChangeId  # everything up to here was looked at
    full: bool  # there may be more


@dataclass(slots=True)
class WatchFigures:
    """Counters since the start of the process."""

    delivered: int = 0  # changes handed to watchers
    overflows: int = 0  # times a live watch became lagging
    refused: int = 0  # watches beyond watches_max


class WatchHub:
    """All watches of one node on one group's changes. Loop thread only."""

    def __init__(
        self, readers: Readers, executor: Executor, *, watches_max: int, queue_changes_max: int
    ) -> None:
        self.figures = WatchFigures()
        self._readers = readers
        self._executor = executor
        self._watches_max = watches_max
        self._queue_changes_max = queue_changes_max
        self._newest = ChangeId(0, 0)  # the last change that was published
        # Changes that this node has put off applying are wanted now.
        self.on_subscribed: Callable[[], None] = lambda: None
        self._closed = False
        self._by_session: dict[tuple[str, str | None], set[Subscription]] = {}
        self._count = 0

    @property
    def count(self) -> int:
        """Open watches."""
        return self._count

    @property
    def lagging(self) -> int:
        """Open watches that read from the store."""
        return sum(sub.lagging for group in self._by_session.values() for sub in group)

    def publish(self, changes: Sequence[Change]) -> None:
        """Tell the watchers what was just applied and committed, in order."""
        if not changes:
            return
        self._newest = changes[-1].id
        if not self._by_session:
            return
        for change in changes:
            for name in (change.session, None):
                for subscription in self._by_session.get((change.namespace, name), ()):
                    subscription.offer(change)

    def reset(self) -> None:
        """The state was replaced as a whole (a snapshot was installed).

        Changes were skipped that nobody published, so that every watch reads on from the
        store: it finds what it missed there, or learns that it was compacted. Who begins
        to watch now begins after all of it.
        """
        for subscription in self._subscriptions():
            subscription.lag()
        with self._readers() as reader:
            self._newest = max(self._newest, ChangeId(reader.revision, SUB_MAX))

    def subscribe(
        self,
        selector: Selector,
        since: ChangeId | None,
        *,
        values: bool,
        batch_bytes_max: int = BATCH_BYTES_MAX,
    ) -> Subscription:
        """Watch what follows `since`; None: what follows now. Close it after use.

        `batch_bytes_max`: value bytes handed out at once; the first change always fits.
        Raises: Unavailable OVERLOADED or STOPPING.
        """
        if self._closed:
            raise Unavailable("this node is stopping", code="STOPPING")
        if self._count >= self._watches_max:
            self.figures.refused += 1
            raise Unavailable(
                f"watches_max: {self._watches_max} watches are open", code="OVERLOADED"
            )
        with self._readers() as reader:
            revision = reader.revision
        position = ChangeId(revision, SUB_MAX) if since is None else since
        # Behind what was published last there is nothing to catch up with: pages that are
        # asked for one after the other by another node cost no read while it is quiet.
        current = since is None or (self._newest.revision > 0 and since >= self._newest)
        subscription = Subscription(
            self,
            selector,
            position,
            revision,
            values=values,
            lagging=not current,
            batch_bytes_max=batch_bytes_max,
        )
        self._by_session.setdefault((selector.namespace, selector.session), set()).add(subscription)
        self._count += 1
        self.on_subscribed()
        return subscription

    def close(self) -> None:
        """End every watch: their `next` raises WatchEnded. Idempotent."""
        self._closed = True
        for subscription in self._subscriptions():
            subscription.end()

    def _subscriptions(self) -> list[Subscription]:
        return [sub for group in self._by_session.values() for sub in group]

    def _remove(self, subscription: Subscription) -> None:
        name = (subscription.selector.namespace, subscription.selector.session)
        group = self._by_session.get(name)
        if group is None or subscription not in group:
            return
        group.discard(subscription)
        if not group:
            del self._by_session[name]
        self._count -= 1


class Subscription:
    """One watch. One task at a time may wait in `next`.

    Invariant: every matching change up to `position` was handed out; the queue holds ids
    above `position`, growing; a live subscription's queue holds all of those.
    """

    def __init__(
        self,
        hub: WatchHub,
        selector: Selector,
        position: ChangeId,
        revision: int,
        *,
        values: bool,
        lagging: bool,
        batch_bytes_max: int,
    ) -> None:
        self.selector = selector
        self.start_revision = revision  # the state's revision when the watch began
        self.lagging = lagging
        self._hub = hub
        self._values = values
        self._batch_bytes_max = batch_bytes_max
        self._position = position
        self._queue: deque[Queued] = deque()
        self._awake = asyncio.Event()
        self._ended = False

    @property
    def position(self) -> ChangeId:
        """Resuming after it misses nothing and repeats nothing.

        For a live watch with nothing queued it moves with all changes, not only with the
        matching ones: a watch of a quiet session must not fall out of the window.
        """
        if self.lagging or self._queue:
            return self._position
        return max(self._position, self._hub._newest)

    def offer(self, change: Change) -> None:
        """Called by the hub for a change that was just applied."""
        if self.lagging or not change.key.startswith(self.selector.prefix):
            return
        # A watch may resume from a point that this replica has not reached yet.
        if change.id <= self._position:
            return
        if len(self._queue) >= self._hub._queue_changes_max:
            # What is queued stays good; reading goes on after it.
            self.lagging = True
            self._hub.figures.overflows += 1
        else:
            self._queue.append(Queued(change.id, change.size))
        self._awake.set()

    def lag(self) -> None:
        self._position = self.position
        self.lagging = True
        self._awake.set()

    def end(self) -> None:
        """Make `next` raise WatchEnded, also one that waits already. Idempotent."""
        self._ended = True
        self._awake.set()

    def close(self) -> None:
        """Forget the watch. Idempotent."""
        self._hub._remove(self)
        self._queue.clear()

    async def next(self, timeout: float) -> list[Change]:
        """The changes that follow, in order; [] if none came within `timeout` seconds.

        Raises: Compacted (some that follow are no longer kept), WatchEnded.
        """
        while True:
            if self._ended:
                raise WatchEnded
            if self._queue or self.lagging:
                changes = await self._read_on()
            else:
                try:
                    async with asyncio.timeout(timeout):
                        await self._awake.wait()
                except TimeoutError:
                    return []
                self._awake.clear()
                continue
            if changes:
                self._hub.figures.delivered += len(changes)
                return changes

    async def _read_on(self) -> list[Change]:
        try:
            return await (self._take() if self._queue else self._catch_up())
        except StoreFailed:
            if self._ended:
                raise WatchEnded from None  # its store was closed meanwhile
            raise

    async def _take(self) -> list[Change]:
        """Read what is queued, as much as fits into one batch."""
        wanted: list[ChangeId] = []
        room = self._batch_bytes_max
        for queued in self._queue:
            size = queued.size if self._values else 0
            if wanted and (size > room or len(wanted) == BATCH_CHANGES_MAX):
                break
            wanted.append(queued.id)
            room -= size
        if self._batch_bytes_max - room <= LOOP_BYTES_MAX:
            changes = self._read(wanted)
        else:
            changes = await self._offload(lambda: self._read(wanted))
        for change in changes:
            self._queue.popleft()
            self._position = change.id
        if len(changes) < len(wanted):
            # The next one is no longer kept: reading on from the position says so.
            self._queue.clear()
            self.lagging = True
        return changes

    def _read(self, wanted: Sequence[ChangeId]) -> list[Change]:
        """Changes by id, up to the first that is no longer kept."""
        found: list[Change] = []
        with self._hub._readers() as reader:
            for identity in wanted:
                change = reader.change(identity, self._values)
                if change is None:
                    break
                found.append(change)
        return found

    async def _catch_up(self) -> list[Change]:
        page = await self._offload(lambda: self._read_page(self._position))
        self._position = page.position
        if not page.full:
            self._join()
        return page.changes

    def _read_page(self, since: ChangeId) -> Page:
        """One read of what follows `since`. Reader thread."""
        picked: list[Change] = []
        room = self._batch_bytes_max
        with self._hub._readers() as reader:
            # Values are read for what matches only.
            found = reader.changes(since, PAGE_CHANGES_MAX, KEY_BYTES_UNBOUNDED, False)
            for change in found:
                if not self.selector.matches(change):
                    continue
                size = change.size if self._values else 0
                if picked and (size > room or len(picked) == BATCH_CHANGES_MAX):
                    return Page(picked, picked[-1].id, True)
                room -= size
                full = reader.change(change.id, True) if self._values else change
                assert full is not None  # the same snapshot listed it
                picked.append(full)
        return Page(picked, found[-1].id if found else since, len(found) == PAGE_CHANGES_MAX)

    def _join(self) -> None:
        """Read the last stretch and become live, if it is short enough for the loop thread.

        There is no await in here, which is what makes the switch exact.
        """
        with self._hub._readers() as reader:
            found = reader.changes(self._position, JOIN_CHANGES_MAX, KEY_BYTES_UNBOUNDED, False)
        if len(found) == JOIN_CHANGES_MAX:
            return
        matching = [change for change in found if self.selector.matches(change)]
        self._queue.extend(Queued(change.id, change.size) for change in matching)
        if found and not matching:
            self._position = found[-1].id
        self.lagging = False

    async def _offload(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._hub._executor, work)
