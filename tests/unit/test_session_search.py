"""Full-text search over plain records: what is found, bounded, and forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from engines import session_indexes, state_machine
from engines.command import Expire
from engines.errors import QueryCancelled
from engines.interfaces import Limits
from engines.kv import KvReader
from engines.record_text import key_text
from engines.session_indexes import SESSIONS_MAX
from engines.session_search import HITS_MAX, HitPage, SearchSession
from engines.text_changes import Changes
from engines.text_index import TextIndex
from node.clock import SystemClock
from tests.unit.engine_state import State, checked_state

CLOCK = SystemClock()
SECONDS = 20.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path / "state") as made:
        yield made


def page(state: State, query: str, *, session: str = "s", **more: Any) -> HitPage:
    request = SearchSession("n", session, query, **more)
    found: HitPage = state.read(request.run).found
    return found


def keys(state: State, query: str, **more: Any) -> list[bytes]:
    return [hit.record.key for hit in page(state, query, **more).hits]


# --- What is found -----------------------------------------------------------------------


def test_records_are_found_by_words_of_key_and_value(state: State) -> None:
    state.put(b"garden/Flowers.txt", b"Where the bees dance")
    state.put(b"kitchen", b"no flowers here")
    state.put(b"attic", b"a chair")
    assert sorted(keys(state, "flower")) == [b"garden/Flowers.txt", b"kitchen"]
    assert keys(state, "flower", key_weight=10.0)[0] == b"garden/Flowers.txt"
    assert keys(state, "flower", key_weight=0.0, value_weight=10.0)[0] == b"kitchen"
    assert keys(state, "dancing flowers", mode="all") == [b"garden/Flowers.txt"]
    assert keys(state, "bees dance", mode="phrase") == [b"garden/Flowers.txt"]
    assert keys(state, "dance bees", mode="phrase") == []
    assert keys(state, "flowers -kitchen") == [b"garden/Flowers.txt"]
    assert keys(state, "kit*") == [b"kitchen"]
    assert keys(state, "flower", session="t") == []


def test_a_hit_is_the_record_with_score_and_snippet(state: State) -> None:
    state.put(b"k", b"the bees dance", ttl=5)
    (hit,) = page(state, "dance", values=True, snippets=True).hits
    assert hit.record == state.get(b"k")
    assert hit.score > 0
    assert hit.snippet == "the bees [dance]"
    (plain,) = page(state, "dance").hits
    assert plain.record.value is None
    assert plain.record.size == 14
    assert plain.snippet is None


def test_equal_scores_are_in_order_of_keys_and_more_says_that_there_are_more(
    state: State,
) -> None:
    for number in reversed(range(HITS_MAX + 1)):
        state.put(b"k%03d" % number, b"bee")
    found = page(state, "bee", limit=HITS_MAX)
    assert [hit.record.key for hit in found.hits] == [b"k%03d" % n for n in range(HITS_MAX)]
    assert found.more
    assert not page(state, "k003 bee", mode="all", limit=1).more
    assert keys(state, "bee", prefix=b"k09") == [b"k09%d" % n for n in range(10)]
    # What is left out by a prefix changes no score.
    assert page(state, "bee", prefix=b"k099").hits[0].score == found.hits[0].score


def test_values_of_a_page_are_bounded(state: State) -> None:
    for name in (b"a", b"b", b"c"):
        state.put(name, b"bee")
    found = page(state, "bee", values=True, bytes_max=4)
    assert [hit.record.key for hit in found.hits] == [b"a", b"b"]
    assert found.more
    assert len(page(state, "bee", values=False, bytes_max=4).hits) == 3
    assert not page(state, "bee", values=True, bytes_max=9).more


def test_namespaces_and_sessions_are_searched_apart(state: State) -> None:
    state.put(b"a", b"bee")
    state.put(b"b", b"bee", session="t")
    state.put(b"c", b"bee", namespace="m")
    assert keys(state, "bee") == [b"a"]
    assert keys(state, "bee", session="t") == [b"b"]
    (hit,) = state.read(SearchSession("m", "s", "bee").run).found.hits
    assert (hit.record.namespace, hit.record.key) == ("m", b"c")


def test_what_changes_is_found_as_it_is(state: State) -> None:
    state.put(b"a", b"bee")
    state.put(b"b", b"bee", ttl=1)
    assert keys(state, "bee") == [b"a", b"b"]
    state.put(b"a", b"cat")
    assert keys(state, "bee") == [b"b"]
    state.now += 100
    # A deadline hides nothing: all replicas agree on when the record is gone.
    assert keys(state, "bee") == [b"b"]
    state.apply(Expire(tuple(state.read(lambda reader: reader.due(state.now, 9))), state.now))
    assert keys(state, "bee") == []
    state.delete(b"a")
    assert keys(state, "cat") == []
    state.put(b"a", b"cat again")
    assert keys(state, "cat") == [b"a"]


def test_a_binary_value_is_found_by_its_key_only(state: State) -> None:
    state.put(b"photo of a bee", b"\x89PNG cat", content_type="image/png")
    assert keys(state, "bee") == [b"photo of a bee"]
    assert keys(state, "cat") == []


def test_keys_of_any_bytes_are_searched(state: State) -> None:
    state.put(b"a\x00bee\xff", b"")
    assert keys(state, "bee", snippets=True) == [b"a\x00bee\xff"]


# --- Indexes -----------------------------------------------------------------------------


def indexes(state: State) -> session_indexes.SessionIndexes:
    return state.machine.indexes.sessions


def test_writes_tell_nobody_while_nothing_was_searched(state: State) -> None:
    state.machine.on_changes = None
    with patch.object(state_machine, "MadeChanges", side_effect=AssertionError):
        state.put(b"a", b"bee")
    assert not indexes(state)
    assert keys(state, "bee") == [b"a"]
    assert indexes(state)
    state.put(b"b", b"bee")
    assert keys(state, "bee") == [b"a", b"b"]


def test_an_index_that_begins_within_an_apply_misses_nothing(state: State) -> None:
    """Also where nobody noted what that apply changed."""
    state.machine.on_changes = None
    state.put(b"a", b"bee")
    finish = state_machine._Application.finish

    def searched(application: Any) -> None:
        assert keys(state, "bee") == [b"a"]
        finish(application)

    with patch.object(state_machine._Application, "finish", searched):
        state.put(b"b", b"bee")
    assert keys(state, "bee") == [b"a", b"b"]


@pytest.mark.parametrize("window", [1, 100])
@pytest.mark.parametrize("missed_max", [0, 10_000])
def test_an_index_may_begin_with_an_older_snapshot(
    tmp_path: Path, missed_max: int, window: int
) -> None:
    """What changed since is known, or the index is of now, and another one of then."""
    with (
        patch("engines.session_search._MISSED_MAX", missed_max),
        checked_state(tmp_path / "state") as state,
    ):
        state.limits = Limits(watch_window_changes_max=window)
        state.reopen()
        state.put(b"a", b"bee")
        state.put(b"b", b"bee")
        with state.reader() as old:
            state.delete(b"a")
            state.put(b"b", b"cat")
            state.put(b"c", b"bee")
            request = SearchSession("n", "s", "bee")
            for _ in range(2):
                assert [hit.record.key for hit in request.run(old).found.hits] == [b"a", b"b"]
                assert keys(state, "bee") == [b"c"]


def test_changes_may_be_heard_in_any_order() -> None:
    changes = Changes()
    changes.changed(b"a", 7)
    changes.changed(b"a", 4)
    changes.changed(b"a", 9)
    assert changes.due(3) == []
    assert changes.due(4) == [b"a"]
    assert changes.due(8) == [b"a"]
    changes.taken([b"a"], 8)
    assert changes.due(8) == []
    assert changes.due(9) == [b"a"]


def test_the_session_searched_longest_ago_loses_its_index(state: State) -> None:
    made: list[TextIndex] = []
    new = session_indexes._new_index

    def noted() -> TextIndex:
        made.append(new())
        return made[-1]

    with patch.object(session_indexes, "_new_index", noted):
        for number in range(SESSIONS_MAX + 1):
            state.put(b"k", b"bee", session=str(number))
        for number in range(SESSIONS_MAX):
            assert keys(state, "bee", session=str(number)) == [b"k"]
        assert keys(state, "bee", session="0") == [b"k"]
        assert len(made) == SESSIONS_MAX
        assert keys(state, "bee", session=str(SESSIONS_MAX)) == [b"k"]
        assert len(indexes(state)) == SESSIONS_MAX
        assert [index._closed for index in made] == [False, True] + [False] * (SESSIONS_MAX - 1)
        assert keys(state, "bee", session="0") == [b"k"]
        assert len(made) == SESSIONS_MAX + 1
        assert keys(state, "bee", session="1") == [b"k"]
        assert len(made) == SESSIONS_MAX + 2
        assert len(indexes(state)) == SESSIONS_MAX


def test_sessions_without_records_need_no_index(state: State) -> None:
    assert keys(state, "bee") == []
    state.put(b"a", b"bee")
    state.delete(b"a")
    assert keys(state, "bee") == []
    assert not indexes(state)


def test_an_index_that_nobody_searches_any_more_goes(state: State) -> None:
    state.put(b"a", b"bee")
    assert keys(state, "bee") == [b"a"]
    with patch.object(session_indexes, "WAITING_MAX", 3):
        for number in range(3):
            state.put(b"%d" % number, b"bee")
        assert len(indexes(state)) == 1
        state.put(b"3", b"bee")
        assert not indexes(state)
    assert len(keys(state, "bee")) == 5


def test_a_state_that_is_replaced_takes_its_indexes_with_it(state: State, tmp_path: Path) -> None:
    other = State(tmp_path / "other")
    other.put(b"other", b"bee")
    state.put(b"a", b"bee")
    state.put(b"b", b"bee")
    assert keys(state, "bee") == [b"a", b"b"]
    copy = tmp_path / "copy"
    with open(copy, "wb") as file:
        index, term = other.machine.copy_to(file.fileno())
    other.machine.close()
    request = SearchSession("n", "s", "bee")
    with state.reader() as old:
        state.machine.replace(copy, index, term)
        assert not indexes(state)
        assert [hit.record.key for hit in request.run(old).found.hits] == [b"a", b"b"]
        assert keys(state, "bee") == [b"other"]
        assert [hit.record.key for hit in request.run(old).found.hits] == [b"a", b"b"]
        state.put(b"more", b"bee")
        state.put(b"most", b"bee")
        assert [hit.record.key for hit in request.run(old).found.hits] == [b"a", b"b"]
    assert keys(state, "bee") == [b"more", b"most", b"other"]
    state.machine.reset()
    assert not indexes(state)
    assert keys(state, "bee") == []


def test_a_state_that_ends_closes_its_indexes(state: State) -> None:
    state.put(b"a", b"bee")
    assert keys(state, "bee") == [b"a"]
    with state.reader() as reader:
        state.machine.indexes.close()
        assert not indexes(state)
        assert len(SearchSession("n", "s", "bee").run(reader).found.hits) == 1
        assert not indexes(state)


@pytest.mark.parametrize("looks", [1, 2, 5, 10])
def test_a_search_whose_index_is_put_away_makes_another(state: State, looks: int) -> None:
    for number in range(10):
        state.put(b"%d" % number, b"bee")
    seen = count(1)
    threads: list[threading.Thread] = []

    def stop() -> bool:
        if next(seen) == looks:
            # It waits until what is under way has ended, which this is.
            (entry,) = indexes(state)._found.values()
            threads.append(threading.Thread(target=indexes(state).clear))
            threads[0].start()
            end = CLOCK.monotonic() + SECONDS
            while not entry.index.closing:
                assert CLOCK.monotonic() < end
        return False

    with state.reader() as reader:
        reader.stop = stop
        assert len(SearchSession("n", "s", "bee").run(reader).found.hits) == 10
    threads[0].join(SECONDS)
    assert not threads[0].is_alive()
    assert len(indexes(state)) == 1


# --- Deadlines ---------------------------------------------------------------------------


def test_building_ends_with_its_caller_and_goes_on_with_the_next(state: State) -> None:
    for number in range(20):
        state.put(b"%02d" % number, b"bee")
    cancelled = 0
    while True:
        seen = count(1)
        with state.reader() as reader:
            reader.stop = lambda seen=seen: next(seen) > 8
            try:
                found = SearchSession("n", "s", "bee", limit=100).run(reader).found
                break
            except QueryCancelled:
                cancelled += 1
                # What is built already may change meanwhile, and what is not.
                state.put(b"00", b"bee word%d" % cancelled)
                state.delete(b"%02d" % (19 - cancelled))
        assert cancelled < 10
        assert len(indexes(state)) == 1
    assert cancelled > 1
    assert len(found.hits) == 20 - cancelled
    assert keys(state, f"word{cancelled}") == [b"00"]


def test_who_waits_for_another_to_build_leaves_with_the_deadline(state: State) -> None:
    state.put(b"a", b"bee")
    building, done = threading.Event(), threading.Event()

    def slow(key: bytes) -> str:
        building.set()
        assert done.wait(SECONDS)
        return key_text(key)

    found: list[list[bytes]] = []
    with patch.object(session_indexes, "key_text", slow):
        builder = threading.Thread(target=lambda: found.append(keys(state, "bee")))
        builder.start()
        try:
            assert building.wait(SECONDS)
            with state.reader() as reader:
                reader.stop = lambda: True
                with pytest.raises(QueryCancelled):
                    SearchSession("n", "s", "bee").run(reader)
        finally:
            done.set()
            builder.join(SECONDS)
    assert found == [[b"a"]]


def test_searches_beside_writes_show_their_own_snapshots(state: State) -> None:
    """A writer, and readers of the newest snapshot at two threads."""
    state.put(b"0", b"bee")
    end = CLOCK.monotonic() + 1.0
    failures: list[object] = []
    searches: list[int] = []

    def look() -> None:
        request = SearchSession("n", "s", "bee", limit=HITS_MAX)
        while CLOCK.monotonic() < end and not failures:
            try:
                with state.reader() as reader:
                    reader.stop = lambda: CLOCK.monotonic() > end + SECONDS
                    found = sorted(hit.record.key for hit in request.run(reader).found.hits)
                    expected = [record.key for record in bees(reader)]
                if found != expected:
                    failures.append((found, expected))
                searches.append(len(found))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    written = 0
    while any(thread.is_alive() for thread in threads):
        state.put(b"%d" % (written % 40), b"bee" if written % 3 else b"cat")
        if written % 7 == 0:
            state.delete(b"%d" % (written % 40))
        if written % 50 == 0:
            indexes(state).clear()
        written += 1
    assert failures == []
    assert len(searches) > 5


def bees(reader: KvReader) -> list[Any]:
    records = reader.scan("n", "s", b"", None, 1000, 1 << 20, True).records
    return [record for record in records if record.value == b"bee"]
