"""`/v1/watch` where several partitions hold the data: ids, resuming, refusals, and the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import PeerUnreachable
from cluster.slots import partition_of, session_slot
from engines.interfaces import Limits
from node import http_watch
from node.client import HivememClient
from node.client_types import EventId
from node.clock import SystemClock
from node.errors import BadRequest, CompactedError
from node.local_reads import ReaderThreads
from node.watch import WatchHub
from node.watch_sources import PartitionWatches
from tests.unit.client_nodes import Proxy, door_address
from tests.unit.engine_state import State
from tests.unit.http_door import OpenDoor, open_door
from tests.unit.test_client_watch import keys, take
from tests.unit.test_http_watch import watching

COUNT = 3
SESSIONS = {
    partition_of(session_slot(name), COUNT): name for name in map(chr, range(ord("a"), ord("z")))
}


class Silent:
    """Calls to other nodes, none of which answers."""

    def of(self, group: int) -> Silent:
        return self

    async def call(self, *_: object) -> bytes:
        raise PeerUnreachable("nobody is there", definite=True)


class Held:
    """Three partitions, all of which are here unless a test takes one away."""

    def __init__(self, folder: Path, executor: ThreadPoolExecutor, **limits: int) -> None:
        self.states = [State(folder / str(group), Limits(**limits)) for group in range(COUNT)]
        self.replicas: dict[int, Any] = {}
        for group, state in enumerate(self.states, 1):
            hub = WatchHub(state.reader, executor, watches_max=9, queue_changes_max=9)
            state.machine.on_changes = hub.publish
            self.replicas[group] = SimpleNamespace(hub=hub)
        partitions: Any = SimpleNamespace(
            group_of=lambda session: partition_of(session_slot(session), COUNT),
            data_groups=lambda: range(1, COUNT + 1),
            serving=self.replicas.get,
            holders=lambda group: ("elsewhere",),
            here=lambda: list(self.replicas.values()),
        )
        clock = SystemClock()
        shared: Any = SimpleNamespace(
            config=SimpleNamespace(node=SimpleNamespace(id="me")),
            calls=Silent(),
            clock=clock,
            threads=ReaderThreads(executor, clock),
        )
        self.watches = PartitionWatches(partitions, shared, watches_max=2)

    def put(self, group: int, key: str) -> None:
        self.states[group - 1].put(key.encode(), session=SESSIONS[group])

    def close(self) -> None:
        for state in self.states:
            state.machine.close()


@pytest.fixture
async def opened(
    tmp_path: Path,
) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(2))

        @asynccontextmanager
        async def door(**limits: int) -> AsyncIterator[tuple[OpenDoor, Held]]:
            held = Held(tmp_path, executor, **limits)
            async with open_door(tmp_path, watches=held.watches) as door:
                yield door, held
            assert held.watches.count == 0
            held.close()

        yield door


async def test_a_namespace_is_watched_over_all_partitions(opened) -> None:
    async with opened() as (door, held):
        held.put(1, "before")
        async with watching(door, "namespace=n") as stream:
            ready = (await stream.events(1))[0]
            assert ready[2] == {"revision": 0, "served_by": "one"}
            held.put(1, "k1")
            first = (await stream.events(1))[0]
            held.put(2, "k2")
            held.put(3, "k3")
            second, third = await stream.events(2)
        assert first[2]["key"] == "k1"
        assert {second[2]["key"], third[2]["key"]} == {"k2", "k3"}
        assert (first[0], first[2]["revision"]) == ("put", 2)
        async with watching(door, f"namespace=n&since={ready[1]}") as stream:
            events = await stream.events(4)
            assert {event[2]["key"] for event in events[1:]} == {"k1", "k2", "k3"}
        async with watching(door, "namespace=n&since=0", last_id=second[1]) as stream:
            assert (await stream.events(2))[1] == third
        async with watching(door, "namespace=n&since=0") as stream:
            assert len(await stream.events(5)) == 5


async def test_a_session_is_watched_with_its_partitions_revisions(opened) -> None:
    async with opened() as (door, held):
        held.put(2, "before")
        async with watching(door, f"namespace=n&session={SESSIONS[2]}") as stream:
            assert (await stream.events(1))[0] == (
                "ready",
                "1",
                {"revision": 1, "served_by": "one"},
            )
            held.put(1, "other")
            held.put(2, "k")
            assert (await stream.events(1))[0][:2] == ("put", "2.0")
        async with watching(door, f"namespace=n&session={SESSIONS[2]}&since=1") as stream:
            assert [event[1] for event in await stream.events(2)] == ["1", "2.0"]


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ("1", "revisions are those of one partition"),
        ("00", "revisions are those of one partition"),
        ("3.0", "revisions are those of one partition"),
        ("w1AAAA", "is a damaged event id"),
        ("x", "is not an event id"),
        ("w1jXVCYQIBAQ", "is "),
    ],
)
async def test_a_position_that_says_nothing_is_refused(opened, since: str, said: str) -> None:
    async with opened() as (door, held):
        for headers, query, field in (
            ({}, f"&since={since}", "since"),
            ({"Last-Event-ID": since}, "", "Last-Event-ID"),
        ):
            reply = await door.request("GET", f"/v1/watch?namespace=n{query}", headers=headers)
            assert (reply.status, reply.code) == (400, "INVALID_ARGUMENT")
            assert reply.json()["error"]["field"] == field
            assert said in reply.json()["error"]["message"]
        assert held.watches.count == 0


async def test_what_one_partition_no_longer_keeps_is_said_with_how_to_go_on(opened) -> None:
    async with opened(watch_window_changes_max=3) as (door, held):
        for number in range(20):
            held.put(2, f"{number}")
        held.put(1, "one")
        async with watching(door, "namespace=n&since=0") as stream:
            events = await stream.events(2)
            while events[-1][0] != "compacted":
                events += await stream.events(1)
            data = events[-1][2]
            assert list(data) == ["compacted_revision", "partition", "since"]
            assert data["partition"] == 2
            with pytest.raises(EOFError):
                await stream.block()
        kept = 20 - data["compacted_revision"]
        async with watching(door, f"namespace=n&since={data['since']}") as stream:
            rest = (await stream.events(1 + kept + (len(events) == 2)))[1:]
        shown = [event[2]["key"] for event in events[1:-1] + rest]
        assert sorted(shown) == sorted(["one", *(str(20 - left) for left in range(1, kept + 1))])


async def test_a_quiet_watch_moves_on_with_every_partition(
    opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_watch, "KEEPALIVE_SECONDS", 0.01)
    async with opened() as (door, held), watching(door, "namespace=quiet") as stream:
        (_, began, _), *_ = await stream.events(1)
        held.put(3, "k")
        block = {"id": began}
        while block.get("id") == began:
            block = await stream.block()
        async with watching(door, "namespace=n", last_id=block["id"]) as again:
            await again.events(1)
            held.put(1, "later")
            assert (await again.events(1))[0][2]["key"] == "later"


async def test_watches_are_bounded_and_need_every_partition_to_begin_now(opened) -> None:
    async with opened() as (door, held):
        async with watching(door, "namespace=n") as one, watching(door, "namespace=n") as two:
            await one.events(1)
            await two.events(1)
            reply = await door.request("GET", "/v1/watch?namespace=n")
            assert reply.code == "OVERLOADED"
            assert (await door.request("GET", "/metrics")).body.count(b"hivemem_watches 2.0") == 1
        async with asyncio.timeout(10):
            while held.watches.count:
                await asyncio.sleep(0.002)
        del held.replicas[2]
        reply = await door.request("GET", "/v1/watch?namespace=n")
        assert (reply.status, reply.code) == (503, "QUORUM_NOT_REACHED")
        assert "partition 2" in reply.json()["error"]["message"]
        # Who knows where to begin sees what there is.
        held.put(1, "k")
        async with watching(door, "namespace=n&since=0") as stream:
            assert (await stream.events(2))[1][2]["key"] == "k"


async def test_the_client_goes_on_from_where_each_partition_stood(opened) -> None:
    async with (
        opened() as (door, held),
        Proxy(door.port) as first,
        Proxy(door.port) as second,
        HivememClient([first.address, second.address]) as client,
        client.watch("n") as watch,
    ):
        assert watch.revision == 0
        expected: list[str] = []
        seen = []
        for turn in range(4):
            for group in range(1, COUNT + 1):
                expected.append(f"{turn}-{group}")
                held.put(group, expected[-1])
            seen += await take(watch, 2)
            await first.cut()
            await second.cut()
            expected.append(f"{turn}-unseen")
            held.put(1 + turn % COUNT, expected[-1])
        seen += await take(watch, len(expected) - len(seen))
        assert sorted(keys(seen)) == sorted(expected)
        assert not any(isinstance(event.id, EventId) for event in seen)
        for session in SESSIONS.values():
            revisions = [event.revision for event in seen if event.session == session]
            assert revisions == sorted(revisions)
        assert watch.last_id == seen[-1].id
        place = seen[4]
        async with client.watch("n", since=place.id) as again:
            assert sorted(keys(await take(again, len(seen) - 5))) == sorted(keys(seen[5:]))


async def test_the_client_says_what_is_no_longer_kept_and_where_to_go_on(opened) -> None:
    async with (
        opened(watch_window_changes_max=3) as (door, held),
        HivememClient([door_address(door)]) as client,
    ):
        for number in range(20):
            held.put(2, f"{number}")
        watch = client.watch("n", since=0)
        with pytest.raises(CompactedError, match="of partition 2 up to its revision"):
            await take(watch, 1)
        assert watch.last_id is not None
        async with client.watch("n", since=watch.last_id) as again:
            assert keys(await take(again, 1))
        with pytest.raises(BadRequest):
            await take(client.watch("n", since=4), 1)
