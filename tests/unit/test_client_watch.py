"""Watching through dropped connections: each event once, in order."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.interfaces import Limits
from node.client import Event, HivememClient, Watch
from node.client_watch import READY_SECONDS_MAX, EventParser, Message
from node.clock import SystemClock
from node.errors import BadRequest, CompactedError, InternalError, Unavailable
from node.topology import Topology
from tests.unit.client_nodes import (
    Act,
    Proxy,
    Says,
    Seen,
    addressed_door,
    door_address,
    fake_nodes,
    refusal,
    refused_address,
    say_addresses,
)
from tests.unit.http_door import until


async def take(watch: Watch, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(20):
        async for event in watch:
            found.append(event)
            if len(found) == count:
                break
    return found


def keys(events: list[Event]) -> list[str]:
    return [event.key for event in events]


async def test_events_carry_what_happened(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
        client.watch("n") as watch,
    ):
        await client.put("n", "s", "k", b"\xff", content_type="x/y", ttl_seconds=100)
        await client.delete("n", "s", "k")
        put, deleted = await take(watch, 2)
    assert (put.type, put.session, put.key, put.value) == ("put", "s", "k", b"\xff")
    assert (put.content_type, put.version, put.size) == ("x/y", 1, 1)
    assert put.expires_at is not None
    assert (deleted.type, deleted.value, deleted.version) == ("delete", None, 1)
    assert put.id < deleted.id


async def test_a_watch_sees_what_it_asked_for_only(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
        client.watch("n", "s", prefix="a/", values=False) as watch,
    ):
        for session, key in (("s", "b"), ("t", "a/1"), ("s", "a/2"), ("s", "a/ü")):
            await client.put("n", session, key, "v")
        found = await take(watch, 2)
    assert keys(found) == ["a/2", "a/ü"]
    assert {event.value for event in found} == {None}


async def test_a_cut_connection_loses_nothing_and_repeats_nothing(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        Proxy(door.port) as first,
        Proxy(door.port) as second,
        HivememClient([door_address(door)]) as writer,
        HivememClient([first.address, second.address]) as client,
        client.watch("n") as watch,
    ):
        expected: list[str] = []
        seen: list[str] = []
        for turn in range(6):
            for number in range(5):
                expected.append(f"{turn}-{number}")
                await writer.put("n", "s", expected[-1], "v")
            seen += keys(await take(watch, 3))
            await first.cut()
            await second.cut()
            # What happens while nobody is connected comes later.
            expected.append(f"{turn}-unseen")
            await writer.put("n", "s", expected[-1], "v")
        seen += keys(await take(watch, len(expected) - len(seen)))
    assert seen == expected
    assert first.connections + second.connections >= 3


async def test_a_watch_cut_before_its_first_event_still_begins_where_it_began(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        Proxy(door.port) as gone,
        HivememClient([door_address(door)]) as writer,
        HivememClient([gone.address, door_address(door)]) as client,
    ):
        await writer.put("n", "s", "before", "v")
        async with client.watch("n") as watch:
            assert watch.revision == 1
            await gone.cut(refuse=True)
            await writer.put("n", "s", "after", "v")
            assert keys(await take(watch, 1)) == ["after"]


async def test_a_watch_goes_on_at_a_node_that_it_found_by_itself(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        Proxy(door.port) as given,
        Proxy(door.port) as other,
        HivememClient([given.address]) as client,
    ):
        say_addresses(door, [other.address, given.address])
        async with client.watch("n") as watch:
            await until(lambda: other.address in client.endpoints, "the other node is found")
            await given.cut(refuse=True)
            await client.put("n", "s", "k", "v")
            assert keys(await take(watch, 1)) == ["k"]


async def test_a_watch_resumes_from_a_revision_or_an_event(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        txn = client.txn("n", "s")
        txn.then.put("a", "1").put("b", "2")
        revision = (await txn.commit()).revision
        await client.put("n", "s", "c", "3")
        async with client.watch("n", since=0) as watch:
            first, *_ = everything = await take(watch, 3)
            assert keys(everything) == ["a", "b", "c"]
            assert watch.last_id == str(everything[-1].id)
        async with client.watch("n", since=first.id) as watch:
            assert keys(await take(watch, 2)) == ["b", "c"]
        async with client.watch("n", since=str(first.id)) as watch:
            assert keys(await take(watch, 2)) == ["b", "c"]
        async with client.watch("n", since=revision) as watch:
            assert keys(await take(watch, 1)) == ["c"]


async def test_what_is_no_longer_kept_is_said(tmp_path: Path):
    limits = Limits(watch_window_changes_max=10)
    async with (
        addressed_door(tmp_path, state_limits=limits) as door,
        HivememClient([door_address(door)]) as client,
    ):
        for number in range(60):
            await client.put("n", "s", f"{number}", "v")
        watch = client.watch("n", since=1)
        with pytest.raises(CompactedError):
            await take(watch, 1)
        # After an error there is nothing to close.
        assert [event async for event in watch] == []


async def test_a_refused_watch_says_why(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        for watch in (client.watch("bad name"), client.watch("n", since="x")):
            with pytest.raises(BadRequest):
                await take(watch, 1)


async def test_a_watch_gives_up_when_no_node_is_left():
    async with HivememClient([await refused_address()]) as client:
        with pytest.raises(Unavailable) as caught:
            await take(client.watch("n", patience_ms=200), 1)
    assert caught.value.code == "UNREACHABLE"


async def test_a_node_that_accepts_and_is_silent_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("node.client_watch.READY_SECONDS_MAX", 0.1)
    async with (
        addressed_door(tmp_path) as door,
        fake_nodes(lambda seen: Act.HANG) as (hung,),
        HivememClient([hung.address, door_address(door)]) as client,
        client.watch("n") as watch,
    ):
        await client.put("n", "s", "k", "v")
        assert keys(await take(watch, 1)) == ["k"]
        assert hung.seen


async def test_a_stream_that_falls_silent_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("node.client_watch.SILENCE_SECONDS_MAX", 0.1)
    opened: list[Seen] = []

    def behave(seen: Seen) -> Says | Act:
        if seen.path != "/v1/watch":
            return refusal(404, "ROUTE_NOT_FOUND")
        opened.append(seen)
        # Announces more than it sends: the stream stays open and nothing comes.
        ready = b'event: ready\nid: 7\ndata: {"revision":7,"served_by":"x"}\n\n'
        return Says(200, ready, "Transfer-Encoding: chunked\r\n")

    async with fake_nodes(behave) as (node,), HivememClient([node.address]) as client:
        task = asyncio.create_task(take(client.watch("n"), 1))
        await until(lambda: len(opened) >= 2, "the watch reconnects")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_closing_ends_a_waiting_watch(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        watch = client.watch("n")
        task = asyncio.create_task(take(watch, 1))
        await until(lambda: door.hub.count == 1, "the watch is open")
        await watch.aclose()
        assert await task == []
        await until(lambda: door.hub.count == 0, "the node forgets the watch")


class LateStream:
    """Ready at once; after that nothing comes, until it is closed."""

    def __init__(self) -> None:
        self._ready = [b'event: ready\nid: 4\ndata: {"revision":4}\n\n']
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    async def read(self) -> bytes:
        if not self._ready:
            await self._closed.wait()
        return self._ready.pop() if self._ready else b""

    def close(self) -> None:
        self._closed.set()


@pytest.mark.parametrize("first", ["ready", "nothing"])
@pytest.mark.parametrize("reads", [False, True])
async def test_a_stream_that_opens_after_the_watch_was_closed_is_ended(first: str, reads: bool):
    """Or that it reads already, which has not said yet that it is ready."""
    address = "http://127.0.0.1:7411"
    topology = Topology([address, "http://127.0.0.1:7412"])
    asked, answer, stream = asyncio.Event(), asyncio.Event(), LateStream()

    async def open_stream(address: str, target: str) -> LateStream:
        asked.set()
        await answer.wait()
        return stream

    watch = Watch(
        lambda since: "/v1/watch/n", None, topology=topology, open_stream=open_stream,
        clock=SystemClock(), patience_ms=10_000, look=lambda: None, on_close=lambda watch: None,
    )  # fmt: skip
    task = asyncio.create_task(take(watch, 1))
    await asked.wait()
    if first == "nothing" or reads:
        await stream.read()  # what would make it ready
    if reads:
        answer.set()
        await until(lambda: watch._stream is not None, "the watch reads")
    await watch.aclose()
    answer.set()
    assert await asyncio.wait_for(task, READY_SECONDS_MAX / 2) == [], "it waits for nothing"
    assert stream.closed
    assert topology.next((), SystemClock().monotonic(), leader=False) == address, "not its fault"


async def test_open_watches_are_bounded(tmp_path: Path):
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)], watches_max=2) as client,
    ):
        async with client.watch("n"), client.watch("n"):
            with pytest.raises(Unavailable, match="watches_max"):
                client.watch("n")
        async with client.watch("n"):
            pass


STREAM = (
    b'event: ready\nid: 4\ndata: {"revision":4}\n\n: alive\nid: 5\n\n'
    b"event: put\r\nid: 6.0\r\ndata: one\r\ndata: two\r\n\r\n:\n\nevent: x\n"
)
MESSAGES = [
    Message("ready", "4", '{"revision":4}'),
    Message("", "5", ""),
    Message("put", "6.0", "one\ntwo"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_reads_the_same_however_it_is_cut(cuts: list[int]):
    parser = EventParser()
    places = [0, *sorted(cuts), len(STREAM)]
    found = [
        message
        for start, end in itertools.pairwise(places)
        for message in parser.feed(STREAM[start:end])
    ]
    assert found == MESSAGES


def test_an_endless_event_is_refused():
    parser = EventParser(bytes_max=1000)
    parser.feed(b"x" * 600)
    with pytest.raises(InternalError):
        parser.feed(b"x" * 600)
