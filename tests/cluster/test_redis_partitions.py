"""The Redis door of five daemons that hold three replicas of each of eight partitions."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster

from cluster.slots import SLOTS, partition_of, session_slot
from tests.cluster.harness import LocalCluster, eventually, running_cluster
from tests.debian import program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODES, PARTITIONS, REPLICAS = 5, 8, 3
SETTLED_SECONDS = 60.0  # until the partitions are placed, or led again, on a loaded machine
WRITES = 300  # before a node dies, and after
KEYS = [f"key:{n}" for n in range(64)]


def client(cluster: LocalCluster, index: int, database: int = 0) -> redis.asyncio.Redis:
    host, port = cluster.redis_addresses[index]
    return redis.asyncio.Redis(host=host, port=port, db=database, retry=None)


async def slots(node: redis.asyncio.Redis) -> list[list[Any]]:
    """CLUSTER SLOTS: [first, last, leader, replicas…]; nothing while nobody leads."""
    try:
        found = await node.execute_command("CLUSTER", "SLOTS")
    except redis.ResponseError:
        return []
    assert isinstance(found, list)
    return found


async def wait_settled(cluster: LocalCluster, index: int, replicas: int = REPLICAS) -> None:
    """Wait until a node knows a leader, and so many replicas, of every partition, and more than
    one node leads: right after the start it may be one, until leaders are spread."""
    node = client(cluster, index)

    async def settled() -> bool:
        found = await slots(node)
        state = await node.execute_command("CLUSTER", "INFO")
        return (
            len(found) == PARTITIONS
            and all(len(each) - 2 >= replicas for each in found)
            and len({each[2][1] for each in found}) > 1
            and b"cluster_state:ok" in state
        )

    try:
        await eventually(settled, SETTLED_SECONDS, "not every partition is led")
    finally:
        await node.aclose()


@contextlib.asynccontextmanager
async def settled_cluster(folder: Path) -> AsyncIterator[LocalCluster]:
    async with running_cluster(folder, NODES, partitions=PARTITIONS) as running:
        for index in range(NODES):  # each has a picture of its own, a moment old
            await wait_settled(running, index)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """For all tests that leave it as it is; each has a database of its own."""
    async with settled_cluster(tmp_path_factory.mktemp("shared")) as running:
        yield running


async def test_every_node_takes_every_command(cluster: LocalCluster) -> None:
    clients = [client(cluster, index, 1) for index in range(NODES)]
    for number, key in enumerate(KEYS):
        writer = clients[number % NODES]
        assert await writer.set(key, key)
        for reader in clients:
            assert await reader.get(key) == key.encode()
    for node in clients:
        assert await node.mget(*KEYS, "none") == [*(key.encode() for key in KEYS), None]
        assert await node.exists(*KEYS, "none") == len(KEYS)
        assert await node.dbsize() == len(KEYS)
        found = [name async for name in node.scan_iter(count=7)]
        assert sorted(found) == sorted(key.encode() for key in KEYS)
        with pytest.raises(redis.ResponseError, match="same slot"):
            await node.delete(*KEYS)
        await node.readonly()
        assert all(value in (key.encode(), None) for key, value in
                   zip(KEYS, await node.mget(KEYS), strict=True))  # fmt: skip
        await node.readwrite()
    pipe = clients[0].pipeline(transaction=False)
    for key in KEYS:
        pipe.append(key, "+").get(key).delete(key)
    replies = await pipe.execute()
    assert replies[1::3] == [f"{key}+".encode() for key in KEYS]
    assert replies[2::3] == [1] * len(KEYS)
    assert await clients[1].dbsize() == 0
    for node in clients:
        await node.aclose()


async def test_transactions(cluster: LocalCluster) -> None:
    one, two = client(cluster, 0, 2), client(cluster, 3, 2)
    for number in range(PARTITIONS * 2):
        key = f"{{tag{number}}}n"
        for node in (one, two):
            pipe = node.pipeline(transaction=True)
            pipe.incr(key).incr(key).get(key)
            first, second, text = await pipe.execute()
            assert second == first + 1
            assert text == b"%d" % second
        pipe = one.pipeline(transaction=True)
        await pipe.watch(key)
        await two.incr(key)
        pipe.multi()
        pipe.set(key, "lost")
        with pytest.raises(redis.WatchError):
            await pipe.execute()
        assert await one.get(key) == b"5"
    with pytest.raises(redis.ResponseError, match="same slot"):
        await one.pipeline(transaction=True).get("{a}k").get("{b}k").execute()
    for node in (one, two):
        await node.aclose()


async def test_the_cluster_is_described(cluster: LocalCluster) -> None:
    node = client(cluster, 2)
    found = await slots(node)
    assert [each[0] for each in found] == [n * SLOTS // PARTITIONS for n in range(PARTITIONS)]
    assert sum(last - first + 1 for first, last, *_ in found) == SLOTS
    ports = {port for _, port in cluster.redis_addresses}
    for _, _, *nodes in found:
        assert {each[1] for each in nodes} <= ports
        assert len({each[1] for each in nodes}) == REPLICAS
    lines = (await node.execute_command("CLUSTER", "NODES")).decode().splitlines()
    assert len(lines) == NODES
    led = [word for line in lines for word in line.split()[8:]]
    assert len(led) == PARTITIONS
    info = await node.info()
    assert info["hivemem_partitions"] == PARTITIONS
    assert 0 < info["hivemem_partitions_held"] < PARTITIONS
    await node.aclose()


async def test_a_cluster_client_survives_a_node(tmp_path: Path) -> None:
    """It goes to the leaders, and finds the new ones when some are killed."""
    async with settled_cluster(tmp_path) as cluster:
        await survive(cluster)


async def survive(cluster: LocalCluster) -> None:
    host, port = cluster.redis_addresses[1]
    async with RedisCluster(host=host, port=port) as found:
        served = Counter(
            found.get_node_from_key(key).port for key in KEYS  # type: ignore[union-attr]
        )  # fmt: skip
        assert len(served) > 1
        acknowledged: list[str] = []
        killed = asyncio.Event()

        async def write(number: int) -> None:
            count = 0
            while not killed.is_set() or len(acknowledged) < 2 * WRITES:
                key = f"writer{number}:{count}"
                count += 1
                try:
                    await found.set(key, key)
                    acknowledged.append(key)
                except (redis.RedisError, OSError, AttributeError):
                    # The last one is the client's: it writes to a connection that another
                    # task has just found broken.
                    await asyncio.sleep(0.05)

        async def kill() -> None:
            while len(acknowledged) < WRITES:
                await asyncio.sleep(0.01)
            ((busiest, _),) = served.most_common(1)
            index = [port for _, port in cluster.redis_addresses].index(busiest)
            await cluster.kill(index)
            await wait_settled(cluster, (index + 1) % NODES, REPLICAS - 1)
            killed.set()

        async with asyncio.timeout(SETTLED_SECONDS * 2):
            await asyncio.gather(kill(), *(write(number) for number in range(8)))
        for key in acknowledged:
            assert await found.get(key) == key.encode()
        partitions = {partition_of(session_slot(key), PARTITIONS) for key in acknowledged}
        assert len(partitions) == PARTITIONS


@pytest.mark.parametrize(("pipeline", "database"), [(1, 3), (16, 4)])
async def test_redis_benchmark(cluster: LocalCluster, pipeline: int, database: int) -> None:
    benchmark = program("redis-benchmark", "redis-tools")
    done = await asyncio.to_thread(
        subprocess.run,
        [
            benchmark, "-p", str(cluster.redis_addresses[4][1]), "-n", "2000", "-c", "16",
            "-P", str(pipeline), "--dbnum", str(database), "-r", "1000", "-q", "-t", "set,get",
        ],
        check=True, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    for test in ("SET", "GET"):
        assert f"{test}: " in done.stdout.replace("\r", "\n"), done.stdout + done.stderr
    assert "ERR" not in done.stdout + done.stderr
    node = client(cluster, 0, database)
    assert await node.dbsize() > 800
    await node.aclose()
