"""No command may stop a replica, and no two replicas may make different things of one.

Odd parameters go the way that a caller's go: `prepare` refuses them or not, what it returns is
applied on two replicas in other batches, with restarts and reads between, and what is there
then is read with odd parameters, too. In the second test some of the log's bodies are changed
behind `prepare`, as a defect of a proposer would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.check import check
from engines.codec import check_value, pack_value, unpack_value
from engines.command import CollectionCommand, encode
from engines.engine import Engine
from engines.errors import InvalidArgument, QueryCancelled
from engines.interfaces import CollectionResult, Rejected
from engines.registry import BUILT_IN, Registry
from engines.validation import NOW_MS_MAX
from engines.vector import VectorEngine
from node.http_views import dump
from tests.property.odd_parameters import Odd, mutated, odd, with_cursor
from tests.property.odd_records import DOCUMENT, GRAPH, RELATIONAL
from tests.property.odd_searches import TEXT, TIMESERIES, VECTOR
from tests.unit.engine_state import State

# Of few vectors already a graph is made.
REGISTRY = Registry(VectorEngine(2) if each.name == "vector" else each for each in BUILT_IN)
ENGINES: dict[str, Engine] = REGISTRY.engines
ODD = (DOCUMENT, GRAPH, RELATIONAL, TEXT, TIMESERIES, VECTOR)
EACH = pytest.mark.parametrize("sample", ODD, ids=lambda sample: sample.engine)
RANDOM = st.randoms(use_true_random=False)
STEPS_MAX = 10
LIVES = 30  # of each engine, with fixed commands
EXAMPLES = max(1, settings().max_examples // 3)
TIMES = (0, 1_000, 1_500, 3_000, 10**12, NOW_MS_MAX)

Step = tuple[str, Any]  # an operation, and its body in the log


def test_every_operation_is_made_odd() -> None:
    for sample in ODD:
        engine = ENGINES[sample.engine]
        known = {name for name, _ in (*sample.setup, *sample.writes, *sample.reads)}
        assert known == set(engine.operations)
    assert {sample.engine for sample in ODD} == set(ENGINES)


@EACH
@given(random=RANDOM)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
def test_odd_parameters_are_refused_or_done(sample: Odd, random: Random) -> None:
    live(sample, random, prepared(sample, random))


@EACH
@given(random=RANDOM)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
def test_odd_bodies_in_the_log_are_refused_or_done(sample: Odd, random: Random) -> None:
    made, *steps = prepared(sample, random)
    live(sample, random, [made, *((name, damaged(name, body, random)) for name, body in steps)])


def damaged(name: str, body: Any, random: Random) -> Any:
    """As `prepare` made it, or not quite."""
    if random.randrange(2):
        return body
    changed = mutated(body, random, 3) if random.randrange(5) else odd(random)
    try:
        pack_value(changed)
    except (ValueError, OverflowError):
        return body  # No log can hold it.
    match name, changed:
        case "graph_execute", [int(version), *_] if version != body[0]:
            return body  # It says that another build made it, so every replica stops there.
    return changed


def prepared(sample: Odd, random: Random) -> list[Step]:
    """The writes of one life, the collection's making first."""
    engine = ENGINES[sample.engine]
    made = random.choice(sample.settings)
    if random.randrange(3) == 0 and accepted(engine, changed := mutated(made, random)):
        made = changed
    steps: list[Step] = [("collection_create", {"engine": engine.name, "settings": made})]
    steps += [(name, engine.prepare(name, given)) for name, given in sample.setup]
    for _ in range(random.randrange(2, STEPS_MAX)):
        if random.randrange(8) == 0:
            altered = mutated(random.choice(sample.settings), random)
            if storable(altered):
                steps.append(("collection_alter", {"settings": altered}))
            continue
        name, given = random.choice(sample.writes)
        if random.randrange(4):
            given = mutated(given, random, 3)
        if not storable(given):
            continue
        if random.randrange(4) == 0:
            given = with_cursor(engine.name, name, given, random)
        try:
            steps.append((name, engine.prepare(name, given)))
        except InvalidArgument:
            continue
    return steps


