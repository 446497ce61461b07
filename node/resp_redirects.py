"""Writes of one connection that other nodes lead. Loop thread only.

Calls between nodes have no order, so those of one group are made one after the other.
Those of different groups have no order anywhere, and are made at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from node.resp_steps import Proposal, Slot


class Redirects:
    """`run` has one proposal done, and fills its slot whatever comes of it.

    True while there are any. As many as the connection has slots, at most.
    """

    def __init__(self, run: Callable[[Proposal, Slot], Awaitable[None]]) -> None:
        self._run = run
        self._queues: dict[int, deque[tuple[Proposal, Slot]]] = {}  # by group
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def behind(self, group: int, proposal: Proposal, slot: Slot) -> bool:
        """Queue behind those of the same group; False if there are none."""
        queue = self._queues.get(group)
        if queue is None:
            return False
        queue.append((proposal, slot))
        return True

    def add(self, group: int, proposal: Proposal, slot: Slot) -> None:
        if self.behind(group, proposal, slot):
            return
        self._queues[group] = deque(((proposal, slot),))
        task = asyncio.create_task(self._work(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """The client is gone."""
        self._queues.clear()
        for task in self._tasks:
            task.cancel()

    async def _work(self, group: int) -> None:
        queue = self._queues[group]
        try:
            while queue:
                await self._run(*queue.popleft())
        finally:
            self._queues.pop(group, None)
