"""Trials: does another way to the same answer take less time? Pure; times come in.

One trial concerns one choice within one pattern of requests. It goes through these states:

    watching ──enough executions──▶ trying ──better──▶ adopted ──no longer better──▶ resting
                                      │ worse, or not clearly better ─────────────▶ resting
    resting ──the collection doubled or halved, or many executions──▶ trying

While trying, executions go to control and candidate in random blocks of two (a permuted block
design), so that whatever drifts meets both alike. While adopted, one execution of CONTROL_EVERY
still goes the control's way, so that "no longer better" can be seen.

Compared are ranks (Mann & Whitney 1947, one-sided, normal approximation with correction for
ties): times have a long tail, in which one pause of the machine outweighs a hundred executions,
and ranks do not care how long it was. A candidate is adopted if chance alone would make it look
so good once in a thousand trials (Z_ADOPT) *and* its median is below the control's by a margin.
The number of samples is fixed beforehand; looks before the end can only reject, so they do not
make a false adoption more likely. Kept is what a weaker test still confirms (Z_KEEP).
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

WATCH_EXECUTIONS: Final = 20  # of a pattern, before anything is tried for it
SAMPLES: Final = 40  # of each side, for a verdict
LOOK_EVERY: Final = 8  # samples of each side, between looks at whether it is plainly worse
MARGIN: Final = 0.1  # by which the median has to be less
CONTROL_EVERY: Final = 16  # executions of an adopted way, one of which goes the control's
REVIEW_SAMPLES: Final = 24  # of the control, for each review of what was adopted
TIMES_MAX: Final = 64  # of each side, the newest ones
Z_ADOPT: Final = 3.09  # standard deviations: one in 1,000
Z_WORSE: Final = 2.33  # one in 100
Z_KEEP: Final = 1.64  # one in 20
REST_EXECUTIONS: Final = 1_000  # after a verdict; doubled with each one that found nothing
REST_DOUBLINGS_MAX: Final = 8
GROWTH: Final = 2.0  # of the collection, after which old verdicts say nothing
HISTORY_MAX: Final = 16  # verdicts that are remembered

_MASK = (1 << 64) - 1


class State(enum.Enum):
    WATCHING = "watching"
    TRYING = "trying"
    ADOPTED = "adopted"
    RESTING = "resting"


class Verdict(NamedTuple):
    """What came of trying, or reviewing, one candidate."""

    candidate: str
    outcome: str  # adopted | not_better | worse | kept | rolled_back
    control_seconds: float  # medians
    candidate_seconds: float
    samples: tuple[int, int]  # of control and candidate
    z: float  # standard deviations by which the candidate's ranks are the lower ones
    executions: int  # that the choice had seen


class Trial:
    """One thread at a time."""

    def __init__(self, point: str, seed: int) -> None:
        self.point = point
        self.state = State.WATCHING
        self.control = ""
        self.others: tuple[str, ...] = ()
        self.candidate: str | None = None  # under trial, or adopted
        self.epoch = 0  # of what `assign` said; times of earlier ones are of no use
        self.executions = 0
        self.history: deque[Verdict] = deque(maxlen=HISTORY_MAX)
        self._seed = seed
        self._untried: list[str] = []
        self._size = 0  # of the collection, when the last round of trials began
        self._rest_until = 0
        self._fruitless = 0  # rounds in a row
        self._control_times: deque[float] = deque(maxlen=TIMES_MAX)
        self._candidate_times: deque[float] = deque(maxlen=TIMES_MAX)

    @property
    def adopted(self) -> str | None:
        return self.candidate if self.state is State.ADOPTED else None

    def assign(self, control: str, others: Sequence[str], size: int) -> str:
        """Which way the next execution goes. `size`: items of the collection now."""
        if control != self.control or tuple(others) != self.others:
            self._start_over(control, tuple(others))
        self.executions += 1
        grown = not self._size / GROWTH <= size <= self._size * GROWTH
        match self.state:
            case State.WATCHING:
                if self.executions < WATCH_EXECUTIONS:
                    return control
                self._begin_round(size)
            case State.RESTING:
                if not grown and self.executions < self._rest_until:
                    return control
                if grown:
                    self._fruitless = 0
                self._begin_round(size)
            case State.ADOPTED:
                assert self.candidate is not None
                return control if self._draw(CONTROL_EVERY) == 0 else self.candidate
            case State.TRYING:
                pass
        assert self.candidate is not None
        return control if self._coin() else self.candidate

    def record(self, epoch: int, name: str, seconds: float) -> None:
        """What an execution took that `assign` had sent this way."""
        if epoch != self.epoch or self.state not in (State.TRYING, State.ADOPTED):
            return
        if name == self.control:
            self._control_times.append(seconds)
        elif name == self.candidate:
            self._candidate_times.append(seconds)
        if self.state is State.TRYING:
            self._judge()
        elif len(self._control_times) >= REVIEW_SAMPLES <= len(self._candidate_times):
            self._review()

    @property
    def samples(self) -> tuple[int, int]:
        """Times of control and candidate since the last verdict."""
        return len(self._control_times), len(self._candidate_times)

    # --- Verdicts ------------------------------------------------------------------

    def _judge(self) -> None:
        few = min(self.samples)
        if few < SAMPLES:
            look = few > 0 and few % LOOK_EVERY == 0
            if look and rank_z(self._candidate_times, self._control_times) > Z_WORSE:
                self._conclude("worse")
            return
        control, candidate, z = self._compared()
        if z > Z_ADOPT and candidate <= (1 - MARGIN) * control:
            self._conclude("adopted")
        else:
            self._conclude("not_better")

    def _review(self) -> None:
        control, candidate, z = self._compared()
        self._conclude("kept" if z > Z_KEEP and candidate < control else "rolled_back")

    def _compared(self) -> tuple[float, float, float]:
        z = rank_z(self._control_times, self._candidate_times)
        return median(self._control_times), median(self._candidate_times), z

    def _conclude(self, outcome: str) -> None:
        assert self.candidate is not None
        control, candidate, z = self._compared()
        self.history.append(
            Verdict(
                self.candidate, outcome, control, candidate, self.samples, z, self.executions
            )
        )  # fmt: skip
        if outcome in ("adopted", "kept"):
            self.state, self._fruitless = State.ADOPTED, 0
            self._forget_times()
        else:
            self._next_candidate()

    # --- Rounds --------------------------------------------------------------------

    def _start_over(self, control: str, others: tuple[str, ...]) -> None:
        """Other indexes than before: what was measured was of others."""
        self.control, self.others = control, others
        self.state, self.candidate, self.executions = State.WATCHING, None, 0
        self._fruitless = 0
        self._forget_times()

    def _begin_round(self, size: int) -> None:
        self._size = size
        self._untried = list(self.others)
        self._next_candidate()

    def _next_candidate(self) -> None:
        self._forget_times()
        if self._untried:
            self.state, self.candidate = State.TRYING, self._untried.pop(0)
            return
        self.state, self.candidate = State.RESTING, None
        self._rest_until = self.executions + (REST_EXECUTIONS << self._fruitless)
        self._fruitless = min(self._fruitless + 1, REST_DOUBLINGS_MAX)

    def _forget_times(self) -> None:
        self.epoch += 1
        self._control_times.clear()
        self._candidate_times.clear()

    def _coin(self) -> bool:
        """Each two executions have one of each side, in random order."""
        block, second = divmod(self.executions, 2)
        return bool(_mixed(self._seed + block) & 1) != bool(second)

    def _draw(self, sides: int) -> int:
        return _mixed(self._seed ^ self.executions) % sides


def rank_z(longer: Sequence[float], shorter: Sequence[float]) -> float:
    """By how many standard deviations the ranks of `shorter` are lower than by chance alone.

    Source: Mann & Whitney 1947; the correction for ties as in Lehmann, Nonparametrics, 1.2.
    """
    first, second = sorted(longer), sorted(shorter)
    m, n = len(first), len(second)
    if not m or not n:
        return 0.0
    # Pairs in which `shorter` is the lower one; an equal pair counts half.
    lower = sum(
        bisect_left(second, each) + bisect_right(second, each) for each in first
    ) / 2  # fmt: skip
    both = sorted((*first, *second))
    ties = 0
    place = 0
    while place < len(both):
        end = bisect_right(both, both[place])
        ties += (end - place) ** 3 - (end - place)
        place = end
    total = m + n
    variance = m * n / 12 * (total + 1 - ties / (total * (total - 1)))
    return 0.0 if variance <= 0 else float((lower - m * n / 2) / variance**0.5)


def _mixed(number: int) -> int:
    """splitmix64 (Steele, Lea & Flood 2014)."""
    z = (number * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
