"""The hub: each change once, in order, whatever is lagging, full, replaced or compacted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.interfaces import CommittedBatch
from engines.command import Command, Delete, Put, Txn, TxnDelete, TxnPut, encode
from engines.errors import Compacted
from engines.interfaces import SUB_MAX, Change, ChangeId, Limits
from engines.kv import KvReader
from engines.state_machine import StateMachine
from engines.store import Store
from node import watch
from node.errors import Unavailable
from node.watch import Selector, Subscription, WatchEnded, WatchHub

WAIT_SECONDS = 60.0  # for what comes at once on a machine that has nothing else to do


class State:
    """A state machine that a test applies commands to, and its hub."""

    def __init__(self, folder: Path, *, queue: int = 8, watches: int = 10, **limits: int) -> None:
        self._store = Store(folder / "state", 1 << 28, 32)
        self.machine = StateMachine(self._store, Limits(**limits))
        self.executor = ThreadPoolExecutor(2)
        self.hub = WatchHub(
            self.readers, self.executor, watches_max=watches, queue_changes_max=queue
        )
        self.published: list[Change] = []
        self.machine.on_changes = self._publish

    @contextmanager
    def readers(self) -> Iterator[KvReader]:
        with self._store.read() as snapshot:
            yield KvReader(snapshot)

    def _publish(self, changes) -> None:
        self.published.extend(changes)
        self.hub.publish(changes)

    def apply(self, *commands: Command) -> None:
        """All in one entry, as group commit does."""
        index = self.machine.applied_index + 1
        self.machine.apply([CommittedBatch(index, 1, [encode(each) for each in commands])])

    def put(self, key: str = "k", value: bytes = b"v", session: str = "s") -> None:
        self.apply(Put("n", session, key.encode(), value, "t", 1))

    def subscribe(
        self, since: ChangeId | None = None, *, session: str | None = "s", values: bool = True
    ) -> Subscription:
        return self.hub.subscribe(Selector("n", session), since, values=values)

    def close(self) -> None:
        self.executor.shutdown()
        self.machine.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., State]]:
    states: list[State] = []

    def make(**options: int) -> State:
        states.append(State(tmp_path / str(len(states)), **options))
        return states[-1]

    yield make
    for state in states:
        state.close()


async def take(subscription: Subscription, count: int) -> list[Change]:
    """The next `count` changes, however they are batched; fails if they do not come."""
    found: list[Change] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while len(found) < count:
            found += await subscription.next(WAIT_SECONDS)
    assert len(found) == count
    return found


async def nothing(subscription: Subscription) -> None:
    assert await subscription.next(0.005) == []


def keys(changes: list[Change]) -> list[str]:
    return [change.key.decode() for change in changes]


async def test_a_live_watch_sees_what_follows_and_matches(opened) -> None:
    state = opened()
    state.put("before")
    one = state.hub.subscribe(Selector("n", "s", b"a/"), None, values=True)
    all_sessions = state.subscribe(session=None)
    assert one.start_revision == 1
    state.put("a/1", b"x")
    state.put("a/2", b"y", session="other")
    state.put("b")
    state.apply(Put("m", "s", b"a/3", b"z", "t", 1), Delete("n", "s", b"a/1", 2))
    changes = await take(one, 2)
    assert [(c.key, c.kind.name, c.value) for c in changes] == [
        (b"a/1", "PUT", b"x"),
        (b"a/1", "DELETE", None),
    ]
    assert keys(await take(all_sessions, 4)) == ["a/1", "a/2", "b", "a/1"]
    await nothing(one)


async def test_who_begins_to_watch_wants_what_was_put_off(opened) -> None:
    state = opened()
    heard: list[int] = []
    state.hub.on_subscribed = lambda: heard.append(state.hub.count)
    state.subscribe()
    assert heard == [1]


async def test_a_watch_resumes_after_a_revision_or_within_one(opened) -> None:
    state = opened()
    state.put("1")
    ops = tuple(TxnPut(key, b"", "t") for key in (b"2a", b"2b", b"2c"))
    state.apply(Txn("n", "s", (), ops, (), 1))
    state.put("3")
    for since, expected in (
        (ChangeId(0, SUB_MAX), ["1", "2a", "2b", "2c", "3"]),
        (ChangeId(1, SUB_MAX), ["2a", "2b", "2c", "3"]),
        (ChangeId(2, 0), ["2b", "2c", "3"]),
        (ChangeId(2, SUB_MAX), ["3"]),
    ):
        subscription = state.subscribe(since)
        assert keys(await take(subscription, len(expected))) == expected
        await nothing(subscription)
        subscription.close()


async def test_a_watch_may_resume_from_what_this_replica_has_not_reached(opened) -> None:
    state = opened()
    ahead = state.subscribe(ChangeId(2, SUB_MAX))
    await nothing(ahead)
    for key in ("1", "2", "3"):
        state.put(key)
    assert keys(await take(ahead, 1)) == ["3"]
    await nothing(ahead)


async def test_no_values(opened) -> None:
    state = opened()
    for since in (None, ChangeId(0, SUB_MAX)):
        subscription = state.subscribe(since, values=False)
        state.put("k", b"12345")
        changes = await take(subscription, 1 if since is None else 2)
        assert [(change.value, change.size) for change in changes][-1] == (None, 5)


async def test_a_full_queue_loses_nothing_and_stays_bounded(opened) -> None:
    state = opened(queue=4)
    subscription = state.subscribe()
    for number in range(50):
        state.put(str(number))
    assert len(subscription._queue) == 4
    assert (state.hub.lagging, state.hub.figures.overflows) == (1, 1)
    assert keys(await take(subscription, 50)) == [str(number) for number in range(50)]
    await nothing(subscription)
    assert state.hub.lagging == 0
    state.put("live")
    assert keys(await take(subscription, 1)) == ["live"]


async def test_large_values_come_in_bounded_batches(opened) -> None:
    state = opened(queue=100)
    subscription = state.subscribe()
    for number in range(6):
        state.put(str(number), bytes(700_000))
    sizes = []
    async with asyncio.timeout(WAIT_SECONDS):
        while sum(sizes) < 6:
            sizes.append(len(await subscription.next(WAIT_SECONDS)))
    assert sizes == [1] * 6


async def test_a_watch_of_what_was_compacted_is_told(opened) -> None:
    state = opened(watch_window_changes_max=10)
    quiet = state.subscribe(session="quiet")
    for number in range(100):
        state.put(f"k{number}")
    with state.readers() as reader:
        floor = reader.compacted_revision
    assert floor > 0
    late = state.subscribe(ChangeId(0, SUB_MAX))
    with pytest.raises(Compacted) as caught:
        await late.next(WAIT_SECONDS)
    assert caught.value.compacted_revision == floor
    good = state.subscribe(ChangeId(floor, SUB_MAX))
    assert keys(await take(good, 100 - floor))[-1] == "k99"
    # The quiet watch missed nothing, and can say from where to go on.
    await nothing(quiet)
    assert quiet.position == ChangeId(100, 0)
    again = state.subscribe(quiet.position, session="quiet")
    state.put("new", session="quiet")
    assert keys(await take(quiet, 1)) == keys(await take(again, 1)) == ["new"]


@pytest.mark.parametrize("names", [1, 100])
async def test_a_slow_watch_gets_what_is_kept_and_is_then_told(opened, names: int) -> None:
    """Of one name only the newest is kept; of many, each is, as its record's history."""
    state = opened(queue=4, watch_window_changes_max=10, history_versions_max=1)
    slow = state.subscribe()
    for number in range(100):
        state.put(str(number % names), str(number).encode())
    seen: list[bytes | None] = []

    async def read_on() -> None:
        while True:
            seen.extend(change.value for change in await slow.next(WAIT_SECONDS))

    with pytest.raises(Compacted):
        await read_on()
    assert seen == ([] if names == 1 else [b"0", b"1", b"2", b"3"])


