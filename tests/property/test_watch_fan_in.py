"""A watch of several partitions against the plainest model: what each one's log holds.

Feeds give batches when the schedule says so; the watch is left and resumed at any event it
has shown, or where it says that it stands. Each change comes once, in its partition's order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.slots import PARTITIONS_MAX
from engines.errors import Compacted
from engines.interfaces import INTEGER_MAX, SUB_MAX, Change, ChangeId, ChangeKind
from node import watch_token
from node.watch import WatchEnded
from node.watch_fan_in import Delivery, FanIn, PartitionCompacted

START = ChangeId(0, SUB_MAX)
TURNS = 12  # of the loop: more than it takes to hand anything on
WAIT_SECONDS = 30.0


class Logged(NamedTuple):
    change: Change
    matches: bool


def change_at(group: int, identity: ChangeId) -> Change:
    return Change(
        identity, ChangeKind.PUT, "n", f"s{group}", b"k", b"", 0, "t", 1, 1, None
    )  # fmt: skip


class ScriptedFeed:
    """One partition's log, of which as much is given as the schedule offers."""

    def __init__(self, group: int, log: Sequence[Logged], position: ChangeId) -> None:
        self.group = group
        self.position = position
        self.compacted: int | None = None
        self.closed = False
        self._log = log
        self._offers: deque[int] = deque()
        self._offered = asyncio.Event()

    def offer(self, count: int) -> None:
        """Look at so many changes more."""
        self._offers.append(count)
        self._offered.set()

    async def next(self) -> list[Change]:
        while not self._offers:
            self._offered.clear()
            await self._offered.wait()
        if self.compacted is not None:
            raise Compacted(self.compacted)
        left = [each for each in self._log if each.change.id > self.position]
        page = left[: self._offers.popleft()]
        if page:
            self.position = page[-1].change.id
        return [each.change for each in page if each.matches]

    def close(self) -> None:
        self.closed = True


class Shown(NamedTuple):
    at: int
    change: Change
    event_id: str


class Watching:
    """A watch, and everything that it has shown."""

    def __init__(self, logs: Sequence[Sequence[Logged]]) -> None:
        self.logs = logs
        self.shown: list[Shown] = []
        self.begin([START] * len(logs))

    def begin(self, positions: Sequence[ChangeId]) -> None:
        self.feeds = [
            ScriptedFeed(at + 1, log, position)
            for at, (log, position) in enumerate(zip(self.logs, positions, strict=True))
        ]
        self.fan_in = FanIn(self.feeds)

    def resume(self, event_id: str) -> None:
        self.fan_in.close()
        assert all(feed.closed for feed in self.feeds)
        self.begin(watch_token.decode(event_id, len(self.logs)))

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def take(self) -> bool:
        delivery = await self.fan_in.next(0)
        if delivery is None:
            return False
        self.show(delivery)
        return True

    def show(self, delivery: Delivery) -> None:
        assert delivery.ids is not None
        for change, event_id in zip(delivery.changes, delivery.ids, strict=True):
            self.shown.append(Shown(delivery.group - 1, change, event_id))

    async def drain(self) -> None:
        for feed, log in zip(self.feeds, self.logs, strict=True):
            feed.offer(len(log) + 1)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                await self.settle()
                if not await self.take():
                    return

    def expect_all(self) -> None:
        for at, log in enumerate(self.logs):
            found = [each.change.id for each in self.shown if each.at == at]
            assert found == [each.change.id for each in log if each.matches]


@st.composite
def _logs(draw: st.DrawFn) -> list[list[Logged]]:
    logs: list[list[Logged]] = []
    for at in range(draw(st.integers(2, 4))):
        log: list[Logged] = []
        for revision in range(1, draw(st.integers(0, 6)) + 1):
            log += [
                Logged(change_at(at + 1, ChangeId(revision, sub)), draw(st.booleans()))
                for sub in range(draw(st.integers(1, 3)))
            ]
        logs.append(log)
    return logs


_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 3), st.integers(1, 5)),
        st.tuples(st.just("turn"), st.just(0), st.integers(1, 4)),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
        st.tuples(st.just("resume"), st.just(0), st.just(0)),
        st.tuples(st.just("back to"), st.integers(0, 40), st.just(0)),
    ),
    max_size=40,
)


@given(_logs(), _ACTIONS)
def test_each_change_once_and_in_order_whatever_the_interleaving(
    logs: list[list[Logged]], actions: list[tuple[str, int, int]]
) -> None:
    async def run() -> None:
        watching = Watching(logs)
        for kind, which, count in actions:
            match kind:
                case "offer":
                    watching.feeds[which % len(logs)].offer(count)
                case "turn":
                    for _ in range(count):
                        await asyncio.sleep(0)
                case "take":
                    await watching.take()
                case "resume":
                    watching.resume(watching.fan_in.resume_id)
                case _ if watching.shown:
                    place = which % len(watching.shown)
                    # Whoever resumes there has not seen what came after it.
                    del watching.shown[place + 1 :]
                    watching.resume(watching.shown[-1].event_id)
        await watching.drain()
        watching.expect_all()
        # A partition whose changes do not match does not hold the watch back.
        reached = watch_token.decode(watching.fan_in.resume_id, len(logs))
        for log, position in zip(logs, reached, strict=True):
            assert position >= (log[-1].change.id if log else START)
        watching.fan_in.close()

    asyncio.run(run())


