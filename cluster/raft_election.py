"""Elections: pre-vote, votes, stickiness, who may vote, and handing over leadership."""

from __future__ import annotations

from cluster import entry as entries_codec
from cluster.interfaces import LogEntry
from cluster.messages import Message
from cluster.raft_members import Members
from cluster.raft_state import CANDIDATE, LEADER, NEVER
from cluster.upstream import Node

_PATIENCE_TIMEOUTS = 3  # elections that a node which is not fit leaves to others


class Elections(Members):
    """How a leader comes into office."""

    # --- Campaigning ---------------------------------------------------------------

    def _election_is_due(self, now: float) -> None:
        """No leader was heard for an election timeout."""
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        if self._SyncObj__raftLeader is not None:
            self._SyncObj__raftLeader = None
            self.on_leader_change()
        if self._can_lead(now):
            self._ask_for_pre_votes()

    def _can_lead(self, now: float) -> bool:
        if not self.may_lead or self.last_term is None or self._disk_is_stalled(now):
            return False
        if not self.fit and self._timeouts < _PATIENCE_TIMEOUTS:
            self._timeouts += 1  # Somebody else should lead; but somebody must.
            return False
        alone = not self.voter_peers
        return alone or any(node.id in self.voter_peers for node in self._SyncObj__connectedNodes)

    def _ask_for_pre_votes(self) -> None:
        """Ask whether an election could be won, without disturbing anyone's term (P10)."""
        self._pre_vote_round = (self._pre_vote_round + 1) & 0xFFFFFFFF
        self._pre_votes = {self._identity.id}
        for peer in sorted(self.voter_peers):
            self._emit(
                peer,
                {
                    "type": "pre_vote",
                    "term": self.term + 1,
                    "round": self._pre_vote_round,
                    "last_log_index": self._log.last_index,
                    "last_log_term": self.last_term,
                },
            )
        self._campaign_if_supported()

    def _campaign_if_supported(self) -> None:
        if self._count(self._pre_votes) >= self.majority:
            self._campaign(transfer=False)

    def _count(self, supporters: set[str]) -> int:
        """Voters among them, this node included, whose word counts."""
        others = self.voter_peers & supporters
        trusted = sum(self._flows[peer].trusted for peer in others)
        return trusted + (self.is_voter and self._identity.id in supporters)

    def _campaign(self, *, transfer: bool) -> None:
        """Ask for votes. `transfer`: the leader asked for it, so voters need not wait."""
        self._pre_votes = set()
        self._SyncObj__raftElectionDeadline = self.now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term + 1, self._identity.id)
        self._votes = {self._identity.id}
        for peer in sorted(self.voter_peers):
            self._emit(
                peer,
                {
                    "type": "request_vote",
                    "term": self.term,
                    "last_log_index": self._log.last_index,
                    "last_log_term": self.last_term,
                    "transfer": transfer,
                },
            )
        self.on_leader_change()
        self._win_if_elected()

    def _win_if_elected(self) -> None:
        if self.state == CANDIDATE and self._count(self._votes) >= self.majority:
            self._SyncObj__onBecomeLeader()

    def _SyncObj__onBecomeLeader(self) -> None:
        for flow in self._flows.values():
            flow.restart()
            flow.full = flow.stateless = False
        self._transfer = None
        super()._SyncObj__onBecomeLeader()
        if self.configuration.index == 0:
            self._write_bootstrap_configuration()
        self.on_leader_change()

    def _write_bootstrap_configuration(self) -> None:
        """Bring the initial members from the settings file into the log, once.

        The voters stay the same, so this is no change; from here on the log says who is a
        member, where, and with which data folder.
        """
        members = []
        for member in self.configuration.members:
            if member.id == self._identity.id:
                known = self._identity.incarnation
            else:
                known = self._peers.recorded(member.id) or ""
            members.append(member._replace(incarnation=member.incarnation or known))
        index = self._log.last_index + 1
        payload = entries_codec.pack_membership(members)
        self._log.append([LogEntry(index, self.term, payload)])
        self._entry_added(index, payload)

    # --- Voting --------------------------------------------------------------------

    def _log_is_current(self, message: Message) -> bool:
        """Is the sender's log at least as up to date as ours? (Raft, 5.4.1)"""
        theirs = (message["last_log_term"], message["last_log_index"])
        own = (self._SyncObj__getCurrentLogTerm(), self._log.last_index)
        return bool(theirs >= own)

    def _may_vote(self, node: Node) -> bool:
        """Could this node, or the one that asks, have forgotten a vote or an ack? Then there
        is no vote: a candidate's own counts, too.

        What a node forgot, the others know: they met its former folder, or their log names
        it, and count nothing that comes from another (`_judge`). As soon as its own log
        names a folder, the node can tell by itself.
        """
        if not self._flows[node.id].trusted:
            return False
        if self.configuration.index == 0:
            return self.is_voter  # One that joins has no vote before the log gives it one.
        own = self.configuration.member(self._identity.id)
        return own is None or own.incarnation in ("", self._identity.incarnation)

    def _on_pre_vote(self, node: Node, message: Message) -> None:
        granted = (
            message["term"] > self.term
            and self._log_is_current(message)
            and not self._leader_is_fresh()
            and self._may_vote(node)
        )
        self._emit(
            node.id,
            {
                "type": "pre_vote_response",
                "term": self.term,
                "round": message["round"],
                "granted": granted,
            },
        )

    def _on_pre_vote_response(self, node: Node, message: Message) -> None:
        if message["term"] > self.term:
            self._step_down(message["term"])
        elif message["granted"] and message["round"] == self._pre_vote_round and self._pre_votes:
            self._pre_votes.add(node.id)
            self._campaign_if_supported()

    def _on_request_vote(self, node: Node, message: Message) -> None:
        if message["term"] < self.term or not self._may_vote(node):
            return
        if self._leader_is_fresh() and not message["transfer"]:
            return
        before = (self.term, self.state)
        super()._SyncObj__onMessageReceived(node, message)
        if before != (self.term, self.state):
            self._transfer = None
            self.on_leader_change()

    def _on_vote(self, node: Node, message: Message) -> None:
        """Votes count once per voter and term (P9), and only from members (section 8)."""
        if message["term"] == self.term:
            self._votes.add(node.id)
            self._win_if_elected()

    # --- Handing over --------------------------------------------------------------

    @property
    def transferring(self) -> bool:
        """Is leadership being handed over? Nothing new is proposed meanwhile."""
        return self._transfer is not None

    def heir(self) -> str | None:
        """The voter that could take over soonest; None if none can be reached."""
        able = [
            (self._SyncObj__raftMatchIndex[node], node.id)
            for node in self._SyncObj__connectedNodes
            if node.id in self.voter_peers
            and self._flows[node.id].trusted
            and not self._flows[node.id].full
            and not self._flows[node.id].stateless
        ]
        return max(able)[1] if able else None

    def begin_transfer(self, target: str) -> None:
        """Leader: stop proposing and, once `target` has everything, let it campaign."""
        self._transfer = (target, False)

    def cancel_transfer(self) -> None:
        self._transfer = None

    def _advance_transfer(self) -> None:
        if self._transfer is None or self._transfer[1]:
            return
        target = self._transfer[0]
        node = self._nodes.get(target)
        if node is not None and self._SyncObj__raftMatchIndex[node] == self._log.last_index:
            sent = self._emit(target, {"type": "timeout_now", "term": self.term})
            self._transfer = (target, sent)

    def _on_timeout_now(self, node: Node, message: Message) -> None:
        """The leader hands over: only the current one, in the current term, can."""
        if message["term"] == self.term and node.id == self.leader and self.state != LEADER:
            self._leader_heard_at = NEVER
            if self.is_voter and self.last_term is not None:
                self._campaign(transfer=True)
