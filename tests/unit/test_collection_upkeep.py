"""What falls due in collections: found by looking, proposed by the leader, and then not due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.codec import pack_value
from engines.collection_reader import BEGINNING, Due, Place
from engines.collection_writes import CREATE
from engines.command import CollectionCommand
from engines.interfaces import RejectCode, Rejected
from engines.kv import KvReader
from engines.timeseries_upkeep import LOOK_SERIES_MAX
from node import collection_upkeep
from node.clock import SystemClock
from node.collection_upkeep import CollectionUpkeep
from node.errors import Unavailable
from node.reads import Priority
from tests.unit.http_door import OpenDoor, open_door
from tests.unit.series_state import SeriesState, series_state

ROLLUPS = [{"window_ms": 1_000, "aggregates": ["avg"], "retention_ms": 50_000}]


def look(state: SeriesState, place: Place = BEGINNING) -> tuple[Due | None, Place | None]:
    with state.store.read() as snapshot:
        reader = KvReader(snapshot, state.machine.registry, state.machine.indexes)
        return reader.collections.upkeep(state.now, place)


def write_due(state: SeriesState, due: Due) -> Any:
    return state.write(due.operation, **due.parameters)


def test_nothing_is_due_without_retention(tmp_path: Path) -> None:
    with series_state(tmp_path) as state:
        state.append((0, 1))
        state.now = 10**12
        assert look(state)[0] is None


def test_a_chunk_is_due_when_all_of_it_has_expired(tmp_path: Path) -> None:
    with series_state(tmp_path, retention_ms=1_000, chunk_points_max=16) as state:
        state.now = 0
        state.append(*((time, time) for time in range(16)))
        state.now = 1_015
        assert look(state)[0] is None
        state.now = 1_016
        due, place = look(state)
        assert due is not None
        assert write_due(state, due)["points"] == 16
        assert place is not None
        assert look(state, place)[0] is None


def test_what_is_due_in_another_series_is_found_from_where_the_last_was(tmp_path: Path) -> None:
    with series_state(tmp_path, retention_ms=1_000) as state:
        state.now = 0
        for number in range(5):
            state.append((0, 1), host=str(number))
        state.now = 2_000
        due, place = look(state)
        assert due is not None
        assert write_due(state, due)["series"] == 5
        assert place is not None
        assert look(state, place)[0] is None
        assert state.series() == []


@settings(max_examples=30)
@given(
    times=st.lists(st.integers(0, 100_000), min_size=1, max_size=60, unique=True),
    now=st.integers(0, 200_000),
    rollups=st.booleans(),
)
def test_it_is_due_exactly_if_retaining_drops_something(
    tmp_path_factory: Any, times: list[int], now: int, rollups: bool
) -> None:
    options = {"rollups": ROLLUPS} if rollups else {}
    folder = tmp_path_factory.mktemp("state")
    with series_state(folder, retention_ms=20_000, chunk_points_max=16, **options) as state:
        state.now = 0
        state.append(*((time, 1.0) for time in sorted(times)))
        for moment in (now, now + 30_000):
            state.now = moment
            due = look(state)[0]
            answer = state.write("series_retain")
            assert (due is not None) == bool(answer["chunks"] or answer["rollup_rows"]), answer


def test_a_look_is_bounded_and_goes_on(tmp_path: Path) -> None:
    with series_state(tmp_path, retention_ms=1_000) as state:
        state.now = 0
        for number in range(LOOK_SERIES_MAX + 1):
            state.append((500 if number < LOOK_SERIES_MAX else 0, 1), metric=f"m{number:05}")
        state.now = 1_400
        due, place = look(state)
        assert due is None
        assert place is not None
        due, _ = look(state, place)
        assert due is not None
        assert write_due(state, due)["points"] == 1


# --- The leader ------------------------------------------------------------------------


def duties(door: OpenDoor, clock: SystemClock) -> CollectionUpkeep:
    router = door.router
    return CollectionUpkeep(
        "n1", router._group, router, router._reads._readers, router._reads._threads,
        door.machine.registry, clock,
    )  # fmt: skip


async def run(door: OpenDoor, operation: str, body: Any, name: str = "c") -> None:
    command = CollectionCommand("n", name, operation, pack_value(body), 0, 1)
    await door.router.propose(command, SystemClock().monotonic() + 5)


async def fill(door: OpenDoor, name: str) -> None:
    engine = door.machine.registry.engines["timeseries"]
    options = {"retention_ms": 1_000, "chunk_points_max": 16}
    await run(door, CREATE, {"engine": "timeseries", "settings": options}, name)
    columns = {"metric": "m", "times": list(range(40)), "values": [1.0] * 40}
    await run(door, "series_append", engine.prepare("series_append", {"columns": columns}), name)


class Later(SystemClock):
    """All of it has expired."""

    def now_ms(self) -> int:
        return 10**9


async def test_the_leader_drops_what_has_expired_in_every_collection(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await run(door, CREATE, {"engine": "document", "settings": {}}, "another")
        for name in ("a", "b"):
            await fill(door, name)
        leader = duties(door, Later())
        assert await leader.round() == 2
        before = door.machine.applied_index
        assert await leader.round() == 0
        assert door.machine.applied_index == before  # nothing is proposed for nothing
        with door.router._reads._readers() as reader:
            for name in ("a", "b"):
                assert reader.collections.find("n", name).items == 0


async def test_what_could_not_be_written_is_found_again(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await fill(door, "a")
        leader = duties(door, Later())
        door.router.error = Unavailable("no quorum", code="QUORUM_NOT_REACHED")
        assert await leader.round() == 0
        door.router.error = None
        assert await leader.round() == 1


async def test_an_overloaded_node_looks_later(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await fill(door, "a")
        leader = duties(door, Later())
        queue = leader._threads.queue

        async def full(priority: Priority) -> None:
            raise Unavailable("reads_waiting_max: too many", code="OVERLOADED")

        enter, queue.enter = queue.enter, full  # type: ignore[method-assign]
        assert await leader.round() == 0
        queue.enter = enter  # type: ignore[method-assign]
        assert await leader.round() == 1


async def test_a_write_that_is_refused_keeps_no_other_collection_waiting(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with open_door(tmp_path) as door:
        for name in ("a", "b"):
            await fill(door, name)
        leader = duties(door, Later())
        propose = door.router.propose

        async def refusing(command: Any, deadline: float) -> Any:
            if command.session == "a":
                return Rejected(RejectCode.INVALID_ARGUMENT, "no")
            return await propose(command, deadline)

        monkeypatch.setattr(door.router, "propose", refusing)
        assert await leader.round() == 1
        with door.router._reads._readers() as reader:
            assert reader.collections.find("n", "a").items > 0
            assert reader.collections.find("n", "b").items == 0


async def test_a_round_is_bounded_and_the_next_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(collection_upkeep, "LOOKS_MAX", 1)
    async with open_door(tmp_path) as door:
        for name in ("a", "b"):
            await fill(door, name)
        leader = duties(door, Later())
        made = [await leader.round() for _ in range(6)]
        assert sum(made) == 2


async def test_a_follower_looks_for_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await fill(door, "a")
        leader = duties(door, Later())
        leader._self_id = "n2"
        assert await leader.round() == 0
