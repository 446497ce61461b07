"""Steps of a check that run at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import bootstrap

WAIT_SECONDS = 30.0

# Makes its own file, waits for the other's, and ends with a code of its own.
MEET = """
import sys, time
mine, other, code = sys.argv[1:]
open(mine, "w").close()
deadline = time.monotonic() + 30
while True:
    try:
        open(other).close()
    except FileNotFoundError:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    else:
        break
print("met", other)
sys.exit(int(code))
"""
# Notes that it runs, and that it was interrupted.
LONG = """
import pathlib, sys, time
noted = pathlib.Path(sys.argv[1])
try:
    noted.write_text("runs")
    time.sleep(60)
except KeyboardInterrupt:
    noted.write_text("interrupted")
"""
OWNER = """
import signal, sys
from scripts import bootstrap
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.default_int_handler)
steps = [(name, [sys.executable, "-c", sys.argv[1], name]) for name in sys.argv[2:]]
bootstrap.run_beside(steps)
"""


def test_steps_run_at_the_same_time_and_each_has_its_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    steps = [
        ("first", [sys.executable, "-c", MEET, one, two, "0"]),
        ("second", [sys.executable, "-c", MEET, two, one, "3"]),
    ]
    assert bootstrap.run_beside(steps) == [True, False]
    shown = capfd.readouterr().out
    assert shown.index(f"met {two}") < shown.index("== second") < shown.index(f"met {one}")
    assert "!! second failed" in shown
    assert "!! first" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_steps_are_interrupted_with_their_owner(tmp_path: Path, number: int) -> None:
    notes = [tmp_path / "one", tmp_path / "two"]
    command = [sys.executable, "-c", OWNER, LONG, *map(str, notes)]
    with subprocess.Popen(command, cwd=bootstrap.ROOT, stderr=subprocess.DEVNULL) as owner:
        deadline = time.monotonic() + WAIT_SECONDS
        while not all(note.exists() and note.read_text() == "runs" for note in notes):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner.send_signal(number)
        owner.wait(WAIT_SECONDS)
    assert [note.read_text() for note in notes] == ["interrupted", "interrupted"]
