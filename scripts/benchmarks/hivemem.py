"""hivemem itself: `hivemem up` and `hivemem down`, with the defaults."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from scripts.benchmarks import daemons
from scripts.benchmarks.generator import BenchmarkError, Load, filling

COMMAND = (sys.executable, "-m", "node.cli")
# `up --port` puts HTTP at the base, peers ten above it and Redis twenty.
OFFSETS = (0, 1, 2, 10, 11, 12, 20, 21, 22)
START_SECONDS = 90.0
ASK_SECONDS = 5.0
FILL_BATCH = 100  # keys in one MSET


class Hivemem:
    name = "hivemem"

    def __init__(self) -> None:
        self.folder = Path()
        self._nodes: list[dict[str, str]] = []

    def start(self, folder: Path) -> None:
        self.folder = folder
        base = daemons.free_base(OFFSETS)
        done = subprocess.run(
            [*COMMAND, "up", "--detach", "--port", str(base), "-o", "json", *self._where()],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"hivemem does not start:\n{done.stderr}")
        self._nodes = json.loads(done.stdout)["nodes"]

    def stop(self) -> None:
        if self.folder.is_dir():
            command = [*COMMAND, "down", *self._where()]
            subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False)

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

    def _where(self) -> list[str]:
        return ["--data-dir", str(self.folder)]

    def _ask(self, path: str) -> dict:
        with urllib.request.urlopen(self._nodes[0]["http"] + path, timeout=ASK_SECONDS) as answer:
            return json.load(answer)

    def _leader(self) -> dict[str, str] | None:
        view = self._ask("/v1/cluster")
        return next((node for node in self._nodes if node["id"] == view["leader"]), None)
