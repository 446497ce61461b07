"""Faults of disks and clocks: failing, slow and full disks, rotten bits, power cuts, time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from node.client import HivememClient
from node.errors import HivememError
from tests.cluster.harness import eventually
from tests.fault import disks
from tests.fault.cluster import FaultCluster
from tests.fault.nemesis import a_follower, nemesis
from tests.fault.preload import BROKEN_SYNC, BROKEN_WRITE, LOG, STATE, Faults
from tests.raw_state import data_bytes

SLOW_DISK_MS: Final = 50  # more for each sync
CLOCK_OFFSETS_MS: Final = (-86_400_000, -3_000, 0, 3_000, 86_400_000)
CLOCK_JUMP_SECONDS: Final = 0.3  # between two jumps
ROTTEN_BITS: Final = 64
DETECT_SECONDS: Final = 30.0  # for a node to serve, or to refuse to
GIVE_UP_SECONDS: Final = 30.0  # for a node to stop over a broken disk
SNAPSHOT_SECONDS: Final = 30.0  # for the log to be cut for the first time, under load
SHORT_BYTES: Final = 16 << 20  # free: less than storage.free_bytes_min, here 32 MiB
SAY_SECONDS: Final = 10.0  # for a node to say that its disk is full
CUT_SECONDS_MAX: Final = 2.0  # until the power is cut, at random
REPAIRS_MAX: Final = 5  # starts of a node whose files are rotten, until it is well
# Together more than the most that a small state has ahead.
GROWTH_VALUES: Final = 40
GROWTH_BYTES: Final = 256 << 10
# What a node says of a snapshot that it does not use, and does not stop over.
REFUSED_SNAPSHOT: Final = ("set aside", "the leader is asked for another")
# Kept when a node's folder is wiped: what an operator would keep.
KEPT: Final = ("node.toml", "daemon.log", "daemon.log.1")


# --- Errors and slowness (preload) ---------------------------------------------------------


@contextlib.asynccontextmanager
async def _broken(cluster: FaultCluster, index: int, faults: Faults) -> AsyncIterator[None]:
    """The node must stop by itself, with a reason; it starts again on a disk that works."""
    name = cluster.name(index)
    cluster.faults.set(name, faults)
    try:
        code = await cluster.ended(index, GIVE_UP_SECONDS)
        assert code > 0, f"{name} ended with {code}"
        assert "stopping:" in cluster.said(index), f"{name} gave no reason"
        yield
    finally:
        cluster.faults.clear(name)
        await cluster.restart_all()


@nemesis("eio-fsync-leader", "preload")
async def eio_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    async with _broken(cluster, await cluster.wait_leader(), BROKEN_SYNC):
        yield


@nemesis("eio-fsync-follower", "preload")
async def eio_follower(cluster: FaultCluster) -> AsyncIterator[None]:
    victim = a_follower(cluster, await cluster.wait_leader())
    async with _broken(cluster, victim, BROKEN_SYNC):
        yield


@nemesis("eio-write", "preload")
async def eio_write(cluster: FaultCluster) -> AsyncIterator[None]:
    """The log cannot be written."""
    victim = cluster.rng.choice(cluster.running())
    async with _broken(cluster, victim, BROKEN_WRITE):
        yield


@nemesis("eio-state", "preload")
async def eio_state(cluster: FaultCluster) -> AsyncIterator[None]:
    """The applied state is given no more room, though the log can be written."""
    victim = cluster.rng.choice(cluster.running())
    growing = asyncio.create_task(_grow(cluster))
    try:
        async with _broken(cluster, victim, BROKEN_WRITE._replace(path=STATE)):
            yield
    finally:
        growing.cancel()
        await asyncio.gather(growing, return_exceptions=True)


async def _grow(cluster: FaultCluster) -> None:
    """Use up what each state has ahead, beside the load: the disk is asked for more then."""
    async with HivememClient(cluster.endpoints, timeout_ms=5_000) as client:
        for number in range(GROWTH_VALUES):
            with contextlib.suppress(HivememError):
                await client.put("growth", "s", str(number), bytes(GROWTH_BYTES))


@nemesis("slow-disk-leader", "preload")
async def slow_disk_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    name = cluster.name(await cluster.wait_leader())
    cluster.faults.set(name, Faults(sync_delay_ms=SLOW_DISK_MS, path=LOG))
    try:
        yield
    finally:
        cluster.faults.clear(name)


@nemesis("clock-jumps", "preload")
async def clock_jumps(cluster: FaultCluster) -> AsyncIterator[None]:
    """Every node's wall clock jumps to and fro, by up to a day, each for itself."""

    async def jump() -> None:
        while True:
            name = cluster.name(cluster.rng.randrange(len(cluster.nodes)))
            offset = cluster.rng.choice(CLOCK_OFFSETS_MS)
            cluster.faults.set(name, Faults(clock_offset_ms=offset))
            await asyncio.sleep(CLOCK_JUMP_SECONDS)

    task = asyncio.create_task(jump())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for node in cluster.plan.nodes:
            cluster.faults.clear(node.name)


