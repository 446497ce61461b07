"""The optimizer on queries of a real state: patterns that update, trials that change what runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.codec import pack_value, unpack_value
from engines.collection_requests import ExplainQuery, QueryCollection
from engines.engine import Kind
from engines.errors import InvalidArgument
from engines.kv import KvReader
from engines.result_cache import CacheFigures
from engines.tuning import Tuning
from node.clock import SystemClock
from node.local_reads import LocalReads, ReaderThreads
from node.optimizer import Execution, Optimizer
from node.optimizer_service import OptimizerService
from node.trials import SAMPLES, WATCH_EXECUTIONS
from tests.unit.engine_state import State, checked_state
from tests.unit.vector_state import vector_state

SECONDS_PER_LOOK = 0.001


class ScriptedClock(SystemClock):
    """Time passes where `pass_` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)

    def random(self) -> random.Random:
        return random.Random(1)


class SlowExecution(Execution):
    """It ends so much later as it looked at documents."""

    __slots__ = ("_clock",)

    def __init__(self, optimizer: Optimizer, clock: ScriptedClock, *, explain: bool) -> None:
        super().__init__(optimizer, explain=explain)
        self._clock = clock

    def end(self) -> object:
        self._clock.now += (self.work.examined or 1) * SECONDS_PER_LOOK
        return super().end()


class SlowOptimizer(Optimizer):
    def __init__(self, clock: ScriptedClock, patterns_max: int) -> None:
        super().__init__(clock, patterns_max)
        self._scripted = clock

    def execution(self, *, explain: bool = False) -> Tuning:
        if not self.enabled:
            return super().execution(explain=explain)
        return SlowExecution(self, self._scripted, explain=explain)


class Bench:
    """Queries of a state, on a clock that goes on with what they look at."""

    def __init__(self, state: State, executor: ThreadPoolExecutor, patterns_max: int = 100) -> None:
        self.state = state
        self.clock = ScriptedClock()
        self.optimizer = SlowOptimizer(self.clock, patterns_max)
        threads = ReaderThreads(executor, SystemClock())
        self.reads = LocalReads(state.reader, threads, optimizer=self.optimizer)

    async def ask(self, operation: str, *, explain: bool = False, **parameters: Any) -> Any:
        kind = ExplainQuery if explain else QueryCollection
        request = kind("n", "docs", operation, pack_value(parameters))
        deadline = SystemClock().monotonic() + 20
        answer = (await self.reads.run(request, deadline)).found.answer
        return unpack_value(answer)

    def view(self, limit: int = 100) -> dict[str, Any]:
        figures = self.state.machine.indexes.results.figures()
        return OptimizerService(self.optimizer, lambda: [(0, figures)]).view(limit)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path) as state:
        indexes = [{"fields": ["town"]}, {"fields": ["name"]}, {"fields": ["unused"]}]
        body = {"engine": "document", "settings": {"indexes": indexes}}
        state.collection("collection_create", "docs", body)
        engine = state.machine.registry.operations["document_insert"].engine
        documents = [
            {"_id": f"p{n:03}", "town": 1, "name": f"n{n % 50}", "age": n} for n in range(200)
        ]
        body = engine.prepare("document_insert", {"documents": documents})
        state.collection("document_insert", "docs", body)
        yield state


@pytest.fixture
def bench(state: State) -> Iterator[Bench]:
    with ThreadPoolExecutor(1) as executor:
        yield Bench(state, executor)


async def people(bench: Bench, count: int) -> list[Any]:
    """Many requests of one pattern, none like another."""
    return [
        await bench.ask(
            "document_find", filter={"town": 1, "name": f"n{n % 50}"}, limit=20 + n // 50
        )
        for n in range(count)
    ]


