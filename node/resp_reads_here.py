"""Reads of groups that are on this node: all of one group that arrive in one turn of the loop
share one quorum round and, unless they are large, one transaction. Loop thread only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.errors import ClusterError, Overloaded
from engines.kv import KvReader
from node.clock import Clock
from node.errors import HivememError
from node.http_errors import FATAL, as_hivemem
from node.quarantine import ReplicaQuarantined
from node.reads import LINEARIZABLE
from node.resp_limits import ANSWER_BYTES_MAX, CHUNK_BYTES
from node.resp_lookups import AnswerTooLarge, Found, Groups, Hosted, Waiting, tell

Elsewhere = Callable[[int, list[Waiting]], None]


class ReadsHere:
    """`elsewhere(group, batch)`: has another node answer what this one does not hold any more.
    `fail` hears of damage, which has to stop the node."""

    def __init__(
        self,
        groups: Groups,
        clock: Clock,
        fail: Callable[[Exception], None],
        timeout_seconds: float,
        elsewhere: Elsewhere,
    ) -> None:
        self._groups = groups
        self._clock = clock
        self._fail = fail
        self._timeout_seconds = timeout_seconds
        self._elsewhere = elsewhere
        self._loop = asyncio.get_running_loop()
        # Confirmed, of clients that do not read: what they were confirmed for.
        self.parked: list[tuple[int, Hosted, Waiting]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def confirm(self, group: int, hosted: Hosted, batch: list[Waiting]) -> None:
        """Answer a batch once the leader has confirmed that the state here is new enough."""

        def confirmed(index: int | None, error: ClusterError | None) -> None:
            if index is None:
                # Another node leads, or none: the router asks it, and tries again.
                task = self._loop.create_task(self._ask(group, hosted, batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            try:
                hosted.group.when_applied(index, lambda: self.answer(group, hosted, batch))
            except Overloaded as overload:
                tell(batch, as_hivemem(overload, writes=False))

        hosted.group.read_index(confirmed)

    async def _ask(self, group: int, hosted: Hosted, batch: list[Waiting]) -> None:
        deadline = self._clock.monotonic() + self._timeout_seconds
        try:
            await hosted.router.barrier(LINEARIZABLE, deadline)
        except Exception as error:
            if self._groups.serving(group) is hosted:
                tell(batch, as_hivemem(error, writes=False))
            else:  # it left meanwhile
                self._elsewhere(group, batch)
        else:
            self.answer(group, hosted, batch)

    def resume(self) -> None:
        """A client takes answers again, or is gone: look at what was left for later."""
        if not self.parked:
            return
        parked, self.parked = self.parked, []
        batches: dict[int, tuple[int, Hosted, list[Waiting]]] = {}
        for group, hosted, item in parked:
            batches.setdefault(id(hosted), (group, hosted, []))[2].append(item)
        for batch in batches.values():
            self._loop.call_soon(self.answer, *batch)

    def answer(self, group: int, hosted: Hosted, batch: list[Waiting]) -> None:
        """Look up some and tell, then the next ones: not all values are in memory at once,
        and who does not take its answers waits for its others."""
        while batch:
            if self._groups.replica(group) is not hosted:  # it was given up meanwhile
                self._elsewhere(group, batch)
                return
            ready: list[Waiting] = []
            for item in batch:
                if item.blocked():
                    self.parked.append((group, hosted, item))
                else:
                    ready.append(item)
            try:
                results = _look_up_some(hosted, ready)
            except ReplicaQuarantined:
                self._elsewhere(group, ready)  # the group's router has another replica answer
                return
            except Exception as error:
                if isinstance(error, FATAL):
                    self._fail(error)
                tell(ready, as_hivemem(error, writes=False))
                return
            for item, result in zip(ready, results, strict=False):
                item.done(result)
            batch = ready[len(results) :]


def _look_up_some(hosted: Hosted, batch: list[Waiting]) -> list[Found | HivememError]:
    """The first of them, in one transaction: until the values are CHUNK_BYTES."""
    results: list[Found | HivememError] = []
    size = 0
    with hosted.readers() as reader:
        for item in batch:
            found, found_bytes = _look_up(reader, item)
            results.append(found)
            size += found_bytes
            if size >= CHUNK_BYTES:
                break
    return results


def _look_up(reader: KvReader, item: Waiting) -> tuple[Found | HivememError, int]:
    """What was found, and the bytes of its values."""
    found: Found = []
    size = 0
    for session, key, values in item.wanted:
        held = reader.held(item.namespace, session, key, values=values)
        found.append(held)
        if held is not None and values:
            size += held.size
            if size > ANSWER_BYTES_MAX and len(found) > 1:
                return AnswerTooLarge(), 0
    return found, size
