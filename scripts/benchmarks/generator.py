"""The load generator: load.c and its parts, compiled once per run, and one run of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILE_SECONDS = 120.0
GRACE_SECONDS = 30.0  # beyond what a run should take: connecting, and its own draining
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE")
NAME = "C, one thread, epoll, closed loops (scripts/benchmarks/load.c), for every system"


class BenchmarkError(Exception):
    """A run that cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to do at which port. Times in seconds; the rest as in load.c."""

    protocol: str
    port: int
    connections: int
    depth: int = 1  # requests under way on a connection
    batch: int = 1  # writes in one request
    value_bytes: int = 100
    keys: int = 100_000
    reads_percent: int = 0
    count: int = 0  # requests, over the keys in order; 0: as many as fit the time
    first: int = 0  # the key that those begin with
    zipfian: bool = False
    stale: bool = False
    wait: int = 0  # Redis: replicas
    warmup: float = 1.0
    seconds: float = 5.0
    seed: int = 1

    def arguments(self) -> list[str]:
        found = []
        for name in self.__slots__:
            value = getattr(self, name)
            flag = "--" + name.replace("_", "-")
            if value is True:
                found.append(flag)
            elif value is not False:
                found += [flag, str(value)]
        return found


def filling(protocol: str, port: int, keys: int, value_bytes: int, batch: int) -> Load:
    """Store so many keys, `batch` of them in a request."""
    return Load(
        protocol=protocol,
        port=port,
        connections=8,
        batch=batch,
        value_bytes=value_bytes,
        keys=keys,
        count=-(-keys // batch),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What load.c prints. `operations` to `max_ms` are of the time after the warm-up."""

    operations: int
    seconds: float
    ops_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    mean_ms: float
    max_ms: float
    sent: int  # requests of the whole run: answered + errors + unanswered
    answered: int
    errors: int
    unanswered: int
    batch: int
    generator_cpu_s: float
    generator_wall_s: float
    error_kinds: dict[str, int] = field(default_factory=dict)

    @property
    def generator_share(self) -> float:
        """Of one core. Near 1 the generator would be what limits."""
        return self.generator_cpu_s / self.generator_wall_s


def compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the generator into a folder. Raises: BenchmarkError."""
    command = compiler()
    if command is None:
        raise BenchmarkError("a C compiler is needed (Debian: gcc and libc6-dev)")
    program = folder / "load"
    sources = [str(path) for path in sorted(SOURCES.glob("load*.c"))]
    done = subprocess.run(
        [command, *FLAGS, "-o", str(program), *sources, "-lm"],
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"the load generator does not compile:\n{done.stderr}")
    return program


def run(program: Path, load: Load) -> Outcome:
    """One run; blocks until it is over. Raises: BenchmarkError."""
    try:
        done = subprocess.run(
            [str(program), *load.arguments()],
            capture_output=True,
            text=True,
            timeout=load.warmup + load.seconds + GRACE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"the load generator did not end: {load}") from None
    if done.returncode != 0:
        raise BenchmarkError(f"{done.stderr.strip()} ({load})")
    return Outcome(**json.loads(done.stdout))