async def test_a_partition_that_is_fast_waits_for_its_turn() -> None:
    logs = [
        [Logged(change_at(at, ChangeId(revision, 0)), True) for revision in range(1, 4)]
        for at in (1, 2)
    ]
    watching = Watching(logs)
    for feed in watching.feeds:
        for _ in range(3):
            feed.offer(1)
    await watching.settle()
    # One batch of each is held, whatever else could be had.
    assert [feed.position.revision for feed in watching.feeds] == [1, 1]
    await watching.drain()
    assert [each.at for each in watching.shown[:4]] == [0, 1, 0, 1]
    watching.fan_in.close()


async def test_what_is_compacted_in_one_partition_says_how_to_go_on() -> None:
    logs = [
        [Logged(change_at(at, ChangeId(revision, 0)), True) for revision in range(1, 9)]
        for at in (1, 2)
    ]
    watching = Watching(logs)
    watching.feeds[0].offer(3)
    await watching.settle()
    assert await watching.take()
    watching.feeds[1].compacted = 6
    watching.feeds[1].offer(1)
    watching.feeds[0].offer(2)
    await watching.settle()
    with pytest.raises(PartitionCompacted) as caught:
        await watching.take()
    assert (caught.value.group, caught.value.compacted_revision) == (2, 6)
    watching.resume(caught.value.resume)
    await watching.drain()
    found = [[each.change.id.revision for each in watching.shown if each.at == at] for at in (0, 1)]
    assert found == [[1, 2, 3, 4, 5, 6, 7, 8], [7, 8]]
    watching.fan_in.close()


async def test_a_single_partition_has_the_ids_of_its_changes() -> None:
    log = [Logged(change_at(1, ChangeId(revision, 0)), True) for revision in (1, 2)]
    feed = ScriptedFeed(1, log, START)
    fan_in = FanIn([feed])
    assert fan_in.resume_id == "0"
    feed.offer(2)
    delivery = await fan_in.next(WAIT_SECONDS)
    assert delivery == Delivery(1, [each.change for each in log], None)
    assert fan_in.resume_id == "2.0"
    feed.compacted = 5
    feed.offer(1)
    with pytest.raises(Compacted):
        await fan_in.next(WAIT_SECONDS)
    fan_in.close()


async def test_what_ends_a_feed_ends_the_watch() -> None:
    class Broken(ScriptedFeed):
        async def next(self) -> list[Change]:
            raise RuntimeError("a defect")

    fan_in = FanIn([ScriptedFeed(1, [], START), Broken(2, [], START)])
    with pytest.raises(RuntimeError, match="a defect"):
        await fan_in.next(WAIT_SECONDS)
    fan_in.close()


async def test_an_ended_watch_wakes_who_waits() -> None:
    fan_in = FanIn([ScriptedFeed(1, [], START), ScriptedFeed(2, [], START)])
    waiting = asyncio.create_task(fan_in.next(WAIT_SECONDS))
    await asyncio.sleep(0)
    fan_in.end()
    with pytest.raises(WatchEnded):
        await waiting
    fan_in.close()


_POSITION = st.builds(
    ChangeId,
    st.one_of(st.integers(0, 1000), st.integers(0, INTEGER_MAX)),
    st.one_of(st.sampled_from([0, 1, SUB_MAX]), st.integers(0, SUB_MAX)),
)
_TEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


@given(st.lists(_POSITION, min_size=2, max_size=9), st.data())
def test_a_token_says_every_position_or_is_refused(
    positions: list[ChangeId], data: st.DataObject
) -> None:
    token = watch_token.encode(positions)
    assert watch_token.decode(token, len(positions)) == tuple(positions)
    with pytest.raises(ValueError, match=f"with {len(positions)} partitions; this one has 99"):
        watch_token.decode(token, 99)
    place = data.draw(st.integers(2, len(token) - 2))
    other = data.draw(st.sampled_from(_TEXT.replace(token[place], "")))
    with pytest.raises(ValueError, match="is "):
        watch_token.decode(token[:place] + other + token[place + 1 :], len(positions))
    with pytest.raises(ValueError, match="is "):
        watch_token.decode(token[:place], len(positions))


@pytest.mark.parametrize("text", ["", "w1", "w1AA", "x1AAAA", "w1=", "w1é", "w1" + "A" * 9000])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        watch_token.decode(text, 8)


def test_the_largest_token_is_bounded() -> None:
    largest = watch_token.encode([ChangeId(INTEGER_MAX, SUB_MAX - 1)] * PARTITIONS_MAX)
    assert len(largest) <= watch_token.TOKEN_CHARS_MAX
    usual = watch_token.encode([ChangeId(1_000_000, 0)] * 8)
    assert len(usual) <= 54
