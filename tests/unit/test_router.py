"""Where requests run, and what their errors claim."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.errors import (
    ClusterError,
    DiskFull,
    NoQuorum,
    NotLeader,
    Overloaded,
    PeerUnreachable,
)
from cluster.interfaces import GroupStatus, Role
from cluster.membership import Configuration, Member
from engines.command import Put
from engines.interfaces import PutResult
from engines.read_requests import GetRecord, Shown
from node.clock import SystemClock
from node.errors import DeadlineExceeded, OutOfSpace, Unavailable
from node.reads import Consistency, ReadOptions
from node.router import Router

CLOCK = SystemClock()
PLAIN = Put("n", "s", b"k", b"v", "text/plain", 1)
REPEATABLE = Put("n", "s", b"k", b"v", "text/plain", 1, request_id="r1")
DONE = PutResult(1, 7)


class ScriptedGroup:
    """A `Consensus` that answers as a test says; None: never answers."""

    def __init__(self, leader: str | None = "me") -> None:
        self.on_leader_change: Callable[[], None] = lambda: None
        self.leader = leader
        self.answers: list[object] = []
        self.reads: list[object] = []
        self.submitted = 0
        self.catching_up = 0
        self.staleness = 0.0
        self.found = Configuration(0, (Member("me"), Member("other")))

    def submit(self, command, done) -> None:
        self.submitted += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, ClusterError):
            done(None, answer)
        elif answer is not None:
            done(answer, None)

    def read_index(self, done) -> None:
        answer = self.reads.pop(0) if self.reads else None
        if isinstance(answer, ClusterError):
            done(None, answer)
        elif answer is not None:
            done(answer, None)

    def when_applied(self, index, done) -> None:
        if index <= 5:
            done()

    def catch_up(self) -> None:
        self.catching_up += 1

    def staleness_seconds(self) -> float:
        return self.staleness

    def role(self) -> Role:
        return Role("leader" if self.leader == "me" else "follower", self.leader, 1)

    def status(self) -> GroupStatus:
        where, found = (5, 5, 5, 5), self.configuration()
        return GroupStatus(0, "leader", self.leader, 1, *where, {}, 0, True, found, 0, 1, True)

    def configuration(self) -> Configuration:
        return self.found


class ScriptedForwarder:
    def __init__(self) -> None:
        self.answers: list[object] = []
        self.calls = 0

    async def propose(self, leader, command, timeout_seconds):
        self.calls += 1
        answer = self.answers.pop(0)
        if isinstance(answer, ClusterError):
            raise answer
        return await answer if isinstance(answer, asyncio.Future) else answer

    async def read_index(self, leader, *, confirmed, timeout_seconds):
        return await self.propose(leader, b"", timeout_seconds)


class ScriptedReads:
    check_error: Exception | None = None
    run_error: Exception | None = None

    def check(self):
        if self.check_error is not None:
            raise self.check_error

    async def run(self, request, deadline, priority):
        if self.run_error is not None:
            raise self.run_error
        return Shown(request, 3)


class Machine:
    applied_index = 0
    revision = 3


def make(leader: str | None = "me"):
    group, forwarder = ScriptedGroup(leader), ScriptedForwarder()
    http = {"me": "http://me", "other": "http://other"}
    return Router("me", group, Machine(), forwarder, CLOCK, http, ScriptedReads()), group, forwarder


def soon(seconds: float = 0.15) -> float:
    return CLOCK.monotonic() + seconds


async def test_a_leader_proposes_itself():
    router, group, forwarder = make()
    group.answers = [DONE]
    assert await router.propose(PLAIN, soon()) == DONE
    assert forwarder.calls == 0


async def test_a_follower_asks_the_leader_once():
    router, group, forwarder = make("other")
    forwarder.answers = [DONE]
    assert await router.propose(PLAIN, soon()) == DONE
    assert group.submitted == 0


async def test_without_a_leader_the_error_is_definite():
    router, _, _ = make(None)
    with pytest.raises(Unavailable) as caught:
        await router.propose(PLAIN, soon())
    assert caught.value.code == "QUORUM_NOT_REACHED"
    assert caught.value.definite
    assert caught.value.leader is None


async def test_a_proposal_without_quorum_is_not_definite():
    router, _, _ = make()
    with pytest.raises(Unavailable) as caught:
        await router.propose(PLAIN, soon())
    assert caught.value.code == "QUORUM_NOT_REACHED"
    assert not caught.value.definite
    assert caught.value.leader == "http://me"


async def test_a_late_answer_after_the_deadline_is_ignored():
    router, group, _ = make()
    late: list = []
    group.submit = lambda command, done: late.append(done)
    with pytest.raises(Unavailable):
        await router.propose(PLAIN, soon(0.05))
    late[0](DONE, None)


async def test_a_definite_refusal_is_tried_again_when_a_leader_appears():
    router, group, _ = make()
    group.answers = [NotLeader(None), DONE]
    assert await router.propose(PLAIN, soon(1)) == DONE
    assert group.submitted == 2


async def test_waiting_for_a_leader_ends_when_one_is_elected():
    router, group, _ = make(None)
    group.answers = [DONE]
    task = asyncio.create_task(router.propose(PLAIN, soon(5)))
    await asyncio.sleep(0)
    group.leader = "me"
    group.on_leader_change()
    assert await task == DONE


async def test_an_unknown_outcome_is_not_retried_without_a_request_id():
    router, _, forwarder = make("other")
    forwarder.answers = [PeerUnreachable("gone", definite=False), DONE]
    with pytest.raises(Unavailable) as caught:
        await router.propose(PLAIN, soon(1))
    assert caught.value.code == "OUTCOME_UNKNOWN"
    assert not caught.value.definite
    assert forwarder.calls == 1


async def test_an_unknown_outcome_is_retried_with_a_request_id():
    router, _, forwarder = make("other")
    forwarder.answers = [PeerUnreachable("gone", definite=False), DONE]
    assert await router.propose(REPEATABLE, soon(1)) == DONE
    assert forwarder.calls == 2


def silence() -> asyncio.Future[object]:
    """The answer of a leader that is paused or cut off."""
    return asyncio.get_running_loop().create_future()


async def test_what_a_silent_leader_holds_goes_to_its_successor():
    router, group, forwarder = make("other")
    forwarder.answers = [silence(), silence()]
    group.answers, group.reads = [DONE], [5]
    write = asyncio.create_task(router.propose(REPEATABLE, soon(30)))
    read = asyncio.create_task(router.barrier(ReadOptions(), soon(30)))
    await asyncio.sleep(0)
    group.leader = None
    group.on_leader_change()
    ended, _ = await asyncio.wait((write, read), timeout=0.02)
    assert not ended, "there is nobody else to ask"
    group.leader = "me"
    group.on_leader_change()
    group.on_leader_change()
    assert await asyncio.wait_for(write, 10) == DONE
    await asyncio.wait_for(read, 10)
    assert forwarder.calls == 2
    assert group.submitted == 1


async def test_what_may_not_be_repeated_waits_for_its_own_answer():
    router, group, forwarder = make("other")
    answer = silence()
    forwarder.answers = [answer]
    write = asyncio.create_task(router.propose(PLAIN, soon(30)))
    await asyncio.sleep(0)
    group.leader = "me"
    group.on_leader_change()
    ended, _ = await asyncio.wait((write,), timeout=0.1)
    assert not ended
    answer.set_result(DONE)
    assert await asyncio.wait_for(write, 10) == DONE
    assert group.submitted == 0


async def test_a_caller_that_leaves_is_not_mistaken_for_a_leader_that_changed():
    router, _, forwarder = make("other")
    forwarder.answers = [silence()]
    write = asyncio.create_task(router.propose(REPEATABLE, soon(30)))
    await asyncio.sleep(0)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert forwarder.calls == 1


async def test_once_unknown_a_later_definite_refusal_stays_unknown():
    router, group, forwarder = make("other")
    forwarder.answers = [PeerUnreachable("gone", definite=False)]
    task = asyncio.create_task(router.propose(REPEATABLE, soon(0.2)))
    await asyncio.sleep(0)
    group.leader = None
    with pytest.raises(Unavailable) as caught:
        await task
    assert not caught.value.definite


async def test_overload_is_definite_and_not_retried():
    router, group, _ = make()
    group.answers = [Overloaded("full")]
    with pytest.raises(Unavailable) as caught:
        await router.propose(PLAIN, soon(1))
    assert caught.value.code == "OVERLOADED"
    assert caught.value.definite


async def test_a_full_disk_is_said_at_once():
    router, _, forwarder = make("other")
    forwarder.answers = [DiskFull("no room"), DONE]
    with pytest.raises(OutOfSpace, match="no room") as caught:
        await router.propose(REPEATABLE, soon(1))
    assert (caught.value.code, caught.value.definite) == ("DISK_FULL", True)
    assert caught.value.leader == "http://other"
    assert forwarder.calls == 1


async def test_a_full_disk_says_nothing_of_an_earlier_try():
    router, _, forwarder = make("other")
    forwarder.answers = [PeerUnreachable("gone", definite=False), DiskFull("no room")]
    with pytest.raises(OutOfSpace) as caught:
        await router.propose(REPEATABLE, soon(1))
    assert not caught.value.definite


async def test_the_log_knows_better_than_the_file_where_the_leader_is():
    router, group, _ = make("other")
    assert router.leader_address() == "http://other"
    group.found = Configuration(4, (Member("me"), Member("other", http="http://moved")))
    assert router.leader_address() == "http://moved"
    group.leader = None
    assert router.leader_address() is None


async def test_many_proposals_have_their_own_outcomes():
    router, group, _ = make()
    group.answers = [DONE, Overloaded("full"), DONE]
    outcomes = await router.propose_many([PLAIN] * 3, soon(1))
    assert outcomes[0] == outcomes[2] == DONE
    assert isinstance(outcomes[1], Unavailable)


async def test_a_linearizable_read_waits_for_its_index():
    router, group, _ = make()
    group.reads = [NoQuorum("lost"), 5]
    await router.barrier(ReadOptions(), soon(1))
    group.reads = [6]  # never applied here
    with pytest.raises(DeadlineExceeded):
        await router.barrier(ReadOptions(), soon())


async def test_a_read_runs_once_its_barrier_is_passed():
    router, group, _ = make()
    request = GetRecord("n", "s", b"k")
    group.reads = [5]
    assert await router.read(request, ReadOptions(), soon(1)) == Shown(request, 3)
    with pytest.raises(Unavailable):
        await router.read(request, ReadOptions(), soon())


async def test_a_linearizable_read_without_quorum_fails():
    router, _, _ = make()
    with pytest.raises(Unavailable) as caught:
        await router.barrier(ReadOptions(), soon())
    assert caught.value.code == "QUORUM_NOT_REACHED"
    assert caught.value.definite


async def test_a_followers_read_asks_the_leader_for_the_index():
    router, _, forwarder = make("other")
    forwarder.answers = [PeerUnreachable("gone", definite=False), 5]
    await router.barrier(ReadOptions(), soon(1))
    assert forwarder.calls == 2


async def test_stale_reads_bound_their_staleness():
    router, group, _ = make(None)
    await router.barrier(ReadOptions(Consistency.STALE), soon())
    group.staleness = 2.0
    await router.barrier(ReadOptions(Consistency.STALE, max_staleness_ms=60_000), soon())
    with pytest.raises(Unavailable) as caught:
        await router.barrier(ReadOptions(Consistency.STALE, max_staleness_ms=1000), soon())
    assert caught.value.code == "STALE"


async def test_min_revision_waits_for_the_revision():
    router, group, _ = make()
    await router.barrier(ReadOptions(Consistency.STALE, min_revision=3), soon())
    assert group.catching_up == 0
    with pytest.raises(DeadlineExceeded, match="at 3"):
        await router.barrier(ReadOptions(Consistency.STALE, min_revision=4), soon())
    assert group.catching_up > 0, "this node may have put off applying it"
