"""Real daemons on loopback for tests: started, killed, paused, restarted, never left behind.

    async with LocalCluster(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        await cluster.kill(leader)
        await cluster.wait_leader(other_than=leader)

Every call may block for as long as a process takes; what waits has a deadline and raises
TimeoutError. No process outlives the test: `__aexit__` kills them, and if the test process
itself is killed, a guard process notices and kills them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from node import local_cluster, local_launch, local_members, logs
from node.client import HivememClient
from node.clock import SystemClock
from node.environment import environment
from node.local_plan import LocalNode, Plan
from scripts.workload import Writers, check_nothing_lost

LEADER_SECONDS = 15.0  # s; an election on a loaded machine of two cores
READY_SECONDS = 30.0
EXIT_SECONDS = 15.0
POLL_SECONDS = 0.02
LOG_LINES = 40  # of each daemon, shown when a test fails
COMMAND_SECONDS = 60.0  # of one command line
CALL_MS = 20_000  # ms; of one call to a loaded machine
ROOT = Path(__file__).parents[2]

# Reads "+pid" and "-pid" lines; at the end of its input it kills what is left.
_GUARD = """
import os, signal, sys
pids = set()
for line in sys.stdin:
    (pids.add if line[0] == "+" else pids.discard)(int(line[1:]))
for pid in pids:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class RunningNode(NamedTuple):
    """One node as it is now; `pid` is None while it is down."""

    name: str
    id: str
    http: str
    peer: str
    pid: int | None
    data_dir: Path


