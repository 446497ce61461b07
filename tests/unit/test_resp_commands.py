"""Redis's commands through redis-py: what its users expect of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from engines.check import check
from engines.command import Expire, encode
from engines.interfaces import DueRecord
from node.clock import SystemClock
from node.resp_commands import COMMANDS
from node.resp_controls import CONNECTION_COMMANDS
from tests.unit.resp_door import OpenDoor, open_door


@pytest.fixture(params=[2, 3])
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as door:
        door.protocol = request.param  # type: ignore[attr-defined]
        yield door
        with door.store.read() as snapshot:
            assert check(snapshot) == []


@pytest.fixture
async def client(door: OpenDoor) -> AsyncIterator[Redis]:
    async with door.client(protocol=door.protocol) as client:  # type: ignore[attr-defined]
        yield client


VALUES = [b"", b"0", b"null", b"\x00\xff\r\n", "é".encode(), b"x" * 100_000]


@pytest.mark.parametrize("value", VALUES)
async def test_a_value_comes_back_as_stored(client: Redis, value: bytes) -> None:
    assert await client.set("k", value) is True
    assert await client.get("k") == value
    assert await client.strlen("k") == len(value)
    assert await client.get("other") is None


async def test_keys_are_any_bytes_behind_a_tag(client: Redis) -> None:
    key = b"{session}\x00\xff {x}"
    assert await client.set(key, b"1")
    assert await client.get(key) == b"1"
    assert await client.exists(key, "{session}other", "elsewhere") == 1


async def test_conditions_of_set(client: Redis) -> None:
    assert await client.set("k", "1", xx=True) is None
    assert await client.set("k", "1", nx=True) is True
    assert await client.set("k", "2", nx=True) is None
    assert await client.set("k", "2", xx=True, get=True) == b"1"
    assert await client.set("k", "3", get=True) == b"2"
    assert await client.set("new", "3", get=True) is None
    assert await client.execute_command("SETNX", "k", "4") in (0, False)
    assert await client.execute_command("SETNX", "k2", "4") in (1, True)
    assert await client.execute_command("GETSET", "k", "5") == b"3"
    assert await client.get("k") == b"5"


async def test_deadlines(client: Redis) -> None:
    assert await client.set("k", "1", ex=100)
    assert 99 <= await client.ttl("k") <= 100
    assert 99_000 < await client.pttl("k") <= 100_000
    assert await client.set("k", "2", keepttl=True)
    assert await client.ttl("k") > 0
    assert await client.expire("k", 10, gt=True) is False
    assert await client.expire("k", 10, lt=True) is True
    assert await client.expire("k", 10, nx=True) is False
    assert await client.pexpire("k", 20_000, xx=True) is True
    assert await client.persist("k") is True
    assert await client.persist("k") is False
    assert await client.ttl("k") == -1
    assert await client.ttl("other") == -2
    assert await client.expire("other", 1) is False
    at = 4_000_000_000
    assert await client.set("k", "3", exat=2_000_000_000)
    assert await client.expiretime("k") == 2_000_000_000
    assert await client.pexpiretime("k") == 2_000_000_000_000
    assert await client.getex("k", px=50_000) == b"3"
    assert 0 < await client.pttl("k") <= 50_000
    assert await client.getex("k", persist=True) == b"3"
    assert await client.getex("k") == b"3"
    assert await client.execute_command("SETEX", "k", 60, "4")
    assert await client.execute_command("PSETEX", "k", 60_000, "5")
    assert 59 <= await client.ttl("k") <= 60
    with pytest.raises(redis.ResponseError, match="ttl_seconds"):
        await client.set("k", "6", exat=at)
    assert await client.get("k") == b"5"


async def test_what_has_run_out_is_gone_before_it_is_removed(door: OpenDoor, client: Redis) -> None:
    assert await client.set("{s}k", "1", px=1)
    while await client.exists("{s}k"):
        pass
    assert door.machine.stats().keys == 1, "nothing removes it here"
    assert await client.get("{s}k") is None
    assert await client.ttl("{s}k") == -2
    assert await client.set("{s}k", "2", nx=True) is True
    assert await client.get("{s}k") == b"2"


async def test_a_deadline_in_the_past_removes(client: Redis) -> None:
    for remove in (
        client.expire("k", -1),
        client.expire("k", 0),
        client.expireat("k", 1),
        client.pexpireat("k", 1),
        client.set("k", "2", exat=1),
    ):
        await client.set("k", "1")
        assert await remove
        assert await client.exists("k") == 0


async def test_numbers(client: Redis) -> None:
    assert await client.incr("n") == 1
    assert await client.incrby("n", 10) == 11
    assert await client.decr("n") == 10
    assert await client.decrby("n", 15) == -5
    assert await client.incrbyfloat("f", 0.1) == 0.1
    assert await client.incrbyfloat("f", 0.2) == 0.3
    assert await client.get("f") == b"0.3"
    await client.set("k", "text")
    for failing in (client.incr("k"), client.incrbyfloat("k", 1), client.incrby("n", 1 << 63)):
        with pytest.raises(redis.ResponseError, match="not a"):
            await failing
    await client.set("n", (1 << 63) - 1)
    with pytest.raises(redis.ResponseError, match="overflow"):
        await client.incr("n")


async def test_parts_of_values(client: Redis) -> None:
    assert await client.append("k", "hello") == 5
    assert await client.append("k", " world") == 11
    assert await client.getrange("k", 0, 4) == b"hello"
    assert await client.getrange("k", -5, -1) == b"world"
    assert await client.getrange("k", 5, 2) == b""
    assert await client.getrange("k", -100, 100) == b"hello world"
    assert await client.execute_command("SUBSTR", "k", 0, 0) == b"h"
    assert await client.getrange("other", 0, 9) == b""
    assert await client.setrange("k", 6, "there") == 11
    assert await client.setrange("padded", 3, "x") == 4
    assert await client.mget("k", "padded", "other") == [b"hello there", b"\0\0\0x", None]
    with pytest.raises(redis.ResponseError, match="offset"):
        await client.setrange("k", -1, "x")


async def test_several_keys(client: Redis) -> None:
    assert await client.mset({"{s}a": "1", "{s}b": "2", "{s}c": "3"})
    assert await client.mget("{s}b", "{t}a", "{s}a") == [b"2", None, b"1"]
    assert await client.touch("{s}a", "{t}a") == 1
    assert await client.delete("{s}a", "{s}a", "{s}x") == 1
    assert await client.unlink("{s}b") == 1
    for refused in (client.mset({"a": "1", "b": "2"}), client.delete("a", "b")):
        with pytest.raises(redis.ResponseError, match="same slot"):
            await refused


async def test_type_and_getdel(client: Redis) -> None:
    await client.set("k", "1")
    assert await client.type("k") == b"string"
    assert await client.getdel("k") == b"1"
    assert await client.getdel("k") is None
    assert await client.type("k") == b"none"


async def test_scan_shows_everything_once(client: Redis) -> None:
    names = {b"{s}%d" % n for n in range(30)} | {b"plain:%d" % n for n in range(30)} | {b"*"}
    for name in names:
        await client.set(name, "v")
    assert await client.dbsize() == len(names)
    for count in (1, 7, 1000):
        found = [name async for name in client.scan_iter(count=count)]
        assert sorted(found) == sorted(names)
    assert {n async for n in client.scan_iter(match="{s}?")} == {b"{s}%d" % n for n in range(10)}
    assert {n async for n in client.scan_iter(match="plain:1[2-4]")} == {
        b"plain:12", b"plain:13", b"plain:14",
    }  # fmt: skip
    assert {n async for n in client.scan_iter(match="\\*")} == {b"*"}
    assert [n async for n in client.scan_iter(_type="list")] == []
    with pytest.raises(redis.ResponseError, match="begin again"):
        await client.scan(cursor=12345)


async def test_databases_are_namespaces(door: OpenDoor, client: Redis) -> None:
    await client.set("k", "here")
    async with door.client(db="team-a") as other:
        assert await other.get("k") is None
        await other.set("k", "there")
        assert await other.dbsize() == 1
    assert await client.get("k") == b"here"
    with pytest.raises(redis.ResponseError, match="namespace"):
        await client.select("no/name")
    assert await client.get("k") == b"here"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NOPE", "a"], "unknown command 'NOPE', with args beginning with: 'a'"),
        (["GET"], "wrong number of arguments for 'get' command"),
        (["MSET", "a", "1", "b"], "wrong number of arguments for 'mset' command"),
        (["SET", "a", "1", "NX", "XX"], "syntax error"),
        (["SET", "a", "1", "EX", "5", "KEEPTTL"], "syntax error"),
        (["SET", "a", "1", "EX"], "syntax error"),
        (["SET", "a", "1", "EX", "0"], "invalid expire time in 'set' command"),
        (["SETEX", "a", "-1", "x"], "invalid expire time in 'setex' command"),
        (["SET", "a", "1", "EX", "9999999999999999"], "invalid expire time in 'set' command"),
        (["SET", "a", "1", "EX", "01"], "not an integer"),
        (["EXPIRE", "a", "1", "WHEN"], "Unsupported option"),
        (["GETEX", "a", "EX"], "syntax error"),
        (["SET", "", "1"], "session"),
        (["SET", "x{tag}", "1"], "at its start"),
        (["SET", "{tag}", "1"], "go on after"),
        (["SET", "{tag}@", "1"], "without braces"),
        (["SET", b"\xff", "1"], "UTF-8"),
        (["SET", "a\x01b", "1"], "control characters"),
        (["SET", "{a}" + "k" * 5000, "1"], "at most 4096"),
        (["SET", "a" * 300, "1"], "at most 256"),
        (["SCAN", "x"], "not an integer"),
        (["SCAN", "0", "COUNT", "0"], "syntax error"),
        (["SCAN", "0", "MATCH"], "syntax error"),
        (["INCRBYFLOAT", "a", "inf"], "not a valid float"),
        (["CLIENT", "KILL"], "unknown subcommand"),
        (["CONFIG", "SET", "a", "b"], "can only GET"),
        (["CLUSTER", "FAILOVER"], "unknown subcommand"),
        (["EXEC"], "EXEC without MULTI"),
        (["DISCARD"], "DISCARD without MULTI"),
        (["LPUSH", "a", "1"], "unknown command"),
    ],
)
async def test_refusals_store_nothing(
    door: OpenDoor, client: Redis, words: list[Any], message: str
) -> None:
    with pytest.raises(redis.ResponseError, match=message):
        await client.execute_command(*words)
    assert door.machine.revision == 0
    assert await client.ping() is True


async def test_a_value_beyond_the_limit_is_refused(client: Redis) -> None:
    with pytest.raises(redis.ResponseError, match="8388608"):
        await client.set("k", b"x" * ((8 << 20) + 1))
    await client.set("k", b"x" * (8 << 20))
    with pytest.raises(redis.ResponseError, match="exceeds maximum allowed size"):
        await client.append("k", "y")
    assert await client.mget(*["k"] * 2) == [b"x" * (8 << 20)] * 2
    with pytest.raises(redis.ResponseError, match="16777216"):
        await client.mget(*["k"] * 3)


async def test_about_the_server(door: OpenDoor, client: Redis) -> None:
    info = await client.info()
    assert info["redis_mode"] == "cluster"
    assert info["connected_clients"] == 1
    assert (await client.info("clients")).keys() == {"connected_clients"}
    assert (await client.info("commandstats"))["cmdstat_info"] == {"calls": 3}
    assert "used_memory_rss" not in info, "what is not known is not shown"
    assert await client.echo("x") == b"x"
    assert await client.client_setname("me")
    assert await client.client_getname() in ("me", b"me")
    assert (await client.client_info())["name"] == "me"
    assert isinstance(await client.client_id(), int)
    assert await client.config_get("save") == {}
    assert abs((await client.time())[0] - SystemClock().now_ms() / 1000) < 60
    assert await client.execute_command("RESET") in (b"RESET", "RESET")
    assert await client.client_getname() in (None, "", b"")


async def test_every_command_is_described(door: OpenDoor, client: Redis) -> None:
    about = await client.command()
    assert set(COMMANDS) | set(CONNECTION_COMMANDS) <= set(about)
    assert set(door.server.controls) <= set(about)
    assert await client.command_count() == len(about)
    assert about["get"]["arity"] == 2
    assert about["dbsize"]["arity"] == 1
    assert about["mset"]["step_count"] == 2


async def test_the_cluster_is_described(door: OpenDoor, client: Redis) -> None:
    ((first, last, leader, follower),) = await client.execute_command("CLUSTER", "SLOTS")
    assert (first, last) == (0, 16_383)
    assert leader[:2] == [b"127.0.0.1", door.port]
    assert follower[:2] == [b"::1", 7]
    assert len(leader[2]) == 40
    assert await client.execute_command("CLUSTER", "KEYSLOT", "{user}x") == 5474
    assert b"cluster_state:ok" in await client.execute_command("CLUSTER", "INFO")
    nodes = (await client.execute_command("CLUSTER", "NODES")).decode().splitlines()
    assert nodes[0].split()[1:3] == [f"127.0.0.1:{door.port}@{door.port}", "master"]
    assert nodes[1].split()[2] == "slave"
    (shard,) = await client.execute_command("CLUSTER", "SHARDS")
    assert 16_383 in (shard[b"slots"] if isinstance(shard, dict) else shard[1])


async def test_expiry_by_the_leader_and_edits_agree(door: OpenDoor, client: Redis) -> None:
    await client.set("{s}k", "1", px=1)
    while await client.exists("{s}k"):
        pass
    now = SystemClock().now_ms()
    due = (DueRecord("default", "s", b"k", door.machine.revision),)
    door.group.submit(encode(Expire(due, now)), lambda result, error: None)
    assert door.machine.stats().keys == 0
    assert await client.get("{s}k") is None
