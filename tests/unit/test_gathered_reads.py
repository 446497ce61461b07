"""Queries that are answered together: each as it would be alone, and none waiting for company."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.codec import Value, pack_value, unpack_value
from engines.collection_requests import ExplainQuery, QueryCollection
from engines.engine import Parameters, Settings
from engines.errors import CorruptRecord, InvalidArgument, QueryCancelled
from engines.kv import KvReader
from engines.registry import Registry
from engines.space import STOP_ITEMS, View
from engines.vector import VectorEngine
from node import gathered_reads
from node.clock import SystemClock
from node.errors import DeadlineExceeded, Unavailable
from node.gathered_reads import GROUP_MAX, GROUPS_MAX, PARAMETER_BYTES_MAX, GatheredReads
from node.local_reads import LocalReads, ReaderThreads
from node.optimizer import Optimizer
from node.reads import Priority
from tests.unit.vector_state import VectorState

SECONDS = 30.0


class Held(VectorEngine):
    """Answers when it may. `groups`: the sizes of those that it was asked for."""

    def __init__(self) -> None:
        super().__init__(8)
        self.may = threading.Event()
        self.may.set()
        self.groups: list[int] = []
        self.threads: list[threading.Thread] = []
        self.alone = self.cancelled = self.steps = 0
        self.fails: Exception | None = None

    def query_together(
        self, view: View, settings: Settings, operation: str, many: Sequence[Parameters]
    ) -> list[Value | InvalidArgument | None]:
        self.groups.append(len(many))
        self.threads.append(threading.current_thread())
        assert self.may.wait(SECONDS)
        if self.fails is not None:
            raise self.fails
        try:
            for _ in range(self.steps):
                view.step()
        except QueryCancelled:
            self.cancelled += 1
            raise
        return super().query_together(view, settings, operation, many)

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        self.alone += operation == "vector_search"
        return super().query(view, settings, operation, parameters)


class Bed:
    """Points 0 to 39 on a line, asked through LocalReads."""

    def __init__(self, folder: Path, executor: ThreadPoolExecutor) -> None:
        self.state = VectorState(folder / "state")
        self.engine = self.state.engine = Held()
        self.state.registry = Registry((self.engine,))
        self.state.reopen()
        self.state.create(dimensions=1, metric="l2sq")
        documents = [{"id": str(place), "vector": [float(place)]} for place in range(40)]
        self.state.write("vector_insert", documents=documents)
        self.state.settle()
        self.clock = SystemClock()
        threads = ReaderThreads(executor, self.clock)
        together = self.state.registry.together
        self.gathered = GatheredReads(self._readers, threads, Optimizer(self.clock, 0), together)
        self.reads = LocalReads(self._readers, threads, gathered=self.gathered)

    @contextmanager
    def _readers(self) -> Any:
        with self.state.store.read() as snapshot:
            yield KvReader(snapshot, self.state.registry, self.state.machine.indexes)

    async def ask(self, seconds: float = SECONDS, name: str = "c", **parameters: Any) -> Any:
        request = QueryCollection("n", name, "vector_search", pack_value(parameters))
        shown = await self.reads.run(request, self.clock.monotonic() + seconds)
        return unpack_value(shown.found.answer)

    async def nearest(self, place: float, **parameters: Any) -> list[str]:
        found = await self.ask(vector=[place], limit=2, **parameters)
        return [match["id"] for match in found["matches"]]

    @property
    def line(self) -> gathered_reads._Line:
        (line,) = self.gathered._lines.values()
        return line

    def line_of(self, name: str) -> gathered_reads._Line:
        return self.gathered._line(("n", name, "vector_search"))

    async def waiting(self, count: int) -> None:
        """Until that many wait for a group."""
        while self.gathered.waiting != count:
            await asyncio.sleep(0.001)

    async def held(self, count: int) -> None:
        """Until that many groups have begun."""
        while len(self.engine.groups) < count:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def bed(folder: Path) -> AsyncIterator[Bed]:
    with ThreadPoolExecutor(GROUPS_MAX + 1) as executor:
        made = Bed(folder, executor)
        try:
            yield made
        finally:
            made.engine.may.set()
            made.state.machine.close()


@asynccontextmanager
async def busy(folder: Path) -> AsyncIterator[tuple[Bed, list[asyncio.Task[list[str]]]]]:
    """Every group that may run is held up by one query."""
    async with bed(folder) as made:
        made.engine.may.clear()
        tasks = []
        for place in range(GROUPS_MAX):
            tasks.append(asyncio.create_task(made.nearest(30.1 + place)))
            await made.held(place + 1)
        yield made, tasks


async def test_who_comes_alone_is_answered_at_once(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        assert await made.nearest(7.1) == ["7", "8"]
        assert made.engine.groups == [1]


async def test_who_comes_meanwhile_is_answered_together(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, first):
        more = [asyncio.create_task(made.nearest(place + 0.1)) for place in range(10)]
        await made.waiting(10)
        assert len(made.engine.groups) == GROUPS_MAX
        made.engine.may.set()
        assert await asyncio.gather(*more) == [[str(n), str(n + 1)] for n in range(10)]
        assert (await first[0])[0] == "30"
        assert sum(made.engine.groups) == GROUPS_MAX + 10
        assert max(made.engine.groups) > 1
        assert made.engine.alone == 0


async def test_a_group_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered_reads, "BRIEF_SECONDS", -1.0)  # the loop would take fewer
    async with busy(tmp_path) as (made, _):
        more = [made.nearest(place / 10 + 0.01) for place in range(3 * GROUP_MAX)]
        tasks = [asyncio.create_task(each) for each in more]
        await made.waiting(3 * GROUP_MAX)
        made.engine.may.set()
        await asyncio.gather(*tasks)
        assert max(made.engine.groups) == GROUP_MAX


async def test_each_is_refused_for_its_own_fault_only(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, _):
        good = asyncio.create_task(made.nearest(3.1))
        wrong = asyncio.create_task(made.ask(vector=[1.0, 2.0]))
        odd = asyncio.create_task(made.ask(vector=[1.0], nonsense=1))
        await made.waiting(3)
        made.engine.may.set()
        assert await good == ["3", "4"]
        with pytest.raises(InvalidArgument) as refused:
            await wrong
        assert refused.value.field == "parameters.vector"
        with pytest.raises(InvalidArgument) as refused:
            await odd
        assert refused.value.field == "parameters.nonsense"


@pytest.mark.parametrize(
    "parameters",
    [
        {"vectors": [[5.0], [6.0]]},
        {"vector": [5.0], "exact": True},
        {"vector": [5.0], "filter": {"a": 1}},
        {"vector": [5.0], "limit": 101},
        {"vector": [5.0], "include": ["vector"]},
    ],
)
async def test_what_would_keep_others_waiting_is_asked_alone(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    async with bed(tmp_path) as made:
        expected = made.state.query("vector_search", **parameters)
        made.engine.alone = 0
        assert await made.ask(**parameters) == expected
        assert made.engine.alone == 1


async def test_what_is_large_is_asked_alone(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        with pytest.raises(InvalidArgument):
            await made.ask(vector=[0.5], model="m" * PARAMETER_BYTES_MAX)
        assert made.engine.groups == []


async def test_a_group_sees_what_was_written_before_its_last_member_came(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, _):
        before = asyncio.create_task(made.nearest(3.4))
        await made.waiting(1)
        made.state.write("vector_insert", documents=[{"id": "new", "vector": [3.4]}])
        after = asyncio.create_task(made.nearest(3.41))
        await made.waiting(2)
        made.engine.may.set()
        assert (await after)[0] == "new"
        assert (await before)[0] == "new"


async def test_an_answer_that_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        assert await made.nearest(7.1) == await made.nearest(7.1)
        assert made.engine.groups == [1]


async def test_who_waits_too_long_hears_so_and_holds_nobody_up(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, first):
        with pytest.raises(DeadlineExceeded):
            await made.ask(0.01, vector=[1.0])
        other = asyncio.create_task(made.nearest(2.1))
        await made.waiting(1)
        made.engine.may.set()
        assert await other == ["2", "3"]
        assert sum(made.engine.groups) == GROUPS_MAX + 1  # nobody asked for who had gone
        await asyncio.gather(*first)


async def test_a_group_that_nobody_waits_for_stops(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, first):
        made.engine.steps = STOP_ITEMS
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
        made.engine.may.set()
        assert await made.nearest(4.1) == ["4", "5"]
        assert made.engine.cancelled == GROUPS_MAX


async def test_what_takes_long_on_the_loop_goes_on_on_a_thread(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds, made.engine.steps = 0.0, STOP_ITEMS
        assert await made.nearest(4.1) == ["4", "5"]
        here = threading.current_thread()
        assert [thread is here for thread in made.engine.threads] == [False, True, False]


async def test_damage_ends_all_who_met_it_and_not_the_next(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, first):
        made.engine.fails = CorruptRecord("items", b"k", "does not verify")
        made.engine.may.set()
        for task in first:
            with pytest.raises(CorruptRecord):
                await task
        made.engine.fails = None
        assert await made.nearest(4.1) == ["4", "5"]


async def test_collections_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, first):
        with pytest.raises(InvalidArgument) as refused:
            await made.ask(vector=[1.0], name="another")
        assert refused.value.code == "COLLECTION_NOT_FOUND"
        made.engine.may.set()
        await asyncio.gather(*first)


# --- What has shown to be brief ---------------------------------------------------------


async def test_what_is_brief_is_answered_by_the_loop(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        assert made.engine.threads[-1] is not threading.current_thread()  # not known yet
        made.line.seconds = gathered_reads.BRIEF_SECONDS
        assert await made.nearest(1.1) == ["1", "2"]
        assert made.engine.threads[-1] is threading.current_thread()


def test_one_slow_group_is_forgotten_soon() -> None:
    line = gathered_reads._Line()
    line.took(5.0, 1)  # an index was built
    groups = 0
    while not line.brief:
        groups += 1
        line.took(0.0002 * 8, 8)
    assert 1 < groups <= 16


def test_what_holds_up_the_loop_stays_away_from_it_ever_longer() -> None:
    """Little CPU, but it waits: a lock, pages that have to be read."""
    line = gathered_reads._Line()
    line.took(0.0002, 1)
    assert line.brief
    for doublings in range(3):
        line.took(0.010, 1, on_loop=True)
        groups = 0
        while not line.brief:
            groups += 1
            line.took(0.0002, 1)
        assert groups == gathered_reads.PAUSE_GROUPS << doublings
    line.took(0.0005, 1, on_loop=True)  # it was brief for once
    line.took(0.010, 1, on_loop=True)
    assert line.pause == gathered_reads.PAUSE_GROUPS


async def test_waiting_on_a_thread_does_not_count_as_being_slow(tmp_path: Path) -> None:
    """Who shares the interpreter with the loop waits; the loop itself would not."""
    async with bed(tmp_path) as made:
        made.engine.may.clear()
        asked = asyncio.create_task(made.nearest(1.1))
        await made.held(1)
        begun = made.clock.monotonic()
        while made.clock.monotonic() < begun + 50 * gathered_reads.BRIEF_SECONDS:
            await asyncio.sleep(0)
        made.engine.may.set()
        await asked
        assert made.line.seconds is not None
        assert made.line.seconds < 25 * gathered_reads.BRIEF_SECONDS


async def test_who_comes_in_the_same_turn_is_answered_together(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        many = [made.nearest(place + 0.1) for place in range(1, 9)]
        assert await asyncio.gather(*many) == [[str(n), str(n + 1)] for n in range(1, 9)]
        assert max(made.engine.groups) > 1


async def test_a_turn_of_the_loop_is_bounded(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds = gathered_reads.BRIEF_SECONDS
        most = round(gathered_reads.TURN_SECONDS / gathered_reads.BRIEF_SECONDS)
        tasks = [asyncio.create_task(made.nearest(place + 0.1)) for place in range(1, 9)]
        while len(made.engine.groups) < 2:
            await asyncio.sleep(0)
        assert made.engine.groups[1] == most
        await asyncio.gather(*tasks)


async def test_what_turns_out_long_goes_to_a_thread(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds = 0.0
        made.state.machine.indexes.clear()  # an index is to be built first
        assert await made.nearest(5.1) == ["5", "6"]
        assert made.engine.threads[-1] is not threading.current_thread()


async def test_what_was_long_of_late_is_not_tried_by_the_loop(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds = 2 * gathered_reads.BRIEF_SECONDS
        await made.nearest(1.1)
        assert made.engine.threads[-1] is not threading.current_thread()


async def test_damage_that_the_loop_meets_is_for_who_asked(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds = 0.0
        made.engine.fails = CorruptRecord("items", b"k", "does not verify")
        with pytest.raises(CorruptRecord):
            await made.nearest(1.1)
        made.engine.fails = None
        assert await made.nearest(2.1) == ["2", "3"]


async def test_explained_queries_are_asked_alone(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        request = ExplainQuery("n", "c", "vector_search", pack_value({"vector": [1.1]}))
        shown = await made.reads.run(request, made.clock.monotonic() + SECONDS)
        assert unpack_value(shown.found.answer).keys() == {"result", "explain"}
        assert made.engine.groups == []


async def test_figures_count_each_of_a_group(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        optimizer = Optimizer(made.clock, 10)
        made.gathered._optimizer = optimizer
        await made.nearest(0.1)
        many = [made.nearest(place + 0.1) for place in range(1, 9)]
        await asyncio.gather(*many, made.nearest(0.1))
        (pattern,) = optimizer.patterns
        assert (pattern.computed, pattern.hits) == (9, 1)
        assert pattern.histogram.total == 9
        assert pattern.returned == 18


async def test_a_search_that_is_compared_with_an_exact_one_is_not_for_the_loop(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path) as made:
        optimizer = made.gathered._optimizer = Optimizer(made.clock, 10)
        here = threading.current_thread()
        turn = 0
        while turn < 10_000:
            turn += 1
            made.line_of("c").seconds = 0.0  # whatever else the machine does
            await made.nearest(turn % 40 + turn / 1e6)
            (pattern,) = optimizer.patterns
            if pattern.width is not None and pattern.width.samples:
                break
        assert made.engine.threads[-1] is not here
        assert here in made.engine.threads
        assert pattern.width.exact_seconds > 0


async def test_lines_share_a_turn_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred collections each would hold the loop up for its own time."""
    monkeypatch.setattr(gathered_reads, "TURN_SECONDS", 1e-9)
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds = 0.0
        tasks = [asyncio.create_task(made.ask(vector=[1.5 + n], limit=3 + n)) for n in range(8)]
        others = [made.gathered._line(("n", f"other{n}", "vector_search")) for n in range(8)]
        for line in others:
            line.seconds = 0.0
        asked = [asyncio.create_task(made.ask(vector=[1.0], name=f"other{n}")) for n in range(8)]
        turns = 0
        while made.gathered.waiting or not asked[0].done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 8  # one line in each
        await asyncio.gather(*tasks)
        assert all(isinstance(each, InvalidArgument) for each in await _outcomes(asked))


