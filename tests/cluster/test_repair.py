"""Damage in one replica's state while the daemons run: found, not served, and repaired."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from node.client import HivememClient
from tests.cluster.harness import eventually

SECRET = b"a value that can be found in the file"


def state_file(cluster, index: int) -> Path:
    return cluster.nodes[index].data_dir / "groups" / "0" / "live" / "data.mdb"


def flip(path: Path, content: bytes = SECRET) -> None:
    """Flip a bit wherever `content` stands: the node sees it, since LMDB maps the file."""
    data = path.read_bytes()
    places = [found.start() for found in re.finditer(re.escape(content), data)]
    assert places
    with path.open("r+b") as file:
        for at in places:
            file.seek(at)
            file.write(bytes([content[0] ^ 0x10]))


async def fill(cluster) -> None:
    async with HivememClient(cluster.endpoints, timeout_ms=20_000) as client:
        await client.put("repair", "s", "k", SECRET)
        for number in range(20):
            await client.put("repair", "s", f"{number:03d}", f"value {number}")


async def integrity(cluster, index: int) -> dict:
    status = await cluster.status(index)
    return {} if status is None else status["integrity"][0]


async def read(cluster, index: int, key: str = "k", **options) -> bytes:
    endpoint = cluster.nodes[index].http
    async with HivememClient([endpoint], timeout_ms=5_000, follow=False) as client:
        return (await client.get("repair", "s", key, **options)).value


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_read_that_meets_damage_is_not_served_and_the_node_repairs_itself(cluster, who):
    leader = await cluster.wait_leader()
    await fill(cluster)
    victim = leader if who == "leader" else (leader + 1) % 3
    pid = cluster.nodes[victim].pid
    flip(state_file(cluster, victim))
    assert await read(cluster, victim, consistency="stale") == SECRET

    async def repaired() -> bool:
        found = await integrity(cluster, victim)
        return bool(found) and found["quarantines"] and found["state"] == "serving"

    await eventually(repaired, 20, "it does not repair itself")
    assert await read(cluster, victim, consistency="stale") == SECRET
    assert await read(cluster, victim) == SECRET
    assert cluster.nodes[victim].pid == pid
    found = await integrity(cluster, victim)
    assert found["quarantines"] == {"read": 1}
    assert "changes" in found["reason"]
    assert "the state is damaged" in (cluster.nodes[victim].data_dir / "daemon.log").read_text()
