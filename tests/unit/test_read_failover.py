"""Reads of a group whose state on this node is damaged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import PeerUnreachable
from engines.errors import Compacted
from engines.read_requests import GetRecord, Shown
from node.clock import SystemClock
from node.errors import Unavailable
from node.quarantine import ReplicaQuarantined
from node.read_failover import ATTEMPT_SECONDS_MAX, ReadFailover
from node.reads import LINEARIZABLE
from node.router import Router

CLOCK = SystemClock()
REQUEST = GetRecord("n", "s", b"k")
REFUSAL = ReplicaQuarantined("damaged")


class Replicas:
    """What each node answers, in the order in which they are asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int, float]] = []

    async def read(
        self, node: str, group: int, request: Any, options: Any, timeout_seconds: float
    ) -> Any:
        assert (request, options) == (REQUEST, LINEARIZABLE)
        self.asked.append((node, group, timeout_seconds))
        answer = self.answers[node]
        if isinstance(answer, Exception):
            raise answer
        return answer


def failover(replicas: Replicas, leader: str | None = "c") -> ReadFailover:
    voters = frozenset({"a", "b", "c"})
    group: Any = SimpleNamespace(
        role=lambda: SimpleNamespace(leader=leader),
        configuration=lambda: SimpleNamespace(voters=voters),
    )
    return ReadFailover("a", 7, group, replicas, CLOCK)


def deadline(seconds: float = 10.0) -> float:
    return CLOCK.monotonic() + seconds


async def test_the_leader_is_asked_first_and_answers() -> None:
    replicas = Replicas(c=Shown("found", 3))
    shown = await failover(replicas).read(REQUEST, LINEARIZABLE, deadline(), REFUSAL)
    assert shown.found == "found"
    assert [(node, group) for node, group, _ in replicas.asked] == [("c", 7)]
    assert replicas.asked[0][2] <= ATTEMPT_SECONDS_MAX


async def test_who_cannot_answer_is_passed_over() -> None:
    replicas = Replicas(c=PeerUnreachable("down", definite=True), b=Shown("found", 3))
    shown = await failover(replicas).read(REQUEST, LINEARIZABLE, deadline(), REFUSAL)
    assert shown.found == "found"
    assert replicas.asked[1][2] > ATTEMPT_SECONDS_MAX, "the last one may take what is left"


@pytest.mark.parametrize("leader", [None, "a", "c"])
async def test_if_nobody_can_the_refusal_is_told(leader: str | None) -> None:
    replicas = Replicas(c=Unavailable("busy"), b=ReplicaQuarantined("damaged, too"))
    with pytest.raises(ReplicaQuarantined) as told:
        await failover(replicas, leader).read(REQUEST, LINEARIZABLE, deadline(), REFUSAL)
    assert told.value is REFUSAL
    assert len(replicas.asked) == 2


async def test_an_answer_that_the_request_has_is_one() -> None:
    replicas = Replicas(c=Compacted(9))
    with pytest.raises(Compacted):
        await failover(replicas).read(REQUEST, LINEARIZABLE, deadline(), REFUSAL)


async def test_after_the_deadline_nobody_is_asked() -> None:
    replicas = Replicas()
    with pytest.raises(ReplicaQuarantined):
        await failover(replicas).read(REQUEST, LINEARIZABLE, deadline(-1), REFUSAL)
    assert replicas.asked == []


class Reads:
    """A state that is damaged: known before a read begins, or met by it."""

    def __init__(self, *, known: bool) -> None:
        self.known = known

    def check(self) -> None:
        if self.known:
            raise REFUSAL

    async def run(self, request: Any, until: float, priority: Any) -> Any:
        raise REFUSAL


@pytest.mark.parametrize("known", [True, False])
async def test_the_router_has_another_replica_answer(known: bool) -> None:
    barriers: list[object] = []
    reads: Any = Reads(known=known)
    nothing: Any = SimpleNamespace()
    replicas = Replicas(c=Shown("found", 3))
    router = Router("a", nothing, nothing, None, CLOCK, {}, reads, failover(replicas))

    async def barrier(options: object, until: float) -> None:
        barriers.append(options)

    router.barrier = barrier  # type: ignore[method-assign]
    shown = await router.read(REQUEST, LINEARIZABLE, deadline())
    assert shown.found == "found"
    assert len(barriers) == (not known), "who has nothing to answer from need not wait"
    with pytest.raises(ReplicaQuarantined):
        await router.read_here(REQUEST, LINEARIZABLE, deadline())
    assert len(replicas.asked) == 1, "a read is passed on once"
