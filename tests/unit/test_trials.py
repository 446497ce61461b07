"""Trials with scripted times: what is better is adopted, nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from node.trials import (
    CONTROL_EVERY,
    HISTORY_MAX,
    REST_EXECUTIONS,
    SAMPLES,
    TIMES_MAX,
    WATCH_EXECUTIONS,
    State,
    Trial,
    rank_z,
)

Times = Callable[[str], float]


def noisy(chance: random.Random, **medians: float) -> Times:
    """Times with a long tail: one in twenty takes up to thirty times as long."""

    def time(name: str) -> float:
        tail = chance.uniform(1, 30) if chance.random() < 0.05 else 1.0
        return medians[name] * chance.lognormvariate(0, 0.4) * tail

    return time


def run(
    trial: Trial,
    times: Times,
    executions: int,
    others: tuple[str, ...] = ("other",),
    size: int = 100,
) -> list[str]:
    """Which ways they went."""
    ways = []
    for _ in range(executions):
        way = trial.assign("rules", others, size)
        trial.record(trial.epoch, way, times(way))
        ways.append(way)
    return ways


def outcomes(trial: Trial) -> list[tuple[str, str]]:
    return [(verdict.candidate, verdict.outcome) for verdict in trial.history]


def test_nothing_is_tried_for_a_rare_pattern() -> None:
    trial = Trial("index", 1)
    assert set(run(trial, lambda way: 1.0, WATCH_EXECUTIONS - 1)) == {"rules"}
    assert trial.state is State.WATCHING


@pytest.mark.parametrize("seed", range(20))
def test_a_better_candidate_is_adopted_and_kept(seed: int) -> None:
    trial = Trial("index", seed)
    times = noisy(random.Random(seed), rules=1.0, other=0.5)
    run(trial, times, WATCH_EXECUTIONS + 2 * SAMPLES + 2)
    assert outcomes(trial) == [("other", "adopted")]
    ways = run(trial, times, 4_000)
    assert {outcome for _, outcome in outcomes(trial)} <= {"adopted", "kept"}
    share = ways.count("rules") / len(ways)
    assert 0.5 / CONTROL_EVERY < share < 2 / CONTROL_EVERY


@pytest.mark.parametrize("seed", range(20))
def test_a_worse_candidate_is_given_up_early(seed: int) -> None:
    trial = Trial("index", seed)
    times = noisy(random.Random(seed), rules=1.0, other=3.0)
    ways = run(trial, times, 500)
    assert outcomes(trial) == [("other", "worse")]
    assert ways.count("other") < SAMPLES
    assert trial.state is State.RESTING


def test_both_sides_are_tried_alike() -> None:
    trial = Trial("index", 5)
    run(trial, lambda way: 1.0, WATCH_EXECUTIONS - 1)
    ways = run(trial, lambda way: 1.0, 2 * SAMPLES - 1)
    assert abs(ways.count("rules") - ways.count("other")) <= 2
    assert any(ways[n] == ways[n + 1] for n in range(len(ways) - 1))  # not in turns


def test_noise_alone_adopts_nothing() -> None:
    """By chance at most one in a thousand passes the test, and the margin lets through fewer."""
    adopted = 0
    for seed in range(1_000):
        trial = Trial("index", seed)
        times = noisy(random.Random(seed), rules=1.0, other=1.0)
        run(trial, times, WATCH_EXECUTIONS + 2 * SAMPLES + 2)
        adopted += trial.adopted is not None
    assert adopted <= 3


def test_what_is_better_by_less_than_the_margin_is_not_adopted() -> None:
    trial = Trial("index", 1)
    run(trial, lambda way: 1.0 if way == "rules" else 0.95, 200)
    assert outcomes(trial) == [("other", "not_better")]


@pytest.mark.parametrize("seed", range(10))
def test_what_becomes_worse_is_rolled_back(seed: int) -> None:
    trial = Trial("index", seed)
    chance = random.Random(seed)
    run(trial, noisy(chance, rules=1.0, other=0.4), 500)
    assert trial.adopted == "other"
    ways = run(trial, noisy(chance, rules=1.0, other=2.0), 3_000)
    assert ("other", "rolled_back") in outcomes(trial)
    assert trial.adopted is None
    assert set(ways[-200:]) == {"rules"}


def test_a_round_tries_every_candidate_until_one_is_better() -> None:
    times = {"rules": 1.0, "a": 2.0, "b": 1.0, "c": 0.5}
    trial = Trial("index", 3)
    run(trial, times.__getitem__, 500, ("a", "b", "c"))
    assert outcomes(trial)[:3] == [("a", "worse"), ("b", "not_better"), ("c", "adopted")]
    assert trial.adopted == "c"


def test_it_rests_longer_after_each_round_that_found_nothing() -> None:
    trial = Trial("index", 1)
    rounds = []
    for _ in range(REST_EXECUTIONS * 8):
        before = trial.state
        run(trial, lambda way: 1.0, 1)
        if before is State.RESTING and trial.state is State.TRYING:
            rounds.append(trial.executions)
    assert len(rounds) == 3
    assert rounds[1] - rounds[0] > 1.9 * rounds[0] - SAMPLES * 4


@pytest.mark.parametrize("size", [201, 49])
def test_a_collection_that_grew_or_shrank_is_tried_again(size: int) -> None:
    trial = Trial("index", 1)
    run(trial, lambda way: 1.0, 200)
    assert trial.state is State.RESTING
    run(trial, lambda way: 1.0, 10, size=200)
    assert trial.state is State.RESTING
    run(trial, lambda way: 1.0, 1, size=size)
    assert trial.state is State.TRYING


def test_other_ways_than_before_begin_anew() -> None:
    trial = Trial("index", 1)
    run(trial, lambda way: 1.0 if way == "rules" else 0.1, 200)
    assert trial.adopted == "other"
    assert set(run(trial, lambda way: 1.0, 5, ("new",))) == {"rules"}
    assert trial.state is State.WATCHING


def test_times_of_an_earlier_trial_do_not_count() -> None:
    trial = Trial("index", 1)
    run(trial, lambda way: 1.0, WATCH_EXECUTIONS + 10)
    before, epoch = trial.samples, trial.epoch
    trial.record(epoch - 1, "other", 0.001)
    assert trial.samples == before


def test_everything_is_bounded() -> None:
    trial = Trial("index", 1)
    chance = random.Random(1)
    for size in (100, 1_000) * 40:
        run(trial, noisy(chance, rules=1.0, other=0.3), 300, size=size)
        run(trial, noisy(chance, rules=1.0, other=3.0), 300, size=size)
    assert len(trial.history) == HISTORY_MAX
    assert max(trial.samples) <= TIMES_MAX


def test_ranks() -> None:
    assert rank_z([1.0] * 10, [1.0] * 10) == 0
    assert rank_z([], [1.0]) == 0
    # U = 0 of 16 pairs, variance 4 * 4 * 9 / 12 = 12.
    assert rank_z([5, 6, 7, 8], [1, 2, 3, 4]) == pytest.approx(8 / 12**0.5)
    assert rank_z([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(-8 / 12**0.5)