async def test_a_replaced_state_is_read_from_the_store(opened) -> None:
    """A snapshot was installed: changes came that nobody published."""
    state = opened()
    subscription = state.subscribe()
    state.put("1")
    assert keys(await take(subscription, 1)) == ["1"]
    state.machine.on_changes = None
    state.put("2")
    state.put("3")
    state.machine.on_changes = state.hub.publish
    state.hub.reset()
    state.put("4")
    assert keys(await take(subscription, 3)) == ["2", "3", "4"]
    await nothing(subscription)


async def test_watches_are_bounded_and_end_with_the_hub(opened) -> None:
    state = opened(watches=2)
    first, second = state.subscribe(), state.subscribe(session=None)
    with pytest.raises(Unavailable) as caught:
        state.subscribe()
    assert caught.value.code == "OVERLOADED"
    second.close()
    second.close()
    assert state.hub.count == 1
    waiting = asyncio.create_task(first.next(WAIT_SECONDS))
    await asyncio.sleep(0)
    state.hub.close()
    with pytest.raises(WatchEnded):
        await waiting
    with pytest.raises(Unavailable) as caught:
        state.subscribe()
    assert caught.value.code == "STOPPING"


class Reader:
    """A watcher that reads at random speed and remembers what it saw."""

    def __init__(self, state: State, rng: random.Random) -> None:
        self.session = rng.choice([None, "a", "b"])
        self.prefix = rng.choice([b"", b"", b"x"])
        resume = rng.random() < 0.6 and bool(state.published)
        self.since = rng.choice(state.published).id if resume else None
        self.from_revision = 0
        self._state = state
        self._rng = rng
        self.seen: list[Change] = []

    def expected(self) -> list[Change]:
        after = self.since or ChangeId(self.from_revision, SUB_MAX)
        selector = Selector("n", self.session, self.prefix)
        return [c for c in self._state.published if c.id > after and selector.matches(c)]

    async def run(self, done: asyncio.Event) -> None:
        selector = Selector("n", self.session, self.prefix)
        subscription = self._state.hub.subscribe(selector, self.since, values=True)
        self.from_revision = subscription.start_revision
        expected: int | None = None  # changes; known once nobody writes any more
        while expected is None or len(self.seen) < expected:
            if expected is None and done.is_set():
                expected = len(self.expected())
            self.seen += await subscription.next(0.01)
            if self._rng.random() < 0.1:  # disconnect, and resume where it says
                since = subscription.position
                subscription.close()
                subscription = self._state.hub.subscribe(selector, since, values=True)
            for _ in range(self._rng.choice([0, 0, 1, 50])):
                await asyncio.sleep(0)
        subscription.close()


