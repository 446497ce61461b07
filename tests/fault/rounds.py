"""One round: a workload, a fault in the middle of it, and the judgement afterwards."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from tests.fault.cluster import FaultCluster
from tests.fault.judgement import Judgement, judge
from tests.fault.nemesis import Nemesis
from tests.fault.workload import OPS_PER_SECOND, Record, Workload

WARM_WRITES: Final = 300  # acknowledged before the fault
HEALED_WRITES: Final = 300  # acknowledged after it, for a round to count as healed
HEALED_SECONDS: Final = 30.0

# Snapshots and cuts of the log every few seconds, so that who was away needs a snapshot. The
# log is cut by whole files; the limits are those that so small files allow.
CHURN: Final[dict[str, str]] = {
    "HIVEMEM_STORAGE_SNAPSHOT_ENTRIES": "500",
    "HIVEMEM_STORAGE_LOG_KEEP_ENTRIES": "100",
    "HIVEMEM_STORAGE_SEGMENT_BYTES": str(256 << 10),
    "HIVEMEM_RAFT_ENTRY_BYTES_MAX": str(128 << 10),
    "HIVEMEM_LIMITS_TXN_BYTES_MAX": str(96 << 10),
    "HIVEMEM_LIMITS_VALUE_BYTES_MAX": str(16 << 10),
    "HIVEMEM_STORAGE_FREE_BYTES_MIN": str(32 << 20),
}


def settings(nemesis: Nemesis) -> dict[str, str]:
    """Of the cluster that a nemesis works on."""
    return {**CHURN, **nemesis.settings}


@dataclass(frozen=True)
class Round:
    """`gap_seconds`: the longest time without an acknowledged write, from the fault on."""

    judgement: Judgement
    gap_seconds: float


async def run_round(
    cluster: FaultCluster,
    nemesis: Nemesis,
    record: Record,
    *,
    seed: int = 0,
    ops_per_second: float = OPS_PER_SECOND,
    calm_seconds: float = 0.0,
) -> Round:
    """`record` is filled; its namespace is fresh. `calm_seconds`: of load after healing.

    Raises TimeoutError, AssertionError: what must come to happen did not.
    """
    repairs = cluster.repairs.total()
    workload = Workload(
        cluster.endpoints,
        record,
        seed=seed,
        ops_per_second=ops_per_second,
        redis=cluster.redis_addresses,
    )
    async with workload:
        await workload.reach(WARM_WRITES)
        began = time.monotonic()
        async with nemesis.fault(cluster):
            await let_pass(nemesis.seconds)
        await workload.reach(HEALED_WRITES, HEALED_SECONDS)
        await let_pass(calm_seconds)
    judgement = await judge(record, cluster.endpoints)
    if nemesis.repaired:
        assert cluster.repairs.total() > repairs, f"{nemesis.name}: no node noticed the damage"
    return Round(judgement, record.gap_after(began))


async def let_pass(seconds: float) -> None:
    """Let the load go on for a while: that is the measurement, nothing is waited for."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.1))
