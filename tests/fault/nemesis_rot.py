"""Bits flip, and records change, in the files of a node that runs and serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from engines.errors import EngineError
from engines.layout import pack_leaf, unpack_leaf
from tests.cluster.harness import eventually
from tests.fault.cluster import FaultCluster
from tests.fault.nemesis import nemesis
from tests.fault.nemesis_disks import NO_CUT, SNAPSHOT_SECONDS, flip_bits, newest, tend, well
from tests.raw_state import written_leaves

MEND_SECONDS: Final = 60.0  # to find the damage, and to be rid of it, on a machine that is busy
STATE_BITS: Final = 256
# Found in seconds, not in hours.
FAST: Final = {
    "HIVEMEM_STORAGE_SCRUB_BYTES_PER_SECOND_MAX": str(32 << 20),
    "HIVEMEM_STORAGE_SCRUB_INTERVAL_SECONDS": "1",
}
DIGESTS_ALONE: Final = {
    "HIVEMEM_STORAGE_SCRUB_BYTES_PER_SECOND_MAX": "0",
    "HIVEMEM_STORAGE_DIGEST_INTERVAL_SECONDS": "1",
}


@nemesis("rot-live-state", seconds=2.0, settings={**FAST, **NO_CUT}, repaired=True)
async def rot_live_state(cluster: FaultCluster) -> AsyncIterator[None]:
    """Found by a read, an apply or the scrub; LMDB itself may crash over a page that is not one,
    and the node is started again."""
    victim = cluster.rng.choice(cluster.running())
    async with _mended(cluster, victim, _quarantined):
        flip_bits(_group(cluster, victim) / "live" / "data.mdb", cluster.rng, STATE_BITS)
        yield


@nemesis("rot-live-snapshot", seconds=2.0, settings=FAST, repaired=True)
async def rot_live_snapshot(cluster: FaultCluster) -> AsyncIterator[None]:
    """Found by the scrub, or by whoever is sent the snapshot; another one is made."""
    victim = cluster.rng.choice(cluster.running())
    folder = _group(cluster, victim)

    async def made() -> bool:
        return bool(newest(folder, "snapshots/*/state.mdb"))

    async def replaced() -> bool:
        """Set aside; or it was replaced by a newer one before anybody looked at it."""
        gone = not damaged.exists()
        if gone:
            aside = list(folder.glob("snapshots/*.damaged"))
            cluster.repairs["snapshot set aside" if aside else "snapshot outlived"] += 1
        return gone

    await eventually(made, SNAPSHOT_SECONDS, "there is no snapshot")
    damaged = newest(folder, "snapshots/*/state.mdb")[0].parent
    async with _mended(cluster, victim, replaced):
        with contextlib.suppress(FileNotFoundError):
            flip_bits(damaged / "state.mdb", cluster.rng)
        yield


@nemesis("rot-live-log", seconds=2.0, settings={**FAST, **NO_CUT}, repaired=True)
async def rot_live_log(cluster: FaultCluster) -> AsyncIterator[None]:
    """The node stops by itself, does not start on that log, and is reseeded by an operator."""
    victim = cluster.rng.choice(cluster.running())
    repairs = cluster.repairs.total()

    async def noticed() -> bool:
        return cluster.repairs.total() > repairs

    async with _mended(cluster, victim, noticed):
        flip_bits(newest(_group(cluster, victim), "log/*.seg")[0], cluster.rng)
        yield


@nemesis("diverge", seconds=2.0, settings=DIGESTS_ALONE, repaired=True)
async def diverge(cluster: FaultCluster) -> AsyncIterator[None]:
    """Records change with their checksums, in what no answer shows: only digests tell."""
    victim = cluster.rng.choice(cluster.running())
    async with _mended(cluster, victim, _quarantined):
        await asyncio.to_thread(_change_leaves, _group(cluster, victim) / "live")
        yield


def _group(cluster: FaultCluster, index: int) -> Path:
    return cluster.nodes[index].data_dir / "groups" / "0"


def _change_leaves(folder: Path) -> None:
    """When a record was last changed is in no answer of the workload."""
    with written_leaves(folder) as (txn, leaves):
        with txn.cursor(db=leaves) as cursor:
            found = [(bytes(key), bytes(value)) for key, value in cursor.iternext()]
        for place, record in found:  # all: the load must touch one for the sums to tell
            with contextlib.suppress(EngineError):  # a directory
                leaf = unpack_leaf("leaves", place, memoryview(record))
                changed = leaf._replace(updated_ms=leaf.updated_ms + 1)
                txn.put(place, pack_leaf(place, changed), db=leaves)


Done = Callable[[], Awaitable[bool]]


async def _quarantined() -> bool:
    """Placeholder for `_mended`: the victim's quarantines are what counts."""
    return False


@contextlib.asynccontextmanager
async def _mended(cluster: FaultCluster, victim: int, done: Done) -> AsyncIterator[None]:
    """The damage is noticed and made good, by the node itself or by who tends it."""
    await cluster.leave()  # an earlier victim's repair is done
    repairs = cluster.repairs.total()
    before = await _quarantines(cluster, victim)
    counted = 0

    async def noticed() -> bool:
        nonlocal counted
        if done is not _quarantined:
            return await done()
        found = await _quarantines(cluster, victim)
        # A node that was started again has rebuilt its state, or counts from zero.
        new = found - (before if found >= before else 0)
        if new > counted:
            cluster.repairs["quarantined"] += new - counted
            counted = new
        return cluster.repairs.total() > repairs

    cluster.tend(tend(cluster, victim))
    yield
    await eventually(noticed, MEND_SECONDS, "nobody noticed the damage")
    await eventually(lambda: well(cluster, victim), MEND_SECONDS, "the victim is not well")


async def _quarantines(cluster: FaultCluster, index: int) -> int:
    """How often the node found its state damaged since it was started."""
    status = await cluster.status(index)
    if status is None:
        return 0
    return sum(sum(each["quarantines"].values()) for each in status["integrity"])
