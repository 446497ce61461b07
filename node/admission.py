"""Bounds on what a node takes on at once: requests, and bytes of bodies.

What is over a bound is refused at once as OVERLOADED rather than queued: a queue in front
of a node that is too slow only adds latency to every answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from node.errors import Unavailable


class Admission:
    """Counts what is in flight. Loop thread only.

    `refused` counts refusals by the name of the limit that caused them.
    """

    def __init__(self, requests_max: int) -> None:
        self.requests = 0
        self.refused: Counter[str] = Counter()
        self._requests_max = requests_max

    def enter(self) -> None:
        """Admit a request; `leave` ends it. Raises: Unavailable OVERLOADED."""
        if self.requests >= self._requests_max:
            self.refused["requests_inflight_max"] += 1
            raise Unavailable(
                f"requests_inflight_max: {self._requests_max} requests are in flight",
                code="OVERLOADED",
            )
        self.requests += 1

    def leave(self) -> None:
        self.requests -= 1


class ByteBudget:
    """Bytes held in memory for one purpose. Loop thread only.

    Something larger than the whole budget is admitted alone: the budget bounds what
    comes together, other limits bound what comes at once.
    """

    def __init__(self, name: str, bytes_max: int, admission: Admission) -> None:
        self.held = 0
        self._name = name
        self._bytes_max = bytes_max
        self._admission = admission
        self._waiters: set[asyncio.Future[None]] = set()

    def take(self, size: int) -> None:
        """Hold `size` more bytes; `give` returns them. Raises: Unavailable OVERLOADED."""
        if self._is_over(size):
            self._admission.refused[self._name] += 1
            raise Unavailable(
                f"{self._name}: {self.held} of {self._bytes_max} bytes are in use",
                code="OVERLOADED",
            )
        self.held += size

    async def wait(self, size: int) -> None:
        """Like `take`, but waits for room."""
        while self._is_over(size):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size
        if size and self._waiters:
            # Whoever wakes looks again; there are at most as many as there are watches.
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _is_over(self, size: int) -> bool:
        return self.held > 0 and self.held + size > self._bytes_max
