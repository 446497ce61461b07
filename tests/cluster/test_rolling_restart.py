"""Leadership is handed over, and nodes are restarted one by one, while clients write."""

from __future__ import annotations

import pytest

from node.client import HivememClient
from node.errors import Conflict, NotFound
from scripts.workload import Writers
from tests.cluster.harness import LocalCluster, eventually
from tests.cluster.test_members import SECONDS, ran, until_voter

# Its peers refuse a node with other limits: it cannot catch up, and stays a learner.
OTHER_LIMITS = {"HIVEMEM_LIMITS_REQUEST_IDS_MAX": "5000"}


async def until_led_by(cluster: LocalCluster, index: int) -> None:
    async def leads() -> bool:
        return await cluster.leader() == index

    await eventually(leads, SECONDS, f"{cluster.nodes[index].name} does not lead")


async def test_leadership_is_handed_over_while_clients_write(cluster: LocalCluster) -> None:
    first = await cluster.wait_leader()
    async with cluster.client() as client, Writers(cluster.endpoints, count=8) as writers:
        await writers.reach(50)
        furthest = cluster.index(await client.transfer_leadership())
        assert furthest != first
        await until_led_by(cluster, furthest)
        await writers.reach(50)

        ask = ("--endpoints", ",".join(cluster.endpoints))
        back = cluster.nodes[first].name
        moved = await ran("transfer-leadership", back, *ask)
        assert moved.stdout == f"{back} leads now\n"
        await until_led_by(cluster, first)
        term = (await client.status(cluster.nodes[first].http))["term"]
        await ran("transfer-leadership", back, *ask)  # It leads already.
        await writers.reach(50)
        assert (await client.status(cluster.nodes[first].http))["term"] == term
        assert await cluster.leader() == first
    assert not writers.unknown
    await cluster.check_nothing_lost(writers)


async def test_who_cannot_lead_is_refused(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    added = await cluster.newcomer("node4", OTHER_LIMITS)
    node = cluster.plan.nodes[added]
    async with cluster.client(leader) as client:
        with pytest.raises(NotFound) as unknown:
            await client.transfer_leadership(node.id)
        assert (unknown.value.code, unknown.value.field) == ("MEMBER_NOT_FOUND", "target")
        await client.add_member(node.id, node.name, node.peer, node.http)
        with pytest.raises(Conflict) as refused:
            await client.transfer_leadership(node.id)
        assert refused.value.code == "MEMBERSHIP_CHANGE_REFUSED"
        assert refused.value.field == "target"
        assert refused.value.definite
        assert await cluster.leader() == leader
        await client.put("transfer", "s", "k", "1")
        await cluster.stop(added)
        await cluster.restart(added, ready=False)
        await until_voter(client, "node4")
        await until_handed_over(client, node.id)
    await until_led_by(cluster, added)


async def until_handed_over(client: HivememClient, node: str) -> None:
    """It has a vote as soon as the leader reaches it. The others, who dial it again at their own
    pace after they refused it, have to reach it as well before they can elect it."""

    async def handed_over() -> bool:
        try:
            return await client.transfer_leadership(node) == node
        except Conflict as error:
            if "did not take over in time" not in error.message:
                raise
            return False

    await eventually(handed_over, 20, f"{node} was not elected")


async def test_a_rolling_restart_loses_no_write_and_no_quorum(cluster: LocalCluster) -> None:
    await cluster.wait_leader()
    handed_over = 0
    async with Writers(cluster.endpoints, count=8) as writers:
        for index in range(3):
            await writers.reach(50)
            leads = await cluster.leader() == index
            assert await cluster.stop(index) == 0
            # Of the leader too: another took over before it ended.
            handed_over += leads
            assert ("leadership was handed to" in cluster.log_text(index)) == leads
            await writers.reach(50)
            await cluster.restart(index)
        if not handed_over:  # Leadership went ahead of the restarts each time.
            leader = await cluster.wait_leader()
            assert await cluster.stop(leader) == 0
            assert "leadership was handed to" in cluster.log_text(leader)
            await cluster.restart(leader)
        await writers.reach(50)
    await cluster.check_nothing_lost(writers)
