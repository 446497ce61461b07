"""What a leader does: replicate, count, commit, change members, and give way in time."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from cluster import entry as entries_codec
from cluster import membership, messages
from cluster.errors import ChangeRefused
from cluster.interfaces import LogEntry
from cluster.membership import Change, Member, Promote, Remove
from cluster.messages import Message
from cluster.raft_members import Members
from cluster.raft_state import FIRST_INDEX, LEADER, NEVER, Flow
from cluster.upstream import Node

# A commit goes with the next entry. If none follows, it goes by itself after this long, at once
# where somebody waits for it: a follower's state may be that much staler for it.
COMMIT_SECONDS_MAX: Final = 0.02


class Leading(Members):
    """The leader's half of replication."""

    # --- Appending -----------------------------------------------------------------

    def append(self, commands: Sequence[bytes]) -> tuple[int, int]:
        """Leader only: append one entry with these commands; returns (index, term)."""
        return self._append(entries_codec.pack(commands))

    def append_configuration(self, members: Sequence[Member]) -> tuple[int, int]:
        """Leader only: append a configuration, in force at once; returns (index, term)."""
        payload = entries_codec.pack_membership(members)
        index, term = self._append(payload)
        self._entry_added(index, payload)
        return index, term

    def _append(self, payload: bytes) -> tuple[int, int]:
        assert self.state == LEADER
        index = self._log.last_index + 1
        self._log.append([LogEntry(index, self.term, payload)])
        return index, self.term

    # --- Sending -------------------------------------------------------------------

    def _replicate(self, now: float) -> None:
        """Send new entries, the commit index and heartbeats to every connected follower."""
        self._commit_due_at = inf
        heartbeat = now >= self._heartbeat_at
        if heartbeat:
            self._heartbeat_at = now + self._timing.heartbeat_seconds
        frames: dict[int, tuple[bytes, int, int]] = {}  # next index -> frame, last, bytes
        for peer, flow in self._flows.items():
            node = self._nodes[peer]
            if node not in self._SyncObj__connectedNodes or not flow.trusted:
                continue
            if self._needs_snapshot(node, flow):
                # At most one offer per heartbeat, whether or not there is one yet (P15).
                if heartbeat:
                    self._offer_snapshot(node, flow)
                continue
            sent = not flow.full and self._send_entries(node, flow, frames)
            if heartbeat and flow.stateless:
                self._offer_snapshot(node, flow)
            elif not sent and (heartbeat or self._owes_commit(node, flow, now)):
                self._send_heartbeat(node, flow)

    def _owes_commit(self, node: Node, flow: Flow, now: float) -> bool:
        """Is a follower to hear by itself of a commit that no entry has taken along?

        It commits no further than its log is proven to be ours, so that more is no news.
        """
        useful = min(self.commit_index, self._SyncObj__raftMatchIndex[node])
        if flow.commit_sent >= useful:
            return False
        if flow.commit_owed_since is None:
            flow.commit_owed_since = now
        due_at = flow.commit_owed_since + COMMIT_SECONDS_MAX
        if flow.commit_awaited or now >= due_at:
            return True
        self._commit_due_at = min(self._commit_due_at, due_at)
        return False

    def _needs_snapshot(self, node: Node, flow: Flow) -> bool:
        """Does it lack entries that this log does not hold any more?"""
        next_index: int = self._SyncObj__raftNextIndex[node]
        if next_index > self._log.first_index:
            return False
        return self.term_at(next_index - 1) is None

    def _offer_snapshot(self, node: Node, flow: Flow) -> None:
        """Say which snapshot there is; the follower pulls it. Also serves as a heartbeat."""
        snapshot = self.snapshot
        if snapshot is None:
            self._send_heartbeat(node, flow)
            return
        # What it pulls already counts (`_on_snapshot_pull`), though there is a newer one now.
        flow.snapshot_index = flow.snapshot_index or snapshot.index
        frame = messages.encode_offer(self.term, self.commit_index, self.read_seq, snapshot)
        self._peers.send(node.id, frame, False)

    def wants_fresh_snapshot(self) -> bool:
        """Does a follower lack its state, and may every snapshot here be too old for it?

        Its log begins somewhere at or below what was committed when it said so.
        """
        return any(
            flow.stateless and not flow.refreshed and self.applied_index >= flow.needed_from
            for flow in self._flows.values()
        )

    def fresh_snapshot_begun(self) -> None:
        for flow in self._flows.values():
            flow.refreshed = flow.stateless and self.applied_index >= flow.needed_from

    def _send_entries(
        self, node: Node, flow: Flow, frames: dict[int, tuple[bytes, int, int]]
    ) -> bool:
        """Send what the follower lacks, within its window; frames are shared by followers."""
        next_index = self._SyncObj__raftNextIndex[node]
        sent = False
        while (
            next_index <= self._log.last_index
            and flow.sent_bytes < self._flow_limits.inflight_bytes_max
            and not (flow.probing and flow.sent)
        ):
            if next_index not in frames:
                frames[next_index] = self._encode_entries(next_index)
            frame, last, size = frames[next_index]
            if not self._peers.send(node.id, frame, True):
                return sent
            flow.probe_index = next_index
            flow.sent.append((last, size))
            flow.sent_bytes += size
            flow.commit_told(min(self.commit_index, last))
            next_index = last + 1
            self._SyncObj__raftNextIndex[node] = next_index
            sent = True
        return sent

    def _encode_entries(self, next_index: int) -> tuple[bytes, int, int]:
        limit = self._flow_limits.append_bytes_max
        entries = self._log.read(next_index, self._log.last_index + 1, limit)
        prev_term = self.term_at(next_index - 1)
        assert prev_term is not None, "a follower that needs a snapshot is sent entries"
        frame = messages.encode_append(
            self.term, self.commit_index, next_index - 1, prev_term, self.read_seq, entries
        )
        return frame, entries[-1].index, sum(len(entry.payload) for entry in entries)

    def _send_heartbeat(self, node: Node, flow: Flow) -> None:
        """An empty append at the follower's proven match index.

        Upstream sends it at the optimistic next index; on a lane that overtakes entries
        that would look like a gap and make the follower ask for everything again. Where
        the log begins above the match, index 0 stands for "nothing is claimed".
        """
        match = max(self._SyncObj__raftMatchIndex[node], FIRST_INDEX)
        term = self.term_at(match)
        if term is None:
            match, term = 0, 0
        frame = messages.encode_append(self.term, self.commit_index, match, term, self.read_seq, ())
        if self._peers.send(node.id, frame, False):
            flow.commit_told(min(self.commit_index, match))

    def broadcast_heartbeat(self) -> None:
        """Leader: make the next turn send a heartbeat to everyone (a read round began)."""
        self._heartbeat_at = NEVER

    def _SyncObj__sendAppendEntries(self) -> None:
        """Upstream calls this when it becomes leader; the next turn does the sending."""
        self._heartbeat_at = NEVER

    # --- Hearing -------------------------------------------------------------------

    def _on_ack(self, node: Node, message: Message) -> None:
        """An answer to an append. Upstream moves nextIndex back on every ack, which sends
        everything in flight again; here it only moves back on a reset above the match."""
        if message["term"] > self.term:
            self._step_down(message["term"])
        flow = self._flows[node.id]
        if message["term"] != self.term or self.state != LEADER or not flow.trusted:
            return
        self._SyncObj__lastResponseTime[node] = self.now()
        self.on_read_echo(node.id, message["read_seq"])
        flow.full = message["full"]
        flow.commit_awaited |= message["awaited"]
        if message["stateless"] != flow.stateless:
            flow.stateless = message["stateless"]
            flow.needed_from = max(self.commit_index, self._SyncObj__noopIDx)
            flow.refreshed = False
        next_index = message["next_node_idx"]
        match_before = self._SyncObj__raftMatchIndex[node]
        if message["success"]:
            match = next_index - 1
            assert match <= self._log.last_index, "acknowledged beyond the leader's log"
            if match > match_before:
                self._SyncObj__raftMatchIndex[node] = match
                self._SyncObj__raftNextIndex[node] = max(
                    self._SyncObj__raftNextIndex[node], next_index
                )
            while flow.sent and flow.sent[0][0] <= match:
                flow.probing = False
                flow.sent_bytes -= flow.sent.popleft()[1]
            if flow.full:
                # It dropped what is in flight; go on from here once it has room.
                flow.restart()
                self._SyncObj__raftNextIndex[node] = max(match, match_before) + 1
        elif message["reset"] and next_index <= match_before:
            self._forgotten(node, flow, next_index)
        elif message["reset"]:
            if flow.probing and flow.sent and next_index >= flow.probe_index:
                return  # the refusal of an append that was sent before the probe
            flow.restart()
            self._SyncObj__raftNextIndex[node] = min(next_index, self._log.last_index + 1)

    def _forgotten(self, node: Node, flow: Flow, next_index: int) -> None:
        """A peer asks for what it had acknowledged. Of a voter that is an old message, or it
        broke its word: what it acknowledged may be committed. A learner counts for nothing;
        its replica may have been made anew, and would wait for ever."""
        if node.id in self.voter_peers:
            return
        flow.restart()
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__raftNextIndex[node] = max(next_index, FIRST_INDEX + 1)

    # --- Committing, and giving way ------------------------------------------------

    def _advance_commit(self) -> None:
        """Commit what a majority holds durably, if it is of the own term (Raft, 5.4.2)."""
        held = [self._SyncObj__raftMatchIndex[self._nodes[peer]] for peer in self.voter_peers]
        if self.is_voter:
            held.append(self._log.durable_index)
        held.sort(reverse=True)
        candidate = held[self.majority - 1]
        if candidate > self.commit_index and self._log.term_at(candidate) == self.term:
            self._SyncObj__raftCommitIndex = candidate

    def answering(self, now: float) -> frozenset[str]:
        """Voters that count and answered within an election timeout; this node, too."""
        oldest = now - self._timing.election_seconds_max
        heard = {
            peer
            for peer in self.voter_peers
            if self._flows[peer].trusted
            and self._SyncObj__lastResponseTime[self._nodes[peer]] > oldest
        }
        return frozenset(heard | ({self._identity.id} if self.is_voter else set()))

    def _check_quorum(self, now: float) -> None:
        """Step down when no majority has answered for an election timeout (P11), or when the
        own disk does not finish: followers would see a healthy leader that commits nothing."""
        if len(self.answering(now)) < self.majority or self._disk_is_stalled(now):
            self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
            self._become_follower()

    def _retire_if_removed(self) -> None:
        """A leader that led only to commit its own removal has done so."""
        done = self.commit_index >= self.configuration.index
        if self.state == LEADER and not self.is_voter and done:
            self._become_follower()

    # --- Members -------------------------------------------------------------------

    def changed_members(self, change: Change) -> tuple[Member, ...]:
        """The members after a change that may be made now. Raises ChangeRefused.

        One at a time, and only after an entry of the own term is committed (P3; Ongaro 2015,
        "bug in single-server membership changes"), or two majorities might not overlap.
        """
        if not self.noop_committed:
            raise ChangeRefused("the leader is new and has not committed anything yet")
        if self.configuration.index > self.commit_index:
            raise ChangeRefused("another change of the members is under way")
        if self.transferring:
            raise ChangeRefused("leadership is being handed over")
        members = membership.changed(self.configuration, change)
        if isinstance(change, Promote):
            self._check_promotion(change.id)
        if isinstance(change, Remove) and change.id == self._identity.id:
            raise ChangeRefused("the leader cannot remove itself: hand over leadership first")
        if isinstance(change, Promote | Remove):
            self._check_quorum_after(members)
        return members

    def _check_promotion(self, learner: str) -> None:
        if learner in self.configuration.voters:
            return
        flow = self._flows[learner]
        node = self._nodes[learner]
        if node not in self._SyncObj__connectedNodes or not flow.trusted:
            raise ChangeRefused("the learner is not connected")
        match = self._SyncObj__raftMatchIndex[node]
        lag = self._log.last_index - match
        # It has to hold the entry that admitted it: before that it would not vote, and with
        # one more folder lost nobody could be elected.
        admitted = match >= self.configuration.index
        if flow.stateless or not admitted or lag > self._flow_limits.promote_lag_entries_max:
            raise ChangeRefused(f"the learner lags by {lag} entries")

    def _check_quorum_after(self, members: Sequence[Member]) -> None:
        """Refuse a change after which fewer members answer than a majority needs."""
        voters = {member.id for member in members if member.voter}
        joined = voters - self.configuration.voters  # checked: connected and caught up
        # One that has just died answered a moment ago; its closed connection says more.
        connected = {node.id for node in self._SyncObj__connectedNodes} | {self._identity.id}
        answering = ((self.answering(self.now()) & connected) | joined) & voters
        majority = len(voters) // 2 + 1
        if len(answering) < majority:
            raise ChangeRefused(
                f"{len(answering)} of then {len(voters)} voters answer; a majority is {majority}"
            )

    def kept_index(self) -> int:
        """The lowest log index that a connected follower still needs from this leader."""
        needed = [self._log.last_index + 1]
        for node in self._SyncObj__connectedNodes if self.state == LEADER else ():
            flow = self._flows[node.id]
            match = max(self._SyncObj__raftMatchIndex[node], flow.snapshot_index)
            if match:
                needed.append(match + 1)
        return min(needed)
