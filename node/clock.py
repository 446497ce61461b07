"""The only reader of time, chance and identity.

Everything that is not a function of its inputs comes in through a `Clock`, so that
tests and the simulation decide what time it is and which numbers are drawn. Node code
takes a `Clock`; engines and apply never see one: the proposer stamps what they need.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Protocol

_LINUX_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Time, randomness and ids. Callable from any thread."""

    def now_ms(self) -> int:
        """UTC milliseconds since 1970. May jump; never use it to measure a duration."""

    def monotonic(self) -> float:
        """Seconds on a clock that only moves forward; its zero means nothing."""

    def thread_seconds(self) -> float:
        """CPU seconds that the calling thread has used; its zero means nothing."""

    def new_id(self) -> str:
        """A fresh random UUID, in its 36-character form."""

    def random(self) -> random.Random:
        """The process's source of jitter and sampling; not for secrets."""

    def boot_id(self) -> str:
        """Changes whenever the machine was restarted, and only then where the system says so."""


class SystemClock:
    """The real clock."""

    def __init__(self) -> None:
        self._random = random.Random()
        self._boot_id = _read_boot_id()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def thread_seconds(self) -> float:
        return time.thread_time()

    def new_id(self) -> str:
        return str(uuid.uuid4())

    def random(self) -> random.Random:
        return self._random

    def boot_id(self) -> str:
        return self._boot_id


def _read_boot_id() -> str:
    """The kernel's boot id, or a fresh id where it has none.

    A fresh id makes every start look like the first one after a machine crash. That costs
    a rebuild from snapshot and log; believing in a boot id that is not one costs data.
    """
    if _LINUX_BOOT_ID.exists():
        return _LINUX_BOOT_ID.read_text("ascii").strip()
    if sys.platform == "darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    return str(uuid.uuid4())
