"""What every engine owes: the same on every replica, whole or not at all, and bounded."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.check import check
from engines.codec import pack_value
from engines.collection_reader import Answer
from engines.command import CollectionCommand, encode
from engines.engine import Engine
from engines.errors import InvalidArgument, QueryCancelled
from engines.interfaces import CollectionResult, Rejected
from engines.registry import BUILT_IN
from tests.engine_samples import SAMPLES, Operation, Sample
from tests.unit.engine_state import State

ENGINES: dict[str, Engine] = {engine.name: engine for engine in BUILT_IN}
EACH = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
ITEMS = 100


def command(sample: Sample, operation: Operation, seed: int) -> CollectionCommand:
    name, parameters = operation
    body = ENGINES[sample.engine].prepare(name, parameters)
    return CollectionCommand("n", "c", name, pack_value(body), 1_000 + seed, seed)


def commands(sample: Sample, count: int) -> list[CollectionCommand]:
    created = pack_value({"engine": sample.engine, "settings": sample.settings})
    first = CollectionCommand("n", "c", "collection_create", created, 1_000, 0)
    writes = [*sample.setup, *(sample.write(number) for number in range(count))]
    return [first, *(command(sample, each, place) for place, each in enumerate(writes))]


def filled(sample: Sample, path: Path, count: int = ITEMS, size: int = 1) -> State:
    """`size`: entries applied together."""
    state = State(path)
    entries = [
        SimpleNamespace(index=place, term=1, commands=[encode(each)])
        for place, each in enumerate(commands(sample, count), 1)
    ]
    for start in range(0, len(entries), size):
        for (result,) in state.machine.apply(entries[start : start + size]):
            assert isinstance(result, CollectionResult), result
    return state


def answer(state: State, operation: Operation) -> Any:
    return state.query("c", operation[0], **operation[1])


def sound(state: State) -> list[str]:
    with state.store.read() as snapshot:
        return check(snapshot)


def test_every_engine_is_held_to_it() -> None:
    assert {sample.engine for sample in SAMPLES} == ENGINES.keys()


@EACH
def test_replicas_are_equal_however_entries_are_batched(sample: Sample, tmp_path: Path) -> None:
    states = [filled(sample, tmp_path / str(size), size=size) for size in (1, 7, ITEMS)]
    assert len({state.digest() for state in states}) == 1
    for state in states:
        for number in (0, ITEMS // 2, ITEMS - 1):
            assert sample.found(answer(state, sample.read(number)), number)
        assert sound(state) == []
        state.machine.close()


@EACH
def test_a_replay_changes_nothing(sample: Sample, tmp_path: Path) -> None:
    state = filled(sample, tmp_path / "state", 20)
    before = state.digest()
    state.reopen()
    entries = [
        SimpleNamespace(index=place, term=1, commands=[encode(each)])
        for place, each in enumerate(commands(sample, 20), 1)
    ]
    state.machine.apply(entries)
    assert state.digest() == before
    state.machine.close()


@EACH
def test_a_copy_is_equal_and_answers(sample: Sample, tmp_path: Path) -> None:
    state = filled(sample, tmp_path / "state")
    other = filled(sample, tmp_path / "other", 3)
    assert sample.found(answer(other, sample.read(1)), 1)
    copy = tmp_path / "copy"
    with open(copy, "wb") as file:
        index, term = state.machine.copy_to(file.fileno())
    other.machine.replace(copy, index, term, thorough=True)
    assert other.digest() == state.digest()
    assert sample.found(answer(other, sample.read(ITEMS - 1)), ITEMS - 1)
    for each in (state, other):
        each.machine.close()


@EACH
def test_what_is_refused_leaves_nothing(sample: Sample, tmp_path: Path) -> None:
    state, twin = (filled(sample, tmp_path / name, 5) for name in ("state", "twin"))
    for operation in sample.refused:
        refused = state.apply(command(sample, operation, 77))[0]
        assert isinstance(refused, Rejected), refused
        twin.apply(command(sample, sample.refused[0], 77))
    assert contents(state) == contents(filled(sample, tmp_path / "third", 5))
    assert state.digest() == twin.digest()
    assert sound(state) == []
    for each in (state, twin):
        each.machine.close()


def contents(state: State) -> list[tuple[bytes, bytes]]:
    with state.store.read() as snapshot:
        found = []
        for database in (snapshot.databases.collections, snapshot.databases.items):
            with snapshot.txn.cursor(db=database) as cursor:
                found += [(bytes(key), bytes(value)) for key, value in cursor]
    return found


@EACH
def test_a_query_ends_when_nobody_waits(sample: Sample, tmp_path: Path) -> None:
    state = filled(sample, tmp_path / "state", 300, size=100)
    answer(state, sample.broad) if sample.engine != "relational" else None
    with state.reader() as reader:
        reader.stop = lambda: True
        with pytest.raises(QueryCancelled):
            reader.collections.query("n", "c", *sample.broad)
    state.machine.close()


@EACH
def test_a_read_leaves_what_it_was_asked_as_it_is(sample: Sample, tmp_path: Path) -> None:
    state = filled(sample, tmp_path / "state")
    broad = [] if sample.engine == "relational" else [sample.broad]  # that one has no end
    listing = [] if sample.listing is None else [(sample.listing[0], {"limit": 3})]
    for operation, parameters in (sample.read(1), *broad, *listing):
        given = copy.deepcopy(parameters)
        first = answer(state, (operation, parameters))
        assert parameters == given
        assert answer(state, (operation, parameters)) == first
        if operation in getattr(ENGINES[sample.engine], "together", ()):
            packed = pack_value(parameters)
            with state.reader() as reader:
                many = [(packed, parameters)] * 2
                found = reader.collections.answer_together("n", "c", operation, many)
            assert parameters == given
            assert [each.value for each in found if isinstance(each, Answer)] == [first, first]
    state.machine.close()


@pytest.mark.parametrize(
    "sample", [each for each in SAMPLES if each.listing], ids=lambda sample: sample.engine
)
def test_a_listing_answers_everything_once_in_pages(sample: Sample, tmp_path: Path) -> None:
    state = filled(sample, tmp_path / "state", 50)
    assert sample.listing is not None
    operation, member = sample.listing
    whole = answer(state, (operation, {"limit": 1_000}))
    assert whole["next_cursor"] is None
    assert len(whole[member]) >= 50
    found: list[Any] = []
    cursor = None
    while True:
        page = answer(state, (operation, {"limit": 7, "cursor": cursor}))
        assert len(page[member]) <= 7
        found += page[member]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        last = cursor
    assert found == whole[member]
    for bad in (f"{'A' if last[0] != 'A' else 'B'}{last[1:]}", "x", 5):
        with pytest.raises(InvalidArgument) as refused:
            answer(state, (operation, {"limit": 7, "cursor": bad}))
        assert refused.value.code == "INVALID_CURSOR"
    # Items that come and go between pages do not shift the others.
    first = answer(state, (operation, {"limit": 7}))
    state.apply(command(sample, sample.write(60), 60))
    second = answer(state, (operation, {"limit": 1_000, "cursor": first["next_cursor"]}))
    kept = [each for each in second[member] if each in whole[member]]
    assert first[member] + kept == whole[member]
    state.machine.close()


@EACH
def test_unknown_settings_and_parameters_are_named(sample: Sample, tmp_path: Path) -> None:
    engine = ENGINES[sample.engine]
    with pytest.raises(InvalidArgument) as refused:
        engine.settings({**sample.settings, "colour": 1}, None)
    assert refused.value.field == "settings.colour"
    name, parameters = sample.write(1)
    with pytest.raises(InvalidArgument) as refused:
        engine.prepare(name, {**parameters, "colour": 1})
    assert refused.value.field == "parameters.colour"
    state = filled(sample, tmp_path / "state", 1)
    name, parameters = sample.read(1)
    with pytest.raises(InvalidArgument) as refused:
        state.query("c", name, **parameters, colour=1)
    assert refused.value.field == "parameters.colour"
    state.machine.close()


@EACH
def test_complete_settings_are_settings(sample: Sample) -> None:
    engine = ENGINES[sample.engine]
    settings = engine.settings(sample.settings, None)
    assert engine.settings(settings, None) == settings
    assert engine.settings({}, settings) == settings