# --- Full disks (root) ---------------------------------------------------------------------


@nemesis("full-disk-leader", "small disk", seconds=4.0)
async def full_disk_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    """The one node whose disk is small leads, and its disk gets full."""
    await lead(cluster, 0)
    async with _short(cluster, 0):
        await cluster.wait_leader(other_than=0)
        yield


@nemesis("full-disk-follower", "small disk", seconds=4.0)
async def full_disk_follower(cluster: FaultCluster) -> AsyncIterator[None]:
    await lead(cluster, 1)
    async with _short(cluster, 0):
        yield


@nemesis("full-disk-at-once", "small disk", seconds=4.0)
async def full_disk_at_once(cluster: FaultCluster) -> AsyncIterator[None]:
    """To the last byte, without a warning: the node may stop, and starts again later."""
    folder = cluster.nodes[0].data_dir
    disks.fill(folder)
    try:
        yield
    finally:
        disks.free(folder)
        if not await serves(cluster, 0):
            assert disks.explained(cluster.said(0)), f"node1 gave no reason\n{cluster.said(0)}"
            cluster.forget(0)
            await cluster.restart(0)


@contextlib.asynccontextmanager
async def _short(cluster: FaultCluster, index: int) -> AsyncIterator[None]:
    """Less space is left than the node wants: it says so, runs on, and recovers by itself."""
    folder = cluster.nodes[index].data_dir

    async def says_so() -> bool:
        status = await cluster.status(index)
        return status is not None and status["disk"]["room"] is False

    disks.fill(folder, SHORT_BYTES)
    try:
        await eventually(says_so, SAY_SECONDS, f"{cluster.name(index)} does not say it is full")
        assert not await asyncio.to_thread(cluster.answers, index), "ready with a full disk"
        yield
    finally:
        disks.free(folder)
        await cluster.wait_ready(index)


async def lead(cluster: FaultCluster, index: int) -> None:
    """Have a node lead: whoever leads in its place is paused until another one does."""

    async def leads() -> bool:
        leader = await cluster.wait_leader()
        if leader != index:
            cluster.pause(leader)
            try:
                await cluster.wait_leader(other_than=leader)
            finally:
                cluster.resume(leader)
        return await cluster.leader() == index

    await eventually(leads, 60.0, f"{cluster.name(index)} does not lead")


# --- Rotten bits ---------------------------------------------------------------------------


# Who comes back soon needs no snapshot, which would replace what is damaged before it is met.
NO_CUT: Final = {"HIVEMEM_STORAGE_LOG_KEEP_ENTRIES": "1000000"}


@nemesis("rot-log", seconds=1.0, settings=NO_CUT, repaired=True)
async def rot_log(cluster: FaultCluster) -> AsyncIterator[None]:
    async with _rot(cluster, "log/*.seg"):
        yield


@nemesis("rot-snapshot", seconds=1.0, repaired=True)
async def rot_snapshot(cluster: FaultCluster) -> AsyncIterator[None]:
    """After a machine crash as well: the node has to begin with the snapshot."""

    async def cut(victim: int) -> bool:
        status = await cluster.status(victim)
        return status is not None and status["log_first_index"] > 1

    async with _rot(cluster, "snapshots/*/*", until=cut, also=another_boot):
        yield


@nemesis("rot-state", seconds=1.0, settings=NO_CUT, repaired=True)
async def rot_state(cluster: FaultCluster) -> AsyncIterator[None]:
    async with _rot(cluster, "live/data.mdb"):
        yield


async def _at_once(victim: int) -> bool:
    return True


