"""Read indices of a leader elsewhere: who shares a question, asked after everybody in it came."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import NoQuorum, PeerUnreachable
from node.read_indexes import ReadIndexes

SECONDS = 30.0


class Leader:
    """Another node that leads. `asked`: leader, confirmed, seconds, what it will answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, float, asyncio.Future[int]]] = []

    async def read_index(self, leader: str, *, confirmed: bool, timeout_seconds: float) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.asked.append((leader, confirmed, timeout_seconds, answer))
        return await answer


class Bed:
    def __init__(self) -> None:
        self.leader = Leader()
        self._indexes = ReadIndexes(self.leader)

    async def read(
        self, leader: str = "b", *, confirmed: bool = True, seconds: float = SECONDS
    ) -> asyncio.Task[int]:
        """A read that waits; it has come when this returns."""
        work = self._indexes.get(leader, confirmed=confirmed, seconds=seconds)
        task = asyncio.create_task(work)
        await asyncio.sleep(0)
        return task


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_reads_of_one_turn_share_a_question() -> None:
    leader = Leader()
    indexes = ReadIndexes(leader)
    reads = [
        asyncio.create_task(indexes.get("b", confirmed=True, seconds=each))
        for each in (3.0, 4.0, 2.0)
    ]
    await turns()
    ((name, confirmed, seconds, answer),) = leader.asked
    assert (name, confirmed, seconds) == ("b", True, 4.0)  # the most patient one's
    answer.set_result(7)
    assert await asyncio.gather(*reads) == [7] * 3


async def test_who_comes_after_the_question_waits_for_another() -> None:
    """The first one's answer may be older than what was acknowledged before the second came."""
    bed = Bed()
    first = await bed.read()
    await turns()
    second = await bed.read()
    bed.leader.asked[0][3].set_result(7)
    assert await first == 7
    await turns()
    assert not second.done()
    bed.leader.asked[1][3].set_result(9)
    assert await second == 9


async def test_who_gives_up_ends_it_for_nobody_else() -> None:
    leader = Leader()
    indexes = ReadIndexes(leader)
    gone, stays = (
        asyncio.create_task(indexes.get("b", confirmed=True, seconds=SECONDS)) for _ in range(2)
    )
    await turns()
    gone.cancel()
    await turns()
    leader.asked[0][3].set_result(7)
    assert await stays == 7


async def test_who_is_in_a_hurry_ends_it_for_nobody_else() -> None:
    leader = Leader()
    indexes = ReadIndexes(leader)
    brief, patient = (
        asyncio.create_task(indexes.get("b", confirmed=True, seconds=each))
        for each in (0.001, SECONDS)
    )
    with pytest.raises(NoQuorum):
        await brief
    assert not patient.done()
    assert len(leader.asked) == 1
    leader.asked[0][3].set_result(7)
    assert await patient == 7


async def test_leaders_and_kinds_are_asked_apart() -> None:
    leader = Leader()
    indexes = ReadIndexes(leader)
    kinds = [("b", True), ("b", False), ("c", True)]
    reads = [
        asyncio.create_task(indexes.get(name, confirmed=confirmed, seconds=SECONDS))
        for name, confirmed in kinds
    ]
    await turns()
    assert [each[:2] for each in leader.asked] == kinds
    for place, (*_, answer) in enumerate(leader.asked):
        answer.set_result(place)
    assert await asyncio.gather(*reads) == [0, 1, 2]


async def test_a_leader_that_is_not_there() -> None:
    bed = Bed()
    read = await bed.read()
    await turns()
    bed.leader.asked[0][3].set_exception(PeerUnreachable("gone", definite=True))
    with pytest.raises(PeerUnreachable):
        await read


async def test_a_question_that_is_given_up_is_no_answer() -> None:
    bed = Bed()
    read = await bed.read()
    await turns()
    bed.leader.asked[0][3].cancel()
    with pytest.raises(NoQuorum):
        await read
