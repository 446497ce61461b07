"""Reads on another node: what comes back, and what each failure says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import PeerUnreachable, RemoteCallFailed
from cluster.inmem import InMemoryGroup
from engines.errors import (
    Compacted,
    CorruptRecord,
    InvalidArgument,
    ReadersBusy,
    StoreFailed,
)
from engines.interfaces import Limits, Record
from engines.kv import KvReader
from engines.read_codec import encode_read
from engines.read_requests import (
    GetHeld,
    GetMany,
    GetRecord,
    GetRecordAt,
    ListHistory,
    ListNamespaces,
    ListSessions,
    ReadRequest,
    ScanSession,
    Shown,
    WalkNamespace,
    Wanted,
    WantedHeld,
)
from engines.session_search import SearchSession
from node.clock import SystemClock
from node.errors import DeadlineExceeded, InternalError, Unavailable
from node.local_reads import LocalReads, ReaderThreads
from node.reads import (
    LINEARIZABLE,
    PRIORITIES,
    Consistency,
    Priority,
    ReadOptions,
    ReplicaLeft,
)
from node.remote_reads import READ, DamagedReplica, RemoteReads
from node.router import Router
from tests.unit.engine_state import State
from tests.unit.transport.nodes import NOWHERE, Nodes, Pair, until

CLOCK = SystemClock()
GROUP = 3
SECONDS = 10.0
KEY = GetRecord("n", "s", b"k")
REQUESTS: list[ReadRequest[Any]] = [
    KEY,
    GetRecord("n", "s", b"k", values=False),
    GetRecord("n", "s", b"none"),
    GetRecordAt("n", "s", b"k", 2),
    GetMany((Wanted("n", "s", b"k"), Wanted("n", "t", b"none"), Wanted("n", "s", b"large")), 9),
    GetHeld((WantedHeld("n", "s", b"k", True), WantedHeld("n", "s", b"large", False))),
    ScanSession("n", "s", b"", None, 2, values=True),
    ScanSession("n", "s", b"", b"k", 2, values=False),
    ListHistory("n", "s", b"k", None, 1, values=True),
    ListSessions("n", None, 1),
    ListNamespaces(None, 5),
    WalkNamespace("n", ("s", b"k"), 3),
    SearchSession("n", "s", "k large", limit=1, values=True, snippets=True),
]


class Reads:
    """The real router on a state of one node; a test may make it fail or wait."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.error: Exception | None = None
        self.seen: list[tuple[ReadOptions, float]] = []
        self.hold: asyncio.Event | None = None

    async def read_here(
        self, request: ReadRequest[Any], options: ReadOptions, deadline: float
    ) -> Any:
        self.seen.append((options, deadline - CLOCK.monotonic()))
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return await self._router.read_here(request, options, deadline)


class Both:
    """Node a asks; node b holds the group."""

    def __init__(self, pair: Pair, state: State, executor: ThreadPoolExecutor) -> None:
        self.pair = pair
        self.state = state
        self.failed_a: list[BaseException] = []
        self.failed_b: list[BaseException] = []
        threads = ReaderThreads(executor, CLOCK)
        group = InMemoryGroup("b", state.machine, GROUP)
        local = LocalReads(state.reader, threads)
        self.reads = Reads(Router("b", group, state.machine, None, CLOCK, {}, local))
        self.a = RemoteReads(pair.a, threads, CLOCK, self.failed_a.append)
        self.b = RemoteReads(pair.b, threads, CLOCK, self.failed_b.append)
        self.b.serve(GROUP, self.reads)

    async def read(self, request: ReadRequest[Any], options: ReadOptions = LINEARIZABLE) -> Any:
        return await self.a.read("b", GROUP, request, options, SECONDS)


@pytest.fixture
async def both(nodes: Nodes, tmp_path: Path) -> AsyncIterator[Both]:
    state = State(tmp_path, Limits(history_versions_max=2, watch_window_changes_max=2))
    with ThreadPoolExecutor(2) as executor:
        both = Both(await nodes.pair(), state, executor)
        for value in (b"1", b"2", b"3"):
            state.put(b"k", value)
        state.put(b"large", b"v" * (1 << 20), ttl=5000)
        state.put(b"other", b"", session="t")
        yield both
        assert not both.failed_a
    state.machine.close()


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
async def test_another_node_answers_as_its_own_state_does(
    both: Both, request_: ReadRequest[Any]
) -> None:
    found = await both.read(request_)
    assert found == both.state.read(request_.run)
    assert isinstance(found, Shown)


