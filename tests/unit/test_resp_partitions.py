"""The Redis door over several partitions, some of them on other nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from cluster.errors import NotLeader, Overloaded
from cluster.slots import SLOTS, session_slot
from engines.interfaces import Limits
from engines.read_requests import GetHeld
from node.clock import SystemClock
from node.resp_cluster import PICTURE_SECONDS_MAX, Pictures
from node.resp_limits import ANSWER_BYTES_MAX, RespLimits
from tests.unit.http_door import until
from tests.unit.resp_door import ONE, TWO, OpenDoor, OtherWay, Part, open_door

MIB = 1 << 20
HOST = "127.0.0.1"
PARTITIONS = 4


def names(door: OpenDoor, group: int, count: int = 1) -> list[str]:
    """So many names whose records that partition holds."""
    found = (name for n in range(10_000) if door.groups.group_of(name := f"k{n}") == group)
    return [next(found) for _ in range(count)]


def rounds(door: OpenDoor) -> list[int]:
    return [part.group.rounds for part in door.groups.parts.values()]


def asked(part: Part) -> list[int]:
    """How many records each request from here asked the other node for."""
    return [len(each.wanted) for each in part.requests if isinstance(each, GetHeld)]


# --- Reads ---------------------------------------------------------------------------------


async def test_reads_of_one_turn_share_a_round_per_partition(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        pipe = client.pipeline(transaction=False)
        for n in range(100):
            pipe.get(f"k{n}")
        assert await pipe.execute() == [None] * 100
        assert rounds(door) == [1, 1, 1, 1]


async def test_reads_of_a_partition_elsewhere_share_a_request(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS, here=(1, 3)) as door:
        there = names(door, 2, 50)
        for name in there[:-1]:
            await put(door, name, name)
        async with door.client() as client:
            pipe = client.pipeline(transaction=False)
            for name in there:
                pipe.get(name)
            assert await pipe.execute() == [*(name.encode() for name in there[:-1]), None]
        assert asked(door.groups.parts[2]) == [50]


async def put(door: OpenDoor, name: str, value: str | bytes) -> None:
    """Store in a partition, wherever it is."""
    group = door.groups.group_of(name)
    was, door.groups.here = door.groups.here, {group}
    async with door.client() as client:
        assert await client.set(name, value)
    door.groups.here = was


@pytest.mark.parametrize("here", [(1, 2, 3, 4), (1, 2), (3,), ()])
async def test_several_keys_are_answered_in_order(tmp_path: Path, here: tuple[int, ...]) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        keys = [f"k{n}" for n in range(40)]
        for key in keys[::2]:
            await put(door, key, key)
        door.groups.here = set(here)
        expected = [key.encode() if n % 2 == 0 else None for n, key in enumerate(keys)]
        assert await client.mget(keys) == expected
        assert await client.mget(keys[::-1]) == expected[::-1]
        assert await client.exists(*keys, keys[0]) == 21
        assert await client.touch(*keys) == 20


async def test_a_pipeline_sees_its_own_effects_over_partitions(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path, partitions=PARTITIONS, here=(1, 2)) as door,
        door.client() as client,
    ):
        pipe = client.pipeline(transaction=False)
        for n in range(60):
            pipe.append(f"k{n % 7}", str(n)).strlen(f"k{n % 7}").mget("k0", "k1", "k2", "k3")
        replies = await pipe.execute()
        texts = [""] * 7
        for n in range(60):
            texts[n % 7] += str(n)
            length = len(texts[n % 7])
            assert replies[3 * n : 3 * n + 2] == [length, length]
            assert replies[3 * n + 2] == [text.encode() or None for text in texts[:4]]


async def test_values_of_one_answer_are_bounded_over_partitions(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS, here=(1, 2)) as door:
        one, three = names(door, 1)[0], names(door, 3)[0]
        four = names(door, 4)[0]
        for name in (one, three, four):
            await put(door, name, b"v" * (6 * MIB))
        async with door.client() as client:
            assert [len(value) for value in await client.mget(one, three)] == [6 * MIB] * 2
            with pytest.raises(redis.ResponseError, match="16777216"):
                await client.mget(one, three, four)
            with pytest.raises(redis.ResponseError, match="16777216"):
                await client.mget(three, three, three)
            assert await client.exists(one, three, four) == 3


async def test_large_values_come_in_several_requests(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS, here=()) as door:
        some = names(door, 1, 3)
        for name in some:
            await put(door, name, b"v" * (7 * MIB))
        async with door.client() as client:
            pipe = client.pipeline(transaction=False)
            for name in some:
                pipe.get(name).mget(name, "none", name)
            replies = await pipe.execute()
            for at in range(3):
                assert len(replies[2 * at]) == 7 * MIB
                assert [value and len(value) for value in replies[2 * at + 1]] == [
                    7 * MIB, None, 7 * MIB,
                ]  # fmt: skip


async def test_large_values_of_one_command_are_read_from_one_state(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=1, here=()) as door:
        some = [f"{{s}}{n}" for n in range(4)]
        for name in some:
            await put(door, name, b"v" * (3 * MIB))
        async with door.client() as client:
            assert len(b"".join(await client.mget(some))) == 12 * MIB
        requests = door.groups.parts[1].requests
        assert [each.bytes_max for each in requests] == [MIB, ANSWER_BYTES_MAX]
        assert asked(door.groups.parts[1]) == [4, 4]


async def test_a_value_as_large_as_an_answer(tmp_path: Path) -> None:
    limits = Limits(value_bytes_max=20 * MIB, txn_bytes_max=40 * MIB)
    async with open_door(tmp_path, partitions=1, here=(), state_limits=limits) as door:
        await put(door, "{s}large", b"v" * (16 * MIB))
        await put(door, "{s}small", b"v")
        async with door.client() as client:
            found = await client.mget("{s}large", "{s}none")
            assert [value and len(value) for value in found] == [16 * MIB, None]
            with pytest.raises(redis.ResponseError, match="16777216"):
                await client.mget("{s}large", "{s}small")


@pytest.mark.parametrize("name", [b"{s}" + b"k" * 70_000, "s" * 600, "é" * 300])
async def test_a_name_that_no_record_can_have(tmp_path: Path, name: bytes | str) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS, here=()) as door:
        await put(door, "k", "v")
        async with door.client() as client:
            pipe = client.pipeline(transaction=False)
            assert await pipe.get(name).mget("k", name).get("k").execute() == [
                None, [b"v", None], b"v",
            ]  # fmt: skip


async def test_stale_reads_are_from_here_where_that_is_possible(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS, here=(1,)) as door:
        here, there = names(door, 1)[0], names(door, 2)[0]
        await put(door, here, "h")
        await put(door, there, "t")
        async with door.client() as client:
            await client.readonly()
            before = rounds(door)
            for part in door.groups.parts.values():
                part.group.error = NotLeader(None)
            assert await client.get(here) == b"h"
            assert await client.get(there) == b"t"
            assert await client.mget(there, here, there) == [b"t", b"h", b"t"]
            assert rounds(door) == before
        assert asked(door.groups.parts[1]) == []
        assert asked(door.groups.parts[2]) == [1, 2]


async def test_a_partition_without_a_leader_harms_no_other(tmp_path: Path) -> None:
    limits = RespLimits(command_timeout_ms=300)
    async with open_door(tmp_path, partitions=PARTITIONS, here=(1, 2), limits=limits) as door:
        for group in (2, 3):
            part = door.groups.parts[group]
            part.group.error, part.group.leads = NotLeader(None), False
        one, two, three = (names(door, group)[0] for group in (1, 2, 3))
        async with door.client() as client, door.client() as other:
            for name in (two, three):
                with pytest.raises(redis.ResponseError, match=r"quorum|in time"):
                    await client.mget(one, name)
                with pytest.raises(redis.ResponseError, match=r"quorum|leader"):
                    await client.set(name, "v")
            waits = asyncio.create_task(client.get(two))
            assert await other.set(one, "v")
            assert await other.get(one) == b"v"
            with pytest.raises(redis.ResponseError):
                await waits


async def test_one_full_queue_fails_the_whole_command(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        door.groups.parts[2].group.error = Overloaded("full")
        with pytest.raises(redis.ResponseError, match="full"):
            await client.execute_command("MGET", *(names(door, group)[0] for group in (1, 2, 3)))
        assert await client.get(names(door, 1)[0]) is None


async def test_a_partition_that_leaves_is_asked_elsewhere(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door:
        part = door.groups.parts[1]
        name = names(door, 1)[0]
        await put(door, name, "v")
        async with door.client() as client:
            part.group.error, part.group.leads = NotLeader(None), False
            read = asyncio.create_task(client.get(name))
            await until(lambda: part.group.rounds > 0, "the read waits for the leader's word")
            door.groups.here.discard(1)
            door.groups.parts[1] = elsewhere = door.moved(part)
            part.group.error, part.group.leads = None, True
            part.router.leave(OtherWay(elsewhere))
            assert await read == b"v"


async def test_who_does_not_read_is_not_asked_for(tmp_path: Path) -> None:
    limits = RespLimits(output_bytes_max=1000)
    async with open_door(tmp_path, partitions=1, here=(), limits=limits) as door:
        await put(door, "k", b"v" * (4 * MIB))
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=1)
        writer.write(b"GET k\r\n" * 40)
        await until(lambda: door.server.reads.parked_count > 0, "others are left for later")
        assert len(door.groups.parts[1].requests) < 20
        left = 40 * (4 * MIB + len(b"$4194304\r\n\r\n"))
        while left:
            left -= len(await asyncio.wait_for(reader.read(1 << 20), 10))
        assert door.server.reads.parked_count == 0
        writer.close()


# --- Writes --------------------------------------------------------------------------------


async def test_writes_go_to_the_partition_of_their_session(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path, partitions=PARTITIONS, here=(1, 2)) as door,
        door.client() as client,
    ):
        for n in range(40):
            assert await client.set(f"k{n}", n)
        for group, part in door.groups.parts.items():
            own = sum(door.groups.group_of(f"k{n}") == group for n in range(40))
            assert part.machine.stats().keys == own
        assert await client.dbsize() == 40


async def test_writes_of_one_partition_elsewhere_keep_their_order(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS, here=(1,)) as door:
        two, three = (names(door, group)[0] for group in (2, 3))
        held = door.groups.parts[2].group
        held.holds = True
        async with door.client() as client:
            pipe = client.pipeline(transaction=False)
            for n in range(5):
                pipe.append(two, str(n)).append(three, str(n))
            replies = asyncio.create_task(pipe.get(two).execute())
            stored = door.groups.parts[3].machine
            await until(lambda: stored.revision == 5, "the other partition does not wait")
            assert len(held.held) == 1, "one after the other"
            held.release()
            assert await replies == [n for n in range(1, 6) for _ in range(2)] + [b"01234"]


async def test_several_keys_of_one_write_are_of_one_session(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        for words in (("DEL", "k0", "k1"), ("MSET", "k0", "1", "k1", "2"), ("UNLINK", "k0", "k1")):
            with pytest.raises(redis.ResponseError, match="same slot"):
                await client.execute_command(*words)
        assert await client.mset({"{s}a": 1, "{s}b": 2})
        assert await client.delete("{s}a", "{s}b", "{s}c") == 2


@pytest.mark.parametrize("here", [(1, 2, 3, 4), ()])
async def test_transactions_and_watches(tmp_path: Path, here: tuple[int, ...]) -> None:
    async with (
        open_door(tmp_path, partitions=PARTITIONS, here=here) as door,
        door.client() as client,
        door.client() as other,
    ):
        for tag in ("{a}", "{b}", "{c}", "{d}"):
            pipe = client.pipeline(transaction=True)
            await pipe.watch(f"{tag}k")
            pipe.multi()
            pipe.set(f"{tag}k", 1).incr(f"{tag}k").get(f"{tag}k")
            assert await pipe.execute() == [True, 2, b"2"]
            await pipe.watch(f"{tag}k")
            await other.incr(f"{tag}k")
            pipe.multi()
            pipe.set(f"{tag}k", "mine")
            with pytest.raises(redis.WatchError):
                await pipe.execute()
            assert await client.get(f"{tag}k") == b"3"
        with pytest.raises(redis.ResponseError, match="same slot"):
            await client.pipeline(transaction=True).get("{a}k").get("{b}k").execute()


# --- The whole -----------------------------------------------------------------------------


async def test_scan_shows_everything_once(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path, partitions=PARTITIONS, here=(1, 4)) as door,
        door.client() as client,
    ):
        some = [f"k{n}" for n in range(60)] + [f"{{s}}{n}" for n in range(20)]
        for name in some:
            await client.set(name, "v")
        for count in (1, 7, 1000):
            found = [name.decode() async for name in client.scan_iter(count=count)]
            assert sorted(found) == sorted(some)
        assert {n async for n in client.scan_iter(match="{s}1?")} == {
            b"{s}%d" % n for n in range(10, 20)
        }
        assert await client.dbsize() == 80


async def test_the_slots_of_several_leaders(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        door.info.second_answers = True
        ranges = await client.execute_command("CLUSTER", "SLOTS")
        assert [each[:2] for each in ranges] == [
            [0, 4095], [4096, 8191], [8192, 12_287], [12_288, 16_383],
        ]  # fmt: skip
        first, second = [b"127.0.0.1", door.port], [b"::1", 7]
        assert [[node[:2] for node in each[2:]] for each in ranges] == [
            [first, second], [second, first], [first, second], [second, first],
        ]  # fmt: skip
        for name in ("k0", "{tag}x"):
            slot = await client.execute_command("CLUSTER", "KEYSLOT", name)
            assert slot == session_slot("tag" if "tag" in name else name)
        nodes = (await client.execute_command("CLUSTER", "NODES")).decode().splitlines()
        assert [line.split()[1:4] + line.split()[8:] for line in nodes] == [
            ["::1:7@7", "master", "-", "4096-8191", "12288-16383"],
            [f"{HOST}:{door.port}@{door.port}", "master", "-", "0-4095", "8192-12287"],
        ]  # fmt: skip
        state = await client.execute_command("CLUSTER", "INFO")
        assert b"cluster_state:ok" in state
        assert b"cluster_size:2\r\n" in state
        shards = await client.execute_command("CLUSTER", "SHARDS")
        assert len(shards) == PARTITIONS


async def test_a_node_that_leads_nothing_is_a_replica(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        door.info.second_answers = True
        door.overview.leaders = dict.fromkeys(door.overview.leaders, TWO)
        nodes = (await client.execute_command("CLUSTER", "NODES")).decode().splitlines()
        leader, replica = (line.split() for line in nodes)
        assert leader[2:4] == ["master", "-"]
        assert replica[2:4] == ["slave", TWO.replace("-", "").ljust(40, "0")]
        assert (await client.info("replication"))["role"] == "slave"


async def test_a_partition_whose_leader_is_gone(tmp_path: Path) -> None:
    """The second node is down; what it led is shown with who holds it."""
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        ranges = await client.execute_command("CLUSTER", "SLOTS")
        assert sum(last - first + 1 for first, last, *_ in ranges) == SLOTS
        assert all(nodes[0][:2] == [b"127.0.0.1", door.port] for _, _, *nodes in ranges)
        state = await client.execute_command("CLUSTER", "INFO")
        assert b"cluster_state:fail" in state
        assert b"cluster_slots_ok:8192\r\n" in state
        assert b"cluster_slots_fail:8192\r\n" in state


async def test_with_no_leader_at_all_the_cluster_is_down(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        door.overview.leaders = dict.fromkeys(door.overview.leaders, "nobody")
        with pytest.raises(redis.ResponseError, match="no leader is known"):
            await client.execute_command("CLUSTER", "SLOTS")


class SetClock(SystemClock):
    """Stands still until it is told otherwise."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


