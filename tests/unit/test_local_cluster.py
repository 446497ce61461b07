"""Starting and stopping the processes of a local cluster, with stand-ins for the daemons."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node import cli_cluster, local_cluster, local_members
from node.clock import SystemClock
from node.config import load
from node.config_schema import REDIS_PORT, REDIS_PORT_OFFSET
from node.environment import environment
from node.errors import LaunchError
from node.local_cluster import Interrupted, LocalCluster
from node.local_launch import Request, bring_up
from node.local_members import abandon, forget, start_newcomer
from node.local_plan import read_plan

STANDIN = Path(__file__).with_name("standin_daemon.py")
CLOCK = SystemClock()

Up = Callable[..., LocalCluster]


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    """Bring a cluster of stand-ins up in tmp_path/data; all are gone after the test."""
    monkeypatch.setattr(
        local_cluster,
        "daemon_command",
        lambda config: [sys.executable, str(STANDIN), "node", "--config", str(config)],
    )
    root = tmp_path / "data"
    started: list[LocalCluster] = []

    def bring(
        environ: dict[str, str] | None = None,
        interrupted: threading.Event | None = None,
        request: Request | None = None,
        **modes: str,
    ) -> LocalCluster:
        request = request or Request(root, spare=True)
        surroundings = {**environment(), **(environ or {}), "STANDIN": json.dumps(modes)}
        cluster = bring_up(request, CLOCK, surroundings, interrupted or threading.Event())
        started.append(cluster)
        return cluster

    yield bring
    for cluster in started:
        for child in cluster.children.values():
            child.kill()
            child.wait()
    plan = read_plan(root)
    for pid in plan.running().values() if plan else ():
        os.kill(pid, signal.SIGKILL)


def eventually(holds: Callable[[], bool], seconds: float = 10) -> None:
    pause = threading.Event()
    deadline = CLOCK.monotonic() + seconds
    while not holds():
        assert CLOCK.monotonic() < deadline
        pause.wait(0.02)


def test_a_cluster_comes_up_and_goes_down(up: Up) -> None:
    cluster = up()
    views = cluster.views()
    assert [view.role for view in views] == ["leader", "follower", "follower"]
    assert all(view.ready for view in views)
    assert {view.name: view.pid for view in views} == cluster.plan.running()
    assert cluster.stop() == []
    assert cluster.plan.running() == {}
    assert cluster.views()[0].pid is None


def test_a_second_start_finds_the_first_running(up: Up) -> None:
    first = up()
    second = up()
    assert not second.children
    assert second.pids() == first.pids()
    with pytest.raises(LaunchError, match="end it first: hivemem down"):
        up(request=Request(first.plan.root, base=4000))
    with pytest.raises(LaunchError, match="is running"):
        up(request=Request(first.plan.root, fresh=True))
    assert second.stop() == []  # they are not its children
    assert first.plan.running() == {}


def test_a_second_start_after_a_stop_finds_the_same_nodes(up: Up) -> None:
    first = up()
    first.stop()
    second = up()
    assert second.plan == first.plan
    second.stop()
    fresh = up(request=Request(first.plan.root, fresh=True))
    assert fresh.plan.cluster_id != first.plan.cluster_id


def test_another_number_of_nodes_is_refused(up: Up) -> None:
    cluster = up()
    cluster.stop()
    with pytest.raises(LaunchError, match="has 3 nodes, not 5"):
        up(request=Request(cluster.plan.root, count=5))


def test_only_the_missing_nodes_of_a_cluster_are_started(up: Up) -> None:
    first = up()
    survivors = first.pids()
    killed = survivors.pop("node2")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: first.pids() == survivors)
    second = up()
    assert list(second.children) == ["node2"]
    assert {name: second.pids()[name] for name in survivors} == survivors


def test_one_that_does_not_start_takes_the_others_down(up: Up, tmp_path: Path) -> None:
    with pytest.raises(LaunchError) as caught:
        up(node2="exit")
    assert "node2 ended with exit code 3" in str(caught.value)
    assert "last words of node2" in str(caught.value)
    plan = read_plan(tmp_path / "data")
    assert plan is not None
    assert plan.running() == {}


def test_a_failed_join_leaves_the_running_nodes_alone(up: Up) -> None:
    first = up()
    survivors = first.pids()
    os.kill(survivors.pop("node3"), signal.SIGKILL)
    eventually(lambda: first.pids() == survivors)
    with pytest.raises(LaunchError, match="node3 ended"):
        up(node3="exit")
    assert first.pids() == survivors


def test_a_cluster_without_quorum_is_stopped_at_the_deadline(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_cluster, "START_DEADLINE_MS", 2_000)
    with pytest.raises(LaunchError, match=r"no quorum served within 2 s; .*node2, node3"):
        up(node2="silent", node3="silent")
    plan = read_plan(tmp_path / "data")
    assert plan is not None
    assert plan.running() == {}


def test_one_that_stays_behind_does_not_hold_up_the_others(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_cluster, "ALL_READY_GRACE_MS", 100)
    cluster = up(node3="silent")
    assert [view.ready for view in cluster.views()] == [True, True, False]


def test_an_interrupt_during_the_start_leaves_nothing(up: Up, tmp_path: Path) -> None:
    interrupted = threading.Event()
    interrupted.set()
    with pytest.raises(Interrupted):
        up(interrupted=interrupted)
    plan = read_plan(tmp_path / "data")
    assert plan is not None
    assert plan.running() == {}


def test_a_node_that_ignores_the_request_to_stop_is_killed(up: Up) -> None:
    cluster = up(node1="deaf")
    assert "node1" in cluster.stop(grace_ms=500)  # others may be slow on a loaded machine
    assert cluster.plan.running() == {}


def test_a_second_interrupt_kills_at_once(up: Up) -> None:
    cluster = up(node1="deaf", node2="deaf", node3="deaf")
    again = threading.Timer(0.3, cluster.interrupted.set)
    again.start()
    began = CLOCK.monotonic()
    assert sorted(cluster.stop()) == ["node1", "node2", "node3"]
    assert CLOCK.monotonic() - began < local_cluster.STOP_GRACE_MS / 1000
    again.join()


def test_the_end_of_a_node_is_reported_once_with_its_cause(up: Up) -> None:
    cluster = up()
    pid = cluster.pids()["node2"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: cluster.children["node2"].poll() is not None)
    (ended,) = cluster.exited()
    assert (ended.node.name, ended.pid, str(ended)) == ("node2", pid, "was ended by SIGKILL")
    assert cluster.exited() == []


def test_a_pid_that_is_not_a_daemon_is_not_signalled(up: Up) -> None:
    cluster = up()
    with pytest.raises(LaunchError, match="another machine or container"):
        cluster.signal("node9", os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "variable", ["HIVEMEM_HTTP_PORT", "HIVEMEM_REDIS_PORT", "HIVEMEM_NODE_ID", "HIVEMEM_CLUSTER_ID"]
)
def test_variables_that_would_make_all_nodes_alike_are_refused(
    up: Up, tmp_path: Path, variable: str
) -> None:
    with pytest.raises(LaunchError, match=f"{variable} would apply to every node"):
        up(environ={variable: "1"})


def test_one_variable_switches_the_redis_door_of_all_nodes_off(up: Up) -> None:
    cluster = up()
    assert [view.redis for view in cluster.views()] == [node.redis for node in cluster.plan.nodes]
    cluster.stop()
    # Before they answer, what is planned is all that is known.
    assert cluster.views()[0].redis == cluster.plan.nodes[0].redis
    silent = up(environ={"HIVEMEM_REDIS_ENABLED": "false"})
    assert [view.redis for view in silent.views()] == [None, None, None]


@pytest.mark.parametrize("on", [True, False])
def test_up_says_where_the_redis_doors_are(
    up: Up, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], on: bool
) -> None:
    cluster = up(environ={"HIVEMEM_REDIS_ENABLED": json.dumps(on)})
    monkeypatch.setattr(cli_cluster, "bring_up", lambda *rest: cluster)
    monkeypatch.setattr(signal, "signal", lambda *rest: None)  # they are the test run's
    parser = argparse.ArgumentParser()
    cli_cluster.add_commands(parser.add_subparsers())
    command = ["up", "--detach", "--data-dir", str(cluster.plan.root)]
    capsys.readouterr()
    for output in ("table", "json"):
        options = parser.parse_args([*command, "-o", output])
        assert options.run(options) == 0
    table, _, last = capsys.readouterr().out.rstrip().rpartition("\n")
    first = cluster.plan.nodes[0]
    assert (f"  redis-cli -p {first.redis_port} " in table) == on
    told = [node["redis"] for node in json.loads(last)["nodes"]]
    assert told == [node.redis if on else None for node in cluster.plan.nodes]


def test_nodes_that_an_older_version_planned_get_what_is_new(up: Up) -> None:
    """Its files know no Redis ports; with the default, all the nodes would want the same."""
    first = up()
    os.kill(first.pids()["node2"], signal.SIGKILL)
    eventually(lambda: "node2" not in first.pids())
    path = first.plan.root / "cluster.json"
    path.write_text(re.sub(r',\s*"redis": "[^"]*"', "", path.read_text()))
    assert "redis" not in path.read_text()
    missing = first.plan.config_path(first.plan.nodes[1])
    missing.write_text(re.sub(r"\[redis\]\n(.+\n)+\n", "", missing.read_text()))
    assert load(missing, environ={}).redis.port == REDIS_PORT
    second = up()
    assert list(second.children) == ["node2"]
    node = second.plan.nodes[1]
    assert (load(missing, environ={}).redis.port, node.redis) == (
        node.http_port + REDIS_PORT_OFFSET,
        second.views()[1].redis,
    )


def test_ports_taken_under_our_hands_are_chosen_anew(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first look says free, the daemon's bind fails; the second attempt moves on."""
    import socket

    from node import local_launch, local_plan

    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        stolen = thief.getsockname()[1]
        real = local_plan.with_ports
        looks: list[int] = []

        def first_look_is_wrong(
            plan: local_plan.Plan, *rest: Any, **options: Any
        ) -> local_plan.Plan:
            looks.append(1)
            chosen = real(plan, *rest, **options)
            if len(looks) > 1:
                return chosen
            first = chosen.nodes[0]
            unlucky = replace(first, http_port=stolen)
            return local_plan.Plan(chosen.root, chosen.cluster_id, (unlucky, *chosen.nodes[1:]))

        monkeypatch.setattr(local_launch, "with_ports", first_look_is_wrong)
        cluster = up()
        assert len(looks) == 2
        assert stolen not in cluster.plan.ports()
        assert all(view.ready for view in cluster.views())


