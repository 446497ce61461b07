"""Repetitions of the cases, interleaved between the doors, and the medians of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.benchmarks import daemons, generator
from scripts.benchmarks.cases import Case
from scripts.benchmarks.daemons import Usage
from scripts.benchmarks.generator import BenchmarkError, Outcome
from scripts.benchmarks.systems import DOORS, System, usage

# What a load leaves behind (files to rewrite, snapshots) must not be charged to the next one.
QUIET_SHARE = 0.2  # of a core, all daemons of all systems together
QUIET_SECONDS = 0.4
SETTLE_SECONDS_MAX = 8.0
FILL_SECONDS_MIN = 300.0
FILL_KEYS_PER_SECOND_MIN = 2_000  # a system that stores fewer is left out


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one case at one door."""

    outcome: Outcome
    cpu_s_per_1k: float  # of all daemons of the system, per 1,000 operations


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of the repetitions, each figure by itself."""

    case: Case
    door: str
    repetitions: int
    ops_per_s: float
    ops_per_s_min: float
    ops_per_s_max: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_s_per_1k: float
    errors: int  # the sum, with what was not answered
    error_kinds: tuple[str, ...]
    generator_share: float  # of one core


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a number of keys adds to an empty system, per daemon (the mean of the three)."""

    system: str
    keys: int
    value_bytes: int
    fill_ops_per_s: float
    resident_bytes: float
    disk_bytes: float


class Session:
    """Systems that run, the generator, and how long each measurement takes."""

    def __init__(
        self,
        program: Path,
        systems: dict[str, System],
        *,
        warmup: float,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self.systems = systems
        self._program = program
        self._warmup = warmup
        self._seconds = seconds
        self._say = say

    def fill(
        self, system: System, keys: int, value_bytes: int, *, first: int, empty: Usage
    ) -> Footprint:
        """Store the keys from `first` up to `keys`. `empty`: what was used without any.

        Raises: BenchmarkError, also if one of them was not stored.
        """
        load = replace(
            system.fill(keys - first, value_bytes),
            keys=keys,
            first=first,
            seconds=max(FILL_SECONDS_MIN, keys / FILL_KEYS_PER_SECOND_MIN),
        )
        outcome = generator.run(self._program, load)
        if outcome.answered < load.count:
            raise BenchmarkError(
                f"{system.name}: {outcome.answered} of {load.count} requests stored keys, "
                f"{outcome.errors} failed: {outcome.error_kinds}"
            )
        self.settle()
        full = usage(system)
        daemons_count = len(system.pids())
        return Footprint(
            system.name,
            keys,
            value_bytes,
            outcome.ops_per_s,
            (full.resident_bytes - empty.resident_bytes) / daemons_count,
            (full.disk_bytes - empty.disk_bytes) / daemons_count,
        )

    def case(self, case: Case, repetitions: int, deadline: float) -> list[Result]:
        """A B C A B C …; beyond `deadline` (monotonic) no further round begins.

        A door that fails is left out, and said.
        """
        samples: dict[str, list[Sample]] = {
            name: [] for name in case.doors if DOORS[name].system in self.systems
        }
        for repetition in range(repetitions):
            if time.monotonic() > deadline:
                self._say(f"out of time: {repetition} repetitions of {case.title}")
                break
            for name in list(samples):
                try:
                    samples[name].append(self.sample(case, name, seed=1 + repetition))
                except BenchmarkError as error:
                    self._say(f"{case.title}: {name} is left out: {error}")
                    del samples[name]
        return [median(case, name, found) for name, found in samples.items() if found]

    def sample(self, case: Case, name: str, seed: int) -> Sample:
        door = DOORS[name]
        system = self.systems[door.system]
        self.settle()
        port = system.port(door.protocol)
        load = case.load(door, port, warmup=self._warmup, seconds=self._seconds, seed=seed)
        before = daemons.cpu_seconds(system.pids())
        outcome = generator.run(self._program, load)
        used = daemons.cpu_seconds(system.pids()) - before
        done = outcome.answered * case.batch
        if not done:
            raise BenchmarkError(f"nothing was answered as it should be: {outcome.error_kinds}")
        sample = Sample(outcome, used / done * 1000)
        self._say(
            f"{case.title}: {name} {outcome.ops_per_s:,.0f}/s, p99 {outcome.p99_ms:.2f} ms"
            + (f", {outcome.errors} errors {outcome.error_kinds}" if outcome.errors else "")
        )
        return sample

    def settle(self) -> None:
        """Wait until no daemon works any more, but not for long."""
        pids = [pid for system in self.systems.values() for pid in system.pids()]
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while time.monotonic() < deadline:
            before = daemons.cpu_seconds(pids)
            time.sleep(QUIET_SECONDS)
            if (daemons.cpu_seconds(pids) - before) / QUIET_SECONDS < QUIET_SHARE:
                return


def median(case: Case, door: str, samples: Sequence[Sample]) -> Result:
    outcomes = [sample.outcome for sample in samples]
    rates = [outcome.ops_per_s for outcome in outcomes]
    kinds = {kind for outcome in outcomes for kind in outcome.error_kinds}
    return Result(
        case=case,
        door=door,
        repetitions=len(samples),
        ops_per_s=statistics.median(rates),
        ops_per_s_min=min(rates),
        ops_per_s_max=max(rates),
        p50_ms=statistics.median(outcome.p50_ms for outcome in outcomes),
        p99_ms=statistics.median(outcome.p99_ms for outcome in outcomes),
        p999_ms=statistics.median(outcome.p999_ms for outcome in outcomes),
        cpu_s_per_1k=statistics.median(sample.cpu_s_per_1k for sample in samples),
        errors=sum(outcome.errors + outcome.unanswered for outcome in outcomes),
        error_kinds=tuple(sorted(kinds)),
        generator_share=statistics.median(outcome.generator_share for outcome in outcomes),
    )
