"""The safe adapter: one Raft group on PySyncObj's core, with its known holes closed.

Theory of operation. `SafeCore` subclasses the audited PySyncObj 0.3.17 (`pinned.py`).
Upstream's private methods are looked up on `self` under their mangled names, so a
method called `_SyncObj__x` here replaces upstream's `__x` everywhere. What still runs
upstream: vote granting, becoming leader, the follower's append, truncation and commit.
What is replaced, and which hole of the audit that closes:

* `advance` and `replicate` instead of upstream's tick. The leader counts itself only up
  to its own fsynced index; entries are applied only once committed and durable here.
* The log is `RaftLog`: durable later than written. A vote, a pre-vote of a higher term
  or an ack waits in the outbox until what it claims is durable. Appends go out at once.
* Acks carry the term (P6) and a read sequence number (`reads.py`); a follower never
  truncates what matches (P2) nor commits past what an append proved (P1).
* Votes count once per sender and term (P9), from members with the folder that the
  configuration means; pre-vote and stickiness (P10); a leader without a majority of
  answers steps down within an election timeout (P11).
* Configurations live in the log, whole, one change at a time (P3, P12; `membership.py`).
* Snapshots are offered and pulled (`snapshot_transfer.py`), installed whole or not at all,
  and acknowledged for exactly what they hold (P1, P4, P5, P7, P14, P15).
* Upstream's pickle, forwarding, membership, version and snapshot paths are never reached:
  their message types do not exist on the wire (`messages.py`).

The parts: `raft_state.py` (what is known), `raft_members.py` (who belongs), `raft_election.py`,
`raft_leading.py`, `raft_following.py`. Loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Any

from cluster import messages
from cluster.interfaces import RaftLog, SnapshotMeta
from cluster.membership import Configuration
from cluster.messages import Message
from cluster.raft_election import Elections
from cluster.raft_following import Following
from cluster.raft_leading import Leading
from cluster.raft_members import Members
from cluster.raft_state import (
    CANDIDATE,
    FIRST_INDEX,
    FOLLOWER,
    LEADER,
    NEVER,
    FlowLimits,
    Identity,
    Peers,
)
from cluster.upstream import Node, RaftTiming

__all__ = [
    "CANDIDATE",
    "FIRST_INDEX",
    "FOLLOWER",
    "LEADER",
    "FlowLimits",
    "Identity",
    "Peers",
    "SafeCore",
]


class SafeCore(Elections, Leading, Following):
    """One group's consensus on one node. See the module's theory of operation."""

    def __init__(
        self,
        identity: Identity,
        bootstrap: Configuration,
        log: RaftLog,
        newest_snapshot: Callable[[], SnapshotMeta | None],
        applied_index: int,
        peers: Peers,
        timing: RaftTiming,
        flow: FlowLimits,
        rng: Random,
    ) -> None:
        """Raises ValueError: the state is ahead of the log."""
        self.on_pull: Callable[[str, Message], None] = lambda peer, message: None
        self.on_chunk: Callable[[str, Message], None] = lambda peer, message: None
        super().__init__(identity, bootstrap, log, newest_snapshot, peers, timing, flow, rng)
        self._restore(applied_index)

    # --- Events --------------------------------------------------------------------

    def peer_connected(self, peer: str) -> None:
        node = self._nodes.get(peer)
        if node is None:
            return
        flow = self._flows[peer]
        flow.restart()
        self._judge(peer)
        if self.state == LEADER:
            # What was in flight on the old connection is lost; resume at what is proven.
            match = self._SyncObj__raftMatchIndex[node]
            next_index = match + 1 if match > FIRST_INDEX else self._probe_index()
            self._SyncObj__raftNextIndex[node] = next_index
            self._heartbeat_at = NEVER
        self._SyncObj__onNodeConnected(node)
        self._tell_members(peer)

    def peer_disconnected(self, peer: str) -> None:
        node = self._nodes.get(peer)
        if node is None:
            return
        self._flows[peer].restart()
        self._SyncObj__onNodeDisconnected(node)
        if self.leader == peer:
            self._leader_heard_at = NEVER
            soon = self.now() + self._rng.random() * self._timing.disconnect_seconds_max
            deadline = min(self._SyncObj__raftElectionDeadline, soon)
            self._SyncObj__raftElectionDeadline = deadline

    def receive(self, peer: str, frame: bytes) -> None:
        """Handle one frame of a peer. Raises messages.MalformedMessage."""
        node = self._nodes.get(peer)
        if node is not None:
            self._SyncObj__onMessageReceived(node, messages.decode(frame))

    def advance(self) -> None:
        """Timers and commit. Call after events and at least every heartbeat."""
        now = self.now()
        if self.state != LEADER:
            if now > self._SyncObj__raftElectionDeadline:
                self._election_is_due(now)
        else:
            self._advance_commit()
            self._advance_transfer()
            self._retire_if_removed()
            # Its answer changes slowly, and a busy leader has thousands of turns a second.
            if now - self._quorum_checked_at >= self._timing.heartbeat_seconds / 4:
                self._quorum_checked_at = now
                self._check_quorum(now)
        self._settle(now)

    def replicate(self) -> None:
        """Hand the log to its writer and, as leader, send what followers lack."""
        self._log.flush()
        if self.state == LEADER:
            self._replicate(self.now())

    @property
    def due_at(self) -> float:
        """When `advance` or `replicate` has something to do, if nothing happens until then.

        What else they look at (a quorum that is gone, a stalled disk) may wait for a heartbeat.
        """
        if self.state == LEADER:
            return min(self._heartbeat_at, self._commit_due_at)
        return self._SyncObj__raftElectionDeadline

    def applicable_index(self) -> int:
        """Highest index that may be applied now."""
        if self.stateless or self.held:
            return 0
        return min(self.commit_index, self._log.durable_index)

    def set_applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index
        self._check_current()
        self.check_repaired()

    def _SyncObj__onMessageReceived(self, node: Node, message: Message) -> None:
        self._HANDLERS[message["type"]](self, node, message)

    def _on_snapshot_pull(self, node: Node, message: Message) -> None:
        self._flows[node.id].snapshot_index = message["index"]
        self.on_pull(node.id, message)

    def _on_snapshot_chunk(self, node: Node, message: Message) -> None:
        self.on_chunk(node.id, message)

    _HANDLERS: dict[str, Callable[[Any, Node, Message], None]] = {  # noqa: RUF012
        "request_vote": Elections._on_request_vote,
        "response_vote": Elections._on_vote,
        "pre_vote": Elections._on_pre_vote,
        "pre_vote_response": Elections._on_pre_vote_response,
        "timeout_now": Elections._on_timeout_now,
        "append_entries": Following._on_append,
        "snapshot_offer": Following._on_snapshot_offer,
        "next_node_idx": Leading._on_ack,
        "snapshot_pull": _on_snapshot_pull,
        "snapshot_chunk": _on_snapshot_chunk,
        "members": Members._on_members,
    }