async def test_large_values_come_whole(both: Both) -> None:
    found = await both.read(GetRecord("n", "s", b"large"))
    assert isinstance(found.found, Record)
    assert found.found.value == b"v" * (1 << 20)


async def test_how_fresh_and_how_soon_travels(both: Both) -> None:
    for options in (
        LINEARIZABLE,
        ReadOptions(Consistency.LEADER),
        ReadOptions(Consistency.STALE, max_staleness_ms=0, min_revision=1),
        ReadOptions(Consistency.STALE, min_revision=0),
    ):
        await both.read(KEY, options)
        seen, seconds = both.reads.seen.pop()
        assert seen == options
        assert 0 < seconds <= SECONDS


async def test_a_minimum_beyond_any_revision_is_waited_for(both: Both) -> None:
    with pytest.raises((DeadlineExceeded, PeerUnreachable)):
        await both.a.read("b", GROUP, KEY, ReadOptions(min_revision=1 << 200), 0.05)


async def test_the_states_refusals_are_raised_where_it_was_asked(both: Both) -> None:
    with pytest.raises(Compacted) as compacted:
        await both.read(GetRecordAt("n", "s", b"k", 1))
    assert compacted.value.compacted_revision == 2
    with pytest.raises(InvalidArgument, match="lies in the future") as invalid:
        await both.read(GetRecordAt("n", "s", b"k", 99))
    assert (invalid.value.field, invalid.value.code) == ("at_revision", "INVALID_ARGUMENT")
    assert not both.failed_b


async def test_damage_there_stops_that_node_alone(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = CorruptRecord("changes", b"\x00key", "value checksum mismatch")

    def damaged(*_: object, **__: object) -> None:
        raise damage

    monkeypatch.setattr(KvReader, "get", damaged)
    with pytest.raises(DamagedReplica, match="node b: corrupt record in changes") as caught:
        await both.read(KEY)
    assert caught.value.definite
    assert str(caught.value.__cause__) == str(damage)
    assert both.failed_b == [damage]


async def test_a_failing_store_there_stops_that_node_alone(both: Both) -> None:
    both.reads.error = StoreFailed("the disk refused")
    with pytest.raises(RemoteCallFailed, match="the disk refused"):
        await both.read(KEY)
    assert both.failed_b == [both.reads.error]


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("may be older than 5 ms", code="STALE", leader="http://b"),
        Unavailable("no leader", code="QUORUM_NOT_REACHED"),
        DeadlineExceeded("too late"),
    ],
    ids=lambda error: error.code,
)
async def test_what_the_other_node_could_not_promise_is_passed_on(
    both: Both, error: Unavailable
) -> None:
    both.reads.error = error
    with pytest.raises(type(error), match=str(error)) as caught:
        await both.read(KEY)
    assert (caught.value.code, caught.value.leader) == (error.code, error.leader)
    assert caught.value.definite


@pytest.mark.parametrize("error", [InternalError("inner words"), ZeroDivisionError("a defect")])
async def test_a_defect_there_is_a_failed_call_here(both: Both, error: Exception) -> None:
    both.reads.error = error
    with pytest.raises(RemoteCallFailed):
        await both.read(KEY)
    assert not both.failed_b


async def test_busy_readers_are_an_overload(both: Both) -> None:
    both.reads.error = ReadersBusy(3)
    with pytest.raises(Unavailable) as caught:
        await both.read(KEY)
    assert caught.value.code == "OVERLOADED"


async def test_a_replica_that_leaves_meanwhile_is_no_failure_of_its_node(both: Both) -> None:
    both.reads.error = ReplicaLeft()
    with pytest.raises(RemoteCallFailed, match="not on this node any more") as caught:
        await both.read(KEY)
    assert caught.value.definite
    assert not both.failed_b


async def test_a_learner_answers_nobody(both: Both) -> None:
    both.b.serve(GROUP, both.reads, lambda: False)
    with pytest.raises(RemoteCallFailed, match="is not on this node") as caught:
        await both.read(KEY)
    assert caught.value.definite


