"""Who runs next on the reader threads, and who is turned away while too many wait.

The order is by priority with ageing. A read's place is the time at which it came, brought
forward by AGE_SECONDS for each level of its priority: one of a higher level overtakes those
that came shortly before it, and nothing waits for ever, since what comes later has a later
place. A place never changes, so that a heap holds them.

Each priority may fill a share of the queue. So when it grows, low is turned away first, and
there is room for critical reads until it is full.

Source of the bound: a queue that is full answers at once, for it would answer too late anyway.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from node.errors import Unavailable
from node.reads import Priority

AGE_SECONDS: Final = 0.5  # that one level of priority is worth
SHARES: Final[Mapping[Priority, float]] = {  # of `reads_waiting_max`
    Priority.LOW: 0.5,
    Priority.MEDIUM: 0.75,
    Priority.HIGH: 0.875,
    Priority.CRITICAL: 1.0,
}

_Place = tuple[float, int, Priority, asyncio.Future[None]]


class ReadQueue:
    """Loop thread only.

    Invariant: nobody waits while fewer than `threads_max` reads run.
    """

    def __init__(self, threads_max: int, waiting_max: int, monotonic: Callable[[], float]) -> None:
        self.running = 0
        self.waiting: Counter[Priority] = Counter()
        self.shed: Counter[Priority] = Counter()  # since the node started
        self._threads_max = threads_max
        self._waiting_max = waiting_max
        self._monotonic = monotonic
        self._heap: list[_Place] = []
        self._numbers = itertools.count()  # of equal places the first comes first

    async def enter(self, priority: Priority) -> None:
        """Return when the read may run; `leave` ends it. Raises: Unavailable OVERLOADED."""
        if self.running < self._threads_max:
            self.running += 1
            return
        self._must_have_room(priority)
        await self._turn(priority)

    @contextmanager
    def beside(self, priority: Priority) -> Iterator[None]:
        """For one that waits in a line of its own, within the same bound. Raises: Unavailable
        OVERLOADED."""
        self._must_have_room(priority)
        self.waiting[priority] += 1
        try:
            yield
        finally:
            self.waiting[priority] -= 1

    def due(self, priority: Priority) -> float:
        """The place of one that comes now: the least is first."""
        return self._monotonic() - AGE_SECONDS * priority.level

    def _must_have_room(self, priority: Priority) -> None:
        waiting = self.waiting.total()
        if waiting >= SHARES[priority] * self._waiting_max:
            self.shed[priority] += 1
            raise Unavailable(
                f"reads_waiting_max: {waiting} reads wait already, and one of priority "
                f"{priority.value} waits behind at most "
                f"{int(SHARES[priority] * self._waiting_max)}; retry",
                code="OVERLOADED",
            )

    def leave(self) -> None:
        """One that ran has ended: the next one runs."""
        while self._heap:
            _, _, priority, future = heapq.heappop(self._heap)
            self.waiting[priority] -= 1
            if not future.done():
                future.set_result(None)
                return
        self.running -= 1

    async def _turn(self, priority: Priority) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = self.due(priority), next(self._numbers), priority, future
        heapq.heappush(self._heap, place)
        self.waiting[priority] += 1
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._give_up(place)
            else:
                self.leave()  # its turn had come already
            raise

    def _give_up(self, place: _Place) -> None:
        if place in self._heap:
            self._heap.remove(place)
            heapq.heapify(self._heap)
            self.waiting[place[2]] -= 1
