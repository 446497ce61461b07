"""What the leader does without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.codec import pack_value
from engines.command import CollectionCommand, Put
from engines.interfaces import Limits
from node.clock import SystemClock
from node.leader_duties import SWEEP_ITEMS, LeaderDuties
from tests.unit.http_door import OpenDoor, open_door


def duties(door: OpenDoor) -> LeaderDuties:
    router = door.router
    return LeaderDuties(
        "n1", router._group, router, door.machine, router._reads._readers, Limits(), SystemClock()
    )  # fmt: skip


async def collection(door: OpenDoor, operation: str, body: Any) -> None:
    command = CollectionCommand("n", "c", operation, pack_value(body), 1, 1)
    await door.router.propose(command, SystemClock().monotonic() + 5)


def items(door: OpenDoor) -> int:
    with door.router._reads._readers() as reader:
        snapshot = reader._snapshot
        return int(snapshot.txn.stat(snapshot.databases.items)["entries"])


async def test_what_a_dropped_collection_left_is_removed_and_what_is_due(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await collection(door, "collection_create", {"engine": "text", "settings": {}})
        documents = [
            {"id": f"d{number}", "fields": {"text": "x"}, "metadata": {}, "session": None,
             "time_ms": 1}
            for number in range(SWEEP_ITEMS + 1)
        ]  # fmt: skip
        await collection(door, "text_insert", documents)
        put = Put("n", "s", b"k", b"v", "", 1, expires_ms=2)
        await door.router.propose(put, SystemClock().monotonic() + 5)
        leader = duties(door)
        assert not await leader.tidy_once()  # the key alone was due
        assert items(door) == SWEEP_ITEMS + 1
        await collection(door, "collection_drop", {})
        rounds = 0
        while await leader.tidy_once():
            rounds += 1
            assert rounds < 5
        assert items(door) == 0
        assert rounds >= 2  # in steps
        before = door.machine.applied_index
        assert not await leader.tidy_once()
        assert door.machine.applied_index == before  # nothing is proposed for nothing
        with door.router._reads._readers() as reader:
            assert reader.get("n", "s", b"k") is None