async def test_a_group_that_is_not_there_is_refused_and_not_passed_on(both: Both) -> None:
    for group in (GROUP + 1, 1 << 31):
        with pytest.raises(RemoteCallFailed, match="is not on this node") as caught:
            await both.a.read("b", group, KEY, LINEARIZABLE, SECONDS)
        assert caught.value.definite
    both.b.withdraw(GROUP)
    with pytest.raises(RemoteCallFailed, match="group 3 is not on this node"):
        await both.read(KEY)
    assert not both.reads.seen


async def test_an_answer_that_does_not_come_is_not_waited_for(both: Both) -> None:
    both.reads.hold = asyncio.Event()
    with pytest.raises(PeerUnreachable, match="no answer in time"):
        await both.a.read("b", GROUP, KEY, LINEARIZABLE, 0.05)
    both.reads.hold.set()


async def test_a_node_that_is_not_connected_cannot_be_asked(nodes: Nodes) -> None:
    transport, _ = await nodes.start("a", {"b": NOWHERE})
    await until(lambda: transport.peer_states()["b"].last_error)
    with ThreadPoolExecutor(1) as executor:
        reads = RemoteReads(transport, ReaderThreads(executor, CLOCK), CLOCK, print)
        with pytest.raises(PeerUnreachable) as caught:
            await reads.read("b", GROUP, KEY, LINEARIZABLE, SECONDS)
    assert caught.value.definite


HEAD = b"\x01" + (GROUP).to_bytes(4, "little") + (1000).to_bytes(4, "little") + b"\x00"
NONE_TWICE = b"\xff" * 16
REST = encode_read(KEY)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        HEAD,
        HEAD + NONE_TWICE,
        HEAD + NONE_TWICE + REST[:-1],
        HEAD + NONE_TWICE + REST + b"\x00",
        HEAD + NONE_TWICE + b"\x02" + REST[1:],
        b"\x02" + HEAD[1:] + NONE_TWICE + REST,
        HEAD[:-1] + b"\x03" + NONE_TWICE + REST,  # a consistency that is none
        HEAD[:5] + bytes(4) + HEAD[9:] + NONE_TWICE + REST,  # no time
        HEAD[:5] + b"\xff" * 4 + HEAD[9:] + NONE_TWICE + REST,  # more time than there is
        HEAD + bytes(8) + b"\xff" * 8 + REST,  # a staleness that is not for this consistency
        HEAD + b"\xff" * 8 + (-2).to_bytes(8, "little", signed=True) + REST,
        HEAD + NONE_TWICE + encode_read(KEY).replace(b"n", b"\x00", 1),
    ],
)
async def test_a_malformed_call_is_refused_and_nothing_is_read(both: Both, payload: bytes) -> None:
    answer = await both.pair.a.call("b", READ, payload, SECONDS)
    assert answer[:1] == b"\x01"
    assert json.loads(answer[1:])["error"] == "RemoteCallFailed"
    assert not both.reads.seen


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_priority_travels(both: Both, priority: Priority) -> None:
    options = ReadOptions(Consistency.STALE, priority=priority)
    await both.a.read("b", GROUP, KEY, options, SECONDS)
    assert both.reads.seen[-1][0] == options


async def test_a_priority_that_is_none_is_refused(both: Both) -> None:
    payload = b"\x02" + HEAD[1:] + NONE_TWICE + b"\x04" + REST
    answer = await both.pair.a.call("b", READ, payload, SECONDS)
    assert json.loads(answer[1:])["error"] == "RemoteCallFailed"


async def test_the_same_call_well_formed_is_answered(both: Both) -> None:
    answer = await both.pair.a.call("b", READ, HEAD + NONE_TWICE + REST, SECONDS)
    assert answer[:1] == b"\x00"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00",
        b"\x00\x01\xc0",
        b"\x02",
        b"\x01",
        b"\x01[]",
        b"\x01{}",
        b'\x01{"error": "Unavailable", "message": "m"}',
        b"\x01\xff",
    ],
)
async def test_a_malformed_answer_is_a_failed_call(nodes: Nodes, answer: bytes) -> None:
    pair = await nodes.pair()

    async def serve(peer: str, payload: bytes) -> bytes:
        return answer

    pair.b.on_call(READ, serve)
    with ThreadPoolExecutor(1) as executor:
        reads = RemoteReads(pair.a, ReaderThreads(executor, CLOCK), CLOCK, print)
        with pytest.raises(RemoteCallFailed):
            await reads.read("b", GROUP, KEY, LINEARIZABLE, SECONDS)
