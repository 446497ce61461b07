"""The processes of a cluster on one machine: start them, see them serve, stop them.

A daemon is found by the lock on its data folder, not by being our child: so the same code
stops what this process started, what another `hivemem up --detach` started, and a node that
somebody restarted by hand. Everything here blocks; it is called from the main thread of the
launcher, and from test threads.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from node import logs
from node.clock import Clock
from node.config_schema import settings
from node.errors import LaunchError
from node.local_plan import LocalNode, Plan
from node.local_ports import HOST

START_DEADLINE_MS = 60_000  # ms; a quorum must serve within it (replaying a log takes a while)
ALL_READY_GRACE_MS = 5_000  # ms; further wait for the other nodes once a quorum serves
STOP_GRACE_MS = 10_000  # ms between SIGTERM and SIGKILL
KILL_GRACE_MS = 5_000  # ms for the kernel to reap what was killed
HTTP_TIMEOUT_MS = 1_000  # ms; one question to one node
POLL_MS = 50  # ms between looks
LOG_TAIL_LINES = 15  # lines of a daemon's log shown when it does not start

# What makes each node itself comes from its own file: one value for all would be wrong.
_OWN_SECTIONS = ("http", "peer", "cluster")
_OWN_SETTINGS = (
    *("node.id", "node.name", "node.data_dir", "node.log_file"),
    *("redis.host", "redis.port"),
)


class NodeView(NamedTuple):
    """One node as seen from outside. `role` and `pid` are None when not known.

    `redis` is host:port, and None where the node says that it has no such door.
    """

    name: str
    id: str
    http: str
    peer: str
    redis: str | None
    pid: int | None
    role: str | None
    data_dir: Path
    ready: bool


class Exit(NamedTuple):
    """How a child ended: `code` >= 0 is its exit status, below 0 the signal, negated."""

    node: LocalNode
    pid: int
    code: int

    def __str__(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


@dataclass
class LocalCluster:
    """The daemons of one plan. `children` are those that this object started."""

    plan: Plan
    clock: Clock
    environ: Mapping[str, str]
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    interrupted: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start every node that does not run yet, and wait until a quorum serves.

        Raises LaunchError, or Interrupted when `interrupted` was set; what was started
        here is stopped before that.
        """
        refuse_own_settings(self.environ)
        running = self.plan.running()
        try:
            for node in self.plan.nodes:
                if node.name not in running:
                    self.spawn(node)
            self._await_quorum()
        except BaseException:
            self._end({name: child.pid for name, child in self.children.items()}, STOP_GRACE_MS)
            raise

    def spawn(self, node: LocalNode) -> int:
        """Start one daemon in a session of its own; returns its pid. Raises LaunchError."""
        log = self.plan.log_path(node)
        try:
            logs.rotate(log)
            with open(log, "ab", buffering=0) as output:
                child = subprocess.Popen(
                    daemon_command(self.plan.config_path(node)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.plan.folder(node),
                    env=daemon_environment(self.environ, log),
                    # Ctrl-C and a closed terminal reach the launcher, which stops the nodes.
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"{node.name} could not be started: {error}") from error
        self.children[node.name] = child
        return child.pid

    def exited(self) -> list[Exit]:
        """Children that ended since the last call."""
        ended: list[Exit] = []
        for node in self.plan.nodes:
            child = self.children.get(node.name)
            if child is not None and child.poll() is not None:
                del self.children[node.name]
                ended.append(Exit(node, child.pid, child.returncode))
        return ended

    def pids(self) -> dict[str, int]:
        """Name → pid of every node that runs: our children, and who holds a data folder."""
        alive = {name: child.pid for name, child in self.children.items() if child.poll() is None}
        return {**self.plan.running(), **alive}

    def views(self) -> list[NodeView]:
        """Every node as it is now; what it does is told by the first node that answers."""
        pids = self.pids()
        said: dict[str, dict[str, Any]] = {}
        for node in self.plan.nodes:
            answer = self.cluster_seen_by(node) if node.name in pids else None
            if answer is not None:
                # A node without a role has not answered.
                said = {each["id"]: each for each in answer["nodes"] if each["role"]}
                break
        return [
            NodeView(
                node.name,
                node.id,
                node.http,
                node.peer,
                said[node.id].get("redis") if node.id in said else node.redis,
                pids.get(node.name),
                said[node.id]["role"] if node.id in said else None,
                self.plan.folder(node),
                node.name in pids and is_ready(node),
            )
            for node in self.plan.nodes
        ]

    def cluster_seen_by(self, node: LocalNode) -> dict[str, Any] | None:
        """What `GET /v1/cluster` of one node says; None unless it is a node of this cluster."""
        token = self.environ.get("HIVEMEM_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        status, body = get(node.http_port, "/v1/cluster", headers)
        try:
            document = json.loads(body) if status == 200 else None
        except ValueError:
            return None
        # Another program may have taken the port: it does not know our cluster's id.
        if not isinstance(document, dict) or document.get("cluster_id") != self.plan.cluster_id:
            return None
        return document

    def stop(self, grace_ms: int = STOP_GRACE_MS) -> list[str]:
        """Stop every node of the plan: SIGTERM, then SIGKILL after `grace_ms`.

        An interrupt while it waits kills at once. Returns the names of the nodes that had
        to be killed. Raises LaunchError if one outlives even that.
        """
        return self._end(self.pids(), grace_ms)

    def stop_node(self, node: LocalNode) -> None:
        """Stop one node, if it runs, as `stop` does."""
        self._end(
            {name: pid for name, pid in self.pids().items() if name == node.name}, STOP_GRACE_MS
        )

    def _end(self, pids: Mapping[str, int], grace_ms: int) -> list[str]:
        self.interrupted.clear()
        for name, pid in pids.items():
            self.signal(name, pid, signal.SIGTERM)
        left = self._await_gone(pids, grace_ms, interruptible=True)
        for name, pid in left.items():
            self.signal(name, pid, signal.SIGKILL)
        immortal = self._await_gone(left, KILL_GRACE_MS, interruptible=False)
        if immortal:
            raise LaunchError(f"could not be killed: {immortal}; stuck on a disk?")
        return list(left)

    def signal(self, name: str, pid: int, number: signal.Signals) -> None:
        """Signal a node's process, unless the pid turns out to be something else's."""
        child = self.children.get(name)
        if child is not None and child.pid == pid:
            child.send_signal(number)  # does nothing once it was reaped
            return
        if not _is_daemon(pid):
            raise LaunchError(
                f"{name} is held by pid {pid} of another machine or container; stop it there"
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _await_gone(
        self, pids: Mapping[str, int], grace_ms: int, *, interruptible: bool
    ) -> dict[str, int]:
        """Wait for processes to end; returns those that are left."""
        deadline = self.clock.monotonic() + grace_ms / 1000
        left = dict(pids)
        while True:
            self.exited()
            alive = self.pids()
            left = {name: pid for name, pid in left.items() if alive.get(name) == pid}
            if not left or self.clock.monotonic() >= deadline:
                return left
            interrupted = self._wait()
            if interrupted and interruptible:
                return left
            if interrupted:
                self.interrupted.clear()

    def _await_quorum(self) -> None:
        began = self.clock.monotonic()
        ready: set[str] = set()
        served_at: float | None = None
        while len(ready) < len(self.plan.nodes) or served_at is None:
            for ended in self.exited():
                raise LaunchError(f"{ended.node.name} {ended}{self.last_words(ended.node)}")
            ready = {node.name for node in self.plan.nodes if is_ready(node)}
            now = self.clock.monotonic()
            if served_at is None and len(ready) >= self.plan.quorum and self._has_leader():
                served_at = now
            if served_at is not None and now - served_at > ALL_READY_GRACE_MS / 1000:
                return
            if served_at is None and now - began > START_DEADLINE_MS / 1000:
                raise LaunchError(self._why_not_ready(ready))
            if self._wait():
                raise Interrupted

    def _has_leader(self) -> bool:
        """Whether a node of this cluster names a leader.

        A node that wants a token which we do not have says so by being ready.
        """
        if self.environ.get("HIVEMEM_AUTH_TOKENS_FILE") and "HIVEMEM_TOKEN" not in self.environ:
            return True
        answers = (self.cluster_seen_by(node) for node in self.plan.nodes)
        return any(answer is not None and answer["leader"] for answer in answers)

    def _why_not_ready(self, ready: set[str]) -> str:
        late = [node for node in self.plan.nodes if node.name not in ready]
        names = ", ".join(node.name for node in late) or "no node names a leader"
        return (
            f"no quorum served within {START_DEADLINE_MS // 1000} s; not ready: {names}"
            f"{self.last_words(late[0]) if late else ''}"
        )

    def last_words(self, node: LocalNode) -> str:
        """The end of a node's log, to stand at the end of an error."""
        path = self.plan.log_path(node)
        lines = logs.tail(path, LOG_TAIL_LINES)
        if not lines:
            return f"; it wrote nothing to {path}"
        return "\n".join([f"; the end of {path}:", *(f"    {line}" for line in lines)])

    def _wait(self) -> bool:
        """Pause between two looks; True as soon as somebody interrupts."""
        return self.interrupted.wait(POLL_MS / 1000)


class Interrupted(Exception):
    """Somebody asked to stop while the cluster was starting."""


def refuse_own_settings(environ: Mapping[str, str]) -> None:
    """Refuse environment variables that would make all nodes of the cluster the same one."""
    own = [
        setting.variable
        for setting in settings()
        if setting.variable in environ
        and (
            setting.section in _OWN_SECTIONS or f"{setting.section}.{setting.name}" in _OWN_SETTINGS
        )
    ]
    if own:
        raise LaunchError(
            f"{', '.join(own)} would apply to every node of a local cluster; unset, and use "
            "--port and --data-dir, or `hivemem start` for one node"
        )


def daemon_command(config: Path) -> list[str]:
    """The command line of one daemon. -P: a folder called `node` where we stand is not ours."""
    return [sys.executable, "-P", "-m", "node", "--config", str(config)]


def daemon_environment(environ: Mapping[str, str], log: Path | None) -> dict[str, str]:
    """A daemon's environment: ours, a bounded log file, and the way to this very code."""
    added = {"PYTHONUNBUFFERED": "1"}
    if log is not None:
        added["HIVEMEM_NODE_LOG_FILE"] = str(log)
    root = str(Path(__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # A checkout that is not installed, as in tests.
        inherited = environ.get("PYTHONPATH")
        added["PYTHONPATH"] = f"{root}{os.pathsep}{inherited}" if inherited else root
    return {**environ, **added}


def is_ready(node: LocalNode) -> bool:
    return get(node.http_port, "/readyz", {})[0] == 200


def is_live(node: LocalNode) -> bool:
    """Whether it answers at all; it may be waiting for a cluster."""
    return get(node.http_port, "/livez", {})[0] == 200


def get(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Ask a node on loopback; (0, b"") if it does not answer. Proxy settings do not apply."""
    connection = http.client.HTTPConnection(HOST, port, timeout=HTTP_TIMEOUT_MS / 1000)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def supervise(
    cluster: LocalCluster, stop: threading.Event, on_exit: Callable[[Exit], None]
) -> None:
    """Watch the children until `stop` is set or none is left; report each that ends."""
    while cluster.children and not stop.wait(POLL_MS / 1000):
        for ended in cluster.exited():
            on_exit(ended)


def _is_daemon(pid: int) -> bool:
    """Whether a pid, as far as this machine can tell, is a daemon of ours."""
    if not Path("/proc/self/cmdline").exists():
        return True  # no /proc: the lock alone has to do
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"node" in words and b"--config" in words
