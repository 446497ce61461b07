"""A node after its machine crashed, and a node whose log is damaged."""

from __future__ import annotations

import asyncio
import json
import time

from node.client import HivememClient


async def fill(cluster, count: int = 50) -> None:
    async with HivememClient(cluster.endpoints, timeout_ms=20_000) as client:
        for number in range(count):
            await client.put("rebuild", "s", f"{number:03d}", f"value {number}")


async def check(endpoint: str, count: int = 50) -> None:
    async with HivememClient([endpoint], timeout_ms=20_000) as client:
        found = {item.key: item.text() async for item in client.list("rebuild", "s", values=True)}
    assert found == {f"{number:03d}": f"value {number}" for number in range(count)}


async def test_after_a_machine_crash_the_state_is_rebuilt_from_the_log(cluster):
    await cluster.wait_leader()
    await fill(cluster)
    await cluster.kill(0)
    folder = cluster.nodes[0].data_dir
    marker = folder / "boot.json"
    assert json.loads(marker.read_text())["clean"] is False
    # As after a restart of the machine: another boot, and torn pages in a state that was
    # never fsynced.
    marker.write_text(json.dumps({"boot_id": "another-boot", "clean": False}))
    state = folder / "groups" / "0" / "live" / "data.mdb"
    with state.open("r+b") as file:
        file.write(b"\xff" * 65536)
    await cluster.restart(0)
    await check(cluster.nodes[0].http)
    assert "rebuilt from snapshot and log" in (folder / "daemon.log").read_text()


async def test_a_damaged_log_stops_its_node_and_no_other(cluster):
    leader = await cluster.wait_leader()
    await fill(cluster)
    damaged = (leader + 1) % 3
    await cluster.stop(damaged)
    folder = cluster.nodes[damaged].data_dir
    (segment,) = (folder / "groups" / "0" / "log").glob("*.seg")
    content = bytearray(segment.read_bytes())
    at = content.index(b"value 3")
    content[at] ^= 0x10
    segment.write_bytes(content)
    await cluster.restart(damaged, ready=False)
    deadline = time.monotonic() + 20
    while cluster.nodes[damaged].pid is not None:
        assert time.monotonic() < deadline, "it serves a damaged log"
        await asyncio.sleep(0.05)
    said = (folder / "daemon.log").read_text()
    assert segment.name in said
    assert "at offset" in said
    await fill(cluster, 60)
    await check(cluster.nodes[leader].http, 60)
