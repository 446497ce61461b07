"""Searches of sessions against words in a dictionary: with snapshots of any age, records that
expire, restarts, and states that are replaced. Scores are those of an index made for the purpose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from engines import session_indexes, session_search, text_changes, text_index
from engines.command import Expire
from engines.errors import QueryCancelled
from engines.kv import KvReader
from engines.session_search import SearchSession
from node.clock import SystemClock
from tests.unit.engine_state import State

CLOCK = SystemClock()
PATIENCE_SECONDS = 3.0
# Words that Porter's stemmer leaves alone, and tells apart.
WORDS = ("ant", "bee", "cat", "dog")
SESSIONS = ("s", "t")
KEYS = ("k/ant", "k/x", "bee", "x" * 600 + ".cat")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
VALUES = st.one_of(
    st.tuples(TEXTS, st.just("text/plain")),
    st.tuples(TEXTS.map(lambda text: f'{{"ant": ["{text}", 7]}}'), st.just("application/json")),
    st.tuples(TEXTS.map(lambda text: f"\x01{text}"), st.just("application/octet-stream")),
)
PUTS = st.tuples(st.sampled_from(KEYS), st.sampled_from(SESSIONS), VALUES, st.none() | st.just(1))
SEARCHES = st.tuples(
    st.integers(0, 11),
    st.sampled_from(SESSIONS),
    st.lists(st.sampled_from([*WORDS, "k", "7"]), min_size=1, max_size=2, unique=True),
    st.sampled_from(["any", "all"]),
    st.sampled_from(["", "k/", "x"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PUTS),
        st.tuples(st.just("put"), PUTS),
        st.tuples(st.just("delete"), st.tuples(st.sampled_from(KEYS), st.sampled_from(SESSIONS))),
        st.tuples(st.just("search"), SEARCHES),
        st.tuples(st.just("search"), SEARCHES),
        st.tuples(
            st.just("hurry"),
            st.tuples(st.integers(0, 9), st.sampled_from(SESSIONS), st.integers(0, 9)),
        ),
        st.tuples(st.sampled_from(["expire", "expire", "reopen", "replace"]), st.just(())),
    ),
    min_size=8,
    max_size=40,
)


class Run:
    """A state, and snapshots of it that are held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.state = State(folder / "state")
        self._held = ExitStack()
        self._readers: list[KvReader] = []

    def put(self, key: str, session: str, value: tuple[str, str], ttl: int | None) -> None:
        text, content_type = value
        self.state.put(
            key.encode(), text.encode(), session=session, content_type=content_type, ttl=ttl
        )
        self._look()

    def delete(self, key: str, session: str) -> None:
        self.state.delete(key.encode(), session=session)

        self._look()

    def expire(self) -> None:
        self.state.now += 10
        due = self.state.read(lambda reader: reader.due(self.state.now, 100))
        self.state.apply(Expire(tuple(due), self.state.now))
        self._look()

    def _look(self) -> None:
        """Hold a snapshot."""
        if len(self._readers) < 10:
            self._readers.append(self._held.enter_context(self.state.reader()))

    def search(self, place: int, session: str, words: list[str], mode: str, prefix: str) -> None:
        request = SearchSession(
            "n", session, " ".join(words), mode, prefix.encode(), 100, values=True, snippets=True
        )
        with self._reader(place) as reader:
            # An index that hears too little would be waited for.
            end = CLOCK.monotonic() + PATIENCE_SECONDS
            reader.stop = lambda: CLOCK.monotonic() > end
            page = request.run(reader).found
            records = reader.scan("n", session, prefix.encode(), None, 1000, 1 << 20, True).records
            # A reader without indexes makes one for itself.
            fresh = request.run(KvReader(reader._snapshot)).found
        assert not page.more
        together = any if mode == "any" else all
        expected = {
            record.key: record
            for record in records
            if together(word in words_of(record) for word in words)
        }
        assert {hit.record.key: hit.record for hit in page.hits} == expected
        assert page == fresh
        assert [hit[1:] for hit in page.hits] == [hit[1:] for hit in fresh.hits]

    def hurry(self, place: int, session: str, looks: int) -> None:
        """A search whose caller goes after so many looks at whether it is still there."""
        seen = count()
        with self._reader(place) as reader, suppress(QueryCancelled):
            reader.stop = lambda: next(seen) >= looks
            SearchSession("n", session, "ant").run(reader)

    @contextmanager
    def _reader(self, place: int) -> Iterator[KvReader]:
        """One that is held, or a new one."""
        if place < len(self._readers):
            yield self._readers[place]
        else:
            with self.state.reader() as reader:
                yield reader

    def reopen(self) -> None:
        self._let_go()
        self.state.reopen()

    def replace(self) -> None:
        """By another one, whose next entries have the numbers of entries that held readers saw."""
        other = State(self._folder / "other")
        for number in range(3):
            other.put(b"k/%d" % number, b"dog dog")
        copy = self._folder / "copy"
        with open(copy, "wb") as file:
            index, term = other.machine.copy_to(file.fileno())
        other.machine.close()
        self.state.machine.replace(copy, index, term)
        self._look()

    def _let_go(self) -> None:
        self._readers.clear()
        self._held.close()

    def close(self) -> None:
        self._let_go()
        self.state.machine.close()


def words_of(record: Any) -> set[str]:
    """What is searched of a record, naively."""
    words = set(record.key.decode().replace("/", " ").replace(".", " ").split())
    if record.content_type != "application/octet-stream":
        text = record.value.decode()
        if record.content_type == "application/json":
            text = text.partition("[")[2].rstrip("]}").replace('"', " ").replace(",", " ")
        words |= set(text.split())
    return words


@given(
    steps=STEPS,
    remembered=st.sampled_from([0, 2, 100]),
    missed=st.sampled_from([0, 100_000]),
    sessions=st.sampled_from([1, 16]),
    listened=st.booleans(),
)
@settings(deadline=None)
def test_a_search_finds_what_its_snapshot_holds(
    steps: list[tuple[str, Any]], remembered: int, missed: int, sessions: int, listened: bool
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(text_index, "_BATCH", 1),
        patch.object(text_changes, "REMEMBERED_MAX", remembered),
        patch.object(session_search, "_MISSED_MAX", missed),
        patch.object(session_indexes, "SESSIONS_MAX", sessions),
    ):
        run = Run(Path(folder))
        try:
            for step, details in steps:
                if not listened:
                    run.state.machine.on_changes = None
                getattr(run, step)(*details)
            for place in range(11):
                run.search(place, "s", ["bee", "k"], "any", "")
        finally:
            run.close()
