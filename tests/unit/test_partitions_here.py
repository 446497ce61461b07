"""Which replicas a node opens and gives up, and with whose vote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import Removed
from node.partitions import LEADERLESS_SECONDS_MAX
from tests.unit.member_group import IDS
from tests.unit.partition_node import SELF, OneNode, ScriptedReplica, map_of, members

FOUNDERS = (IDS[1], IDS[2], IDS[3])
ELSEWHERE = (IDS[3], IDS[4], IDS[5])
FIRST = map_of(1, FOUNDERS, ELSEWHERE)
MOVED = map_of(2, ELSEWHERE, ELSEWHERE, founders=FOUNDERS)  # partition 1 has left
BACK = map_of(3, FOUNDERS, ELSEWHERE, founders=FOUNDERS)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneNode]:
    made = OneNode(tmp_path / "data", monkeypatch)
    yield made
    made.data_dir.close()


async def founded(node: OneNode) -> ScriptedReplica:
    """Partition 1 is here, and its log names its members."""
    node.state.map = FIRST
    node.confirmed = [FIRST]
    await node.partitions.look()
    (replica,) = node.made
    replica.group.found = node.logs[1] = members(3, *FOUNDERS)
    return replica


# --- Opening ---------------------------------------------------------------------------


async def test_the_first_replicas_vote(node: OneNode) -> None:
    replica = await founded(node)
    assert node.held() == [1]
    assert replica.bootstrap.voters == set(FOUNDERS)
    assert replica.events == ["start"]


async def test_nothing_is_opened_before_the_map_is_known(node: OneNode) -> None:
    await node.partitions.look()
    assert node.held() == []
    await founded(node)
    assert node.held() == [1]


async def test_a_first_map_that_nobody_confirms_opens_nothing(node: OneNode) -> None:
    node.state.map = FIRST
    await node.partitions.look()
    assert node.held() == []
    assert node.folders() == []
    node.confirmed = [FIRST]
    await node.partitions.look()
    assert node.held() == [1]


async def test_an_old_view_of_the_map_founds_nothing(node: OneNode) -> None:
    """The node held the partition, and has forgotten how it voted. Two such founders would
    elect each other, and serve an empty partition."""
    node.state.map = FIRST
    node.confirmed = [MOVED]
    await node.partitions.look()
    assert node.held() == []
    assert not node.made, "a replica was opened on the word of an old map"


async def test_who_comes_later_has_no_vote_before_the_log_gives_it_one(node: OneNode) -> None:
    node.state.map = BACK
    await node.partitions.look()
    (replica,) = node.made
    assert SELF in replica.bootstrap.ids
    assert SELF not in replica.bootstrap.voters
    assert replica.bootstrap.ids == set(IDS[1:6]), "any node may lead it by now"


async def test_a_replica_that_was_here_is_opened_at_the_start(node: OneNode) -> None:
    await founded(node)
    node.start_again()
    node.state.map = MOVED  # on its way out, and still a member
    node.partitions.open()
    assert node.held() == [1]
    assert node.made[0].votes, "what the log says counts"


async def test_groups_are_opened_later_where_the_system_state_is_not_there_yet(
    node: OneNode,
) -> None:
    await founded(node)
    node.start_again()
    node.partitions.open()
    assert node.held() == []
    node.state.map = MOVED
    await node.partitions.look()
    assert node.held() == [1]
    assert node.made[0].events == ["start"]
    assert node.folders() == [1], "a replica was deleted because of the map alone"


async def test_a_log_that_names_nobody_gets_its_vote_after_a_quorum_confirmed_the_map(
    node: OneNode,
) -> None:
    """All founders may be in this case, so somebody must come to vote; but a replica that was
    made for a later map looks the same to a node whose own map is old."""
    await founded(node)
    del node.logs[1]  # no leader was heard before the crash
    node.start_again()
    node.state.map = FIRST
    node.partitions.open()
    (replica,) = node.made
    assert not replica.votes
    await node.partitions.look()
    assert node.held() == [1]
    assert not replica.votes, "nobody confirmed the map yet"
    node.confirmed = [FIRST]
    await node.partitions.look()
    assert node.made[-1].votes
    assert replica.events == ["stop", "close"]
    assert node.held() == [1]
    await node.partitions.look()
    assert len(node.made) == 2, "it is opened anew once"


async def test_a_replica_of_a_later_map_stays_without_a_vote(node: OneNode) -> None:
    await founded(node)
    del node.logs[1]
    node.start_again()
    node.state.map = FIRST
    node.partitions.open()
    node.confirmed = [BACK]
    await node.partitions.look()
    assert [replica.votes for replica in node.made] == [False]


# --- Giving up -------------------------------------------------------------------------


async def test_the_map_alone_deletes_nothing(node: OneNode) -> None:
    replica = await founded(node)
    replica.group.leader = IDS[3]
    node.state.map = MOVED
    for _ in range(5):
        await node.partitions.look()
        node.clock.now += LEADERLESS_SECONDS_MAX
    assert node.folders() == [1]
    assert replica.events == ["start"]


async def test_a_replica_that_is_told_of_its_removal_is_deleted(node: OneNode) -> None:
    replica = await founded(node)
    left: list[int] = []
    node.partitions.on_leave = lambda gone: left.append(gone.id)
    node.state.map = MOVED
    replica.fail(Removed("removed"))
    assert not node.failures, "the node goes on"
    await node.partitions.look()
    assert replica.events == ["start", "stop", "close to delete"]
    assert left == [1], "requests that wait for it were not told"
    assert node.held() == []
    assert node.folders() == []


async def test_any_other_failure_of_a_group_ends_the_node(node: OneNode) -> None:
    replica = await founded(node)
    error = OSError("disk")
    replica.fail(error)
    assert node.failures == [error]


async def test_a_replica_that_comes_back_begins_empty_and_without_a_vote(node: OneNode) -> None:
    replica = await founded(node)
    node.state.map = MOVED
    replica.fail(Removed("removed"))
    await node.partitions.look()
    del node.logs[1]
    node.state.map = BACK
    await node.partitions.look()
    assert node.held() == [1]
    assert not node.made[-1].votes


async def test_a_replica_that_the_map_wants_is_not_removed_by_its_log(node: OneNode) -> None:
    replica = await founded(node)
    assert replica.wanted()
    node.state.map = MOVED
    assert not replica.wanted()


async def test_a_crash_between_the_rename_and_the_deletion_leaves_nothing(
    node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await founded(node)
    node.state.map = MOVED
    replica.fail(Removed("removed"))
    with monkeypatch.context() as crash:
        crash.setattr("node.datadir.shutil.rmtree", lambda *ignored, **also: None)
        await node.partitions.look()
    groups = node.data_dir.root / "groups"
    assert [folder.name for folder in groups.iterdir()] == ["1.removed"]
    node.start_again()
    node.state.map = MOVED
    node.partitions.open()
    assert node.held() == []
    assert list(groups.iterdir()) == []


# --- Away while it was removed -----------------------------------------------------------


async def leaderless(node: OneNode) -> ScriptedReplica:
    """Nobody of the group talks to the replica, and it is to go."""
    replica = await founded(node)
    node.state.map = MOVED
    await node.partitions.look()
    node.clock.now += LEADERLESS_SECONDS_MAX + 1
    return replica


async def test_a_replica_that_nobody_talks_to_asks_and_is_deleted(node: OneNode) -> None:
    replica = await leaderless(node)
    replica.answers[IDS[3]] = members(9, *ELSEWHERE)
    await node.partitions.look()
    assert node.folders() == []
    assert replica.events == ["start", "stop", "close to delete"]


async def test_it_asks_those_that_took_over_too(node: OneNode) -> None:
    """None of those that it knows may hold the partition by now."""
    replica = await founded(node)
    node.state.map = map_of(2, (IDS[4], IDS[5]), ELSEWHERE, founders=FOUNDERS)
    await node.partitions.look()
    node.clock.now += LEADERLESS_SECONDS_MAX + 1
    replica.answers[IDS[5]] = members(9, IDS[4], IDS[5])
    await node.partitions.look()
    assert set(replica.asked) == set(IDS[2:6])
    assert node.folders() == []


async def test_it_learns_that_the_last_entry_it_was_sent_is_committed(node: OneNode) -> None:
    """Its log ends with its removal. Nobody told it any more that this was committed."""
    replica = await leaderless(node)
    replica.group.found = members(9, *ELSEWHERE)
    await node.partitions.look()
    assert node.folders() == [1], "nobody said that it is committed"
    node.clock.now += LEADERLESS_SECONDS_MAX + 1
    replica.answers[IDS[3]] = members(9, *ELSEWHERE)
    await node.partitions.look()
    assert node.folders() == []


@pytest.mark.parametrize(
    "answer",
    [
        members(2, *ELSEWHERE),  # older than what the replica knows itself
        members(3, *FOUNDERS),
        members(9, *FOUNDERS),
        members(9, *ELSEWHERE, learners=(SELF,)),
    ],
)
async def test_only_a_configuration_as_new_and_without_it_counts(
    node: OneNode, answer: object
) -> None:
    replica = await leaderless(node)
    replica.answers = dict.fromkeys(IDS[2:6], answer)  # type: ignore[arg-type]
    await node.partitions.look()
    assert node.folders() == [1]
    assert replica.events == ["start"]


async def test_silence_is_no_answer(node: OneNode) -> None:
    replica = await leaderless(node)
    await node.partitions.look()
    assert replica.asked
    assert node.folders() == [1]


async def test_what_it_hears_while_it_asks_counts_more(node: OneNode) -> None:
    """It was admitted again meanwhile: a newer configuration, that it may have acknowledged."""
    replica = await leaderless(node)
    replica.answers[IDS[3]] = members(9, *ELSEWHERE)

    def admitted() -> None:
        replica.group.found = members(12, *ELSEWHERE, learners=(SELF,))

    replica.meanwhile = admitted
    await node.partitions.look()
    assert node.folders() == [1]
    assert not replica.group.halted


async def test_what_the_map_wants_meanwhile_is_kept(node: OneNode) -> None:
    replica = await leaderless(node)
    replica.answers[IDS[3]] = members(9, *ELSEWHERE)
    replica.meanwhile = lambda: setattr(node.state, "map", BACK)
    await node.partitions.look()
    assert node.folders() == [1]
