"""Nodes that lost their data, and a cluster that lost its quorum for good."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from node.client import HivememClient
from node.errors import Unavailable
from node.local_plan import read_plan
from scripts.workload import Writers, check_nothing_lost
from tests.cluster.harness import LocalCluster, eventually, hivemem
from tests.cluster.test_members import SECONDS, ran, roles, until_voter
from tests.cluster.test_snapshots import SMALL, fill, filled

NOT_SERVED_MS = 2500  # ms; longer than an election takes


def wipe(cluster: LocalCluster, index: int) -> str:
    """Lose everything of a node but its settings; returns the incarnation of what is gone."""
    folder = cluster.nodes[index].data_dir
    incarnation = json.loads((folder / "identity.json").read_text())["incarnation"]
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "node.toml":
            path.unlink()
    return str(incarnation)


def incarnation_of(cluster: LocalCluster, index: int) -> str:
    found = json.loads((cluster.nodes[index].data_dir / "identity.json").read_text())
    return str(found["incarnation"])


async def configuration_index(client: HivememClient) -> int:
    return (await client.members())["configuration_index"]


async def until_readmitted(client: HivememClient, name: str, before: int) -> None:
    """`before`: `configuration_index` when it had not yet lost its data and was a voter, too."""

    async def changed() -> bool:
        # It became a learner, and then a voter: two changes.
        return await configuration_index(client) >= before + 2

    await eventually(changed, SECONDS, f"{name} was not readmitted")
    await until_voter(client, name)


async def test_a_wiped_node_is_readmitted_while_clients_write(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    wiped = (leader + 1) % 3
    name = cluster.nodes[wiped].name
    async with cluster.client() as client, Writers(cluster.endpoints, count=8) as writers:
        await writers.reach(100)
        before = await configuration_index(client)
        await cluster.kill(wiped)
        former = wipe(cluster, wiped)
        await writers.reach(50)
        await cluster.restart(wiped)
        await until_readmitted(client, name, before)
        assert incarnation_of(cluster, wiped) != former
        await writers.reach(50)
        # Its vote is a full one: with the other follower down it makes the majority.
        await cluster.kill((leader + 2) % 3)
        await writers.reach(50)
    await cluster.check_nothing_lost(writers)


async def test_a_wiped_node_makes_no_majority_with_one_that_lags(cluster: LocalCluster) -> None:
    """It may have acknowledged what the other never received: only the third node knows."""
    full = await cluster.wait_leader()
    wiped, lagging = (index for index in range(3) if index != full)
    async with cluster.client() as client, Writers(cluster.endpoints, count=8) as writers:
        await writers.reach(50)
        before = await configuration_index(client)
        await cluster.kill(lagging)
        await writers.reach(100)
    for index in (full, wiped):
        await cluster.kill(index)
    wipe(cluster, wiped)
    for index in (lagging, wiped):
        await cluster.restart(index, ready=False)
        await until_it_answers(cluster, index)
    async with cluster.client(lagging, wiped) as client:
        for number in range(2):
            with pytest.raises(Unavailable) as refused:
                await client.put("wiped", "s", f"k{number}", "x", timeout_ms=NOT_SERVED_MS)
            assert refused.value.code == "QUORUM_NOT_REACHED"
        assert await cluster.leader() is None
    await cluster.restart(full)
    async with cluster.client() as client:
        await until_readmitted(client, cluster.nodes[wiped].name, before)
        assert await roles(client) == dict.fromkeys(("node1", "node2", "node3"), "voter")
        kept = {item.key async for item in client.list("wiped", "s")}
        assert not (refused.value.definite and "k1" in kept)
    await cluster.check_nothing_lost(writers)


async def until_it_answers(cluster: LocalCluster, index: int) -> None:
    async def answers() -> bool:
        return await cluster.status(index) is not None

    await eventually(answers, SECONDS, f"{cluster.nodes[index].name} does not answer")


@pytest.mark.parametrize("cluster", [SMALL], indirect=True)
async def test_one_survivor_becomes_a_new_cluster(cluster: LocalCluster) -> None:
    await cluster.wait_leader()
    # Of two nodes the smaller id dials: those that are lost can knock at the survivor.
    leader = max(range(3), key=lambda index: cluster.nodes[index].id)
    lost = [index for index in range(3) if index != leader]
    async with cluster.client() as client, Writers(cluster.endpoints, count=8) as writers:
        await client.transfer_leadership(cluster.nodes[leader].id)
        await fill(cluster, 10)  # What comes later is rebuilt from a snapshot of former times.
        await writers.reach(100)
    await cluster.check_nothing_lost(writers)
    held = await cluster.status(leader)
    assert held is not None
    assert held["log_first_index"] > 1
    await cluster.kill_all()
    root, former = cluster.plan.root, cluster.plan.cluster_id
    survivor = cluster.nodes[leader]
    config = survivor.data_dir / "node.toml"

    unsaid = await hivemem("recover", "--config", config)
    assert unsaid.returncode == 2
    recovered = await ran("recover", "--force-new-cluster", "--yes", "--config", config)
    assert "Writes that a majority acknowledged and this node never received" in recovered.stderr
    plan = read_plan(root)
    assert plan is not None
    assert [node.id for node in plan.nodes] == [survivor.id]
    assert plan.cluster_id != former

    await cluster.restart(leader)
    async with cluster.client(leader) as client:
        assert (await client.cluster())["cluster_id"] == plan.cluster_id
        assert await roles(client) == {survivor.name: "voter"}
        await check_nothing_lost(writers, survivor.http)
        await client.put("recovered", "s", "k", "1")
        term = (await client.status())["term"]

        # Two that were thought lost come back, and are the old cluster still. Together they
        # would be its majority: that is why they must not meet the new one.
        for index in lost:
            await cluster.restart(index, ready=False)
            await until_it_answers(cluster, index)
        await until_refused(cluster, former)
        await client.put("recovered", "s", "k", "2")
        assert (await client.status())["term"] == term
        assert await roles(client) == {survivor.name: "voter"}
        for index in lost:
            await cluster.kill(index)

    name = cluster.nodes[lost[0]].name
    await asyncio.to_thread(shutil.rmtree, cluster.nodes[lost[0]].data_dir)
    cluster.daemons.plan = plan
    added = await cluster.newcomer(name)
    node = cluster.plan.nodes[added]
    async with cluster.client() as client:
        await client.add_member(node.id, node.name, node.peer, node.http)
        await until_voter(client, node.name)
    async with HivememClient([survivor.http], follow=False) as client:
        everything = await filled(client)
        assert everything
    async with cluster.client(added) as client:
        assert (await client.get("recovered", "s", "k")).text() == "2"
        assert await filled(client) == everything
    await check_nothing_lost(writers, node.http)


async def until_refused(cluster: LocalCluster, former: str) -> None:
    async def refused() -> bool:
        logs = (cluster.log_text(index) for index in range(len(cluster.nodes)))
        return any(f"belongs to cluster {former}" in text for text in logs)

    await eventually(refused, SECONDS, "the old cluster's nodes do not knock")
