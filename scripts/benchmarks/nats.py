"""A JetStream key-value bucket of NATS with three replicas."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

from scripts.benchmarks.daemons import HOST, Daemons, eventually, free_ports
from scripts.benchmarks.ending import Ending
from scripts.benchmarks.generator import Load

ASK_SECONDS = 5.0
BUCKET = "KV_bench"
# What `nats kv add bench --replicas 3` makes, as far as it matters here.
STREAM = {
    "name": BUCKET,
    "subjects": ["$KV.bench.>"],
    "storage": "file",
    "num_replicas": 3,
    "max_msgs_per_subject": 1,
    "discard": "new",
    "allow_direct": True,
    "deny_delete": True,
}
CONFIGURATION = """
server_name: n{index}
listen: "{host}:{port}"
jetstream {{ store_dir: "{place}", max_mem: 1G, max_file: 50G {sync} }}
cluster {{ name: bench, listen: "{host}:{peer}", routes: [{routes}] }}
"""
SYNC_ALWAYS_SINCE = (2, 10)


class Nats:
    name = "nats"
    PACKAGES = ("nats-server",)

    def __init__(self, ending: Ending) -> None:
        self.folder = Path()
        self._daemons = Daemons(ending)
        self._ports: list[int] = []
        self._version: tuple[int, ...] = ()

    @staticmethod
    def missing() -> bool:
        return shutil.which("nats-server") is None

    def start(self, folder: Path) -> None:
        self.folder = folder
        said = subprocess.run(
            ["nats-server", "--version"], capture_output=True, text=True, check=True
        ).stdout
        self._version = tuple(int(part) for part in re.findall(r"\d+", said)[:3])
        ports = free_ports(6)
        self._ports, peers = ports[:3], ports[3:]
        routes = ", ".join(f'"nats://{HOST}:{peer}"' for peer in peers)
        for i, (port, peer) in enumerate(zip(self._ports, peers, strict=True)):
            file = folder / f"n{i}.conf"
            file.write_text(
                CONFIGURATION.format(
                    index=i,
                    host=HOST,
                    port=port,
                    peer=peer,
                    place=folder / f"n{i}",
                    routes=routes,
                    sync=", sync_interval: always" if self._syncs() else "",
                )
            )
            self._daemons.spawn(["nats-server", "-c", str(file)], folder / f"n{i}.log")
        eventually(self._created, "NATS makes no bucket")
        self.port("nats-kv")

    def stop(self) -> None:
        self._daemons.stop()

    def pids(self) -> list[int]:
        return self._daemons.pids

    def port(self, protocol: str) -> int:
        return eventually(self._leader_port, "the bucket has no leader")

    def fill(self, keys: int, value_bytes: int) -> Load:
        return Load(
            protocol="nats-kv",
            port=self.port("nats-kv"),
            connections=16,
            depth=16,
            value_bytes=value_bytes,
            keys=keys,
            count=keys,
        )

    def facts(self) -> str:
        version = ".".join(map(str, self._version))
        durable = "sync_interval always" if self._syncs() else "it does NOT fsync before it answers"
        return f"NATS {version}, JetStream bucket with three replicas; {durable}"

    def _syncs(self) -> bool:
        return self._version >= SYNC_ALWAYS_SINCE

    def _created(self) -> bool:
        self._daemons.check()
        answer = self._ask(f"$JS.API.STREAM.CREATE.{BUCKET}", STREAM)
        return answer is not None and "error" not in answer

    def _leader_port(self) -> int | None:
        answer = self._ask(f"$JS.API.STREAM.INFO.{BUCKET}", {})
        leader = (answer or {}).get("cluster", {}).get("leader", "")
        return self._ports[int(leader[1:])] if leader else None

    def _ask(self, subject: str, body: dict) -> dict | None:
        """One request and its answer; None while there is nobody to give one."""
        payload = json.dumps(body)
        try:
            with socket.create_connection((HOST, self._ports[0]), ASK_SECONDS) as connection:
                connection.sendall(
                    b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n'
                    b"SUB answer 1\r\n"
                    + f"PUB {subject} answer {len(payload)}\r\n{payload}\r\n".encode()
                )
                lines = connection.makefile("rb")
                for line in lines:
                    if line.startswith(b"HMSG"):
                        return None
                    if line.startswith(b"MSG"):
                        return json.loads(lines.read(int(line.split()[-1])))
        except OSError:
            return None
        return None
