"""The vector engine against a dictionary, with restarts, replays, copies and old snapshots.

What a search finds must be true of the snapshot it reads, whatever the index has seen by then:
every hit is there, matches, and is as far away as it says; none is missing while there are
fewer than were asked for; and an exact search finds what the dictionary says.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engines import vector_index
from engines.check import digest
from engines.interfaces import RejectCode, Rejected
from engines.kv import KvReader
from tests.unit.vector_state import VectorState

GRAPH_ROWS_MIN = 12

ids = st.integers(0, 30).map("i{}".format)
vectors = st.tuples(st.integers(-3, 3), st.integers(-3, 3))
metadata = st.fixed_dictionaries({"k": st.integers(0, 3), "t": st.sampled_from(["a", "b"])})
documents = st.dictionaries(ids, st.tuples(vectors, metadata), min_size=1, max_size=12)
filters: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.builds(dict, k=st.integers(0, 3)),
    st.just({"k": {"$gte": 2}}),
    st.just({"$or": [{"k": 0}, {"t": "b"}]}),
    st.just({"k": {"$in": [1, 2]}, "t": {"$ne": "a"}}),
)

Model = dict[str, tuple[tuple[int, int], dict[str, Any]]]


def matches(condition: Any, given: dict[str, Any]) -> bool:
    """The filters above, and no others, as Python says them."""
    match condition:
        case None:
            return True
        case {"k": {"$gte": least}}:
            return bool(given["k"] >= least)
        case {"$or": _}:
            return given["k"] == 0 or given["t"] == "b"
        case {"k": {"$in": several}}:
            return given["k"] in several and given["t"] != "a"
    return bool(given["k"] == condition["k"])


def away(left: tuple[int, int], right: tuple[int, int]) -> int:
    return (left[0] - right[0]) ** 2 + (left[1] - right[1]) ** 2


class VectorMachine(RuleBasedStateMachine):
    @initialize(scalar=st.sampled_from(["f32", "f16"]))
    def start(self, scalar: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hivemem-vector-"))
        self.state = VectorState(self.folder / "a", GRAPH_ROWS_MIN)
        self.state.create(dimensions=2, metric="l2sq", scalar=scalar)
        self.model: Model = {}
        self.old: tuple[KvReader, Model] | None = None
        self.held = ExitStack()

    def given(self, some: Model) -> list[dict[str, Any]]:
        return [
            {"id": name, "vector": list(vector), "metadata": own}
            for name, (vector, own) in some.items()
        ]

    @rule(some=documents)
    def upsert(self, some: Model) -> None:
        answer = self.state.write("vector_upsert", documents=self.given(some))
        assert answer["replaced"] == len(some.keys() & self.model.keys())
        self.model.update(some)

    @rule(some=documents)
    def insert(self, some: Model) -> None:
        answer = self.state.write("vector_insert", documents=self.given(some))
        if some.keys() & self.model.keys():
            assert isinstance(answer, Rejected)
            assert answer.code is RejectCode.ITEM_EXISTS
        else:
            assert answer["inserted"] == len(some)
            self.model.update(some)

    @rule(name=ids, vector=vectors, own=metadata, which=st.sampled_from(["vector", "metadata"]))
    def update(self, name: str, vector: tuple[int, int], own: dict[str, Any], which: str) -> None:
        data = {"vector": list(vector)} if which == "vector" else {"metadata": own}
        answer = self.state.write("vector_update", id=name, data=data)
        if name not in self.model:
            assert isinstance(answer, Rejected)
            assert answer.code is RejectCode.ITEM_NOT_FOUND
            return
        before = self.model[name]
        self.model[name] = (vector, before[1]) if which == "vector" else (before[0], own)
        assert answer["changed"] is (self.model[name] != before)

    @rule(names=st.lists(ids, min_size=1, max_size=5))
    def delete(self, names: list[str]) -> None:
        answer = self.state.write("vector_delete", ids=names)
        assert answer["deleted"] == len(set(names) & self.model.keys())
        for name in names:
            self.model.pop(name, None)

    @rule(condition=filters.filter(bool))
    def delete_matching(self, condition: Any) -> None:
        doomed = [name for name, (_, own) in self.model.items() if matches(condition, own)]
        answer = self.state.write("vector_delete", filter=condition)
        assert answer == {"deleted": len(doomed), "next_cursor": None}
        for name in doomed:
            del self.model[name]

    @rule(query=vectors, limit=st.integers(1, 40), condition=filters)
    def search(self, query: tuple[int, int], limit: int, condition: Any) -> None:
        with self.state.store.read() as snapshot:
            reader = KvReader(snapshot, self.state.registry, self.state.machine.indexes)
            self.compare(reader, self.model, query, limit, condition)

    @precondition(lambda self: self.old is not None)
    @rule(query=vectors, limit=st.integers(1, 40), condition=filters)
    def search_old(self, query: tuple[int, int], limit: int, condition: Any) -> None:
        assert self.old is not None
        self.compare(*self.old, query, limit, condition)

    def compare(
        self, reader: KvReader, model: Model, query: tuple[int, int], limit: int, condition: Any
    ) -> None:
        found = {
            name: away(v, query) for name, (v, own) in model.items() if matches(condition, own)
        }
        expected = sorted(found.items(), key=lambda pair: (pair[1], pair[0]))[:limit]
        for exact in (False, True):
            parameters = {
                "vector": list(query), "limit": limit, "exact": exact, "filter": condition,
                "include": ["metadata", "vector"],
            }  # fmt: skip
            answer: Any = reader.collections.query("n", "c", "vector_search", parameters)[0]
            hits = [(match["id"], match["distance"]) for match in answer["matches"]]
            assert len(hits) == len(expected)
            assert len(dict(hits)) == len(hits)
            assert [distance for _, distance in hits] == sorted(d for _, d in hits)
            for match in answer["matches"]:
                vector, own = model[match["id"]]
                assert match["distance"] == found[match["id"]]
                assert (match["vector"], match["metadata"]) == (list(vector), own)
            if exact:
                assert [d for _, d in hits] == [d for _, d in expected]
        counted: Any = reader.collections.query("n", "c", "vector_count", {"filter": condition})[0]
        assert counted == {"count": len(found)}

    @rule()
    def hold(self) -> None:
        """A snapshot that later searches look at."""
        self.held.close()
        snapshot = self.held.enter_context(self.state.store.read())
        reader = KvReader(snapshot, self.state.registry, self.state.machine.indexes)
        self.old = reader, dict(self.model)

    def let_go(self) -> None:
        self.held.close()
        self.old = None

    @rule()
    def settle(self) -> None:
        self.state.settle()

    @rule(damage=st.sampled_from(["", "cut", "flip"]))
    def reopen(self, damage: str) -> None:
        self.let_go()
        self.state.machine.close()
        for file in (self.folder / "a.derived").glob("*.index"):
            data = file.read_bytes()
            if damage == "cut":
                file.write_bytes(data[: len(data) // 2])
            elif damage == "flip":
                middle = len(data) // 2
                file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        self.state.open()

    @rule(limit=st.sampled_from([20, 40]))
    def alter(self, limit: int) -> None:
        self.state.alter(expansion_search=limit)

    @rule()
    def replace(self) -> None:
        """The state as its own copy, as a snapshot from elsewhere would be."""
        self.let_go()
        copy = self.folder / "copy"
        with copy.open("wb") as file:
            index, term = self.state.machine.copy_to(file.fileno())
        self.state.machine.replace(copy, index, term, thorough=True)

    @rule()
    def replay(self) -> None:
        """Another replica, which never searches, comes to the same bytes."""
        other = VectorState(self.folder / "b", GRAPH_ROWS_MIN)
        other.machine.apply(self.state.log)
        with self.state.store.read() as own, other.store.read() as theirs:
            assert digest(own) == digest(theirs)
        other.machine.close()
        shutil.rmtree(self.folder / "b")

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.let_go()
            assert self.state.check() == []
            self.state.machine.close()
            shutil.rmtree(self.folder)


def test_searches_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "DEAD_ROWS_MIN", 8)
    monkeypatch.setattr(vector_index, "IDLE_SECONDS", 0.001)
    run_state_machine_as_test(
        VectorMachine,
        settings=settings(
            max_examples=10,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
