"""What only the leader does without being asked: expiry, removing what dropped collections
left, and bringing settings into the log.

Replicas never look at a clock: a record is there until an Expire command removes it, so
all of them agree at every index. The price is that a record outlives its deadline by up to
one interval and one commit, and by a failover if that falls in between.

Limits that shape the state are part of it (`Configure`): a leader that is configured
otherwise than the state says proposes its own. Peers with differing settings refuse each
other, so all possible leaders agree.
"""

from __future__ import annotations

import asyncio
import logging

from cluster.interfaces import Consensus
from engines.command import Configure, Expire, Sweep
from engines.interfaces import DueRecord, ExpireResult, Limits
from engines.state_machine import StateMachine
from node.clock import Clock
from node.errors import HivememError
from node.local_reads import Readers
from node.quarantine import ReplicaQuarantined
from node.service import Router

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2  # how often the leader looks for records that are due
SWEEP_ITEMS = 500  # items of dropped collections that one command removes
PROPOSE_SECONDS_MAX = 5.0  # deadline of one command


class LeaderDuties:
    """Runs on every node and acts only while this one leads. Loop thread only."""

    def __init__(
        self,
        self_id: str,
        group: Consensus,
        router: Router,
        machine: StateMachine,
        readers: Readers,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._self_id = self_id
        self._group = group
        self._router = router
        self._machine = machine
        self._readers = readers
        self._limits = limits
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if self._leads():
                await self.configure()
            while self._leads() and await self.tidy_once():
                pass

    def _leads(self) -> bool:
        return self._group.role().leader == self._self_id

    async def configure(self) -> None:
        """Bring the configured limits into the state if it has others."""
        if self._machine.limits == self._limits:
            return
        deadline = self._clock.monotonic() + PROPOSE_SECONDS_MAX
        try:
            await self._router.propose(Configure(self._limits), deadline)
        except HivememError as error:
            logger.info("the configured limits are not in force yet: %s", error)

    async def tidy_once(self) -> bool:
        """Propose the removal of a batch of what is due, or of what dropped collections left;
        True: there may be more."""
        now_ms = self._clock.now_ms()
        try:
            with self._readers() as reader:
                due = tuple(reader.due(now_ms, self._limits.expire_batch_max))
                dropped = reader.collections.dropped()
        except ReplicaQuarantined:
            return False  # Another node leads in a moment, or this one has its state again.
        if not (due or dropped) or not self._group.status().room:
            return False  # Without room on the disk nothing can be proposed.
        if due and await self._expire(due, now_ms):
            return True
        return dropped and await self._sweep()

    async def _expire(self, due: tuple[DueRecord, ...], now_ms: int) -> bool:
        deadline = self._clock.monotonic() + PROPOSE_SECONDS_MAX
        try:
            result = await self._router.propose(Expire(due, now_ms), deadline)
        except HivememError as error:
            # Expiry is repeated at the next interval; nothing was promised to anyone.
            logger.info("expiry of %d records was not confirmed: %s", len(due), error)
            return False
        full = len(due) == self._limits.expire_batch_max
        return full and isinstance(result, ExpireResult) and result.expired > 0

    async def _sweep(self) -> bool:
        deadline = self._clock.monotonic() + PROPOSE_SECONDS_MAX
        try:
            await self._router.propose(Sweep(SWEEP_ITEMS), deadline)
        except HivememError as error:
            logger.info("what dropped collections left was not removed yet: %s", error)
            return False
        return True
