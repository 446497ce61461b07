"""One partition's changes for one watch, from whichever replica can give them.

Where a replica is here, its hub; otherwise pages from another node. Each source begins
after the position that the last one reached, and replicas hold the same changes under the
same ids, so that a change of source loses and repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cluster.errors import ClusterError
from engines.interfaces import Change, ChangeId
from engines.watch_codec import WatchAsk, WatchPage
from node.clock import Clock
from node.errors import Unavailable
from node.leadership import RETRY_PAUSE_SECONDS
from node.remote_watch import ANSWER_SECONDS_MAX, RemoteWatches
from node.watch import Selector, Subscription, WatchEnded, WatchHub

POLL_MS = 5_000  # that one page waits for a change
FIRST_SECONDS_MAX = 0.7  # for a node to say where a watch begins; then another one is asked


class Asked(Protocol):
    """Whom to ask about a group that is not here: `remote_router.Elsewhere`."""

    def guess(self) -> str | None: ...

    def mistaken(self, node: str) -> None: ...


class Wanted(NamedTuple):
    """What a watch wants of each partition."""

    selector: Selector
    values: bool
    batch_bytes_max: int  # value bytes held at once; the first change always fits


class PartitionFeed:
    """See the module. One task at a time may wait in it. Loop thread only."""

    def __init__(
        self,
        group: int,
        wanted: Wanted,
        here: Callable[[], WatchHub | None],
        elsewhere: Asked,
        remote: RemoteWatches,
        clock: Clock,
    ) -> None:
        """`here`: the hub of this node's replica, if it has one that can serve."""
        self.group = group
        self.start_revision = 0  # of the replica that was asked first, if one was
        self._wanted = wanted
        self._here = here
        self._elsewhere = elsewhere
        self._remote = remote
        self._clock = clock
        self._local: Subscription | None = None
        self._hub: WatchHub | None = None  # which `_local` is of
        self._position = ChangeId(0, 0)

    @property
    def position(self) -> ChangeId:
        """Every change up to here was handed out, or does not match."""
        if self._local is not None:
            return max(self._position, self._local.position)
        return self._position

    async def begin(self, since: ChangeId | None, deadline: float, *, ask: bool) -> None:
        """Begin after `since`, or now. `ask`: learn the revision even if `since` is given.

        Raises: Unavailable.
        """
        hub = self._here()
        if hub is not None:
            self._local = self._subscribed(hub, since)
            self._position = self._local.position if since is None else since
            self.start_revision = self._local.start_revision
            return
        if since is None or ask:
            page = await self._first(deadline)
            self.start_revision = page.revision
            since = page.position if since is None else since
        self._position = since

    async def next(self) -> list[Change]:
        """The changes that follow, in order; [] if none came for a while.

        Raises: Compacted.
        """
        while True:
            self._look_here()
            if self._local is not None:
                try:
                    return await self._local.next(POLL_MS / 1000)
                except WatchEnded:
                    self._leave()  # the replica was given up
                    continue
            page = await self._ask(self._position, POLL_MS)
            if page is not None:
                self._position = page.position
                return list(page.changes)
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    def close(self) -> None:
        """Idempotent."""
        self._leave()

    def _look_here(self) -> None:
        """Use the replica here as soon, and as long, as there is one that can serve."""
        hub = self._here()
        if self._local is not None and hub is not self._hub:
            self._leave()
        if hub is None or self._local is not None:
            return
        # One that is being closed, or has no room for more, is as good as none.
        with contextlib.suppress(Unavailable):
            self._local = self._subscribed(hub, self._position)

    def _leave(self) -> None:
        local = self._local
        if local is not None:
            self._position, self._local = self.position, None
            local.close()

    def _subscribed(self, hub: WatchHub, since: ChangeId | None) -> Subscription:
        wanted = self._wanted
        self._hub = hub
        return hub.subscribe(
            wanted.selector, since, values=wanted.values, batch_bytes_max=wanted.batch_bytes_max
        )

    async def _first(self, deadline: float) -> WatchPage:
        while True:
            page = await self._ask(None, 0, FIRST_SECONDS_MAX)
            if page is not None:
                return page
            if self._clock.monotonic() >= deadline:
                raise Unavailable(f"no replica of partition {self.group} answered in time")
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    async def _ask(
        self, since: ChangeId | None, wait_ms: int, answer_seconds: float = ANSWER_SECONDS_MAX
    ) -> WatchPage | None:
        """A page from the replica that is asked at present; None: ask again, another one."""
        node = self._elsewhere.guess()
        if node is None:
            return None
        wanted = self._wanted
        ask = WatchAsk(*wanted.selector, since, wanted.values, wait_ms, wanted.batch_bytes_max)
        try:
            return await self._remote.page(node, self.group, ask, answer_seconds)
        except ClusterError:
            self._elsewhere.mistaken(node)
            return None
