"""Nodes come, go and move while clients write; nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from node.client import HivememClient
from node.datadir import owner_pid
from node.errors import Conflict, DeadlineExceeded, NotFound, Unavailable
from node.local_plan import read_plan
from node.local_ports import port_is_free
from scripts.workload import Writers, check_nothing_lost
from tests.cluster.harness import ROOT, LocalCluster, eventually, hivemem, running_cluster
from tests.cluster.test_launcher import free_base

SECONDS = 30.0  # for a change to be seen everywhere
VOTERS_SLOWLY = {  # a leader that hears nobody stays leader long enough to be asked twice
    "HIVEMEM_RAFT_ELECTION_MIN_MS": "3000",
    "HIVEMEM_RAFT_ELECTION_MAX_MS": "3500",
}


async def roles(client: HivememClient) -> dict[str, str]:
    """Name → role, as the members are known."""
    return {each["name"]: each["role"] for each in (await client.members())["members"]}


async def until_voter(client: HivememClient, name: str) -> None:
    async def votes() -> bool:
        return (await roles(client)).get(name) == "voter"

    await eventually(votes, SECONDS, f"{name} has no vote")


# --- A node on this machine ------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; whatever still runs in it after the test is killed."""
    yield tmp_path / "data"
    for lock in (tmp_path / "data").glob("*/lock"):
        with contextlib.suppress(ValueError, ProcessLookupError):
            os.kill(int(lock.read_text()), signal.SIGKILL)


