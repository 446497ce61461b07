"""A store on a disk that gets full: an error that says so, never a signal, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.check import check
from tests.fault.disks import MIB, fill, free, loop_mounts_work, mounted
from tests.unit.engine_state import State

DISK_BYTES = 48 * MIB
# Tells of every put that is applied; ends where the store fails, in whatever way it does.
WRITER = """
import sys
from pathlib import Path
from engines.errors import StoreFailed
from tests.unit.engine_state import State
state = State(Path(sys.argv[1]))
try:
    for number in range(100_000):
        state.put(b"%d" % number, b"x" * 5000)
        print(number, flush=True)
except StoreFailed as error:
    print(error)
    sys.exit(7)
"""


# One apply that needs more than what is had beyond each: a large value, and many small ones.
ONE_APPLY = """
import sys
from pathlib import Path
from engines.command import Put
from engines.errors import StoreFailed
from tests.unit.engine_state import State
state = State(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    state.put(b"before %d" % number, b"x" * 5000)
print("ready", flush=True)
input()
def put(key, value):
    return Put("n", "s", key, value, "x", 1)
large = [put(b"large", b"x" * 7_000_000)]
many = [put(b"%d" % number, b"x" * 60) for number in range(16_000)]
try:
    state.apply(*(large if sys.argv[3] == "large" else many))
except StoreFailed as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(not loop_mounts_work(), reason="needs root: loop mounts")
@pytest.mark.parametrize("before", [0, 100, 250, 400])
@pytest.mark.parametrize("kind", ["large", "many"])
def test_one_large_apply_on_a_full_disk_is_no_signal(
    tmp_path: Path, kind: str, before: int
) -> None:
    disk = tmp_path / "disk"
    with mounted(tmp_path / "disk.img", disk, DISK_BYTES):
        command = [sys.executable, "-c", ONE_APPLY, str(disk / "live"), str(before), kind]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "."},
            text=True,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            fill(disk)
            said, _ = writer.communicate("\n", 60)
        assert (writer.returncode, "No space left on device" in said) == (7, True), said
        free(disk)
        state = State(disk / "live")
        assert state.machine.applied_index == before
        state.machine.close()


@pytest.mark.skipif(not loop_mounts_work(), reason="needs root: loop mounts")
@pytest.mark.parametrize("left", [0, 6 * MIB])
def test_a_full_disk_is_an_error_and_no_signal(tmp_path: Path, left: int) -> None:
    """`left`: bytes of the disk that the writer has from some time on."""
    disk = tmp_path / "disk"
    with mounted(tmp_path / "disk.img", disk, DISK_BYTES):
        command = [sys.executable, "-c", WRITER, str(disk / "live")]
        environment = {**os.environ, "PYTHONPATH": "."}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=environment, text=True
        ) as writer:
            assert writer.stdout is not None
            said: list[str] = []
            for line in writer.stdout:
                said.append(line.strip())
                if len(said) == 300:
                    fill(disk, left)
            assert writer.wait(60) == 7, said[-1]
        assert "No space left on device" in said.pop()
        assert len(said) > 300
        free(disk)
        state = State(disk / "live")
        applied = state.machine.applied_index
        assert applied in (len(said), len(said) + 1)  # the last one, untold
        for number in range(applied):
            assert state.value(b"%d" % number) == b"x" * 5000
        with state.store.read() as snapshot:
            assert check(snapshot) == []
        state.put(b"more", b"y")
        state.machine.close()
