"""A Redis master with two replicas that all fsync each write before they answer.

With WAIT 1 a write is on the disks of two of three before it counts, as with the others. What
Redis does not do is to choose a new master by itself that has every such write.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from scripts.benchmarks.daemons import HOST, Daemons, eventually, free_ports
from scripts.benchmarks.generator import Load

ASK_SECONDS = 2.0
REPLICAS = 2


class Redis:
    name = "redis"
    PACKAGES = ("redis-server",)

    def __init__(self) -> None:
        self.folder = Path()
        self._daemons = Daemons()
        self._master = 0

    @staticmethod
    def missing() -> bool:
        return shutil.which("redis-server") is None

    def start(self, folder: Path) -> None:
        self.folder = folder
        ports = free_ports(1 + REPLICAS)
        self._master = ports[0]
        for i, port in enumerate(ports):
            place = folder / f"n{i}"
            place.mkdir()
            options = {
                "port": str(port),
                "bind": HOST,
                "dir": str(place),
                "daemonize": "no",
                "appendonly": "yes",
                "appendfsync": "always",
                "save": "",
            }
            command = ["redis-server"]
            for name, value in options.items():
                command += [f"--{name}", value]
            if i > 0:
                command += ["--replicaof", HOST, str(self._master)]
            self._daemons.spawn(command, folder / f"n{i}.log")
        eventually(self._replicated, "the replicas are not online")

    def stop(self) -> None:
        self._daemons.stop()

    def pids(self) -> list[int]:
        return self._daemons.pids

    def port(self, protocol: str) -> int:
        return self._master

    def fill(self, keys: int, value_bytes: int) -> Load:
        return Load(
            protocol="resp",
            port=self._master,
            connections=16,
            depth=16,
            value_bytes=value_bytes,
            keys=keys,
            count=keys,
            wait=1,
        )

    def facts(self) -> str:
        version = self._info().get("redis_version", "of an unknown version")
        return (
            f"Redis {version}, a master and two replicas, appendonly yes, appendfsync always on "
            "all three; redis-wait counts a write once WAIT 1 says that a replica has it too"
        )

    def _replicated(self) -> bool:
        self._daemons.check()
        info = self._info()
        return all("state=online" in info.get(f"slave{i}", "") for i in range(REPLICAS))

    def _info(self) -> dict[str, str]:
        try:
            with socket.create_connection((HOST, self._master), ASK_SECONDS) as connection:
                connection.sendall(b"INFO\r\nQUIT\r\n")
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError:
            return {}
        lines = answer.decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