def test_replicas_need_not_agree_on_how_python_hashes() -> None:
    """Which it does otherwise in every process: no order may come from a set."""
    program = "from tests.property.test_poison_commands import print_lives; print_lives()"
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True,
            timeout=120, check=True,
        ).stdout
        for seed in (1, 2)
    ]  # fmt: skip
    assert found[0].count("\n") == LIVES * len(ODD)
    for one, other in zip(found[0].splitlines(), found[1].splitlines(), strict=True):
        assert one == other


def print_lives() -> None:
    """What becomes of fixed commands: results and digest, a line for each life."""
    for sample in ODD:
        for seed in range(LIVES):
            random = Random(seed)
            made, *steps = prepared(sample, random)
            steps = [(name, damaged(name, body, random)) for name, body in steps]
            log = [entry(place, step, random) for place, step in enumerate([made, *steps], 1)]
            with tempfile.TemporaryDirectory() as folder:
                state = State(Path(folder) / "one", registry=REGISTRY)
                results = state.machine.apply(log)
                print(sample.engine, seed, state.digest().hex(), results)
                state.machine.close()


def storable(given: Any) -> bool:
    """Does a door let it through?"""
    try:
        check_value(given, "parameters")
    except InvalidArgument:
        return False
    return True


def accepted(engine: Engine, given: Any) -> bool:
    try:
        check_value(given, "settings")
        engine.settings(given, None)
    except InvalidArgument:
        return False
    return True


def live(sample: Odd, random: Random, steps: list[Step]) -> None:
    """Both replicas hold the same, hold together, and answer."""
    log = [entry(place, step, random) for place, step in enumerate(steps, 1)]
    with tempfile.TemporaryDirectory() as folder:
        one, two = (State(Path(folder) / name, registry=REGISTRY) for name in ("one", "two"))
        found: list[Any] = []
        for each in log:
            ((result,),) = one.machine.apply([each])
            found.append(result)
            if random.randrange(4) == 0:
                ask(one, sample, random)
        again: list[Any] = []
        while len(again) < len(log):
            size = random.randrange(1, 6)
            burst = log[len(again) : len(again) + size]
            again += [result for (result,) in two.machine.apply(burst)]
            if random.randrange(3) == 0:
                ask(two, sample, random)
            if random.randrange(3) == 0:
                two.reopen()
        assert again == found
        for result in found:
            assert isinstance(result, CollectionResult | Rejected)
            if isinstance(result, CollectionResult):
                as_json(unpack_value(result.answer))
        for _ in range(4):
            ask(one, sample, random)
        assert one.digest() == two.digest()
        for state in (one, two):
            with state.store.read() as snapshot:
                assert check(snapshot, registry=REGISTRY) == []
            state.machine.close()


def entry(index: int, step: Step, random: Random) -> Any:
    name, body = step
    odd_time = index > 1 and random.randrange(4) == 0
    command = CollectionCommand(
        "n", "c", name, pack_value(body), random.choice(TIMES) if odd_time else 1_000 + index,
        random.choice((0, index, (1 << 63) - 1)),
        # Then its outcome is kept, and compared with the rest of the state.
        f"r{index}" if random.randrange(2) else None,
    )  # fmt: skip
    return SimpleNamespace(index=index, term=1, commands=[encode(command)])


def ask(state: State, sample: Odd, random: Random) -> None:
    """One read and what its cursors lead to."""
    name, given = random.choice(sample.reads)
    if random.randrange(4):
        given = mutated(given, random, 3)
    if random.randrange(4) == 0 and storable(given):
        given = with_cursor(sample.engine, name, given, random)
    for _ in range(3):
        if not storable(given):
            return
        try:
            answer = state.query("c", name, **given)
        except (InvalidArgument, QueryCancelled):
            return
        answer = as_json(unpack_value(pack_value(answer)))
        following = answer.get("next_cursor")
        if following is None:
            return
        given = {**given, "cursor": following}


def as_json(answer: Any) -> Any:
    """As a client reads it."""
    return json.loads(dump({"result": answer}), parse_constant=refuse)["result"]


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")
