"""Reads of the state on this node: on the loop where they are quick, else on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from engines.collection_requests import QueryCollection
from engines.errors import QueryCancelled
from engines.kv import KvReader
from engines.read_requests import ReadRequest, Shown
from engines.tuning import Tuning
from node.clock import Clock
from node.errors import DeadlineExceeded
from node.optimizer import Optimizer

T = TypeVar("T")

Readers = Callable[[], AbstractContextManager[KvReader]]
"""Opens a reader on the newest applied state, from any thread."""


class ReaderThreads:
    """The threads for what would hold up the loop for milliseconds. Loop thread only."""

    def __init__(self, executor: Executor, clock: Clock) -> None:
        self._executor = executor
        self.clock = clock

    async def offload(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` on a reader thread.

        Raises: DeadlineExceeded; the work then ends by itself: pages are bounded, and queries
        look whether they are still waited for.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - self.clock.monotonic())):
                return await self.on_thread(work)
        except TimeoutError:
            raise DeadlineExceeded("the read did not finish within its deadline") from None

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Run `work` on a reader thread, however long it takes: what follows a write."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


class LocalReads:
    """Runs requests on one state. Loop thread only."""

    def __init__(
        self,
        readers: Readers,
        threads: ReaderThreads,
        check: Callable[[], None] = lambda: None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """`check()` raises what a reader would, if nothing can be read now."""
        self._optimizer = optimizer or Optimizer(threads.clock, 0)
        self.check = check
        self._readers = readers
        self._threads = threads

    async def run(self, request: ReadRequest[T], deadline: float) -> Shown[T]:
        """What the state holds now. Raises: EngineError, DeadlineExceeded."""
        if not request.offload:
            return self._run(request)
        tuning = None
        asked: object = request  # of one type among many, for the type checker
        if isinstance(asked, QueryCollection):
            # Handing a read to a thread and back takes longer than most queries do. So each is
            # tried here, and ends at the first look at whether it is still wanted.
            tuning = self._optimizer.execution(explain=asked.explain)
            tuning.brief = True
            try:
                return self._run(request, _at_once, tuning)
            except QueryCancelled:
                tuning.brief = False
        wanted = True
        try:
            work = partial(self._run, request, lambda: not wanted, tuning)
            return await self._threads.offload(work, deadline)
        finally:
            wanted = False  # A query that goes on for long looks at this.

    def _run(
        self,
        request: ReadRequest[T],
        stop: Callable[[], bool] = lambda: False,
        tuning: Tuning | None = None,
    ) -> Shown[T]:
        with self._readers() as reader:
            reader.stop = stop
            reader.tuning = tuning
            return request.run(reader)


def _at_once() -> bool:
    """Nobody waits for what takes long."""
    return True
