"""Handing leadership to another voter, with an answer that says what happened."""

from __future__ import annotations

from collections.abc import Callable

from cluster import raft
from cluster.errors import ChangeRefused, ClusterError, NotLeader, OutcomeUnknown
from cluster.raft import SafeCore

Done = Callable[[object, ClusterError | None], None]


class LeadershipTransfer:
    """At most one at a time. Proposals are refused meanwhile, so it has a deadline: one
    election timeout, after which the leader goes on (Ongaro 2014, section 3.10)."""

    def __init__(self, core: SafeCore, seconds_max: float) -> None:
        self._core = core
        self._seconds_max = seconds_max
        self._done: Done | None = None
        self._deadline = 0.0

    def begin(self, target: str | None, done: Done) -> None:
        core = self._core
        chosen = target or core.heir()
        if core.state != raft.LEADER:
            done(None, NotLeader(core.leader))
        elif self._done is not None:
            done(None, ChangeRefused("leadership is being handed over already"))
        elif core.configuration.index > core.commit_index:
            done(None, ChangeRefused("a change of the members is under way"))
        elif chosen is None:
            done(None, ChangeRefused("no other voter is connected", "target"))
        elif chosen not in core.configuration.voters:
            done(None, ChangeRefused(f"node {chosen} is not a voter", "target"))
        elif chosen not in core.voter_peers:
            done(chosen, None)  # It leads already.
        else:
            self._done = done
            self._deadline = core.now() + self._seconds_max
            core.begin_transfer(chosen)

    def check(self) -> None:
        """Answer when another leader is known, or when it took too long. Every turn."""
        if self._done is None:
            return
        core = self._core
        leader = core.leader
        if core.state != raft.LEADER and leader is not None:
            self._answer(leader, None)
        elif core.now() > self._deadline and core.state == raft.LEADER:
            core.cancel_transfer()
            why = "the other node did not take over in time"
            self._answer(None, ChangeRefused(why, "target"))
        elif core.now() > self._deadline:
            self._answer(None, OutcomeUnknown("leadership ended, and no new leader is known yet"))

    def _answer(self, result: object, error: ClusterError | None) -> None:
        done, self._done = self._done, None
        assert done is not None
        done(result, error)
