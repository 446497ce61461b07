"""One thread that does slow work for the loop thread and answers there.

Jobs run in the order in which they were submitted. `Worker`'s methods belong to the loop
thread. The queue and the deque of finished jobs are the only things both threads touch;
their operations are atomic.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from cluster.errors import Overloaded

T = TypeVar("T")
CallSoon = Callable[[Callable[[], None]], object]


class Worker:
    """At most `jobs_max` jobs wait. The thread starts with the first one."""

    def __init__(self, name: str, call_soon_threadsafe: CallSoon, jobs_max: int) -> None:
        self._name = name
        self._call_soon_threadsafe = call_soon_threadsafe
        self._jobs_max = jobs_max
        self._jobs: queue.SimpleQueue[Callable[[], Callable[[], None]] | None]
        self._jobs = queue.SimpleQueue()
        self._finished: deque[Callable[[], None]] = deque()
        self._waiting = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(
        self,
        job: Callable[[], T],
        done: Callable[[T | None, Exception | None], None],
        *,
        bounded: bool = True,
    ) -> None:
        """Run `job` in the thread, then `done(result, None)` or `done(None, error)` here.

        Raises Overloaded when the queue is full; not for the store's own jobs, whose
        number is bounded by what they belong to (`bounded` False).
        """
        if self._closed:
            return
        if bounded and self._waiting >= self._jobs_max:
            raise Overloaded(f"{self._jobs_max} {self._name} jobs wait for the disk")

        def run() -> Callable[[], None]:
            try:
                result = job()
            except Exception as error:
                failure = error  # the name `error` ends with this block
                return lambda: done(None, failure)
            return lambda: done(result, None)

        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._waiting += 1
        self._jobs.put(run)

    def close(self, seconds: float) -> bool:
        """Drop what waits, give what runs `seconds` to end. Nobody is called back.

        False: it still runs. Idempotent.
        """
        self._closed = True
        if self._thread is None:
            return True
        self._jobs.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            self._finished.append(job())
            try:
                self._call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return  # The loop is closed: there is nobody to answer.

    def _deliver(self) -> None:
        while self._finished and not self._closed:
            self._waiting -= 1
            self._finished.popleft()()
