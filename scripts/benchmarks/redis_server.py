"""A Redis master with two replicas that all fsync each write before they answer.

With WAIT 1 a write is on the disks of two of three before it counts, as with the others. What
Redis does not do is to choose a new master by itself that has every such write.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from scripts.benchmarks.daemons import HOST, Daemons, eventually, free_ports
from scripts.benchmarks.ending import Ending
from scripts.benchmarks.generator import Load

ASK_SECONDS = 2.0
REPLICAS = 2


class Redis:
    name = "redis"
    PACKAGES = ("redis-server",)

    def __init__(self, ending: Ending) -> None:
        self.folder = Path()
        self._daemons = Daemons(ending)
        self._ports: list[int] = []

    @staticmethod
    def missing() -> bool:
        return shutil.which("redis-server") is None

    def start(self, folder: Path) -> None:
        self.folder = folder
        self._ports = free_ports(1 + REPLICAS)
        for i, port in enumerate(self._ports):
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
                command += ["--replicaof", HOST, str(self._ports[0])]
            self._daemons.spawn(command, folder / f"n{i}.log")
        eventually(self._replicated, "the replicas are not online")

    def stop(self) -> None:
        self._daemons.stop()

    def pids(self) -> list[int]:
        return self._daemons.pids

    def port(self, protocol: str) -> int:
        return self._ports[0]

    def fill(self, keys: int, value_bytes: int) -> Load:
        return Load(
            protocol="resp",
            port=self._ports[0],
            connections=16,
            depth=16,
            value_bytes=value_bytes,
            keys=keys,
            count=keys,
            wait=1,
        )

    def facts(self) -> str:
        version = self._info(self._ports[0]).get("redis_version", "of an unknown version")
        return (
            f"Redis {version}, a master and two replicas, appendonly yes, appendfsync always on "
            "all three; redis-wait counts a write once WAIT 1 says that a replica has it too"
        )

    def _replicated(self) -> bool:
        """Both replicas have their copy, and the file that they append to from then on.

        A replica that has just copied its master writes that file anew, without any fsync.
        """
        self._daemons.check()
        master = self._info(self._ports[0])
        online = all("state=online" in master.get(f"slave{i}", "") for i in range(REPLICAS))
        return online and all(self._appends(self._info(port)) for port in self._ports)

    @staticmethod
    def _appends(info: dict[str, str]) -> bool:
        rewrites = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        return info.get("aof_enabled") == "1" and all(info.get(name) == "0" for name in rewrites)

    def _info(self, port: int) -> dict[str, str]:
        try:
            with socket.create_connection((HOST, port), ASK_SECONDS) as connection:
                connection.sendall(b"INFO\r\nQUIT\r\n")
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError:
            return {}
        lines = answer.decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
