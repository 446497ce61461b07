"""Time series against dictionaries of points, with restarts, replays, copies and batchings.

Replica A gets every command as it comes, B in bursts that overlap what it has, and from time to
time A's whole state. Whatever happens in between, their bytes are equal at the end.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from engines.check import digest
from engines.codec import pack_value, unpack_value
from engines.collection_writes import CREATE
from engines.command import CollectionCommand, encode
from engines.interfaces import Limits, RejectCode, Rejected
from engines.state_machine import StateMachine
from engines.store import Store
from engines.timeseries import ENGINE
from tests.unit.engine_state import Entry
from tests.unit.series_state import SeriesState

WINDOW = 1_000
RETENTION = 20_000
ROLLUPS = [
    {"window_ms": WINDOW, "aggregates": ["avg", "min", "max", "count", "first", "last"]},
    {"window_ms": 5 * WINDOW, "aggregates": ["sum"], "retention_ms": 2 * RETENTION},
]
HOSTS = ("a", "b", "é")
Named = tuple[str, str]  # metric, host

names = st.tuples(st.sampled_from(["cpu", "mem"]), st.sampled_from(HOSTS))
values = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([0.0, -0.0, 0.5, 5e-324, 2.0**53, -1.25e10]),
    st.floats(-1e6, 1e6),
)
# In order and behind all others, or anywhere around the proposer's time.
gaps = st.lists(st.integers(0, 400), min_size=1, max_size=40)
offsets = st.lists(st.integers(-RETENTION - 5_000, 500), min_size=1, max_size=25)
spans = st.tuples(st.integers(-RETENTION - 10_000, 2_000), st.integers(1, RETENTION))


def reduced(policy: str, old: float, new: float) -> float:
    match policy:
        case "last":
            return new
        case "first":
            return old
        case "sum":
            return old + new
        case "max":
            return max(old, new)
        case _:
            return min(old, new)


class SeriesMachine(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from(["last", "first", "sum", "max", "min", "reject"]),
        retained=st.booleans(),
        chunk=st.sampled_from([16, 19, 64]),
    )
    def start(self, policy: str, retained: bool, chunk: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hivemem-series-"))
        self.a = SeriesState(self.folder / "a")
        self.a.now = 1_000_000
        self.b = StateMachine(Store(self.folder / "b", 64 << 20, 8), Limits())
        self.entries: list[Entry] = []
        self.delivered = 0
        self.policy = policy
        self.rollups = ROLLUPS if retained else []
        self.retention = RETENTION if retained else None
        self.model: dict[Named, dict[int, float]] = {}
        self.rolled: dict[Named, list[tuple[int, float]]] = defaultdict(list)
        self.rolled_ms: dict[Named, int] = {}
        given = {"duplicates": policy, "chunk_points_max": chunk, "rollups": self.rollups}
        wanted = {**given, "retention_ms": self.retention}
        self.commit(CREATE, {"engine": "timeseries", "settings": wanted})

    # -- commands ----------------------------------------------------------------------

    def commit(self, operation: str, body: Any) -> Any:
        made = CollectionCommand("n", "c", operation, pack_value(body), self.a.now, 0)
        entry = Entry(len(self.entries) + 1, 1, [encode(made)])
        self.entries.append(entry)
        ((result,),) = self.a.machine.apply([entry])
        return result if isinstance(result, Rejected) else unpack_value(result.answer)

    def write(self, operation: str, **parameters: Any) -> Any:
        return self.commit(operation, ENGINE.prepare(operation, parameters))

    @rule(name=names, gaps=gaps, data=st.data())
    def append_behind(self, name: Named, gaps: list[int], data: st.DataObject) -> None:
        time = max(self.model.get(name) or {self.a.now - RETENTION // 2: 0.0})
        times = []
        for gap in gaps:
            time += gap
            times.append(time)
        self.append([(name, time, data.draw(values)) for time in times])

    @rule(
        points=st.lists(
            st.tuples(names, st.integers(-RETENTION - 5_000, 500), values), min_size=1, max_size=25
        )
    )
    def append_anywhere(self, points: list[tuple[Named, int, float]]) -> None:
        self.append([(name, self.a.now + offset, value) for name, offset, value in points])

    def append(self, points: list[tuple[Named, int, float]]) -> None:
        given = [
            {"metric": name[0], "tags": {"host": name[1]}, "time_ms": time, "value": value}
            for name, time, value in points
        ]
        after = {name: dict(own) for name, own in self.model.items()}
        added = expired = 0
        clash = False
        # Each series on its own, by time; points of one time in the order given.
        for name, time, value in sorted(points, key=lambda point: point[1]):
            cutoff = -math.inf if self.retention is None else self.a.now - self.retention
            if time < max(cutoff, self.rolled_ms.get(name, -math.inf)):
                expired += 1
                continue
            own = after.setdefault(name, {})
            clash = clash or time in own
            added += time not in own
            own[time] = reduced(self.policy, own[time], value) if time in own else float(value)
        answer = self.write("series_append", points=given)
        if clash and self.policy == "reject":
            assert isinstance(answer, Rejected)
            assert answer.code is RejectCode.ITEM_EXISTS
            return
        self.model = after
        assert (answer["points"], answer["added"], answer["expired"]) == (
            len(points), added, expired,
        )  # fmt: skip
        assert answer["duplicates"] == len(points) - added - expired
        self.dropped(answer["dropped_points"])

    @rule(passed=st.integers(0, 8_000))
    def retain(self, passed: int) -> None:
        self.a.now += passed
        answer = self.write("series_retain")
        assert answer["more"] is False
        self.dropped(answer["points"])

    def dropped(self, count: int) -> None:
        """Take over what the retention took: the oldest points, all expired, and so many."""
        gone = 0
        for name, own in self.model.items():
            left = {time for time, _ in self.stored(name)}
            missing = sorted(set(own) - left)
            assert missing == sorted(own)[: len(missing)]
            for time in missing:
                assert self.retention is not None
                assert time < self.a.now - self.retention
                self.rolled[name].append((time, own.pop(time)))
            if missing:
                self.rolled_ms[name] = missing[-1] + 1
            gone += len(missing)
        assert gone == count

    @rule(name=names, span=spans, exact=st.booleans())
    def delete(self, name: Named, span: tuple[int, int], exact: bool) -> None:
        first = self.a.now + span[0]
        end = first + span[1]
        tags = {"host": name[1]} if exact else {}
        answer = self.write(
            "series_delete", metric=name[0], tags=tags, **{"from": first, "to": end}
        )
        assert answer["more"] is False
        gone = 0
        for each, own in self.model.items():
            if each[0] == name[0] and (not exact or each == name):
                times = [time for time in own if first <= time < end]
                gone += len(times)
                for time in times:
                    del own[time]
                self.rolled[each] = [
                    point
                    for point in self.rolled[each]
                    if not first <= point[0] // WINDOW * WINDOW <= end - WINDOW
                ]
        assert answer["points"] == gone
        self.forgotten()

    def forgotten(self) -> None:
        """A series that is gone is as if it had never been."""
        known = {(each["metric"], each["tags"]["host"]) for each in self.a.series()}
        for name in list(self.rolled_ms):
            if name not in known:
                del self.rolled_ms[name]

    # -- restarts, replays, copies -----------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.a.reopen()

    @rule(back=st.integers(0, 3))
    def replay(self, back: int) -> None:
        before = self.a.digest()
        self.a.machine.apply(self.entries[len(self.entries) - back :])
        assert self.a.digest() == before

    @rule(back=st.integers(0, 3), burst=st.integers(1, 30))
    def deliver(self, back: int, burst: int) -> None:
        start = max(0, self.delivered - back)
        end = min(len(self.entries), self.delivered + burst)
        self.b.apply(self.entries[start:end])
        self.delivered = end

    @rule()
    def copy(self) -> None:
        path = self.folder / "copy"
        with path.open("wb") as file:
            index, term = self.a.machine.copy_to(file.fileno())
        self.b.replace(path, index, term)
        self.delivered = len(self.entries)

    # -- reads -------------------------------------------------------------------------

    def stored(self, name: Named) -> list[tuple[int, float]]:
        found = self.a.points(name[0], host=name[1])
        return [(time, value) for time, value in found]

    @rule(metric=st.sampled_from(["cpu", "mem", "none"]), limit=st.integers(1, 50), span=spans,
          hosts=st.sets(st.sampled_from(HOSTS)))  # fmt: skip
    def pages(self, metric: str, limit: int, span: tuple[int, int], hosts: set[str]) -> None:
        first = self.a.now + span[0]
        end = first + span[1]
        tags = {"host": {"$in": sorted(hosts)}} if hosts else {}
        seen: dict[Named, list[tuple[int, float]]] = defaultdict(list)
        cursor = None
        while True:
            page = self.a.query(
                "series_range", metric=metric, tags=tags, limit=limit, cursor=cursor,
                **{"from": first, "to": end},
            )  # fmt: skip
            assert sum(len(each["points"]) for each in page["series"]) <= limit
            for each in page["series"]:
                own = seen[each["metric"], each["tags"]["host"]]
                own.extend((time, value) for time, value in each["points"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
        expected = {
            name: [(time, own[time]) for time in sorted(own) if first <= time < end]
            for name, own in self.model.items()
            if name[0] == metric and (not hosts or name[1] in hosts)
        }
        assert repr(dict(seen)) == repr({name: seen[name] for name in seen})
        assert {name: same(own) for name, own in seen.items()} == {
            name: same(own) for name, own in expected.items() if own
        }

    @rule(metric=st.sampled_from(["cpu", "mem"]), limit=st.integers(1, 20),
          width=st.sampled_from([1, 2, 7]), grouped=st.booleans())  # fmt: skip
    def windows(self, metric: str, limit: int, width: int, grouped: bool) -> None:
        """Of dropped points, too, as far as rollups can tell."""
        window_ms = width * WINDOW
        wanted = ["count", "min", "max", "avg"]
        parameters = {
            "metric": metric, "window_ms": window_ms, "aggregates": wanted, "limit": limit,
            "group_by": ["host"] if grouped else [],
        }  # fmt: skip
        seen: dict[tuple[Any, int], list[Any]] = {}
        cursor = None
        while True:
            page = self.a.query("series_downsample", **parameters, cursor=cursor)
            assert sum(len(group["windows"]) for group in page["groups"]) <= limit
            assert page["left_out"] is False
            for group in page["groups"]:
                for window in group["windows"]:
                    place = (group["tags"].get("host"), window["start_ms"])
                    assert place not in seen
                    seen[place] = [window[name] for name in wanted]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        held: dict[tuple[Any, int], list[float]] = defaultdict(list)
        for name, own in self.model.items():
            if name[0] == metric:
                for time, value in [*self.rolled[name], *own.items()]:
                    held[name[1] if grouped else None, time // window_ms * window_ms].append(value)
        assert seen.keys() == held.keys()
        for place, found in held.items():
            count, least, most, average = seen[place]
            assert (count, least, most) == (len(found), min(found), max(found))
            mean = math.fsum(found) / len(found)
            assert average == pytest.approx(mean, rel=1e-9, abs=1e-3)

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "a"):
            return
        assert self.a.problems() == []
        alive = {name for name, own in self.model.items() if own or self.rolled[name]}
        listed = self.a.series()
        known = {(each["metric"], each["tags"]["host"]): each for each in listed}
        # Rows of the wider rollup may outlive, or cover, what the narrower one says.
        assert {name for name in known if known[name]["points"]} == {
            name for name in alive if self.model[name]
        }
        for name, each in known.items():
            own = self.model[name]
            assert each["points"] == len(own)
            assert (each["first_ms"], each["last_ms"]) == (
                min(own, default=None), max(own, default=None),
            )  # fmt: skip
        newest = {
            (each["metric"], each["tags"]["host"]): (each["time_ms"], each["value"])
            for metric in ("cpu", "mem")
            for each in self.a.query("series_last", metric=metric)["items"]
        }
        assert newest == {name: max(own.items()) for name, own in self.model.items() if own}

    def teardown(self) -> None:
        if not hasattr(self, "a"):
            return
        try:
            self.b.apply(self.entries[self.delivered :])
            with self.b._store.read() as snapshot:
                assert digest(snapshot) == self.a.digest()
        finally:
            self.a.machine.close()
            self.b.close()
            shutil.rmtree(self.folder)


def same(points: list[tuple[int, float]]) -> list[tuple[int, str]]:
    """Comparable to the bit: 0.0 is not -0.0."""
    return [(time, value.hex()) for time, value in points]


def test_series_answer_as_the_model() -> None:
    run_state_machine_as_test(
        SeriesMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
