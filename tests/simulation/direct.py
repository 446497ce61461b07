"""Tests of the simulation called as functions, without a test runner: a hundredth of the time.

For tests that take `monkeypatch`, parameters, and small chunks. A name is file.function,
without their test_.
"""

from __future__ import annotations

import ast
import itertools
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.simulation.conftest import use_small_chunks

FOLDER = Path(__file__).parent
SECONDS_MAX = 100  # of one test; what is not over by then does not end


def names(*files: str) -> list[str]:
    """All scenarios of these files, as they stand there: tests that take `monkeypatch`."""
    return [
        f"{file}.{node.name.removeprefix('test_')}"
        for file in files
        for node in ast.parse((FOLDER / f"test_{file}.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and [argument.arg for argument in node.args.args][:1] == ["monkeypatch"]
    ]


def fails(name: str) -> bool:
    """Does the test fail now, as a test fails? What it raises otherwise is raised."""
    file, _, function = name.partition(".")
    test = getattr(import_module(f"tests.simulation.test_{file}"), f"test_{function}")
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "usefixtures"]
    return any(_fails(test, arguments, bool(marks)) for arguments in _parameters(test))


def _fails(test: Callable[..., None], arguments: dict[str, object], small: bool) -> bool:
    def give_up(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS_MAX)
    try:
        with pytest.MonkeyPatch.context() as patch:
            if small:
                use_small_chunks(patch)
            test(patch, **arguments)
    except (AssertionError, pytest.fail.Exception):
        return True
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return False


def _parameters(test: Callable[..., None]) -> Iterator[dict[str, object]]:
    """What a runner would call it with; `monkeypatch` is not among it."""
    choices = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            columns = [column.strip() for column in mark.args[0].split(",")]
            rows = [row if len(columns) > 1 else (row,) for row in mark.args[1]]
            choices.append([dict(zip(columns, row, strict=True)) for row in rows])
    for picked in itertools.product(*choices):
        yield {name: value for part in picked for name, value in part.items()}
