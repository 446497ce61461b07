"""etcd with its defaults, but for a quota that a long run does not reach."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from scripts.benchmarks.daemons import HOST, Daemons, eventually, free_ports
from scripts.benchmarks.ending import Ending
from scripts.benchmarks.generator import Load, filling

QUOTA_BYTES = 8 << 30
ASK_SECONDS = 2.0
FILL_BATCH = 100  # puts in one transaction; etcd takes at most 128
FILL_REQUEST_BYTES = 50_000  # what load.c sends on a new stream


class Etcd:
    name = "etcd"
    PACKAGES = ("etcd-server", "etcd-client")

    def __init__(self, ending: Ending) -> None:
        self.folder = Path()
        self._daemons = Daemons(ending)
        self._ports: list[int] = []
        self._version = ""

    @staticmethod
    def missing() -> bool:
        return shutil.which("etcd") is None

    def start(self, folder: Path) -> None:
        self.folder = folder
        ports = free_ports(6)
        self._ports, peers = ports[:3], ports[3:]
        members = ",".join(f"n{i}=http://{HOST}:{port}" for i, port in enumerate(peers))
        for i, (port, peer) in enumerate(zip(self._ports, peers, strict=True)):
            client_url, peer_url = f"http://{HOST}:{port}", f"http://{HOST}:{peer}"
            options = {
                "name": f"n{i}",
                "data-dir": str(folder / f"n{i}"),
                "listen-client-urls": client_url,
                "advertise-client-urls": client_url,
                "listen-peer-urls": peer_url,
                "initial-advertise-peer-urls": peer_url,
                "initial-cluster": members,
                "initial-cluster-state": "new",
                "initial-cluster-token": folder.name,
                "quota-backend-bytes": str(QUOTA_BYTES),
            }
            command = ["etcd", *(f"--{name}={value}" for name, value in options.items())]
            self._daemons.spawn(command, folder / f"n{i}.log")
        self.port("grpc-etcd")

    def stop(self) -> None:
        self._daemons.stop()

    def pids(self) -> list[int]:
        return self._daemons.pids

    def port(self, protocol: str) -> int:
        return eventually(self._leader_port, "etcd has no leader")

    def fill(self, keys: int, value_bytes: int) -> Load:
        batch = max(1, min(FILL_BATCH, FILL_REQUEST_BYTES // (value_bytes + 40)))
        return filling("grpc-etcd", self.port("grpc-etcd"), keys, value_bytes, batch)

    def facts(self) -> str:
        return (
            f"etcd {self._version}, three members, defaults (each write is fsynced on a majority)"
        )

    def _leader_port(self) -> int | None:
        self._daemons.check()
        for port in self._ports:
            status = self._status(port)
            if status and status.get("leader", "0") == status["header"]["member_id"]:
                self._version = status["version"]
                return port
        return None

    def _status(self, port: int) -> dict | None:
        request = urllib.request.Request(
            f"http://{HOST}:{port}/v3/maintenance/status", data=b"{}", method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError):
            return None
