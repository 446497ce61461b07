"""Logs are cut, and snapshots bring nodes up to date that are behind, crashed or damaged."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from node.client import BatchPut, HivememClient
from scripts.workload import Writers, check_nothing_lost
from tests.cluster.harness import LocalCluster, eventually, running_cluster

KIB = 1 << 10
MIB = 1 << 20
SECONDS = 40.0  # for a snapshot to be made, sent and installed on a loaded machine
POLL_SECONDS = 0.002  # between two looks at a file that grows at hundreds of MiB/s

# A log that is cut after some dozen entries, in segments as small as may be.
SMALL = {
    "HIVEMEM_LIMITS_VALUE_BYTES_MAX": str(32 * KIB),
    "HIVEMEM_LIMITS_TXN_BYTES_MAX": str(128 * KIB),
    "HIVEMEM_RAFT_ENTRY_BYTES_MAX": str(128 * KIB),
    "HIVEMEM_STORAGE_SEGMENT_BYTES": str(256 * KIB),
    "HIVEMEM_STORAGE_SNAPSHOT_ENTRIES": "60",
    "HIVEMEM_STORAGE_LOG_KEEP_ENTRIES": "10",
    "HIVEMEM_STORAGE_LOG_KEEP_BYTES_MAX": str(512 * KIB),
}
# States of some dozen MiB, with snapshots that do not follow one another too fast.
LARGE = {
    **SMALL,
    "HIVEMEM_STORAGE_SNAPSHOT_ENTRIES": "100000",
    "HIVEMEM_STORAGE_SNAPSHOT_LOG_BYTES": str(16 * MIB),
}
BATCH_VALUES = 32


def batch(number: int, value_bytes: int) -> list[BatchPut]:
    """Random values under keys of their own."""
    keys = (f"{number:04d}-{each:02d}" for each in range(BATCH_VALUES))
    return [BatchPut("fill", "s", key, os.urandom(value_bytes)) for key in keys]


async def fill(cluster: LocalCluster, mib: int) -> None:
    """Write that much, as random bytes."""
    value_bytes = 16 * KIB
    numbers = iter(range(mib * MIB // (BATCH_VALUES * value_bytes)))
    async with cluster.client() as client:

        async def some() -> None:
            for number in numbers:
                await client.batch(batch(number, value_bytes))

        await asyncio.gather(*(some() for _ in range(4)))


async def filled(client: HivememClient) -> dict[str, bytes]:
    return {item.key: item.value or b"" async for item in client.list("fill", "s", values=True)}


async def check_equal(cluster: LocalCluster) -> None:
    """Every node holds the same of what `fill` and `write_past` wrote."""
    states = []
    for index in range(3):
        async with cluster.client(index) as client:
            states.append(await filled(client))
    assert states[0]
    assert states[0] == states[1] == states[2]


def snapshots(cluster: LocalCluster, index: int) -> Path:
    return cluster.nodes[index].data_dir / "groups" / "0" / "snapshots"


def whole(cluster: LocalCluster, index: int) -> list[Path]:
    """The state files of a node's complete snapshots, oldest first."""
    return sorted(snapshots(cluster, index).glob("[0-9]*[0-9]/state.mdb"))


def segments(cluster: LocalCluster, index: int) -> set[str]:
    folder = cluster.nodes[index].data_dir / "groups" / "0" / "log"
    return {path.name for path in folder.glob("*.seg")}


def flip(path: Path) -> None:
    """Damage one bit of a file, in the middle of it."""
    at = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


async def figure(cluster: LocalCluster, index: int, name: str) -> int:
    status = await cluster.status(index)
    assert status is not None
    return int(status[name])


async def until(holds: Callable[[], bool], otherwise: str) -> None:
    """As `eventually`, for what changes within milliseconds."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, otherwise
        await asyncio.sleep(POLL_SECONDS)


async def fall_behind(cluster: LocalCluster, index: int) -> int:
    """Kill a node; returns an index that its log does not go beyond."""
    await cluster.kill(index)
    # Not what it said itself before: it may have been behind, and have caught up since.
    return max([await figure(cluster, each, "log_index") for each in range(3) if each != index])


async def write_past(cluster: LocalCluster, last: int, *, without: int) -> None:
    """Write until no other node's log goes back to the entry after `last`."""
    others = [index for index in range(3) if index != without]
    async with cluster.client(*others) as client:
        for number in range(1000, 3000):  # other keys than those of `fill`
            await client.batch(batch(number, 2 * KIB))
            firsts = [await figure(cluster, index, "log_first_index") for index in others]
            if min(firsts) > last + 1:
                return
    raise AssertionError("the log is not cut")


