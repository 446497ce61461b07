"""The Redis door of real daemons, with the clients that people use."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster

from tests.cluster.harness import LocalCluster, running_cluster
from tests.debian import program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

WRITES = 300  # before the leader dies, and after


def address(cluster: LocalCluster, index: int) -> tuple[str, int]:
    return "127.0.0.1", cluster.plan.nodes[index].redis_port


def client(cluster: LocalCluster, index: int) -> redis.asyncio.Redis:
    host, port = address(cluster, index)
    return redis.asyncio.Redis(host=host, port=port, retry=None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """For all tests that leave it as it is; each has keys of its own."""
    async with running_cluster(tmp_path_factory.mktemp("shared")) as running:
        yield running


async def test_every_node_takes_every_command(shared: LocalCluster) -> None:
    clients = [client(shared, index) for index in range(3)]
    for number, writer in enumerate(clients):
        assert await writer.set(f"k{number}", "v")
        assert await writer.incr("{shared}n") == number + 1
        for reader in clients:
            assert await reader.get(f"k{number}") == b"v"
            assert await reader.get("{shared}n") == b"%d" % (number + 1)
    for writer in clients:
        pipe = writer.pipeline(transaction=False)
        for number in range(100):
            pipe.append("{shared}log", f"{number},")
        pipe.getdel("{shared}log")
        assert (await pipe.execute())[-1] == b"".join(b"%d," % n for n in range(100))
        pipe = writer.pipeline(transaction=True)
        pipe.incr("{shared}n").get("{shared}n")
        total, text = await pipe.execute()
        assert text == b"%d" % total
    async with shared.client() as http:
        found = await http.get("default", "k0", "@")
        assert found.value == b"v"
    for each in clients:
        await each.aclose()


async def test_a_cluster_client_finds_the_leader(shared: LocalCluster) -> None:
    leader = await shared.wait_leader()
    host, port = address(shared, (leader + 1) % 3)
    async with RedisCluster(host=host, port=port) as found:
        assert await found.set("{a}k", "1")
        assert await found.set("{b}k", "2")
        assert await found.mget_nonatomic("{a}k", "{b}k") == [b"1", b"2"]
        primaries = {node.port for node in found.get_primaries()}
        assert primaries == {address(shared, leader)[1]}
        assert len(found.get_replicas()) == 2


async def test_stale_reads_behind_a_write_see_it_at_its_leader(shared: LocalCluster) -> None:
    """A write is acknowledged before the state shows it, and read no sooner."""
    writer = client(shared, await shared.wait_leader())
    await writer.readonly()
    for number in range(300):
        pipe = writer.pipeline(transaction=False)
        pipe.set("{shared}stale", number).get("{shared}stale")
        assert await pipe.execute() == [True, b"%d" % number]
        assert await writer.set("{shared}alone", number)
        assert await writer.get("{shared}alone") == b"%d" % number
    await writer.aclose()


async def test_nothing_acknowledged_is_lost_when_the_leader_dies(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        acknowledged: set[str] = set()
        enough = asyncio.Event()

        async def write(number: int) -> None:
            """Through one node after the other: each for as long as it answers."""
            index, count = number % 3, 0
            while len(acknowledged) < 2 * WRITES or not enough.is_set():
                node = client(cluster, index)
                try:
                    while len(acknowledged) < 2 * WRITES or not enough.is_set():
                        key = f"writer{number}:{count}"
                        count += 1
                        await node.set(key, key)
                        acknowledged.add(key)
                except (redis.ConnectionError, redis.ResponseError, redis.TimeoutError):
                    index = (index + 1) % 3
                finally:
                    await node.aclose()

        async def kill() -> None:
            while len(acknowledged) < WRITES:
                await asyncio.sleep(0.01)
            await cluster.kill(leader)
            await cluster.wait_leader(other_than=leader)
            enough.set()

        async with asyncio.timeout(60):
            await asyncio.gather(kill(), *(write(number) for number in range(16)))
        reader = client(cluster, (leader + 1) % 3)
        keys = sorted(acknowledged)
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            assert await reader.mget(*some) == [key.encode() for key in some]
        await reader.aclose()


async def test_redis_cli(shared: LocalCluster) -> None:
    cli = program("redis-cli", "redis-tools")

    async def say(*words: str, given: str | None = None) -> str:
        port = str(address(shared, 0)[1])
        done = await asyncio.to_thread(
            subprocess.run, [cli, "-p", port, *words], check=True, capture_output=True,
            text=True, input=given, timeout=30,
        )  # fmt: skip
        return done.stdout.strip()

    assert await say("SET", "cli:greeting", "hello") == "OK"
    assert await say("-3", "GET", "cli:greeting") == "hello"
    assert await say("-n", "1", "EXISTS", "cli:greeting") == "0"
    twice = "MULTI\nINCR {cli}n\nINCR {cli}n\nEXEC\n"
    assert await say(given=twice) == "OK\nQUEUED\nQUEUED\n1\n2"
    assert await say("--scan", "--pattern", "*cli*") == "{cli}n\ncli:greeting"
    assert "cluster_state:ok" in await say("CLUSTER", "INFO")
    assert await say("-c", "GET", "cli:greeting") == "hello"
    assert "unknown command" in await say("LPUSH", "a", "b")


@pytest.mark.parametrize("pipeline", [1, 16])
async def test_redis_benchmark(tmp_path: Path, pipeline: int) -> None:
    benchmark = program("redis-benchmark", "redis-tools")
    async with LocalCluster(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        done = await asyncio.to_thread(
            subprocess.run,
            [
                benchmark, "-p", str(address(cluster, leader)[1]), "-n", "2000", "-c", "16",
                "-P", str(pipeline), "-r", "1000", "-q", "-t", "ping,set,get,incr",
            ],
            check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        for test in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"):
            assert f"{test}: " in done.stdout.replace("\r", "\n"), done.stdout + done.stderr
        assert "ERR" not in done.stdout + done.stderr
        node = client(cluster, leader)
        assert await node.dbsize() > 800
        await node.aclose()
