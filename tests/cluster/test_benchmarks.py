"""The benchmarks' load generator against real daemons: what it counts is what happened."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.benchmarks import generator
from scripts.benchmarks.generator import Load, Outcome
from tests.cluster.harness import ROOT, LocalCluster, eventually

START_SECONDS = 60.0
END_SECONDS = 60.0
KEYS = 500
SECONDS = 0.5


async def run(program: Path, load: Load) -> Outcome:
    found = await asyncio.to_thread(generator.run, program, load)
    assert found.sent == found.answered + found.errors + found.unanswered
    return found


@pytest.mark.skipif(generator.compiler() is None, reason="a C compiler is not installed")
async def test_the_load_generator_counts_what_happened(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    program = await asyncio.to_thread(generator.build, tmp_path)
    node = cluster.plan.nodes[await cluster.wait_leader()]
    resp = Load("resp", node.redis_port, connections=8, keys=KEYS, warmup=0.1, seconds=SECONDS)
    http = replace(resp, protocol="http-hivemem", port=node.http_port)

    filled = await run(program, replace(resp, batch=50, count=KEYS // 50, seconds=20.0))
    assert (filled.operations, filled.errors, filled.unanswered) == (KEYS, 0, 0)
    async with cluster.client() as client:
        names = [item.key async for item in client.list("default", "bench")]
    assert names == [f"k{key:08d}" for key in range(KEYS)]

    for load in (
        resp,
        http,
        replace(resp, depth=16),
        replace(http, batch=10),
        replace(resp, reads_percent=90, zipfian=True),
        replace(http, reads_percent=90, zipfian=True),
        replace(resp, reads_percent=100, stale=True),
        replace(http, reads_percent=100, stale=True),
    ):
        found = await run(program, load)
        assert (found.errors, found.unanswered, found.error_kinds) == (0, 0, {}), load
        assert 0 < found.operations <= found.answered * load.batch

    # What is not there is an error, and no operation.
    missing = await run(program, replace(resp, reads_percent=100, keys=KEYS * 1000))
    assert missing.errors > 0


def programs(folder: Path) -> list[str]:
    """Command lines that name the folder."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if str(folder).encode() in words and int(process.name) != os.getpid():
                found.append(words.replace(b"\0", b" ").decode())
    return found


@pytest.mark.skipif(generator.compiler() is None, reason="a C compiler is not installed")
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="/proc is needed to look")
@pytest.mark.parametrize(
    ("during", "number", "send"),
    [
        ("-m node", signal.SIGTERM, os.kill),  # the nodes are starting
        ("-m node", signal.SIGKILL, os.kill),
        ("/load --protocol", signal.SIGKILL, os.kill),
        ("/load --protocol", signal.SIGTERM, os.killpg),
    ],
)
async def test_a_run_that_is_ended_leaves_no_daemon(
    tmp_path: Path, during: str, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """Ended while its daemons are started and while they are under load, alone or with them."""
    command = [sys.executable, "-m", "scripts.benchmarks", "--quick", "--systems", "hivemem,redis"]
    options = ["--keys", "1000", "--seconds", "30", "--folder", str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(
            [*command, *options], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:

        async def reached() -> bool:
            assert run.poll() is None, (tmp_path / "log").read_text()
            names = [name for name in programs(tmp_path) if "scripts.benchmarks" not in name]
            return any(during in name for name in names)

        await eventually(reached, START_SECONDS, f"no program of {during!r}")
        send(run.pid, number)

        async def gone() -> bool:
            return run.poll() is not None and not programs(tmp_path)

        try:
            await eventually(gone, END_SECONDS, "something is left")
        except TimeoutError as error:
            error.add_note("\n".join(programs(tmp_path)))
            raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
