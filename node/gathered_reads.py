"""Queries that are cheaper together: who comes while one group is answered makes up the next.

A query that finds nobody before it waits for nobody, but for those that the loop hears of in the
same turn. The state is looked at when a group starts, after everybody in it has come, so it is
as fresh as each was promised. A kind of queries that has shown to be brief is answered by the
loop, so many in one turn that it does not take long: to hand them to a thread and back, and to
share the interpreter with it, costs as much as they do.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from engines.collection_requests import QueryAnswer, QueryCollection, query_together
from engines.errors import EngineError, QueryCancelled
from engines.read_requests import Shown
from node.errors import DeadlineExceeded, HivememError
from node.optimizer import Optimizer
from node.reads import Priority

if TYPE_CHECKING:
    from node.local_reads import Readers, ReaderThreads

GROUP_MAX: Final = 32  # queries answered at once: the first of them waits for the last
PARAMETER_BYTES_MAX: Final = 256 << 10  # of one of them; a vector has up to 64 KiB
# Of one collection and operation at a time. More would only divide the processors.
GROUPS_MAX: Final = max(1, min(4, (os.cpu_count() or 1) // 2))
BRIEF_SECONDS: Final = 0.001  # of one query, that the loop may be held up for
OVERRUN_SECONDS: Final = 0.003  # of one query on the loop: more than chance
TURN_SECONDS: Final = 0.002  # of groups that the loop answers before it looks at other things
LINES_MAX: Final = 1_000  # kinds of queries whose times are remembered
# Groups that threads answer after the loop was held up for too long; doubled each time in a row.
PAUSE_GROUPS: Final = 16
PAUSE_DOUBLINGS_MAX: Final = 10
# Weight of the newest group in a mean: the first one may have built an index.
_LONGER, _SHORTER = 0.2, 0.5

Answered: TypeAlias = Shown[QueryAnswer] | EngineError | None


class _Member(NamedTuple):
    request: QueryCollection
    priority: Priority
    due: float  # its place, as in the queue for threads
    answered: asyncio.Future[Answered]


class _Line:
    """Those who ask one collection for one operation."""

    def __init__(self) -> None:
        self.waiting: list[_Member] = []
        self.groups = 0  # being answered on threads now
        self.due = False  # is the loop about to answer a group?
        self.seconds: float | None = None  # of one query, as it was of late
        self.pause = 0  # groups that threads answer, however brief they are
        self.overruns = 0  # of the loop, in a row

    @property
    def brief(self) -> bool:
        return self.seconds is not None and self.seconds <= BRIEF_SECONDS and not self.pause

    def took(self, seconds: float, queries: int, *, on_loop: bool = False) -> None:
        """`seconds`: elapsed ones on the loop, of CPU on a thread: what waits for something else
        than the loop seems brief there, until the loop has tried it."""
        each = seconds / queries
        if not on_loop:
            self.pause = max(0, self.pause - 1)
        elif each <= OVERRUN_SECONDS:
            self.overruns = 0
        else:
            self.pause = PAUSE_GROUPS << min(self.overruns, PAUSE_DOUBLINGS_MAX)
            self.overruns += 1
        mean = self.seconds
        if mean is None:
            self.seconds = each
        else:
            self.seconds = mean + (_SHORTER if each < mean else _LONGER) * (each - mean)

    def next(self, most: int) -> list[_Member]:
        """Take up to so many who still wait."""
        members = [each for each in self.waiting if not each.answered.done()]
        members.sort(key=lambda each: each.due)
        self.waiting = members[most:]
        return members[:most]


class GatheredReads:
    """Loop thread only."""

    def __init__(
        self,
        readers: Readers,
        threads: ReaderThreads,
        optimizer: Optimizer,
        operations: frozenset[str],
    ) -> None:
        """`operations`: those that some engine answers together."""
        self._readers = readers
        self._threads = threads
        self._optimizer = optimizer
        self.operations = operations
        self._lines: OrderedDict[Hashable, _Line] = OrderedDict()
        self._ready: deque[_Line] = deque()  # whose next group the loop answers
        self._turning = False

    @property
    def waiting(self) -> int:
        """Queries for the groups after those that are being answered."""
        lines = self._lines.values()
        return sum(not each.answered.done() for line in lines for each in line.waiting)

    async def ask(
        self, request: QueryCollection, deadline: float, priority: Priority = Priority.MEDIUM
    ) -> Shown[QueryAnswer] | None:
        """What a query of one of `operations` finds; None: it is to be run by itself.

        Raises what its run would, DeadlineExceeded and Unavailable (OVERLOADED). Whoever is gone
        is left out of a group that has not started; a group stops when nobody waits for it.
        """
        if request.explain or len(request.parameters) > PARAMETER_BYTES_MAX:
            return None
        line = self._line((request.namespace, request.session, request.operation))
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answered] = loop.create_future()
        queue = self._threads.queue
        member = _Member(request, priority, queue.due(priority), answered)
        # What is brief is answered in a moment; the bound of requests is enough for it.
        with nullcontext() if line.brief or line.groups < GROUPS_MAX else queue.beside(priority):
            line.waiting.append(member)
            self._start(line)
            # A timer alone took 1 µs in a loop of its own, `asyncio.timeout` 9.
            remaining = max(0.0, deadline - self._threads.clock.monotonic())
            timer = loop.call_later(remaining, _expire, answered)
            try:
                found = await answered
            finally:
                timer.cancel()
        if isinstance(found, EngineError):
            raise found
        return found

    def _line(self, key: Hashable) -> _Line:
        line = self._lines.get(key)
        if line is not None:
            self._lines.move_to_end(key)
            return line
        line = self._lines[key] = _Line()
        if len(self._lines) > LINES_MAX:
            # One that somebody still waits in goes on without being found here.
            self._lines.popitem(last=False)
        return line

    def _start(self, line: _Line) -> None:
        """See to it that those who wait are answered."""
        if line.due or not line.waiting:
            return
        if line.brief:
            line.due = True
            self._ready.append(line)
            self._call_turn()
            return
        while line.groups < GROUPS_MAX:
            group = line.next(GROUP_MAX)
            if not group:
                return
            line.groups += 1
            urgent = max((each.priority for each in group), key=lambda each: each.level)
            stop = partial(_all_gone, group)
            work = asyncio.ensure_future(
                self._threads.queued(partial(self._answer, line, group, stop), urgent)
            )
            work.add_done_callback(partial(self._ended, line, group))

    def _call_turn(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Groups of whatever lines, for a moment; the others in the loop's next turn."""
        clock = self._threads.clock
        end = clock.monotonic() + TURN_SECONDS
        try:
            while self._ready:
                line = self._ready.popleft()
                line.due = False
                if line.brief:
                    self._answer_here(line)
                else:
                    self._start(line)
                if clock.monotonic() >= end:
                    break
        finally:  # whatever happens, the others go on
            self._turning = False
            if self._ready:
                self._call_turn()

    def _answer_here(self, line: _Line) -> None:
        assert line.seconds is not None  # it is brief
        room = max(1, int(TURN_SECONDS / max(line.seconds, TURN_SECONDS / GROUP_MAX)))
        group = line.next(room)
        if group:
            try:
                answers = self._answer(line, group, at_once)
            except QueryCancelled:
                line.waiting[:0] = group
                line.seconds = None  # not known any more: a thread sees how long it takes
            except Exception as error:
                _tell(group, error)
            else:
                _tell(group, answers)
        self._start(line)

    def _answer(
        self, line: _Line, group: Sequence[_Member], stop: Callable[[], bool]
    ) -> list[Answered]:
        """Any thread."""
        tuning = self._optimizer.execution()
        tuning.brief = stop is at_once
        # On a thread it also waits for the loop, and would seem too slow for the loop for ever.
        clock = self._threads.clock
        seconds = clock.monotonic if tuning.brief else clock.thread_seconds
        with self._readers() as reader:
            reader.stop = stop
            reader.tuning = tuning
            begun = seconds()
            answers = query_together(reader, [each.request for each in group])
        # Those that were kept tell nothing, nor does what was compared with an exact search.
        if tuning.answers and not tuning.exact_seconds:
            line.took(seconds() - begun, tuning.answers, on_loop=tuning.brief)
        return answers

    def _ended(
        self, line: _Line, group: Sequence[_Member], work: asyncio.Future[list[Answered]]
    ) -> None:
        line.groups -= 1
        if work.cancelled():
            _tell(group, asyncio.CancelledError())
        else:
            _tell(group, work.exception() or work.result())
        self._start(line)


def _expire(answered: asyncio.Future[Answered]) -> None:
    if not answered.done():
        answered.set_exception(DeadlineExceeded("the read did not finish within its deadline"))


def at_once() -> bool:
    """Nobody waits for what takes long."""
    return True


def _all_gone(group: Sequence[_Member]) -> bool:
    return all(each.answered.done() for each in group)


def _tell(group: Sequence[_Member], outcome: Sequence[Answered] | BaseException) -> None:
    for place, member in enumerate(group):
        if member.answered.done():
            continue
        if isinstance(outcome, asyncio.CancelledError):
            member.answered.cancel()
        elif isinstance(outcome, EngineError | HivememError):
            member.answered.set_exception(outcome)
        elif isinstance(outcome, BaseException):
            member.answered.set_result(None)  # by itself it meets its own trouble
        else:
            member.answered.set_result(outcome[place])
