"""Reads of a group whose state on this node is damaged: another replica answers them.

The leader is asked first, since it is up to date and has nobody to ask itself. Whoever is asked
answers from its own state or refuses; a read is passed on once.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from cluster.errors import ClusterError
from cluster.interfaces import Consensus
from engines.read_requests import ReadRequest, Shown
from node.clock import Clock
from node.errors import HivememError, Unavailable
from node.reads import ReadOptions

T = TypeVar("T")

ATTEMPT_SECONDS_MAX: Final = 2.0  # of one replica, while there are others to ask


class Replicas(Protocol):
    """How another node is asked: `RemoteReads`."""

    async def read(
        self,
        node: str,
        group: int,
        request: ReadRequest[T],
        options: ReadOptions,
        timeout_seconds: float,
    ) -> Shown[T]: ...


class ReadFailover:
    """Loop thread only."""

    def __init__(
        self, self_id: str, number: int, group: Consensus, replicas: Replicas, clock: Clock
    ) -> None:
        self._self_id = self_id
        self._number = number
        self._group = group
        self._replicas = replicas
        self._clock = clock

    async def read(
        self,
        request: ReadRequest[T],
        options: ReadOptions,
        deadline: float,
        refusal: HivememError,
    ) -> Shown[T]:
        """What the first replica that can answers. Raises `refusal` if none can; what the
        request itself raises (Compacted, InvalidArgument)."""
        others = self._others()
        for place, node in enumerate(others):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                break
            last = place == len(others) - 1
            seconds = left if last else min(left, ATTEMPT_SECONDS_MAX)
            try:
                return await self._replicas.read(node, self._number, request, options, seconds)
            except (ClusterError, Unavailable):
                continue
        raise refusal

    def _others(self) -> list[str]:
        leader = self._group.role().leader
        voters = sorted(self._group.configuration().voters - {self._self_id})
        return sorted(voters, key=lambda node: node != leader)
