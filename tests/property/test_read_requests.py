"""Reads that travel answer as reads that do not, and pages of partitions as one state would."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.codec import pack_value
from engines.collection_writes import CREATE
from engines.command import CollectionCommand, Command, Delete, Put
from engines.errors import Compacted, CorruptRecord, EngineError, InvalidArgument, UnknownRead
from engines.interfaces import ChangeId, Limits, RecordPage
from engines.kv import KvReader
from engines.read_codec import decode_answer, decode_read, encode_answer, encode_read
from engines.read_merge import merge_listed, merge_names, merge_records, within
from engines.read_requests import (
    GetHeld,
    GetMany,
    GetRecord,
    GetRecordAt,
    ListedPage,
    ListHistory,
    ListNamespaces,
    ListSessions,
    NamePage,
    ReadRequest,
    ScanSession,
    WalkNamespace,
    Wanted,
    WantedHeld,
)
from engines.session_search import SearchSession
from engines.text_match import MODES
from tests.unit.engine_state import State

NAMESPACES = st.sampled_from(["n", "n.o"])
SESSIONS = st.sampled_from(["s", "s1", "é"])
KEYS = st.sampled_from([b"a", b"ab", b"\xff", b"k" * 600])
BYTES_MAX = st.sampled_from([1, 6, 20, 1 << 20])
LIMITS = st.integers(1, 6)
FEW = Limits(history_versions_max=2, watch_window_changes_max=4)
EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)

PUTS = st.builds(
    Put, NAMESPACES, SESSIONS, KEYS, st.binary(max_size=30), st.just("text/plain"), st.just(1000),
    st.none() | st.just(2000), if_version=st.none(), request_id=st.none(),
)  # fmt: skip
DELETES = st.builds(Delete, NAMESPACES, SESSIONS, KEYS, st.just(1000))
MADE = pack_value({"engine": "text", "settings": {}})
COLLECTIONS = st.builds(
    CollectionCommand, st.sampled_from(["n", "n-", "m", "o"]), st.sampled_from(["c", "d"]),
    st.just(CREATE), st.just(MADE), st.just(1000), st.just(1),
)  # fmt: skip
TEXTS = st.builds(
    Put, NAMESPACES, SESSIONS, KEYS, st.sampled_from([b"ant bee", b"bee", b'["cat", "\\ud800"]']),
    st.sampled_from(["text/plain", "application/json"]), st.just(1000), st.none(),
    if_version=st.none(), request_id=st.none(),
)  # fmt: skip
COMMANDS = st.lists(PUTS | TEXTS | DELETES | COLLECTIONS, max_size=25)
CHANGE_IDS = st.builds(ChangeId, st.integers(0, 30), st.integers(0, 2))

LISTINGS = st.one_of(
    st.builds(ListSessions, NAMESPACES, st.none() | SESSIONS, LIMITS),
    st.builds(ListNamespaces, st.none() | NAMESPACES, LIMITS),
    st.builds(
        WalkNamespace, NAMESPACES, st.none() | st.tuples(SESSIONS, st.just(b"") | KEYS), LIMITS,
        BYTES_MAX,
    ),
    st.builds(
        ScanSession, NAMESPACES, SESSIONS, st.sampled_from([b"", b"a"]), st.none() | KEYS, LIMITS,
        st.booleans(), BYTES_MAX,
    ),
)  # fmt: skip
WANTED = st.lists(st.builds(Wanted, NAMESPACES, SESSIONS, KEYS), min_size=1, max_size=8)
WANTED_HELD = st.builds(WantedHeld, NAMESPACES, SESSIONS, KEYS, st.booleans())
REQUESTS = st.one_of(
    LISTINGS,
    st.builds(GetRecord, NAMESPACES, SESSIONS, KEYS, st.booleans()),
    st.builds(GetRecordAt, NAMESPACES, SESSIONS, KEYS, st.integers(0, 30)),
    st.builds(GetMany, WANTED.map(tuple), BYTES_MAX),
    st.builds(GetHeld, st.lists(WANTED_HELD, min_size=1, max_size=8).map(tuple), BYTES_MAX),
    st.builds(
        ListHistory, NAMESPACES, SESSIONS, KEYS, st.none() | CHANGE_IDS, LIMITS, st.booleans(),
        BYTES_MAX,
    ),
    st.builds(
        SearchSession, NAMESPACES, SESSIONS, st.sampled_from(["bee", "ab a", "ant -cat", "c*"]),
        st.sampled_from(MODES), st.sampled_from([b"", b"a"]), LIMITS, st.booleans(), st.booleans(),
        st.sampled_from([0.0, 1.0, 3.5]), st.just(1.0), BYTES_MAX,
    ),
)  # fmt: skip


@contextmanager
def states(count: int) -> Iterator[list[State]]:
    with tempfile.TemporaryDirectory() as folder:
        made = [State(Path(folder) / str(number), FEW) for number in range(count)]
        try:
            yield made
        finally:
            for state in made:
                state.machine.close()


def outcome(answer: Callable[[], Any]) -> Any:
    """What comes back or is raised, comparable."""
    try:
        return answer()
    except (Compacted, InvalidArgument, CorruptRecord) as error:
        return type(error), str(error), vars(error)


def remotely(request: ReadRequest[Any], reader: KvReader) -> Any:
    """As another node runs it: only bytes go there and come back."""
    asked = decode_read(encode_read(request))
    assert asked == request
    try:
        answer = asked.run(reader)
    except (Compacted, InvalidArgument, CorruptRecord) as error:
        answer = error
    return decode_answer(request, encode_answer(asked, answer))


@EXAMPLES
@given(COMMANDS, st.lists(REQUESTS, min_size=1, max_size=20))
def test_a_remote_read_answers_as_a_local_one(
    commands: list[Command], requests: list[ReadRequest[Any]]
) -> None:
    with states(1) as (state,):
        for command in commands:
            state.apply(command)
        with state.reader() as reader:
            for request in requests:
                local = outcome(lambda request=request: request.run(reader))
                there = outcome(lambda request=request: remotely(request, reader))
                assert there == local
                assert type(there) is type(local)


@EXAMPLES
@given(COMMANDS, st.lists(LISTINGS, min_size=1, max_size=20), st.integers(1, 4))
def test_merged_pages_are_those_of_one_state(
    commands: list[Command], requests: list[ReadRequest[Any]], partitions: int
) -> None:
    with states(1 + partitions) as (whole, *parts):
        for command in commands:
            whole.apply(command)
            place = crc32(command.session.encode()) % partitions
            parts[place].apply(command)
        for request in requests:
            pages = [part.read(request.run).found for part in parts]
            assert without_revisions(merged(request, pages)) == without_revisions(
                whole.read(request.run).found
            )


def merged(request: Any, pages: Sequence[Any]) -> Any:
    match request:
        case WalkNamespace():
            return merge_listed(pages, request.limit, request.bytes_max)
        case ScanSession():
            return merge_records(pages, request.limit, request.bytes_max)
        case _:
            return merge_names(pages, request.limit)


def without_revisions(page: Any) -> Any:
    """Each partition counts revisions by itself."""
    if not isinstance(page, RecordPage):
        return page
    records = [replace(record, revision=1, created_revision=1) for record in page.records]
    return RecordPage(tuple(records), page.more)


@given(
    st.lists(st.tuples(st.sets(st.text("abcdé", min_size=1, max_size=3)), st.integers(1, 4))),
    st.integers(1, 8),
)
def test_pages_of_any_length_are_merged_without_a_gap(
    parts: list[tuple[set[str], int]], limit: int
) -> None:
    everything = sorted({name for names, _ in parts for name in names}, key=str.encode)
    pages = [NamePage(tuple(sorted(names)[:size]), len(names) > size) for names, size in parts]
    found = merge_names(pages, limit)
    assert list(found.names) == everything[: len(found.names)]
    assert found.more == (len(found.names) < len(everything))
    assert found.names or not everything
    assert len(found.names) <= limit


def test_a_walk_through_merged_pages_shows_everything_once() -> None:
    with states(3) as parts:
        for number in range(200):
            session = f"s{number % 7}"
            state = parts[number % 7 % 3]
            state.put(b"k%d" % number, b"", session=session)
        seen: list[Any] = []
        after = None
        while True:
            request = WalkNamespace("n", after, 15, 40)
            pages: list[ListedPage] = [part.read(request.run).found for part in parts]
            for page in pages:
                assert sum(len(session) + len(key) for session, key, _ in page.records[:-1]) < 40
            page = merged(request, pages)
            seen += page.records
            if not page.more:
                break
            after = page.records[-1][:2]
        assert seen == sorted(seen)
        assert {(session, key) for session, key, _ in seen} == {
            (f"s{number % 7}", b"k%d" % number) for number in range(200)
        }


@EXAMPLES
@given(COMMANDS, st.lists(WANTED_HELD, min_size=1, max_size=8), BYTES_MAX)
def test_held_records_come_in_pieces_until_all_are_answered(
    commands: list[Command], wanted: list[WantedHeld], bytes_max: int
) -> None:
    with states(1) as (state,):
        for command in commands:
            state.apply(command)
        with state.reader() as reader:
            found: list[Any] = []
            while len(found) < len(wanted):
                piece = GetHeld(tuple(wanted[len(found) :]), bytes_max).run(reader).found
                values = [held.size for held in piece if held and held.value is not None]
                assert piece
                assert sum(values[:-1]) < bytes_max
                found += piece
            assert found == [reader.held(*each[:3], values=each.values) for each in wanted]


@EXAMPLES
@given(COMMANDS, WANTED, BYTES_MAX)
def test_many_records_are_bounded_and_true(
    commands: list[Command], wanted: list[Wanted], bytes_max: int
) -> None:
    with states(1) as (state,):
        for command in commands:
            state.apply(command)
        with state.reader() as reader:
            naive = [reader.get(*each) for each in wanted]
            found = GetMany(tuple(wanted), bytes_max).run(reader).found
            assert list(found) == within(naive, bytes_max)
            for record, expected in zip(found, naive, strict=True):
                assert record in (expected, expected and replace(expected, value=None))
            sizes = [record.size for record in found if record and record.value is not None]
            assert len(sizes) == 1 or sum(sizes) <= bytes_max
            if sum(record.size for record in naive if record) <= bytes_max:
                assert list(found) == naive


@given(REQUESTS, st.data())
def test_bytes_that_no_codec_wrote_are_refused_or_are_a_read(
    request: ReadRequest[Any], data: st.DataObject
) -> None:
    packed = damaged(encode_read(request), data)
    try:
        read = decode_read(packed)
    except UnknownRead:
        return
    assert decode_read(encode_read(read)) == read


@EXAMPLES
@given(COMMANDS, REQUESTS, REQUESTS, st.data())
def test_an_answer_that_does_not_fit_is_refused(
    commands: list[Command],
    request: ReadRequest[Any],
    other: ReadRequest[Any],
    data: st.DataObject,
) -> None:
    with states(1) as (state,):
        for command in commands:
            state.apply(command)
        with state.reader() as reader:
            try:
                answer = request.run(reader)
            except EngineError:
                return
    packed = encode_answer(request, answer)
    if type(other) is not type(request):
        with pytest.raises(UnknownRead, match="does not answer"):
            decode_answer(other, packed)
    with_damage = damaged(packed, data)
    try:
        decode_answer(request, with_damage)
    except (UnknownRead, Compacted, CorruptRecord, InvalidArgument):
        return


def damaged(packed: bytes, data: st.DataObject) -> bytes:
    """Cut off, added to, or with one byte changed."""
    place = data.draw(st.integers(0, len(packed) - 1))
    byte = data.draw(st.binary(max_size=2))
    return data.draw(
        st.sampled_from(
            [packed[:place], packed + byte, packed[:place] + byte + packed[place + 1 :], byte]
        )
    )
