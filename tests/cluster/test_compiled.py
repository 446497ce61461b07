"""What scripts/compile makes of the source answers as the source does: its tests pass on it."""

from __future__ import annotations

import faulthandler
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node.machine_code import PACKAGES, outdated
from scripts import compiled

ROOT = Path(__file__).parents[2]
# Of what is compiled: the Redis door, the state machine, a group under simulated faults, daemons.
TESTS = (
    "tests/unit/test_resp_commands.py",
    "tests/unit/test_resp_partitions.py",
    "tests/unit/test_resp_reader.py",
    "tests/unit/test_resp_wire.py",
    "tests/unit/test_engines_overlay.py",
    "tests/unit/test_engines_state.py",
    "tests/property/test_kv_keys.py",
    "tests/property/test_kv_model.py",
    "tests/property/test_poison_commands.py",
    "tests/simulation/test_fuzz.py",
    "tests/cluster/test_redis.py",
    "tests/cluster/test_durability.py",
)
# It replaces a function of a class, which machine code calls without looking it up.
LEFT_OUT = "tests/unit/test_resp_wire.py::test_a_reply_that_fails_harms_nobody_else"
WHERE = "import importlib, sys; [print(importlib.import_module(n).__file__) for n in sys.argv[1:]]"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this one with its modules compiled."""
    lack = compiled.missing()
    if lack is not None:
        pytest.skip(f"no {lack}")
    faulthandler.cancel_dump_traceback_later()  # this takes minutes, and the tests after it
    copy = tmp_path_factory.mktemp("compiled") / "hivemem"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.so", "__pycache__", "hivemem-data")
    )
    compiled.build(copy, Path(sys.executable), copy)
    return copy


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "HYPOTHESIS_PROFILE": "fast"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.timeout(900)
def test_compiled_modules_pass_their_tests(checkout: Path) -> None:
    faulthandler.cancel_dump_traceback_later()
    names = [path.removesuffix(".py").replace("/", ".") for path in compiled.MODULES]
    places = run(checkout, "-c", WHERE, *names).stdout.splitlines()
    assert len(places) == len(names)
    assert all(place.startswith(str(checkout)) and place.endswith(".so") for place in places)
    done = run(
        checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", LEFT_OUT, *TESTS
    )
    assert done.returncode == 0, done.stdout


def test_what_was_built_of_another_source_is_noticed(tmp_path: Path) -> None:
    root, environment = tmp_path / "root", tmp_path / "environment"
    packages = environment / "lib" / "python3" / "site-packages"
    for folder in (*(root / package for package in PACKAGES), root / "scripts", packages):
        folder.mkdir(parents=True)
    inputs = [root / pin for pin in compiled.PINS]
    inputs += [root / "node" / "driver.py", environment / "pyvenv.cfg"]
    for path in inputs:
        path.write_text("1")
    assert not compiled.stale(root, environment)
    assert not compiled.remove(root, environment)
    made = [root / path.replace(".py", ".x.so") for path in compiled.MODULES]
    made.append(packages / f"{compiled.LIBRARY}.x.so")
    for path in made:
        path.touch()
    assert compiled.stale(root, environment), "it was not built to its end"
    (environment / compiled.STAMP).write_text(compiled.fingerprint(root, environment))
    assert not compiled.stale(root, environment)
    for path in inputs:
        path.write_text("2")
        assert compiled.stale(root, environment), path
        path.write_text("1")
    for path in (made[0], made[-1]):
        path.unlink()
        assert compiled.stale(root, environment), "it is not whole"
        path.touch()
    assert compiled.remove(root, environment)
    assert not any(path.exists() for path in made)
    assert all(path.read_text() == "1" for path in inputs)


def test_a_daemon_does_not_run_what_is_older_than_its_source(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    source, code = tmp_path / "engines" / "kv.py", tmp_path / "node" / "driver.x.so"
    source.touch()
    os.utime(source, (2, 2))
    assert outdated(tmp_path) is None
    code.touch()
    assert outdated(tmp_path) is None
    os.utime(code, (1, 1))
    assert outdated(tmp_path) == source
