"""The benchmarks' load generator against real daemons: what it counts is what happened."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.benchmarks import generator
from scripts.benchmarks.generator import Load, Outcome
from tests.cluster.harness import LocalCluster

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
