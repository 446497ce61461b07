"""Recording, keeping and refusing histories."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

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
from tests.histories.search import Verdict


def test_operations_carry_what_was_asked_told_and_when() -> None:
    history = History()
    write = history.begin("a", Kind.PUT, "k", 1.0, value="x", expected=0)
    read = history.begin("b", Kind.GET, "k", 2.0)
    history.end(read, ok(1, "x"), 3.0)
    history.end(write, ok(1), 4.0)
    assert list(history) == [
        Operation("a", Kind.PUT, "k", "x", 0, 1.0, 4.0, ok(1)),
        Operation("b", Kind.GET, "k", None, None, 2.0, 3.0, ok(1, "x")),
    ]


def test_what_has_not_returned_is_unknown_and_may_end_later() -> None:
    history = History()
    pending = history.begin("a", Kind.DELETE, "k", 1.0)
    given_up = history.begin("b", Kind.DELETE, "k", 1.0)
    history.end(given_up, UNKNOWN, 2.0)
    assert [(each.outcome, each.returned) for each in history] == [(UNKNOWN, math.inf)] * 2
    history.end(pending, ABSENT, 5.0)
    assert next(iter(history)).outcome == ABSENT


def test_while_the_clock_stands_the_order_of_the_calls_counts() -> None:
    """Without it a stale read at the same instant would pass as concurrent."""
    history = History()
    history.end(history.begin("a", Kind.PUT, "k", 1.0, value="x"), ok(1), 1.0)
    history.end(history.begin("a", Kind.GET, "k", 1.0), ABSENT, 1.0)
    assert check_history(history).verdict is Verdict.VIOLATION


def test_saving_and_loading_gives_the_same_operations(tmp_path: Path) -> None:
    history = History()
    for kind, value, expected, outcome in [
        (Kind.PUT, "ü\n", None, ok(1)),
        (Kind.PUT, "", 3, conflict(1)),
        (Kind.PUT, "y", None, UNKNOWN),
        (Kind.PUT, "z", None, FAILED),
        (Kind.GET, None, None, ok(1, "")),
        (Kind.GET, None, None, ABSENT),
        (Kind.DELETE, None, 1, ok(None)),
    ]:
        number = history.begin("c", kind, "k", 0.1, value=value, expected=expected)
        history.end(number, outcome, 0.1)
    history.begin("c", Kind.GET, "k", 0.2)
    path = tmp_path / "history.jsonl"
    history.save(path)
    loaded = History.load(path)
    assert list(loaded) == list(history)
    assert len(path.read_text().splitlines()) == len(history)
    with pytest.raises(ValueError, match=r"^now: "):
        loaded.begin("c", Kind.GET, "k", 0.1)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    good = Operation("c", Kind.GET, "k", None, None, 0.0, 1.0, ABSENT).to_json()
    bad = json.dumps(json.loads(good) | {"kind": "peek"})
    path.write_text(f"{good}\n{bad}\n")
    with pytest.raises(ValueError, match=r"^line 2: .*peek"):
        History.load(path)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("called", {"called": 3.0}),
        ("called", {"called": math.nan}),
        ("returned", {"returned": math.inf}),
        ("returned", {"outcome": UNKNOWN}),
        ("value", {"kind": Kind.GET, "outcome": ABSENT}),
        ("expected", {"expected": -1}),
        ("outcome.version", {"outcome": ok(0)}),
        ("outcome.value", {"outcome": ok(1, "x")}),
        ("outcome.value", {"kind": Kind.GET, "value": None, "outcome": ok(1)}),
        ("outcome.status", {"outcome": conflict(2)}),
    ],
)
def test_what_makes_no_sense_is_refused(field: str, change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "client": "c",
        "kind": Kind.PUT,
        "key": "k",
        "value": "x",
        "expected": None,
        "called": 1.0,
        "returned": 2.0,
        "outcome": ok(1),
    }
    Operation(**fields)
    with pytest.raises(ValueError, match=f"^{field}: "):
        Operation(**(fields | change))


def test_a_recorder_refuses_wrong_use() -> None:
    history = History(operations_max=1)
    with pytest.raises(ValueError, match=r"^value: "):
        history.begin("c", Kind.PUT, "k", 0.0)
    number = history.begin("c", Kind.GET, "k", 1.0)
    with pytest.raises(ValueError, match=r"^operations_max: "):
        history.begin("c", Kind.GET, "k", 1.0)
    with pytest.raises(ValueError, match=r"^now: "):
        history.end(number, ABSENT, 0.5)
    history.end(number, ABSENT, 1.0)
    with pytest.raises(ValueError, match=r"^number: "):
        history.end(number, ABSENT, 1.0)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (ABSENT, "absent"),
        (ok(2, "x"), "version 2 'x'"),
        (ok(), "version ?"),
        (conflict(3), "conflict, actual version 3"),
        (UNKNOWN, "unknown"),
    ],
)
def test_outcomes_read_well(outcome: Outcome, text: str) -> None:
    assert str(outcome) == text