async def test_a_pattern_says_what_its_requests_took(bench: Bench) -> None:
    for _ in range(3):
        await bench.ask("document_find", filter={"town": 1, "age": 7})
    await bench.ask("document_find", filter={"town": 1, "age": 8})
    with pytest.raises(InvalidArgument):
        await bench.ask("document_find", filter={"town": 1, "age": 8}, sort={"age": 2})
    first, refused = sorted(bench.view()["items"], key=lambda each: -each["executions"])
    assert first["shape"] == "{filter:{age:? town:? } }"
    assert (first["executions"], first["computed"], first["cache_hits"]) == (4, 2, 2)
    assert (first["examined"], first["returned"]) == (400, 2)
    assert first["indexes"] == {"town": 2}
    assert first["latency_ms"]["mean"] == pytest.approx(200)
    assert 200 <= first["latency_ms"]["p50"] <= 250
    assert first["last_used_ms"] == bench.clock.now_ms()
    assert (refused["failures"], refused["computed"]) == (1, 0)
    assert refused["latency_ms"] == {"mean": None, "p50": None, "p99": None}


async def test_the_better_index_is_adopted_and_answers_are_the_same(bench: Bench) -> None:
    answers = await people(bench, WATCH_EXECUTIONS + 2 * SAMPLES + 20)
    (pattern,) = bench.view()["items"]
    (trial,) = pattern["trials"]
    assert (trial["control"], trial["adopted"]) == ("index town", "index name")
    (verdict,) = trial["history"]
    assert verdict["outcome"] == "adopted"
    assert (verdict["control_ms"], verdict["candidate_ms"]) == pytest.approx((200, 4))
    for n, answer in enumerate(answers):
        assert [item["id"] for item in answer["items"]] == [
            f"p{k:03}" for k in range(n % 50, 200, 50)
        ]
    before = bench.clock.now
    await people(bench, 1)
    explained = await bench.ask(
        "document_find", explain=True, filter={"town": 1, "name": "n9"}, limit=20
    )
    assert explained["explain"]["examined"] in (4, 200)
    assert bench.clock.now > before


async def test_explain_says_what_was_chosen_and_whether_the_answer_is_kept(bench: Bench) -> None:
    wanted = {"filter": {"town": 1, "name": "n9"}}
    first = (await bench.ask("document_find", explain=True, **wanted))["explain"]
    assert first["cache"] == {"cacheable": True, "kept": False}
    assert first["plan"]["index"] == "town"
    assert first["choices"] == [
        {
            "point": "index", "control": "index town", "alternatives": ["index name"],
            "chosen": "index town", "applied": False,
        }
    ]  # fmt: skip
    assert first["pattern"]["computed"] == 1
    plain = await bench.ask("document_find", **wanted)
    again = await bench.ask("document_find", explain=True, **wanted)
    assert again["explain"]["cache"]["kept"] is True
    assert again["result"] == plain
    assert bench.state.machine.indexes.results.figures().hits == 0


async def test_what_is_long_is_not_tried_on_the_loop_again_and_again(bench: Bench) -> None:
    opened = 0
    reader = bench.state.reader

    def counted() -> Any:
        nonlocal opened
        opened += 1
        return reader()

    bench.reads._readers = counted
    for n in range(10):
        await bench.ask("document_count", filter={"age": {"$ne": n}})
    # Each begins on the loop, where its pattern is seen, and goes on elsewhere.
    (pattern,) = bench.optimizer.patterns
    assert (pattern.overruns, pattern.loop_pause, pattern.computed) == (1, 16 - 9, 10)
    assert opened == 20


async def test_switched_off_nothing_is_watched(state: State) -> None:
    with ThreadPoolExecutor(1) as executor:
        bench = Bench(state, executor, patterns_max=0)
        assert len((await people(bench, 3))[0]["items"]) == 4
        view = bench.view()
        assert (view["enabled"], view["items"], view["executions"]) == (False, [], 0)
        explained = await bench.ask("document_find", explain=True, filter={"age": 3})
        assert explained["explain"]["optimizer"] is False
        assert explained["explain"]["pattern"] is None


async def test_patterns_are_bounded(state: State) -> None:
    with ThreadPoolExecutor(1) as executor:
        bench = Bench(state, executor, patterns_max=5)
        for n in range(12):
            await bench.ask("document_find", filter={f"field{n}": 1})
        patterns = bench.view()["patterns"]
        assert patterns == {"count": 5, "max": 5, "forgotten": 7}
        shapes = {each["shape"] for each in bench.view()["items"]}
        assert shapes == {f"{{filter:{{field{n}:? }} }}" for n in range(7, 12)}


