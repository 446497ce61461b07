"""The checker on histories made by hand, each good or bad for one reason that its name says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.histories import linearizability
from tests.histories.brute_force import linearizable
from tests.histories.history import (
    ABSENT,
    FAILED,
    UNKNOWN,
    History,
    Kind,
    Operation,
    Outcome,
    conflict,
    ok,
)
from tests.histories.linearizability import check_history
from tests.histories.model import VersionedRegister
from tests.histories.search import Verdict
from tests.histories.store import Fault, Workload, simulate


def put(
    called: float, returned: float, value: str, outcome: Outcome, expected: int | None = None
) -> Operation:
    return _operation(Kind.PUT, called, returned, outcome, value, expected)


def delete(
    called: float, returned: float, outcome: Outcome, expected: int | None = None
) -> Operation:
    return _operation(Kind.DELETE, called, returned, outcome, None, expected)


def get(called: float, returned: float, outcome: Outcome) -> Operation:
    return _operation(Kind.GET, called, returned, outcome, None, None)


def _operation(
    kind: Kind,
    called: float,
    returned: float,
    outcome: Outcome,
    value: str | None,
    expected: int | None,
) -> Operation:
    end = math.inf if outcome == UNKNOWN else returned
    return Operation("c", kind, "k", value, expected, called, end, outcome)


NEVER = math.inf  # when an operation returns whose outcome is unknown

GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "a key that was never written is absent": [get(0, 1, ABSENT)],
    "write, then read": [put(0, 1, "a", ok(1)), get(2, 3, ok(1, "a"))],
    "a read during a write sees the old state": [put(0, 9, "a", ok(1)), get(1, 2, ABSENT)],
    "a read during a write sees the new state": [put(0, 9, "a", ok(1)), get(1, 2, ok(1, "a"))],
    "concurrent writes take effect against the order of their calls": [
        put(0, 9, "a", ok(2)),
        put(1, 8, "b", ok(1)),
        get(10, 11, ok(2, "a")),
    ],
    "concurrent reads see the same write earlier and later": [
        put(0, 1, "a", ok(1)),
        put(2, 9, "b", ok(2)),
        get(3, 8, ok(2, "b")),
        get(4, 7, ok(1, "a")),
    ],
    "operations that touch are concurrent": [put(0, 1, "a", ok(1)), get(1, 2, ABSENT)],
    "a conditional write creates": [put(0, 1, "a", ok(1), expected=0), get(2, 3, ok(1, "a"))],
    "of two conditional writes one is refused": [
        put(0, 1, "a", ok(1)),
        put(2, 9, "b", ok(2), expected=1),
        put(2, 9, "c", conflict(2), expected=1),
    ],
    "a refused write names an absent record": [put(0, 1, "a", conflict(0), expected=4)],
    "a delete ends the record and the next put starts again at 1": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", ok(2)),
        delete(4, 5, ok(2)),
        get(6, 7, ABSENT),
        put(8, 9, "c", ok(1)),
        get(10, 11, ok(1, "c")),
    ],
    "a delete of nothing": [delete(0, 1, ABSENT), delete(2, 3, ABSENT, expected=0)],
    "a conditional delete": [put(0, 1, "a", ok(1)), delete(2, 3, ok(1), expected=1)],
    "a refused delete": [put(0, 1, "a", ok(1)), delete(2, 3, conflict(1), expected=0)],
    "an unknown write that is never seen": [
        put(0, 1, "a", ok(1)),
        put(2, NEVER, "b", UNKNOWN),
        get(3, 4, ok(1, "a")),
        get(5, 6, ok(1, "a")),
    ],
    "an unknown write that is seen late": [
        put(0, 1, "a", ok(1)),
        put(2, NEVER, "b", UNKNOWN),
        get(3, 4, ok(1, "a")),
        put(5, 6, "c", ok(2)),
        get(7, 8, ok(3, "b")),
    ],
    "an unknown write shows in the next version only": [
        put(0, NEVER, "a", UNKNOWN),
        put(1, 2, "b", ok(2)),
    ],
    "of several unknown writes just enough happened": [
        *(put(0, NEVER, f"u{n}", UNKNOWN) for n in range(5)),
        put(1, 2, "b", ok(4)),
        get(3, 4, ok(4, "b")),
        put(5, 6, "c", ok(6)),
    ],
    "an unknown conditional write and an unknown plain one, of which both are needed": [
        put(0, NEVER, "a", UNKNOWN),
        put(0, NEVER, "b", UNKNOWN, expected=0),
        put(1, 2, "c", ok(3)),
    ],
    "an unknown delete happened": [
        put(0, 1, "a", ok(1)),
        delete(2, NEVER, UNKNOWN),
        put(3, 4, "b", ok(1)),
    ],
    "an unknown delete happened between two reads": [
        put(0, 1, "a", ok(1)),
        delete(2, NEVER, UNKNOWN),
        get(3, 4, ok(1, "a")),
        get(5, 6, ABSENT),
    ],
    "a definite failure that is not seen": [put(0, 1, "a", FAILED), get(2, 3, ABSENT)],
    "an unknown read may have seen anything": [get(0, NEVER, UNKNOWN), put(1, 2, "a", ok(1))],
    "answers that tell no version": [
        put(0, 1, "a", ok()),
        get(2, 3, ok(None, "a")),
        put(4, 5, "b", conflict(), expected=7),
        delete(6, 7, ok()),
        get(8, 9, ABSENT),
    ],
    "a value that was written twice": [
        put(0, 1, "a", ok(1)),
        put(2, NEVER, "a", UNKNOWN),
        get(3, 4, ok(1, "a")),
        get(5, 6, ok(2, "a")),
    ],
}

BAD: dict[str, list[Operation]] = {
    "a stale read": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", ok(2)),
        get(4, 5, ok(1, "a")),
    ],
    "a stale read of nothing": [put(0, 1, "a", ok(1)), get(2, 3, ABSENT)],
    "a lost update": [
        put(0, 1, "a", ok(1)),
        put(2, 8, "b", ok(2), expected=1),
        put(3, 9, "c", ok(3), expected=1),
    ],
    "two conditional writes succeed on one version": [
        put(0, 1, "a", ok(1)),
        put(2, 8, "b", ok(2), expected=1),
        put(3, 9, "c", ok(2), expected=1),
    ],
    "two conditional writes create one record": [
        put(0, 9, "a", ok(1), expected=0),
        put(0, 9, "b", ok(1), expected=0),
    ],
    "a value that nobody wrote": [put(0, 1, "a", ok(1)), get(2, 3, ok(1, "z"))],
    "a value before it was written": [get(0, 1, ok(1, "a")), put(2, 3, "a", ok(1))],
    "an unknown write before it was called": [
        get(0, 1, ok(1, "a")),
        put(2, NEVER, "a", UNKNOWN),
    ],
    "reads that go back": [
        put(0, 1, "a", ok(1)),
        put(2, 20, "b", ok(2)),
        get(3, 4, ok(2, "b")),
        get(5, 6, ok(1, "a")),
    ],
    "concurrent writes that two readers order differently": [
        put(0, 1, "z", ok()),
        put(2, 20, "a", ok()),
        put(2, 20, "b", ok()),
        get(3, 4, ok(None, "a")),
        get(5, 6, ok(None, "b")),
        get(7, 8, ok(None, "a")),
    ],
    "an unknown write that is seen and then unseen": [
        put(0, 1, "a", ok(1)),
        put(2, NEVER, "b", UNKNOWN),
        get(3, 4, ok(2, "b")),
        get(5, 6, ok(1, "a")),
    ],
    "an unknown write that happened twice": [
        put(0, NEVER, "a", UNKNOWN),
        put(1, 2, "b", ok(2)),
        put(3, 4, "c", ok(4)),
    ],
    "an unknown write that is seen at two versions": [
        put(0, NEVER, "a", UNKNOWN),
        get(1, 2, ok(1, "a")),
        put(3, 4, "b", ok(2)),
        get(5, 6, ok(3, "a")),
    ],
    "an unknown conditional write on a version that never was": [
        put(0, 1, "a", ok(1)),
        put(2, NEVER, "b", UNKNOWN, expected=5),
        get(3, 4, ok(2, "b")),
    ],
    "an unknown delete that happened twice": [
        put(0, 1, "a", ok(1)),
        delete(2, NEVER, UNKNOWN),
        get(3, 4, ABSENT),
        put(5, 6, "b", ok(1)),
        get(7, 8, ABSENT),
    ],
    "a definite failure whose value is seen": [
        put(0, 1, "a", FAILED),
        get(2, 3, ok(1, "a")),
    ],
    "a definite failure that took a version": [put(0, 1, "a", FAILED), put(2, 3, "b", ok(2))],
    "a refused write whose value is seen": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", conflict(1), expected=0),
        get(4, 5, ok(1, "b")),
    ],
    "a version that was skipped": [put(0, 1, "a", ok(1)), put(2, 3, "b", ok(3))],
    "a version that was given twice": [put(0, 1, "a", ok(1)), put(2, 3, "b", ok(1))],
    "a read with the version of another write": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", ok(2)),
        get(4, 5, ok(1, "b")),
    ],
    "a refusal although the version was right": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", conflict(), expected=1),
    ],
    "a refusal that names a version that was not": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", conflict(7), expected=4),
    ],
    "a record that outlives its delete": [
        put(0, 1, "a", ok(1)),
        delete(2, 3, ok(1)),
        get(4, 5, ok(1, "a")),
    ],
    "a version that goes on after a delete": [
        put(0, 1, "a", ok(1)),
        delete(2, 3, ok(1)),
        put(4, 5, "b", ok(2)),
    ],
    "a delete that finds nothing where something is": [
        put(0, 1, "a", ok(1)),
        delete(2, 3, ABSENT),
    ],
    "two deletes of one record": [
        put(0, 1, "a", ok(1)),
        delete(2, 9, ok(1)),
        delete(2, 9, ok(1)),
    ],
    "an acknowledged write that is gone": [
        put(0, 1, "a", ok(1)),
        put(2, 3, "b", ok(2)),
        get(4, 5, ok(2, "b")),
        get(6, 7, ok(1, "a")),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    report = check_history(GOOD[name])
    assert report.verdict is Verdict.OK, str(report)


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str) -> None:
    assert check_history(BAD[name]).verdict is Verdict.VIOLATION


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_the_definition_agrees_with_the_tables(name: str) -> None:
    operations = GOOD.get(name, BAD.get(name, []))
    assert linearizable(VersionedRegister(), operations) == (name in GOOD)


def test_the_order_in_which_operations_are_listed_does_not_matter() -> None:
    for table, verdict in ((GOOD, Verdict.OK), (BAD, Verdict.VIOLATION)):
        for name, operations in table.items():
            assert check_history(operations[::-1]).verdict is verdict, name


def test_keys_are_independent_and_the_report_names_the_bad_one() -> None:
    good = Operation("c", Kind.PUT, "other", "x", None, 0, 1, ok(1))
    report = check_history([good, *BAD["a stale read"]])
    assert [(result.key, result.search.verdict) for result in report.results] == [
        ("k", Verdict.VIOLATION),
        ("other", Verdict.OK),
    ]
    assert report.verdict is Verdict.VIOLATION


def test_the_report_shows_the_operation_without_a_place_and_what_the_record_was() -> None:
    stale = BAD["a stale read"]
    later = [put(10 + n, 10.5 + n, f"later{n}", ok(3 + n)) for n in range(50)]
    (result,) = check_history([*stale, *later]).results
    obstacle = result.search.obstacle
    assert obstacle is not None
    assert obstacle.blocked == stale[2]
    assert obstacle.placed == (stale[0], stale[1])
    assert obstacle.concurrent == ()
    assert obstacle.states == ("version 2 (a value nobody read)",)
    rendered = str(check_history([*stale, *later]))
    assert "get k → version 1 'a'" in rendered
    assert "later0" not in rendered


def test_the_report_blames_the_read_and_not_the_write_that_it_proves() -> None:
    (result,) = check_history(BAD["an unknown write that is seen and then unseen"]).results
    assert result.search.obstacle is not None
    assert result.search.obstacle.blocked == get(5, 6, ok(1, "a"))


def test_a_limit_on_steps_is_an_answer_of_its_own() -> None:
    operations = GOOD["of several unknown writes just enough happened"]
    report = check_history(operations, steps_max=3)
    assert report.verdict is Verdict.UNDECIDED
    assert "undecided after" in str(report)
    bad = Operation("c", Kind.GET, "j", None, None, 0, 1, ok(1, "z"))
    assert check_history([*operations, bad], steps_max=3).verdict is Verdict.VIOLATION


def test_the_effort_grows_with_the_history_and_not_with_its_orders() -> None:
    history, _ = simulate(Fault.NONE, 1, Workload(clients=64, keys=10, operations=5_000))
    report = check_history(history)
    assert report.verdict is Verdict.OK
    assert report.steps < 20 * len(history)


def test_many_unknown_writes_do_not_multiply() -> None:
    operations = [put(0, NEVER, f"u{n}", UNKNOWN) for n in range(100)]
    operations += [put(0, NEVER, f"c{n}", UNKNOWN, expected=n) for n in range(50)]
    operations += [delete(0, NEVER, UNKNOWN)]
    good = [*operations, put(1, 2, "a", ok(120)), get(3, 4, ok(120, "a"))]
    assert check_history(good, steps_max=5_000).verdict is Verdict.OK
    bad = [*good, get(5, 6, ok(119, "a"))]
    assert check_history(bad, steps_max=500_000).verdict is Verdict.VIOLATION


@pytest.mark.parametrize(
    ("operations", "status"),
    [(GOOD["write, then read"], 0), (BAD["a stale read"], 1)],
)
def test_a_saved_history_is_checked_from_the_command_line(
    operations: list[Operation],
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "history.jsonl"
    History.of(operations).save(path)
    assert linearizability.main([str(path)]) == status
    assert ("not linearizable" in capsys.readouterr().out) == bool(status)