def test_logs_of_the_run_before_are_kept_once(up: Up) -> None:
    cluster = up()
    cluster.stop()
    log = cluster.plan.log_path(cluster.plan.nodes[0])
    log.write_text("first run")
    up().stop()
    assert log.with_name("daemon.log.1").read_text() == "first run"


def test_a_newcomer_is_planned_and_started_and_is_part_of_the_cluster(up: Up) -> None:
    cluster = up()
    newcomer = start_newcomer(
        cluster.plan, "extra", frozenset(), CLOCK, cluster.environ, spare=True
    )
    grown = read_plan(cluster.plan.root)
    assert grown is not None
    assert [node.name for node in grown.nodes] == ["node1", "node2", "node3", "extra"]
    assert len(set(grown.ports())) == 12
    assert grown.running()["extra"] == newcomer.pid
    again = start_newcomer(grown, "extra", frozenset(), CLOCK, cluster.environ)
    assert again.node == newcomer.node, "an interrupted start is taken up"
    assert again.pid == newcomer.pid
    with pytest.raises(LaunchError, match="a node called extra already"):
        start_newcomer(grown, "extra", frozenset({newcomer.node.id}), CLOCK, cluster.environ)
    assert len(up().plan.nodes) == 4, "up knows it"
    stopping = LocalCluster(grown, CLOCK, cluster.environ, newcomer.cluster.children)
    assert stopping.stop() == []
    assert grown.running() == {}
    cluster.stop()


def test_a_newcomer_that_is_not_wanted_leaves_nothing(up: Up) -> None:
    cluster = up()
    newcomer = start_newcomer(
        cluster.plan, "extra", frozenset(), CLOCK, cluster.environ, spare=True
    )
    abandon(newcomer)
    assert read_plan(cluster.plan.root) == cluster.plan
    assert not newcomer.folder.exists()
    assert len(cluster.plan.running()) == 3


def test_a_removed_node_is_forgotten_and_its_data_stays(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = up()
    node = cluster.plan.nodes[2]
    monkeypatch.setattr(local_members, "STOP_GRACE_MS", 100)
    departed = forget(cluster.plan, node, CLOCK, cluster.environ)
    assert departed.pid == cluster.pids()["node3"], "it has not ended: somebody must be told"
    left = read_plan(cluster.plan.root)
    assert left is not None
    assert left.nodes == cluster.plan.nodes[:2]
    assert departed.folder.is_dir()
    cluster.stop()
    assert forget(cluster.plan, node, CLOCK, cluster.environ).pid is None
