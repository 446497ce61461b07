"""A daemon's outside without its inside: lock, doors and signals, for tests of the launcher.

`python standin_daemon.py node --config FILE`. STANDIN maps node names to misbehaviour:
"exit" ends with a last word, "deaf" ignores SIGTERM, "silent" never gets ready.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from node.clock import SystemClock
from node.config import load
from node.config_schema import Member, NodeConfig
from node.datadir import DataDir
from node.local_plan import read_plan


def main() -> int:
    config = load(Path(sys.argv[sys.argv.index("--config") + 1]))
    name = config.node.name
    mode = json.loads(os.environ.get("STANDIN", "{}")).get(name, "")
    if mode == "exit":
        print("last words of", name, flush=True)
        return 3
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if mode == "deaf" else stop.set())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            members = config.cluster.members
            nodes = [
                {
                    "id": each.id,
                    "role": "leader" if each is members[0] else "follower",
                    "redis": redis(config, each),
                }
                for each in members
            ]
            body = {"cluster_id": config.cluster.id, "leader": members[0].id, "nodes": nodes}
            self.send_response(503 if mode == "silent" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

    data = DataDir.open(
        config.node.data_dir,
        node_id=config.node.id,
        cluster_id=config.cluster.id,
        name=name,
        clock=SystemClock(),
    )
    with ThreadingHTTPServer((config.http.host, config.http.port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stop.wait()
        server.shutdown()
    data.close()
    return 0


def redis(config: NodeConfig, member: Member) -> str | None:
    """Local nodes say where their Redis doors are in a file that all of them can read."""
    if not config.redis.enabled:
        return None
    plan = read_plan(config.node.data_dir.parent)
    node = None if plan is None else plan.node(member.name)
    return None if node is None else node.redis


if __name__ == "__main__":
    sys.exit(main())
