"""Read indices: who shares a question, and that it is asked after everybody in it came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.errors import ClusterError, NoQuorum, NotLeader, PeerUnreachable
from node.read_indexes import ReadIndexes

SECONDS = 30.0
Done = Callable[[int | None, ClusterError | None], None]


class Group:
    """Collects questions; the test answers them."""

    def __init__(self) -> None:
        self.asked: list[Done] = []

    def read_index(self, done: Done) -> None:
        self.asked.append(done)


class Leader:
    """Another node that leads. `asked`: leader, confirmed, seconds, what it will answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, float, asyncio.Future[int]]] = []

    async def read_index(self, leader: str, *, confirmed: bool, timeout_seconds: float) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.asked.append((leader, confirmed, timeout_seconds, answer))
        return await answer


def made() -> tuple[ReadIndexes, Group, Leader]:
    group, leader = Group(), Leader()
    return ReadIndexes(group, leader), group, leader  # type: ignore[arg-type]


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_reads_of_one_turn_share_a_round() -> None:
    indexes, group, _ = made()
    reads = [indexes.of_group(SECONDS) for _ in range(5)]
    assert group.asked == []  # not before everybody of the turn has come
    await turns()
    (done,) = group.asked
    done(7, None)
    assert await asyncio.gather(*reads) == [7] * 5


async def test_who_comes_after_the_question_waits_for_another() -> None:
    """The first one's answer may be older than what was acknowledged before the second came."""
    indexes, group, _ = made()
    first = indexes.of_group(SECONDS)
    await turns()
    second = indexes.of_group(SECONDS)
    group.asked[0](7, None)
    assert await first == 7
    await turns()
    assert not second.done()
    group.asked[1](9, None)
    assert await second == 9


async def test_who_gives_up_ends_it_for_nobody_else() -> None:
    indexes, group, _ = made()
    gone, stays = indexes.of_group(SECONDS), indexes.of_group(SECONDS)
    await turns()
    gone.cancel()
    group.asked[0](7, None)
    assert await stays == 7


async def test_the_least_time_is_everybodys_and_a_late_answer_is_nobodys() -> None:
    indexes, group, _ = made()
    reads = [indexes.of_group(SECONDS), indexes.of_group(0.001), indexes.of_group(SECONDS)]
    for read in reads:
        with pytest.raises(NoQuorum):
            await read
    group.asked[0](7, None)
    again = indexes.of_group(SECONDS)
    await turns()
    group.asked[1](9, None)
    assert await again == 9


@pytest.mark.parametrize("error", [NotLeader("b"), NoQuorum("lost"), None])
async def test_a_group_that_refuses(error: ClusterError | None) -> None:
    indexes, group, _ = made()
    reads = [indexes.of_group(SECONDS) for _ in range(2)]
    await turns()
    group.asked[0](None, error)
    for read in reads:
        with pytest.raises(type(error or NoQuorum(""))):
            await read


async def test_a_leader_elsewhere_is_asked_once_a_turn_and_kind() -> None:
    indexes, group, leader = made()
    confirmed = [indexes.of_leader("b", confirmed=True, seconds=s) for s in (3.0, 2.0, 4.0)]
    loose = indexes.of_leader("b", confirmed=False, seconds=SECONDS)
    other = indexes.of_leader("c", confirmed=True, seconds=SECONDS)
    await turns()
    asked = [each[:3] for each in leader.asked]
    assert asked == [("b", True, 2.0), ("b", False, SECONDS), ("c", True, SECONDS)]
    for place, (*_, answer) in enumerate(leader.asked):
        answer.set_result(place)
    assert await asyncio.gather(*confirmed, loose, other) == [0, 0, 0, 1, 2]
    assert group.asked == []


async def test_a_leader_that_is_not_there() -> None:
    indexes, _, leader = made()
    reads = [indexes.of_leader("b", confirmed=True, seconds=SECONDS) for _ in range(2)]
    reads[0].cancel()
    await turns()
    leader.asked[0][3].set_exception(PeerUnreachable("gone", definite=True))
    with pytest.raises(PeerUnreachable):
        await reads[1]


async def test_a_question_that_is_given_up_is_no_answer() -> None:
    indexes, _, leader = made()
    read = indexes.of_leader("b", confirmed=True, seconds=SECONDS)
    await turns()
    leader.asked[0][3].cancel()
    with pytest.raises(NoQuorum):
        await read
