"""Which replica answers a read that any of them may answer. Pure: figures in, an order out.

Every replica has figures of its own: requests under way, and exponentially weighted means of how
long answers took and how often there was none. A *breaker* stands before each: it opens when the
replica fails too often, so that nobody waits for it; after a pause one request at a time is let
through, and the first good answer closes it again. Each failure of such a probe doubles the
pause. So what is healed comes back by itself.

Sources: Mitzenmacher 2001 (power of two choices); Nygard, Release It! (circuit breaker).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

WEIGHT = 0.2  # of the newest answer in the means
FAILURE_SHARE_MAX = 0.3  # of the mean of failures; above it the breaker opens
ANSWERS_MIN = 3  # before the mean says anything
PAUSE_SECONDS = 1.0  # of an open breaker, the first time
PAUSE_SECONDS_MAX = 30.0
# A replica that is not asked is not measured: every so often one is asked although others
# look better.
EXPLORE_SHARE = 0.02


class LoadBalancing(enum.StrEnum):
    """How a replica is chosen."""

    ROUND_ROBIN = "round_robin"  # each in turn
    LEAST_LOADED = "least_loaded"  # fewest requests under way
    PERFORMANCE_BASED = "performance_based"  # of two at random, the one that answers sooner
    CAPABILITY_BASED = "capability_based"  # the node that was asked, which needs no hop


class Breaker(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class ReplicaFigures:
    """What is known of one replica. Times in seconds of a monotonic clock."""

    in_flight: int = 0
    answers: int = 0
    failures: int = 0
    latency_seconds: float | None = None  # mean of good answers; None: there was none yet
    failure_share: float = 0.0  # mean
    breaker: Breaker = Breaker.CLOSED
    pause_seconds: float = PAUSE_SECONDS
    reopens_at: float = 0.0
    _seen: int = field(default=0)

    def admits(self, now: float) -> bool:
        """May a request be sent? An open breaker lets one through after its pause."""
        if self.breaker is Breaker.OPEN and now >= self.reopens_at:
            return True
        return self.breaker is Breaker.CLOSED

    def begin(self, now: float) -> None:
        self.in_flight += 1
        if self.breaker is Breaker.OPEN and now >= self.reopens_at:
            self.breaker = Breaker.HALF_OPEN

    def answered(self, seconds: float) -> None:
        """A good answer."""
        self.in_flight -= 1
        self.answers += 1
        old = self.latency_seconds
        self.latency_seconds = seconds if old is None else old + WEIGHT * (seconds - old)
        if self.breaker is Breaker.HALF_OPEN:
            # What it was before it healed says nothing any more.
            self.breaker, self.pause_seconds = Breaker.CLOSED, PAUSE_SECONDS
            self.failure_share, self._seen, self.latency_seconds = 0.0, 0, seconds
        self._count(failed=False)

    def failed(self, now: float) -> None:
        """No answer."""
        self.given_up()
        self.blamed(now)

    def given_up(self) -> None:
        """Nobody waits any more; what that says of it is not known yet, if ever."""
        self.in_flight -= 1
        if self.breaker is Breaker.HALF_OPEN:
            self.breaker = Breaker.OPEN

    def blamed(self, now: float) -> None:
        """One that was given up was its failure: others answered in the time that it had."""
        self.failures += 1
        self._count(failed=True)
        if self.breaker is Breaker.OPEN and now >= self.reopens_at:  # it was a probe
            self.pause_seconds = min(2 * self.pause_seconds, PAUSE_SECONDS_MAX)
            self._open(now)
        elif (
            self.breaker is Breaker.CLOSED
            and self._seen >= ANSWERS_MIN
            and self.failure_share > FAILURE_SHARE_MAX
        ):
            self._open(now)

    def slower_than(self, seconds: float) -> None:
        """One that was given up asked for more than others could do in that time, either."""
        self.latency_seconds = max(self.latency_seconds or 0.0, seconds)

    def _open(self, now: float) -> None:
        self.breaker, self.reopens_at = Breaker.OPEN, now + self.pause_seconds

    def _count(self, *, failed: bool) -> None:
        self._seen += 1
        self.failure_share += WEIGHT * (failed - self.failure_share)

    @property
    def cost(self) -> float:
        """Expected seconds until a good answer; 0 for one that was never asked."""
        if self.latency_seconds is None:
            return 0.0
        return self.latency_seconds * (1 + self.in_flight) / max(0.05, 1 - self.failure_share)


class ReplicaChoice:
    """The figures of all replicas that were asked, and the order in which to ask."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random`: uniform in [0, 1)."""
        self.figures: dict[str, ReplicaFigures] = {}
        self._random = random
        self._turn = 0

    def of(self, replica: str) -> ReplicaFigures:
        return self.figures.setdefault(replica, ReplicaFigures())

    def forget_all_but(self, replicas: Collection[str]) -> None:
        """Replicas on nodes that are no members any more."""
        for gone in self.figures.keys() - set(replicas):
            if self.figures[gone].in_flight == 0:
                del self.figures[gone]

    def order(
        self,
        strategy: LoadBalancing,
        replicas: Sequence[str],
        now: float,
        *,
        preferred: Sequence[str] = (),
        own: str | None = None,
    ) -> list[str]:
        """The replicas in the order in which to ask them: the chosen one, then the others for
        when it fails. One whose breaker is open comes last.

        `preferred`: these first, if they may be asked; `own`: the node that was asked.
        """
        healthy = [each for each in replicas if self.of(each).admits(now)]
        broken = [each for each in replicas if each not in healthy]
        first = [each for each in healthy if each in preferred]
        rest = [each for each in healthy if each not in preferred]
        ranked = self._ranked(strategy, first, own) + self._ranked(strategy, rest, own)
        probing = [each for each in ranked if self.of(each).breaker is Breaker.OPEN]
        last = self._ranked(strategy, broken, own)
        # A probe goes first, or a broken replica would never be tried while others answer.
        return probing + [each for each in ranked if each not in probing] + last

    def _ranked(self, strategy: LoadBalancing, replicas: list[str], own: str | None) -> list[str]:
        if len(replicas) < 2:
            return replicas
        self._turn += 1
        turned = [replicas[(self._turn + place) % len(replicas)] for place in range(len(replicas))]
        match strategy:
            case LoadBalancing.ROUND_ROBIN:
                return turned
            case LoadBalancing.LEAST_LOADED:
                return sorted(turned, key=lambda each: self.of(each).in_flight)
            case LoadBalancing.PERFORMANCE_BASED:
                return self._by_performance(turned)
            case LoadBalancing.CAPABILITY_BASED:
                return sorted(turned, key=lambda each: (each != own, self.of(each).cost))

    def _by_performance(self, replicas: list[str]) -> list[str]:
        by_cost = sorted(replicas, key=lambda each: self.of(each).cost)
        if self._random() < EXPLORE_SHARE:
            chosen = replicas[0]
        else:
            pair = {int(self._random() * len(replicas)) for _ in range(2)}
            chosen = min((replicas[place] for place in pair), key=lambda each: self.of(each).cost)
        return [chosen, *(each for each in by_cost if each != chosen)]
