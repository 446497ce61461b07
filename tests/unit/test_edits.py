"""What edits promise, one behaviour per test; tests/property holds them against an oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.codec import Malformed, pack
from engines.command import (
    Compare,
    CompareOp,
    CompareTarget,
    Edit,
    decode,
    decode_result,
    encode,
    encode_result,
    request_digest,
    validate,
)
from engines.edits import (
    Aspect,
    DeadlineWhen,
    EditAdd,
    EditAddDecimal,
    EditDeadline,
    EditError,
    EditErrorCode,
    EditLook,
    EditOp,
    EditRemove,
    EditResult,
    EditSet,
    EditSplice,
    When,
    build_op,
)
from engines.errors import InvalidArgument, UnknownCommand
from engines.interfaces import ChangeKind, Limits, RejectCode, Rejected
from tests.unit.engine_state import NOW, State, checked_state

OPS: tuple[EditOp, ...] = (
    EditSet(b"k", b"v", "a/b", NOW + 5, False, When.ABSENT, True),
    EditSet(b"k", b"", "", None, True, When.PRESENT),
    EditRemove(b"k", True),
    EditLook(b"k", Aspect.DEADLINE),
    EditAdd(b"k", -(1 << 63)),
    EditAddDecimal(b"k", "-1.5e3"),
    EditSplice(b"k", b"\x00\xff", 7),
    EditSplice(b"k", b"", None),
    EditDeadline(b"k", NOW + 9, DeadlineWhen.EARLIER),
    EditDeadline(b"k", None),
)
ALIVE = Compare(b"k", CompareTarget.EXISTS, CompareOp.EQ, True)
EDIT = Edit("n", "s", (ALIVE,), OPS, NOW, "r1")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path / "live") as state:
        yield state


def edit(state: State, *ops: EditOp, **more: Any) -> tuple[object, ...]:
    """The answers of one edit."""
    fields = {"compare": (), **more}
    (result,) = state.apply(Edit("n", "s", ops=ops, now_ms=state.now, **fields))
    assert isinstance(result, EditResult)
    assert result.succeeded
    return result.answers


def one(state: State, op: EditOp) -> object:
    (answer,) = edit(state, op)
    return answer


# --- Operations ----------------------------------------------------------------------------


def test_a_set_is_conditional_and_answers_what_was_there(state: State) -> None:
    assert one(state, EditSet(b"k", b"1", "", when=When.PRESENT)) is False
    assert one(state, EditSet(b"k", b"1", "", when=When.ABSENT, get=True)) is None
    assert state.value(b"k") == b"1"
    assert one(state, EditSet(b"k", b"2", "", when=When.ABSENT)) is False
    assert one(state, EditSet(b"k", b"2", "", when=When.ABSENT, get=True)) == b"1"
    assert state.value(b"k") == b"1"
    assert one(state, EditSet(b"k", b"2", "", get=True)) == b"1"
    assert state.value(b"k") == b"2"


def test_a_set_keeps_a_deadline_only_when_told(state: State) -> None:
    one(state, EditSet(b"k", b"1", "", NOW + 50))
    one(state, EditSet(b"k", b"2", "", keep_deadline=True))
    assert one(state, EditLook(b"k", Aspect.DEADLINE)) == NOW + 50
    one(state, EditSet(b"k", b"3", ""))
    assert one(state, EditLook(b"k", Aspect.DEADLINE)) == 0


def test_what_has_expired_is_absent_before_it_is_removed(state: State) -> None:
    one(state, EditSet(b"k", b"1", "", NOW + 50))
    state.now = NOW + 50
    assert edit(
        state, *(EditLook(b"k", aspect) for aspect in Aspect), EditRemove(b"k"),
        EditDeadline(b"k", NOW + 99),
    ) == (None, False, 0, None, False, False)  # fmt: skip
    assert state.value(b"k") == b"1", "an edit that changes nothing leaves it to Expire"
    assert one(state, EditSet(b"k", b"2", "", when=When.ABSENT)) is True
    assert state.value(b"k") == b"2"


def test_numbers(state: State) -> None:
    assert one(state, EditAdd(b"k", 5)) == 5
    assert one(state, EditAdd(b"k", -7)) == -2
    assert state.value(b"k") == b"-2"
    assert one(state, EditAdd(b"k", (1 << 63) - 1)) == (1 << 63) - 3
    assert one(state, EditAdd(b"k", 3)) == EditError(EditErrorCode.OUT_OF_RANGE)
    assert state.value(b"k") == b"%d" % ((1 << 63) - 3)


@pytest.mark.parametrize(
    "value", [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1.0", b"x", b"9223372036854775808"]
)
def test_what_is_no_integer_is_not_added_to(state: State, value: bytes) -> None:
    state.put(b"k", value)
    assert one(state, EditAdd(b"k", 1)) == EditError(EditErrorCode.NOT_AN_INTEGER)
    assert state.value(b"k") == value


@pytest.mark.parametrize(
    ("value", "amount", "total"),
    [
        (None, "0.1", b"0.1"),
        (b"10.50", "0.1", b"10.6"),
        (b"5.0e3", "2.0e2", b"5200"),
        (b"1", "-1", b"0"),
        (b"-0.5", "0.5", b"0"),
        (b"3", "1e-5", b"3.00001"),
        (b"x", "1", EditErrorCode.NOT_A_NUMBER),
        (b"nan", "1", EditErrorCode.NOT_A_NUMBER),
        (b"1", "inf", EditErrorCode.NOT_A_NUMBER),
        (b"1" * 65, "1", EditErrorCode.NOT_A_NUMBER),
        (b"1", "1e400", EditErrorCode.OUT_OF_RANGE),
    ],
)
def test_decimals(state: State, value: bytes | None, amount: str, total: object) -> None:
    if value is not None:
        state.put(b"k", value)
    expected = total if isinstance(total, bytes) else EditError(EditErrorCode(str(total)))
    assert one(state, EditAddDecimal(b"k", amount)) == expected
    assert state.value(b"k") == (total if isinstance(total, bytes) else value)


def test_splices(state: State) -> None:
    assert one(state, EditSplice(b"k", b"ab")) == 2
    assert one(state, EditSplice(b"k", b"cd")) == 4
    assert one(state, EditSplice(b"k", b"X", 1)) == 4
    assert state.value(b"k") == b"aXcd"
    assert one(state, EditSplice(b"k", b"Y", 6)) == 7
    assert state.value(b"k") == b"aXcd\x00\x00Y"
    assert one(state, EditSplice(b"other", b"", 3)) == 0
    assert state.value(b"other") is None


def test_a_value_does_not_grow_beyond_its_limit(tmp_path: Path) -> None:
    state = State(tmp_path / "limited", replace(Limits(), value_bytes_max=4))
    state.put(b"k", b"abcd")
    assert one(state, EditSplice(b"k", b"e")) == EditError(EditErrorCode.VALUE_TOO_LARGE)
    assert state.value(b"k") == b"abcd"
    state.machine.close()


@pytest.mark.parametrize(
    ("current", "when", "given", "done"),
    [
        (None, DeadlineWhen.ALWAYS, 20, True),
        (None, DeadlineWhen.NONE, 20, True),
        (10, DeadlineWhen.NONE, 20, False),
        (None, DeadlineWhen.SOME, 20, False),
        (10, DeadlineWhen.SOME, 20, True),
        (None, DeadlineWhen.LATER, 20, False),
        (10, DeadlineWhen.LATER, 20, True),
        (30, DeadlineWhen.LATER, 20, False),
        (None, DeadlineWhen.EARLIER, 20, True),
        (30, DeadlineWhen.EARLIER, 20, True),
        (10, DeadlineWhen.EARLIER, 20, False),
        (10, DeadlineWhen.ALWAYS, None, True),
        (None, DeadlineWhen.ALWAYS, None, False),
    ],
)
def test_deadlines(
    state: State, current: int | None, when: DeadlineWhen, given: int | None, done: bool
) -> None:
    assert one(state, EditDeadline(b"k", NOW + 5)) is False
    state.put(b"k", b"v", ttl=current)
    wanted = None if given is None else NOW + given
    assert one(state, EditDeadline(b"k", wanted, when)) is done
    left = wanted if done else current and NOW + current
    assert one(state, EditLook(b"k", Aspect.DEADLINE)) == (left or 0)


def test_a_deadline_in_the_past_removes(state: State) -> None:
    state.put(b"k", b"v")
    assert one(state, EditDeadline(b"k", NOW)) is True
    assert state.value(b"k") is None


# --- Whole edits ---------------------------------------------------------------------------


def test_operations_see_each_other_and_a_record_changes_once(state: State) -> None:
    answers = edit(
        state,
        EditSet(b"a", b"1", ""),
        EditAdd(b"a", 2),
        EditSplice(b"a", b"0"),
        EditRemove(b"b"),
        EditAdd(b"a", 12),
        EditSet(b"gone", b"x", ""),
        EditRemove(b"gone", get=True),
        EditLook(b"a"),
    )
    assert answers == (True, 3, 2, False, 42, True, b"x", b"42")
    assert [(c.key, c.kind, c.value, c.version) for c in state.heard] == [
        (b"a", ChangeKind.PUT, b"42", 1)
    ]
    assert state.machine.revision == 1


def test_an_operation_that_cannot_be_done_leaves_the_others(state: State) -> None:
    state.put(b"k", b"text")
    answers = edit(state, EditAdd(b"k", 1), EditSet(b"other", b"1", ""))
    assert answers == (EditError(EditErrorCode.NOT_AN_INTEGER), True)
    assert state.value(b"other") == b"1"


def test_a_comparison_that_fails_changes_nothing(state: State) -> None:
    (result,) = state.apply(Edit("n", "s", (ALIVE,), (EditAdd(b"k", 1),), NOW))
    assert result == EditResult(False, 0, ())
    assert state.value(b"k") is None


def test_a_repeated_edit_happens_once(state: State) -> None:
    command = Edit("n", "s", (), (EditAdd(b"k", 1), EditDeadline(b"k", NOW + 70)), NOW, "r")
    (first,) = state.apply(command)
    again = replace(command, now_ms=NOW + 9, ops=(EditAdd(b"k", 1), EditDeadline(b"k", NOW + 79)))
    assert state.apply(again) == [first]
    assert state.value(b"k") == b"1"
    (other,) = state.apply(replace(command, ops=(EditAdd(b"k", 2),)))
    assert isinstance(other, Rejected)
    assert other.code is RejectCode.REQUEST_ID_REUSED


def test_answers_are_bounded_and_refused_whole(tmp_path: Path) -> None:
    state = State(tmp_path / "limited", replace(Limits(), txn_bytes_max=100))
    state.put(b"k", b"v" * 60)
    (result,) = state.apply(
        Edit("n", "s", (), (EditAdd(b"n", 1), EditLook(b"k"), EditLook(b"k")), NOW)
    )
    assert isinstance(result, Rejected)
    assert result.code is RejectCode.LIMIT_EXCEEDED
    assert state.value(b"n") is None
    state.machine.close()


# --- Bytes and bounds ----------------------------------------------------------------------


def test_edits_and_answers_round_trip() -> None:
    assert decode(encode(EDIT)) == EDIT
    result = EditResult(
        True, 7, (True, 0, 1 << 62, b"", None, EditError(EditErrorCode.NOT_A_NUMBER))
    )
    assert decode_result(encode_result(result)) == result
    # 1 and True are equal in Python and differ on the wire.
    assert [type(one) for one in result.answers[:2]] == [bool, int]


def test_a_retry_that_was_stamped_anew_has_the_same_digest() -> None:
    moved = tuple(
        replace(op, expires_ms=op.expires_ms + 3)
        if isinstance(op, EditSet | EditDeadline) and op.expires_ms
        else op
        for op in OPS
    )
    assert request_digest(replace(EDIT, now_ms=NOW + 3, ops=moved)) == request_digest(EDIT)
    assert request_digest(replace(EDIT, now_ms=NOW + 3)) != request_digest(EDIT)


@pytest.mark.parametrize(
    "parts", [(), (True, b"k"), "x", (3, b"k"), (3, b"k", 0, 0), (4, b"k", "1")]
)
def test_a_malformed_operation_is_refused(parts: object) -> None:
    with pytest.raises(Malformed):
        build_op(parts)


@pytest.mark.parametrize(
    "parts", [(99, b"k"), (3, b"k", 99), (1, b"k", b"", "", None, False, 7, True)]
)
def test_an_operation_of_a_newer_build_is_refused(parts: object) -> None:
    with pytest.raises(UnknownCommand):
        build_op(parts)
    with pytest.raises(UnknownCommand):
        decode(b"\x01" + pack((6, "n", "s", (), (parts,), NOW, None)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "field"),
    [
        (EditLook(b""), "ops[0].key"),
        (EditSet(b"k", b"v" * 9, ""), "ops[0].value"),
        (EditSet(b"k", b"", "é"), "ops[0].content_type"),
        (EditSet(b"k", b"", "", NOW), "ops[0].ttl_seconds"),
        (EditSet(b"k", b"", "", NOW + 1, True), "ops[0].ttl_seconds"),
        (EditSplice(b"k", b"", 9), "ops[0].offset"),
        (EditSplice(b"k", b"", -1), "ops[0].offset"),
        (EditAdd(b"k", 1 << 63), "ops[0].amount"),
        (EditAddDecimal(b"k", "١"), "ops[0].amount"),
        (EditDeadline(b"k", NOW + (1 << 50)), "ops[0].ttl_seconds"),
        (EditDeadline(b"k", -1), "ops[0].ttl_seconds"),
    ],
)
def test_what_a_proposer_refuses(op: EditOp, field: str) -> None:
    limits = replace(Limits(), value_bytes_max=8)
    with pytest.raises(InvalidArgument) as caught:
        validate(Edit("n", "s", (), (op,), NOW), limits)
    assert caught.value.field == field


def test_an_edit_is_bounded() -> None:
    limits = replace(Limits(), txn_ops_max=3, txn_bytes_max=30)
    validate(Edit("n", "s", (), (EditLook(b"k"),) * 3, NOW), limits)
    for ops, field in (
        ((EditLook(b"k"),) * 4, "ops"),
        ((EditSet(b"k", b"v" * 16, ""),) * 2, "ops"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            validate(Edit("n", "s", (), ops, NOW), limits)
        assert caught.value.field == field