class LocalCluster:
    """A cluster of real daemons. `settings`: variables such as HIVEMEM_RAFT_HEARTBEAT_MS.

    `partitions` 0: every node holds everything.
    """

    def __init__(
        self,
        folder: Path,
        count: int = 3,
        settings: Mapping[str, str] | None = None,
        partitions: int = 0,
    ) -> None:
        self._folder = folder / "cluster"
        self._count = count
        self._partitions = partitions
        self._environ = {**environment(), **(settings or {})}
        self._daemons: local_cluster.LocalCluster | None = None
        self._guard: subprocess.Popen[str] | None = None

    async def __aenter__(self) -> Self:
        self._guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        try:
            self._daemons = await self._bring_up()
            for child in self._daemons.children.values():
                self._watch(child.pid)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._daemons is not None:
            for child in self._daemons.children.values():
                child.kill()
            for child in self._daemons.children.values():
                child.wait()
        if self._guard is not None:
            # They are reaped: their pids may be anybody's now.
            with contextlib.suppress(BrokenPipeError):
                assert self._guard.stdin is not None
                for child in self._daemons.children.values() if self._daemons else ():
                    self._guard.stdin.write(f"-{child.pid}\n")
                self._guard.stdin.close()
            self._guard.wait()

    async def _bring_up(self) -> local_cluster.LocalCluster:
        request = local_launch.Request(
            self._folder, self._count, partitions=self._partitions or None, spare=True
        )
        return await asyncio.to_thread(
            local_launch.bring_up, request, SystemClock(), self._environ, threading.Event()
        )

    @property
    def daemons(self) -> local_cluster.LocalCluster:
        assert self._daemons is not None, "use `async with`"
        return self._daemons

    @property
    def plan(self) -> Plan:
        return self.daemons.plan

    @property
    def nodes(self) -> list[RunningNode]:
        return [
            RunningNode(
                node.name, node.id, node.http, node.peer, self._pid(node), self.plan.folder(node)
            )
            for node in self.plan.nodes
        ]

    @property
    def endpoints(self) -> list[str]:
        """HTTP addresses of all nodes, whether they run or not."""
        return [node.http for node in self.plan.nodes]

    @property
    def redis_addresses(self) -> list[tuple[str, int]]:
        """Host and port of all nodes' Redis doors, whether they run or not."""
        return [("127.0.0.1", node.redis_port) for node in self.plan.nodes]

    async def kill(self, index: int) -> None:
        """kill -9, and wait until the process is gone."""
        self._signal(index, signal.SIGKILL)
        await self._exit_code(index)

    async def kill_all(self) -> None:
        """kill -9 all nodes that run, at once."""
        running = [index for index in range(self._count) if self.nodes[index].pid is not None]
        for index in running:
            self._signal(index, signal.SIGKILL)
        for index in running:
            await self._exit_code(index)

    async def stop(self, index: int) -> int:
        """SIGTERM; returns the exit code."""
        self._signal(index, signal.SIGTERM)
        return await self._exit_code(index)

    async def ended(self, index: int, seconds: float = EXIT_SECONDS) -> int:
        """Wait until a node has ended by itself; returns the exit code."""
        return await self._exit_code(index, seconds)

    def pause(self, index: int) -> None:
        """SIGSTOP: the node keeps its connections and says nothing."""
        self._signal(index, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        self._signal(index, signal.SIGCONT)

    async def restart(self, index: int, *, ready: bool = True) -> None:
        """Start a node that is down; with `ready`, wait until it serves."""
        node = self.plan.nodes[index]
        assert self._pid(node) is None, f"{node.name} runs"
        self._watch(self.daemons.spawn(node))
        if ready:
            await self.wait_ready(index)

    async def newcomer(self, name: str, settings: Mapping[str, str] | None = None) -> int:
        """Start one more node, which waits to be added; returns its index.

        `settings`: variables that it is started with this time only.
        """
        known = frozenset(node.id for node in self.plan.nodes)
        started = await asyncio.to_thread(
            local_members.start_newcomer,
            self.plan,
            name,
            known,
            SystemClock(),
            {**self._environ, **(settings or {})},
            spare=True,
        )
        child = started.cluster.children[name]
        self._watch(child.pid)
        self.daemons.plan = started.cluster.plan
        self.daemons.children[name] = child
        self._count = len(self.plan.nodes)
        return self.index(name)

    def index(self, node: str) -> int:
        """Index of the node with this name or id."""
        return next(i for i, each in enumerate(self.plan.nodes) if node in (each.name, each.id))

    async def wait_ready(self, index: int, seconds: float = READY_SECONDS) -> None:
        node = self.plan.nodes[index]

        async def ready() -> bool:
            assert self._pid(node) is not None, f"{node.name} ended\n{self.log_tails()}"
            return await asyncio.to_thread(local_cluster.is_ready, node)

        await eventually(ready, seconds, f"{node.name} is not ready")

    async def status(self, index: int) -> dict[str, Any] | None:
        """`GET /v1/status` of one node; None if it does not answer."""
        port = self.plan.nodes[index].http_port
        code, body = await asyncio.to_thread(local_cluster.get, port, "/v1/status", {})
        return json.loads(body) if code == 200 else None

    async def leader(self) -> int | None:
        """Index of the node that leads in the highest term, by its own word."""
        answers = await asyncio.gather(
            *(self._status_if_awake(index) for index in range(self._count))
        )
        terms = {
            index: answer["term"]
            for index, answer in enumerate(answers)
            if answer is not None and answer["role"] == "leader"
        }
        return max(terms, key=lambda index: terms[index]) if terms else None

    async def wait_leader(
        self, seconds: float = LEADER_SECONDS, *, other_than: int | None = None
    ) -> int:
        """Index of the leader once there is one, and it is not `other_than`."""
        found: list[int] = []

        async def led() -> bool:
            leader = await self.leader()
            if leader is not None and leader != other_than:
                found.append(leader)
            return bool(found)

        await eventually(led, seconds, "no leader")
        return found[0]

    def client(self, *indexes: int) -> HivememClient:
        """A client of the whole cluster, or one that asks these nodes only."""
        endpoints = [self.nodes[index].http for index in indexes] or self.endpoints
        return HivememClient(endpoints, timeout_ms=CALL_MS, follow=not indexes)

    async def check_nothing_lost(self, writers: Writers) -> None:
        """Every node that runs has everything that was acknowledged."""
        for node in self.nodes:
            if node.pid is not None:
                await check_nothing_lost(writers, node.http)

    def log_text(self, index: int) -> str:
        """All that one daemon logged."""
        return self.plan.log_path(self.plan.nodes[index]).read_text()

    def log_tails(self) -> str:
        """The end of every daemon's log, for a failure's report."""
        parts = []
        for node in self.plan.nodes:
            path = self.plan.log_path(node)
            parts += [f"--- {path}", *logs.tail(path, LOG_LINES)]
        return "\n".join(parts)

    async def _status_if_awake(self, index: int) -> dict[str, Any] | None:
        if self._pid(self.plan.nodes[index]) is None:
            return None
        return await self.status(index)

    def _pid(self, node: LocalNode) -> int | None:
        child = self.daemons.children.get(node.name)
        return child.pid if child is not None and child.poll() is None else None

    def _signal(self, index: int, number: signal.Signals) -> None:
        node = self.plan.nodes[index]
        child = self.daemons.children.get(node.name)
        assert child is not None, f"{node.name} does not run"
        assert child.poll() is None, f"{node.name} has ended\n{self.log_tails()}"
        child.send_signal(number)

    async def _exit_code(self, index: int, seconds: float = EXIT_SECONDS) -> int:
        node = self.plan.nodes[index]
        child = self.daemons.children[node.name]

        async def ended() -> bool:
            return child.poll() is not None

        await eventually(ended, seconds, f"{node.name} does not end")
        del self.daemons.children[node.name]
        self._tell_guard(f"-{child.pid}\n")
        return child.returncode

    def _watch(self, pid: int) -> None:
        self._tell_guard(f"+{pid}\n")

    def _tell_guard(self, line: str) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        self._guard.stdin.write(line)


async def hivemem(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one command line as a person does."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "node.cli", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float, otherwise: str) -> None:
    """Poll until `holds`; TimeoutError with `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {seconds} s")
        await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path,
    count: int = 3,
    settings: Mapping[str, str] | None = None,
    partitions: int = 0,
) -> AsyncIterator[LocalCluster]:
    """A cluster with a leader."""
    async with LocalCluster(folder, count, settings, partitions) as cluster:
        await cluster.wait_leader()
        yield cluster
