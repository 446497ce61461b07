"""A `Consensus` that commits at once, in one process, with no log: tests and experiments."""

from __future__ import annotations

from collections.abc import Callable

from cluster.errors import ClusterError
from cluster.interfaces import CommittedBatch, GroupStatus, Role, StateMachine


class InMemoryGroup:
    """One member that always leads. Nothing survives the process."""

    def __init__(self, self_id: str, machine: StateMachine, group: int = 0) -> None:
        self._self_id = self_id
        self._machine = machine
        self._group = group
        self._index = max(machine.applied_index, 1)
        self.on_leader_change: Callable[[], None] = lambda: None

    def staleness_seconds(self) -> float:
        return 0.0

    def submit(self, command: bytes, done: Callable[[object, ClusterError | None], None]) -> None:
        self._index += 1
        results = self._machine.apply([CommittedBatch(self._index, 1, (command,))])
        done(results[0][0], None)

    def read_index(self, done: Callable[[int | None, ClusterError | None], None]) -> None:
        done(self._index, None)

    def when_applied(self, index: int, done: Callable[[], None]) -> None:
        """Everything submitted is applied, so nothing ever waits."""
        assert index <= self._index, "an index that was never handed out"
        done()

    def role(self) -> Role:
        return Role("leader", self._self_id, 1)

    def status(self) -> GroupStatus:
        index = self._index
        return GroupStatus(
            self._group, "leader", self._self_id, 1, index, index, index, index, {}, 0, True
        )
