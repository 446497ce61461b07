"""A replica whose state was found damaged: it drops the state, and gets another.

The log is whole and keeps this node's promises, so that it goes on voting and acknowledging
entries. What is applied is not to be believed any more, and is dropped at once; a leader hands
over. Then, in this order:

1. The node's own newest snapshot, if every byte and every record in it verifies, and the log
   above it. Or the log alone, if it was never cut.
2. A snapshot of the leader, which makes a fresh one for it (`CoreState.stateless`).

A state that verifies and yet differs from the majority's (`reseed_from`) says nothing about
which of this node's snapshots were made of it. They are set aside, and only 2 is left.

Until the state is back where it was (`CoreState.repair_floor`), nothing is answered from it.
The owner notes durably that the state is not to be used, before it is dropped (`on_begun`);
after a crash anywhere in between the node starts without a state, and `reconcile` goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from cluster.errors import CorruptSnapshot
from cluster.interfaces import Snapshots, StateMachine
from cluster.raft import SafeCore

logger = logging.getLogger(__name__)


class Repair:
    """The repair of one group's state. Loop thread only."""

    def __init__(
        self,
        core: SafeCore,
        machine: StateMachine,
        snapshots: Snapshots,
        installed: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """`installed`: a snapshot has become the state. `fail` stops the node."""
        self._core = core
        self._machine = machine
        self._snapshots = snapshots
        self._installed = installed
        self._fail = fail
        self._attempt = 0
        self._preparing = False
        self._announced = False
        self.on_begun: Callable[[str, int], None] = lambda reason, reseed_from: None
        self.on_done: Callable[[], None] = lambda: None

    def begin(self, reason: str, reseed_from: int = 0) -> None:
        """Drop the state. `reseed_from`: a log index at which it verified and was wrong; 0: it
        does not verify. Raises what the machine raises."""
        again = self._core.repairing
        self._attempt += 1
        self._announced = True
        self.on_begun(reason, reseed_from)
        self._core.drop_state(reseed_from)
        # What was rebuilt from our own and is damaged again speaks against our own.
        own = not reseed_from and not again
        self._snapshots.distrust(held=not own)
        self._machine.reset()
        self._core.held = own and self._usable()
        self._preparing = False

    def ended(self) -> None:
        """A snapshot of the leader has become the state."""
        self._attempt += 1
        self._preparing = False

    def check(self) -> None:
        """Go on with what can be done now. Every turn."""
        if self._core.held and not self._preparing and not self._snapshots.busy:
            self._preparing = True
            self._snapshots.prepare(partial(self._prepared, self._attempt))
        self._core.check_repaired()
        if self._announced and not self._core.repairing:
            self._announced = False
            logger.warning("the state is whole again, at entry %d", self._core.applied_index)
            self.on_done()

    def _usable(self) -> bool:
        """Is there a snapshot here that joins the log?"""
        newest = self._snapshots.newest
        return newest is not None and newest.index >= self._core.log_base

    def _prepared(self, attempt: int, error: Exception | None) -> None:
        """The newest snapshot was looked at, and is ready to be installed; or it was set aside."""
        if attempt != self._attempt:
            return
        self._preparing = False
        if error is not None and not isinstance(error, CorruptSnapshot):
            self._fail(error)
            return
        if error is None and self._snapshots.busy:
            return  # One is being received, into the same place: it comes first.
        if error is None:
            error = self._install()
        if error is not None:
            logger.error("%s; it is set aside", error)
            self._core.held = self._usable()

    def _install(self) -> Exception | None:
        meta = self._snapshots.newest
        if meta is None:
            return CorruptSnapshot("", "there is none any more")
        try:
            self._snapshots.install()
        except CorruptSnapshot as error:
            return error
        except Exception as error:
            self._fail(error)
            return None
        logger.info("the state is rebuilt from this node's own snapshot at %d", meta.index)
        self._core.adopt_snapshot(meta)
        self._installed()
        return None
