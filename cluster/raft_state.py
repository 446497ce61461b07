"""What one group's consensus knows on one node, and how it speaks to its peers.

The base of the parts in `raft_*.py`; `raft.py` has the theory of operation. Loop thread
only. Time is upstream's `monotonicTime`, so that a simulation which replaces it replaces
it for both halves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Any, Final, NamedTuple

from cluster import messages, upstream
from cluster.contact import ContactMeter
from cluster.interfaces import RaftLog, SnapshotMeta
from cluster.membership import Configuration
from cluster.messages import Message
from cluster.upstream import Node, RaftTiming

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
NEVER = float("-inf")
FIRST_INDEX: Final = 1  # upstream's log is never empty: a no-op of term 0, the same everywhere
SCAN_BYTES: Final = 4 << 20  # read at once while looking for configurations


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """Bounds on what is sent to one follower before it answers."""

    append_bytes_max: int = 1 << 20  # payload bytes of one append (a larger entry goes alone)
    inflight_bytes_max: int = 4 << 20  # payload bytes sent and not yet acknowledged
    promote_lag_entries_max: int = 1000  # a learner this close to the log's end may vote


class Identity(NamedTuple):
    """Who this node is to Raft: another incarnation of its folder is another server."""

    id: str
    incarnation: str = ""


class Peers(NamedTuple):
    """The part of the transport that consensus uses, bound to one group."""

    send: Callable[[str, bytes, bool], bool]  # peer, frame, bulk lane -> queued
    incarnation: Callable[[str], str | None]  # of the open connection; None: not connected
    recorded: Callable[[str], str | None]  # on first contact
    set_members: Callable[[Configuration], None]


@dataclass(slots=True)
class Flow:
    """Appends on their way to one peer: (last index, payload bytes), oldest first.

    While it is not known where the peer's log agrees, one append at a time probes for the
    place (etcd's StateProbe): with several in flight, the refusal of a later one would
    undo what the refusal of an earlier one had found out.
    """

    sent: deque[tuple[int, int]]
    sent_bytes: int = 0
    # Highest commit index that this peer was told, and could use, on this connection.
    commit_sent: int = 0
    commit_owed_since: float | None = None  # when it first was to hear of a higher one
    commit_awaited: bool = False  # somebody there waits for that
    probing: bool = True
    probe_index: int = 0  # first index of the probe in flight
    trusted: bool = True  # False: its folder is not the one that the configuration means
    full: bool = False  # its disk takes no entries now
    stateless: bool = False  # it has the log and no state: it needs a snapshot
    needed_from: int = 0  # an applied index from which a snapshot certainly helps it
    refreshed: bool = False  # one was begun at or above that
    snapshot_index: int = 0  # of the snapshot it is pulling, or was offered; 0: none

    def restart(self) -> None:
        """Forget what was in flight and probe again."""
        self.sent.clear()
        self.sent_bytes = 0
        self.commit_sent = 0
        self.commit_owed_since = None
        self.probing = True

    def commit_told(self, index: int) -> None:
        """It is told that everything up to `index`, which it holds then, is committed."""
        if index > self.commit_sent:
            self.commit_sent = index
            self.commit_owed_since = None
            self.commit_awaited = False


class CoreState(upstream.syncobj.SyncObj):  # type: ignore[misc]
    """Shared by the parts of `SafeCore`. See the module docstring.

    Invariant: applied <= commit; entries are applied only once committed and durable here.
    """

    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLeader: Any
    _SyncObj__otherNodes: set[Node]
    _SyncObj__connectedNodes: set[Node]

    def __init__(
        self,
        identity: Identity,
        bootstrap: Configuration,
        log: RaftLog,
        newest_snapshot: Callable[[], SnapshotMeta | None],
        peers: Peers,
        timing: RaftTiming,
        flow: FlowLimits,
        rng: Random,
    ) -> None:
        # Upstream's constructor evaluates every attribute, so ours come first.
        self._identity = identity
        self._log = log
        self._peers = peers
        self._timing = timing
        self._flow_limits = flow
        self._rng = rng
        self._newest_snapshot = newest_snapshot
        self.room = True  # False: the disk is nearly full, no entry is taken
        self.configuration = bootstrap
        # Of the configuration in force, for every turn; `_adopt` keeps them.
        self.voter_peers: frozenset[str] = frozenset()  # the other voters
        self.is_voter = False
        self.majority = 1
        self._configurations = [bootstrap]
        self._hint: Configuration | None = None  # addresses only; see _on_members
        self._settled_index = 0  # departed members were told of changes up to here
        self._settle_at = NEVER
        self._nodes: dict[str, Node] = {}
        self._flows: dict[str, Flow] = {}
        self._outbox: deque[tuple[int, str, bytes]] = deque()
        self._hard_state_position = 0
        self._votes: set[str] = set()
        self._pre_votes: set[str] = set()
        self._pre_vote_round = 0
        self._timeouts = 0  # elections left to others
        self._leader_heard_at = NEVER
        self.contact = ContactMeter()
        self._current_at = NEVER  # see staleness_seconds
        # When a leader said so, and the commit index to apply: the oldest that is not reached,
        # and the newest.
        self._current_mark: tuple[float, int] | None = None
        self._newest_mark: tuple[float, int] = (NEVER, 0)
        self._durable_seen = (0, self.now())  # durable position, since when
        self._heartbeat_at = NEVER
        self._commit_due_at = inf  # when a follower is to hear of a commit by itself
        self._quorum_checked_at = NEVER
        self._transfer: tuple[str, bool] | None = None  # target, told to campaign
        self.repair_floor = 0  # see `repairing`
        self.held = False  # whether the node's own snapshot will do is not known yet
        self._reseed_from = 0  # only a snapshot at or above it brings the state back; 0: any
        self._read_seq_seen = 0
        self.accepted_bytes = 0  # of payloads taken as a follower; the owner counts down
        self.read_seq = 0  # carried by appends; set by the owner when a read round starts
        self.awaited: Callable[[], bool] = lambda: False  # does anybody here wait for commits?
        self.on_read_echo: Callable[[str, int], None] = lambda peer, seq: None
        self.on_leader_change: Callable[[], None] = lambda: None
        self.on_offer: Callable[[str, SnapshotMeta], None] = lambda peer, meta: None
        outlet = upstream.Outlet()
        super().__init__(Node(identity.id), [], upstream.configuration(timing), transport=outlet)
        outlet.emit = self._emit

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

    def place(self) -> tuple[int, int]:
        """Of this node among those that follow and vote, in the order of their ids, from 0; and
        how many they are."""
        own, leader = self._identity.id, self.leader
        others = [peer for peer in self.voter_peers if peer != leader]
        return sum(peer < own for peer in others), len(others) + 1

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def snapshot(self) -> SnapshotMeta | None:
        """The newest durable one. One that turned out to be damaged is it no more."""
        return self._newest_snapshot()

    def term_at(self, index: int) -> int | None:
        """Term of the log entry at `index`, also where only the snapshot knows it: a log that
        was cut right above it has forgotten the term of its base after a restart."""
        term = self._log.term_at(index)
        if term is None and (snapshot := self.snapshot) is not None and snapshot.index == index:
            return snapshot.term
        return term

    @property
    def last_term(self) -> int | None:
        """Term of the newest entry; None if neither log nor snapshot knows it any more."""
        return self.term_at(self._log.last_index)

    @property
    def stateless(self) -> bool:
        """Is part of the state lost that the log no longer holds? A snapshot brings it."""
        if self.held:
            return False
        return self._reseed_from > 0 or self.applied_index < self._log.first_index - 1

    @property
    def log_base(self) -> int:
        """What lies at or below this index only a snapshot holds."""
        return self._log.first_index - 1

    @property
    def repairing(self) -> bool:
        """Was the state dropped since it was damaged, and is not rebuilt yet up to where it
        was? Until then nothing is answered from it: a reader may have seen more."""
        return self.repair_floor > 0

    @property
    def fit(self) -> bool:
        """Can this node do a leader's work? Without room it takes no commands, without its
        state it answers nobody: it leads only to bring its log to one who can."""
        return self.room and not self.stateless and not self.repairing

    @property
    def noop_committed(self) -> bool:
        """True once the leader's own no-op is committed: only then is its commit index
        known to cover everything earlier leaders committed (Raft, section 6.4)."""
        return self.state == LEADER and self.commit_index >= self._SyncObj__noopIDx

    @property
    def match_index(self) -> dict[str, int]:
        return {node.id: index for node, index in self._SyncObj__raftMatchIndex.items()}

    @property
    def has_quorum(self) -> bool:
        """Can this node reach a majority right now, itself included?"""
        connected = {node.id for node in self._SyncObj__connectedNodes}
        trusted = {peer for peer in connected & self.voter_peers if self._flows[peer].trusted}
        return len(trusted) + self.is_voter >= self.majority

    def staleness_seconds(self) -> float:
        """Age of the newest moment at which a leader said what was committed and all of it
        is applied here. For a leader: since a majority last answered it. inf: never."""
        if self.state != LEADER or self.repairing:
            return self.now() - self._current_at
        times = self._SyncObj__lastResponseTime
        answered = sorted((times[self._nodes[peer]] for peer in self.voter_peers), reverse=True)
        others = self.majority - 1  # who make a majority together with this node
        return self.now() - answered[others - 1] if others else 0.0

    def now(self) -> float:
        return float(upstream.syncobj.monotonicTime())

    def drop_state(self, reseed_from: int) -> None:
        """The state is gone; what it was is rebuilt from a snapshot and the log.

        `reseed_from`: the own snapshots and the own log do not do, and the leader's do from
        this index on; 0: they do.
        """
        self.repair_floor = max(self.repair_floor, self.applied_index)
        self._reseed_from = max(self._reseed_from, reseed_from)
        self._SyncObj__raftLastApplied = FIRST_INDEX
        self._current_at = NEVER
        self._current_mark = None

    def check_repaired(self) -> None:
        whole = not self.held and not self.stateless
        if whole and self.applied_index >= self.repair_floor:
            self.repair_floor = 0

    def _note_commit(self, commit_index: int) -> None:
        """A leader said now that everything up to `commit_index` is committed.

        What it says may be older than what it said before: heartbeats overtake entries. What any
        leader called committed stays so.
        """
        self._newest_mark = (self.now(), max(commit_index, self._newest_mark[1]))
        if self._current_mark is None:
            self._current_mark = self._newest_mark
        self._check_current()

    def _check_current(self) -> None:
        """Several entries are applied at once, so that more than the oldest may be reached."""
        if self._current_mark is None or self.applied_index < self._current_mark[1]:
            return
        if self.applied_index >= self._newest_mark[1]:
            self._current_at = self._newest_mark[0]
            self._current_mark = None
        else:
            self._current_at = self._current_mark[0]
            self._current_mark = self._newest_mark

    # --- Sending -------------------------------------------------------------------

    def _emit(self, peer: str, message: Message) -> bool:
        """Send a message as soon as what it claims is durable on this node."""
        kind = message["type"]
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
            return self._peers.send(peer, frame, False)
        if self._outbox:
            position = max(position, self._outbox[-1][0])
        self._outbox.append((position, peer, frame))
        return True

    def release_outbox(self) -> None:
        """Send what waited for the log. Call whenever the log became more durable."""
        durable = self._log.durable_position
        while self._outbox and self._outbox[0][0] <= durable:
            _, peer, frame = self._outbox.popleft()
            self._peers.send(peer, frame, False)

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
                "full": not self.room,
                "stateless": self.stateless,
                "awaited": self.awaited(),
            },
        )

    # --- Shared by the parts ---------------------------------------------------------

    def _step_down(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._become_follower()

    def _become_follower(self) -> None:
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes = set()
        self._transfer = None
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

    def _disk_is_stalled(self, now: float) -> bool:
        """Has a write waited for the disk without any progress for too long?"""
        durable = self._log.durable_position
        if durable != self._durable_seen[0] or durable == self._log.position:
            self._durable_seen = (durable, now)
        return now - self._durable_seen[1] > self._timing.disk_stall_seconds_max

    def _leader_is_fresh(self) -> bool:
        heard = self.now() - self._leader_heard_at
        return self.state == LEADER or heard < self._timing.election_seconds_min

    # --- Upstream's access to the log ----------------------------------------------

    def _SyncObj__getCurrentLogIndex(self) -> int:
        return self._log.last_index

    def _SyncObj__getCurrentLogTerm(self) -> int:
        """For votes (Raft, 5.4.1). What is not known is at most the current term."""
        last = self.last_term
        return self.term if last is None else last

    def _SyncObj__getEntries(
        self,
        fromIDx: int | None,
        count: int | None = None,
        maxSizeBytes: int | None = None,
    ) -> list[tuple[bytes, int, int]]:
        """Upstream looks only at index and term here, so the payloads stay on disk."""
        if fromIDx is None or self.term_at(fromIDx) is None:
            return []
        last = self._log.last_index if count is None else fromIDx + count - 1
        end = min(last, self._log.last_index) + 1
        return [(b"", index, self.term_at(index) or 0) for index in range(fromIDx, end)]
