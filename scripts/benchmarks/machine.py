"""What the figures depend on besides the systems: cores, kernel, disk, other work."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path

SYNCS = 200
SYNC_BYTES = 2048
LOOPS = 7
LOOP_PASSES = 1_000_000


def facts(folder: Path) -> list[str]:
    median_ms, p99_ms = fdatasync_ms(folder)
    load = os.getloadavg()
    found = [
        f"{os.cpu_count()} cores ({_cpu_model()}), {_memory_gib():.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {platform.python_compiler()}; a pass of a counting "
        f"loop takes {loop_pass_ns():.0f} ns",
        f"disk: {file_system(folder)}, fdatasync of a 2 KiB append {median_ms:.2f} ms (median), "
        f"{p99_ms:.2f} ms (p99)",
        f"load average at the start: {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}",
    ]
    if file_system(folder) in ("tmpfs", "ramfs"):
        found.append("WARNING: the data are in memory, where fsync does nothing; use --folder")
    return found


def fdatasync_ms(folder: Path) -> tuple[float, float]:
    """(median, p99) of appending and syncing, milliseconds."""
    path = folder / "sync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            begin = time.perf_counter()
            file.write(b"x" * SYNC_BYTES)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    path.unlink()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def loop_pass_ns() -> float:
    """How fast this interpreter is here, nanoseconds; the best of several.

    Builds of one version differ by half, with the optimizations that they were compiled with,
    and nothing that Python says of itself tells.
    """
    times = []
    for _ in range(LOOPS):
        total = 0
        begin = time.perf_counter()
        for number in range(LOOP_PASSES):
            total += number
        times.append(time.perf_counter() - begin)
    return min(times) / LOOP_PASSES * 1e9


def file_system(folder: Path) -> str:
    """Its type, of the longest mount point that the folder lies under."""
    best, found = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        under = folder.resolve().is_relative_to(place)
        if under and len(place) >= len(best):
            best, found = place, kind
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
