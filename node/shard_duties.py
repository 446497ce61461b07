"""What is left of dropped collections of several shards, removed without being asked.

Who drops one drops its parts as well. If that node, or one of the partitions, fails in between,
the home's record of it stays, and the leader of the partition where it is finishes what was begun.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from engines.errors import ReadersBusy
from node.clock import Clock
from node.errors import HivememError
from node.partitions import Partitions
from node.quarantine import ReplicaQuarantined
from node.sharded_collections import ShardedCollections

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 10.0
DROP_SECONDS_MAX: Final = 10.0  # of one collection
HOMES_MAX: Final = 100  # of one partition and round


class ShardDuties:
    """Runs on every node, for the partitions that it leads. Loop thread only."""

    def __init__(
        self, self_id: str, partitions: Partitions, collections: ShardedCollections, clock: Clock
    ) -> None:
        self._self_id = self_id
        self._partitions = partitions
        self._collections = collections
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while self._partitions.count:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self.round()

    async def round(self) -> int:
        """Finish what is left; returns how many collections."""
        finished = 0
        for replica in self._partitions.data():
            if replica.group.role().leader != self._self_id:
                continue
            try:
                with replica.readers() as reader:
                    left = reader.collections.dropping(HOMES_MAX)
            except (ReplicaQuarantined, ReadersBusy):
                continue  # another node leads in a moment; or in the next round
            for home in left:
                deadline = self._clock.monotonic() + DROP_SECONDS_MAX
                try:
                    await self._collections.finish_drop(home, deadline)
                except HivememError as error:
                    logger.info("parts of %s are not dropped yet: %s", home.name, error)
                    continue
                finished += 1
        return finished
