"""Watches of a group that is on another node: pages over a real pair of transports, and a
feed that changes its source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import NotLeader, Overloaded, PeerUnreachable, RemoteCallFailed
from engines import watch_codec
from engines.errors import Compacted, CorruptRecord, StoreFailed, UnknownRead
from engines.interfaces import SUB_MAX, Change, ChangeId, Limits
from engines.watch_codec import WatchAsk, WatchPage
from node.clock import SystemClock
from node.errors import Unavailable
from node.forward import NOT_HERE
from node.group_calls import GroupCalls
from node.local_reads import ReaderThreads
from node.remote_watch import WATCH, RemoteWatches, WatchServer
from node.watch import Selector, WatchHub
from node.watch_feed import PartitionFeed, Wanted
from tests.unit.engine_state import State
from tests.unit.transport.nodes import Nodes, Pair, until

GROUP = 3
SECONDS = 20.0
CLOCK = SystemClock()
START = ChangeId(0, SUB_MAX)
ASK = WatchAsk("n", "s", b"", START, True, 0, 1 << 20)


class Replica:
    """A state and its hub, as one node holds them."""

    def __init__(self, path: Path, executor: ThreadPoolExecutor, limits: Limits) -> None:
        self.state = State(path, limits)
        self.hub = WatchHub(self.state.reader, executor, watches_max=3, queue_changes_max=2)
        self.state.machine.on_changes = self.hub.publish

    def put(self, *numbers: int, session: str = "s", value: bytes = b"v") -> None:
        for number in numbers:
            self.state.put(b"%d" % number, value, session=session)


class Both:
    """Node a asks; node b holds the group."""

    def __init__(self, pair: Pair, folder: Path, executor: ThreadPoolExecutor) -> None:
        limits = Limits(watch_window_changes_max=40)
        self.here = Replica(folder / "a", executor, limits)
        self.there = Replica(folder / "b", executor, limits)
        self.pair = pair
        self.able = True
        self.failed: list[BaseException] = []
        threads = ReaderThreads(executor, CLOCK)
        self.calls_a = GroupCalls(pair.a, NOT_HERE)
        self.calls_b = GroupCalls(pair.b, NOT_HERE)
        self.remote = RemoteWatches(self.calls_a, threads)
        WatchServer(
            self.calls_b.of(GROUP), self.there.hub, threads, lambda: self.able, self.failed.append
        )

    async def page(self, **changed: object) -> WatchPage:
        return await self.remote.page("b", GROUP, ASK._replace(**changed))  # type: ignore[arg-type]

    def put_both(self, *numbers: int) -> None:
        self.here.put(*numbers)
        self.there.put(*numbers)


@pytest.fixture
async def both(nodes: Nodes, tmp_path: Path) -> AsyncIterator[Both]:
    with ThreadPoolExecutor(2) as executor:
        both = Both(await nodes.pair(), tmp_path, executor)
        yield both
        for replica in (both.here, both.there):
            replica.hub.close()
            replica.state.machine.close()


def keys(changes: object) -> list[int]:
    return [int(change.key) for change in changes]  # type: ignore[attr-defined]


async def test_pages_are_what_the_hub_there_gives(both: Both) -> None:
    both.there.put(1, 2)
    both.there.put(3, session="other")
    page = await both.page()
    assert keys(page.changes) == [1, 2]
    assert (page.position, page.revision) == (ChangeId(3, 0), 3)
    assert [change.value for change in page.changes] == [b"v", b"v"]
    assert (await both.page(since=page.position)).changes == ()
    whole = await both.page(session=None, values=False)
    assert keys(whole.changes) == [1, 2, 3]
    assert {change.value for change in whole.changes} == {None}
    assert keys((await both.page(prefix=b"2")).changes) == [2]
    now = await both.page(since=None)
    assert (now.changes, now.position, now.revision) == ((), ChangeId(3, SUB_MAX), 3)
    assert both.there.hub.count == 0


async def test_a_page_waits_for_its_first_change(both: Both) -> None:
    both.there.put(1)
    waiting = asyncio.create_task(both.page(since=ChangeId(1, 0), wait_ms=20_000))
    await until(lambda: both.there.hub.count == 1)
    both.there.put(2)
    assert keys((await asyncio.wait_for(waiting, SECONDS)).changes) == [2]


async def test_pages_are_bounded(both: Both) -> None:
    both.there.put(*range(5), value=b"v" * 1000)
    page = await both.page(bytes_max=2500)
    assert keys(page.changes) == [0, 1]
    assert keys((await both.page(since=page.position, bytes_max=0)).changes) == [2]


async def test_large_values_come_whole(both: Both) -> None:
    both.there.put(1, value=b"v" * (2 << 20))
    (change,) = (await both.page()).changes
    assert change.value == b"v" * (2 << 20)


async def test_what_cannot_be_answered_is_said(both: Both) -> None:
    both.there.put(*range(99))
    with pytest.raises(Compacted) as compacted:
        await both.page()
    assert compacted.value.compacted_revision == 59
    with pytest.raises(NotLeader):
        await both.remote.page("b", GROUP + 1, ASK)
    open_ones = [
        both.there.hub.subscribe(Selector("n"), None, values=True) for _ in range(3)
    ]  # as many as it takes
    with pytest.raises(Overloaded):
        await both.page(since=None)
    for subscription in open_ones:
        subscription.close()
    both.able = False
    with pytest.raises(NotLeader):
        await both.page(since=None)
    both.able = True
    waiting = asyncio.create_task(both.page(since=None, wait_ms=20_000))
    await until(lambda: both.there.hub.count == 1)
    both.there.hub.close()
    with pytest.raises(NotLeader):
        await asyncio.wait_for(waiting, SECONDS)
    with pytest.raises(PeerUnreachable):
        await both.remote.page("nobody", GROUP, ASK)
    assert both.remote.polls == 0
    assert not both.failed


async def test_damage_there_stops_that_node(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.there.put(1)
    damage = CorruptRecord("changes", b"\x00key", "value checksum mismatch")

    def damaged(*_: object, **__: object) -> None:
        raise damage

    monkeypatch.setattr("engines.kv_reader.KvReader.changes", damaged)
    with pytest.raises(RemoteCallFailed, match="corrupt record in changes"):
        await both.page()
    assert both.failed == [damage]


@pytest.mark.parametrize("payload", [b"", b"\x09", b"\x01\x90", watch_codec.encode_ask(ASK)[:-1]])
async def test_what_is_no_ask_is_refused(both: Both, payload: bytes) -> None:
    with pytest.raises(UnknownRead):
        watch_codec.decode_ask(payload)
    answer = await both.calls_a.call("b", WATCH, GROUP, payload, SECONDS)
    assert answer[:1] == b"\x01"


async def test_a_page_that_breaks_the_order_or_tells_too_much_is_refused(both: Both) -> None:
    both.there.put(1, 2)
    page = await both.page()
    first, second = page.changes
    for ask, wrong in (
        (ASK, page._replace(changes=(second, first))),
        (ASK, page._replace(position=first.id)),
        (ASK._replace(since=second.id), page),
        (ASK._replace(session="t"), page),
        (ASK._replace(namespace="m"), page),
        (ASK._replace(prefix=b"2"), page),
        (ASK._replace(values=False), page),
    ):
        with pytest.raises(UnknownRead):
            watch_codec.decode_page(ask, watch_codec.encode_page(wrong))
    for packed in (b"", b"\x01\xc0", watch_codec.encode_page(page)[:-1]):
        with pytest.raises(UnknownRead):
            watch_codec.decode_page(ASK, packed)


# --- A feed ------------------------------------------------------------------------------


class Asked:
    """The nodes to ask, one after the other."""

    def __init__(self, *nodes: str) -> None:
        self._nodes = list(nodes)
        self.mistakes: list[str] = []

    def guess(self) -> str | None:
        return self._nodes[0] if self._nodes else None

    def mistaken(self, node: str) -> None:
        self.mistakes.append(node)
        self._nodes.append(self._nodes.pop(0))


class Following:
    """A feed on node a, whose replica here comes and goes."""

    def __init__(self, both: Both, *nodes: str) -> None:
        self.hub: WatchHub | None = None
        self.asked = Asked(*nodes)
        self.feed = PartitionFeed(
            GROUP,
            Wanted(Selector("n", "s"), True, 1 << 20),
            lambda: self.hub,
            self.asked,
            both.remote,
            CLOCK,
        )
        self.seen: list[Change] = []

    async def begin(self, since: ChangeId | None = None, seconds: float = SECONDS) -> None:
        await self.feed.begin(since, CLOCK.monotonic() + seconds, ask=True)

    async def take(self, count: int) -> list[int]:
        """Keys of the next changes; fails if more come at once."""
        found: list[Change] = []
        async with asyncio.timeout(SECONDS):
            while len(found) < count:
                found += await self.feed.next()
        self.seen += found
        return keys(found)


async def test_a_feed_goes_on_elsewhere_when_its_replica_leaves_and_returns(both: Both) -> None:
    following = Following(both, "b")
    following.hub = both.here.hub
    both.put_both(1)
    await following.begin()
    assert following.feed.start_revision == 1
    both.put_both(2, 3, 4, 5)  # more than the queue takes
    assert await following.take(2) == [2, 3]
    waiting = asyncio.create_task(following.take(3))
    await asyncio.sleep(0)
    following.hub = None
    both.here.hub.close()  # what was queued and not handed out is read there
    both.there.put(6)
    assert await waiting == [4, 5, 6]
    replica = both.there
    following.hub = replica.hub
    replica.put(7)
    assert await following.take(1) == [7]
    replica.put(8)
    assert await following.take(1) == [8]
    assert following.feed.position == ChangeId(8, 0)
    assert [change.id.revision for change in following.seen] == list(range(2, 9))
    following.feed.close()
    assert both.there.hub.count == 0


async def test_a_feed_asks_another_node_when_one_does_not_answer(both: Both) -> None:
    both.there.put(1)
    following = Following(both, "nobody", "b")
    await following.begin()
    assert following.feed.start_revision == 1
    both.there.put(2)
    assert await following.take(1) == [2]
    both.able = False
    waiting = asyncio.create_task(following.take(1))
    both.there.put(3)
    await until(lambda: following.asked.mistakes.count("b") > 1)
    both.able = True
    assert await waiting == [3]


async def test_a_feed_that_nobody_answers_does_not_begin(both: Both) -> None:
    with pytest.raises(Unavailable, match="no replica of partition 3"):
        await Following(both, "nobody").begin(seconds=0.1)
    with pytest.raises(Unavailable):
        await Following(both).begin(seconds=0.1)
    # Where it begins is known: it waits for somebody to answer.
    following = Following(both, "nobody")
    await following.feed.begin(START, CLOCK.monotonic(), ask=False)
    assert following.feed.position == START


async def test_a_store_that_is_closed_under_a_watch_ends_it(both: Both) -> None:
    both.put_both(1, 2)
    following = Following(both, "b")
    following.hub = both.here.hub
    await following.begin(START)
    following.hub = None
    both.here.hub.close()
    both.here.state.store.close()
    assert await following.take(2) == [1, 2]
    with pytest.raises(StoreFailed), both.here.state.reader():
        pass
