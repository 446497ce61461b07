"""Collections in the state: the catalog, what engines write, and what of it is kept."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_requests import (
    ExplainQuery,
    ListCollections,
    QueryAnswer,
    QueryCollection,
)
from engines.command import CollectionCommand, Sweep, encode
from engines.errors import InvalidArgument, QueryCancelled, UnknownCommand
from engines.interfaces import CollectionResult, RejectCode, Rejected, SweepResult
from engines.read_codec import decode_answer, decode_read, encode_answer, encode_read
from engines.registry import BUILT_IN, EngineNotUsable, Registry, load_registry
from tests.example_engine.hivemem_tally import TALLY
from tests.unit.engine_state import State

EXAMPLE = Path(__file__).parent.parent / "example_engine"
CREATE = {"engine": "tally", "settings": {"maximum": 100}}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state", registry=Registry((*BUILT_IN, TALLY)))
    yield state
    state.machine.close()


def problems(state: State) -> list[str]:
    with state.store.read() as snapshot:
        return check(snapshot, state.registry)


def answer(result: Any) -> Any:
    assert isinstance(result, CollectionResult), result
    return unpack_value(result.answer)


def test_a_collection_is_made_written_and_read(state: State) -> None:
    made = answer(state.collection("collection_create", "c", CREATE))
    assert made == {"created": True, "engine": "tally", "settings": {"maximum": 100}}
    assert answer(state.collection("tally_add", "c", ["a", 5])) == {"total": 5}
    assert answer(state.collection("tally_add", "c", ["a", 6])) == {"total": 11}
    assert state.query("c", "tally_get", name="a") == {"total": 11}
    assert state.query("c", "tally_get", name="b") == {"total": None}
    state.reopen()
    assert state.query("c", "tally_get", name="a") == {"total": 11}
    assert problems(state) == []


def test_keys_and_collections_do_not_meet(state: State) -> None:
    state.collection("collection_create", "s", CREATE)
    state.put(b"a", b"a key")
    state.collection("tally_add", "s", ["a", 5])
    assert state.value(b"a") == b"a key"
    assert state.machine.revision == 1  # revisions are those of keys
    assert [change.key for change in state.heard] == [b"a"]


def test_a_refusal_leaves_nothing_of_what_was_written_before_it(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    state.collection("tally_add", "c", ["a", 90])
    before = state.digest()
    refused = state.collection("tally_add", "c", ["a", 11])
    assert refused == Rejected(RejectCode.INVALID_ARGUMENT, "101 is not 0 to 100", None, "amount")
    assert state.query("c", "tally_list") == {"items": [{"name": "a", "total": 90}]}
    state.collection("tally_add", "c", ["a", 0])
    assert state.digest() != before  # the applied index
    assert problems(state) == []


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("tally_add", ["a", 1], RejectCode.COLLECTION_NOT_FOUND),
        ("collection_alter", {"settings": {}}, RejectCode.COLLECTION_NOT_FOUND),
        ("collection_create", {"engine": "tally"}, RejectCode.INVALID_ARGUMENT),
        (
            "collection_create",
            {"engine": "tally", "settings": {"minimum": 1}},
            RejectCode.INVALID_ARGUMENT,
        ),
    ],
)
def test_what_is_refused(state: State, operation: str, body: Any, code: RejectCode) -> None:
    result = state.collection(operation, "c", body)
    assert isinstance(result, Rejected)
    assert result.code is code
    assert not state.read(lambda reader: reader.collections.list("n", None, 10))


def test_settings_are_bounded(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored anew with every write."""
    monkeypatch.setattr("engines.collection_writes.SETTINGS_BYTES_MAX", 8)
    refused = state.collection("collection_create", "c", CREATE)
    assert (refused.code, refused.field) == (RejectCode.INVALID_ARGUMENT, "settings")


