"""Who writes and fsyncs the logs of all groups, and when: a thread, or the loop itself.

The loop submits batches of mutations. The thread takes everything that waits, and in one
*round* writes each log once, fsyncs each file once, and wakes the loop once. While a round is
in the disk, the next one gathers: the batch grows with the load by itself.

To hand a round to the thread and its end back costs more than a brief fsync takes: the two
take the interpreter from each other some ten times. So while fsyncs are brief, and a round is
small and of one log, the loop does it, in its next turn: what it had to send is on its way by
then, and the disks of the others work at the same time. One that waits for its disk long does
that at most a few times in a row, since what is expected of the next fsync follows what the
last ones took, and after a stall not at all for hundreds of times as long (DESIGN-log.md has
the figures).

Threads: `LogWriter`'s methods belong to the loop thread, except those under "Writer
thread". The queue, the deque of finished work and the count of what the thread is done with
are the only things both touch; their operations are atomic. `Rounds` and every
`SegmentAppender` belong to the writer thread while it is not done with all that was queued,
and else to the loop.

Any error ends the writer for good, whoever wrote. It is remembered, reported once through
`on_failure`, and raised by each later `submit`: a node that cannot write its log must stop.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.errors import StorageFailed
from cluster.log_format import MIB
from cluster.log_rounds import Batch, Done, Rounds, SyncFigures

CallSoon = Callable[[Callable[[], None]], object]
Item = Batch | Callable[[], None] | threading.Event | None


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
    # The largest round that the loop does itself, and how long an fsync may be expected to take.
    loop_bytes_max: int = 64 << 10
    loop_sync_seconds_max: float = 1e-3
    mark_seconds: float = 0.1  # after a round of the loop, at most so often


class Loop(Protocol):
    """What rounds in the loop need of it; asyncio's have it."""

    def call_soon(self, callback: Callable[[], None]) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> object: ...


