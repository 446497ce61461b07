"""Eventual reads through MCP see what the server wrote, whatever replicas answer."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcp_collections
from mcp_collections import Collections, Wanted
from mcp_results import cut, size
from node.client import HivememClient
from node.clock import SystemClock
from node.errors import HivememError, NotFound, Unavailable

CLOCK = SystemClock()
MISSING = NotFound("no such collection", code="COLLECTION_NOT_FOUND")


class Replicas:
    """A cluster that answers what it is told to: an index of the log, or an error."""

    def __init__(self) -> None:
        self.answers: list[int | HivememError] = []
        self.asked: list[str] = []

    async def query(self, *_: Any, writes: bool, consistency: str | None, **__: Any) -> Any:
        self.asked.append("write" if writes else str(consistency))
        answer = self.answers.pop(0)
        if isinstance(answer, HivememError):
            raise answer
        return {"log_index": answer, "result": {}}


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def collections(replicas: Replicas) -> Collections:
    return Collections(cast(HivememClient, replicas), CLOCK)


def wanted(level: Any = "eventual", *, writes: bool = False, name: str = "c") -> Wanted:
    return Wanted("n", name, "op", {}, writes, CLOCK.monotonic() + 5, consistency=level)


CASES: list[tuple[str, list[int | HivememError], list[str], int]] = [
    ("up to date", [10, 10], ["write", "eventual"], 10),
    ("newer", [10, 11], ["write", "eventual"], 11),
    ("older", [10, 9, 12], ["write", "eventual", "linearizable"], 12),
    ("not there yet", [10, MISSING, 10], ["write", "eventual", "linearizable"], 10),
]


@pytest.mark.parametrize(("_", "answers", "asked", "index"), CASES, ids=[c[0] for c in CASES])
async def test_an_older_state_is_not_shown(
    collections: Collections, replicas: Replicas, _: str, answers: Any, asked: Any, index: int
) -> None:
    replicas.answers = answers
    await collections.query(wanted(writes=True))
    answer = await collections.query(wanted())
    assert answer["log_index"] == index
    assert replicas.asked == asked


async def test_what_was_read_is_not_unseen(collections: Collections, replicas: Replicas) -> None:
    replicas.answers = [10, 9, 10]
    await collections.query(wanted())
    assert (await collections.query(wanted()))["log_index"] == 10
    assert replicas.asked == ["eventual", "eventual", "linearizable"]


async def test_a_change_of_the_collection_is_seen(
    collections: Collections, replicas: Replicas
) -> None:
    collections.changed("n", "c")
    replicas.answers = [99, 100, 101]
    assert (await collections.query(wanted()))["log_index"] == 100
    assert (await collections.query(wanted()))["log_index"] == 101
    assert replicas.asked == ["eventual", "linearizable", "eventual"]


async def test_a_collection_that_moved_goes_on_in_another_log(
    collections: Collections, replicas: Replicas
) -> None:
    replicas.answers = [1000, 3, 4, 5]
    await collections.query(wanted(writes=True))
    assert (await collections.query(wanted()))["log_index"] == 4
    assert (await collections.query(wanted()))["log_index"] == 5
    assert replicas.asked == ["write", "eventual", "linearizable", "eventual"]


async def test_errors_that_say_nothing_of_the_state_are_not_asked_again(
    collections: Collections, replicas: Replicas
) -> None:
    replicas.answers = [10, Unavailable("busy", code="OVERLOADED"), MISSING]
    await collections.query(wanted(writes=True))
    with pytest.raises(Unavailable):
        await collections.query(wanted())
    with pytest.raises(NotFound):
        await collections.query(wanted(name="unseen"))
    assert replicas.asked == ["write", "eventual", "eventual"]


async def test_who_looks_after_an_unknown_outcome_sees_what_became_of_it(
    collections: Collections, replicas: Replicas
) -> None:
    replicas.answers = [Unavailable("lost", definite=False), 10, 11]
    with pytest.raises(Unavailable):
        await collections.query(wanted(writes=True))
    assert (await collections.query(wanted()))["log_index"] == 11
    assert replicas.asked == ["write", "eventual", "linearizable"]


async def test_what_is_remembered_is_bounded(
    collections: Collections, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_collections, "SEEN_MAX", 2)
    replicas.answers = [10, 10, 10, 9, 9, 10]
    for name in ("a", "b", "c"):
        await collections.query(wanted(writes=True, name=name))
    await collections.query(wanted(name="a"))  # forgotten
    await collections.query(wanted(name="c"))
    assert replicas.asked[3:] == ["eventual", "eventual", "linearizable"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from("abcd"), JSON | st.lists(JSON, max_size=8)) | JSON,
    st.integers(2, 200),
)
def test_what_is_cut_fits_and_says_what_is_left_out(result: Any, bytes_max: int) -> None:
    shown, omitted = cut(result, bytes_max)
    assert size(shown) <= max(bytes_max, len("null"))
    if size(result) <= bytes_max:
        assert shown == result
    if shown is None:
        return
    if not omitted:
        assert shown == result
        return
    for name, item in result.items():
        left = omitted.get(name, 0)
        assert shown[name] == (item[: len(item) - left] if left else item)
