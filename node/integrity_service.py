"""Comparisons and repairs that somebody asks for, over all groups of this node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from cluster.errors import ClusterError, PeerUnreachable
from cluster.interfaces import Consensus
from node.clock import Clock
from node.comparison import Compared, Refused
from node.errors import Conflict, NotFound, Unavailable


class Comparing(Protocol):
    """The part of node/comparison.py that is asked."""

    async def compare_anywhere(self, seconds: float) -> Compared: ...

    async def reseed(self, node: str, reason: str, seconds: float) -> None: ...


class GroupHere(Protocol):
    """The part of a replica that is asked."""

    id: int

    @property
    def group(self) -> Consensus: ...

    @property
    def comparison(self) -> Comparing: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one group. `compared` None: it could not be compared, and `error` says why."""

    group: int
    compared: Compared | None
    error: str | None

    def fields(self) -> dict[str, object]:
        found = asdict(self.compared) if self.compared else {"group": self.group}
        return {**found, "error": self.error}


class IntegrityService:
    """Loop thread only. Deadlines are `Clock.monotonic()` seconds."""

    def __init__(
        self, self_id: str, groups: Callable[[], Sequence[GroupHere]], clock: Clock
    ) -> None:
        self._self_id = self_id
        self._groups = groups
        self._clock = clock

    async def compare(self, *, leading: bool, deadline: float) -> list[Outcome]:
        """Compare the digests of every group that is here; `leading`: that this node leads."""
        chosen = [
            each
            for each in self._groups()
            if not leading or each.group.role().leader == self._self_id
        ]
        return list(await asyncio.gather(*(self._compare(each, deadline) for each in chosen)))

    async def _compare(self, here: GroupHere, deadline: float) -> Outcome:
        seconds = max(0.001, deadline - self._clock.monotonic())
        try:
            return Outcome(here.id, await here.comparison.compare_anywhere(seconds), None)
        except ClusterError as error:
            return Outcome(here.id, None, str(error))

    async def reseed(self, node: str, group: int | None, deadline: float) -> list[int]:
        """Have a node drop its states, or that of one group, and take the leaders'.

        Of the groups that are here, too. Returns those that began.
        Raises NotFound MEMBER_NOT_FOUND, Conflict REPAIR_REFUSED, Unavailable.
        """
        chosen = [
            each
            for each in self._groups()
            if group in (None, each.id) and each.group.configuration().member(node) is not None
        ]
        if not chosen:
            raise NotFound(
                f"node {node} holds no group that is here", code="MEMBER_NOT_FOUND", field="id"
            )
        for each in chosen:
            seconds = max(0.001, deadline - self._clock.monotonic())
            try:
                await each.comparison.reseed(node, "an operator asked for it", seconds)
            except Refused as error:
                raise Conflict(str(error), code="REPAIR_REFUSED") from error
            except PeerUnreachable as error:
                raise Unavailable(str(error), definite=error.definite) from error
            except ClusterError as error:
                raise Conflict(str(error), code="REPAIR_REFUSED") from error
        return [each.id for each in chosen]
