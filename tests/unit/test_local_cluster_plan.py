"""A local cluster's folder: what is written, kept, moved, refused and deleted."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import mcp_options
from node import local_plan, local_ports
from node.clock import SystemClock
from node.config import load
from node.config_schema import HTTP_PORT, MEMBERS_MAX, PEER_PORT_OFFSET, REDIS_PORT_OFFSET
from node.datadir import DataDir
from node.errors import LaunchError
from node.local_plan import (
    Plan,
    delete_plan,
    launch_lock,
    new_plan,
    read_plan,
    with_new_node,
    with_ports,
    without_node,
    write_plan,
)
from node.local_ports import SPARE_PORTS, port_is_free, row

CLOCK = SystemClock()


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        yield server.getsockname()[1]


def numbered(plan: Plan, first: int = 30_000) -> Plan:
    """The plan with ports that need not be free."""
    nodes = tuple(
        replace(node, http_port=first + i, peer_port=first + 100 + i, redis_port=first + 200 + i)
        for i, node in enumerate(plan.nodes)
    )
    return replace(plan, nodes=nodes)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = numbered(new_plan(tmp_path / "data", 3, CLOCK))
    write_plan(made)
    return made


def test_what_is_written_is_found_again(plan: Plan) -> None:
    assert read_plan(plan.root) == plan
    before = {path: path.stat().st_mtime_ns for path in plan.root.rglob("*") if path.is_file()}
    write_plan(plan)
    after = {path: path.stat().st_mtime_ns for path in plan.root.rglob("*") if path.is_file()}
    assert before == after


def test_every_node_gets_settings_that_load(plan: Plan) -> None:
    for node in plan.nodes:
        config = load(plan.config_path(node), environ={})
        assert config.node.id == node.id
        assert (config.http.port, config.peer.port, config.redis.port) == node.ports
        assert (config.redis.enabled, config.redis.host) == (True, "127.0.0.1")
        assert config.node.data_dir == plan.folder(node)
        assert [member.id for member in config.cluster.members] == [n.id for n in plan.nodes]
    digests = {load(plan.config_path(n), environ={}).replicated_digest() for n in plan.nodes}
    assert len(digests) == 1


def test_a_moved_folder_still_works(plan: Plan, tmp_path: Path) -> None:
    os.rename(plan.root, tmp_path / "moved")
    moved = read_plan(tmp_path / "moved")
    assert moved is not None
    assert moved.nodes == plan.nodes
    config = load(moved.config_path(moved.nodes[0]), environ={})
    assert config.node.data_dir == tmp_path / "moved" / "node1"


def test_secrets_and_folders_are_private_and_stay(plan: Plan) -> None:
    secret = plan.root / "secret"
    content = secret.read_bytes()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(plan.root.stat().st_mode) == 0o700
    write_plan(numbered(plan, 31_000))
    assert secret.read_bytes() == content


def test_new_ports_reach_every_file_and_settings_by_hand_stay(plan: Plan) -> None:
    path = plan.config_path(plan.nodes[0])
    path.write_text(
        path.read_text().replace("[redis]", "[redis]\nenabled = false")
        + '\n[raft]\nheartbeat_ms = 80\n[auth]\ntokens_file = "a\\"\\\\ü"\n'
    )
    moved = numbered(plan, 31_000)
    write_plan(moved)
    document = tomllib.loads(path.read_text())
    assert document["raft"] == {"heartbeat_ms": 80}
    assert document["auth"] == {"tokens_file": 'a"\\ü'}
    assert document["http"]["port"] == 31_000
    assert document["redis"] == {"enabled": False, "host": "127.0.0.1", "port": 31_200}
    assert [m["peer"] for m in document["cluster"]["members"]] == [n.peer for n in moved.nodes]


@pytest.mark.parametrize("text", ["[node", "raft = 1\n[http]\nx = 2020-01-01", "http = 3"])
def test_settings_that_cannot_be_kept_are_refused(plan: Plan, text: str) -> None:
    path = plan.config_path(plan.nodes[1])
    path.write_text(text)
    with pytest.raises(LaunchError, match=r"node2/node\.toml"):
        write_plan(plan)
    assert path.read_text() == text


@pytest.mark.parametrize("count", [0, -1, 10])
def test_the_number_of_nodes_is_bounded(tmp_path: Path, count: int) -> None:
    with pytest.raises(LaunchError, match="1 to 9 nodes"):
        new_plan(tmp_path, count, CLOCK)


# Folders that are not ours


def test_an_empty_or_absent_folder_has_no_cluster(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    assert read_plan(tmp_path / "absent") is None


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(LaunchError, match="not a hivemem folder"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "nodes": [{}]}',
        '{"format": 1, "cluster_id": "c", "nodes": '
        '[{"name": "../..", "id": "i", "http": "http://127.0.0.1:1", "peer": "127.0.0.1:2"}]}',
        '{"format": 1, "cluster_id": "c", "nodes": '
        '[{"name": "a", "id": "i", "http": 1, "peer": 2}]}',
        '{"format": 1, "cluster_id": "c", "nodes": [{"name": "a", "id": "i", '
        '"http": "http://127.0.0.1:1", "peer": "127.0.0.1:2", "redis": null}]}',
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(LaunchError, match=r"cluster\.json is"):
        read_plan(tmp_path)


def test_a_path_through_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="a part of the path is a file"):
        read_plan(tmp_path / "file" / "data")
    with (
        pytest.raises(LaunchError, match="a part of the path is a file"),
        launch_lock(tmp_path / "file" / "data"),
    ):
        pass


def test_only_one_command_works_on_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_plan, "LAUNCH_WAIT_MS", 100)
    with (
        launch_lock(tmp_path),
        pytest.raises(LaunchError, match="another hivemem command"),
        launch_lock(tmp_path),
    ):
        pass
    with launch_lock(tmp_path):
        assert read_plan(tmp_path) is None  # the lock's file does not make it somebody's folder


# Deletion


def test_deletion_takes_what_is_ours_and_nothing_else(plan: Plan) -> None:
    (plan.root / "notes.txt").write_text("mine")
    (plan.folder(plan.nodes[0]) / "groups").mkdir()
    delete_plan(plan)
    assert [path.name for path in plan.root.iterdir()] == ["notes.txt"]


def test_a_running_cluster_is_not_deleted(plan: Plan) -> None:
    data = DataDir.open(
        plan.folder(plan.nodes[1]),
        node_id=plan.nodes[1].id,
        cluster_id=plan.cluster_id,
        name="node2",
        clock=CLOCK,
    )
    assert plan.running() == {"node2": os.getpid()}
    with pytest.raises(LaunchError, match=f"is running .pid {os.getpid()}.*hivemem down"):
        delete_plan(plan)
    data.close()
    assert plan.config_path(plan.nodes[0]).exists()


# Ports


@pytest.mark.parametrize("offset", [PEER_PORT_OFFSET, REDIS_PORT_OFFSET])
def test_taken_ports_are_named_when_they_were_asked_for(plan: Plan, offset: int) -> None:
    with listening() as port:
        base = port - 1 - offset  # what would be the second node's
        with pytest.raises(LaunchError, match=rf"--port {base}: already in use .*\b{port}\b"):
            with_ports(plan, base, CLOCK)


def test_the_usual_ports_of_the_largest_cluster_are_apart_and_leave_agents_theirs() -> None:
    usual = [port for ports in row(HTTP_PORT, MEMBERS_MAX) for port in ports]
    assert len({*usual, mcp_options.PORT_DEFAULT}) == 3 * MEMBERS_MAX + 1


def test_ports_that_were_asked_for_lie_in_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_plan, "port_is_free", lambda port: True)
    given = with_ports(new_plan(tmp_path, 3, CLOCK), 65_513, CLOCK)  # the last row there is
    assert given.nodes[0].ports == (65_513, 65_523, 65_533)
    assert given.nodes[2].ports == (65_515, 65_525, 65_535)
    assert given.nodes[2].redis == "127.0.0.1:65535"


@pytest.mark.parametrize("base", [0, -5, 65_514, 65_535, 70_000])
def test_ports_that_do_not_exist_are_refused(plan: Plan, base: int) -> None:
    with pytest.raises(LaunchError, match="do not fit"):
        with_ports(plan, base, CLOCK)


def test_a_cluster_keeps_its_ports_while_they_are_free(tmp_path: Path) -> None:
    fresh = new_plan(tmp_path, 3, CLOCK)
    with listening(), contextlib.ExitStack() as taken:
        if port_is_free(HTTP_PORT):
            taken.enter_context(listening(HTTP_PORT))
        spare = with_ports(fresh, None, CLOCK)
        assert HTTP_PORT not in spare.ports()
        assert len(set(spare.ports())) == 9
        assert with_ports(spare, None, CLOCK) == spare


def test_a_port_taken_since_means_other_ports(tmp_path: Path) -> None:
    with contextlib.ExitStack() as taken:
        if port_is_free(HTTP_PORT):
            taken.enter_context(listening(HTTP_PORT))
        spare = with_ports(new_plan(tmp_path, 3, CLOCK), None, CLOCK)
        taken.enter_context(listening(spare.nodes[2].peer_port))
        moved = with_ports(spare, None, CLOCK)
        assert spare.nodes[2].peer_port not in moved.ports()
        assert [node.id for node in moved.nodes] == [node.id for node in spare.nodes]


def test_a_redis_port_taken_since_moves_nothing_else(tmp_path: Path) -> None:
    spare = with_ports(new_plan(tmp_path, 3, CLOCK), None, CLOCK, spare=True)
    with listening(spare.nodes[1].redis_port):
        moved = with_ports(spare, None, CLOCK)
    assert moved.nodes[1].redis_port not in spare.ports()
    assert [replace(each, redis_port=0) for each in moved.nodes] == [
        replace(each, redis_port=0) for each in spare.nodes
    ]
    assert (moved.nodes[0], moved.nodes[2]) == (spare.nodes[0], spare.nodes[2])


def without_redis(plan: Plan) -> None:
    """Let the files be those that a version without that door wrote."""
    path = plan.root / "cluster.json"
    fields = json.loads(path.read_text())
    for node in fields["nodes"]:
        del node["redis"]
    path.write_text(json.dumps(fields))
    for node in plan.nodes:
        path = plan.config_path(node)
        section = f'[redis]\nhost = "127.0.0.1"\nport = {node.redis_port}\n\n'
        assert section in path.read_text()
        path.write_text(path.read_text().replace(section, ""))


def test_a_plan_from_before_redis_gets_ports_that_stay(plan: Plan) -> None:
    without_redis(plan)
    read = read_plan(plan.root)
    assert read is not None
    assert [node.redis_port for node in read.nodes] == [30_020, 30_021, 30_022]
    assert read == replace(plan, nodes=read.nodes)
    write_plan(read)
    assert read_plan(plan.root) == read
    assert load(plan.config_path(plan.nodes[1]), environ={}).redis.port == 30_021


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ([(7411, 7421), (7412, 7431)], [SPARE_PORTS[0], 7432]),  # node1's is node2's peer port
        ([(65_000, 65_010), (65_530, 65_535)], [65_020, SPARE_PORTS[0]]),  # beyond the last port
        (
            [(SPARE_PORTS[0], SPARE_PORTS[20]), (65_530, SPARE_PORTS[1])],
            [SPARE_PORTS[2], SPARE_PORTS[3]],
        ),
    ],
)
def test_ports_for_a_plan_from_before_redis_are_nobody_elses(
    tmp_path: Path, ports: list[tuple[int, int]], found: list[int]
) -> None:
    made = new_plan(tmp_path / "data", 2, CLOCK)
    nodes = tuple(
        replace(node, http_port=http, peer_port=peer, redis_port=1 + http)
        for node, (http, peer) in zip(made.nodes, ports, strict=True)
    )
    plan = replace(made, nodes=nodes)
    write_plan(plan)
    without_redis(plan)
    read = read_plan(plan.root)
    assert read is not None
    assert [node.redis_port for node in read.nodes] == found


def test_a_node_that_joined_keeps_joining_and_the_first_ones_do_not_name_it(
    tmp_path: Path,
) -> None:
    plan = with_ports(new_plan(tmp_path / "data", 2, CLOCK), None, CLOCK, spare=True)
    write_plan(plan)
    grown = with_new_node(plan, "extra", CLOCK)
    write_plan(grown)
    assert read_plan(plan.root) == grown
    first, extra = (load(grown.config_path(grown.nodes[i]), environ={}) for i in (0, 2))
    assert (first.cluster.join, extra.cluster.join) == (False, True)
    assert [each.name for each in first.cluster.members] == ["node1", "node2"]
    assert [each.name for each in extra.cluster.members] == ["node1", "node2", "extra"]
    alone = without_node(without_node(grown, grown.nodes[0].id), grown.nodes[1].id)
    write_plan(alone)
    last = load(alone.config_path(alone.nodes[0]), environ={})
    assert not last.cluster.join, "there is nobody whom it could join"


@pytest.mark.parametrize(
    ("taken", "follow"), [(0, True), (7413, False), (7423, False), (7433, False)]
)
def test_a_new_nodes_ports_follow_the_others_where_they_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, follow: bool
) -> None:
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port != taken)
    made = new_plan(tmp_path / "data", 2, CLOCK)
    nodes = tuple(
        replace(node, http_port=7411 + i, peer_port=7421 + i, redis_port=7431 + i)
        for i, node in enumerate(made.nodes)
    )
    node = with_new_node(replace(made, nodes=nodes), "extra", CLOCK).nodes[-1]
    assert (node.ports == (7413, 7423, 7433)) == follow
    assert follow or set(node.ports) <= set(SPARE_PORTS)
