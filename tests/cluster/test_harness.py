"""The harness: what the other cluster tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import LocalCluster, eventually, running_cluster

ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_nodes_are_killed_stopped_paused_and_started_again(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    before = cluster.nodes[leader].pid
    await cluster.kill(leader)
    assert cluster.nodes[leader].pid is None
    second = await cluster.wait_leader(other_than=leader)
    await cluster.restart(leader)
    assert cluster.nodes[leader].pid not in (None, before)
    cluster.pause(second)
    assert await cluster.wait_leader(other_than=second) != second
    cluster.resume(second)
    await cluster.wait_ready(second)
    with pytest.raises(AssertionError, match="runs"):
        await cluster.restart(second)


async def test_a_node_that_is_asked_to_stop_ends_well(cluster: LocalCluster) -> None:
    for index in range(3):
        assert await cluster.stop(index) == 0, cluster.log_tails()


async def test_no_process_outlives_the_context(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, count=1) as cluster:
        pid = cluster.nodes[0].pid
        assert pid is not None
    assert not is_alive(pid)


async def test_no_process_outlives_a_killed_test(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from tests.cluster.harness import running_cluster\n"
        "async def main():\n"
        "    async with running_cluster(Path(sys.argv[1]), count=1) as cluster:\n"
        "        print(cluster.nodes[0].pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as test:
        assert test.stdout is not None
        pid = int(test.stdout.readline())
        assert is_alive(pid)
        test.kill()

    async def gone() -> bool:
        return not is_alive(pid)

    await eventually(gone, 10, f"daemon {pid} lives on")
