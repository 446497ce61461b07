"""Reads of the state on this node: on the loop where they are quick, else on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TypeVar, cast

from engines.collection_requests import QueryCollection
from engines.errors import QueryCancelled
from engines.kv import KvReader
from engines.read_requests import ReadRequest, Shown
from engines.tuning import Tuning
from node.clock import Clock
from node.errors import DeadlineExceeded
from node.gathered_reads import GatheredReads, at_once
from node.http_limits import HttpLimits
from node.optimizer import Optimizer
from node.read_queue import ReadQueue
from node.reads import Priority

T = TypeVar("T")

Readers = Callable[[], AbstractContextManager[KvReader]]
"""Opens a reader on the newest applied state, from any thread."""


class ReaderThreads:
    """The threads for what would hold up the loop for milliseconds. Loop thread only."""

    def __init__(self, executor: Executor, clock: Clock, limits: HttpLimits | None = None) -> None:
        """`executor`: of `limits.read_threads_max` threads."""
        limits = limits or HttpLimits()
        self._executor = executor
        self.clock = clock
        self.queue = ReadQueue(limits.read_threads_max, limits.reads_waiting_max, clock.monotonic)

    async def offload(
        self, work: Callable[[], T], deadline: float, priority: Priority = Priority.MEDIUM
    ) -> T:
        """Run `work` on a reader thread, when its turn comes.

        Raises: Unavailable (OVERLOADED: too many wait), DeadlineExceeded; the work then ends by
        itself: pages are bounded, and queries look whether they are still waited for.
        """
        return await self.until(deadline, self.queued(work, priority))

    async def queued(self, work: Callable[[], T], priority: Priority) -> T:
        """The same without a deadline. Raises: Unavailable (OVERLOADED)."""
        await self.queue.enter(priority)
        return await self._run(work)

    async def until(self, deadline: float, work: Awaitable[T]) -> T:
        """What `work` returns. Raises DeadlineExceeded; `work` is then cancelled."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self.clock.monotonic())):
                return await work
        except TimeoutError:
            raise DeadlineExceeded("the read did not finish within its deadline") from None

    async def _run(self, work: Callable[[], T]) -> T:
        """Holds its place among those that run for as long as the thread is at it."""
        loop, left = asyncio.get_running_loop(), self.queue.leave
        try:
            running = self._executor.submit(work)
        except BaseException:
            left()
            raise
        try:
            return await asyncio.wrap_future(running)
        finally:
            if running.done():
                left()
            else:

                def ended(_: object) -> None:
                    with suppress(RuntimeError):  # the loop has ended, and the queue with it
                        loop.call_soon_threadsafe(left)

                running.add_done_callback(ended)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Run `work` on a reader thread, however long it takes: what follows a write, or a read.

        It does not queue behind reads: what it ends holds memory until it is done.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


class LocalReads:
    """Runs requests on one state. Loop thread only."""

    def __init__(
        self,
        readers: Readers,
        threads: ReaderThreads,
        check: Callable[[], None] = lambda: None,
        optimizer: Optimizer | None = None,
        gathered: GatheredReads | None = None,
    ) -> None:
        """`check()` raises what a reader would, if nothing can be read now. `gathered`: for
        what it takes."""
        self._optimizer = optimizer or Optimizer(threads.clock, 0)
        self.check = check
        self._gathered = gathered
        self._readers = readers
        self._threads = threads

    async def run(
        self, request: ReadRequest[T], deadline: float, priority: Priority = Priority.MEDIUM
    ) -> Shown[T]:
        """What the state holds now. Raises: EngineError, DeadlineExceeded, Unavailable
        (OVERLOADED)."""
        if not request.offload:
            return self._run(request)
        tuning = None
        asked: object = request  # of one type among many, for the type checker
        if isinstance(asked, QueryCollection):
            gathered = self._gathered
            if gathered is not None and asked.operation in gathered.operations:
                found = await gathered.ask(asked, deadline, priority)
                if found is not None:
                    return cast(Shown[T], found)
            # Handing a read to a thread and back takes longer than most queries do. So each is
            # tried here, and ends at the first look at whether it is still wanted.
            tuning = self._optimizer.execution(explain=asked.explain)
            tuning.brief = True
            try:
                return self._run(request, at_once, tuning)
            except QueryCancelled:
                tuning.brief = False
        wanted = True
        try:
            work = partial(self._run, request, lambda: not wanted, tuning)
            return await self._threads.offload(work, deadline, priority)
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