async def test_an_index_is_recommended_where_everything_is_looked_at(bench: Bench) -> None:
    for n in range(25):
        await bench.ask("document_find", filter={"age": n})
    found = {each["type"]: each for each in bench.view()["recommendations"]}
    advice = found["index"]
    assert advice["priority"] == "high"
    assert advice["evidence"]["fields"] == ["age"]
    assert (advice["evidence"]["examined"], advice["evidence"]["returned"]) == (25 * 200, 25)
    assert advice["evidence"]["share_of_query_time"] == 1
    for n in range(25):
        await bench.ask("document_count", filter={"age": {"$ne": 3}, "name": {"$regex": f"z{n}"}})
    found = {each["type"]: each for each in bench.view()["recommendations"]}
    assert found["filter"]["evidence"]["operation"] == "document_count"


async def test_an_index_that_nobody_uses_is_named(bench: Bench) -> None:
    await people(bench, 30)
    assert bench.view()["recommendations"] == []  # too little was seen
    for _ in range(1_000):
        await bench.ask("document_find", filter={"town": 1, "name": "n1"}, limit=10)
    unused = [each for each in bench.view()["recommendations"] if each["type"] == "unused_index"]
    assert [each["evidence"]["index"] for each in unused] == ["unused"]


@pytest.mark.parametrize(
    ("figures", "kind"),
    [
        (CacheFigures(500, 5_000, 4_000, 100, 1_000, 1_000), "cache_size"),
        (CacheFigures(10, 5_000, 0, 100, 900, 1_000), "caching"),
        (CacheFigures(2_000, 5_000, 10, 100, 900, 1_000), None),
        (CacheFigures(0, 900, 800, 100, 900, 1_000), None),
    ],
)
def test_a_cache_that_is_too_small_or_of_no_use(figures: CacheFigures, kind: str | None) -> None:
    optimizer = Optimizer(ScriptedClock(), 10)
    found = OptimizerService(optimizer, lambda: [(3, figures)]).view(10)["recommendations"]
    assert [each["type"] for each in found] == ([kind] if kind else [])
    assert all(each["evidence"]["group"] == 3 for each in found)


def test_every_operation_that_is_brief_reads(state: State) -> None:
    """A write, or what is about the replica, is never begun twice."""
    for engine in state.machine.registry.engines.values():
        for operation in getattr(engine, "brief", ()):
            assert engine.operations[operation] is Kind.READ


class TickingClock(ScriptedClock):
    """Each look takes a millisecond."""

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now


def test_searches_that_find_too_little_are_widened_and_then_find_enough(tmp_path: Path) -> None:
    """A graph of few neighbours, searched with the least width."""
    chance = np.random.default_rng(1)
    vectors = chance.standard_normal((1_500, 24)).astype(np.float32)
    poor = {"connectivity": 3, "expansion_add": 8, "expansion_search": 8}
    with vector_state(tmp_path / "vectors", dimensions=24, **poor) as state:
        for first in range(0, 1_500, 500):
            documents = [
                {"id": f"d{n}", "vector": vectors[n].tolist()} for n in range(first, first + 500)
            ]
            state.write("vector_upsert", documents=documents)
        state.settle()
        optimizer = Optimizer(TickingClock(), recall_target=0.9)
        recall = None
        for query in chance.standard_normal((10_000, 24)):
            for pattern in optimizer.patterns:
                recall = pattern.width.recall if pattern.width else None
            if recall is not None and recall >= 0.9:
                break
            with state.store.read() as snapshot:
                reader = KvReader(snapshot, state.registry, state.machine.indexes)
                reader.tuning = optimizer.execution()
                packed = pack_value({"vector": query.tolist()})
                reader.collections.answer("n", "c", "vector_search", packed)
        (item,) = OptimizerService(optimizer).view(1)["items"]
        width = item["width"]
        first = width["history"][0]
        assert (first["width"], first["following"]) == (8, 16)
        assert first["recall"] < 0.9
        assert width["doublings"] >= 1
        assert width["recall"] >= 0.9
        assert width["exact_seconds"] <= 0.02 * width["search_seconds"] + 0.002