async def caught_up_by_snapshot(cluster: LocalCluster, index: int, last: int) -> None:
    """It is ready again, and that means: its log begins anew above a snapshot."""
    await cluster.wait_ready(index, SECONDS)
    assert await figure(cluster, index, "log_first_index") > last + 1
    assert await figure(cluster, index, "snapshot_index") > last


def crash_machine(cluster: LocalCluster, index: int, *, boot: str | None) -> None:
    """Leave a node's folder as a crash may: torn pages in a state that was never fsynced."""
    folder = cluster.nodes[index].data_dir
    marker = folder / "boot.json"
    found = json.loads(marker.read_text())
    assert found["clean"] is False
    marker.write_text(json.dumps({**found, "boot_id": boot or found["boot_id"]}))
    with (folder / "groups" / "0" / "live" / "data.mdb").open("r+b") as file:
        file.write(b"\xff" * 64 * KIB)


# --- Logs are cut ------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [SMALL], indirect=True)
async def test_a_follower_that_was_away_too_long_gets_a_snapshot(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    away = (leader + 1) % 3
    async with Writers(cluster.endpoints, count=4) as writers:
        await writers.reach(50)
        before = [segments(cluster, index) for index in range(3)]
        last = await fall_behind(cluster, away)
        await write_past(cluster, last, without=away)
        for index in {0, 1, 2} - {away}:
            assert not before[index] & segments(cluster, index)
        await cluster.restart(away, ready=False)
        await writers.reach(50)
        await caught_up_by_snapshot(cluster, away, last)
        await writers.reach(50)
    await cluster.check_nothing_lost(writers)
    await check_equal(cluster)


@pytest.mark.parametrize("cluster", [SMALL], indirect=True)
async def test_a_watch_goes_on_when_its_node_gets_a_snapshot(cluster: LocalCluster) -> None:
    """Each change once, in order, though the node never applied some of them itself."""
    leader = await cluster.wait_leader()
    paused = (leader + 1) % 3
    total = 120
    seen: list[str] = []

    async def watch(client: HivememClient, since: int) -> None:
        async with client.watch("w", "s", since=since) as events:
            async for event in events:
                seen.append(event.key)
                if event.key == f"{total - 1:03d}":
                    return

    async with cluster.client(paused) as watching, cluster.client(leader) as writing:
        start = await writing.put("w", "s", "start", "x")
        task = asyncio.create_task(watch(watching, start.revision))
        for number in range(total // 3):
            await writing.put("w", "s", f"{number:03d}", str(number))

        async def followed() -> bool:
            return len(seen) == total // 3

        await eventually(followed, SECONDS, "the watch does not follow")
        cluster.pause(paused)
        # What is on its way to it already will reach it; so fill the way first.
        for _ in range(2):
            end = await figure(cluster, leader, "log_index")
            await write_past(cluster, end, without=paused)
        for number in range(total // 3, 2 * total // 3):
            await writing.put("w", "s", f"{number:03d}", str(number))
        end = await figure(cluster, leader, "log_index")
        await write_past(cluster, end, without=paused)
        cluster.resume(paused)
        for number in range(2 * total // 3, total):
            await writing.put("w", "s", f"{number:03d}", str(number))
        await asyncio.wait_for(task, SECONDS)
        assert seen == [f"{number:03d}" for number in range(total)]
        await caught_up_by_snapshot(cluster, paused, end)
        assert (await watching.get("w", "s", "050")).text() == "50"
    await check_equal(cluster)


# --- Interruptions -----------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [LARGE], indirect=True)
async def test_a_transfer_survives_its_receiver_and_its_sender(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    behind = (leader + 1) % 3
    last = await fall_behind(cluster, behind)
    await fill(cluster, 28)
    await write_past(cluster, last, without=behind)
    part = snapshots(cluster, behind) / "incoming" / "state.mdb.part"

    def received() -> tuple[int, int]:
        """Which file it is, and how long."""
        try:
            found = part.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_size

    await cluster.restart(behind, ready=False)
    await until(lambda: received()[1] > 4 * MIB, "no snapshot arrives")
    await cluster.kill(behind)
    half = received()
    assert half[1] > 4 * MIB
    assert not whole(cluster, behind)

    # Held open: a file system gives the number of a file that is gone to the next one.
    with part.open("rb"):
        await cluster.restart(behind, ready=False)
        await until(lambda: received()[1] > half[1] + MIB, "the snapshot does not go on")
        leader = await cluster.wait_leader()
        assert received()[0] == half[0]  # It was continued, not begun again.
    await cluster.kill(leader)
    assert not whole(cluster, behind)
    async with Writers(cluster.endpoints, count=4) as writers:
        await writers.reach(20)
        await cluster.restart(leader)
        await caught_up_by_snapshot(cluster, behind, last)
        await writers.reach(20)
    await cluster.check_nothing_lost(writers)
    await check_equal(cluster)


async def test_snapshots_that_are_cut_short_leave_nothing_wrong(tmp_path: Path) -> None:
    slow = {**LARGE, "HIVEMEM_STORAGE_SNAPSHOT_LOG_BYTES": str(4 * MIB)}
    slow["HIVEMEM_STORAGE_SNAPSHOT_BYTES_PER_SECOND_MAX"] = str(2 * MIB)
    async with running_cluster(tmp_path, settings=slow) as cluster:
        leader = await cluster.wait_leader()
        async with Writers(cluster.endpoints, count=4) as writers:
            await writers.reach(20)
            await fill(cluster, 5)
            copy = snapshots(cluster, leader) / "making" / "state.mdb"
            await until(lambda: copy.exists() and copy.stat().st_size > MIB, "no snapshot begins")
            await cluster.kill_all()
            assert not whole(cluster, leader)
            with copy.open("rb") as unfinished:  # Held open, as above.
                await asyncio.gather(*(cluster.restart(index, ready=False) for index in range(3)))
                await writers.reach(20)
                await until(
                    lambda: all(whole(cluster, index) for index in range(3)), "no snapshot is made"
                )
                made = whole(cluster, leader)[-1].stat()
                assert not os.path.samestat(made, os.fstat(unfinished.fileno()))
        await cluster.check_nothing_lost(writers)
        await check_equal(cluster)


# --- Damage ------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [SMALL], indirect=True)
async def test_damaged_snapshots_are_noticed_and_replaced(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    behind = (leader + 1) % 3
    last = await fall_behind(cluster, behind)
    await write_past(cluster, last, without=behind)
    leader = await cluster.wait_leader()
    await until(lambda: not (snapshots(cluster, leader) / "making").exists(), "it is not made")
    flip(whole(cluster, leader)[-1])
    await cluster.restart(behind, ready=False)
    await caught_up_by_snapshot(cluster, behind, last)
    assert list(snapshots(cluster, leader).glob("*.damaged"))
    assert not list(snapshots(cluster, behind).glob("*.damaged"))
    await check_equal(cluster)

    # All that a node has of its state is lost: its log alone does not reach down far enough.
    await cluster.kill(behind)
    for state in whole(cluster, behind):
        flip(state)
    shutil.rmtree(cluster.nodes[behind].data_dir / "groups" / "0" / "live")
    async with Writers(cluster.endpoints, count=4) as writers:
        await writers.reach(20)
        await cluster.restart(behind)
        await writers.reach(20)
    assert "the leader is asked for another snapshot" in cluster.log_text(behind)
    await check_nothing_lost(writers, cluster.nodes[behind].http)
    await check_equal(cluster)


@pytest.mark.parametrize("cluster", [SMALL], indirect=True)
async def test_a_state_that_a_crash_tore_is_rebuilt(cluster: LocalCluster) -> None:
    await cluster.wait_leader()
    async with Writers(cluster.endpoints, count=4) as writers:
        await writers.reach(50)
        last = await figure(cluster, 0, "log_index")
        await write_past(cluster, last, without=0)
        await until(lambda: bool(whole(cluster, 0)), "no snapshot is made")
        await cluster.kill(0)
        crash_machine(cluster, 0, boot="another-boot")
        await cluster.restart(0)
        assert "the state was taken from the snapshot" in cluster.log_text(0)
        await check_equal(cluster)

        await cluster.kill(0)
        crash_machine(cluster, 0, boot=None)  # The same boot: only opening it tells.
        await cluster.restart(0)
        assert "the state is damaged" in cluster.log_text(0)
        await writers.reach(20)

        # The power fails for all of them at once.
        await cluster.kill_all()
        for index in range(3):
            crash_machine(cluster, index, boot="another-boot")
        await asyncio.gather(*(cluster.restart(index, ready=False) for index in range(3)))
        await writers.reach(20)
    await cluster.check_nothing_lost(writers)
    await check_equal(cluster)
