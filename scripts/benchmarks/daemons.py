"""Processes that a run starts, what they use, and how they are ended: by their pids."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scripts.benchmarks.ending import STOP_SECONDS, Ending
from scripts.benchmarks.generator import BenchmarkError

HOST = "127.0.0.1"
# Below the range from which the kernel draws ports of outgoing connections.
PORTS = range(20_000, 32_000)
READY_SECONDS = 60.0
POLL_SECONDS = 0.05
LOG_BYTES_SHOWN = 2000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """All daemons of a system together."""

    cpu_seconds: float
    resident_bytes: int
    disk_bytes: int


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_base(offsets: Sequence[int]) -> int:
    """A port from which on all these are free."""
    places = list(PORTS[: -max(offsets) - 1])
    random.shuffle(places)  # runs that start at the same moment seldom meet
    for base in places:
        if all(is_free(base + offset) for offset in offsets):
            return base
    raise BenchmarkError(f"no free ports on {HOST}")


def free_ports(count: int) -> list[int]:
    base = free_base(range(count))
    return list(range(base, base + count))


def eventually(look: Callable[[], T | None], what: str, seconds: float = READY_SECONDS) -> T:
    """What `look` finds once it finds something. Raises: BenchmarkError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


class Daemons:
    """Children of this process; each logs into a file of its own."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._children: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def spawn(self, command: Sequence[str], log: Path) -> None:
        with log.open("wb") as output, self._ending.held():
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            self._ending.started(child.pid)
            self._children.append(child)
            self._logs.append(log)

    def check(self) -> None:
        """Raises BenchmarkError if one has ended."""
        for child, log in zip(self._children, self._logs, strict=True):
            if child.poll() is not None:
                tail = log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")
                raise BenchmarkError(f"{child.args} ended with {child.returncode}:\n{tail}")

    def stop(self) -> None:
        with self._ending.held():
            self._stop()

    def _stop(self) -> None:
        for child in self._children:
            child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            self._ending.reaped(child.pid)
        self._children.clear()
        self._logs.clear()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time, with that of children that have ended (a Redis that saves forks)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pids: Iterable[int]) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def disk_bytes(folder: Path) -> int:
    """Blocks that are allocated: a sparse file counts as what it holds."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:  # compacted away meanwhile
                continue
    return total
