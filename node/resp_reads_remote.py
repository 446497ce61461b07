"""Reads of groups that are on other nodes: those of one group that come together are asked
for together. Loop thread only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

from engines.interfaces import PHYSICAL_KEY_BYTES_MAX, Held
from engines.read_requests import (
    HELD_BYTES,
    KEY_BYTES_MAX,
    MANY_ITEMS_MAX,
    GetHeld,
    Shown,
    WantedHeld,
)
from node.clock import Clock
from node.errors import HivememError
from node.http_errors import FATAL, as_hivemem
from node.reads import LINEARIZABLE, STALE
from node.resp_limits import ANSWER_BYTES_MAX, KEYS_MAX
from node.resp_lookups import AnswerTooLarge, Found, Waiting, WayTo, tell, value_bytes

REQUESTS_INFLIGHT_MAX: Final = 4  # of one group; the reads behind them share the next one
NAMES_BYTES_MAX: Final = 1 << 20  # of one request; those of its first command always fit

assert KEYS_MAX <= MANY_ITEMS_MAX


class ReadsElsewhere:
    """`fail` hears of damage, which has to stop the node."""

    def __init__(
        self,
        way_to: WayTo,
        clock: Clock,
        fail: Callable[[Exception], None],
        timeout_seconds: float,
    ) -> None:
        self._way_to = way_to
        self._clock = clock
        self._fail = fail
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._queues: dict[tuple[int, bool], deque[Waiting]] = {}
        self._inflight: dict[tuple[int, bool], int] = {}
        self.parked: list[tuple[int, bool, Waiting]] = []  # of clients that do not read
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, group: int, batch: Iterable[Waiting], *, stale: bool = False) -> None:
        """Have the nodes that hold the group answer; `stale`: from whatever they have."""
        queue = self._queues.get((group, stale))
        if queue is None:
            queue = self._queues[group, stale] = deque()
            self._loop.call_soon(self._begin, group, stale)
        queue.extend(batch)

    def resume(self) -> None:
        """A client takes answers again, or is gone: ask for what was left for later."""
        parked, self.parked = self.parked, []
        for group, stale, item in parked:
            self.ask(group, (item,), stale=stale)

    def _begin(self, group: int, stale: bool) -> None:
        """Send requests while there may be more; the queue goes when it is empty."""
        place = (group, stale)
        queue = self._queues.get(place, deque())
        while queue and self._inflight.get(place, 0) < REQUESTS_INFLIGHT_MAX:
            batch = self._take(group, stale, queue)
            if batch:
                self._inflight[place] = self._inflight.get(place, 0) + 1
                task = self._loop.create_task(self._run(group, stale, batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if not queue:
            self._queues.pop(place, None)

    def _take(self, group: int, stale: bool, queue: deque[Waiting]) -> list[Waiting]:
        """As many as one request may ask for, without those whose client does not read."""
        batch: list[Waiting] = []
        records = size = 0
        while queue:
            item = queue[0]
            if item.blocked():
                self.parked.append((group, stale, queue.popleft()))
                continue
            records += len(item.wanted)
            size += sum(len(session) + len(key) for session, key, _ in item.wanted)
            if batch and (records > MANY_ITEMS_MAX or size > NAMES_BYTES_MAX):
                break
            batch.append(queue.popleft())
        return batch

    async def _run(self, group: int, stale: bool, batch: list[Waiting]) -> None:
        place = (group, stale)
        try:
            rest = await self._ask(group, stale, batch)
        except Exception as error:
            if isinstance(error, FATAL):
                self._fail(error)
            tell(batch, as_hivemem(error, writes=False))
            rest = []
        self._inflight[place] -= 1
        if not self._inflight[place]:
            del self._inflight[place]
        if rest or place in self._queues:
            # What was not answered came first, and stays first.
            self._queues.setdefault(place, deque()).extendleft(reversed(rest))
            self._begin(group, stale)

    async def _ask(self, group: int, stale: bool, batch: list[Waiting]) -> list[Waiting]:
        """One request; returns the commands that are not answered by it."""
        deadline = self._clock.monotonic() + self._timeout_seconds
        read, options = self._way_to(group).read, STALE if stale else LINEARIZABLE
        wanted = [_possible(item) for item in batch]
        if not any(wanted):
            for item in batch:
                item.done([None] * len(item.wanted))
            return []
        everything = GetHeld(tuple(each for some in wanted for each in some), HELD_BYTES)
        found = (await read(everything, options, deadline)).found
        begin = 0
        for at, (item, some) in enumerate(zip(batch, wanted, strict=True)):
            part: Sequence[Held | None] = found[begin : begin + len(some)]
            begin += len(some)
            if len(part) < len(some):
                if at:
                    return batch[at:]  # whole, so that all of it is read from one state
                part = await _whole(some, partial(read, options=options, deadline=deadline))
            item.done(_result(item, some, part))
        return []


async def _whole(
    wanted: list[WantedHeld], read: Callable[[GetHeld], Awaitable[Shown[Sequence[Held | None]]]]
) -> Sequence[Held | None]:
    """All that one command looks for, in one request: from one state. Only where the values
    are as many as one answer may hold, what follows them is asked for by itself."""
    found: list[Held | None] = []
    while len(found) < len(wanted):
        request = GetHeld(tuple(wanted[len(found) :]), ANSWER_BYTES_MAX)
        found += (await read(request)).found
        if len(found) > 1 and value_bytes(found) > ANSWER_BYTES_MAX:
            break  # it will be refused
    return found


def _possible(item: Waiting) -> list[WantedHeld]:
    """What is to be asked for: not what no node can hold, since its name is too long."""
    return [
        WantedHeld(item.namespace, session, key, values)
        for session, key, values in item.wanted
        if _may_exist(session, key)
    ]


def _may_exist(session: str, key: bytes) -> bool:
    return len(key) <= KEY_BYTES_MAX and len(session.encode()) <= PHYSICAL_KEY_BYTES_MAX


def _result(
    item: Waiting, asked: list[WantedHeld], found: Sequence[Held | None]
) -> Found | HivememError:
    if value_bytes(found) > ANSWER_BYTES_MAX and len(item.wanted) > 1:
        return AnswerTooLarge()
    if len(asked) == len(item.wanted):
        return list(found)
    answers = iter(found)
    return [next(answers) if _may_exist(each[0], each[1]) else None for each in item.wanted]
