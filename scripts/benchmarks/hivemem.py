"""hivemem itself: `hivemem up` and `hivemem down`, with the defaults."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

from scripts.benchmarks import daemons
from scripts.benchmarks.ending import HIVEMEM, Ending, take_down
from scripts.benchmarks.generator import BenchmarkError, Load, filling

# `up --port` puts HTTP at the base, peers ten above it and Redis twenty.
OFFSETS = (0, 1, 2, 10, 11, 12, 20, 21, 22)
START_SECONDS = 90.0
ASK_SECONDS = 5.0
FILL_BATCH = 100  # keys in one MSET


class Hivemem:
    name = "hivemem"

    def __init__(self, ending: Ending) -> None:
        self.folder = Path()
        self._ending = ending
        self._nodes: list[dict[str, str]] = []

    def start(self, folder: Path) -> None:
        self.folder = folder
        base = daemons.free_base(OFFSETS)
        where = ["--port", str(base), "--data-dir", str(folder)]
        self._ending.filled(folder)
        with self._ending.held():
            child = subprocess.Popen(
                [*HIVEMEM, "up", "--detach", "-o", "json", *where],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._ending.started(child.pid)
        try:
            said, problem = child.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"hivemem does not start in {START_SECONDS:.0f} s") from None
        finally:
            with self._ending.held():
                self._starting_ended(child)
        if child.returncode != 0:
            raise BenchmarkError(f"hivemem does not start:\n{problem}")
        self._nodes = json.loads(said)["nodes"]

    def _starting_ended(self, child: subprocess.Popen[str]) -> None:
        if child.poll() is None:
            child.terminate()  # It stops what it has begun to start; killed, it could not.
            try:
                child.communicate(timeout=daemons.READY_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
        self._ending.reaped(child.pid)

    def stop(self) -> None:
        with self._ending.held():
            take_down(self.folder)
            self._ending.emptied(self.folder)

    def pids(self) -> list[int]:
        return [int(node["pid"]) for node in self._nodes]

    def port(self, protocol: str) -> int:
        leader = daemons.eventually(self._leader, "hivemem has no leader")
        field = "redis" if protocol == "resp" else "http"
        return int(leader[field].rpartition(":")[2])

    def fill(self, keys: int, value_bytes: int) -> Load:
        batch = max(1, min(FILL_BATCH, 400_000 // value_bytes))
        return filling("resp", self.port("resp"), keys, value_bytes, batch)

    def facts(self) -> str:
        status = self._ask("/v1/status")
        durability = ", ".join(f"{name} {value}" for name, value in status["durability"].items())
        return f"hivemem {status['version']}, three daemons, defaults; {durability}"

    def _ask(self, path: str) -> dict:
        with urllib.request.urlopen(self._nodes[0]["http"] + path, timeout=ASK_SECONDS) as answer:
            return json.load(answer)

    def _leader(self) -> dict[str, str] | None:
        view = self._ask("/v1/cluster")
        return next((node for node in self._nodes if node["id"] == view["leader"]), None)
