"""Requests for a partition that is not on this node: who is asked, and who is asked next."""

from __future__ import annotations

import pytest

from cluster.errors import NotLeader, PeerUnreachable, RemoteCallFailed
from engines.command import encode_result
from engines.read_requests import GetRecord, Shown
from node import remote_router
from node.errors import DeadlineExceeded, Unavailable
from node.forward import encode_error
from node.reads import Consistency, ReadOptions
from node.remote_router import Elsewhere, RemoteRouter
from tests.unit.test_router import CLOCK, DONE, PLAIN, REPEATABLE, soon

REQUEST = GetRecord("n", "s", b"k")
FOUND = Shown("found", 7)
UNREACHABLE = PeerUnreachable("gone", definite=True)
SILENT = PeerUnreachable("no answer in time", definite=False)


class Others:
    """Nodes "a", "b" and "c": `Caller` and `RemoteReads`. Each answer is used once."""

    def __init__(self) -> None:
        self.nodes = ["a", "b", "c"]
        self.answers: dict[str, list[object]] = {}
        self.asked: list[str] = []
        self.seconds: list[float] = []

    def _answer(self, node: str, seconds: float) -> object:
        self.asked.append(node)
        self.seconds.append(seconds)
        answer = (self.answers.get(node) or [UNREACHABLE]).pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def call(self, peer, method, payload, timeout_seconds):
        try:
            return b"\x00" + encode_result(self._answer(peer, timeout_seconds))
        except NotLeader as error:
            return encode_error(error)

    async def read(self, node, group, request, options, timeout_seconds):
        return self._answer(node, timeout_seconds)


@pytest.fixture
def others() -> Others:
    return Others()


def router(others: Others) -> RemoteRouter:
    elsewhere = Elsewhere(lambda: others.nodes, others)
    return RemoteRouter(3, elsewhere, others, CLOCK, lambda node: f"http://{node}")


async def test_the_leader_that_a_node_names_is_asked_at_once_and_remembered(others):
    others.answers = {"a": [NotLeader("c")], "c": [DONE, DONE]}
    way = router(others)
    assert await way.propose(PLAIN, soon(1)) == DONE
    assert await way.propose(PLAIN, soon(1)) == DONE
    assert others.asked == ["a", "c", "c"]
    assert way.leader_address() == "http://c"


async def test_while_nobody_leads_all_are_asked_again(others):
    others.answers = {"a": [NotLeader(None), DONE], "b": [NotLeader("gone")], "c": [UNREACHABLE]}
    assert await router(others).propose(PLAIN, soon(2)) == DONE
    assert others.asked == ["a", "b", "c", "a"]


async def test_a_write_waits_for_one_node_no_longer_than_for_the_next_to_answer(others):
    others.answers = {"a": [SILENT], "b": [DONE]}
    assert await router(others).propose(REPEATABLE, soon(60)) == DONE
    assert max(others.seconds) <= remote_router.ATTEMPT_SECONDS_MAX


async def test_a_write_that_may_not_be_repeated_is_given_all_the_time(others):
    others.answers = {"a": [SILENT], "b": [DONE]}
    with pytest.raises(Unavailable) as caught:
        await router(others).propose(PLAIN, soon(60))
    assert caught.value.code == "OUTCOME_UNKNOWN"
    assert not caught.value.definite
    assert others.seconds[0] > 50


@pytest.mark.parametrize(
    "problem",
    [
        SILENT,
        UNREACHABLE,
        RemoteCallFailed("not on this node", definite=True),
        Unavailable("nobody leads", code="QUORUM_NOT_REACHED"),
        DeadlineExceeded("not caught up"),
    ],
)
async def test_a_read_that_one_replica_cannot_answer_is_asked_of_another(others, problem):
    others.answers = {"a": [problem], "b": [FOUND]}
    assert await router(others).read(REQUEST, ReadOptions(), soon(60)) == FOUND
    assert others.asked == ["a", "b"]
    assert max(others.seconds) <= remote_router.ATTEMPT_SECONDS_MAX


async def test_what_a_replica_says_last_is_the_answer(others):
    others.answers = {"a": [Unavailable("nobody leads", code="QUORUM_NOT_REACHED")]}
    with pytest.raises(Unavailable) as caught:
        await router(others).read(REQUEST, ReadOptions(), soon(1))
    assert caught.value.code == "QUORUM_NOT_REACHED"


async def test_too_old_is_said_at_once(others):
    others.answers = {"a": [Unavailable("old", code="STALE")], "b": [FOUND]}
    stale = ReadOptions(Consistency.STALE, max_staleness_ms=1)
    with pytest.raises(Unavailable) as caught:
        await router(others).read(REQUEST, stale, soon(60))
    assert caught.value.code == "STALE"
    assert others.asked == ["a"]


async def test_a_node_that_holds_the_partition_no_more_is_not_asked(others):
    others.answers = {"a": [FOUND], "b": [FOUND]}
    way = router(others)
    assert await way.read(REQUEST, ReadOptions(), soon(1)) == FOUND
    others.nodes = ["b", "c"]
    assert await way.read(REQUEST, ReadOptions(), soon(1)) == FOUND
    assert others.asked == ["a", "b"]


async def test_without_a_replica_anywhere_the_error_names_the_partition(others):
    others.nodes = []
    with pytest.raises(Unavailable, match="partition 3"):
        await router(others).read(REQUEST, ReadOptions(), soon())
