"""What falls due in collections as time passes: the leader looks for it, and proposes it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from cluster.interfaces import Consensus
from engines.codec import pack_value
from engines.collection_reader import BEGINNING, Due, Place
from engines.command import CollectionCommand
from engines.interfaces import Rejected
from engines.registry import Registry
from node.clock import Clock
from node.errors import HivememError
from node.local_reads import Readers, ReaderThreads
from node.reads import Priority
from node.service import Router

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0  # between two rounds
LOOKS_MAX = 1_000  # of one round; the next one goes on from there
LOOK_SECONDS_MAX = 5.0
PAUSE_SECONDS = 0.05  # after a write: callers come first
PROPOSE_SECONDS_MAX = 5.0
SEED_BITS = 63


class CollectionUpkeep:
    """Runs on every node and acts only while this one leads. Loop thread only."""

    def __init__(
        self,
        self_id: str,
        group: Consensus,
        router: Router,
        readers: Readers,
        threads: ReaderThreads,
        registry: Registry,
        clock: Clock,
    ) -> None:
        self._self_id = self_id
        self._group = group
        self._router = router
        self._readers = readers
        self._threads = threads
        self._registry = registry
        self._clock = clock
        self._place: Place | None = BEGINNING

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self.round()

    async def round(self) -> int:
        """Look once at everything, as far as LOOKS_MAX goes; returns the writes that were made."""
        made = 0
        for _ in range(LOOKS_MAX):
            if not self._leads() or not self._group.status().room:
                break
            place = self._place or BEGINNING
            try:
                deadline = self._clock.monotonic() + LOOK_SECONDS_MAX
                due, self._place = await self._threads.offload(
                    partial(self._look, place), deadline, Priority.LOW
                )
            except HivememError as error:  # callers come first, or this replica has no state now
                logger.info("what is due in collections was not looked for: %s", error)
                break
            if due is not None:
                accepted = await self._propose(due)
                if accepted is None:
                    self._place = place
                    break
                if accepted:
                    made += 1
                else:  # others must not wait for it
                    self._place = Place(due.collection.key + b"\x00", b"")
                await asyncio.sleep(PAUSE_SECONDS)
            if self._place is None:
                break
        return made

    def _leads(self) -> bool:
        return self._group.role().leader == self._self_id

    def _look(self, place: Place) -> tuple[Due | None, Place | None]:
        """On a reader thread."""
        with self._readers() as reader:
            return reader.collections.upkeep(self._clock.now_ms(), place)

    async def _propose(self, due: Due) -> bool | None:
        """Whether it was done; None: that is not known, or it can be tried again."""
        collection = due.collection
        engine = self._registry.engines[collection.engine]
        body = pack_value(engine.prepare(due.operation, due.parameters))
        seed = self._clock.random().getrandbits(SEED_BITS)
        command = CollectionCommand(
            collection.namespace, collection.name, due.operation, body, self._clock.now_ms(), seed
        )
        deadline = self._clock.monotonic() + PROPOSE_SECONDS_MAX
        try:
            result = await self._router.propose(command, deadline)
        except HivememError as error:
            # It is found again in the next round; nothing was promised to anyone.
            logger.info("%s of %s was not confirmed: %s", due.operation, collection.name, error)
            return None
        if isinstance(result, Rejected):
            # The collection may have changed meanwhile.
            logger.info("%s of %s was refused: %s", due.operation, collection.name, result)
            return False
        return True
