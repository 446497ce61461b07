"""Reads of the state on this node: on the loop where they are quick, else on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar, cast

from engines.collection_requests import QueryCollection
from engines.kv import KvReader
from engines.read_requests import ReadRequest, Shown
from node.clock import Clock
from node.errors import DeadlineExceeded
from node.gathered_reads import GatheredReads

T = TypeVar("T")

Readers = Callable[[], AbstractContextManager[KvReader]]
"""Opens a reader on the newest applied state, from any thread."""


class ReaderThreads:
    """The threads for what would hold up the loop for milliseconds. Loop thread only."""

    def __init__(self, executor: Executor, clock: Clock) -> None:
        self._executor = executor
        self._clock = clock

    async def offload(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` on a reader thread.

        Raises: DeadlineExceeded; the work then ends by itself: pages are bounded, and queries
        look whether they are still waited for.
        """
        return await self.until(deadline, self.start(work))

    async def until(self, deadline: float, work: asyncio.Future[T]) -> T:
        """What `work` returns. Raises DeadlineExceeded; `work` is then cancelled."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                return await work
        except TimeoutError:
            raise DeadlineExceeded("the read did not finish within its deadline") from None

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Run `work` on a reader thread, however long it takes: what follows a write."""
        return await self.start(work)

    def start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin `work` on a reader thread as soon as one is free."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work)


class LocalReads:
    """Runs requests on one state. Loop thread only."""

    def __init__(
        self,
        readers: Readers,
        threads: ReaderThreads,
        check: Callable[[], None] = lambda: None,
        gathered: GatheredReads | None = None,
    ) -> None:
        """`check()` raises what a reader would, if nothing can be read now. `gathered`: for
        what it takes."""
        self.check = check
        self._gathered = gathered
        self._readers = readers
        self._threads = threads

    async def run(self, request: ReadRequest[T], deadline: float) -> Shown[T]:
        """What the state holds now. Raises: EngineError, DeadlineExceeded."""
        if not request.offload:
            return self._run(request)
        asked: object = request
        if self._gathered is not None and isinstance(asked, QueryCollection):
            found = await self._gathered.ask(asked, deadline)
            if found is not None:
                return cast(Shown[T], found)
        wanted = True
        try:
            work = partial(self._run, request, lambda: not wanted)
            return await self._threads.offload(work, deadline)
        finally:
            wanted = False  # A query that goes on for long looks at this.

    def _run(self, request: ReadRequest[T], stop: Callable[[], bool] = lambda: False) -> Shown[T]:
        with self._readers() as reader:
            reader.stop = stop
            return request.run(reader)
