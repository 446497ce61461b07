"""What a newcomer runs first, on whatever Python is there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Pretends to be an old Python, as far as version_info can.
PRETEND = """
import sys
sys.path.insert(0, sys.argv[1])
sys.version_info = (3, 9, 2)
sys.argv = ["scripts/up", "--detach"]
import python_version
python_version.require()
print("went on")
"""


@pytest.mark.parametrize("name", ["up", "test", "check", "python_version.py"])
def test_an_old_python_can_read_what_tells_it_that_it_is_old(name: str) -> None:
    ast.parse((SCRIPTS / name).read_text(), feature_version=(3, 6))


def pretend(path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRETEND, str(SCRIPTS)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_old_python_without_a_newer_one_says_what_is_needed(tmp_path: Path) -> None:
    done = pretend(str(tmp_path))
    assert done.returncode == 1
    assert "hivemem needs Python 3.11 or newer; this is " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_old_python_hands_over_to_a_newer_one(tmp_path: Path) -> None:
    newer = tmp_path / "python3.12"
    newer.write_text('#!/bin/sh\necho "3.12 runs: $*"\n')
    newer.chmod(0o755)
    assert pretend(str(tmp_path)).stdout == "3.12 runs: scripts/up --detach\n"
