"""Every engine on three nodes, through HTTP and the command line; the leader is killed midway."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.cluster.harness import eventually, hivemem
from tests.engine_samples import SAMPLES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

WRITES = 20  # of each engine, before the leader dies and after it


async def test_engines_keep_what_they_acknowledged_through_a_leaders_death(cluster):
    leader = await cluster.wait_leader()
    endpoints = ",".join(cluster.endpoints)
    for sample in SAMPLES:
        made = await hivemem(
            "collection", "create", sample.name, sample.engine, "--settings",
            json.dumps(sample.settings), "--endpoints", endpoints, "-o", "json",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    async with cluster.client(0, 1, 2) as client:
        for sample in SAMPLES:
            for operation in sample.setup:
                await client.query("default", sample.name, *operation)
        await write(client, range(WRITES))
        killed, writing = (
            asyncio.Event(),
            asyncio.create_task(write(client, range(100, 100 + WRITES))),
        )
        await cluster.kill(leader)
        killed.set()
        await writing
        await write(client, range(WRITES, 2 * WRITES))
    survivors = [index for index in range(3) if index != leader]
    for index in survivors:
        await check_node(cluster, index)
    await cluster.restart(leader)
    await check_node(cluster, leader)
    await check_command_line(endpoints)
    await check_digests(cluster)


async def write(client, numbers) -> None:
    await asyncio.gather(
        *(
            client.query("default", sample.name, *sample.write(number))
            for sample in SAMPLES
            for number in numbers
        )
    )


async def check_node(cluster, index: int) -> None:
    """Everything is there, from this node's own state as well."""
    async with cluster.client(index) as client:
        for consistency in ("linearizable", "stale"):
            for sample in SAMPLES:
                for number in (*range(2 * WRITES), *range(100, 100 + WRITES)):
                    answer = await client.query(
                        "default", sample.name, *sample.read(number), consistency=consistency
                    )
                    where = f"{sample.name} {number} at node {index}, {consistency}"
                    assert sample.found(answer["result"], number), where


async def check_command_line(endpoints: str) -> None:
    for sample in SAMPLES:
        operation, parameters = sample.read(3)
        shown = await hivemem(
            "query", sample.name, operation, json.dumps(parameters), "--endpoints", endpoints,
            "-o", "json",
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        assert sample.found(json.loads(shown.stdout)["result"], 3)
    listed = await hivemem("collection", "list", "--endpoints", endpoints, "-o", "json")
    names = {each["name"] for each in json.loads(listed.stdout)["items"]}
    assert names == {sample.name for sample in SAMPLES}


async def check_digests(cluster) -> None:
    """The replicas' hash trees agree at one index."""

    async def agree() -> bool:
        done = await hivemem("doctor", "--endpoints", ",".join(cluster.endpoints), "-o", "json")
        return done.returncode == 0

    await eventually(agree, 20, "the replicas differ, or doctor is not content")
