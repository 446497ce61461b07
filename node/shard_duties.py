"""What is left of dropped collections of several shards, removed without being asked.

Who drops one drops its parts as well. If that node, or one of the partitions, fails in between,
the home's record of it stays, and the leader of the partition where it is finishes what was begun.

Now and then a leader looks for parts without a home, too: partitions of a backup are each of a
moment of their own, so that one may hold parts of what was dropped a moment later.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from engines.collection_reader import Part
from engines.errors import EngineError, ReadersBusy
from node.clock import Clock
from node.errors import HivememError
from node.partitions import Partitions
from node.quarantine import ReplicaQuarantined
from node.replica import Replica
from node.sharded_collections import ShardedCollections

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 10.0
DROP_SECONDS_MAX: Final = 10.0  # of one collection, or part
HOMES_MAX: Final = 100  # of one partition and round
PARTS_MAX: Final = 10  # of one partition and round that are asked for their home


class ShardDuties:
    """Runs on every node, for the partitions that it leads. Loop thread only."""

    def __init__(
        self, self_id: str, partitions: Partitions, collections: ShardedCollections, clock: Clock
    ) -> None:
        self._self_id = self_id
        self._partitions = partitions
        self._collections = collections
        self._clock = clock
        self._asked: dict[int, Part | None] = {}  # by partition: the part that was asked for last

    async def run(self) -> None:
        """Until cancelled."""
        while self._partitions.count:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self.round()

    async def round(self) -> int:
        """Finish what is left; returns how many collections and parts."""
        finished = 0
        for replica in self._partitions.data():
            if replica.group.role().leader != self._self_id:
                self._asked.pop(replica.id, None)
                continue
            try:
                finished += await self._finish_drops(replica)
                finished += await self._drop_orphans(replica)
            except (ReplicaQuarantined, ReadersBusy):
                continue  # another node leads in a moment; or in the next round
        return finished

    async def _finish_drops(self, replica: Replica) -> int:
        with replica.readers() as reader:
            left = reader.collections.dropping(HOMES_MAX)
        finished = 0
        for home in left:
            try:
                await self._collections.finish_drop(home, self._deadline())
            except HivememError as error:
                logger.info("parts of %s are not dropped yet: %s", home.name, error)
                continue
            finished += 1
        return finished

    async def _drop_orphans(self, replica: Replica) -> int:
        """Of some parts; the others in the rounds to come, and then from the beginning."""
        with replica.readers() as reader:
            some = reader.collections.parts(self._asked.get(replica.id), PARTS_MAX)
        self._asked[replica.id] = some[-1] if len(some) == PARTS_MAX else None
        dropped = 0
        for namespace, name in some:
            try:
                dropped += await self._collections.drop_orphan(namespace, name, self._deadline())
            except (HivememError, EngineError) as error:
                logger.info("whether %s has a home is not known: %s", name, error)
        if dropped:
            logger.info("partition %d: dropped %d parts without home", replica.id, dropped)
        return dropped

    def _deadline(self) -> float:
        return self._clock.monotonic() + DROP_SECONDS_MAX
