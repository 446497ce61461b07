"""The tools themselves: faults that really happen, and a judge who notices what is wrong."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
from pathlib import Path

import pytest

from node.client import HivememClient
from node.errors import InternalError, Unavailable
from tests.cluster.harness import eventually
from tests.fault import nemesis_disks, nemesis_rot  # noqa: F401  # register their nemeses
from tests.fault.cluster import FaultCluster
from tests.fault.judgement import Judgement, judge
from tests.fault.nemesis import NEMESES
from tests.fault.possible import impossible
from tests.fault.preload import LYING_SYNC, Faults
from tests.fault.rounds import run_round
from tests.fault.surroundings import fault_cluster, showing_logs
from tests.fault.workload import REGISTERS, Record, Workload

pytestmark = pytest.mark.timeout(180)

READS = 20
RETURNS_MAX = 3


def needs(kind: str) -> pytest.MarkDecorator:
    reason = impossible(kind)  # type: ignore[arg-type]
    return pytest.mark.skipif(reason is not None, reason=str(reason))


async def healthy_peers(cluster: FaultCluster, index: int) -> int:
    """How many nodes answer, as one of them sees it."""
    async with HivememClient([cluster.nodes[index].http], follow=False) as client:
        view = await client.cluster()
    return sum(node["healthy"] for node in view["nodes"])


# --- The judge -----------------------------------------------------------------------------


async def worked(cluster: FaultCluster) -> Record:
    record = Record("judged")
    async with Workload(cluster.endpoints, record) as workload:
        await workload.reach(200)
    return record


async def test_the_judge_notices_what_is_lost_there_again_or_wrong(tmp_path: Path) -> None:
    async with fault_cluster("direct", tmp_path) as cluster:
        await cluster.wait_leader()
        record = await worked(cluster)
        good = await judge(record, cluster.endpoints)
        assert good.good, good.explain()
        assert good.acknowledged >= 200

        session = max(record.ledger, key=lambda name: len(record.ledger[name]))
        lost, other = list(record.ledger[session])[:2]
        async with HivememClient(cluster.endpoints) as client:
            await client.delete("judged", session, lost)
            record.refused.append((session, other))
            register = min(record.registers)
            await client.put("judged", REGISTERS, register, "written by nobody")
        bad: Judgement = await judge(record, cluster.endpoints)
        assert bad.lost == (f"{session}/{lost}",)
        assert bad.resurrected == (f"{session}/{other}",)
        assert bad.violation is not None
        assert register in bad.violation
        assert not bad.good


def test_gaps_are_measured_from_the_fault_on() -> None:
    record = Record("unused")
    assert record.gap_after(0.0) == 0.0
    record.acknowledged += [1.0, 2.0, 5.0, 5.5]
    record.ended = 6.0
    assert record.gap_after(1.5) == 3.0
    assert record.gap_after(5.2) == 0.5
    record.ended = 9.0  # nothing was acknowledged any more
    assert record.gap_after(1.5) == 3.5


def test_an_error_that_no_fault_explains_is_a_defect() -> None:
    record = Record("unused")
    workload = Workload(["http://127.0.0.1:1"], record)
    workload.note(Unavailable("no quorum"))
    assert not record.defects
    workload.note(InternalError("a bug"))
    assert record.defects == ["INTERNAL: a bug"]
    assert record.errors == {"QUORUM_NOT_REACHED": 1, "INTERNAL": 1}


# --- Faults --------------------------------------------------------------------------------


@needs("preload")
async def test_a_clock_is_really_wrong_and_a_disk_really_slow(tmp_path: Path) -> None:
    async with fault_cluster("preload", tmp_path) as cluster:
        name = cluster.name(await cluster.wait_leader())
        for node in cluster.plan.nodes:
            cluster.faults.set(node.name, Faults(clock_offset_ms=86_400_000))
        async with HivememClient(cluster.endpoints) as client:
            await client.put("clock", "s", "k", "tomorrow")
            items = [item async for item in client.list("clock", "s")]
            ahead = items[0].created_at - datetime.datetime.now(datetime.UTC)
            assert datetime.timedelta(hours=23) < ahead < datetime.timedelta(hours=25)
            cluster.faults.set(name, Faults(sync_delay_ms=20))
            await client.put("clock", "s", "k", "slowly")

        async def hit() -> bool:
            return cluster.faults.hits(name) > 0

        await eventually(hit, 10.0, "no sync was slow")


@needs("proxied")
async def test_a_cut_link_is_cut_and_a_healed_one_works(tmp_path: Path) -> None:
    async with fault_cluster("proxied", tmp_path) as cluster:
        leader = await cluster.wait_leader()
        other = (leader + 1) % 3
        cluster.links.cut(cluster.name(leader), cluster.name(other))

        async def two() -> bool:
            return await healthy_peers(cluster, leader) == 2

        async def three() -> bool:
            return await healthy_peers(cluster, leader) == 3

        await eventually(two, 10.0, "the cut link carries answers")
        cluster.links.heal()
        await eventually(three, 10.0, "the healed link carries nothing")
        cluster.links.stall(cluster.name(other), cluster.name(leader))
        await eventually(two, 10.0, "the stalled link carries answers")
        cluster.links.heal()
        await eventually(three, 10.0, "the healed link carries nothing")


@needs("namespaces")
async def test_an_unplugged_node_is_alone(tmp_path: Path) -> None:
    async with fault_cluster("namespaces", tmp_path) as cluster:
        leader = await cluster.wait_leader()
        other = (leader + 1) % 3
        cluster.wires.unplug(cluster.name(other))

        async def alone() -> bool:
            return await healthy_peers(cluster, leader) == 2

        await eventually(alone, 10.0, "an unplugged node answers")
        cluster.wires.heal()

        async def three() -> bool:
            return await healthy_peers(cluster, leader) == 3

        await eventually(three, 20.0, "a node that is plugged in again does not answer")
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"hivemem-{os.getpid()}-" not in left.stdout


@needs("powered disk")
@needs("preload")
async def test_a_power_cut_loses_what_a_lying_disk_did_not_sync(tmp_path: Path) -> None:
    """So it would lose acknowledged writes if the daemon did not sync them."""
    async with fault_cluster("powered disk", tmp_path, preload=True) as cluster:
        await cluster.wait_leader()
        for node in cluster.plan.nodes:
            cluster.faults.set(node.name, LYING_SYNC)
        found = await run_round(cluster, NEMESES["power-loss"], Record("lies"))
        assert found.judgement.lost
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


# --- Reads and elections -------------------------------------------------------------------


async def test_a_leader_that_wakes_up_serves_no_stale_read(tmp_path: Path) -> None:
    """The reads wait in its sockets while it sleeps: the first thing it sees when it wakes,
    before it can hear that it was deposed."""
    async with fault_cluster("direct", tmp_path) as cluster, showing_logs(cluster):
        old = await cluster.wait_leader()
        sleeper = cluster.nodes[old].http
        others = [node.http for index, node in enumerate(cluster.nodes) if index != old]
        async with (
            HivememClient([sleeper], timeout_ms=20_000, follow=False) as asleep,
            HivememClient(others, timeout_ms=20_000, follow=False) as awake,
        ):
            for number in range(READS):
                await asleep.put("wake", "s", f"k{number}", "old")
            cluster.pause(old)
            await cluster.wait_leader(other_than=old)
            for number in range(READS):
                await awake.put("wake", "s", f"k{number}", "new")
            reads = [asyncio.create_task(asleep.get("wake", "s", f"k{n}")) for n in range(READS)]
            await asyncio.sleep(0)
            cluster.resume(old)
            values = [value.text() for value in await asyncio.gather(*reads)]
        assert values == ["new"] * READS


@needs("proxied")
async def test_who_returns_from_a_netsplit_does_not_depose_the_leader(tmp_path: Path) -> None:
    """Where a busy machine leaves no time for heartbeats, others depose it too, now and then.
    One who returns and is not kept from it does so every time."""
    async with fault_cluster("proxied", tmp_path) as cluster, showing_logs(cluster):
        terms = []
        for number in range(RETURNS_MAX):
            leader = await cluster.wait_leader()
            before = await cluster.status(leader)
            assert before is not None
            found = await run_round(cluster, NEMESES["cut-follower"], Record(f"return{number}"))
            assert found.judgement.good, found.judgement.explain()
            after = await cluster.status(leader)
            assert after is not None
            if (after["role"], after["term"]) == ("leader", before["term"]):
                return
            terms.append((before["term"], after["term"]))
        pytest.fail(f"the leader was deposed each time: terms {terms}")
