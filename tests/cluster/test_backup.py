"""Backups of a cluster that is being written to, and clusters that are made from them."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engines.state_file import examine
from node import backup_restore
from node.backup_restore import Request
from node.client import BatchPut, HivememClient
from node.clock import SystemClock
from node.errors import NotFound
from node.local_plan import new_plan, read_plan, with_ports, write_plan
from scripts.workload import Writers, stored
from tests.cluster.harness import LocalCluster, eventually, hivemem, running_cluster
from tests.cluster.test_snapshots import LARGE, fill, filled

SECONDS = 30.0
# So slow that a node can be killed while it gives its snapshot.
SLOW = {**LARGE, "HIVEMEM_STORAGE_SNAPSHOT_BYTES_PER_SECOND_MAX": str(4 << 20)}


async def run_json(*arguments: str | Path) -> dict[str, Any]:
    """The answer of a command that must succeed."""
    done = await hivemem(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


async def save(cluster: LocalCluster, file: Path) -> dict[str, Any]:
    return await run_json("snapshot", "save", file, "--endpoints", ",".join(cluster.endpoints))


async def restored(file: Path, folder: Path, count: int) -> None:
    """Make `folder`/cluster, which `running_cluster(folder, count)` starts."""
    request = Request(file, folder / "cluster", count, spare=True)
    await asyncio.to_thread(backup_restore.restore, request, SystemClock(), lambda done_bytes: None)


def digests(backup: dict[str, Any]) -> dict[int, str]:
    return {each["group"]: each["digest"] for each in backup["groups"]}


async def saved_by_each(cluster: LocalCluster, folder: Path) -> list[dict[int, str]]:
    """Digests of what each single node gives."""
    found = []
    for index, node in enumerate(cluster.nodes):
        path = folder / f"again-{index}.hivemem"
        async with cluster.client(index) as client:
            digest = await digest_at(client, node.http, path)
        found.append(digest)
    return found


async def digest_at(client: HivememClient, endpoint: str, path: Path) -> dict[int, str]:
    """Of what this very node holds, whoever leads."""
    groups = (await client.snapshots(endpoint))["groups"]
    return {
        each["group"]: await digest_of(client, endpoint, each["group"], path) for each in groups
    }


async def digest_of(client: HivememClient, endpoint: str, group: int, path: Path) -> str:
    """Of one replica."""
    prepared = await client.prepare_snapshot(endpoint, group, timeout_ms=20_000)
    snapshot = prepared["snapshot"]
    assert snapshot is not None
    stream = await client.open_snapshot(endpoint, snapshot["id"], 0)
    with path.open("wb") as file:
        while piece := await stream.read():
            file.write(piece)
    stream.close()
    found = examine(path).content.hex()
    path.unlink()
    return found


async def history(client: HivememClient) -> list[tuple[int, int, str | None]]:
    return [
        (item.version, item.revision, None if item.value is None else item.value.decode())
        async for item in client.history("app", "s", "edited")
    ]


@pytest.mark.parametrize("count", [1, 5])
async def test_a_backup_under_load_is_restored_onto_one_node_and_onto_five(
    tmp_path: Path, count: int
) -> None:
    async with running_cluster(tmp_path / "old", settings=LARGE) as old:
        await fill(old, 8)
        file = tmp_path / "b.hivemem"
        async with old.client() as client:
            await prepare(client)
            before_history = await history(client)
            async with Writers(old.endpoints, count=16) as writers:
                await writers.reach(200)
                acknowledged = {
                    session: dict(keys) for session, keys in writers.acknowledged.items()
                }
                began = len(writers.times)
                saved = await save(old, file)
                assert len(writers.times) > began, "nothing was written while it was saved"
                await writers.reach(50)
            everything = await filled(client)
        assert saved["cluster_id"] == old.plan.cluster_id
        await restored(file, tmp_path / "new", count)
        # The old cluster still runs: whatever could mix them up, may.
        async with running_cluster(tmp_path / "new", count) as new:
            assert len(new.nodes) == count
            for index in range(count):
                await new.wait_ready(index)
            assert await saved_by_each(new, tmp_path) == [digests(saved)] * count
            await check_restored(new, acknowledged, everything, before_history)
            await check_apart(old, new)
        await old.check_nothing_lost(writers)


async def prepare(client: HivememClient) -> None:
    """What else has to survive: versions, history, request ids, deadlines."""
    for number in range(3):
        await client.put("app", "s", "edited", f"v{number}")
    await client.put("app", "s", "once", "first", request_id="request-1")
    await client.put("app", "s", "fleeting", "x", ttl_seconds=3600)
    await client.put("app", "s", "gone", "x")
    await client.delete("app", "s", "gone")


async def check_restored(
    new: LocalCluster,
    acknowledged: dict[str, dict[str, str]],
    everything: dict[str, bytes],
    before_history: list[tuple[int, int, str | None]],
) -> None:
    async with new.client() as client:
        found = await stored(client)
        missing = [
            (session, key)
            for session, keys in acknowledged.items()
            for key, value in keys.items()
            if found.get(session, {}).get(key) != value
        ]
        assert not missing, f"{len(missing)} writes acknowledged before the backup are not in it"
        assert await filled(client) == everything
        assert await history(client) == before_history
        fleeting = await client.get("app", "s", "fleeting")
        assert fleeting.expires_at is not None
        with pytest.raises(NotFound):
            await client.get("app", "s", "gone")
        # A retry of what was done before the backup is still applied once.
        first = await client.get("app", "s", "once")
        again = await client.put("app", "s", "once", "first", request_id="request-1")
        assert (again.version, again.revision) == (first.version, first.revision)
        written = await client.put("app", "s", "edited", "v3", if_version=3)
        assert written.version == 4
        assert written.revision > first.revision
        await check_watch(client, before_history[-1][1], written.revision)


async def check_watch(client: HivememClient, since: int, revision: int) -> None:
    """One that saw the oldest version before the backup goes on after it."""
    async with client.watch("app", "s", prefix="edited", since=since) as watch:
        seen = []
        async with asyncio.timeout(SECONDS):
            async for event in watch:
                seen.append(event.version)
                if event.revision >= revision:
                    break
    assert seen == [2, 3, 4]


async def check_apart(old: LocalCluster, new: LocalCluster) -> None:
    """Neither knows of the other, and a write to one is not in the other."""
    assert new.plan.cluster_id != old.plan.cluster_id
    assert (new.plan.root / "secret").read_bytes() != (old.plan.root / "secret").read_bytes()
    async with old.client() as former, new.client() as client:
        await client.put("app", "s", "only-new", "x")
        with pytest.raises(NotFound):
            await former.get("app", "s", "only-new")
        ids = {each["id"] for each in (await client.members())["members"]}
        assert ids == {node.id for node in new.plan.nodes}
        assert ids.isdisjoint(node.id for node in old.plan.nodes)


@pytest.mark.parametrize("count", [1, 5])
async def test_partitions_are_restored_onto_other_nodes(tmp_path: Path, count: int) -> None:
    clock, root = SystemClock(), tmp_path / "old" / "cluster"
    write_plan(with_ports(new_plan(root, 3, clock, 4, 2), None, clock, spare=True))
    file = tmp_path / "b.hivemem"
    async with (
        running_cluster(tmp_path / "old") as old,
        Writers(old.endpoints, count=16) as writers,
    ):
        await writers.reach(200, SECONDS)
        acknowledged = {session: dict(keys) for session, keys in writers.acknowledged.items()}
        saved = await save(old, file)
        await writers.reach(50)
    assert [each["slots"] for each in saved["groups"]] == [
        [], [[0, 4095]], [[4096, 8191]], [[8192, 12287]], [[12288, 16383]],
    ]  # fmt: skip
    data = {group: digest for group, digest in digests(saved).items() if group}
    assert len(set(data.values())) == 4
    await restored(file, tmp_path / "new", count)
    async with running_cluster(tmp_path / "new", count) as new:
        for group, held in (await digests_of_replicas(new, tmp_path)).items():
            assert held == [data[group]] * min(2, count)
        async with new.client() as client:
            found = await stored(client)
            for session, keys in acknowledged.items():
                assert keys.items() <= found[session].items()
            await client.put("app", "s", "k", "new")
            assert (await client.get("app", "s", "k")).text() == "new"


async def digests_of_replicas(cluster: LocalCluster, folder: Path) -> dict[int, list[str]]:
    """What each replica of each partition holds."""
    found: dict[int, list[str]] = {}
    async with cluster.client() as client:
        endpoints = {node.id: node.http for node in cluster.nodes}
        for group in (await client.snapshots(cluster.nodes[0].http))["groups"][1:]:
            replicas = group["holders"][: min(2, len(endpoints))]
            found[group["group"]] = [
                await digest_of(client, endpoints[node], group["group"], folder / "again.mdb")
                for node in replicas
            ]
    return found


async def test_a_node_of_the_old_cluster_is_refused_by_the_new_one(tmp_path: Path) -> None:
    """Its operator gives it an address of the new cluster, and even the secret."""
    async with running_cluster(tmp_path / "old") as old:
        async with old.client() as client:
            await client.put("app", "s", "k", "old")
        file = tmp_path / "b.hivemem"
        await save(old, file)
        await restored(file, tmp_path / "new", 3)
        async with running_cluster(tmp_path / "new") as new:
            # Of two nodes the smaller id dials: this one knocks at all others' addresses.
            index = min(range(3), key=lambda each: old.nodes[each].id)
            await old.kill(index)
            config = old.plan.config_path(old.plan.nodes[index])
            text = config.read_text()
            for each in {0, 1, 2} - {index}:
                text = text.replace(old.plan.nodes[each].peer, new.plan.nodes[each].peer)
            config.write_text(text)
            shutil.copy(new.plan.root / "secret", old.plan.root / "secret")
            term = (await new.status(0) or {})["term"]
            await old.restart(index, ready=False)

            async def refused() -> bool:
                logs = (new.log_text(each) for each in range(3))
                return any(f"belongs to cluster {old.plan.cluster_id}" in text for text in logs)

            await eventually(refused, SECONDS, "the stray node does not knock")
            async with new.client() as client:
                assert (await client.get("app", "s", "k")).text() == "old"
                assert {each["id"] for each in (await client.members())["members"]} == {
                    node.id for node in new.plan.nodes
                }
            assert (await new.status(0) or {})["term"] == term


@pytest.mark.parametrize("cluster", [SLOW], indirect=True)
async def test_a_backup_goes_on_when_the_node_that_gave_it_dies(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    await fill(cluster, 16)
    leader = await cluster.wait_leader()
    file = tmp_path / "b.hivemem"
    async with cluster.client() as client:
        await client.put("app", "s", "k", "v")
        running = asyncio.create_task(save(cluster, file))
        first = min(
            (index for index in range(3) if index != leader),
            key=lambda index: cluster.nodes[index].name,
        )
        await until_streaming(tmp_path, running)
        await cluster.kill(first)
        saved = await running
        everything = await filled(client)
    assert saved["sound"]
    await restored(file, tmp_path / "new", 1)
    async with running_cluster(tmp_path / "new", 1) as new, new.client() as client:
        assert await filled(client) == everything
        assert (await client.get("app", "s", "k")).text() == "v"


async def until_streaming(folder: Path, running: asyncio.Task[dict[str, Any]]) -> None:
    """Until the first bytes of a state arrived."""

    async def streaming() -> bool:
        assert not running.done(), running.result()
        parts = await asyncio.to_thread(lambda: list(folder.glob(".b.hivemem.*/0.mdb")))
        return any(part.stat().st_size > 1 << 20 for part in parts)

    await eventually(streaming, SECONDS, "nothing arrives")


async def test_without_a_quorum_nothing_is_saved(cluster: LocalCluster, tmp_path: Path) -> None:
    leader = await cluster.wait_leader()
    async with cluster.client() as client:
        await client.batch([BatchPut("app", "s", "k", b"v")])
    for index in range(3):
        if index != leader:
            await cluster.kill(index)
    file = tmp_path / "b.hivemem"
    done = await hivemem("snapshot", "save", file, "--endpoints", cluster.nodes[leader].http)
    assert done.returncode == 5, done.stderr
    assert not list(tmp_path.glob("*.hivemem")) + list(tmp_path.glob(".b*"))


async def test_up_starts_from_a_backup(cluster: LocalCluster, tmp_path: Path) -> None:
    async with cluster.client() as client:
        await client.put("app", "s", "k", "v")
    file = tmp_path / "b.hivemem"
    await save(cluster, file)
    root = tmp_path / "up"
    up = await run_json("up", "--from", file, "--nodes", "1", "--data-dir", root, "--detach")
    try:
        plan = read_plan(root)
        assert plan is not None
        assert up["cluster_id"] == plan.cluster_id != cluster.plan.cluster_id
        async with HivememClient([plan.nodes[0].http]) as client:
            assert (await client.get("app", "s", "k")).text() == "v"
        again = await hivemem("up", "--from", file, "--data-dir", root, "--detach")
        assert again.returncode == 1
        assert "not empty" in again.stderr
    finally:
        await hivemem("down", "--data-dir", root)