@pytest.mark.parametrize("seed", range(12))
async def test_every_watch_sees_each_change_once_while_others_write(
    opened, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent writers, watches that start anywhere, lag, overflow and resume."""
    rng = random.Random(seed)
    # Small pages make every way between lagging and live frequent.
    monkeypatch.setattr(watch, "PAGE_CHANGES_MAX", rng.choice([2, 7, 1000]))
    monkeypatch.setattr(watch, "JOIN_CHANGES_MAX", rng.choice([1, 3, 200]))
    monkeypatch.setattr(watch, "BATCH_CHANGES_MAX", rng.choice([1, 5]))
    monkeypatch.setattr(watch, "LOOP_BYTES_MAX", rng.choice([0, 1 << 16]))
    state = opened(queue=rng.choice([1, 3, 1000]), watches=100)
    done = asyncio.Event()
    readers: list[Reader] = []
    tasks = []
    for step in range(250):
        state.apply(*(random_command(rng, step) for _ in range(rng.choice([1, 1, 4]))))
        if rng.random() < 0.05:
            readers.append(Reader(state, rng))
            tasks.append(asyncio.create_task(readers[-1].run(done)))
        for _ in range(rng.choice([0, 1, 20])):
            await asyncio.sleep(0)
    done.set()
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*tasks)
    assert readers
    for reader in readers:
        assert [change.id for change in reader.seen] == [change.id for change in reader.expected()]
        assert [(c.key, c.value, c.kind, c.version) for c in reader.seen] == [
            (c.key, c.value, c.kind, c.version) for c in reader.expected()
        ]
    assert state.hub.count == 0


def random_command(rng: random.Random, step: int) -> Command:
    session = rng.choice(["a", "a", "b", "c"])
    names = [rng.choice([b"x1", b"x2", b"y1", b"y2"]) for _ in range(4)]
    value = f"{step}".encode() * rng.choice([0, 1, 300])
    kind = rng.random()
    if kind < 0.6:
        return Put("n", session, names[0], value, "t", step)
    if kind < 0.75:
        return Delete("n", session, names[0], step)
    if kind < 0.8:
        return Put("other", session, names[0], value, "t", step)
    ops = {name: TxnPut(name, value, "t") for name in names[:3]} | {names[3]: TxnDelete(names[3])}
    return Txn("n", session, (), tuple(ops.values()), (), step)
