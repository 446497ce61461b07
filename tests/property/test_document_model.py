"""The document engine against a naive oracle, with restarts, replays, copies and other batchings.

A gets each command as it is made; B gets the log in bursts that overlap what it has; C gets all
of it at the end in one apply, into a state that was a copy of A's once. All must hold the same
bytes, and A must answer as the oracle does, whichever plan it chooses.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engines.check import check, digest
from engines.codec import pack_value, unpack_value
from engines.command import CollectionCommand, encode
from engines.document import DocumentEngine
from engines.interfaces import CollectionResult, Limits, RejectCode
from engines.kv import KvReader
from engines.registry import Registry
from engines.space import View
from engines.state_machine import StateMachine
from engines.store import Store
from engines.tuning import Tuning
from tests.property.document_oracle import in_order, matches, merged, updated, violates
from tests.unit.engine_state import Entry

ENGINE = DocumentEngine()
REGISTRY = Registry((ENGINE,))
IDS = ["a", "b", "c", "é", "\x00", "zz"]
NAMES = ["x", "y", "z"]
PATHS = ["x", "y", "z", "x.y", "y.z"]
INDEXES = [
    {"fields": ["x"]}, {"fields": ["y"]}, {"fields": ["x", "y"]}, {"fields": ["y", "x.y"]},
    {"fields": ["z", "x", "y"]}, {"fields": ["y.z"]},
]  # fmt: skip
TEXT: Any = {"fields": {"x": 1, "y.z": 2}, "language": "none"}
HOLDING = {"a": ["a", "a\x00"], "b": ["b"]}  # of all texts those that hold the word
UNIQUE = {"fields": ["u"], "unique": True}

scalars = st.sampled_from(
    [None, False, True, 0, 1, 2, 1.0, 1.5, -1, 2**53 + 1, 2.0**53, "", "a", "a\x00", "b", "\x00"]
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
    ),
    max_leaves=4,
)
# Short arrays of numbers, in which different items fulfil the two ends of a range.
numbers = st.integers(0, 4)
fields = st.one_of(values, numbers, st.lists(numbers, max_size=2))
documents = st.builds(
    lambda plain, unique: {**plain, **unique},
    st.dictionaries(st.sampled_from(NAMES), fields, max_size=3),
    st.one_of(st.just({}), st.dictionaries(st.just("u"), values)),
)
operators = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), values),
    st.tuples(st.just("$in"), st.lists(values, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
)
ranges = st.builds(
    lambda low, high, ends: {ends[0]: low, ends[1]: high},
    numbers,
    numbers,
    st.sampled_from([("$gt", "$lt"), ("$gte", "$lte"), ("$gt", "$lte")]),
)
conditions = st.one_of(
    st.dictionaries(st.sampled_from(["x", "y"]), st.one_of(ranges, numbers), min_size=1),
    st.dictionaries(st.sampled_from(PATHS), scalars, max_size=2),
    st.dictionaries(
        st.sampled_from(PATHS), st.lists(operators, min_size=1, max_size=2).map(dict), max_size=2
    ),
    st.fixed_dictionaries({"_id": st.one_of(
        st.sampled_from(IDS),
        st.fixed_dictionaries({"$in": st.lists(st.sampled_from(IDS), max_size=3)}),
        st.fixed_dictionaries({"$gt": st.sampled_from(IDS)}),
    )}),
)  # fmt: skip
filters = st.one_of(
    conditions,
    st.lists(conditions, min_size=1, max_size=2).map(lambda each: {"$and": each}),
    st.lists(conditions, min_size=1, max_size=2).map(lambda each: {"$or": each}),
)
sorts = st.one_of(
    st.none(),
    st.lists(
        st.tuples(st.sampled_from([*PATHS, "_id"]), st.sampled_from([1, -1])),
        min_size=1, max_size=3, unique_by=lambda pair: pair[0],
    ).map(dict),
)  # fmt: skip
updates = st.one_of(
    st.tuples(st.just("$set"), values),
    st.tuples(st.just("$unset"), st.just("")),
    st.tuples(st.just("$inc"), st.sampled_from([1, -2, 0.5])),
    st.tuples(st.sampled_from(["$max", "$addToSet"]), scalars),
    st.tuples(st.just("$push"), scalars),
)


class Chosen(Tuning):
    """Takes the way of this name, and remembers which there were besides the control."""

    __slots__ = ("_name", "others")

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self._name = name
        self.others: tuple[str, ...] = ()

    def choose(self, point: str, control: str, others: Sequence[str]) -> str:
        self.others = tuple(others)
        return self._name or control


class Replica:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.store = Store(self.path, 64 << 20, 8)
        self.state = StateMachine(self.store, Limits(), None, REGISTRY)

    def reopen(self) -> None:
        self.state.close()
        self.open()

    def digest(self) -> bytes:
        with self.store.read() as snapshot:
            return digest(snapshot)


class DocumentMachine(RuleBasedStateMachine):
    @initialize(
        chosen=st.lists(st.sampled_from(INDEXES), max_size=3, unique_by=repr),
        filled=st.lists(documents, max_size=6),
    )
    def start(self, chosen: list[Any], filled: list[Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hivemem-documents-"))
        self.a, self.b, self.c = (Replica(self.folder / name) for name in "abc")
        self.entries: list[Entry] = []
        self.delivered = 0  # entries that B has
        self.compared = 0  # answers, with that of another plan
        self.now = 1_000
        self.documents: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}
        settings = {"indexes": [*chosen, UNIQUE], "text": TEXT}
        self.commit("collection_create", {"engine": "document", "settings": settings})
        for document in filled:
            self.insert(document, None)

    # -- the log -----------------------------------------------------------------------

    def commit(self, operation: str, body: Any) -> Any:
        index = len(self.entries) + 1
        command = CollectionCommand("n", "c", operation, pack_value(body), self.now, index)
        entry = Entry(index, 1, [encode(command)])
        self.entries.append(entry)
        ((result,),) = self.a.state.apply([entry])
        return unpack_value(result.answer) if isinstance(result, CollectionResult) else result

    def write(self, operation: str, **parameters: Any) -> Any:
        return self.commit(operation, ENGINE.prepare(operation, parameters))

    def read(self, operation: str, **parameters: Any) -> Any:
        """Whatever way is chosen, the answer is the same."""
        control = Chosen()
        answer = self.read_by(control, operation, parameters)
        for name in control.others:
            other = self.read_by(Chosen(name), operation, parameters)
            assert same({**other, "explain": None}, {**answer, "explain": None})
            self.compared += 1
        return answer

    def read_by(self, tuning: Chosen, operation: str, parameters: dict[str, Any]) -> Any:
        with self.a.store.read() as snapshot:
            reader = KvReader(snapshot, self.a.state.registry, self.a.state.indexes)
            reader.tuning = tuning
            value, _ = reader.collections.query("n", "c", operation, parameters)
        return value

    # -- writes ------------------------------------------------------------------------

    @rule(document=documents, identity=st.one_of(st.none(), st.sampled_from(IDS)))
    def insert(self, document: Any, identity: str | None) -> None:
        given = document if identity is None else {"_id": identity, **document}
        answer = self.write("document_insert", document=given)
        taken = identity in self.documents
        if taken or violates({**self.documents, "?": document}, "u"):
            assert answer.code is RejectCode.ITEM_EXISTS
            return
        (made,) = answer["ids"]
        assert identity in (None, made)
        self.keep(made, {"_id": made, **document})

    @rule(given=st.lists(st.tuples(st.sampled_from(IDS), documents), min_size=1, max_size=3))
    def upsert(self, given: list[tuple[str, Any]]) -> None:
        written = [{"_id": identity, **document} for identity, document in given]
        answer = self.write("document_upsert", documents=written)
        after = dict(self.documents)
        for document in written:
            after[document["_id"]] = document
            if violates(after, "u"):
                assert answer.code is RejectCode.ITEM_EXISTS
                return
        for document in written:
            self.keep(document["_id"], document)
        assert answer["versions"][-1] == self.versions[written[-1]["_id"]]

    @rule(
        wanted=filters, name=st.sampled_from([*NAMES, "u"]), update=updates,
        step=st.sampled_from([1, 2, 1_000]),
    )  # fmt: skip
    def update(self, wanted: Any, name: str, update: tuple[str, Any], step: int) -> None:
        operators = {update[0]: {name: update[1]}}
        self.change(wanted, step, lambda each: updated(each, operators), {"update": operators})

    @rule(wanted=filters, patch=documents, step=st.sampled_from([1, 1_000]))
    def merge(self, wanted: Any, patch: Any, step: int) -> None:
        self.change(wanted, step, lambda each: merged(each, patch), {"merge": patch})

    def change(self, wanted: Any, step: int, compute: Any, parameters: Any) -> None:
        """In steps of so many documents; one that is refused leaves nothing of its own."""
        todo = [each for each in sorted(self.documents) if matches(self.documents[each], wanted)]
        cursor = None
        while True:
            answer = self.write(
                "document_update", filter=wanted, limit=step, cursor=cursor, **parameters
            )
            chosen, todo = todo[:step], todo[step:]
            after = dict(self.documents)
            for identity in chosen:
                new = compute(after[identity])
                if new is None:
                    assert answer.code is RejectCode.INVALID_ARGUMENT
                    return
                after[identity] = new
                if violates(after, "u"):
                    assert answer.code is RejectCode.ITEM_EXISTS
                    return
            changed = [each for each in chosen if not same(after[each], self.documents[each])]
            for identity in chosen:
                self.keep(identity, after[identity])
            assert (answer["matched"], answer["modified"]) == (len(chosen), len(changed))
            assert answer["more"] == bool(todo)
            cursor = answer["next_cursor"]
            if cursor is None:
                return

    @rule(wanted=filters, limit=st.sampled_from([1, 1_000]))
    def delete(self, wanted: Any, limit: int) -> None:
        todo = [each for each in sorted(self.documents) if matches(self.documents[each], wanted)]
        answer = self.write("document_delete", filter=wanted, limit=limit)
        assert answer["deleted"] == min(limit, len(todo))
        assert answer["more"] == (len(todo) > limit)
        for identity in todo[:limit]:
            del self.documents[identity], self.versions[identity]

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), stale=st.booleans())
    def delete_version(self, data: st.DataObject, stale: bool) -> None:
        identity = data.draw(st.sampled_from(sorted(self.documents)))
        version = self.versions[identity] + stale
        answer = self.write("document_delete", id=identity, if_version=version)
        if stale:
            assert answer.code is RejectCode.VERSION_CONFLICT
            assert answer.version == self.versions[identity]
        else:
            assert answer == {"deleted": 1}
            del self.documents[identity], self.versions[identity]

    @rule(chosen=st.lists(st.sampled_from(INDEXES), max_size=3, unique_by=repr))
    def alter(self, chosen: list[Any]) -> None:
        self.commit("collection_alter", {"settings": {"indexes": [UNIQUE, *chosen]}})

    @rule(limit=st.integers(1, 3))
    def build(self, limit: int) -> None:
        self.write("document_index_build", limit=limit)

    def keep(self, identity: str, document: Any) -> None:
        old = self.documents.get(identity)
        self.documents[identity] = copy.deepcopy(document)
        if old is None or not same(old, document):
            self.versions[identity] = self.versions.get(identity, 0) + 1

    # -- reads -------------------------------------------------------------------------

    @rule(wanted=filters, sort=sorts, limit=st.sampled_from([1, 2, 100]))
    def find(self, wanted: Any, sort: Any, limit: int) -> None:
        found = found_as_the_oracle(self.read, self.documents, wanted, sort, limit)
        assert {item["id"]: item["version"] for item in found}.items() <= self.versions.items()

    @rule(word=st.sampled_from(sorted(HOLDING)), wanted=filters)
    def search(self, word: str, wanted: Any) -> None:
        answer = self.read("document_search", query=word, filter=wanted)
        holds = {"$or": [{path: {"$in": HOLDING[word]}} for path in TEXT["fields"]]}
        assert answer["exhaustive"]
        assert sorted(hit["id"] for hit in answer["hits"]) == sorted(
            identity
            for identity, document in self.documents.items()
            if matches(document, holds) and matches(document, wanted)
        )

    # -- the other replicas ------------------------------------------------------------

    @rule(again=st.integers(0, 3))
    def replay_b(self, again: int) -> None:
        start = max(0, self.delivered - again)
        self.b.state.apply(self.entries[start:])
        self.delivered = len(self.entries)
        assert self.b.digest() == self.a.digest()

    @rule()
    def reopen(self) -> None:
        self.a.reopen()

    @rule()
    def copy_to_c(self) -> None:
        path = self.folder / "copy"
        with open(path, "wb") as file:
            index, term = self.a.state.copy_to(file.fileno())
            os.fsync(file.fileno())
        self.c.state.replace(path, index, term, thorough=True)

    @rule(passed=st.integers(1, 5))
    def wait(self, passed: int) -> None:
        self.now += passed

    @invariant()
    def nothing_is_wrong(self) -> None:
        if hasattr(self, "a"):
            with self.a.store.read() as snapshot:
                reader = KvReader(snapshot, REGISTRY, None).collections
                collection = reader.find("n", "c")
                view = View(snapshot.txn, snapshot.databases.items, collection, 0)
                assert list(ENGINE.check(view, collection.settings)) == []

    def teardown(self) -> None:
        if not hasattr(self, "a"):
            return
        self.b.state.apply(self.entries[self.delivered :])
        self.c.state.apply(self.entries)
        digests = {replica.digest() for replica in (self.a, self.b, self.c)}
        with self.a.store.read() as snapshot:
            problems = check(snapshot)
        for replica in (self.a, self.b, self.c):
            replica.state.close()
        shutil.rmtree(self.folder)
        assert len(digests) == 1
        assert problems == []


def found_as_the_oracle(
    read: Callable[..., Any], documents: dict[str, Any], wanted: Any, sort: Any, limit: int
) -> list[Any]:
    """All pages of a find, which must be what the oracle finds, in order."""
    found: list[Any] = []
    cursor = None
    while True:
        answer = read(
            "document_find", filter=wanted, sort=sort, limit=limit, cursor=cursor, explain=True
        )
        assert len(answer["items"]) <= limit
        found += answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    explain = answer["explain"]
    expected = sorted(each for each in documents if matches(documents[each], wanted))
    assert sorted(item["id"] for item in found) == expected, explain
    assert all(same(item["document"], documents[item["id"]]) for item in found)
    if sort:
        shown = [item["document"] for item in found]
        assert all(in_order(one, other, sort) for one, other in pairwise(shown)), explain
    assert read("document_count", filter=wanted) == {"count": len(expected)}
    return found


few = st.one_of(numbers, st.none(), st.lists(numbers, min_size=2, max_size=3))
dense_documents = st.fixed_dictionaries(
    {"x": few, "y": st.one_of(few, st.fixed_dictionaries({"z": few}))}, optional={"z": few}
)
dense_conditions = st.dictionaries(
    st.sampled_from(["x", "y", "z", "y.z"]),
    st.one_of(
        ranges, ranges, few, st.builds(lambda each: {"$in": each}, st.lists(few, max_size=2))
    ),
    min_size=1,
    max_size=3,
)
dense_sorts = st.sampled_from(
    [{"x": 1}, {"x": -1}, {"y": 1}, {"y": -1}, {"x": 1, "y": 1}, {"x": 1, "y": -1}]
)
dense_queries = st.tuples(
    st.one_of(st.just({}), dense_conditions),
    st.one_of(dense_sorts, sorts),
    st.sampled_from([1, 2, 100]),
)


@given(
    chosen=st.lists(st.sampled_from(INDEXES), min_size=1, max_size=3, unique_by=repr),
    filled=st.lists(dense_documents, min_size=4, max_size=12),
    queries=st.lists(dense_queries, min_size=10, max_size=30),
)
def test_whatever_the_plan_the_answer_is_the_same(
    chosen: list[Any], filled: list[Any], queries: list[tuple[Any, Any, int]]
) -> None:
    """Many queries of one collection, for the planner. Some choices lead too far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engines.document_find.LOOKS_MAX", 8)
        patch.setattr("engines.document_detour.KEPT_MAX", 4)
        answer_alike(chosen, filled, queries)


def answer_alike(chosen: list[Any], filled: list[Any], queries: list[tuple[Any, Any, int]]) -> None:
    machine = DocumentMachine()
    machine.start(chosen, filled)
    try:
        for query in queries:
            found_as_the_oracle(machine.read, machine.documents, *query)
            wanted, _, limit = query
            machine.read("document_distinct", field="x", filter=wanted, limit=limit)
            stages = [{"$match": wanted}, {"$limit": limit}, {"$project": {"x": 1}}]
            machine.read("document_aggregate", pipeline=stages)
    finally:
        machine.teardown()


def same(one: Any, other: Any) -> bool:
    """To the byte, so that 1 and 1.0 differ, and the order of members counts."""
    return pack_value(one) == pack_value(other)


def test_documents_as_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that indexes are built, and cleared, while documents are written.
    monkeypatch.setattr("engines.document.BUILD_DOCUMENTS_MAX", 2)
    monkeypatch.setattr("engines.document_writes.CLEAR_ITEMS_MAX", 3)
    run_state_machine_as_test(
        DocumentMachine,
        settings=settings(
            max_examples=max(1, settings().max_examples // 2),
            stateful_step_count=20,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