async def test_the_picture_of_the_cluster_is_asked_for_again_when_it_is_old(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door:
        clock = SetClock()
        pictures = Pictures(door.info, PARTITIONS, door.overview, clock)
        first = await pictures.get()
        door.overview.leaders = dict.fromkeys(door.overview.leaders, ONE)
        clock.now += PICTURE_SECONDS_MAX
        assert await pictures.get() is first
        clock.now += 0.001
        assert [shard.leader for shard in (await pictures.get()).shards] == [ONE] * PARTITIONS


async def test_who_asks_at_once_shares_a_picture_also_with_who_gives_up(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door:
        pictures = Pictures(door.info, PARTITIONS, door.overview, SetClock())
        one, two = (asyncio.create_task(pictures.get()) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        assert len((await two).shards) == PARTITIONS
        assert door.info.asked == 1


async def test_info_sums_what_is_here(tmp_path: Path) -> None:
    async with open_door(tmp_path, partitions=PARTITIONS) as door, door.client() as client:
        for n in range(10):
            await client.set(f"k{n}", n)
        info = await client.info()
        assert info["role"] == "master"
        assert info["master_repl_offset"] == 8 * PARTITIONS
        assert info["slave_repl_offset"] == 7 * PARTITIONS
        assert info["hivemem_keys"] == 10
        assert info["hivemem_partitions"] == PARTITIONS
        assert info["hivemem_partitions_led"] == sum(
            leader == ONE for leader in door.overview.leaders.values()
        )