@contextlib.asynccontextmanager
async def _rot(
    cluster: FaultCluster,
    pattern: str,
    *,
    until: Callable[[int], Awaitable[bool]] = _at_once,
    also: Callable[[Path], None] = lambda folder: None,
) -> AsyncIterator[None]:
    """Bits of a dead node's files flip. It must repair itself, or refuse and be reseeded:
    what it must never do, and what the judge looks for, is to serve something wrong.

    `until`: what is waited for before the victim dies. `also`: what else happens to its folder.
    """
    await cluster.leave()  # an earlier victim's repair is done
    victim = cluster.rng.choice(cluster.running())
    group = cluster.nodes[victim].data_dir / "groups" / "0"
    await eventually(lambda: until(victim), SNAPSHOT_SECONDS, "the log is not cut")
    await cluster.kill(victim)
    flip_bits(cluster.rng.choice(newest(group, pattern)), cluster.rng)
    also(cluster.nodes[victim].data_dir)
    try:
        yield
    finally:
        await cluster.restart(victim, ready=False)
        # Damage may be met much later: whenever the node stops over it, it is repaired.
        cluster.tend(tend(cluster, victim))
        await eventually(lambda: well(cluster, victim), DETECT_SECONDS, "the victim is not well")
        if any(words in cluster.said(victim) for words in REFUSED_SNAPSHOT):
            cluster.repairs["snapshot refused"] += 1
        status = await cluster.status(victim)
        if status is not None and status["integrity"][0]["quarantines"]:
            cluster.repairs["quarantined"] += 1


def newest(group: Path, pattern: str) -> list[Path]:
    """The files that a node begins with: of several snapshots those of the newest one, whose
    folder is named by a log index alone."""
    files = [path for path in sorted(group.glob(pattern)) if path.stat().st_size]
    whole = [path for path in files if path.parent.name.isdigit()]
    return [path for path in whole if path.parent == whole[-1].parent] if whole else files


def flip_bits(path: Path, rng: random.Random, count: int = ROTTEN_BITS) -> None:
    """Flip bits at random places of what is there."""
    with path.open("r+b") as file:
        size = data_bytes(file.fileno())
        for _ in range(count):
            at = rng.randrange(size)
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes((byte ^ 1 << rng.randrange(8),)))


async def serves(cluster: FaultCluster, index: int) -> bool:
    """Whether a node that was started comes to serve; False once it has ended instead."""
    outcome: list[bool] = []

    async def decided() -> bool:
        if cluster.nodes[index].pid is None:
            outcome.append(False)
        elif await asyncio.to_thread(cluster.answers, index):
            outcome.append(True)
        return bool(outcome)

    await eventually(decided, DETECT_SECONDS, f"{cluster.name(index)} neither serves nor stops")
    return outcome[0]


async def well(cluster: FaultCluster, index: int) -> bool:
    """Whether a node serves, also everything that it holds."""
    if cluster.nodes[index].pid is None or not await asyncio.to_thread(cluster.answers, index):
        return False
    endpoint = cluster.nodes[index].http
    try:
        async with HivememClient([endpoint], timeout_ms=2_000, follow=False) as client:
            async for namespace in client.namespaces():
                async for session in client.sessions(namespace):
                    async for _ in client.list(namespace, session, values=True):
                        pass
    except HivememError:
        return False
    return True


async def tend(cluster: FaultCluster, index: int) -> None:
    """An operator: start the node when it has ended; if that does not help, reseed it."""
    for attempt in range(REPAIRS_MAX):
        while cluster.nodes[index].pid is not None:
            await asyncio.sleep(0.05)
        code = cluster.forget(index)
        if code < 0:
            cluster.repairs[f"ended by {signal.Signals(-code).name}"] += 1
        cluster.repairs["wiped" if attempt else "restarted"] += 1
        if attempt:
            wipe(cluster.nodes[index].data_dir)
        await cluster.restart(index, ready=False)
    raise AssertionError(f"{cluster.name(index)} is beyond repair")


def wipe(folder: Path) -> None:
    """What an operator does about a damaged folder, before the node starts anew."""
    for entry in folder.iterdir():
        if entry.name in KEPT:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


# --- Power loss (root) ---------------------------------------------------------------------


@nemesis("power-loss", "powered disk", seconds=0.0)
async def power_loss(cluster: FaultCluster) -> AsyncIterator[None]:
    """The power of all nodes at once is cut; they start again by themselves."""
    disk = cluster.disk
    running = cluster.running()
    moment = cluster.rng.uniform(0, CUT_SECONDS_MAX)
    while moment > 0:  # an instant that nothing in the nodes' work decides
        await asyncio.sleep(min(moment, 0.1))
        moment -= 0.1
    with disk.cut():
        # Killed while the disk stands still: nothing that they do now reaches it, and what
        # waits for it cannot end before it moves again.
        kills = asyncio.gather(*(cluster.kill(index) for index in running))
        await asyncio.sleep(0)
    await kills
    await asyncio.to_thread(disk.restore)
    for index in running:
        another_boot(cluster.nodes[index].data_dir)
    try:
        await cluster.restart_all()
        yield
    finally:
        await cluster.wait_leader()


def another_boot(folder: Path) -> None:
    """Let the folder look as after a restart of the machine, which there was not here."""
    marker = folder / "boot.json"
    text = marker.read_text()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    assert boot_id in text or "true" in text, text
    marker.write_text(text.replace(boot_id, "another-boot"))
