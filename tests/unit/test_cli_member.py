"""`hivemem member`, `transfer-leadership` and `recover`: answers, exit status, local nodes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ChangeRefused, DiskFull, OutcomeUnknown
from cluster.membership import Add, Remove, Update
from node import cli_member, console, local_cluster
from node.client import HivememClient
from node.clock import SystemClock
from node.config import load
from node.local_cluster import LocalCluster
from node.local_plan import LocalNode, Plan, read_plan, with_ports, write_plan
from node.views import ClusterView
from tests.unit.client_nodes import addressed_door, door_address
from tests.unit.member_group import IDS, member
from tests.unit.test_cli import Shell
from tests.unit.test_recover import node as ran_node
from tests.unit.test_recover import open_folder

STANDIN = Path(__file__).with_name("standin_daemon.py")
CLUSTER = "11111111-1111-4111-8111-111111111111"
ADDRESSES = ("--peer", "127.0.0.1:7425", "--http", "http://127.0.0.1:7415")


@pytest.fixture
async def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> AsyncIterator[Shell]:
    async with (
        addressed_door(tmp_path / "door") as door,
        HivememClient([door_address(door)]) as client,
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("HIVEMEM_TOKEN", raising=False)
        monkeypatch.setenv("HIVEMEM_ENDPOINTS", door_address(door))
        monkeypatch.setenv("HIVEMEM_DATA_DIR", str(tmp_path / "local"))
        yield Shell(door, client, capsysbinary)


async def test_members_are_listed(run: Shell) -> None:
    lines = (await run("member", "list")).text.splitlines()
    assert lines[0].split() == ["NODE", "ID", "ROLE", "PEER", "HTTP"]
    assert [line.split()[0::2] for line in lines[1:]] == [
        ["node1", "leader", "http://127.0.0.1:7412"],
        ["node2", "voter", "http://127.0.0.1:7413"],
        ["node3", "voter", "http://127.0.0.1:7414"],
    ]
    assert (await run("member", "list", "-o", "json")).json() == await run.client.members()


async def test_a_node_elsewhere_is_added_without_waiting(run: Shell) -> None:
    added = await run("member", "add", "node4", "--id", IDS[4], *ADDRESSES, "--wait-seconds", "0")
    assert added.status == 0
    assert ["node4", IDS[4], "learner"] in [line.split()[:3] for line in added.text.splitlines()]
    assert "gets its vote by itself" in added.err
    assert run.door.member_group.changes == [Add(member(4, voter=False, incarnation=""))]


async def test_adding_waits_until_the_node_has_a_vote(
    run: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_member, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(cli_member, "POLL_SECONDS", 0.01)
    group = run.door.member_group
    looks = 0
    usual = group.configuration

    def configuration():
        nonlocal looks
        looks += group.found.index > 3
        if looks == 6:
            promoted = group.found.members[-1]._replace(voter=True)
            group.found = group.found._replace(members=(*group.found.members[:-1], promoted))
        return usual()

    monkeypatch.setattr(group, "configuration", configuration)
    added = await run("member", "add", "node4", "--id", IDS[4], *ADDRESSES, "-o", "json")
    assert added.status == 0
    assert added.json()["members"][-1]["role"] == "voter"
    assert "node4 is catching up" in added.err


async def test_a_node_that_does_not_catch_up_in_time(run: Shell) -> None:
    added = await run(
        "member", "add", "node4", "--id", IDS[4], *ADDRESSES, "--wait-seconds", "0.05"
    )
    assert added.status == 5
    assert "node4 is a learner still" in added.err


@pytest.mark.parametrize("named", ["node2", IDS[2]])
async def test_nodes_are_named_by_name_or_id(run: Shell, named: str) -> None:
    group = run.door.member_group
    assert (await run("member", "promote", named)).status == 0
    assert (await run("member", "update", named, "--peer", "127.0.0.1:9")).status == 0
    assert group.changes[-1] == Update(IDS[2], peer="127.0.0.1:9")
    assert (await run("transfer-leadership", named)).text == "node2 leads now\n"
    group.leader = IDS[1]
    removed = await run("member", "remove", named)
    assert removed.status == 0
    assert IDS[2] not in removed.text
    assert group.changes[-1] == Remove(IDS[2])


async def test_leadership_goes_to_whoever_is_furthest(run: Shell) -> None:
    moved = await run("transfer-leadership", "-o", "json")
    assert moved.json() == {"leader": IDS[2], "name": "node2"}
    assert run.door.member_group.transfers == [None]


async def test_exit_status_says_what_kind_of_failure(run: Shell) -> None:
    group = run.door.member_group
    cases = [
        (("member", "remove", "node9"), None, 3, "no member has the name or id node9"),
        (("member", "promote", "node2"), ChangeRefused("lost", "id"), 4, "id: lost"),
        (("member", "promote", "node2"), DiskFull("no room"), 5, "make room on the leader's disk"),
        (("member", "update", "node2"), None, 2, "give --name, --peer or --http"),
        (("member", "update", "node2", "--peer", "x"), None, 1, "peer: must be host:port"),
        (("member", "add", "node4", "--id", IDS[4]), None, 2, "go together"),
        (("member", "add", "node4"), None, 2, "does not hold the cluster that answers"),
        (("member",), None, 2, "COMMAND"),
        (("recover", "--config", "x"), None, 2, "--force-new-cluster"),
        (("recover", "--force-new-cluster", "--config", "x"), None, 1, "x: cannot be read"),
    ]
    for arguments, error, status, said in cases:
        group.refusals = [] if error is None else [error]
        ran = await run(*arguments)
        assert (ran.status, said in ran.err) == (status, True), ran


# Nodes of a local cluster


@pytest.fixture
def plan(tmp_path: Path, run: Shell, monkeypatch: pytest.MonkeyPatch):
    """A local cluster of three that does not run, but is the one that answers."""
    monkeypatch.setattr(
        local_cluster,
        "daemon_command",
        lambda config: [sys.executable, str(STANDIN), "node", "--config", str(config)],
    )
    nodes = tuple(LocalNode(f"node{i}", IDS[i], 0, 0, 0) for i in (1, 2, 3))
    made = with_ports(Plan(tmp_path / "local", CLUSTER, nodes), None, SystemClock(), spare=True)
    write_plan(made)
    usual = run.door.info.cluster_status

    async def cluster_status(timeout: float) -> ClusterView:
        return replace(await usual(timeout), cluster_id=CLUSTER)

    monkeypatch.setattr(run.door.info, "cluster_status", cluster_status)
    spawned: list[LocalCluster] = []
    spawn = LocalCluster.spawn

    def remembered(cluster: LocalCluster, node: LocalNode) -> int:
        spawned.append(cluster)
        return spawn(cluster, node)

    monkeypatch.setattr(LocalCluster, "spawn", remembered)
    yield made
    for cluster in spawned:
        for child in cluster.children.values():
            child.kill()
            child.wait()


def promote_at_once(run: Shell) -> None:
    """New members catch up immediately."""
    group = run.door.member_group
    usual = group.change_membership

    def change_membership(change, done):
        usual(change, done)
        members = tuple(each._replace(voter=True) for each in group.found.members)
        group.found = group.found._replace(members=members)

    group.change_membership = change_membership


async def test_a_local_node_is_made_started_and_added(run: Shell, plan: Plan) -> None:
    promote_at_once(run)
    run.door.network.reachable = None
    added = await run("member", "add", "node4", "-o", "json")
    assert added.status == 0, added.err
    grown = read_plan(plan.root)
    assert grown is not None
    assert grown.nodes[:3] == plan.nodes
    node = grown.nodes[3]
    assert (node.name, node.join) == ("node4", True)
    assert {**added.json()["members"][3]} == {
        "id": node.id,
        "name": "node4",
        "role": "voter",
        "peer": node.peer,
        "http": node.http,
    }
    config = load(grown.config_path(node), environ={})
    assert config.cluster.join
    assert [each.name for each in config.cluster.members] == ["node1", "node2", "node3", "node4"]
    first = load(grown.config_path(plan.nodes[0]), environ={})
    assert len(first.cluster.members) == 3
    pid = grown.running()["node4"]
    again = await run("member", "add", "node4")
    assert (again.status, "a node called node4 already" in again.err) == (1, True)

    os.kill(pid, signal.SIGTERM)  # as a node does by itself when it is removed
    removed = await run("member", "remove", "node4")
    assert removed.status == 0, removed.err
    assert f"its data stays in {grown.folder(node)}" in removed.err
    assert grown.folder(node).exists()
    assert read_plan(plan.root) == plan


async def test_nothing_is_left_of_a_local_node_that_is_refused(run: Shell, plan: Plan) -> None:
    run.door.network.reachable = None
    run.door.member_group.refusals = [ChangeRefused("a group has at most 9 learners", "id")]
    refused = await run("member", "add", "node4")
    assert (refused.status, "at most 9 learners" in refused.err) == (4, True)
    assert read_plan(plan.root) == plan
    assert not (plan.root / "node4").exists()
    assert plan.running() == {}


async def test_a_local_node_that_may_have_been_added_is_kept(run: Shell, plan: Plan) -> None:
    run.door.network.reachable = None
    run.door.member_group.refusals = [OutcomeUnknown("?")] * 1000
    unknown = await run("member", "add", "node4", "--timeout-ms", "500")
    assert (unknown.status, "may have been added" in unknown.err) == (5, True)
    grown = read_plan(plan.root)
    assert grown is not None
    node = grown.nodes[3]
    assert "node4" in grown.running()
    promote_at_once(run)
    run.door.member_group.refusals = []
    added = await run("member", "add", "node4")  # it goes on with the same node
    assert added.status == 0, added.err
    assert node.id in added.text
    assert read_plan(plan.root) == grown


async def test_a_local_node_that_does_not_start_leaves_its_last_words(
    run: Shell, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN", json.dumps({"node4": "exit"}))
    failed = await run("member", "add", "node4")
    assert (failed.status, "last words of node4" in failed.err) == (1, True)
    assert read_plan(plan.root) == plan
    assert not run.door.member_group.changes


async def test_bad_names_of_local_nodes_are_refused(run: Shell, plan: Plan) -> None:
    (plan.root / "node5").mkdir()
    (plan.root / "node5" / "old").write_text("data")
    for name, said in (("../x", "cannot be a node's name"), ("node5", "is not empty")):
        refused = await run("member", "add", name)
        assert (refused.status, said in refused.err) == (1, True), refused
    assert read_plan(plan.root) == plan


# The last resort


async def test_recover_says_what_may_be_lost_and_asks(
    run: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ran_node(tmp_path)
    text = path.read_text()
    command = ("recover", "--force-new-cluster", "--config", str(path))
    silent = await run(*command)
    assert (silent.status, "repeat it with --yes" in silent.err) == (2, True)
    monkeypatch.setattr(console, "confirm", lambda question: False)
    refused = await run(*command)
    assert refused.status == 1
    assert "this node never received are lost" in refused.err
    assert "never committed become committed" in refused.err
    assert f"left behind: node2 ({IDS[2]}), voter" in refused.err
    assert path.read_text() == text
    monkeypatch.setattr(console, "confirm", lambda question: True)
    agreed = await run(*command)
    assert agreed.status == 0
    assert f"hivemem start --config {path}" in agreed.text
    assert path.read_text() != text
    document = (await run(*command, "--yes", "-o", "json")).json()
    assert document["dropped"] == []
    assert load(path, environ={}).cluster.id == document["cluster_id"]


async def test_recover_leaves_a_running_node_alone(run: Shell, tmp_path: Path) -> None:
    path = ran_node(tmp_path)
    data = await asyncio.to_thread(open_folder, path)
    running = await run("recover", "--force-new-cluster", "--config", str(path), "--yes")
    assert (running.status, "in use by pid" in running.err) == (1, True)
    data.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "agreed"), [("yes\n", True), (" YES \n", True), ("y\n", False), ("", False)]
)
def test_only_a_whole_yes_is_one(monkeypatch: pytest.MonkeyPatch, typed: str, agreed: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", terminal)
    assert console.confirm("Really?") is agreed
    assert "Really?" in terminal.getvalue()
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert console.confirm("Really?") is None, "a pipe is nobody to ask"


async def test_learners_are_no_part_of_a_quorum(
    run: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run.door.info.cluster_status

    async def cluster_status(timeout: float) -> ClusterView:
        view = await usual(timeout)
        node = view.nodes[0]
        dead = [replace(node, id=IDS[i], voter=False, healthy=False) for i in (2, 3)]
        return replace(view, nodes=(node, *dead))

    monkeypatch.setattr(run.door.info, "cluster_status", cluster_status)
    status = await run("status", "-o", "json")
    assert (status.status, status.json()["quorum"]) == (0, True)
