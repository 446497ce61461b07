"""What a run leaves behind: writes that are missing and values that should not be there."""

from __future__ import annotations

import math

import pytest

from tests.histories.final_state import lost_writes, phantoms
from tests.histories.history import (
    ABSENT,
    FAILED,
    UNKNOWN,
    Kind,
    Operation,
    Outcome,
    conflict,
    ok,
)
from tests.histories.store import Fault, simulate


def put(called: float, value: str, outcome: Outcome, returned: float | None = None) -> Operation:
    end = math.inf if outcome == UNKNOWN else returned or called + 1
    expected = 9 if outcome.status == "conflict" else None
    return Operation("c", Kind.PUT, "k", value, expected, called, end, outcome)


def delete(called: float, outcome: Outcome) -> Operation:
    end = math.inf if outcome == UNKNOWN else called + 1
    return Operation("c", Kind.DELETE, "k", None, None, called, end, outcome)


A, B = put(0, "a", ok(1)), put(2, "b", ok(2))
GONE = (0, None)


@pytest.mark.parametrize(
    ("operations", "found", "lost"),
    [
        ([A], (1, "a"), []),
        ([A], GONE, [A]),
        ([A], (1, "z"), [A]),
        ([A], (2, "a"), [A]),
        ([A, B], (2, "b"), []),
        ([A, B], (1, "a"), [B]),
        ([A, B], GONE, [A, B]),
        ([A, put(2, "b", UNKNOWN)], (2, "b"), []),
        ([A, put(2, "b", UNKNOWN)], (1, "a"), []),
        ([A, put(2, "b", UNKNOWN)], GONE, [A]),
        ([A, delete(2, UNKNOWN)], GONE, []),
        ([A, delete(2, UNKNOWN)], (1, "z"), []),
        ([A, put(2, "b", FAILED)], (2, "b"), [A]),
        ([A, put(2, "b", conflict(1))], (2, "b"), [A]),
        ([A, delete(2, ok(1))], GONE, []),
        ([A, delete(2, ok(1))], (1, "a"), [delete(2, ok(1))]),
        ([delete(0, ABSENT), put(2, "a", ok(1))], (1, "a"), []),
        ([put(0, "a", ok(1)), delete(2, ABSENT)], GONE, [A]),
        # Concurrent, and the versions say which came last.
        ([put(0, "a", ok(1), 9), put(1, "b", ok(2), 8)], (2, "b"), []),
        ([put(0, "a", ok(1), 9), put(1, "b", ok(2), 8)], (1, "a"), [put(1, "b", ok(2), 8)]),
        # Without versions only the last write is known to count.
        ([put(0, "a", ok()), put(2, "b", ok())], (1, "a"), [put(2, "b", ok())]),
        ([put(0, "a", ok(), 9), put(1, "b", ok(), 8)], (1, "a"), []),
    ],
)
def test_lost_writes(
    operations: list[Operation], found: tuple[int, str | None], lost: list[Operation]
) -> None:
    assert [each.operation for each in lost_writes(operations, {"k": found})] == lost


@pytest.mark.parametrize(
    ("operations", "found", "refused"),
    [
        ([A], (1, "a"), None),
        ([A], GONE, None),
        ([A], (1, "z"), ()),
        ([put(0, "a", UNKNOWN)], (1, "a"), None),
        ([put(0, "a", FAILED)], (1, "a"), (put(0, "a", FAILED),)),
        ([put(0, "a", conflict(0))], (1, "a"), (put(0, "a", conflict(0)),)),
        ([], (1, "a"), ()),
    ],
)
def test_phantoms(
    operations: list[Operation],
    found: tuple[int, str | None],
    refused: tuple[Operation, ...] | None,
) -> None:
    expected = [] if refused is None else [refused]
    assert [each.refused for each in phantoms(operations, {"k": found})] == expected


def test_a_key_that_was_not_read_at_the_end_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^final: k were written"):
        lost_writes([A], {})


def test_findings_name_the_operation_and_what_was_found() -> None:
    (lost,) = lost_writes([A], {"k": GONE})
    assert str(lost) == f"lost: {A}; at the end: absent"
    (phantom,) = phantoms([put(0, "a", FAILED)], {"k": (1, "a")})
    assert "k is version 1 'a', written by [0.000000" in str(phantom)


def test_a_correct_store_never_loses_and_a_forgetful_one_is_caught() -> None:
    for seed in range(50):
        history, final = simulate(Fault.NONE, seed)
        assert lost_writes(history, final) == []
        assert phantoms(history, final) == []
    assert any(lost_writes(*simulate(Fault.FORGETS, seed)) for seed in range(50))
