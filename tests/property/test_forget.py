"""Forgetting while others write: whatever was written after the listing stays, to the byte."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.command import Command, Delete, Put
from engines.interfaces import ChangeKind, Limits
from engines.read_requests import ReadRequest, Shown
from node import forget
from node.clock import SystemClock
from node.forget import Forget, Forgetting, Forgotten
from tests.unit.engine_state import State

KEYS = [b"a%d" % number for number in range(6)] + [b"a" * 700, b"b0", b"b1"]
LIMITS = Limits(txn_ops_max=3)
PAGE_KEYS = 4

PUTS = st.builds(
    Put, st.just("n"), st.sampled_from(["s", "s", "t"]), st.sampled_from(KEYS),
    st.binary(max_size=3), st.just("x"), st.just(1000), st.none(), st.none(), st.none(),
)  # fmt: skip
DELETES = st.builds(Delete, st.just("n"), st.just("s"), st.sampled_from(KEYS), st.just(1000))
# A key that is deleted and made anew has its old version again.
ANEW = st.sampled_from(KEYS).map(
    lambda key: [Delete("n", "s", key, 1000), Put("n", "s", key, b"anew", "x", 1000)]
)
WRITES = st.one_of((PUTS | DELETES).map(lambda command: [command]), ANEW, st.just([]))


class Busy:
    """A router to one state, where others write before each step."""

    def __init__(self, state: State, others: Iterator[list[Command]]) -> None:
        self.state = state
        self.others = others
        self.held: dict[tuple[str, bytes], tuple[bytes | None, int]] = {}  # value, revision
        self.their_deletions = 0
        self.listed_at: int | None = None  # the revision that the first listing showed

    def write(self, commands: Sequence[Command]) -> None:
        for command in commands:
            assert isinstance(command, Put | Delete)
            before = len(self.state.heard)
            self.state.apply(command)
            if len(self.state.heard) > before:
                value = command.value if isinstance(command, Put) else None
                place = command.session, command.key
                self.held[place] = value, self.state.machine.revision
                self.their_deletions += value is None

    async def read(self, request: ReadRequest[Any], options: Any, deadline: float) -> Shown[Any]:
        self.write(next(self.others, []))
        shown: Shown[Any] = self.state.read(request.run)
        if self.listed_at is None:
            self.listed_at = shown.revision
        return shown

    async def propose_many(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        results = []
        for command in commands:
            self.write(next(self.others, []))
            results += self.state.apply(command)
        return results


@contextmanager
def busy(before: list[list[Command]], meanwhile: list[list[Command]]) -> Iterator[Busy]:
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder) / "state", LIMITS)
        try:
            router = Busy(state, iter(meanwhile))
            for commands in before:
                router.write(commands)
            yield router
        finally:
            state.machine.close()


def run(router: Busy, request: Forget) -> Forgotten:
    clock = SystemClock()
    walk = Forgetting(router, request, LIMITS, clock, clock.monotonic() + 60)
    return asyncio.run(walk.run())


def check_held(router: Busy, request: Forget, done: Forgotten) -> None:
    assert done.revision == router.listed_at, "all pages have the bound of the first"
    newer = 0
    for (session, key), (value, revision) in router.held.items():
        record = router.state.get(key, session=session)
        found = None if record is None else record.value
        if session != "s" or not key.startswith(request.prefix) or revision > done.revision:
            assert found == value, (session, key, "is not what was written last")
            newer += session == "s" and revision > done.revision
        elif done.more:
            assert found in (value, None)
        else:
            assert found is None, (key, "was there before and is not gone")
    assert done.kept <= newer
    assert done.deleted <= request.limit


@settings(deadline=None)
@given(
    st.lists(PUTS.map(lambda command: [command]) | WRITES, max_size=25),
    st.lists(WRITES, max_size=30),
    st.sampled_from([b"", b"a", b"b", b"c"]),
    st.integers(1, 9),
)
def test_what_is_written_after_the_listing_is_never_deleted(
    before: list[list[Command]], meanwhile: list[list[Command]], prefix: bytes, limit: int
) -> None:
    with busy(before, meanwhile) as router, pytest.MonkeyPatch.context() as patch:
        patch.setattr(forget, "PAGE_KEYS_MAX", PAGE_KEYS)
        request = Forget("n", "s", prefix, limit)
        done = run(router, request)
        check_held(router, request, done)
        heard = [change for change in router.state.heard if change.kind == ChangeKind.DELETE]
        assert done.deleted == len(heard) - router.their_deletions
        rounds = 0
        while done.more:
            assert done.deleted, "who is told that there is more must get on"
            # As a client goes on: what is written between two requests stays as well.
            router.write([Put("n", "s", b"a0", b"later", "x", 1000)])
            request = request._replace(max_revision=done.revision)
            after = run(router, request)
            assert after.revision == done.revision
            check_held(router, request, after)
            done = after
            rounds += 1
            assert rounds <= len(KEYS)
