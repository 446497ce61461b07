"""Real daemons whose network, disks and clocks can be made to fail.

    async with FaultCluster(tmp_path, network=Proxied(), preload=True) as cluster:
        ...

It is the cluster of tests/cluster/harness.py, started in another way: what nodes call each
other's address is a network's choice (proxies, or namespaces of the kernel), and a library
that breaks system calls may be loaded into each daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from node import local_cluster, local_plan
from node.clock import SystemClock
from node.errors import LaunchError
from node.local_plan import LocalNode, Plan
from tests.cluster.harness import LocalCluster
from tests.fault.addresses import readdress
from tests.fault.disks import PoweredDisk
from tests.fault.namespaces import Namespaced
from tests.fault.preload import Preload
from tests.fault.proxy import PeerProxies

START_ATTEMPTS_MAX = 3  # other tests may take the ports between our look and the bind


class Network(Protocol):
    """How the nodes of a plan reach each other, and we them."""

    async def start(self, plan: Plan, pids: Callable[[], Mapping[str, int]]) -> None:
        """Be ready to carry traffic; write what is special into the nodes' settings."""

    async def stop(self) -> None:
        """Leave nothing behind. Idempotent."""

    def around_start(self, node: LocalNode) -> AbstractContextManager[object]:
        """The surroundings in which the node's process has to be started."""


@dataclass
class Daemons(local_cluster.LocalCluster):
    """The processes, each started in its surroundings."""

    around_start: Callable[[LocalNode], AbstractContextManager[object]] = field(
        default=lambda node: contextlib.nullcontext()
    )

    def spawn(self, node: LocalNode) -> int:
        with self.around_start(node):
            return super().spawn(node)


class Direct:
    """Nodes reach each other as usual."""

    async def start(self, plan: Plan, pids: Callable[[], Mapping[str, int]]) -> None:
        pass

    async def stop(self) -> None:
        pass

    def around_start(self, node: LocalNode) -> AbstractContextManager[object]:
        return contextlib.nullcontext()


class Proxied(Direct):
    """Every node is reached through its proxy."""

    def __init__(self) -> None:
        self._proxies: PeerProxies | None = None

    @property
    def links(self) -> PeerProxies:
        assert self._proxies is not None, "not started"
        return self._proxies

    async def start(self, plan: Plan, pids: Callable[[], Mapping[str, int]]) -> None:
        ports = {node.name: node.peer_port for node in plan.nodes}
        self._proxies = PeerProxies(ports, pids)
        await self._proxies.start()
        readdress(plan, {node.name: self._proxies.address(node.name) for node in plan.nodes})

    async def stop(self) -> None:
        if self._proxies is not None:
            await self._proxies.stop()
            self._proxies = None


class FaultCluster(LocalCluster):
    """`seed` decides who is picked as a victim.

    `folders` makes and unmakes the nodes' folders: a context manager, entered with the plan.
    """

    def __init__(
        self,
        folder: Path,
        count: int = 3,
        settings: Mapping[str, str] | None = None,
        *,
        network: Network | None = None,
        preload: bool = False,
        seed: int = 0,
        folders: Callable[[Plan], AbstractContextManager[PoweredDisk | None]] | None = None,
    ) -> None:
        super().__init__(folder, count, settings)
        self.network = network or Direct()
        self.rng = random.Random(seed)
        self._folders = folders
        self._stack = contextlib.ExitStack()
        self._disk: PoweredDisk | None = None
        self.repairs: Counter[str] = Counter()  # what had to be done about rotten files
        self._tending: list[asyncio.Task[None]] = []
        names = [f"node{number}" for number in range(1, count + 1)]
        self._preload = Preload(folder / "preload", names) if preload else None
        if self._preload is not None:
            self._environ |= self._preload.environment()

    @property
    def faults(self) -> Preload:
        assert self._preload is not None, "preload=True"
        return self._preload

    @property
    def links(self) -> PeerProxies:
        assert isinstance(self.network, Proxied), "network=Proxied()"
        return self.network.links

    @property
    def wires(self) -> Namespaced:
        assert isinstance(self.network, Namespaced), "network=Namespaced(...)"
        return self.network

    @property
    def disk(self) -> PoweredDisk:
        assert self._disk is not None, "folders=powered_disk(...)"
        return self._disk

    def name(self, index: int) -> str:
        return self.plan.nodes[index].name

    def running(self) -> list[int]:
        return [index for index, node in enumerate(self.nodes) if node.pid is not None]

    async def restart_all(self, *, ready: bool = True) -> None:
        """Start every node that is down."""
        down = [index for index, node in enumerate(self.nodes) if node.pid is None]
        await asyncio.gather(*(self.restart(index, ready=False) for index in down))
        if ready:
            await asyncio.gather(*(self.wait_ready(index) for index in down))

    async def ended(self, index: int, seconds: float = 20.0) -> int:
        """Wait until a node has ended by itself; returns the exit code."""
        return await self._exit_code(index, seconds)

    def answers(self, index: int) -> bool:
        """Whether a node is ready, by its own word. Blocks."""
        return local_cluster.is_ready(self.plan.nodes[index])

    def forget(self, index: int) -> int:
        """Take note that a node has ended by itself, so that it can be started again.

        Returns its exit code; a negative one is the signal that ended it.
        """
        child = self.daemons.children.pop(self.name(index))
        code = child.poll()
        assert code is not None, f"{self.name(index)} runs"
        self._tell_guard(f"-{child.pid}\n")
        return code

    def tend(self, work: Coroutine[None, None, None]) -> None:
        """Let something go on beside the test, until `leave` or the cluster's end."""
        self._tending.append(asyncio.create_task(work))

    async def leave(self) -> None:
        """End what `tend` began; raises what it raised."""
        tasks, self._tending = self._tending, []
        for task in tasks:
            task.cancel()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(found, Exception):
                raise found

    def said(self, index: int) -> str:
        """Everything in the node's log file."""
        path = self.plan.log_path(self.plan.nodes[index])
        return path.read_text("utf-8", "replace")

    async def _bring_up(self) -> local_cluster.LocalCluster:
        clock = SystemClock()
        for attempt in range(START_ATTEMPTS_MAX):
            plan = local_plan.read_plan(self._folder)
            plan = plan or local_plan.new_plan(self._folder, self._count, clock)
            plan = local_plan.with_ports(plan, None, clock, spare=True)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if attempt == 0 and self._folders is not None:
                self._disk = self._stack.enter_context(self._folders(plan))
            local_plan.write_plan(plan)
            daemons = Daemons(
                plan,
                clock,
                self._environ,
                interrupted=threading.Event(),
                around_start=self.network.around_start,
            )
            try:
                await self.network.start(plan, partial(_pids, daemons))
                await asyncio.to_thread(daemons.start)
            except LaunchError:
                await self.network.stop()
                if attempt + 1 == START_ATTEMPTS_MAX:
                    raise
            except BaseException:
                await self.network.stop()
                raise
            else:
                return daemons
        raise AssertionError("unreachable")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.leave()
        finally:
            await self._end(kind, error, traceback)

    async def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        await self.network.stop()
        await asyncio.to_thread(self._stack.close)


def _pids(daemons: local_cluster.LocalCluster) -> dict[str, int]:
    return {name: child.pid for name, child in daemons.children.items()}