class LogWriter:
    """See the module docstring. `call_soon_threadsafe` is the loop's.

    `loop`: where rounds may be done instead; None: by the thread alone. `monotonic`: seconds,
    to measure fsyncs by; needed with `loop`.
    Invariant: backlog_bytes is the sum of the backlogs of the logs it serves.
    """

    def __init__(
        self,
        call_soon_threadsafe: CallSoon,
        on_failure: Callable[[StorageFailed], None],
        options: WriterOptions | None = None,
        *,
        loop: Loop | None = None,
        monotonic: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.options = options or WriterOptions()
        self.backlog_bytes = 0  # kept by the logs; loop thread only
        self._call_soon_threadsafe = call_soon_threadsafe
        self._on_failure = on_failure
        self._loop = loop
        self._rounds = Rounds(monotonic)
        self._here: list[Batch] = []  # for the loop's next round
        self._marking = False  # is a mark due?
        self._loop_rounds = 0
        # Called after what became durable was told, and before the loop waits for its disk.
        self.flush_peers: Callable[[], None] = lambda: None
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._finished: deque[tuple[Callable[[Done], None], Done]] = deque()
        self._queued = 0  # items, ever; loop thread only
        self._processed = 0  # of these, with which the thread is done
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

    def figures(self) -> SyncFigures:
        return self._rounds.figures(self._loop_rounds)

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
        """Have a batch made durable. Raises StorageFailed: the writer has failed or does not
        run."""
        self._check()
        if self._loop is not None and self._is_for_the_loop(batch):
            if not self._here:
                self._loop.call_soon(self._round_here)
            self._here.append(batch)
            return
        self._hand_over()
        self._put(batch)

    def run_in_writer(self, task: Callable[[], None]) -> None:
        """Run `task` in the writer thread after everything submitted so far is durable."""
        self._check()
        self._hand_over()
        self._put(task)

    def drain(self) -> None:
        """Wait until all that was submitted is durable, or the writer has failed.

        Runs the callbacks of what became durable. Raises StorageFailed if the disk does
        not answer within `drain_seconds_max`; a failure of the writer goes to `on_failure`.
        """
        if self._thread is None or not self._thread.is_alive():
            self.deliver()
            return
        self._hand_over()
        reached = threading.Event()
        self._put(reached)
        if not reached.wait(self.options.drain_seconds_max):
            raise self._slow()
        self.deliver()

    def stop(self) -> None:
        """Drain, then end the thread. Idempotent. Raises like `drain`."""
        if self._thread is None:
            return
        self._hand_over()
        self._put(None)
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
        if self._failure is not None and not self._failure_reported:
            self._failure_reported = True
            self._on_failure(self._failure)
        else:
            self.flush_peers()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            raise StorageFailed("the log writer does not run")

    def _put(self, item: Item) -> None:
        self._queued += 1
        self._queue.put(item)

    def _hand_over(self) -> None:
        """Let the thread do what the loop has not begun: whatever comes next comes behind it."""
        for batch in self._here:
            self._put(batch)
        self._here.clear()

    def _slow(self) -> StorageFailed:
        seconds = self.options.drain_seconds_max
        return StorageFailed(f"the disk did not finish writing the log within {seconds} s")

    # --- Rounds in the loop --------------------------------------------------------

    @property
    def _thread_rests(self) -> bool:
        """Is the thread done with all it was given, so that the loop may write?"""
        return self._processed == self._queued

    def _is_for_the_loop(self, batch: Batch) -> bool:
        options = self.options
        return (
            self._thread_rests
            and not self._rounds.stalls
            and self._rounds.expected_seconds <= options.loop_sync_seconds_max
            and all(each.appender is batch.appender for each in self._here)
            and sum(each.bytes for each in self._here) + batch.bytes <= options.loop_bytes_max
        )

    def _round_here(self) -> None:
        batches, self._here = self._here, []
        if not batches or self._failure is not None:
            return  # the thread has them, or nobody writes any more
        self.flush_peers()  # peers write while this disk does, whichever group sends to them
        try:
            self._finished.extend(self._rounds.run(batches))
        except Exception as error:  # as in the thread
            self._failure = _failed(error)
        else:
            self._loop_rounds += 1
            self._mark_later()
        self.deliver()

    def _mark_later(self) -> None:
        if not self._marking and self._loop is not None:
            self._marking = True
            self._loop.call_later(self.options.mark_seconds, self._mark_here)

    def _mark_here(self) -> None:
        self._marking = False
        if self._failure is not None or self._thread is None or not self._thread_rests:
            return  # the thread marks what is left, once it has nothing else to do
        try:
            self._rounds.mark()
        except Exception as error:  # as in the thread
            self._failure = _failed(error)
            self.deliver()

    # --- Writer thread -------------------------------------------------------------

    def _run(self) -> None:
        _wait_precisely()
        running = True
        while running:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            running = None not in items
            try:
                if self._failure is None:
                    self._work(items)
            except Exception as error:  # a defect must stop the node just like the disk
                self._failure = _failed(error)
                self._wake_loop()
            self._processed += len(items)
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()

    def _work(self, items: list[Item]) -> None:
        batches = [item for item in items if isinstance(item, Batch)]
        if batches:
            self._finished.extend(self._rounds.run(batches))
            self._wake_loop()
        for item in items:
            if callable(item):
                item()
        # Whoever drains may close an appender next: it is marked before that.
        if self._queue.empty() or any(isinstance(item, threading.Event) for item in items):
            self._rounds.mark()

    def _wake_loop(self) -> None:
        try:
            self._call_soon_threadsafe(self.deliver)
        except RuntimeError:
            # The loop is closed. Whoever calls stop() then delivers what is left.
            return


def _failed(error: Exception) -> StorageFailed:
    number = error.errno if isinstance(error, OSError) else None
    failure = StorageFailed(f"the log writer failed: {error}", number)
    failure.__cause__ = error
    return failure


def _wait_precisely() -> None:
    """Let the kernel end this thread's timed waits on time, not up to 50 µs later.

    Those 50 µs (its timer slack) would make the writer's wait for the interpreter longer
    than the time for which a busy loop holds it.
    """
    slack = Path(f"/proc/{threading.get_native_id()}/timerslack_ns")
    with suppress(OSError):  # Not Linux, or not allowed: the writer is then only slower.
        slack.write_text("1")
