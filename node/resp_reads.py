"""Reads of the Redis door: each goes to the group that holds its records, together with those
that arrive for that group in the same turn of the loop. Loop thread only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from engines.interfaces import Held
from node.clock import Clock
from node.errors import HivememError
from node.resp_limits import ANSWER_BYTES_MAX
from node.resp_lookups import (
    AnswerTooLarge,
    Done,
    Found,
    Groups,
    Waiting,
    Wanted,
    WayTo,
    value_bytes,
)
from node.resp_reads_here import ReadsHere
from node.resp_reads_remote import ReadsElsewhere


class ReadBatches:
    """Looks records up, linearizably or as they are. `fail` hears of damage, which has to stop
    the node."""

    def __init__(
        self,
        groups: Groups,
        way_to: WayTo,
        clock: Clock,
        fail: Callable[[Exception], None],
        timeout_seconds: float,
    ) -> None:
        self._groups = groups
        self._elsewhere = ReadsElsewhere(way_to, clock, fail, timeout_seconds)
        self._here = ReadsHere(groups, clock, fail, timeout_seconds, self._elsewhere.ask)
        self._loop = asyncio.get_running_loop()
        # By group, since this turn began: linearizable ones, and those that may be stale.
        self._waiting: dict[int, list[Waiting]] = {}
        self._waiting_stale: dict[int, list[Waiting]] = {}

    def add(
        self,
        namespace: str,
        wanted: Wanted,
        done: Done,
        blocked: Callable[[], bool] = lambda: False,
        *,
        stale: bool = False,
    ) -> None:
        """Call `done` once with what a linearizable read finds, not before this returns; or,
        `stale`, with what a replica holds: this node's, where there is one. Not while its client
        is `blocked`: see `resume`."""
        places = self._places(wanted) if self._groups.count else None
        if places is None or len(places) == 1:
            group = 0 if places is None else next(iter(places))
            self._add(group, Waiting(namespace, wanted, done, blocked), stale)
            return
        gathering = _Gathering(len(wanted), len(places), done)
        for group, where in places.items():
            part = [wanted[at] for at in where]
            self._add(group, Waiting(namespace, part, gathering.part(where), blocked), stale)

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

    def resume(self) -> None:
        """A client takes answers again, or is gone: look at what was left for later."""
        self._here.resume()
        self._elsewhere.resume()

    @property
    def parked_count(self) -> int:
        """Reads that wait for clients to take their answers."""
        return len(self._here.parked) + len(self._elsewhere.parked)

    def _places(self, wanted: Wanted) -> dict[int, list[int]]:
        """Group → the places in `wanted` that are its."""
        places: dict[int, list[int]] = {}
        for at, (session, _, _) in enumerate(wanted):
            places.setdefault(self._groups.group_of(session), []).append(at)
        return places

    def _add(self, group: int, item: Waiting, stale: bool) -> None:
        # In the next turn of the loop, a stale one too: who was just told of a write is told
        # before the state shows it, and it does by then.
        all_waiting = self._waiting_stale if stale else self._waiting
        waiting = all_waiting.get(group)
        if waiting is None:
            waiting = all_waiting[group] = []
            self._loop.call_soon(self._begin_stale if stale else self._begin, group)
        waiting.append(item)

    def _begin_stale(self, group: int) -> None:
        batch = self._waiting_stale.pop(group)
        hosted = self._groups.serving(group)
        if hosted is not None:
            self._here.answer(group, hosted, batch)
        else:
            self._elsewhere.ask(group, batch, stale=True)

    def _begin(self, group: int) -> None:
        batch = self._waiting.pop(group)
        hosted = self._groups.serving(group)
        if hosted is not None:
            self._here.confirm(group, hosted, batch)
        else:
            self._elsewhere.ask(group, batch)


class _Gathering:
    """One command whose records are in several groups: answered when the last one is."""

    def __init__(self, wanted: int, parts: int, done: Done) -> None:
        self._found: Found = [None] * wanted
        self._parts_left = parts
        self._room = ANSWER_BYTES_MAX
        self._done: Done | None = done

    def part(self, where: Sequence[int]) -> Done:
        """What to do with the answers for these places."""

        def done(found: Found | HivememError) -> None:
            self._arrived(where, found)

        return done

    def _arrived(self, where: Sequence[int], found: Found | HivememError) -> None:
        if self._done is None:
            return  # it was answered with another part's error
        if not isinstance(found, HivememError):
            self._room -= value_bytes(found)
            if self._room < 0:
                found = AnswerTooLarge()
        if isinstance(found, HivememError):
            self._tell(found)
            return
        self._put(where, found)
        self._parts_left -= 1
        if not self._parts_left:
            self._tell(self._found)

    def _put(self, where: Sequence[int], found: Sequence[Held | None]) -> None:
        for at, held in zip(where, found, strict=True):
            self._found[at] = held

    def _tell(self, result: Found | HivememError) -> None:
        done, self._done, self._found = self._done, None, []
        assert done is not None
        done(result)
