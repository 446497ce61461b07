"""What the watches of a node come from: one group's hub or, in a cluster with partitions,
each partition's replica, here or elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from engines.interfaces import ChangeId
from node import watch_token
from node.clock import Clock
from node.errors import Unavailable
from node.partitions import Partitions
from node.remote_router import Elsewhere
from node.remote_watch import POLLS_INFLIGHT_MAX, RemoteWatches
from node.replica import SYSTEM_GROUP, Shared
from node.watch import (
    BATCH_BYTES_MAX,
    Selector,
    Subscription,
    WatchFigures,
    WatchHub,
)
from node.watch_fan_in import Delivery, FanIn
from node.watch_feed import PartitionFeed, Wanted

# Well below what a client waits for a node to say that its watch has begun.
BEGIN_SECONDS_MAX = 2.0
BATCH_BYTES_MIN = 32 << 10  # value bytes of each partition that a watch of many may hold


class OpenWatch(Protocol):
    """One watch. Close it after use; one task at a time may wait in `next`."""

    @property
    def start_revision(self) -> int:
        """The revision when it began; 0 where several partitions have one each."""

    @property
    def resume_id(self) -> str:
        """The event id after which nothing was handed out yet."""

    async def next(self, timeout: float) -> Delivery | None:
        """What follows; None if nothing came within `timeout` seconds.

        Raises: Compacted, PartitionCompacted, WatchEnded.
        """

    def end(self) -> None:
        """Make `next` raise WatchEnded, also one that waits already. Idempotent."""

    def close(self) -> None:
        """Forget the watch. Idempotent."""


class Watches(Protocol):
    """All watches of one node. Loop thread only."""

    @property
    def figures(self) -> WatchFigures: ...

    @property
    def count(self) -> int:
        """Open watches."""

    @property
    def lagging(self) -> int:
        """Open watches, or their parts, that read from the store."""

    def groups(self, selector: Selector) -> int:
        """How many groups such a watch follows: as many positions does its `since` have."""

    async def open(
        self, selector: Selector, since: Sequence[ChangeId] | None, *, values: bool
    ) -> OpenWatch:
        """Watch what follows `since`, one position per group; None: what follows now.

        Raises: Unavailable, OVERLOADED and STOPPING among them.
        """

    def close(self) -> None:
        """End every watch, and open no more. Idempotent."""


class HubWatches:
    """Where one group holds everything."""

    def __init__(self, hub: WatchHub) -> None:
        self._hub = hub
        self.figures = hub.figures

    @property
    def count(self) -> int:
        return self._hub.count

    @property
    def lagging(self) -> int:
        return self._hub.lagging

    def groups(self, selector: Selector) -> int:
        return 1

    async def open(
        self, selector: Selector, since: Sequence[ChangeId] | None, *, values: bool
    ) -> OpenWatch:
        return _HubWatch(
            self._hub.subscribe(selector, since[0] if since is not None else None, values=values)
        )

    def close(self) -> None:
        self._hub.close()


class _HubWatch:
    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.start_revision = subscription.start_revision
        self.end = subscription.end
        self.close = subscription.close

    @property
    def resume_id(self) -> str:
        return watch_token.plain(self._subscription.position)

    async def next(self, timeout: float) -> Delivery | None:
        changes = await self._subscription.next(timeout)
        return Delivery(SYSTEM_GROUP, changes, None) if changes else None


class PartitionWatches:
    """Where partitions hold the data, some of them here."""

    def __init__(self, partitions: Partitions, shared: Shared, *, watches_max: int) -> None:
        self._partitions = partitions
        self._self_id = shared.config.node.id
        self._calls = shared.calls
        self._clock: Clock = shared.clock
        self._remote = RemoteWatches(shared.calls, shared.threads)
        self._watches_max = watches_max
        self._opening = 0
        self._open: set[_PartitionWatch] = set()
        self._closed = False
        self._counted = WatchFigures()

    @property
    def figures(self) -> WatchFigures:
        self._counted.overflows = sum(
            replica.hub.figures.overflows for replica in self._partitions.here()
        )
        return self._counted

    @property
    def count(self) -> int:
        return len(self._open)

    @property
    def lagging(self) -> int:
        return sum(replica.hub.lagging for replica in self._partitions.here())

    def groups(self, selector: Selector) -> int:
        return len(self._groups(selector))

    async def open(
        self, selector: Selector, since: Sequence[ChangeId] | None, *, values: bool
    ) -> OpenWatch:
        self._opening += 1
        try:
            feeds = self._feeds(selector, values)
            self._admit(feeds)
            try:
                await self._begin(feeds, since)
                return self._watch(feeds)
            except BaseException:
                for feed in feeds:
                    feed.close()
                raise
        finally:
            self._opening -= 1

    def close(self) -> None:
        self._closed = True
        for watch in self._open:
            watch.end()

    def _groups(self, selector: Selector) -> Sequence[int]:
        if selector.session is not None:
            return (self._partitions.group_of(selector.session),)
        return self._partitions.data_groups()

    def _feeds(self, selector: Selector, values: bool) -> list[PartitionFeed]:
        groups = self._groups(selector)
        batch_bytes = max(BATCH_BYTES_MIN, BATCH_BYTES_MAX // len(groups))
        wanted = Wanted(selector, values, batch_bytes)
        return [self._feed(group, wanted) for group in groups]

    def _feed(self, group: int, wanted: Wanted) -> PartitionFeed:
        partitions = self._partitions

        def here() -> WatchHub | None:
            replica = partitions.serving(group)
            return replica.hub if replica is not None else None

        def nodes() -> list[str]:
            return [node for node in partitions.holders(group) if node != self._self_id]

        elsewhere = Elsewhere(nodes, self._calls.of(group))
        return PartitionFeed(group, wanted, here, elsewhere, self._remote, self._clock)

    def _admit(self, feeds: Sequence[PartitionFeed]) -> None:
        """Raises: Unavailable STOPPING, OVERLOADED."""
        if self._closed:
            raise Unavailable("this node is stopping", code="STOPPING")
        problem = None
        if len(self._open) + self._opening > self._watches_max:
            problem = f"watches_max: {self._watches_max} watches are open"
        remote = sum(self._partitions.serving(feed.group) is None for feed in feeds)
        if remote and self._remote.polls + remote > POLLS_INFLIGHT_MAX:
            problem = f"{self._remote.polls} partitions are watched at other nodes"
        if problem is not None:
            self._counted.refused += 1
            raise Unavailable(problem, code="OVERLOADED")

    async def _begin(
        self, feeds: Sequence[PartitionFeed], since: Sequence[ChangeId] | None
    ) -> None:
        deadline = self._clock.monotonic() + BEGIN_SECONDS_MAX
        starts: Sequence[ChangeId | None] = since if since is not None else [None] * len(feeds)
        single = len(feeds) == 1
        begun = await asyncio.gather(
            *(
                feed.begin(start, deadline, ask=single)
                for feed, start in zip(feeds, starts, strict=True)
            ),
            return_exceptions=True,  # so that none is still under way when they are closed
        )
        for problem in begun:
            if problem is not None:
                raise problem

    def _watch(self, feeds: Sequence[PartitionFeed]) -> OpenWatch:
        watch = _PartitionWatch(feeds, self._open, self._counted)
        if self._closed:
            watch.end()
        return watch


class _PartitionWatch:
    def __init__(
        self,
        feeds: Sequence[PartitionFeed],
        among: set[_PartitionWatch],
        figures: WatchFigures,
    ) -> None:
        self.start_revision = feeds[0].start_revision if len(feeds) == 1 else 0
        self._fan_in = FanIn(feeds)
        self._among = among
        self._figures = figures
        self.end = self._fan_in.end
        among.add(self)

    @property
    def resume_id(self) -> str:
        return self._fan_in.resume_id

    async def next(self, timeout: float) -> Delivery | None:
        delivery = await self._fan_in.next(timeout)
        if delivery is not None:
            self._figures.delivered += len(delivery.changes)
        return delivery

    def close(self) -> None:
        self._among.discard(self)
        self._fan_in.close()
