"""The way to a partition of which no replica is here: asked of the nodes that hold it.

Who leads it is a guess, corrected by the answers: a node that does not lead names the one
that does, which is then asked at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from cluster.errors import NotLeader, PeerUnreachable, RemoteCallFailed
from cluster.interfaces import Role
from engines.interfaces import Result
from engines.read_requests import ReadRequest, Shown
from node.clock import Clock
from node.errors import DeadlineExceeded, Unavailable
from node.forward import propose_at
from node.group_calls import Caller
from node.leadership import RETRY_PAUSE_SECONDS, Leadership
from node.proposals import Proposals, WritePath
from node.reads import ReadOptions
from node.remote_reads import RemoteReads

T = TypeVar("T")

# For one node's answer, before another is asked. Who leads is only seen where a replica is:
# one that is paused or cut off would hold every request until its connection is given up.
ATTEMPT_SECONDS_MAX = 2.0


class Elsewhere:
    """What is known of a group that is not here. Loop thread only."""

    def __init__(self, nodes: Callable[[], Sequence[str]], caller: Caller) -> None:
        """`nodes`: those that may hold it, likely ones first, without this one."""
        self.on_leader_change: Callable[[], None] = lambda: None
        self._nodes = nodes
        self._caller = caller
        self._guess: str | None = None

    def role(self) -> Role:
        return Role("none", self.guess(), 0)

    def guess(self) -> str | None:
        """The node to ask."""
        nodes = self._nodes()
        if self._guess not in nodes:
            self._guess = nodes[0] if nodes else None
        return self._guess

    def mistaken(self, node: str) -> None:
        """This node does not know who leads, or cannot be reached: ask the next one."""
        nodes = self._nodes()
        if node == self._guess and nodes:
            place = nodes.index(node) + 1 if node in nodes else 0
            self._guess = nodes[place % len(nodes)]

    async def propose(self, node: str, command: bytes, timeout_seconds: float) -> Result:
        """Have `node`, or the leader that it names, replicate one encoded command.

        Raises as `propose_at`; what certainly had no effect makes the next guess another.
        """
        try:
            return await propose_at(self._caller, node, command, timeout_seconds)
        except NotLeader as error:
            named = error.leader
            if named is None or named == node or named not in self._nodes():
                self.mistaken(node)
                raise
            self._guess = named
        except PeerUnreachable:
            self.mistaken(node)
            raise
        return await propose_at(self._caller, named, command, timeout_seconds)


class RemoteRouter(WritePath):
    """Write and read paths of one group that is not here; see `Router`. Loop thread only."""

    def __init__(
        self,
        group: int,
        elsewhere: Elsewhere,
        remote_reads: RemoteReads,
        clock: Clock,
        leader_http: Callable[[str], str | None],
    ) -> None:
        """`leader_http`: node id → HTTP address."""
        self._group = group
        self.elsewhere = elsewhere
        self._remote_reads = remote_reads
        self._clock = clock
        self._leader_http = leader_http
        # This node is never the leader: it is none of the nodes that are asked.
        leadership = Leadership("", elsewhere, clock, self.leader_address)
        self.attempt_seconds_max = ATTEMPT_SECONDS_MAX
        super().__init__(Proposals(leadership, None, elsewhere, ATTEMPT_SECONDS_MAX))

    def leader_address(self) -> str | None:
        """HTTP address of the node that is asked."""
        node = self.elsewhere.guess()
        return self._leader_http(node) if node else None

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """What a replica answers; another one is asked where one cannot.

        Raises as `Router.read`.
        """
        problem: Exception | None = None
        while (remaining := deadline - self._clock.monotonic()) > 0:
            node = self.elsewhere.guess()
            if node is not None:
                try:
                    return await self._remote_reads.read(
                        node, self._group, request, options, min(remaining, ATTEMPT_SECONDS_MAX)
                    )
                except (PeerUnreachable, RemoteCallFailed) as error:
                    problem = error
                    self.elsewhere.mistaken(node)
                except (Unavailable, DeadlineExceeded) as error:
                    # Another one may answer in time; what is too old elsewhere is said at once.
                    if remaining <= ATTEMPT_SECONDS_MAX or error.code == "STALE":
                        raise
                    problem = error
                    self.elsewhere.mistaken(node)
            await asyncio.sleep(min(RETRY_PAUSE_SECONDS, max(0.0, remaining)))
        raise Unavailable(
            f"no replica of partition {self._group} answered in time ({problem or 'none is known'})"
        )
