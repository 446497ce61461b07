"""A `Consensus` that commits at once, in one process, with no log: tests and experiments."""

from __future__ import annotations

from collections.abc import Callable

from cluster import membership
from cluster.errors import ChangeRefused, ClusterError
from cluster.interfaces import CommittedBatch, GroupStatus, Role, StateMachine
from cluster.membership import Change, Configuration, Member


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
        batch = CommittedBatch(self._index, 1, (command,))
        results = self._machine.apply([batch], lambda batch, results: None)
        done(results[0][0], None)

    def read_index(self, done: Callable[[int | None, ClusterError | None], None]) -> None:
        done(self._index, None)

    def when_applied(self, index: int, done: Callable[[], None]) -> None:
        """Everything submitted is applied, so nothing ever waits."""
        assert index <= self._index, "an index that was never handed out"
        done()

    def catch_up(self) -> None:
        """Nothing is ever put off."""

    def role(self) -> Role:
        return Role("leader", self._self_id, 1)

    def committed_configuration(self) -> Configuration:
        return self.configuration()

    def configuration(self) -> Configuration:
        return membership.bootstrap([Member(self._self_id)])

    def change_membership(
        self, change: Change, done: Callable[[object, ClusterError | None], None]
    ) -> None:
        done(None, ChangeRefused("a group in memory has one member"))

    def transfer_leadership(
        self, target: str | None, done: Callable[[object, ClusterError | None], None]
    ) -> None:
        done(None, ChangeRefused("a group in memory has one member", "target"))

    def status(self) -> GroupStatus:
        index = self._index
        return GroupStatus(
            group=self._group,
            role="leader",
            leader=self._self_id,
            term=1,
            last_index=index,
            durable_index=index,
            commit_index=index,
            applied_index=index,
            match_index={},
            proposals_inflight=0,
            has_quorum=True,
            configuration=self.configuration(),
            snapshot_index=0,
            log_first_index=1,
            room=True,
        )
