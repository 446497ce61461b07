"""The search agrees with the definition on small histories, and the model with the engine."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.interfaces import DeleteResult, PutResult, Rejected
from tests.histories.brute_force import linearizable
from tests.histories.history import (
    ABSENT,
    FAILED,
    UNKNOWN,
    Kind,
    Operation,
    Outcome,
    Status,
    conflict,
    ok,
)
from tests.histories.linearizability import check_history
from tests.histories.model import VersionedRegister
from tests.histories.search import Verdict
from tests.unit.engine_state import State

OPERATIONS_MAX = 6  # of which the definition tries every order


def small_history(chance: random.Random) -> list[Operation]:
    """A history that was made by some order, of which then a little may be changed."""
    count = chance.randint(1, OPERATIONS_MAX)
    distinct = chance.random() < 0.6  # otherwise values repeat
    known = chance.random() < 0.7  # otherwise answers may tell no version
    version, value = 0, None
    operations: list[Operation] = []
    for number in range(count):
        kind = chance.choice((Kind.PUT, Kind.PUT, Kind.GET, Kind.GET, Kind.DELETE))
        written = None
        if kind is Kind.PUT:
            written = f"v{number}" if distinct else chance.choice("ab")
        expected = None
        if kind is not Kind.GET and chance.random() < 0.4:
            expected = version if chance.random() < 0.7 else chance.randrange(4)
        called = number - chance.choice((0.0, 0.5, 1.0, 2.0, 4.0))
        returned = number + chance.choice((0.25, 0.5, 1.0, 2.0, 4.0))
        outcome: Outcome
        fate = chance.random()
        applied = fate > 0.12
        if kind is Kind.GET:
            outcome = ok(version, value)
        elif expected is not None and expected != version:
            outcome, applied = conflict(version), False
        else:
            outcome = ok(version + 1 if kind is Kind.PUT else version)
        if kind is not Kind.GET and applied:
            version, value = (version + 1, written) if kind is Kind.PUT else (0, None)
        if fate < 0.06 and kind is not Kind.GET:
            outcome = FAILED
        elif fate < 0.3:
            outcome, returned = UNKNOWN, math.inf
        elif not known and outcome.version and chance.random() < 0.5:
            outcome = outcome._replace(version=None)
        operations.append(Operation("c", kind, "k", written, expected, called, returned, outcome))
    if chance.random() < 0.6:
        index = chance.randrange(count)
        operations[index] = changed(operations[index], chance)
    return operations


def changed(operation: Operation, chance: random.Random) -> Operation:
    """Another answer, or another time."""
    called, returned, outcome = operation.called, operation.returned, operation.outcome
    if outcome.status in (Status.UNKNOWN, Status.FAILED):
        return operation
    if chance.random() < 0.3:
        shift = chance.choice((-3.0, -1.5, 1.5, 3.0))
        called, returned = called + shift, returned + shift
    elif operation.kind is Kind.GET:
        outcome = chance.choice((ABSENT, ok(1, "a"), ok(2, "b"), ok(None, "v0"), ok(2, "v1")))
    elif chance.random() < 0.2:
        outcome = FAILED
    else:
        least = 1 if operation.kind is Kind.PUT and outcome.status is Status.OK else 0
        outcome = outcome._replace(version=least + chance.randrange(3))
    return Operation(
        operation.client,
        operation.kind,
        operation.key,
        operation.value,
        operation.expected,
        called,
        returned,
        outcome,
    )


def agree(operations: list[Operation]) -> Verdict:
    report = check_history(operations)
    expected = linearizable(VersionedRegister(), operations)
    shown = "\n".join(map(str, operations))
    assert report.verdict is (Verdict.OK if expected else Verdict.VIOLATION), shown
    return report.verdict


@given(st.randoms(use_true_random=False))
@example(random.Random(1))
def test_the_search_agrees_with_the_definition(chance: random.Random) -> None:
    agree(small_history(chance))


def test_it_agrees_on_many_histories_of_both_sorts() -> None:
    """A fixed set, so large that each refinement of the search decides some of them."""
    verdicts = [agree(small_history(random.Random(seed))) for seed in range(4_000)]
    assert verdicts.count(Verdict.OK) > 600
    assert verdicts.count(Verdict.VIOLATION) > 600


@pytest.mark.parametrize("seed", range(5))
def test_the_model_accepts_exactly_what_the_engine_answers(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    state, model = State(tmp_path), VersionedRegister()
    record = model.initial
    for number in range(150):
        operation = _on_engine(state, number, chance)
        others = [each for each in _other_answers(operation) if model.step(record, each)]
        assert others == [], f"from {model.describe(record)}, beside {operation}"
        after = model.step(record, operation)
        assert after is not None, f"from {model.describe(record)}: {operation}"
        record = after
    state.machine.close()


def _on_engine(state: State, number: int, chance: random.Random) -> Operation:
    """Run one random command on the real key-value engine."""
    kind = chance.choice((Kind.PUT, Kind.PUT, Kind.DELETE, Kind.GET))
    expected = None if kind is Kind.GET else chance.choice((None, 0, 1, 2, 3))
    value = f"v{number}" if kind is Kind.PUT else None
    if kind is Kind.GET:
        found = state.get(b"k")
        outcome = ABSENT if found is None else ok(found.version, (found.value or b"").decode())
    elif value is not None:
        outcome = _told(state.put(b"k", value.encode(), if_version=expected))
    else:
        outcome = _told(state.delete(b"k", if_version=expected))
    return Operation("c", kind, "k", value, expected, number, number + 0.5, outcome)


def _told(result: PutResult | DeleteResult | Rejected) -> Outcome:
    match result:
        case PutResult(version):
            return ok(version)
        case DeleteResult(deleted, version):
            assert deleted == (version is not None)
            return ok(version or 0)
        case Rejected():
            return conflict(result.version)


def _other_answers(operation: Operation) -> list[Operation]:
    """The same operation with each other answer of small versions."""
    kind, told = operation.kind, operation.outcome
    answers = [ok(version) for version in range(1 if kind is Kind.PUT else 0, 8)]
    if kind is Kind.GET:
        known = told.value or "z"
        answers = [
            ABSENT,
            *(ok(version, known) for version in range(1, 8)),
            ok(told.version or 1, "y"),
        ]
    elif operation.expected is not None:
        answers += [conflict(version) for version in range(8)]
    return [
        Operation("c", kind, "k", operation.value, operation.expected, 0, 1, answer)
        for answer in answers
        if answer != told
    ]
