"""Requests of a replica that leaves the node meanwhile: they go where it went."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import NotLeader, OutcomeUnknown
from cluster.interfaces import Role
from engines.errors import StoreFailed
from engines.read_requests import GetRecord, Shown
from node.errors import Unavailable
from node.reads import Consistency, ReadOptions, ReplicaLeft
from tests.unit.test_router import DONE, PLAIN, REPEATABLE, ScriptedReads, make, soon

REQUEST = GetRecord("n", "s", b"k")


class There:
    """The other way: `RemoteRouter` and its `Elsewhere`."""

    def __init__(self) -> None:
        self.elsewhere = self
        self.attempt_seconds_max = 1.0
        self.on_leader_change = lambda: None
        self.proposed: list[str] = []

    def role(self) -> Role:
        return Role("none", "there", 0)

    def leader_address(self) -> str:
        return "http://there"

    async def propose(self, node, command, timeout_seconds):
        self.proposed.append(node)
        return DONE

    async def read(self, request, options, deadline):
        return Shown("from there", 9)


async def under_way(router, coroutine) -> asyncio.Task[object]:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_what_comes_later_goes_the_other_way():
    router, group, _ = make("other")
    there = There()
    router.leave(there)
    assert await router.propose(PLAIN, soon(1)) == DONE
    assert (await router.read(REQUEST, ReadOptions(), soon(1))).found == "from there"
    stale = ReadOptions(Consistency.STALE)
    assert (await router.read(REQUEST, stale, soon(1))).found == "from there"
    assert router.leader_address() == "http://there"
    assert group.submitted == 0


async def test_a_read_that_waits_for_an_index_is_answered_there_at_once():
    """The replica will never apply that index: it was halted."""
    router, _, forwarder = make("other")
    forwarder.answers = [6]
    task = await under_way(router, router.read(REQUEST, ReadOptions(), soon(60)))
    router.leave(There())
    assert (await task).found == "from there"


async def test_a_read_index_that_comes_after_the_replica_left_is_not_waited_for():
    router, _, forwarder = make("other")
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    forwarder.answers = [answer]
    task = await under_way(router, router.read(REQUEST, ReadOptions(), soon(60)))
    router.leave(There())
    answer.set_result(6)
    assert (await task).found == "from there"


async def test_a_read_that_waits_for_a_leader_or_a_revision_is_answered_there():
    router, _, _ = make(None)
    waiting = await under_way(router, router.read(REQUEST, ReadOptions(), soon(60)))
    later = ReadOptions(Consistency.STALE, min_revision=4)
    revision = await under_way(router, router.read(REQUEST, later, soon(60)))
    router.leave(There())
    assert (await waiting).found == "from there"
    assert (await revision).found == "from there"


async def test_a_read_that_meets_the_closed_state_is_answered_there():
    """It had passed its barrier and waited for a thread. This stopped the whole node."""
    router, _, _ = make()
    there = There()

    class Closed(ScriptedReads):
        async def run(self, request, deadline, priority):
            router.leave(there)
            raise StoreFailed("closed")

    router._reads = Closed()
    options = ReadOptions(Consistency.STALE)
    assert (await router.read(REQUEST, options, soon(1))).found == "from there"


async def test_what_asks_for_this_nodes_state_alone_hears_that_it_left():
    """Another node's read, which is not passed on. A closed state is no failing disk."""
    router, _, _ = make()

    class Closed(ScriptedReads):
        async def run(self, request, deadline, priority):
            router.leave(There())
            raise StoreFailed("closed")

    router._reads = Closed()
    stale = ReadOptions(Consistency.STALE)
    with pytest.raises(ReplicaLeft):
        await router.read_here(REQUEST, stale, soon(1))
    with pytest.raises(ReplicaLeft):
        await router.read_here(REQUEST, stale, soon(1))


async def test_a_failing_disk_is_not_mistaken_for_it():
    router, _, _ = make()

    class Broken(ScriptedReads):
        async def run(self, request, deadline, priority):
            raise StoreFailed("I/O error")

    router._reads = Broken()
    with pytest.raises(StoreFailed):
        await router.read(REQUEST, ReadOptions(Consistency.STALE), soon(1))


async def test_a_write_that_waits_for_a_leader_goes_there():
    router, group, _ = make(None)
    task = await under_way(router, router.propose(PLAIN, soon(60)))
    there = There()
    router.leave(there)
    group.on_leader_change()
    assert await task == DONE
    assert there.proposed == ["there"]


async def test_a_write_that_may_have_been_applied_is_not_repeated_there_without_a_request_id():
    router, group, _ = make()
    there = There()
    group.answers = [OutcomeUnknown("?"), OutcomeUnknown("?")]

    def leaves(command, done):
        router.leave(there)
        done(None, OutcomeUnknown("halted"))

    group.submit = leaves
    with pytest.raises(Unavailable) as caught:
        await router.propose(PLAIN, soon(1))
    assert not caught.value.definite
    assert there.proposed == []

    router, group, _ = make()
    group.submit = leaves
    assert await router.propose(REPEATABLE, soon(1)) == DONE


async def test_what_may_have_been_applied_here_stays_unknown_there():
    router, group, _ = make()
    there = There()

    def leaves(command, done):
        router.leave(there)
        done(None, OutcomeUnknown("halted"))

    async def refuses(node, command, timeout_seconds):
        raise NotLeader(None)

    group.submit, there.propose = leaves, refuses
    with pytest.raises(Unavailable) as caught:
        await router.propose(REPEATABLE, soon())
    assert not caught.value.definite


async def test_a_barrier_alone_says_that_the_replica_left():
    router, _, _ = make(None)
    router.leave(There())
    with pytest.raises(ReplicaLeft):
        await router.barrier(ReadOptions(), soon(1))
