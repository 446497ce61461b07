"""The checker on a store with one deliberate fault: it must notice, and only then."""

from __future__ import annotations

import dataclasses

import pytest

from tests.histories.history import Status
from tests.histories.linearizability import check_history
from tests.histories.search import Verdict
from tests.histories.store import Fault, Workload, simulate

SEEDS = range(100)
WORKLOADS = [
    Workload(),
    Workload(loss_share=0.3, delete_share=0.2),
    Workload(clients=16, keys=1, get_share=0.2),
    Workload(clients=24, keys=2, operations=400, loss_share=0.4, delete_share=0.0),
]
BROKEN = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.mark.parametrize("workload", WORKLOADS, ids=repr)
def test_a_correct_store_always_passes(workload: Workload) -> None:
    for seed in SEEDS:
        report = check_history(simulate(Fault.NONE, seed, workload)[0])
        assert report.verdict is Verdict.OK, f"seed {seed}\n{report}"


def test_the_correct_runs_contain_every_outcome() -> None:
    """Otherwise that they pass says little."""
    report = check_history(simulate(Fault.NONE, 0, Workload(operations=1_000))[0])
    assert all(report.statuses[status] > 10 for status in Status), report.statuses


@pytest.mark.parametrize("workload", WORKLOADS[:3], ids=repr)
@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_every_fault_is_caught_in_one_run_of_five(fault: Fault, workload: Workload) -> None:
    verdicts = [check_history(simulate(fault, seed, workload)[0]).verdict for seed in SEEDS]
    assert Verdict.UNDECIDED not in verdicts
    assert verdicts.count(Verdict.VIOLATION) >= len(SEEDS) // 5


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_a_run_repeats_from_its_seed(fault: Fault) -> None:
    first, second = simulate(fault, 7), simulate(fault, 7)
    assert list(first[0]) == list(second[0])
    assert first[1] == second[1]


def test_without_retries_nothing_is_applied_twice() -> None:
    """The fault is in the retry and not elsewhere, so that catching it means what it says."""
    calm = dataclasses.replace(Workload(), loss_share=0.0)
    for seed in SEEDS:
        report = check_history(simulate(Fault.APPLIES_TWICE, seed, calm)[0])
        assert report.verdict is Verdict.OK