async def _outcomes(tasks: list[Any]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_answers_that_were_kept_do_not_make_a_line_brief(tmp_path: Path) -> None:
    async with bed(tmp_path) as made:
        await made.nearest(0.1)
        made.line.seconds = 0.5
        for _ in range(20):
            await made.nearest(0.1)
        assert made.line.seconds == 0.5


async def test_the_urgent_come_first_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, _):
        order: list[str] = []

        async def ask(name: str, place: float, priority: Priority) -> None:
            parameters = pack_value({"vector": [place], "limit": 1})
            request = QueryCollection("n", "c", "vector_search", parameters)
            await made.reads.run(request, made.clock.monotonic() + SECONDS, priority)
            order.append(name)

        tasks = [
            asyncio.create_task(ask(f"low{n}", n / 10, Priority.LOW)) for n in range(GROUP_MAX)
        ]
        await made.waiting(GROUP_MAX)
        tasks.append(asyncio.create_task(ask("critical", 35.2, Priority.CRITICAL)))
        await made.waiting(GROUP_MAX + 1)
        made.engine.may.set()
        await asyncio.gather(*tasks)
        assert order.index("critical") == 0
        assert order[-1] == f"low{GROUP_MAX - 1}"


async def test_those_who_wait_are_bounded_with_all_who_wait(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, _):
        queue = made.gathered._threads.queue
        queue._waiting_max = 8
        held = [asyncio.create_task(made.nearest(n / 10)) for n in range(6)]
        await made.waiting(6)
        assert queue.waiting[Priority.MEDIUM] == 6
        with pytest.raises(Unavailable) as refused:
            await made.nearest(9.1)
        assert refused.value.code == "OVERLOADED"
        assert queue.shed[Priority.MEDIUM] == 1
        made.engine.may.set()
        await asyncio.gather(*held)
        assert queue.waiting.total() == 0


async def test_what_nobody_foresaw_is_met_by_each_alone(tmp_path: Path) -> None:
    async with busy(tmp_path) as (made, first):
        made.engine.fails = ZeroDivisionError("in a group")
        made.engine.may.set()
        assert [await task for task in first] == [
            [str(30 + n), str(31 + n)] for n in range(GROUPS_MAX)
        ]
        assert made.engine.alone == GROUPS_MAX
