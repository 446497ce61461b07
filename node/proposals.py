"""Writes of one group: here if this node leads, otherwise at the leader, until the deadline.

What is certain to have had no effect is tried again until the deadline: no leader yet, a
peer that cannot be reached, a leader that just lost its place. What may have had an effect
is tried again only if the command carries a request id, which makes the retry harmless.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Protocol

from cluster.errors import (
    ClusterError,
    DiskFull,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerUnreachable,
    RemoteCallFailed,
)
from cluster.interfaces import Consensus
from engines.command import Checkpoint, Command, Configure, Expire, Sweep, encode
from engines.interfaces import Result
from node.errors import HivememError, OutOfSpace
from node.leadership import Leadership


class Elsewhere(Protocol):
    """How another node is asked."""

    async def propose(self, leader: str, command: bytes, timeout_seconds: float) -> Result:
        """Raises NotLeader, Overloaded, OutcomeUnknown, PeerUnreachable."""


class Proposals:
    """The write path of one group. Loop thread only."""

    def __init__(
        self,
        leadership: Leadership,
        group: Consensus | None,
        elsewhere: Elsewhere | None,
        attempt_seconds_max: float = math.inf,
    ) -> None:
        """`group`: where this node proposes if it leads; None: it never does.

        `attempt_seconds_max`: how long another node may take with what can be repeated.
        """
        self._leadership = leadership
        self._group = group
        self._elsewhere = elsewhere
        self._attempt_seconds_max = attempt_seconds_max
        self._loop = asyncio.get_running_loop()

    def leave(self, elsewhere: Elsewhere, attempt_seconds_max: float) -> None:
        """The group is here no more: what waits, and what comes yet, goes elsewhere."""
        self._group, self._elsewhere = None, elsewhere
        self._attempt_seconds_max = attempt_seconds_max

    async def propose(self, command: Command, deadline: float) -> Result:
        """Replicate one command and return its result (which may be a refusal).

        deadline: clock.monotonic() seconds. Raises Unavailable: QUORUM_NOT_REACHED,
        OVERLOADED or OUTCOME_UNKNOWN, whose `definite` says whether it may have applied;
        OutOfSpace, with the same.
        """
        encoded = encode(command)
        repeatable = (
            isinstance(command, Expire | Configure | Checkpoint | Sweep)
            or command.request_id is not None
        )
        applied_perhaps = False
        asked = self._leadership
        while True:
            try:
                leader = asked.leader
                if asked.leads and self._group is not None:
                    return await self._propose_here(self._group, encoded, deadline)
                if leader is not None and self._elsewhere is not None:
                    seconds = asked.remaining(deadline)
                    if repeatable:
                        seconds = min(seconds, self._attempt_seconds_max)
                    answer = self._elsewhere.propose(leader, encoded, seconds)
                    return await (asked.while_leading(leader, answer) if repeatable else answer)
            except Overloaded as error:
                raise asked.unavailable("OVERLOADED", str(error), not applied_perhaps) from error
            except DiskFull as error:
                # Other nodes would only ask the same leader.
                raise OutOfSpace(
                    str(error), definite=not applied_perhaps, leader=asked.address()
                ) from error
            except (NotLeader, PeerUnreachable, OutcomeUnknown, RemoteCallFailed) as error:
                applied_perhaps |= not error.definite
                if not error.definite and (not repeatable or asked.past(deadline)):
                    asked.outcome_unknown(error)
            if asked.past(deadline):
                asked.quorum_not_reached(applied_perhaps)
            await asked.pause(deadline)

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        """Replicate independent commands; each has its own result or error, in order."""
        outcomes = await asyncio.gather(
            *(self.propose(command, deadline) for command in commands), return_exceptions=True
        )
        results: list[Result | HivememError] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, HivememError):
                raise outcome
            results.append(outcome)
        return results

    async def _propose_here(self, group: Consensus, encoded: bytes, deadline: float) -> Result:
        future: asyncio.Future[Result] = self._loop.create_future()

        def done(result: object, error: ClusterError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def expire() -> None:
            if not future.done():
                future.set_exception(OutcomeUnknown("no quorum confirmed it in time"))

        timer = self._loop.call_later(self._leadership.remaining(deadline), expire)
        try:
            group.submit(encoded, done)
            return await future
        finally:
            timer.cancel()


class WritePath:
    """The writes of a router, which are its group's `Proposals` and nothing else."""

    def __init__(self, proposals: Proposals) -> None:
        self._proposals = proposals

    async def propose(self, command: Command, deadline: float) -> Result:
        """See `Proposals.propose`."""
        return await self._proposals.propose(command, deadline)

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        """See `Proposals.propose_many`."""
        return await self._proposals.propose_many(commands, deadline)