async def ran(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command that is to succeed."""
    done = await hivemem(*arguments)
    assert done.returncode == 0, done.stderr
    return done


async def test_one_command_adds_a_node_and_another_removes_it(folder: Path) -> None:
    here = ("--data-dir", folder)
    port = str(free_base(4))
    started = json.loads((await ran("up", "--detach", *here, "--port", port, "-o", "json")).stdout)
    endpoints = [node["http"] for node in started["nodes"]]
    async with Writers(endpoints, count=8) as writers:
        await writers.reach(100)
        added = await ran("member", "add", "node4", *here)
        await writers.reach(100)
    table = [line.split() for line in added.stdout.splitlines()]
    assert table[0] == ["NODE", "ID", "ROLE", "PEER", "HTTP"]
    assert [row[0] for row in table[1:]] == ["node1", "node2", "node3", "node4"]
    assert sorted(row[2] for row in table[1:]) == ["leader", "voter", "voter", "voter"]
    assert table[4][2] == "voter"
    node4 = table[4][4]
    await check_nothing_lost(writers, node4)

    again = await hivemem("member", "add", "node4", *here)
    assert again.returncode == 1
    assert "has a node called node4 already" in again.stderr

    await ran("down", *here)
    await ran("up", "--detach", *here)
    listed = json.loads((await ran("member", "list", *here, "-o", "json")).stdout)
    assert {each["name"]: each["role"] for each in listed["members"]} == dict.fromkeys(
        ("node1", "node2", "node3", "node4"), "voter"
    )
    await check_nothing_lost(writers, node4)

    removed = await ran("member", "remove", "node4", *here)
    assert "node4 was removed; its data stays in" in removed.stderr
    assert "node4" not in removed.stdout
    plan = read_plan(folder)
    assert plan is not None
    assert [node.name for node in plan.nodes] == ["node1", "node2", "node3"]
    assert "has not ended" not in removed.stderr
    assert owner_pid(folder / "node4") is None
    assert (folder / "node4" / "identity.json").exists()
    for http in endpoints:
        await check_nothing_lost(writers, http)


# --- A node that was started by hand -----------------------------------------------------


class ByHand:
    """A node that an operator set up with `cluster.join` in a folder of its own."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        first = cluster.plan.nodes[0]
        ports = [port for port in range(19_000, 20_000) if port_is_free(port)][:3]
        self.id = str(uuid.uuid4())
        self.http, self.peer = f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        self.config = folder / "node.toml"
        folder.mkdir()
        self.config.write_text(
            f'[node]\nid = "{self.id}"\nname = "other"\ndata_dir = "data"\n'
            f"[http]\nport = {ports[0]}\n[peer]\nport = {ports[1]}\n"
            f"[redis]\nport = {ports[2]}\n"
            f'[cluster]\nid = "{cluster.plan.cluster_id}"\njoin = true\n'
            f'secret_file = "{cluster.plan.root / "secret"}"\n'
            + "".join(
                f'[[cluster.members]]\nid = "{id}"\nname = "{name}"\npeer = "{peer}"\n'
                f'http = "{http}"\n'
                for id, name, peer, http in (
                    (self.id, "other", self.peer, self.http),
                    (first.id, first.name, first.peer, first.http),
                )
            )
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with (self.config.parent / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "start", "--config", str(self.config)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            async with HivememClient([self.http], follow=False) as client:

                async def answers() -> bool:
                    assert process.poll() is None, (self.config.parent / "log").read_text()
                    try:
                        return (await client.status())["role"] == "learner"
                    except (Unavailable, DeadlineExceeded):
                        return False

                await eventually(answers, SECONDS, "the node does not serve")
            yield
        finally:
            process.kill()
            process.wait()


async def test_a_node_elsewhere_is_added_by_its_addresses(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async with Writers(cluster.endpoints, count=8) as writers:
        await writers.reach(50)
        there = ByHand(cluster, tmp_path / "elsewhere")
        ask = ("--endpoints", ",".join(cluster.endpoints), "-o", "json")
        addresses = ("--id", there.id, "--peer", there.peer, "--http", there.http)
        async with cluster.client() as client:
            before = await client.members()

            refused = await hivemem("member", "add", "other", *addresses, *ask)
            assert refused.returncode == 4
            error = json.loads(refused.stderr.splitlines()[-1])["error"]
            assert (error["code"], error["field"]) == ("MEMBERSHIP_CHANGE_REFUSED", "peer")
            assert error["definite"] is True
            assert there.peer in error["message"]

            async with there.running():
                taken = cluster.plan.nodes[0]
                for field, values in (
                    ("name", (taken.name, there.peer, there.http)),
                    ("peer", ("other", taken.peer, there.http)),
                    ("http", ("other", there.peer, taken.http)),
                ):
                    with pytest.raises(Conflict) as conflict:
                        await client.add_member(there.id, *values)
                    assert conflict.value.code == "MEMBERSHIP_CHANGE_REFUSED"
                    assert conflict.value.field == field
                after = await client.members()
                assert after["members"] == before["members"]
                assert after["configuration_index"] == before["configuration_index"]

                added = await ran("member", "add", "other", *addresses, *ask)
                view = json.loads(added.stdout)
                assert {each["name"]: each["role"] for each in view["members"]} == dict.fromkeys(
                    ("node1", "node2", "node3", "other"), "voter"
                )
                await ran("member", "add", "other", *addresses, *ask)  # may be repeated
                await writers.reach(50)
                await writers.stop()
                await check_nothing_lost(writers, there.http)
                await ran("member", "remove", "other", *ask)
                assert (await roles(client)).keys() == {"node1", "node2", "node3"}


async def test_one_change_at_a_time(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, settings=VOTERS_SLOWLY) as cluster:
        leader = await cluster.wait_leader()
        others = [index for index in range(3) if index != leader]
        first, second = await cluster.newcomer("node4"), await cluster.newcomer("node5")
        async with cluster.client(leader) as client:
            await client.put("members", "s", "before", "1")
            nodes = cluster.plan.nodes

            async def add(index: int) -> object:
                node = nodes[index]
                return await client.add_member(node.id, node.name, node.peer, node.http)

            for index in others:
                cluster.pause(index)
            adding = asyncio.create_task(add(first))

            async def appended() -> bool:
                return "node4" in await roles(client)

            await eventually(appended, SECONDS, "the first change is not in the leader's log")
            with pytest.raises(Conflict, match="another change") as refused:
                await add(second)
            assert refused.value.code == "MEMBERSHIP_CHANGE_REFUSED"
            for index in others:
                cluster.resume(index)
            await adding
            await until_voter(client, "node4")
            await add(second)
            await until_voter(client, "node5")
        for index in range(5):
            async with cluster.client(index) as asking:
                assert (await asking.get("members", "s", "before")).text() == "1"


# --- Removing ----------------------------------------------------------------------------


async def test_members_are_removed_and_nobody_is_disturbed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, 4) as cluster:
        leader = await cluster.wait_leader()
        others = (index for index in range(4) if index != leader)
        # Of two nodes the smaller id dials: who was down will knock at the heir.
        down, gone, heir = sorted(others, key=lambda index: cluster.nodes[index].id)
        names = [node.name for node in cluster.nodes]
        ids = [node.id for node in cluster.nodes]
        async with cluster.client() as client, Writers(cluster.endpoints, count=8) as writers:
            await writers.reach(100)
            assert names[gone] in await roles(client)
            await client.remove_member(ids[gone])
            assert await cluster.ended(gone) == 0
            assert "was removed from the cluster" in cluster.log_text(gone)
            with pytest.raises(NotFound) as unknown:
                await client.remove_member(ids[gone])
            assert unknown.value.code == "MEMBER_NOT_FOUND"
            await writers.reach(50)

            await cluster.kill(down)
            await refused_without_quorum(client, ids[down], ids[heir])
            await client.remove_member(ids[down])
            await writers.reach(50)
            term = (await cluster.status(leader) or {})["term"]
            for index in (gone, down):  # both come back, and know nothing or too much
                await cluster.restart(index, ready=False)
            await refused_at_the_door(cluster, down)
            await writers.reach(100)
            assert (await cluster.status(leader) or {})["term"] == term
            assert (await roles(client)).keys() == {names[leader], names[heir]}
            for index in (gone, down):
                if cluster.nodes[index].pid is not None:
                    await cluster.kill(index)

            await client.remove_member(ids[leader])
            assert await cluster.ended(leader) == 0
            assert "was removed from the cluster" in cluster.log_text(leader)
            await writers.reach(50)
            assert await roles(client) == {names[heir]: "voter"}
            with pytest.raises(Conflict, match="last voter"):
                await client.remove_member(ids[heir])
        await check_nothing_lost(writers, cluster.nodes[heir].http)


async def refused_without_quorum(client: HivememClient, down: str, node: str) -> None:
    """Removing `node`, which is well, would leave a majority that does not answer."""
    before = await client.members()

    async def noticed() -> bool:
        views = (await client.cluster())["nodes"]
        return not next(view["healthy"] for view in views if view["id"] == down)

    await eventually(noticed, SECONDS, "nobody sees that a node is down")
    with pytest.raises(Conflict, match="majority") as refused:
        await client.remove_member(node)
    assert refused.value.code == "MEMBERSHIP_CHANGE_REFUSED"
    assert refused.value.definite
    assert (await client.members())["members"] == before["members"]


async def refused_at_the_door(cluster: LocalCluster, index: int) -> None:
    """A node that was removed while it was down serves nobody: its peers do not let it in."""

    async def knocked() -> bool:
        assert cluster.nodes[index].pid is not None, cluster.log_text(index)
        logs = "".join(cluster.log_text(each) for each in range(len(cluster.nodes)))
        name = cluster.nodes[index].name
        return bool(re.search(rf"node {name} \(id .*is not a member that node", logs))

    await eventually(knocked, SECONDS, "nobody refused it")
    status = await cluster.status(index)
    assert status is not None
    assert (status["role"], status["leader"]) == ("follower", None)


# --- Moving ------------------------------------------------------------------------------


async def test_a_node_that_moves_is_found_again(cluster: LocalCluster) -> None:
    """The one with the smallest id dials the others and tells them; the one with the largest
    is dialled, so that an operator has to say where it is."""
    by_id = sorted(range(3), key=lambda index: cluster.nodes[index].id)
    async with cluster.client() as client, Writers(cluster.endpoints, count=8) as writers:
        await writers.reach(50)
        for index, by_itself in ((by_id[0], True), (by_id[2], False)):
            node = cluster.nodes[index]
            await cluster.stop(index)
            port = next(port for port in range(19_000, 20_000) if port_is_free(port))
            config = node.data_dir / "node.toml"
            former = node.peer.rpartition(":")[2]
            config.write_text(config.read_text().replace(former, str(port)))
            if not by_itself:
                moved = f"127.0.0.1:{port}"
                ask = ("--endpoints", ",".join(cluster.endpoints))
                updated = await ran("member", "update", node.name, "--peer", moved, *ask)
                assert moved in updated.stdout
            await cluster.restart(index)
            await writers.reach(50)

            async def known(id: str = node.id, peer: str = f"127.0.0.1:{port}") -> bool:
                members = (await client.members())["members"]
                return {each["id"]: each["peer"] for each in members}[id] == peer

            await eventually(known, SECONDS, f"the members do not know where {node.name} is")
    await cluster.check_nothing_lost(writers)
