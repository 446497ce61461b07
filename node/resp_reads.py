"""Reads of the Redis door: all that arrive in one turn of the loop share one quorum round
and, unless they are large, one transaction. Loop thread only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cluster.errors import ClusterError, Overloaded
from cluster.interfaces import Consensus
from engines.edits import Answer, Aspect
from engines.errors import EngineError
from engines.interfaces import Held
from engines.kv import KvReader
from engines.read_requests import MANY_ITEMS_MAX, GetHeld, ReadRequest, Shown, WantedHeld
from node.clock import Clock
from node.errors import HivememError
from node.http_errors import FATAL, as_hivemem
from node.local_reads import Readers
from node.quarantine import ReplicaQuarantined
from node.reads import LINEARIZABLE, ReadOptions
from node.resp_actions import Look
from node.resp_limits import ANSWER_BYTES_MAX, CHUNK_BYTES

T = TypeVar("T")

Found = list[Held | None]
Wanted = Sequence[tuple[str, bytes, bool]]  # session, key, with its value


class Barrier(Protocol):
    """What is needed of a group's router."""

    async def barrier(self, read: ReadOptions, deadline: float) -> None:
        """Return when this node's state may answer the read."""

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """What this node's state answers, or another's while it is damaged here."""


class AnswerTooLarge(HivememError):
    """The values of one command are more than one answer may hold."""

    code = "LIMIT_EXCEEDED"
    status = 409


@dataclass(slots=True)
class _Waiting:
    namespace: str
    wanted: Wanted
    done: Callable[[Found | HivememError], None]
    blocked: Callable[[], bool]


class ReadBatches:
    """Looks records up, linearizably or as they are here."""

    def __init__(
        self,
        group: Consensus,
        router: Barrier,
        readers: Readers,
        clock: Clock,
        fail: Callable[[Exception], None],
        timeout_seconds: float,
    ) -> None:
        """`fail` hears of damage, which has to stop the node."""
        self._group = group
        self._router = router
        self._readers = readers
        self._clock = clock
        self._fail = fail
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._parked: list[_Waiting] = []  # confirmed, of clients that do not read
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self,
        namespace: str,
        wanted: Wanted,
        done: Callable[[Found | HivememError], None],
        blocked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Call `done` with what a linearizable read finds. Not before this returns, and not
        while its client is `blocked`: see `resume`."""
        if not self._waiting:
            self._loop.call_soon(self._begin)
        self._waiting.append(_Waiting(namespace, wanted, done, blocked))

    async def get(self, namespace: str, wanted: Wanted) -> Found:
        """What a linearizable read finds. Raises: HivememError."""
        future: asyncio.Future[Found | HivememError] = self._loop.create_future()

        def done(found: Found | HivememError) -> None:
            if not future.done():
                future.set_result(found)

        self.add(namespace, wanted, done)
        found = await future
        if isinstance(found, HivememError):
            raise found
        return found

    def look(self, namespace: str, wanted: Wanted) -> Found | HivememError:
        """What this node's own state holds, which may be old."""
        found: list[Found | HivememError] = []
        self._answer([_Waiting(namespace, wanted, found.append, lambda: False)])
        return found[0]

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []

        def confirmed(index: int | None, error: ClusterError | None) -> None:
            if index is None:
                # Another node leads, or none: the router asks it, and tries again.
                self._begin_task(self._ask(batch))
                return
            try:
                self._group.when_applied(index, lambda: self._answer(batch))
            except Overloaded as overload:
                _tell(batch, as_hivemem(overload, writes=False))

        self._group.read_index(confirmed)

    def _begin_task(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, batch: list[_Waiting]) -> None:
        deadline = self._clock.monotonic() + self._timeout_seconds
        try:
            await self._router.barrier(LINEARIZABLE, deadline)
        except HivememError as error:
            _tell(batch, error)
        else:
            self._answer(batch)

    async def _ask_others(self, batch: list[_Waiting], refusal: HivememError) -> None:
        """The state here is damaged: the router has another replica answer. One by one, since
        that is rare and over in a moment."""
        deadline = self._clock.monotonic() + self._timeout_seconds
        for item in batch:
            try:
                item.done(await self._look_up_elsewhere(item, deadline))
            except HivememError as error:
                item.done(error)
            except EngineError:
                item.done(refusal)

    async def _look_up_elsewhere(self, item: _Waiting, deadline: float) -> Found | HivememError:
        found: Found = []
        wanted = [
            WantedHeld(item.namespace, session, key, values) for session, key, values in item.wanted
        ]
        while len(found) < len(wanted):
            part = tuple(wanted[len(found) : len(found) + MANY_ITEMS_MAX])
            shown = await self._router.read(GetHeld(part), LINEARIZABLE, deadline)
            found.extend(shown.found)
            if sum(held.size for held in found if held and held.value) > ANSWER_BYTES_MAX:
                return AnswerTooLarge(f"the values are more than {ANSWER_BYTES_MAX} bytes")
        return found

    def resume(self) -> None:
        """A client takes answers again, or is gone: look at what was left for later."""
        if self._parked:
            parked, self._parked = self._parked, []
            self._loop.call_soon(self._answer, parked)

    def _answer(self, batch: list[_Waiting]) -> None:
        """Look up some and tell, then the next ones: not all values are in memory at once,
        and who does not take its answers waits for its others."""
        while batch:
            ready: list[_Waiting] = []
            for item in batch:
                (self._parked if item.blocked() else ready).append(item)
            try:
                results = self._look_up_some(ready)
            except ReplicaQuarantined as error:
                self._begin_task(self._ask_others(ready, error))
                return
            except Exception as error:
                if isinstance(error, FATAL):
                    self._fail(error)
                _tell(ready, as_hivemem(error, writes=False))
                return
            for item, result in zip(ready, results, strict=False):
                item.done(result)
            batch = ready[len(results) :]

    def _look_up_some(self, batch: list[_Waiting]) -> list[Found | HivememError]:
        """The first of them, in one transaction: until the values are CHUNK_BYTES."""
        results: list[Found | HivememError] = []
        size = 0
        with self._readers() as reader:
            for item in batch:
                found = _look_up(reader, item)
                results.append(found)
                if not isinstance(found, HivememError):
                    size += sum(held.size for held in found if held and held.value is not None)
                if size >= CHUNK_BYTES:
                    break
        return results


def _look_up(reader: KvReader, item: _Waiting) -> Found | HivememError:
    found: Found = []
    room = ANSWER_BYTES_MAX
    for session, key, values in item.wanted:
        held = reader.held(item.namespace, session, key, values=values)
        found.append(held)
        if held is not None and values:
            room -= held.size
            if room < 0 and len(found) > 1:
                return AnswerTooLarge(f"the values are more than {ANSWER_BYTES_MAX} bytes")
    return found


def _tell(batch: list[_Waiting], error: HivememError) -> None:
    for item in batch:
        item.done(error)


def _answer(held: Held | None, aspect: Aspect, now_ms: int) -> Answer:
    """What an EditLook would answer at `now_ms`: a record that has expired is absent."""
    if held is None or 0 < held.expires_ms <= now_ms:
        return {Aspect.EXISTS: False, Aspect.LENGTH: 0}.get(aspect)
    match aspect:
        case Aspect.VALUE:
            return held.value
        case Aspect.EXISTS:
            return True
        case Aspect.LENGTH:
            return held.size
        case Aspect.DEADLINE:
            return held.expires_ms


def answers(looks: Sequence[Look], found: Sequence[Held | None], now_ms: int) -> list[Answer]:
    return [_answer(held, look.aspect, now_ms) for look, held in zip(looks, found, strict=True)]
