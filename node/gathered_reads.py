"""Queries that are cheaper together: who comes while one group is answered makes up the next.

A query that finds nobody before it runs at once, so none waits for company. The state is looked
at when a group starts, after everybody in it has come, so it is as fresh as each was promised.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from engines.collection_requests import QueryAnswer, QueryCollection, query_together
from engines.errors import EngineError
from engines.read_requests import Shown
from node.reads import Priority

if TYPE_CHECKING:
    from node.local_reads import Readers, ReaderThreads

GROUP_MAX: Final = 32  # queries answered at once: the first of them waits for the last
PARAMETER_BYTES_MAX: Final = 256 << 10  # of one of them; a vector has up to 150 KiB
# Of one collection and operation at a time. More would only divide the processors.
GROUPS_MAX: Final = max(1, min(4, (os.cpu_count() or 1) // 2))

Answered: TypeAlias = Shown[QueryAnswer] | EngineError | None


class _Member(NamedTuple):
    request: QueryCollection
    priority: Priority
    answered: asyncio.Future[Answered]


class _Line:
    """Those who ask one collection for one operation."""

    def __init__(self) -> None:
        self.waiting: list[_Member] = []
        self.groups = 0  # being answered now


class GatheredReads:
    """Loop thread only."""

    def __init__(
        self, readers: Readers, threads: ReaderThreads, operations: frozenset[str]
    ) -> None:
        """`operations`: those that some engine answers together."""
        self._readers = readers
        self._threads = threads
        self._operations = operations
        self._lines: dict[Hashable, _Line] = {}

    @property
    def waiting(self) -> int:
        """Queries for the groups after those that are being answered."""
        lines = self._lines.values()
        return sum(not each.answered.done() for line in lines for each in line.waiting)

    async def ask(
        self, request: QueryCollection, deadline: float, priority: Priority = Priority.MEDIUM
    ) -> Shown[QueryAnswer] | None:
        """What it finds; None: it is to be run by itself.

        Raises what its run would, DeadlineExceeded and Unavailable (OVERLOADED). Whoever is gone
        is left out of a group that has not started; a group stops when nobody waits for it.
        """
        if request.operation not in self._operations:
            return None
        if len(request.parameters) > PARAMETER_BYTES_MAX:
            return None
        key = (request.namespace, request.session, request.operation)
        member = _Member(request, priority, asyncio.get_running_loop().create_future())
        line = self._lines.setdefault(key, _Line())
        line.waiting.append(member)
        self._start(key, line)
        found = await self._threads.until(deadline, member.answered)
        if isinstance(found, EngineError):
            raise found
        return found

    def _start(self, key: Hashable, line: _Line) -> None:
        """Answer those who wait, if not enough groups are being answered."""
        while line.groups < GROUPS_MAX:
            members = [each for each in line.waiting if not each.answered.done()]
            group, line.waiting = members[:GROUP_MAX], members[GROUP_MAX:]
            if not group:
                break
            line.groups += 1
            urgent = max((each.priority for each in group), key=lambda each: each.level)
            work = asyncio.ensure_future(self._threads.queued(partial(self._answer, group), urgent))
            work.add_done_callback(partial(self._tell, key, line, group))
        if not line.groups:
            self._lines.pop(key, None)

    def _answer(self, group: Sequence[_Member]) -> list[Answered]:
        """On a reader thread."""
        with self._readers() as reader:
            reader.stop = lambda: all(each.answered.done() for each in group)
            return query_together(reader, [each.request for each in group])

    def _tell(
        self,
        key: Hashable,
        line: _Line,
        group: Sequence[_Member],
        work: asyncio.Future[list[Answered]],
    ) -> None:
        line.groups -= 1
        failure = asyncio.CancelledError() if work.cancelled() else work.exception()
        for place, member in enumerate(group):
            if member.answered.done():
                continue
            if failure is None:
                member.answered.set_result(work.result()[place])
            elif isinstance(failure, asyncio.CancelledError):
                member.answered.cancel()
            else:
                member.answered.set_exception(failure)
        self._start(key, line)
