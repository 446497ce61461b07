"""Stale reads, each at the replica that its load balancing chooses, with failover.

Only stale reads: any replica may answer them. A linearizable one needs the leader's word
wherever it runs. What fails at one replica is tried at the next within the deadline; what the
request itself is refused for is an answer, and no failure of the replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from cluster.errors import ClusterError
from engines.errors import Compacted, InvalidArgument
from engines.read_requests import ReadRequest, Shown
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError, Unavailable
from node.reads import Priority, ReadOptions
from node.replica_choice import LoadBalancing, ReplicaChoice

T = TypeVar("T")

# A replica that takes longer than this, and than several of its usual times, has failed while
# there are others to ask.
ATTEMPT_SECONDS_MIN: Final = 0.25
ATTEMPT_LATENCIES: Final = 8
CUT_OFF_SHARE: Final = 0.95  # of the time that it had: it ran out of it, rather than fail


@dataclass(frozen=True, slots=True)
class Routing:
    """What a caller asks for. `preferred`, `excluded`: ids or names of nodes."""

    load_balancing: LoadBalancing
    preferred: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class Replicas(Protocol):
    """Who holds a session's data, and how they are asked."""

    def holders(self, session: str) -> dict[str, str]:
        """Ids of the nodes with a replica that answers, and their names."""

    def members(self) -> Collection[str]:
        """Ids of all nodes of the cluster."""

    async def read_at(
        self,
        node: str,
        session: str,
        request: ReadRequest[T],
        options: ReadOptions,
        seconds: float,
    ) -> Shown[T]:
        """Raises ClusterError or HivememError."""


class BalancedReads:
    """Loop thread only."""

    def __init__(
        self, self_id: str, replicas: Replicas, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._self_id = self_id
        self._replicas = replicas
        self._clock = clock
        self.choice = ReplicaChoice(random)

    async def read(
        self,
        session: str,
        request: ReadRequest[T],
        options: ReadOptions,
        routing: Routing,
        deadline: float,
    ) -> tuple[Shown[T], str]:
        """What the chosen replica answers, and which one it was.

        Raises: Unavailable (QUORUM_NOT_REACHED: nobody answered), DeadlineExceeded, and what the
        request itself raises.
        """
        failure: Exception | None = None
        cut_off: list[tuple[str, float]] = []  # node, and the seconds that it had
        order = self._order(session, routing)
        for place, node in enumerate(order):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                break
            usual = self._attempt_seconds(node)
            last = place == len(order) - 1
            seconds = left if last else min(left, usual)
            begun = self._clock.monotonic()
            try:
                shown = await self._ask(node, session, request, options, seconds)
            except (ClusterError, Unavailable, DeadlineExceeded) as error:
                failure = error
                if _shed(error, options):
                    continue
                if self._clock.monotonic() - begun < CUT_OFF_SHARE * seconds:
                    self.choice.of(node).blamed(self._clock.monotonic())
                elif seconds >= usual:  # else the caller had less patience than is fair
                    cut_off.append((node, seconds))
                continue
            self._judge(cut_off, self._clock.monotonic() - begun)
            return shown, node
        self._judge(cut_off, 0.0)
        if isinstance(failure, HivememError):
            raise failure
        raise Unavailable(
            "no replica that may be asked answered", code="QUORUM_NOT_REACHED"
        ) from failure

    def _judge(self, cut_off: Sequence[tuple[str, float]], needed: float) -> None:
        """Replicas that were not waited for, now that another one needed so many seconds (0:
        none answered): was it they that were slow, or the question?"""
        for node, seconds in cut_off:
            figures = self.choice.of(node)
            if needed > seconds:
                figures.slower_than(needed)
            else:
                figures.blamed(self._clock.monotonic())

    def _order(self, session: str, routing: Routing) -> Sequence[str]:
        holders = self._replicas.holders(session)
        self.choice.forget_all_but(self._replicas.members())

        def named(node: str, names: Sequence[str]) -> bool:
            return node in names or holders[node] in names

        candidates = [node for node in sorted(holders) if not named(node, routing.excluded)]
        preferred = [node for node in candidates if named(node, routing.preferred)]
        return self.choice.order(
            routing.load_balancing, candidates, self._clock.monotonic(), preferred=preferred,
            own=self._self_id,
        )  # fmt: skip

    def _attempt_seconds(self, node: str) -> float:
        usual = self.choice.of(node).latency_seconds or 0.0
        return max(ATTEMPT_SECONDS_MIN, ATTEMPT_LATENCIES * usual)

    async def _ask(
        self,
        node: str,
        session: str,
        request: ReadRequest[T],
        options: ReadOptions,
        seconds: float,
    ) -> Shown[T]:
        figures = self.choice.of(node)
        begun = self._clock.monotonic()
        figures.begin(begun)
        try:
            shown = await self._replicas.read_at(node, session, request, options, seconds)
        except (ClusterError, Unavailable, DeadlineExceeded, asyncio.CancelledError):
            figures.given_up()
            raise
        except (InvalidArgument, Compacted, HivememError):
            # The request was refused: the replica did what it should.
            figures.answered(self._clock.monotonic() - begun)
            raise
        except BaseException:
            figures.failed(self._clock.monotonic())
            raise
        figures.answered(self._clock.monotonic() - begun)
        return shown


def _shed(error: Exception, options: ReadOptions) -> bool:
    """Was it turned away for its low priority? That says nothing of what others would get."""
    overloaded = isinstance(error, Unavailable) and error.code == "OVERLOADED"
    return overloaded and options.priority is Priority.LOW
