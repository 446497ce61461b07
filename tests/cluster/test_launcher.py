"""`hivemem up` and `down` as a person uses them: real daemons, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from node.local_plan import read_plan
from node.local_ports import SPARE_PORTS, port_is_free, row
from tests.cluster.harness import eventually

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
HIVEMEM = [sys.executable, "-m", "node.cli"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; whatever still runs in it after the test is killed."""
    yield tmp_path / "data"
    with contextlib.suppress(Exception):
        plan = read_plan(tmp_path / "data")
        for pid in plan.running().values() if plan else ():
            os.kill(pid, signal.SIGKILL)


def free_base(count: int = 3) -> int:
    """A first port such that `up --port` finds all it needs free."""
    for base in SPARE_PORTS[::40]:
        if all(port_is_free(port) for ports in row(base, count) for port in ports):
            return base
    raise AssertionError("no free ports")


def hivemem(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HIVEMEM, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def up(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return hivemem("up", "--detach", "--data-dir", folder, *arguments)


def down(folder: Path) -> subprocess.CompletedProcess[str]:
    return hivemem("down", "--data-dir", folder, "-o", "json")


@contextlib.asynccontextmanager
async def in_foreground(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`hivemem up` that serves: its table and its last line of advice were printed."""
    process = await asyncio.create_subprocess_exec(
        *HIVEMEM,
        "up",
        "--data-dir",
        str(folder),
        "--port",
        str(free_base()),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while True:
                line = await process.stdout.readline()
                assert line, await read(process.stderr)
                if b"Ctrl-C" in line:
                    break
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def read(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(SECONDS):
        return (await stream.read()).decode()


def test_a_detached_cluster_serves_is_found_again_and_ends(folder: Path) -> None:
    base = free_base()
    first = up(folder, "--port", str(base), "-o", "json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert [node["http"] for node in document["nodes"]] == [
        f"http://127.0.0.1:{base + i}" for i in range(3)
    ]
    assert [node["redis"] for node in document["nodes"]] == [
        f"127.0.0.1:{base + 20 + i}" for i in range(3)
    ]
    assert sorted(node["role"] for node in document["nodes"]) == ["follower", "follower", "leader"]
    assert document["data_dir"] == str(folder)

    again = up(folder, "-o", "json")
    assert again.returncode == 0, again.stderr
    assert "already running" in again.stderr
    assert [node["pid"] for node in json.loads(again.stdout)["nodes"]] == [
        node["pid"] for node in document["nodes"]
    ]

    ended = json.loads(down(folder).stdout)
    assert {each["pid"] for each in ended["stopped"]} == {n["pid"] for n in document["nodes"]}
    assert not any(each["killed"] for each in ended["stopped"])
    assert json.loads(down(folder).stdout)["stopped"] == []

    third = json.loads(up(folder, "-o", "json").stdout)
    assert third["cluster_id"] == document["cluster_id"]
    assert [node["id"] for node in third["nodes"]] == [node["id"] for node in document["nodes"]]
    down(folder)


def test_the_table_shows_nodes_and_what_to_try(folder: Path) -> None:
    base = free_base()
    shown = up(folder, "--nodes", "1", "--port", str(base))
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^NODE +HTTP +ROLE +PID +DATA$", shown.stdout, re.MULTILINE)
    assert f"  redis-cli -p {base + 20} " in shown.stdout
    command = next(line for line in shown.stdout.splitlines() if "curl -X PUT" in line)
    stored = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert json.loads(stored.stdout)["version"] == 1
    down(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_all_nodes_cleanly(folder: Path, number: signal.Signals) -> None:
    async with in_foreground(folder) as process:
        plan = read_plan(folder)
        assert plan is not None
        assert len(plan.running()) == 3
        process.send_signal(number)
        said = await read(process.stderr)
        assert await process.wait() == 0
        assert plan.running() == {}
        assert "had to be killed" not in said
        for node in plan.nodes:
            assert json.loads((plan.folder(node) / "boot.json").read_text())["clean"] is True


async def test_a_dead_node_is_reported_and_can_be_started_again(folder: Path) -> None:
    async with in_foreground(folder) as process:
        plan = read_plan(folder)
        assert plan is not None
        os.kill(plan.running()["node2"], signal.SIGKILL)
        assert process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while b"start it again" not in (line := await process.stderr.readline()):
                assert line
        words = line.decode().split("hivemem ")[1].split()
        restarted = await asyncio.create_subprocess_exec(
            *HIVEMEM, *words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        async def back() -> bool:
            return plan.running().get("node2") == restarted.pid

        await eventually(back, SECONDS, "node2 does not run")
        process.send_signal(signal.SIGINT)
        await read(process.stderr)
        assert await process.wait() == 0
        assert await restarted.wait() == 0  # the end of the cluster is the end of all its nodes
        assert plan.running() == {}


def test_taken_ports_leave_nothing_behind(folder: Path) -> None:
    base = free_base()
    other = folder.with_name("other")
    assert up(other, "--nodes", "1", "--port", str(base)).returncode == 0
    try:
        refused = up(folder, "--port", str(base))
        assert refused.returncode == 1
        assert f"already in use on 127.0.0.1: {base}" in refused.stderr
        assert not (folder / "cluster.json").exists()
    finally:
        down(other)


def test_a_daemon_that_cannot_start_is_quoted(folder: Path) -> None:
    assert up(folder, "--port", str(free_base())).returncode == 0
    down(folder)
    settings = folder / "node3" / "node.toml"
    settings.write_text(settings.read_text() + "\n[raft]\nheartbeat_ms = 499\n")
    refused = up(folder)
    assert refused.returncode == 1
    assert "node3 ended with exit code 1" in refused.stderr
    assert "raft.election_min_ms" in refused.stderr
    plan = read_plan(folder)
    assert plan is not None
    assert plan.running() == {}


def test_one_folder_serves_one_daemon(folder: Path) -> None:
    assert up(folder, "--nodes", "1", "--port", str(free_base())).returncode == 0
    plan = read_plan(folder)
    assert plan is not None
    second = hivemem("start", "--config", folder / "node1" / "node.toml")
    assert second.returncode == 1
    assert f"in use by pid {plan.running()['node1']}" in second.stderr
    down(folder)


def test_a_folder_is_not_taken_for_the_cluster_that_has_its_ports_now(
    folder: Path, tmp_path: Path
) -> None:
    """Two projects, the same default ports: commands for one must not write into the other."""
    base = str(free_base())
    stopped = tmp_path / "stopped"
    assert up(stopped, "--nodes", "1", "--port", base).returncode == 0
    down(stopped)
    assert up(folder, "--nodes", "1", "--port", base).returncode == 0
    for command in (("put", "a/b/c", "lost"), ("get", "a/b/c"), ("status",)):
        refused = hivemem(*command, "--data-dir", stopped)
        assert refused.returncode == 1, refused.stdout
        assert "this node is of cluster" in refused.stderr
    assert hivemem("get", "a/b/c", "--data-dir", folder).returncode == 3
    assert hivemem("put", "a/b/c", "kept", "--data-dir", folder).returncode == 0
    down(folder)


def test_refusals_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    (tmp_path / "file").write_text("")
    for arguments, part in (
        (("up", "--data-dir", tmp_path / "mine"), "not a hivemem folder"),
        (("up", "--fresh", "--data-dir", tmp_path / "mine"), "not a hivemem folder"),
        (("up", "--data-dir", tmp_path / "file"), "is a file"),
        (("up", "--data-dir", folder, "--nodes", "0"), "1 to 9 nodes"),
        (("down", "--data-dir", folder), "no cluster in"),
    ):
        refused = hivemem(*arguments)
        assert refused.returncode == 1, arguments
        assert part in refused.stderr
        assert "Traceback" not in refused.stderr
    assert (tmp_path / "mine" / "thesis.tex").exists()
