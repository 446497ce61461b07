"""What the replicated state promises its users, one behaviour per test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engines.check import check
from engines.collection_writes import CREATE, DROP
from engines.command import (
    Command,
    Compare,
    CompareOp,
    CompareTarget,
    Configure,
    Delete,
    Expire,
    Put,
    Txn,
    TxnDelete,
    TxnGet,
    TxnPut,
    encode,
)
from engines.counters import load_counters
from engines.errors import Compacted, InvalidArgument, UnknownCommand
from engines.interfaces import (
    SUB_MAX,
    ChangeId,
    ChangeKind,
    ConfigureResult,
    DeleteResult,
    DueRecord,
    ExpireResult,
    GetResult,
    Limits,
    PutResult,
    RejectCode,
    Rejected,
    TxnResult,
)
from engines.read_requests import ListNamespaces
from engines.retention import SWEEP_BYTES_PER_STEP, SWEEP_STEPS_PER_CHANGE
from engines.state_machine import StateMachine
from tests.unit.engine_state import NOW, Entry, State, checked_state


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path / "live") as state:
        yield state


def test_results_are_told_before_the_transaction_ends(state: State) -> None:
    """Who hears them must not look at the state; who asks for the applied index waits."""
    heard: list[tuple[int, int, object]] = []

    def decided(batch: Entry, results: Sequence[object]) -> None:
        heard.append((batch.index, state.machine.applied_index, results))
        assert state.get(b"a") is None

    entries = [
        Entry(index, 1, [encode(Put("n", "s", key, b"v", "", NOW))])
        for index, key in ((1, b"a"), (2, b"b"))
    ]
    results = state.machine.apply(entries, decided)
    assert heard == [(1, 0, [PutResult(1, 1)]), (2, 0, [PutResult(1, 2)])]
    assert results == [told for _, _, told in heard]
    assert state.value(b"a") == b"v"


def test_nothing_is_told_of_entries_that_cannot_be_applied(state: State) -> None:
    heard: list[object] = []
    entries = [Entry(1, 1, [encode(Put("n", "s", b"a", b"v", "", NOW))]), Entry(2, 1, [b"\xff"])]
    with pytest.raises(UnknownCommand):
        state.machine.apply(entries, lambda *told: heard.append(told))
    assert heard == []
    assert state.machine.applied_index == 0


def limited(tmp_path: Path, **limits: int) -> State:
    return State(tmp_path / "limited", replace(Limits(), **limits))


# -- records -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"0", b"false", b"", b"null", bytes(range(256)), b"x" * 9000])
def test_a_value_comes_back_as_stored(state: State, value: bytes) -> None:
    state.put(b"k", value, content_type="a/b")
    record = state.get(b"k")
    assert record is not None
    assert (record.value, record.size, record.content_type) == (value, len(value), "a/b")


def test_versions_count_the_record_and_revisions_the_state(state: State) -> None:
    assert state.put(b"a") == PutResult(1, 1)
    assert state.put(b"b") == PutResult(1, 2)
    state.now += 5
    assert state.put(b"a") == PutResult(2, 3)
    record = state.get(b"a")
    assert record is not None
    assert (record.version, record.revision, record.created_revision) == (2, 3, 1)
    assert (record.created_ms, record.updated_ms) == (NOW, NOW + 5)


def test_a_key_that_is_made_again_starts_at_version_1(state: State) -> None:
    state.put(b"a")
    state.put(b"a")
    assert state.delete(b"a") == DeleteResult(True, 2, 3)
    assert state.get(b"a") is None
    assert state.put(b"a") == PutResult(1, 4)
    record = state.get(b"a")
    assert record is not None
    assert record.created_revision == 4


def test_what_changes_nothing_takes_no_revision(state: State) -> None:
    state.put(b"a")
    assert state.delete(b"absent") == DeleteResult(False, None, 1)
    assert state.put(b"a", if_version=0).code is RejectCode.VERSION_CONFLICT
    assert state.txn(TxnDelete(b"absent"), TxnGet(b"a")).revision == 1
    assert state.apply(Expire((), NOW)) == [ExpireResult(0)]
    assert state.machine.revision == 1
    assert state.machine.applied_index == 5


def test_compare_and_set_by_version(state: State) -> None:
    conflict = state.put(b"a", if_version=1)
    assert (conflict.code, conflict.version) == (RejectCode.VERSION_CONFLICT, 0)
    assert state.put(b"a", b"1", if_version=0) == PutResult(1, 1)
    conflict = state.put(b"a", b"2", if_version=0)
    assert (conflict.code, conflict.version) == (RejectCode.VERSION_CONFLICT, 1)
    assert state.value(b"a") == b"1"
    assert state.put(b"a", if_version=1) == PutResult(2, 2)
    assert state.delete(b"a", if_version=1).version == 2
    assert state.delete(b"a", if_version=2) == DeleteResult(True, 2, 3)
    assert state.delete(b"a", if_version=0) == DeleteResult(False, None, 3)


def test_sessions_and_namespaces_do_not_mix(state: State) -> None:
    state.put(b"k", b"1", namespace="a", session="b")
    state.put(b"k", b"2", namespace="a", session="bb")
    state.put(b"k", b"3", namespace="aa", session="b")
    for namespace, session, value in (("a", "b", b"1"), ("a", "bb", b"2"), ("aa", "b", b"3")):
        record = state.get(b"k", namespace=namespace, session=session)
        assert record is not None
        assert record.value == value
        with state.reader() as reader:
            page = reader.scan(namespace, session, b"", None, 10, 1000, True)
        assert [record.value for record in page.records] == [value]
    assert state.get(b"k", namespace="a", session="") is None
    assert state.get(b"k", namespace="a" * 600) is None


def test_a_namespace_is_listed_until_its_last_record_goes(state: State) -> None:
    state.put(b"k", namespace="a", session="1")
    state.put(b"x" * 2000, namespace="a", session="2")
    state.put(b"k", namespace="a-", session="1", ttl=10)
    assert state.read(lambda r: r.namespaces(None, 10)) == ["a", "a-"]
    assert state.read(lambda r: r.sessions("a", None, 10)) == ["1", "2"]
    state.delete(b"k", namespace="a", session="1")
    assert state.read(lambda r: r.sessions("a", None, 10)) == ["2"]
    state.delete(b"x" * 2000, namespace="a", session="2")
    state.apply(Expire((DueRecord("a-", "1", b"k", 3),), NOW + 10))
    assert state.read(lambda r: r.namespaces(None, 10)) == []
    assert state.read(lambda r: r.sessions("a", None, 10)) == []


def test_a_namespace_that_holds_only_collections_is_listed_too(state: State) -> None:
    text = {"engine": "text", "settings": {}}
    for namespace in ("b", "a-", "b.c"):
        state.collection(CREATE, "c", text, namespace=namespace)
        state.collection(CREATE, "d", text, namespace=namespace)
    state.put(b"k", namespace="a")
    state.put(b"k", namespace="b")
    names = ["a", "a-", "b", "b.c"]
    assert state.read(lambda r: r.namespaces(None, 10)) == names
    for limit in range(1, 5):
        assert state.read(lambda r, limit=limit: r.namespaces(None, limit)) == names[:limit]
    for at, name in enumerate(names):
        assert state.read(lambda r, name=name: r.namespaces(name, 10)) == names[at + 1 :]
    page = state.read(ListNamespaces("a", 2).run).found
    assert (page.names, page.more) == (("a-", "b"), True)
    # What is left of a dropped collection is in no namespace.
    for name in ("c", "d"):
        state.collection(DROP, name, {}, namespace="b.c")
    assert state.read(lambda r: r.namespaces(None, 10)) == names[:3]
    assert state.read(lambda r: r.sessions("a-", None, 10)) == []


# -- transactions ------------------------------------------------------------------------


def test_a_transaction_shares_one_revision_and_sees_itself(state: State) -> None:
    state.put(b"old", b"0")
    result = state.txn(
        TxnGet(b"a"),
        TxnPut(b"a", b"1", ""),
        TxnGet(b"a"),
        TxnDelete(b"old"),
        TxnGet(b"old"),
        TxnDelete(b"absent"),
    )
    made = state.get(b"a")
    assert result == TxnResult(
        True,
        2,
        (
            GetResult(None),
            PutResult(1, 2),
            GetResult(made),
            DeleteResult(True, 1, 2),
            GetResult(None),
            DeleteResult(False, None, 1),
        ),
    )
    changes = state.read(lambda r: r.changes(ChangeId(1, SUB_MAX), 10, 1000, True))
    assert [change.id for change in changes] == [(2, 0), (2, 1)]


V, R = CompareTarget.VERSION, CompareTarget.REVISION
VALUE, EXISTS = CompareTarget.VALUE, CompareTarget.EXISTS
EQ, NE, LT, LE, GT, GE = CompareOp


@pytest.mark.parametrize(
    ("target", "op", "value", "of_present", "of_absent"),
    [
        # The record under test has version 2, revision 3 and value b"m".
        (V, EQ, 2, True, False), (V, EQ, 0, False, True), (V, NE, 2, False, True),
        (V, LT, 2, False, True), (V, LE, 2, True, True), (V, GT, 1, True, False),
        (V, GE, 2, True, False), (V, GE, 0, True, True), (V, GT, 2, False, False),
        (R, EQ, 3, True, False), (R, EQ, 0, False, True), (R, NE, 0, True, False),
        (R, LT, 4, True, True), (R, LE, 2, False, True), (R, GT, 2, True, False),
        (R, GE, 4, False, False),
        (VALUE, EQ, b"m", True, False), (VALUE, EQ, b"", False, False),
        (VALUE, NE, b"x", True, False), (VALUE, NE, b"m", False, False),
        (VALUE, LT, b"n", True, False), (VALUE, LE, b"m", True, False),
        (VALUE, GT, b"l", True, False), (VALUE, GE, b"ma", False, False),
        (EXISTS, EQ, True, True, False), (EXISTS, EQ, False, False, True),
        (EXISTS, NE, True, False, True), (EXISTS, NE, False, True, False),
    ],
)  # fmt: skip
def test_comparisons(
    state: State,
    target: CompareTarget,
    op: CompareOp,
    value: int | bytes | bool,
    of_present: bool,
    of_absent: bool,
) -> None:
    state.put(b"k", b"x")
    state.put(b"other")
    state.put(b"k", b"m")
    for key, expected in ((b"k", of_present), (b"absent", of_absent)):
        result = state.txn(compare=(Compare(key, target, op, value),))
        assert result.succeeded is expected


def test_only_one_branch_runs(state: State) -> None:
    both = (Compare(b"a", EXISTS, EQ, True), Compare(b"b", EXISTS, EQ, False))
    result = state.txn(TxnPut(b"t", b"", ""), compare=both, otherwise=(TxnPut(b"a", b"", ""),))
    assert (result.succeeded, result.results) == (False, (PutResult(1, 1),))
    result = state.txn(TxnPut(b"t", b"", ""), compare=both, otherwise=(TxnPut(b"b", b"", ""),))
    assert (result.succeeded, result.results) == (True, (PutResult(1, 2),))
    assert state.get(b"b") is None


def test_a_transaction_that_would_return_too_much_is_refused_whole(tmp_path: Path) -> None:
    state = limited(tmp_path, txn_bytes_max=100)
    for key in (b"a", b"b"):
        state.put(key, b"x" * 50)
    assert state.txn(TxnGet(b"a"), TxnGet(b"b")).succeeded
    for ops in (
        (TxnPut(b"new", b"", ""), TxnGet(b"a"), TxnGet(b"b"), TxnGet(b"a")),
        (TxnPut(b"a", b"x" * 51, ""), TxnGet(b"a"), TxnGet(b"b")),
    ):
        refused = state.txn(*ops)
        assert refused.code is RejectCode.LIMIT_EXCEEDED
        assert "txn_bytes_max" in refused.message
    assert state.txn(TxnDelete(b"a"), TxnGet(b"a"), TxnGet(b"b"), TxnGet(b"b")).succeeded
    assert state.get(b"new") is None
    state.machine.close()


# -- time to live ------------------------------------------------------------------------


def test_a_record_is_there_until_its_expiry_is_applied(state: State) -> None:
    state.put(b"k", ttl=10)
    state.put(b"later", ttl=20)
    assert state.read(lambda r: r.due(NOW + 9, 10)) == []
    assert state.read(lambda r: r.next_due_ms()) == NOW + 10
    due = state.read(lambda r: r.due(NOW + 20, 10))
    assert due == [DueRecord("n", "s", b"k", 1), DueRecord("n", "s", b"later", 2)]
    assert state.read(lambda r: r.due(NOW + 20, 1)) == due[:1]
    assert state.get(b"k") is not None
    assert state.apply(Expire(tuple(due), NOW + 10)) == [ExpireResult(1)]
    assert state.get(b"k") is None
    assert state.get(b"later") is not None
    (change,) = state.read(lambda r: r.history("n", "s", b"k", None, 1, 1000, True)).changes
    assert (change.kind, change.version, change.time_ms) == (ChangeKind.EXPIRE, 1, NOW + 10)


def test_expiry_spares_what_was_written_since(state: State) -> None:
    state.put(b"k", ttl=10)
    due = state.read(lambda r: r.due(NOW + 10, 10))
    state.put(b"k", ttl=5)
    assert state.apply(Expire(tuple(due), NOW + 10)) == [ExpireResult(0)]
    state.put(b"k")
    assert state.read(lambda r: r.next_due_ms()) is None
    assert state.apply(Expire((DueRecord("n", "s", b"k", 3),), NOW + 100)) == [ExpireResult(0)]
    state.delete(b"k")
    names = [DueRecord("n", "s", b"k", 1), DueRecord("no", "ne", b"x", 1)]
    assert state.apply(Expire(tuple(names), NOW + 100)) == [ExpireResult(0)]
    state.put(b"k", ttl=10)
    twice = (DueRecord("n", "s", b"k", 5),) * 2
    assert state.apply(Expire(twice, NOW + 100)) == [ExpireResult(1)]


# -- request ids -------------------------------------------------------------------------


def test_a_retry_gets_the_first_result_and_has_no_second_effect(state: State) -> None:
    first = state.put(b"k", b"1", ttl=100, request_id="r")
    state.put(b"k", b"2")
    state.now += 50
    assert state.put(b"k", b"1", ttl=100, request_id="r") == first
    assert state.value(b"k") == b"2"
    reused = state.put(b"k", b"3", ttl=100, request_id="r")
    assert reused.code is RejectCode.REQUEST_ID_REUSED
    assert state.put(b"k", b"3", request_id="r", namespace="other") == PutResult(1, 3)


def test_a_retry_in_the_same_entry_is_recognised(state: State) -> None:
    put = Put("n", "s", b"k", b"v", "", NOW, request_id="r")
    assert state.apply(put, put._replace(now_ms=NOW + 1)) == [PutResult(1, 1)] * 2


def test_a_retry_after_its_own_success_does_not_conflict_with_itself(state: State) -> None:
    assert state.put(b"k", if_version=0, request_id="r") == PutResult(1, 1)
    assert state.put(b"k", if_version=0, request_id="r") == PutResult(1, 1)
    assert state.delete(b"k", if_version=1, request_id="d") == DeleteResult(True, 1, 2)
    assert state.delete(b"k", if_version=1, request_id="d") == DeleteResult(True, 1, 2)


def test_a_conflict_that_was_answered_stays_one(state: State) -> None:
    # A delayed first try must not be applied after its retry was told "definitely not".
    conflict = state.put(b"k", b"x", if_version=1, request_id="r")
    assert conflict.code is RejectCode.VERSION_CONFLICT
    state.put(b"k", b"1")
    assert state.put(b"k", b"x", if_version=1, request_id="r") == conflict
    assert state.value(b"k") == b"1"


def test_results_of_transactions_are_remembered_whole(state: State) -> None:
    state.put(b"k", b"1")
    ops = (TxnGet(b"k"), TxnPut(b"k", b"2", ""), TxnDelete(b"absent"))
    first = state.txn(*ops, request_id="t")
    state.reopen()
    assert state.txn(*ops, request_id="t") == first
    assert first.results[0].record.value == b"1"


def test_a_refused_command_does_not_use_up_its_request_id(tmp_path: Path) -> None:
    state = limited(tmp_path, value_bytes_max=2)
    assert state.put(b"k", b"long", request_id="r").code is RejectCode.LIMIT_EXCEEDED
    assert state.put(b"k", b"ok", request_id="r") == PutResult(1, 1)
    state.machine.close()


def test_request_ids_are_forgotten_oldest_first_by_count_and_by_bytes(tmp_path: Path) -> None:
    state = limited(tmp_path, request_ids_max=3, request_bytes_max=400)
    for number in range(4):
        state.put(b"k", request_id=f"r{number}")
    assert state.put(b"k", request_id="r1") == PutResult(2, 2)
    assert state.put(b"k", request_id="r0") == PutResult(5, 5)
    # One result that is large by itself pushes all others out, and itself.
    state.put(b"big", b"x" * 500)
    state.txn(TxnGet(b"big"), request_id="large")
    state.put(b"k", request_id="small")
    stats = state.machine.stats()
    assert stats.request_ids == 1
    with state.store.read() as snapshot:
        assert load_counters(snapshot.txn, snapshot.databases).request_bytes <= 400
        assert check(snapshot) == []
    state.machine.close()


# -- history and the watch window --------------------------------------------------------


def test_history_spans_deletions_newest_first(state: State) -> None:
    state.put(b"k", b"1")
    state.delete(b"k")
    state.put(b"k", b"2")
    page = state.read(lambda r: r.history("n", "s", b"k", None, 10, 1000, True))
    assert [(c.kind, c.version, c.value) for c in page.changes] == [
        (ChangeKind.PUT, 1, b"2"),
        (ChangeKind.DELETE, 1, None),
        (ChangeKind.PUT, 1, b"1"),
    ]
    assert (page.more, page.compacted) == (False, False)
    page = state.read(lambda r: r.history("n", "s", b"k", None, 10, 1, True))
    assert (len(page.changes), page.more) == (1, True)
    assert state.read(lambda r: r.history("n", "s", b"x", None, 1, 1, True)).changes == ()


def test_history_is_bounded_by_versions_and_by_bytes_but_keeps_the_newest(tmp_path: Path) -> None:
    state = limited(
        tmp_path, history_versions_max=3, history_bytes_max=10, watch_window_changes_max=1
    )

    def sizes(key: bytes) -> list[int]:
        page = state.read(lambda r: r.history("n", "s", key, None, 10, 1000, True))
        assert page.compacted
        return [change.size for change in page.changes]

    for size in (1, 2, 3, 4):
        state.put(b"a", b"x" * size)
    assert sizes(b"a") == [4, 3, 2]
    state.put(b"a", b"x" * 5)
    assert sizes(b"a") == [5, 4]
    state.put(b"a", b"x" * 50)
    assert sizes(b"a") == [50]
    assert state.machine.stats().changes == 1
    state.machine.close()


def test_the_past_is_told_or_said_to_be_compacted(tmp_path: Path) -> None:
    state = limited(tmp_path, history_versions_max=2, watch_window_changes_max=2)
    state.put(b"k", b"1")
    state.delete(b"k")  # revision 2
    state.put(b"k", b"3")
    assert state.read(lambda r: r.get_at("n", "s", b"k", 2)) is None
    with pytest.raises(Compacted) as caught:
        state.read(lambda r: r.get_at("n", "s", b"k", 1))
    assert caught.value.compacted_revision == 2
    state.put(b"new", b"4")
    state.put(b"new2", b"5")
    record = state.read(lambda r: r.get_at("n", "s", b"k", 4))
    assert (record.value, record.revision, record.version) == (b"3", 3, 1)
    # `new` was never cut, and revision 3 is where the window begins: it was not there.
    assert state.read(lambda r: r.get_at("n", "s", b"new", 3)) is None
    with pytest.raises(Compacted):
        state.read(lambda r: r.get_at("n", "s", b"new", 2))
    with pytest.raises(InvalidArgument, match="future"):
        state.read(lambda r: r.get_at("n", "s", b"k", 6))
    state.machine.close()


def test_a_watch_resumes_within_the_window_and_is_told_when_it_cannot(tmp_path: Path) -> None:
    state = limited(tmp_path, watch_window_changes_max=3)
    state.txn(*(TxnPut(b"%d" % number, b"v", "") for number in range(5)))
    assert state.read(lambda r: r.compacted_revision) == 1
    kept = state.read(lambda r: r.changes(ChangeId(1, 1), 10, 1000, True))
    assert [change.key for change in kept] == [b"2", b"3", b"4"]
    # In the middle of a revision the positions count, not only the revision.
    with pytest.raises(Compacted) as caught:
        state.read(lambda r: r.changes(ChangeId(1, 0), 10, 1000, True))
    assert caught.value.compacted_revision == 1
    assert state.read(lambda r: r.changes(ChangeId(1, SUB_MAX), 10, 1000, True)) == []
    assert state.read(lambda r: r.changes(ChangeId(99, 0), 10, 1000, True)) == []
    (first,) = state.read(lambda r: r.changes(ChangeId(1, 1), 10, 1, True))
    assert first.key == b"2"
    assert state.read(lambda r: r.change(ChangeId(7, 0), True)) is None
    state.machine.close()


def test_a_deleted_key_is_forgotten_when_its_deletion_leaves_the_window(tmp_path: Path) -> None:
    state = limited(tmp_path, watch_window_changes_max=2)
    state.put(b"k" * 1000, b"secret")
    state.delete(b"k" * 1000)
    state.put(b"a")
    assert state.machine.stats().changes == 3
    state.put(b"a")
    assert state.machine.stats().changes == 2
    page = state.read(lambda r: r.history("n", "s", b"k" * 1000, None, 10, 1000, True))
    assert page.changes == ()
    state.machine.close()


def test_a_large_value_pushes_out_many_small_changes_within_the_stated_bound(
    tmp_path: Path,
) -> None:
    state = limited(tmp_path, watch_window_bytes_max=40_000, watch_window_changes_max=300)
    window: list[tuple[int, int]] = []

    def measure() -> None:
        with state.store.read() as snapshot:
            counters = load_counters(snapshot.txn, snapshot.databases)
            window.append((counters.window_changes, counters.window_bytes))

    for number in range(300):
        state.put(b"%d" % number, b"")
    measure()
    assert window[-1][1] < 40_000
    for number in range(70):
        state.put(b"big", b"x" * 10_000)
        measure()
        changes, size = window[-1]
        assert size <= 40_000 + 300 * SWEEP_BYTES_PER_STEP
        steps = SWEEP_STEPS_PER_CHANGE + 10_000 // SWEEP_BYTES_PER_STEP
        assert window[-2][0] + 1 - changes <= steps, number
    # It catches up: what is left is as much as fits.
    assert window[-1] == (3, window[-1][1])
    with state.store.read() as snapshot:
        assert check(snapshot) == []
    state.machine.close()


def test_changes_are_heard_after_the_commit_with_values_in_order(tmp_path: Path) -> None:
    state = State(tmp_path / "live")
    seen: list[bytes | None] = []

    def listen(changes: object) -> None:
        # The commit is over: a snapshot that is opened now sees the change.
        seen.append(state.value(b"b"))

    state.put(b"a", b"1", ttl=5)
    (change,) = state.heard
    assert (change.value, change.expires_ms, change.version) == (b"1", NOW + 5, 1)
    state.machine.on_changes = listen
    state.put(b"b", b"2")
    state.delete(b"absent")
    assert seen == [b"2"]
    state.machine.on_changes = None
    state.put(b"b", b"3")
    assert seen == [b"2"]
    state.machine.close()


# -- entries -----------------------------------------------------------------------------


def test_an_oversized_command_that_slipped_into_the_log_is_a_refusal(tmp_path: Path) -> None:
    state = limited(tmp_path, key_bytes_max=10, value_bytes_max=10, txn_ops_max=1)
    bad: list[Command] = [
        Put("n", "s", b"k" * 11, b"", "", NOW),
        Put("n", "s", b"", b"", "", NOW),
        Put("n", "s", b"k", b"v" * 11, "", NOW),
        Put("n\x00s", "s", b"k", b"", "", NOW),
        Put("n" * 900, "s", b"k", b"", "", NOW),
        Put("n", "s", b"k", b"", "", -1),
        Delete("n", "s" * 900, b"k", NOW),
        Txn("n", "s", (), (TxnGet(b"k"), TxnGet(b"k")), (), NOW),
        Configure(replace(Limits(), request_ids_max=0)),
    ]
    results = state.apply(*bad, Put("n", "s", b"k", b"", "", NOW))
    assert all(
        isinstance(result, Rejected) and result.code is RejectCode.LIMIT_EXCEEDED
        for result in results[:-1]
    )
    assert results[-1] == PutResult(1, 1)
    state.machine.close()


def test_an_unknown_command_stops_and_leaves_nothing(state: State) -> None:
    state.put(b"a")
    before = state.digest()
    good = encode(Put("n", "s", b"b", b"", "", NOW))
    batches = [Entry(2, 1, [good]), Entry(3, 1, [good, b"\x01\x91\x63"])]
    with pytest.raises(UnknownCommand, match="entry 3"):
        state.machine.apply(batches)
    assert state.machine.applied_index == 1
    assert state.digest() == before
    assert state.machine.apply(batches[:1]) == [[PutResult(1, 2)]]


def test_applied_entries_are_skipped_and_gaps_allowed(state: State) -> None:
    commands = [encode(Put("n", "s", b"a", b"", "", NOW))]
    assert state.machine.apply([Entry(5, 2, commands)]) == [[PutResult(1, 1)]]
    before = state.digest()
    assert state.machine.apply([Entry(4, 2, commands), Entry(5, 2, commands * 2)]) == [
        [None],
        [None, None],
    ]
    assert state.machine.apply([]) == []
    assert state.digest() == before
    assert state.machine.apply([Entry(5, 2, commands), Entry(9, 3, [])]) == [[None], []]
    state.reopen()
    assert (state.machine.applied_index, state.machine.applied_term) == (9, 3)
    assert state.machine.revision == 1


def test_a_replaced_state_brings_its_own_limits_and_counters_and_is_announced(
    state: State, tmp_path: Path
) -> None:
    donor = State(tmp_path / "donor", replace(Limits(), value_bytes_max=10))
    donor.put(b"b", b"1")
    donor.machine.apply([Entry(7, 3, [])])
    with (tmp_path / "copy").open("wb") as file:
        assert donor.machine.copy_to(file.fileno()) == (7, 3)
    told: list[tuple[int, int, bytes | None]] = []

    def listen() -> None:
        told.append((state.machine.applied_index, state.machine.revision, state.value(b"b")))

    state.put(b"a", b"x" * 11)
    heard = len(state.heard)
    state.machine.on_replaced = listen
    state.machine.replace(tmp_path / "copy", 7, 3)
    assert told == [(7, 1, b"1")]
    assert len(state.heard) == heard  # these changes nobody announces
    assert (state.machine.applied_index, state.machine.applied_term) == (7, 3)
    assert state.machine.limits == donor.machine.limits
    assert state.put(b"a", b"x" * 11).code is RejectCode.LIMIT_EXCEEDED
    assert state.machine.apply([Entry(7, 3, [b"skipped"])]) == [[None]]
    donor.machine.close()


# -- limits ------------------------------------------------------------------------------


def test_limits_are_state_and_change_through_the_log_alone(tmp_path: Path) -> None:
    state = limited(tmp_path, value_bytes_max=10)
    state.limits = replace(Limits(), value_bytes_max=99)
    state.reopen()
    assert state.machine.limits.value_bytes_max == 10
    assert state.put(b"k", b"x" * 11).code is RejectCode.LIMIT_EXCEEDED
    configure = Configure(state.limits)
    put = Put("n", "s", b"k", b"x" * 11, "", NOW)
    assert state.apply(put, configure, put, configure)[1:] == [
        ConfigureResult(True),
        PutResult(1, 1),
        ConfigureResult(False),
    ]
    state.reopen()
    assert state.machine.limits == state.limits
    state.machine.close()


def test_limits_that_cannot_work_are_refused_at_start(state: State) -> None:
    with pytest.raises(InvalidArgument, match="session_bytes_max is 500"):
        StateMachine(state.store, replace(Limits(), session_bytes_max=500), None)


def test_stats_are_counted(state: State) -> None:
    empty = state.machine.stats()
    assert (empty.keys, empty.value_bytes, empty.changes, empty.request_ids) == (0, 0, 0, 0)
    state.put(b"a", b"123", request_id="r")
    state.put(b"a", b"12345")
    state.put(b"b", b"1")
    state.delete(b"b")
    stats = state.machine.stats()
    assert (stats.applied_index, stats.revision, stats.compacted_revision) == (4, 4, 0)
    assert (stats.keys, stats.value_bytes, stats.changes, stats.request_ids) == (1, 5, 4, 1)
    state.put(b"big", b"x" * 100_000)
    assert state.machine.stats().map_bytes_used >= stats.map_bytes_used + 100_000
