"""The safe adapter: one Raft group on PySyncObj's core, with its known holes closed.

Theory of operation. `SafeCore` subclasses the audited PySyncObj 0.3.17 (`pinned.py`).
Upstream's private methods are looked up on `self` under their mangled names, so a
method called `_SyncObj__x` here replaces upstream's `__x` everywhere. What still runs
upstream: vote granting, becoming leader, the follower's append, truncation and commit.
What is replaced, and which hole of the audit that closes:

* `advance` and `replicate` instead of upstream's tick. The leader counts itself only up
  to its own fsynced index; entries are applied only once committed and durable here.
* The log is `RaftLog`: written by another thread. A vote, a pre-vote of a higher term
  or an ack waits in the outbox until what it claims is durable. Appends go out at once.
* Acks carry the term (P6) and a read sequence number (`reads.py`); a follower never
  truncates what matches (P2) nor commits past what an append proved (P1 for appends).
* Votes count once per sender and term (P9); pre-vote and stickiness (P10); a leader
  without a majority of answers steps down within an election timeout (P11).
* Upstream's pickle, forwarding, membership and snapshot paths are never reached: their
  message types do not exist on the wire (`messages.py`).

Loop thread only. Time is upstream's `monotonicTime`, so that a simulation which
replaces it replaces it for both halves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Any

from cluster import entry as entries_codec
from cluster import messages, upstream
from cluster.interfaces import LogEntry, RaftLog
from cluster.messages import Message
from cluster.upstream import Node, RaftTiming

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
_NEVER = float("-inf")

Send = Callable[[str, bytes, bool], bool]  # peer, frame, bulk lane -> queued


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """Bounds on what is sent to one follower before it answers."""

    append_bytes_max: int = 1 << 20  # payload bytes of one append (a larger entry goes alone)
    inflight_bytes_max: int = 4 << 20  # payload bytes sent and not yet acknowledged


@dataclass(slots=True)
class _Flow:
    """Appends on their way to one peer: (last index, payload bytes), oldest first.

    While it is not known where the peer's log agrees, one append at a time probes for the
    place (etcd's StateProbe): with several in flight, the refusal of a later one would
    undo what the refusal of an earlier one had found out.
    """

    sent: deque[tuple[int, int]]
    sent_bytes: int = 0
    commit_sent: int = 0  # highest commit index told to this peer on this connection
    probing: bool = True
    probe_index: int = 0  # first index of the probe in flight

    def restart(self) -> None:
        """Forget what was in flight and probe again."""
        self.sent.clear()
        self.sent_bytes = 0
        self.commit_sent = 0
        self.probing = True


class SafeCore(upstream.syncobj.SyncObj):  # type: ignore[misc]
    """One group's consensus on one node. See the module's theory of operation.

    Invariant: applied <= min(commit, durable index) on every node.
    """

    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLeader: Any

    def __init__(
        self,
        self_id: str,
        peer_ids: Sequence[str],
        log: RaftLog,
        applied_index: int,
        send: Send,
        timing: RaftTiming,
        flow: FlowLimits,
        rng: Random,
    ) -> None:
        # Upstream's constructor evaluates every attribute, so ours come first.
        self._log = log
        self._send = send
        self._timing = timing
        self._flow_limits = flow
        self._rng = rng
        self._nodes = {peer: Node(peer) for peer in peer_ids}
        self._flows = {peer: _Flow(deque()) for peer in peer_ids}
        self._outbox: deque[tuple[int, str, bytes]] = deque()
        self._hard_state_position = 0
        self._votes: set[str] = set()
        self._pre_votes: set[str] = set()
        self._pre_vote_round = 0
        self._leader_heard_at = _NEVER
        self._current_at = _NEVER  # see staleness_seconds
        self._current_mark: tuple[float, int] | None = None  # when, commit index to apply
        self._durable_seen = (0, self.now())  # durable position, since when
        self._heartbeat_at = _NEVER
        self._read_seq_seen = 0
        self.read_seq = 0  # carried by appends; set by the owner when a read round starts
        self.on_read_echo: Callable[[str, int], None] = lambda peer, seq: None
        self.on_leader_change: Callable[[], None] = lambda: None
        outlet = upstream.Outlet()
        others = list(self._nodes.values())
        super().__init__(Node(self_id), others, upstream.configuration(timing), transport=outlet)
        outlet.emit = self._emit
        self._restore(applied_index)

    def _restore(self, applied_index: int) -> None:
        """Take up the durable log in place of the throw-away one upstream made."""
        if self._log.last_index == 0:
            # Upstream's log is never empty: index 1 is a no-op of term 0, the same everywhere.
            self._log.append([LogEntry(1, 0, entries_codec.NO_OP_PAYLOAD)])
        if applied_index > self._log.last_index:
            raise ValueError(
                f"state is applied to {applied_index} but the log ends at {self._log.last_index}"
            )
        self._SyncObj__raftLog = upstream.LogView(self._log)
        # Raft, section 5: a stored vote is valid only in the stored term.
        term = max(self._log.term, self._log.last_term)
        self._SyncObj__raftCurrentTerm = term
        self._SyncObj__votedForNodeId = self._log.vote if self._log.term == term else None
        self._SyncObj__raftLastApplied = max(applied_index, 1)
        self._SyncObj__raftCommitIndex = max(applied_index, 1)
        self._SyncObj__needLoadDumpFile = False
        self._hard_state_position = self._log.position
        self._log.flush()

    # --- What the owner sees -------------------------------------------------------

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def state(self) -> int:
        return int(self._SyncObj__raftState)

    @property
    def leader(self) -> str | None:
        node = self._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def voters(self) -> int:
        return len(self._nodes) + 1

    @property
    def noop_committed(self) -> bool:
        """True once the leader's own no-op is committed: only then is its commit index
        known to cover everything earlier leaders committed (Raft, section 6.4)."""
        return self.state == LEADER and self.commit_index >= self._SyncObj__noopIDx

    @property
    def match_index(self) -> dict[str, int]:
        return {node.id: index for node, index in self._SyncObj__raftMatchIndex.items()}

    def staleness_seconds(self) -> float:
        """Age of the newest moment at which a leader said what was committed and all of it
        is applied here. For a leader: since a majority last answered it. inf: never."""
        if self.state != LEADER:
            return self.now() - self._current_at
        answered = sorted(self._SyncObj__lastResponseTime.values(), reverse=True)
        others = self.voters // 2  # who make a majority together with this node
        return self.now() - answered[others - 1] if others else 0.0

    def _note_commit(self, commit_index: int) -> None:
        """A leader said now that everything up to `commit_index` is committed."""
        if self._current_mark is None:
            self._current_mark = (self.now(), commit_index)
        self._check_current()

    def _check_current(self) -> None:
        if self._current_mark is not None and self.applied_index >= self._current_mark[1]:
            self._current_at = self._current_mark[0]
            self._current_mark = None

    @property
    def has_quorum(self) -> bool:
        """Can this node reach a majority right now, itself included?"""
        connected = len(self._SyncObj__connectedNodes) + 1
        return connected > self.voters // 2

    def now(self) -> float:
        return float(upstream.syncobj.monotonicTime())

    # --- Events --------------------------------------------------------------------

    def peer_connected(self, peer: str) -> None:
        node = self._nodes.get(peer)
        if node is None:
            return
        self._flows[peer].restart()
        if self.state == LEADER:
            # What was in flight on the old connection is lost; resume at what is proven.
            # A follower that has proven nothing is probed with the newest entry.
            match = self._SyncObj__raftMatchIndex[node]
            next_index = match + 1 if match > 1 else self._log.last_index
            self._SyncObj__raftNextIndex[node] = max(next_index, 2)
            self._heartbeat_at = _NEVER
        self._SyncObj__onNodeConnected(node)

    def peer_disconnected(self, peer: str) -> None:
        node = self._nodes.get(peer)
        if node is None:
            return
        self._flows[peer].restart()
        self._SyncObj__onNodeDisconnected(node)
        if self.leader == peer:
            self._leader_heard_at = _NEVER
            soon = self.now() + self._rng.random() * self._timing.disconnect_seconds_max
            deadline = min(self._SyncObj__raftElectionDeadline, soon)
            self._SyncObj__raftElectionDeadline = deadline

    def receive(self, peer: str, frame: bytes) -> None:
        """Handle one frame of a peer. Raises messages.MalformedMessage."""
        node = self._nodes.get(peer)
        if node is not None:
            self._SyncObj__onMessageReceived(node, messages.decode(frame))

    def append(self, commands: Sequence[bytes]) -> tuple[int, int]:
        """Leader only: append one entry with these commands; returns (index, term)."""
        assert self.state == LEADER
        index = self._log.last_index + 1
        self._log.append([LogEntry(index, self.term, entries_codec.pack(commands))])
        return index, self.term

    def advance(self) -> None:
        """Timers and commit. Call after events and at least every heartbeat."""
        now = self.now()
        if self.state != LEADER:
            if now > self._SyncObj__raftElectionDeadline:
                self._ask_for_pre_votes(now)
        else:
            self._advance_commit()
            self._check_quorum(now)

    def replicate(self) -> None:
        """Hand the log to its writer and, as leader, send what followers lack."""
        self._log.flush()
        if self.state == LEADER:
            self._replicate(self.now())

    def applicable_index(self) -> int:
        """Highest index that may be applied now."""
        return min(self.commit_index, self._log.durable_index)

    def set_applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index
        self._check_current()

    def release_outbox(self) -> None:
        """Send what waited for the log. Call whenever the log became more durable."""
        durable = self._log.durable_position
        while self._outbox and self._outbox[0][0] <= durable:
            _, peer, frame = self._outbox.popleft()
            self._send(peer, frame, False)

    # --- Sending -------------------------------------------------------------------

    def _emit(self, peer: str, message: Message) -> bool:
        """Send a message as soon as what it claims is durable on this node."""
        kind = message["type"]
        if kind == "request_vote":
            message["transfer"] = False
        if kind == "next_node_idx" and message["success"]:
            claimed = message["next_node_idx"] - 1
            durable = claimed <= self._log.durable_index
            position = self._hard_state_position if durable else self._log.position
        else:
            position = self._hard_state_position
        frame = messages.encode(message)
        if position <= self._log.durable_position:
            # It may overtake what waits: terms and indexes make order irrelevant, and
            # heartbeats' answers must not pile up behind a disk that is slow.
            return self._send(peer, frame, False)
        if self._outbox:
            position = max(position, self._outbox[-1][0])
        self._outbox.append((position, peer, frame))
        return True

    def _SyncObj__sendNextNodeIdx(
        self,
        node: Node,
        reset: bool = False,
        nextNodeIdx: int | None = None,
        success: bool = False,
    ) -> None:
        if nextNodeIdx is None:
            nextNodeIdx = self._log.last_index + 1
        self._emit(
            node.id,
            {
                "type": "next_node_idx",
                "term": self.term,
                "next_node_idx": nextNodeIdx,
                "read_seq": self._read_seq_seen,
                "reset": reset,
                "success": success,
            },
        )

    def _replicate(self, now: float) -> None:
        """Send new entries, the commit index and heartbeats to every connected follower."""
        heartbeat = now >= self._heartbeat_at
        if heartbeat:
            self._heartbeat_at = now + self._timing.heartbeat_seconds
        frames: dict[int, tuple[bytes, int, int]] = {}  # next index -> frame, last, bytes
        for node in self._SyncObj__otherNodes:
            if node not in self._SyncObj__connectedNodes:
                continue
            sent = self._send_entries(node, frames)
            flow = self._flows[node.id]
            if not sent and (heartbeat or flow.commit_sent < self.commit_index):
                self._send_heartbeat(node)

    def _send_entries(self, node: Node, frames: dict[int, tuple[bytes, int, int]]) -> bool:
        """Send what the follower lacks, within its window; frames are shared by followers."""
        flow = self._flows[node.id]
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
            if not self._send(node.id, frame, True):
                return sent
            flow.probe_index = next_index
            flow.sent.append((last, size))
            flow.sent_bytes += size
            flow.commit_sent = self.commit_index
            next_index = last + 1
            self._SyncObj__raftNextIndex[node] = next_index
            sent = True
        return sent

    def _encode_entries(self, next_index: int) -> tuple[bytes, int, int]:
        limit = self._flow_limits.append_bytes_max
        entries = self._log.read(next_index, self._log.last_index + 1, limit)
        prev_term = self._log.term_at(next_index - 1) or 0
        frame = messages.encode_append(
            self.term, self.commit_index, next_index - 1, prev_term, self.read_seq, entries
        )
        return frame, entries[-1].index, sum(len(entry.payload) for entry in entries)

    def _send_heartbeat(self, node: Node) -> None:
        """An empty append at the follower's proven match index.

        Upstream sends it at the optimistic next index; on a lane that overtakes entries
        that would look like a gap and make the follower ask for everything again.
        """
        match = max(self._SyncObj__raftMatchIndex[node], 1)
        frame = messages.encode_append(
            self.term, self.commit_index, match, self._log.term_at(match) or 0, self.read_seq, ()
        )
        if self._send(node.id, frame, False):
            self._flows[node.id].commit_sent = self.commit_index

    def broadcast_heartbeat(self) -> None:
        """Leader: make the next turn send a heartbeat to everyone (a read round began)."""
        self._heartbeat_at = _NEVER

    def _SyncObj__sendAppendEntries(self) -> None:
        """Upstream calls this when it becomes leader; the next turn does the sending."""
        self._heartbeat_at = _NEVER

    # --- Leading -------------------------------------------------------------------

    def _advance_commit(self) -> None:
        """Commit what a majority holds durably, if it is of the own term (Raft, 5.4.2)."""
        held = [self._SyncObj__raftMatchIndex[node] for node in self._SyncObj__otherNodes]
        held.append(self._log.durable_index)
        held.sort(reverse=True)
        candidate = held[len(held) // 2]
        if candidate > self.commit_index and self._log.term_at(candidate) == self.term:
            self._SyncObj__raftCommitIndex = candidate

    def _check_quorum(self, now: float) -> None:
        """Step down when no majority has answered for an election timeout (P11), or when the
        own disk does not finish: followers would see a healthy leader that commits nothing."""
        oldest = now - self._timing.election_seconds_max
        answered = 1 + sum(
            self._SyncObj__lastResponseTime[node] > oldest for node in self._SyncObj__otherNodes
        )
        if answered <= self.voters // 2 or self._disk_is_stalled(now):
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None
            self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
            self.on_leader_change()

    def _disk_is_stalled(self, now: float) -> bool:
        """Has a write waited for the disk without any progress for too long?"""
        durable = self._log.durable_position
        if durable != self._durable_seen[0] or durable == self._log.position:
            self._durable_seen = (durable, now)
        return now - self._durable_seen[1] > self._timing.disk_stall_seconds_max

    # --- Elections -----------------------------------------------------------------

    def _ask_for_pre_votes(self, now: float) -> None:
        """Ask whether an election could be won, without disturbing anyone's term (P10)."""
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        if self._SyncObj__raftLeader is not None:
            self._SyncObj__raftLeader = None  # not heard for an election timeout
            self.on_leader_change()
        if not self._SyncObj__connectedToAnyone() or self._disk_is_stalled(now):
            return
        self._pre_vote_round = (self._pre_vote_round + 1) & 0xFFFFFFFF
        self._pre_votes = {self.selfNode.id}
        for node in self._SyncObj__otherNodes:
            self._emit(
                node.id,
                {
                    "type": "pre_vote",
                    "term": self.term + 1,
                    "round": self._pre_vote_round,
                    "last_log_index": self._log.last_index,
                    "last_log_term": self._log.last_term,
                },
            )
        self._campaign_if_supported()

    def _campaign_if_supported(self) -> None:
        if len(self._pre_votes) <= self.voters // 2:
            return
        self._pre_votes = set()
        self._SyncObj__raftElectionDeadline = self.now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term + 1, self.selfNode.id)
        self._votes = {self.selfNode.id}
        self._SyncObj__votesCount = 1
        for node in self._SyncObj__otherNodes:
            self._emit(
                node.id,
                {
                    "type": "request_vote",
                    "term": self.term,
                    "last_log_index": self._log.last_index,
                    "last_log_term": self._log.last_term,
                },
            )
        self.on_leader_change()
        if self.voters == 1:
            self._SyncObj__onBecomeLeader()

    def _leader_is_fresh(self) -> bool:
        heard = self.now() - self._leader_heard_at
        return self.state == LEADER or heard < self._timing.election_seconds_min

    def _log_is_current(self, message: Message) -> bool:
        """Is the sender's log at least as up to date as ours? (Raft, 5.4.1)"""
        theirs = (message["last_log_term"], message["last_log_index"])
        return bool(theirs >= (self._log.last_term, self._log.last_index))

    def _on_pre_vote(self, node: Node, message: Message) -> None:
        granted = (
            message["term"] > self.term
            and self._log_is_current(message)
            and not self._leader_is_fresh()
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

    def _step_down(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes = set()
        self.on_leader_change()

    def _SyncObj__onBecomeLeader(self) -> None:
        for flow in self._flows.values():
            flow.restart()
        super()._SyncObj__onBecomeLeader()
        self.on_leader_change()

    def _SyncObj__setCurrentTerm(self, term: int, vote: str | None) -> None:
        if term != self.term:
            self._read_seq_seen = 0
            self._pre_votes = set()  # late answers to the former term's round do not count
        super()._SyncObj__setCurrentTerm(term, vote)
        self._hard_state_position = self._log.position

    def _SyncObj__generateRaftTimeout(self) -> float:
        low, high = self._timing.election_seconds_min, self._timing.election_seconds_max
        return low + (high - low) * self._rng.random()

    # --- Receiving -----------------------------------------------------------------

    def _SyncObj__onMessageReceived(self, node: Node, message: Message) -> None:
        handler = self._HANDLERS[message["type"]]
        handler(self, node, message)

    def _on_request_vote(self, node: Node, message: Message) -> None:
        if message["term"] < self.term:
            return
        if self._leader_is_fresh() and not message["transfer"]:
            return
        before = (self.term, self.state)
        super()._SyncObj__onMessageReceived(node, message)
        if before != (self.term, self.state):
            self.on_leader_change()

    def _on_vote(self, node: Node, message: Message) -> None:
        if message["term"] != self.term or node.id in self._votes:
            return
        self._votes.add(node.id)
        super()._SyncObj__onMessageReceived(node, message)

    def _on_ack(self, node: Node, message: Message) -> None:
        """An answer to an append. Upstream moves nextIndex back on every ack, which sends
        everything in flight again; here it only moves back on a reset above the match."""
        if message["term"] > self.term:
            self._step_down(message["term"])
        if message["term"] != self.term or self.state != LEADER:
            return
        self._SyncObj__lastResponseTime[node] = self.now()
        self.on_read_echo(node.id, message["read_seq"])
        flow = self._flows[node.id]
        next_index = message["next_node_idx"]
        if message["success"]:
            match = next_index - 1
            assert match <= self._log.last_index, "acknowledged beyond the leader's log"
            if match > self._SyncObj__raftMatchIndex[node]:
                self._SyncObj__raftMatchIndex[node] = match
                self._SyncObj__raftNextIndex[node] = max(
                    self._SyncObj__raftNextIndex[node], next_index
                )
            while flow.sent and flow.sent[0][0] <= match:
                flow.probing = False
                flow.sent_bytes -= flow.sent.popleft()[1]
        elif message["reset"] and next_index > self._SyncObj__raftMatchIndex[node]:
            if flow.probing and flow.sent and next_index >= flow.probe_index:
                return  # the refusal of an append that was sent before the probe
            flow.restart()
            self._SyncObj__raftNextIndex[node] = min(next_index, self._log.last_index + 1)

    def _on_append(self, node: Node, message: Message) -> None:
        """Accept a leader's append: skip what matches, truncate only a real conflict (P2)."""
        if message["term"] < self.term:
            # Our answer carries the higher term, which makes the stale leader step down.
            self._SyncObj__sendNextNodeIdx(node, reset=False, success=False)
            return
        if message["term"] > self.term:
            self._step_down(message["term"])
        followed = (self.term, self.leader)
        assert self.state != LEADER, "two leaders in one term"
        self._leader_heard_at = self.now()
        self._pre_votes = set()
        self._read_seq_seen = max(self._read_seq_seen, message["read_seq"])
        self._note_commit(message["commit_index"])
        self._accept_entries(node, message)
        if followed != (self.term, self.leader):
            self.on_leader_change()

    def _accept_entries(self, node: Node, message: Message) -> None:
        prev_index, new = message["prevLogIdx"], message["entries"]
        prev_term = self._log.term_at(prev_index)
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
        if skip == len(new):
            self._follow(node, message["term"], commit)
            self._SyncObj__sendNextNodeIdx(node, nextNodeIdx=proven + 1, success=True)
            return
        first = new[skip][1]
        assert first > self.commit_index, "a leader contradicts a committed entry"
        message["prevLogIdx"] = first - 1
        message["prevLogTerm"] = self._log.term_at(first - 1)
        message["entries"] = new[skip:]
        message["commit_index"] = commit
        super()._SyncObj__onMessageReceived(node, message)

    def _follow(self, node: Node, term: int, commit_index: int) -> None:
        """Let upstream do a follower's bookkeeping of an append without touching the log."""
        bare = {"type": "append_entries", "term": term, "commit_index": commit_index}
        super()._SyncObj__onMessageReceived(node, bare)

    def _next_to_try(self, prev_index: int, own_term: int | None) -> int:
        """Where the leader should continue after a mismatch at `prev_index`.

        Behind the own end if that is the gap; otherwise at the first entry of the
        conflicting term, so that a divergent tail costs one round trip per term.
        """
        if own_term is None:
            return min(prev_index, self._log.last_index + 1)
        index = prev_index
        while index - 1 > self.commit_index and self._log.term_at(index - 1) == own_term:
            index -= 1
        return index

    _HANDLERS: dict[str, Callable[[Any, Node, Message], None]] = {  # noqa: RUF012
        "request_vote": _on_request_vote,
        "response_vote": _on_vote,
        "append_entries": _on_append,
        "next_node_idx": _on_ack,
        "pre_vote": _on_pre_vote,
        "pre_vote_response": _on_pre_vote_response,
    }

    # --- Upstream's access to the log ----------------------------------------------

    def _SyncObj__getCurrentLogIndex(self) -> int:
        return self._log.last_index

    def _SyncObj__getCurrentLogTerm(self) -> int:
        return self._log.last_term

    def _SyncObj__getEntries(
        self,
        fromIDx: int | None,
        count: int | None = None,
        maxSizeBytes: int | None = None,
    ) -> list[tuple[bytes, int, int]]:
        """Upstream looks only at index and term here, so the payloads stay on disk."""
        if fromIDx is None or self._log.term_at(fromIDx) is None:
            return []
        last = self._log.last_index if count is None else fromIDx + count - 1
        end = min(last, self._log.last_index) + 1
        return [(b"", index, self._log.term_at(index) or 0) for index in range(fromIDx, end)]

    def _SyncObj__deleteEntriesFrom(self, fromIDx: int) -> None:
        self._log.truncate_from(fromIDx)
