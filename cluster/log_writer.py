"""The log-writer thread: one per daemon, writes and fsyncs the logs of all groups.

The loop thread submits batches of mutations. The writer takes everything that waits, and
in one *round* writes each log once, fsyncs each file once, and wakes the loop once. While a
round is in the disk, the next one gathers: the batch grows with the load by itself.

Threads: `LogWriter`'s methods belong to the loop thread, except those under "Writer
thread". The queue and the deque of finished work are the only things both touch; their
operations are atomic. A `SegmentAppender` belongs to the writer thread from its first batch
until the writer stops.

Any error ends the writer for good. It is remembered, reported once through `on_failure`,
and raised by each later `submit`: a node that cannot write its log must stop.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from cluster.errors import StorageFailed
from cluster.log_format import MIB, Mutation
from cluster.log_segment import Placement, SegmentAppender

CallSoon = Callable[[Callable[[], None]], object]


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """Bounds of the writer, over all groups."""

    writer_queue_bytes_max: int = 128 * MIB  # bytes buffered, queued or being fsynced
    drain_seconds_max: float = 30.0  # seconds that stop() and close() wait for the disk
    # Seconds after which a waiting thread demands the interpreter, process-wide. A busy loop
    # lets go of it often but briefly, and each time restarts the wait of the writer, which
    # with Python's 5 ms then never gets to demand it. Much less than this costs more than
    # it gains. DESIGN-log.md has the figures.
    switch_interval_seconds: float = 20e-6


class Done(NamedTuple):
    """What one round made durable for one log."""

    position: int  # of its newest mutation
    bytes: int  # that leave the backlog
    placements: list[Placement]


class Batch(NamedTuple):
    """Mutations of one log, and whom to tell when they are durable."""

    appender: SegmentAppender
    mutations: list[Mutation]
    position: int
    bytes: int
    on_done: Callable[[Done], None]


class RoundStats(NamedTuple):
    """One round, for the metrics."""

    logs: int  # written, and fsynced, once each
    batches: int
    bytes: int
    sync_seconds: float  # time spent in fsync


class LogWriter:
    """See the module docstring. `call_soon_threadsafe` is the loop's.

    `monotonic` (seconds) and `on_round` are for metrics; both or neither.
    Invariant: backlog_bytes is the sum of the backlogs of the logs it serves.
    """

    def __init__(
        self,
        call_soon_threadsafe: CallSoon,
        on_failure: Callable[[StorageFailed], None],
        options: WriterOptions | None = None,
        *,
        monotonic: Callable[[], float] | None = None,
        on_round: Callable[[RoundStats], None] | None = None,
    ) -> None:
        self.options = options or WriterOptions()
        self.backlog_bytes = 0  # kept by the logs; loop thread only
        self._call_soon_threadsafe = call_soon_threadsafe
        self._on_failure = on_failure
        self._monotonic = monotonic or (lambda: 0.0)
        self._on_round = on_round
        self._queue: queue.SimpleQueue[Batch | Callable[[], None] | threading.Event | None]
        self._queue = queue.SimpleQueue()
        self._finished: deque[tuple[Callable[[Done], None], Done]] = deque()
        self._rounds: deque[RoundStats] = deque(maxlen=1024)
        self._unmarked: dict[SegmentAppender, None] = {}  # in the order of their last fsyncs
        self._failure: StorageFailed | None = None
        self._failure_reported = False
        self._thread: threading.Thread | None = None
        self._switch_interval_before = 0.0

    # --- Loop thread ---------------------------------------------------------------

    @property
    def failure(self) -> StorageFailed | None:
        """Why the writer gave up; None while it works."""
        return self._failure

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Start the thread; shortens the interpreter's switch interval. Idempotent."""
        if self._thread is None:
            self._switch_interval_before = sys.getswitchinterval()
            sys.setswitchinterval(
                min(self._switch_interval_before, self.options.switch_interval_seconds)
            )
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    def submit(self, batch: Batch) -> None:
        """Queue a batch. Raises StorageFailed: the writer has failed or does not run."""
        self._queue_item(batch)

    def run_in_writer(self, task: Callable[[], None]) -> None:
        """Run `task` in the writer thread after everything submitted so far is durable."""
        self._queue_item(task)

    def drain(self) -> None:
        """Wait until all that was submitted is durable, or the writer has failed.

        Runs the callbacks of what became durable. Raises StorageFailed if the disk does
        not answer within `drain_seconds_max`; a failure of the writer goes to `on_failure`.
        """
        if self._thread is None or not self._thread.is_alive():
            self.deliver()
            return
        reached = threading.Event()
        self._queue.put(reached)
        if not reached.wait(self.options.drain_seconds_max):
            raise self._slow()
        self.deliver()

    def stop(self) -> None:
        """Drain, then end the thread. Idempotent. Raises like `drain`."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(self.options.drain_seconds_max)
        if self._thread.is_alive():
            raise self._slow()
        self._thread = None
        sys.setswitchinterval(self._switch_interval_before)
        self.deliver()

    def deliver(self) -> None:
        """Run the callbacks of what became durable. Scheduled by the writer."""
        while self._finished:
            on_done, done = self._finished.popleft()
            on_done(done)
        while self._rounds and self._on_round is not None:
            self._on_round(self._rounds.popleft())
        if self._failure is not None and not self._failure_reported:
            self._failure_reported = True
            self._on_failure(self._failure)

    def _queue_item(self, item: Batch | Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            raise StorageFailed("the log writer does not run")
        self._queue.put(item)

    def _slow(self) -> StorageFailed:
        seconds = self.options.drain_seconds_max
        return StorageFailed(f"the disk did not finish writing the log within {seconds} s")

    # --- Writer thread -------------------------------------------------------------

    def _run(self) -> None:
        _wait_precisely()
        running = True
        while running:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            running = None not in items
            batches = [item for item in items if isinstance(item, Batch)]
            try:
                if self._failure is None:
                    self._round(batches)
                    for item in items:
                        if callable(item):
                            item()
                    # Whoever drains may close an appender next: it is marked before that.
                    if self._queue.empty() or any(isinstance(i, threading.Event) for i in items):
                        self._mark()
            except Exception as error:  # a defect must stop the node just like the disk
                self._fail(error)
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()

    def _round(self, batches: list[Batch]) -> None:
        if not batches:
            return
        by_appender: dict[SegmentAppender, list[Batch]] = {}
        for batch in batches:
            by_appender.setdefault(batch.appender, []).append(batch)
        finished = []
        for appender, group in by_appender.items():
            placements = appender.write(chain.from_iterable(b.mutations for b in group))
            done = Done(group[-1].position, sum(b.bytes for b in group), placements)
            finished.append((group[-1].on_done, done))
        started = self._monotonic()
        for appender in by_appender:
            appender.sync()
        elapsed = self._monotonic() - started
        if self._on_round is not None:
            size = sum(batch.bytes for batch in batches)
            self._rounds.append(RoundStats(len(by_appender), len(batches), size, elapsed))
        self._unmarked.update(dict.fromkeys(by_appender))
        self._finished.extend(finished)
        self._wake_loop()

    def _mark(self) -> None:
        """Once nothing waits, note in each log what its last fsync covered."""
        for appender in self._unmarked:
            appender.mark()
        self._unmarked.clear()

    def _fail(self, error: Exception) -> None:
        failure = StorageFailed(
            f"the log writer failed: {error}", error.errno if isinstance(error, OSError) else None
        )
        failure.__cause__ = error
        self._failure = failure
        self._wake_loop()

    def _wake_loop(self) -> None:
        try:
            self._call_soon_threadsafe(self.deliver)
        except RuntimeError:
            # The loop is closed. Whoever calls stop() then delivers what is left.
            return


def _wait_precisely() -> None:
    """Let the kernel end this thread's timed waits on time, not up to 50 µs later.

    Those 50 µs (its timer slack) would make the writer's wait for the interpreter longer
    than the time for which a busy loop holds it.
    """
    slack = Path(f"/proc/{threading.get_native_id()}/timerslack_ns")
    with suppress(OSError):  # Not Linux, or not allowed: the writer is then only slower.
        slack.write_text("1")
