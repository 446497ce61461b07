"""How a run ends: nothing that it started is left, whatever ends it.

SIGTERM, SIGINT and SIGHUP become one KeyboardInterrupt, on whose way out the systems are
stopped; not in the middle of what has to be whole, and not twice. What a killed run leaves is
stopped by its guard: this module as a process in a session of its own, which is told of every
daemon and acts once its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.05
DOWN_SECONDS = 90.0
HIVEMEM = (sys.executable, "-m", "node.cli")


class Ending:
    """The signals of this process, and its guard. Use as a context manager, once."""

    def __init__(self) -> None:
        self._held = 0
        self._due = False
        self._ended = False
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Ending:
        self._guard = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for number in SIGNALS:
            signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        assert self._guard is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.communicate()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal waits until this is over."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._due and not self._held:
                self._due = False
                self._end()

    def started(self, pid: int) -> None:
        """A child of this process runs. Call `reaped` once it has been waited for."""
        self._tell({"started": pid})

    def reaped(self, pid: int) -> None:
        self._tell({"reaped": pid})

    def filled(self, folder: Path) -> None:
        """A hivemem cluster is about to be started there. Call `emptied` once it is down."""
        self._tell({"filled": str(folder)})

    def emptied(self, folder: Path) -> None:
        self._tell({"emptied": str(folder)})

    def _tell(self, what: dict[str, int | str]) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed: nothing else can be done
            self._guard.stdin.write(json.dumps(what) + "\n")
            self._guard.stdin.flush()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._due = True
        else:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            raise KeyboardInterrupt


def take_down(folder: Path) -> None:
    """Stop the hivemem cluster in a folder, if there is one."""
    if folder.is_dir():
        subprocess.run(
            [*HIVEMEM, "down", "--data-dir", str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DOWN_SECONDS,
            check=False,
            start_new_session=True,
        )


def guard() -> None:
    """Read what runs until the input ends, and stop what is left then."""
    pids: set[int] = set()
    folders: set[str] = set()
    for line in sys.stdin:
        for what, which in json.loads(line).items():
            left = pids if what in ("started", "reaped") else folders
            (left.add if what in ("started", "filled") else left.discard)(which)
    signal_all(pids, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    signal_all(pids, signal.SIGKILL)
    for folder in folders:
        take_down(Path(folder))


def signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def runs(pid: int) -> bool:
    """Not ended; one that nobody has waited for yet has ended, too."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    guard()
