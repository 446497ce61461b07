"""What engines are described to take and answer is what they do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engines.codec import pack_value, unpack_value
from engines.command import CollectionCommand
from engines.engine import Engine, Kind
from engines.errors import InvalidArgument
from engines.interfaces import CollectionResult
from engines.registry import BUILT_IN
from engines.schema import Described, Schema
from engines.schemas import SCHEMAS
from tests.engine_samples import SAMPLES, Sample
from tests.unit.engine_state import State

ENGINES: dict[str, Engine] = {engine.name: engine for engine in BUILT_IN}
OPERATIONS = [
    (engine, operation) for engine in sorted(ENGINES) for operation in SCHEMAS[engine].operations
]


def check(schema: Schema, value: Any) -> None:
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(value)


def state_of(engine: str, settings: Mapping[str, Any], path: Path) -> State:
    state = State(path)
    body = pack_value({"engine": engine, "settings": dict(settings)})
    run(state, CollectionCommand("n", "c", "collection_create", body, 1_000, 0))
    return state


def run(state: State, command: CollectionCommand) -> Any:
    (result,) = state.apply(command)
    assert isinstance(result, CollectionResult), result
    return result


def do(state: State, engine: str, operation: str, parameters: Mapping[str, Any], seed: int) -> Any:
    own = ENGINES[engine]
    if own.operations[operation] is not Kind.WRITE:
        return state.query("c", operation, **parameters)
    body = pack_value(own.prepare(operation, dict(parameters)))
    result = run(state, CollectionCommand("n", "c", operation, body, 1_000 + seed, seed))
    return unpack_value(result.answer)


def known_names(refused: InvalidArgument) -> set[str]:
    """Those that a refusal of an unknown name lists."""
    listed = str(refused).rpartition("known: ")[2]
    return set() if listed == "none" else set(listed.split(", "))


def test_every_operation_is_described_and_no_other() -> None:
    assert SCHEMAS.keys() == ENGINES.keys()
    for name, engine in ENGINES.items():
        assert SCHEMAS[name].operations.keys() == engine.operations.keys()


@pytest.mark.parametrize(("engine", "operation"), OPERATIONS)
def test_names_of_parameters_are_those_that_are_known(
    engine: str, operation: str, tmp_path: Path
) -> None:
    described = SCHEMAS[engine].operations[operation]
    state = state_of(engine, SCHEMAS[engine].example, tmp_path / "state")
    with pytest.raises(InvalidArgument) as refused:
        do(state, engine, operation, {**described.example, "colour": 1}, 1)
    assert refused.value.field == "parameters.colour"
    shapes = described.parameters.get("anyOf", [described.parameters])
    assert known_names(refused.value) in [{*shape["properties"]} for shape in shapes]
    assert not Draft202012Validator(described.parameters).is_valid({"colour": 1})
    state.machine.close()


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_settings_are_as_described(engine: str) -> None:
    described: Described = SCHEMAS[engine]
    check(described.settings, described.example)
    complete = ENGINES[engine].settings(described.example, None)
    check(described.settings, complete)
    names = set(complete)
    assert described.settings["properties"].keys() == names


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_examples_do_and_answer_as_described(engine: str, tmp_path: Path) -> None:
    described = SCHEMAS[engine]
    state = state_of(engine, described.example, tmp_path / "state")
    for seed, (name, operation) in enumerate(described.operations.items(), 1):
        check(operation.parameters, operation.example)
        answer = do(state, engine, name, operation.example, seed)
        check(operation.answer, answer)
        assert answer
    state.machine.close()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.engine)
def test_samples_are_as_described(sample: Sample, tmp_path: Path) -> None:
    described = SCHEMAS[sample.engine]
    check(described.settings, sample.settings)
    state = state_of(sample.engine, sample.settings, tmp_path / "state")
    listing = [(sample.listing[0], {"limit": 3})] if sample.listing else []
    operations = [*sample.setup, sample.write(1), sample.write(2), sample.read(1), *listing]
    for seed, (name, parameters) in enumerate([*operations, sample.broad], 1):
        check(described.operations[name].parameters, parameters)
        check(described.operations[name].answer, do(state, sample.engine, name, parameters, seed))
    state.machine.close()
