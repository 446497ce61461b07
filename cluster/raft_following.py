"""What a follower does: accept a leader's entries and snapshots, and nothing else's."""

from __future__ import annotations

from cluster import entry as entries_codec
from cluster.interfaces import SnapshotMeta
from cluster.messages import Message
from cluster.raft_members import Members
from cluster.raft_state import LEADER, NEVER
from cluster.upstream import Node


class Following(Members):
    """The follower's half of replication."""

    def _on_append(self, node: Node, message: Message) -> None:
        """Accept a leader's append: skip what matches, truncate only a real conflict (P2)."""
        if not self._heed(node, message):
            return
        followed = (self.term, self.leader)
        self._accept_entries(node, message)
        if followed != (self.term, self.leader):
            self.on_leader_change()

    def _heed(self, node: Node, message: Message) -> bool:
        """Is this from the leader of the newest term? Then note that it was heard."""
        if message["term"] < self.term:
            # Our answer carries the higher term, which makes the stale leader step down.
            self._SyncObj__sendNextNodeIdx(node, reset=False, success=False)
            return False
        if message["term"] > self.term:
            self._step_down(message["term"])
        assert self.state != LEADER, "two leaders in one term"
        now = self.now()
        if self.leader == node.id and self._leader_heard_at != NEVER:
            self.contact.observe(now - self._leader_heard_at)
        self._leader_heard_at = now
        self._timeouts = 0
        self._pre_votes = set()
        self._read_seq_seen = max(self._read_seq_seen, message["read_seq"])
        self._note_commit(message["commit_index"])
        return True

    def _accept_entries(self, node: Node, message: Message) -> None:
        prev_index, new = message["prevLogIdx"], message["entries"]
        if prev_index == 0:  # nothing is claimed: see `_send_heartbeat`
            self._follow(node, message["term"], 0)
            self._SyncObj__sendNextNodeIdx(node, nextNodeIdx=1, success=False)
            return
        prev_term = self.term_at(prev_index)
        if prev_term is None and prev_index < self.commit_index:
            # Below what this log holds, everything is committed, so the leader has the same.
            prev_index, new = self._above_commit(message)
            prev_term = self.term_at(prev_index)
        if prev_term != message["prevLogTerm"]:
            self._follow(node, message["term"], 0)
            next_index = self._next_to_try(prev_index, prev_term)
            self._SyncObj__sendNextNodeIdx(node, nextNodeIdx=next_index, reset=True)
            return
        proven = prev_index + len(new)  # our log equals the leader's up to here, once accepted
        commit = min(message["commit_index"], proven)
        skip = 0
        while skip < len(new) and self._log.term_at(new[skip][1]) == new[skip][2]:
            skip += 1
        if not self.room:
            new = self._without_commands(new, skip)
            message["entries"] = new
            proven = prev_index + len(new)  # the rest is not taken; the ack says why
            commit = min(commit, proven)
        if skip == len(new):
            self._follow(node, message["term"], commit)
            self._SyncObj__sendNextNodeIdx(node, nextNodeIdx=proven + 1, success=True)
            return
        first = new[skip][1]
        assert first > self.commit_index, "a leader contradicts a committed entry"
        message["prevLogIdx"] = first - 1
        message["prevLogTerm"] = self.term_at(first - 1)
        message["entries"] = new[skip:]
        message["commit_index"] = commit
        self.accepted_bytes += sum(len(item[0]) for item in message["entries"])
        super()._SyncObj__onMessageReceived(node, message)

    def _without_commands(
        self, new: list[tuple[bytes, int, int]], start: int
    ) -> list[tuple[bytes, int, int]]:
        """What a disk that is nearly full still takes: a new leader's no-op and changes of the
        members, without which nobody could lead or be replaced."""
        end = start
        while end < len(new) and new[end][0][:1] != bytes([entries_codec.REGULAR]):
            end += 1
        return new[:end]

    def _above_commit(self, message: Message) -> tuple[int, list[tuple[bytes, int, int]]]:
        """Rewrite an append that begins below our log so that it begins at the commit index."""
        commit = self.commit_index
        message["prevLogIdx"] = commit
        message["prevLogTerm"] = self.term_at(commit)
        message["entries"] = [item for item in message["entries"] if item[1] > commit]
        return commit, message["entries"]

    def _follow(self, node: Node, term: int, commit_index: int) -> None:
        """Let upstream do a follower's bookkeeping of an append without touching the log."""
        bare = {"type": "append_entries", "term": term, "commit_index": commit_index}
        super()._SyncObj__onMessageReceived(node, bare)

    def _next_to_try(self, prev_index: int, own_term: int | None) -> int:
        """Where the leader should continue after a mismatch at `prev_index`.

        Behind the own end if that is the gap; otherwise at the first entry of the
        conflicting term, so that a divergent tail costs one round trip per term. Never at
        or below the commit index: up to there the logs are equal.
        """
        if own_term is None:
            return max(min(prev_index, self._log.last_index + 1), self.commit_index + 1)
        index = prev_index
        while index - 1 > self.commit_index and self._log.term_at(index - 1) == own_term:
            index -= 1
        return index

    def ask_for_commit(self) -> None:
        """Have the leader say at once what is committed, if this node may lack some of it."""
        leader = self._SyncObj__raftLeader
        if leader is not None and self.state != LEADER and self._log.last_index > self.commit_index:
            self._SyncObj__sendNextNodeIdx(leader, success=False)

    # --- Snapshots -----------------------------------------------------------------

    def _on_snapshot_offer(self, node: Node, message: Message) -> None:
        """The leader says that its log begins later than ours ends. A snapshot changes the
        commit index only by being installed, whole (P1)."""
        if not self._heed(node, message):
            return
        followed = (self.term, self.leader)
        self._follow(node, message["term"], 0)
        meta: SnapshotMeta = message["meta"]
        if self.stateless or meta.index > self.commit_index:
            self._SyncObj__sendNextNodeIdx(node, success=False)
            if self.wants_snapshot(meta):
                self.on_offer(node.id, meta)
        else:
            # Up to the commit index the logs are equal: let the leader continue from there.
            self._SyncObj__sendNextNodeIdx(node, nextNodeIdx=self.commit_index + 1, success=True)
        if followed != (self.term, self.leader):
            self.on_leader_change()

    def wants_snapshot(self, meta: SnapshotMeta) -> bool:
        """Would installing it still bring this node forward?"""
        if self.stateless:
            return meta.index >= max(self._log.first_index - 1, self._reseed_from)
        return meta.index > self.commit_index

    def adopt_snapshot(self, meta: SnapshotMeta) -> None:
        """The state is now the snapshot's: bring the log in line, and tell the leader.

        The log is kept where it holds the snapshot's last entry: what follows may have
        been acknowledged. A log that begins right above the snapshot continues it, even
        where the term of its base is not known any more. The ack covers exactly the
        snapshot (P7).
        """
        held = self._log.term_at(meta.index)
        continues = held is None and meta.index == self._log.first_index - 1
        if held != meta.term and not continues:
            self._log.reset(meta.index, meta.term)
            self._configurations = [meta.configuration]
        self._SyncObj__raftLastApplied = max(self.applied_index, meta.index)
        self._SyncObj__raftCommitIndex = max(self.commit_index, meta.index)
        self._reseed_from = 0
        self.held = False
        self._check_current()
        self.check_repaired()
        self._adopt()
        leader = self._SyncObj__raftLeader
        if leader is not None and self.state != LEADER:
            self._SyncObj__sendNextNodeIdx(leader, nextNodeIdx=meta.index + 1, success=True)