def test_a_name_is_taken_once_in_a_namespace(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    again = state.collection("collection_create", "c", CREATE)
    assert again.code is RejectCode.COLLECTION_EXISTS
    assert answer(state.collection("collection_create", "c", CREATE, namespace="m"))["created"]


def test_an_operation_of_another_kind_is_refused(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    for operation in ("tally_get", "vector_nothing"):
        result = state.collection(operation, "c", ["a", 1])
        assert (result.code, result.field) == (RejectCode.INVALID_ARGUMENT, "operation")
    with pytest.raises(InvalidArgument, match="operation: tally_add is no read"):
        state.query("c", "tally_add")


def test_an_engine_that_this_build_lacks_stops_the_node(state: State) -> None:
    with pytest.raises(UnknownCommand, match="'other'"):
        state.collection("collection_create", "c", {"engine": "other", "settings": {}})


def test_a_repeated_request_is_answered_as_the_first_time(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    first = state.collection("tally_add", "c", ["a", 5], request_id="r")
    state.collection("tally_add", "c", ["a", 5])
    state.now += 1
    assert state.collection("tally_add", "c", ["a", 5], request_id="r", seed=9) == first
    reused = state.collection("tally_add", "c", ["a", 6], request_id="r")
    assert reused.code is RejectCode.REQUEST_ID_REUSED
    assert state.query("c", "tally_get", name="a") == {"total": 10}
    refused = state.collection("tally_add", "c", ["a", 1000], request_id="s")
    state.collection("collection_alter", "c", {"settings": {"maximum": 5000}})
    # It would fit now, and what was answered stays true.
    assert state.collection("tally_add", "c", ["a", 1000], request_id="s") == refused


def test_settings_change_if_the_engine_lets_them(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    state.collection("tally_add", "c", ["a", 50])
    refused = state.collection("collection_alter", "c", {"settings": {"maximum": 40}})
    assert isinstance(refused, Rejected)
    wanted = {"settings": {"maximum": 60}}
    assert answer(state.collection("collection_alter", "c", wanted)) == {"altered": True, **wanted}
    assert answer(state.collection("collection_alter", "c", wanted))["altered"] is False
    assert state.collection("tally_add", "c", ["a", 11]).field == "amount"


def test_a_dropped_collection_is_gone_and_its_items_go_step_by_step(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    for number in range(25):
        state.collection("tally_add", "c", [f"t{number:02}", 1])
    assert answer(state.collection("collection_drop", "c", {})) == {"dropped": True}
    assert answer(state.collection("collection_drop", "c", {})) == {"dropped": False}
    with pytest.raises(InvalidArgument, match="there is no collection c"):
        state.query("c", "tally_list")
    assert problems(state) == []
    # Its name is free at once, and what is left of the old one is not seen.
    state.collection("collection_create", "c", CREATE)
    assert state.query("c", "tally_list") == {"items": []}
    state.collection("tally_add", "c", ["new", 1])
    removed = []
    while state.read(lambda reader: reader.collections.dropped()):
        (result,) = state.apply(Sweep(10))
        assert isinstance(result, SweepResult)
        removed.append(result.removed)
        assert problems(state) == []
    assert sum(removed) == 25
    assert max(removed) == 10
    assert state.query("c", "tally_list") == {"items": [{"name": "new", "total": 1}]}
    with state.store.read() as snapshot:
        assert snapshot.txn.stat(snapshot.databases.items)["entries"] == 1


def test_how_commands_are_batched_shows_nowhere(tmp_path: Path) -> None:
    registry = Registry((TALLY,))
    commands: list[tuple[str, Any]] = [("collection_create", CREATE)]
    commands += [("tally_add", [f"t{number % 7}", number]) for number in range(20)]
    commands += [("collection_alter", {"settings": {"maximum": 5}})]
    digests = []
    for size in (1, 22):
        state = State(tmp_path / str(size), registry=registry)
        entries = [
            SimpleNamespace(index=1 + place, term=1, commands=[packed(operation, body)])
            for place, (operation, body) in enumerate(commands)
        ]
        for start in range(0, len(entries), size):
            state.machine.apply(entries[start : start + size])
        digests.append(state.digest())
        state.machine.close()
    assert digests[0] == digests[1]


def packed(operation: str, body: Any) -> bytes:
    return encode(CollectionCommand("n", "c", operation, pack_value(body), 5, 1))


def test_ranges_go_both_ways_and_see_what_the_command_wrote(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    for name in ("b", "a", "c"):
        state.collection("tally_add", "c", [name, 1])
    names = [each["name"] for each in state.query("c", "tally_list")["items"]]
    backwards = [each["name"] for each in state.query("c", "tally_list", reverse=True)["items"]]
    assert (names, backwards) == (["a", "b", "c"], ["c", "b", "a"])


def test_a_query_that_nobody_waits_for_ends(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    for number in range(100):
        state.collection("tally_add", "c", [f"t{number}", 1])
    with state.reader() as reader:
        reader.stop = lambda: True
        with pytest.raises(QueryCancelled):
            reader.collections.query("n", "c", "tally_list", {})


def test_reads_of_collections_travel(state: State) -> None:
    state.collection("collection_create", "c", CREATE)
    state.collection("tally_add", "c", ["a", 5])
    requests: list[Any] = [
        ListCollections("n", None, 10),
        QueryCollection("n", "c", "tally_list", b"\x80"),
        QueryCollection("n", "c", "tally_list", pack_value({"reverse": True}), {"reverse": True}),
        ExplainQuery("n", "c", "tally_list", b"\x80"),
    ]
    for request in requests:
        arrived = decode_read(encode_read(request))
        assert arrived == request
        assert getattr(arrived, "given", None) is None
        shown = state.read(request.run)
        found = shown.found
        if isinstance(found, QueryAnswer):
            # The value at hand is for this node alone.
            assert found.value is None or pack_value(found.value) == found.answer
            shown = shown._replace(found=found._replace(value=None))
        assert decode_answer(request, encode_answer(request, shown)) == shown
        assert state.read(arrived.run).found[0] == found[0]


def test_an_engine_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    load_registry.cache_clear()
    try:
        registry = load_registry()
        assert registry.named("counter") is registry.engines["tally"]
        assert set(registry.engines) == {"tally", *(engine.name for engine in BUILT_IN)}
    finally:
        load_registry.cache_clear()
        importlib.invalidate_caches()


def test_engines_that_claim_one_name_are_refused() -> None:
    with pytest.raises(EngineNotUsable, match="tally"):
        Registry((TALLY, TALLY))
