"""Damage in one replica's state while the daemons run: found, not served, and repaired."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from engines.layout import pack_leaf, unpack_leaf
from node import cli
from node.client import HivememClient
from tests.cluster.harness import eventually
from tests.raw_state import data_bytes, written_leaves

SECRET = b"a value that can be found in the file"


def state_file(cluster, index: int) -> Path:
    return cluster.nodes[index].data_dir / "groups" / "0" / "live" / "data.mdb"


def flip(path: Path, content: bytes = SECRET) -> None:
    """Flip a bit wherever `content` stands: the node sees it, since LMDB maps the file."""
    with path.open("rb") as file:
        data = file.read(data_bytes(file.fileno()))
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
    for index in range(3):  # followers apply a moment later; who reads waits for that
        await read(cluster, index, "019")


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


# --- A replica that differs, with every checksum right -----------------------------------------

COMPARING = {
    "HIVEMEM_STORAGE_DIGEST_INTERVAL_SECONDS": "1",
    "HIVEMEM_STORAGE_SCRUB_BYTES_PER_SECOND_MAX": "0",
}
SCRUBBING = {
    "HIVEMEM_STORAGE_DIGEST_INTERVAL_SECONDS": "0",
    "HIVEMEM_STORAGE_SCRUB_BYTES_PER_SECOND_MAX": str(16 << 20),
    "HIVEMEM_STORAGE_SCRUB_INTERVAL_SECONDS": "1",
}


def tamper(cluster, index: int, key: bytes = b"k") -> None:
    """Change a record and its checksum with it, as no write does."""
    with written_leaves(state_file(cluster, index).parent) as (txn, leaves):
        with txn.cursor(db=leaves) as cursor:
            places = [bytes(place) for place in cursor.iternext(values=False)]
        (place,) = [each for each in places if each[8:] == key]
        leaf = unpack_leaf("leaves", place, txn.get(place, db=leaves) or b"")
        changed = leaf._replace(version=leaf.version + 7)
        txn.put(place, pack_leaf(place, changed), db=leaves)


async def version(cluster, index: int) -> int:
    endpoint = cluster.nodes[index].http
    async with HivememClient([endpoint], timeout_ms=5_000, follow=False) as client:
        return (await client.get("repair", "s", "k", consistency="stale")).version


async def healed(cluster, victim: int, found_by: str) -> None:
    async def repaired() -> bool:
        found = await integrity(cluster, victim)
        done = bool(found) and found["quarantines"] and found["state"] == "serving"
        return bool(done)

    await eventually(repaired, 40, "it does not repair itself")
    found = await integrity(cluster, victim)
    assert found["quarantines"] == {found_by: 1}
    for index in range(3):
        assert await version(cluster, index) == 1


@pytest.mark.parametrize("cluster", [COMPARING], indirect=True)
@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_replica_that_computed_something_else_is_found_by_its_digest(cluster, who):
    """Its record was changed with its checksum; as soon as anything touches the record, the
    sums show it."""
    leader = await cluster.wait_leader()
    await fill(cluster)
    victim = leader if who == "leader" else (leader + 1) % 3
    tamper(cluster, victim, b"000")
    async with HivememClient(cluster.endpoints, timeout_ms=20_000) as client:
        await client.delete("repair", "s", "000")
    await healed(cluster, victim, "digest")
    found = await integrity(cluster, victim)
    assert "the majority's" in found["reason"]
    assert await cluster.leader() is not None

    async def agree() -> bool:
        async with HivememClient(cluster.endpoints, timeout_ms=20_000) as client:
            await client.put("repair", "s", "again", b"v")
        views = [(await integrity(cluster, index)).get("comparison") for index in range(3)]
        return all(view and view["agreed"] for view in views) and (
            len({view["index"] for view in views}) == 1
        )

    await eventually(agree, 30, "the replicas do not agree")


@pytest.mark.parametrize("cluster", [SCRUBBING], indirect=True)
async def test_a_record_that_changed_with_its_checksum_is_found_by_adding_up(cluster):
    leader = await cluster.wait_leader()
    await fill(cluster)
    victim = (leader + 1) % 3
    tamper(cluster, victim)
    await healed(cluster, victim, "digest")
    found = await integrity(cluster, victim)
    assert "buckets" in found["reason"]
    assert found["scrub"]["errors"] == 1


# --- The commands -------------------------------------------------------------------------------


async def command(capsys, cluster, *words: str) -> tuple[int, dict]:
    endpoints = ",".join(cluster.endpoints)
    arguments = [*words, "--endpoints", endpoints, "-o", "json"]
    status = await asyncio.to_thread(cli.main, arguments)
    return status, json.loads(capsys.readouterr().out or "{}")


async def test_doctor_and_repair_on_a_running_cluster(cluster, capsys):
    leader = await cluster.wait_leader()
    await fill(cluster)
    status, found = await command(capsys, cluster, "doctor")
    assert (status, found["problems"]) == (0, [])
    compared = [each for node in found["nodes"] for each in node["comparisons"]]
    assert [len(each["agreed"]) for each in compared] == [3]
    victim = (leader + 1) % 3
    name = cluster.nodes[victim].name
    status, found = await command(capsys, cluster, "repair", name)
    assert (status, found["groups"]) == (0, [0])
    await healed(cluster, victim, "operator")
    tamper(cluster, victim, b"000")
    async with HivememClient(cluster.endpoints, timeout_ms=20_000) as client:
        await client.delete("repair", "s", "000")
    status, found = await command(capsys, cluster, "doctor")
    assert status == 1
    assert any(f"odd: {name}" in text for text in found["problems"])

    async def sound() -> bool:
        status, _ = await command(capsys, cluster, "doctor")
        return status == 0

    await eventually(sound, 60, "the odd replica is not rebuilt")


async def test_a_node_that_is_killed_while_it_repairs_itself_goes_on_when_it_starts(cluster):
    leader = await cluster.wait_leader()
    await fill(cluster)
    victim = (leader + 1) % 3
    node = cluster.nodes[victim]
    async with HivememClient(cluster.endpoints, timeout_ms=20_000) as client:
        assert await client.reseed_member(node.id) == [0]
    await cluster.kill(victim)
    # Whether it was over or not: as if it had not been, the mark stands, and the state is torn.
    mark = node.data_dir / "groups" / "0" / "quarantine.json"
    mark.write_text(json.dumps({"reason": "a test", "reseed_from": 1, "since_ms": 1}))
    with state_file(cluster, victim).open("r+b") as file:
        file.write(b"\xff" * 65536)
    await cluster.restart(victim, ready=False)

    async def serves() -> bool:
        found = await integrity(cluster, victim)
        return bool(found) and found["state"] == "serving" and found["quarantines"] != {}

    await eventually(serves, 40, "it does not serve again")
    assert (await integrity(cluster, victim))["quarantines"] == {"start": 1}
    assert await read(cluster, victim, consistency="stale") == SECRET
    assert not mark.exists()
