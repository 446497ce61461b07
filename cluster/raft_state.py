"""What one group's consensus knows on one node: log, members, peers, and who is trusted.

The base of the parts in `raft_*.py`; `raft.py` has the theory of operation. Loop thread
only. Time is upstream's `monotonicTime`, so that a simulation which replaces it replaces
it for both halves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Any, Final, NamedTuple

from cluster import entry as entries_codec
from cluster import messages, upstream
from cluster.contact import ContactMeter
from cluster.interfaces import LogEntry, RaftLog, SnapshotMeta
from cluster.membership import Configuration, Member
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
    commit_sent: int = 0  # highest commit index told to this peer on this connection
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
        self.probing = True


class CoreState(upstream.syncobj.SyncObj):  # type: ignore[misc]
    """Shared by the parts of `SafeCore`. See the module docstring.

    Invariant: applied <= commit; entries are applied only once committed and durable here.
    Invariant: `_configurations` ascend by index; the last one is in force, committed or not.
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
        snapshot: SnapshotMeta | None,
        applied_index: int,
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
        self.snapshot = snapshot  # the newest durable one
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
        self._current_mark: tuple[float, int] | None = None  # when, commit index to apply
        self._durable_seen = (0, self.now())  # durable position, since when
        self._heartbeat_at = NEVER
        self._quorum_checked_at = NEVER
        self._transfer: tuple[str, bool] | None = None  # target, told to campaign
        self._read_seq_seen = 0
        self.read_seq = 0  # carried by appends; set by the owner when a read round starts
        self.on_read_echo: Callable[[str, int], None] = lambda peer, seq: None
        self.on_leader_change: Callable[[], None] = lambda: None
        self.on_offer: Callable[[str, SnapshotMeta], None] = lambda peer, meta: None
        outlet = upstream.Outlet()
        super().__init__(Node(identity.id), [], upstream.configuration(timing), transport=outlet)
        outlet.emit = self._emit
        self._restore(applied_index)

    def _restore(self, applied_index: int) -> None:
        """Take up the durable log in place of the throw-away one upstream made."""
        if self._log.last_index == 0:
            self._log.append([LogEntry(FIRST_INDEX, 0, entries_codec.NO_OP_PAYLOAD)])
        if applied_index > self._log.last_index:
            raise ValueError(
                f"state is applied to {applied_index} but the log ends at {self._log.last_index}"
            )
        self._SyncObj__raftLog = upstream.LogView(self._log, self._entry_added)
        # Raft, section 5: a stored vote is valid only in the stored term.
        term = max(self._log.term, self._log.last_term)
        self._SyncObj__raftCurrentTerm = term
        self._SyncObj__votedForNodeId = self._log.vote if self._log.term == term else None
        self._SyncObj__raftLastApplied = max(applied_index, FIRST_INDEX)
        # What the log no longer holds, and what is in a snapshot, was committed, whether the
        # state is there or not.
        known = max(self._log.first_index - 1, self.snapshot.index if self.snapshot else 0)
        self._SyncObj__raftCommitIndex = max(applied_index, known, FIRST_INDEX)
        self._SyncObj__needLoadDumpFile = False
        self._hard_state_position = self._log.position
        self._find_configurations()
        self._settled_index = self.configuration_at(self.commit_index).index
        self._adopt()
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
    def may_lead(self) -> bool:
        """A voter may, and one whose removal is not committed yet: it may be the only one
        whose log is long enough to commit it (Ongaro 2014, section 4.2.2)."""
        committed = self.configuration_at(self.commit_index)
        return self.is_voter or (
            committed is not self.configuration and self._identity.id in committed.voters
        )

    @property
    def stateless(self) -> bool:
        """Is part of the state lost that the log no longer holds? A snapshot brings it."""
        return self.applied_index < self._log.first_index - 1

    @property
    def fit(self) -> bool:
        """Can this node do a leader's work? Without room it takes no commands, without its
        state it answers nobody: it leads only to bring its log to one who can."""
        return self.room and not self.stateless

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
        if self.state != LEADER:
            return self.now() - self._current_at
        times = self._SyncObj__lastResponseTime
        answered = sorted((times[self._nodes[peer]] for peer in self.voter_peers), reverse=True)
        others = self.majority - 1  # who make a majority together with this node
        return self.now() - answered[others - 1] if others else 0.0

    def now(self) -> float:
        return float(upstream.syncobj.monotonicTime())

    def _note_commit(self, commit_index: int) -> None:
        """A leader said now that everything up to `commit_index` is committed."""
        if self._current_mark is None:
            self._current_mark = (self.now(), commit_index)
        self._check_current()

    def _check_current(self) -> None:
        if self._current_mark is not None and self.applied_index >= self._current_mark[1]:
            self._current_at = self._current_mark[0]
            self._current_mark = None

    # --- Members -------------------------------------------------------------------

    def configuration_at(self, index: int) -> Configuration:
        """The configuration that was in force at a log index that is still known of."""
        return next(
            (found for found in reversed(self._configurations) if found.index <= index),
            self._configurations[0],
        )

    def is_hinted(self) -> bool:
        """Does a peer know of newer members than this log, with this node among them?"""
        return (
            self._hint is not None
            and self._hint.index > self.configuration.index
            and self._identity.id in self._hint.ids
        )

    def _find_configurations(self) -> None:
        """Collect every configuration that log and snapshot hold, committed or not (P12)."""
        found = {self.configuration.index: self.configuration}
        if self.snapshot is not None:
            found = {self.snapshot.configuration.index: self.snapshot.configuration}
        start = self._log.first_index
        while start <= self._log.last_index:
            entries = self._log.read(start, self._log.last_index + 1, SCAN_BYTES)
            for item in entries:
                members = entries_codec.unpack_membership(item.payload)
                if members is not None:
                    found[item.index] = Configuration(item.index, members)
            start = entries[-1].index + 1
        self._configurations = [found[index] for index in sorted(found)]

    def _entry_added(self, index: int, payload: bytes) -> None:
        """A configuration is in force as soon as it is in the log (Ongaro 2014, 4.1)."""
        members = entries_codec.unpack_membership(payload)
        if members is not None:
            self._configurations.append(Configuration(index, members))
            self._adopt()

    def _forget_configurations(self, index: int) -> None:
        """Entries from `index` on are gone, and so is what they configured."""
        kept = [found for found in self._configurations if found.index < index]
        if len(kept) < len(self._configurations):
            assert kept, "a committed configuration was truncated"
            self._configurations = kept
            self._adopt()

    def drop_configurations(self, index: int) -> None:
        """Forget configurations that a snapshot at `index` makes history."""
        current = self.configuration_at(index)
        self._configurations = [c for c in self._configurations if c.index >= current.index]

    def _adopt(self) -> None:
        """Bring peers in line with the configurations that count."""
        self.configuration = self._configurations[-1]
        voters = self.configuration.voters
        self.voter_peers = voters - {self._identity.id}
        self.is_voter = self._identity.id in voters
        self.majority = len(voters) // 2 + 1
        members = {member.id: member for member in self._known_members()}
        wanted = members.keys() - {self._identity.id}
        for peer in sorted(self._nodes.keys() - wanted):
            self._leave(peer)
        for peer in sorted(wanted - self._nodes.keys()):
            self._meet(peer)
        for peer in self._nodes:
            self._judge(peer)
        known = tuple(members[peer] for peer in sorted(members))
        self._peers.set_members(Configuration(self.configuration.index, known))

    def _known_members(self) -> Iterable[Member]:
        """Members to talk to, oldest word first: those of the configuration in force, those
        that the last change removes and that have not been told, and those of a hint."""
        settled = self.configuration_at(self._settled_index)
        yield from (
            member
            for found in self._configurations
            if found.index >= settled.index
            for member in found.members
        )
        if self._hint is not None and self._hint.index > self.configuration.index:
            yield from self._hint.members

    def _settle(self, now: float) -> None:
        """Part with members that a committed change removed, once they can have heard of it."""
        newest = self.configuration.index
        if self._settled_index == newest or self.commit_index < newest:
            self._settle_at = NEVER
        elif self._settle_at == NEVER:
            self._settle_at = now + 3 * self._timing.heartbeat_seconds
            for peer in self._nodes:
                self._tell_members(peer)
        elif now >= self._settle_at:
            self._settled_index = newest
            self._adopt()

    def _tell_members(self, peer: str) -> None:
        """Tell a connected peer who the members are. It may have been away while they
        changed, and nobody that it knows may still lead; see `_on_members`."""
        committed = self.configuration_at(self.commit_index)
        if committed.index and self._peers.incarnation(peer) is not None:
            self._peers.send(peer, messages.encode_members(committed), False)

    def _meet(self, peer: str) -> None:
        node = self._nodes[peer] = Node(peer)
        self._flows[peer] = Flow(deque())
        self._SyncObj__otherNodes.add(node)
        self._SyncObj__raftNextIndex[node] = self._probe_index()
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__lastResponseTime[node] = self.now()
        if self._peers.incarnation(peer) is not None:
            self._SyncObj__onNodeConnected(node)

    def _leave(self, peer: str) -> None:
        node = self._nodes.pop(peer)
        del self._flows[peer]
        self._SyncObj__otherNodes.discard(node)
        self._SyncObj__connectedNodes.discard(node)
        for table in (
            self._SyncObj__raftNextIndex,
            self._SyncObj__raftMatchIndex,
            self._SyncObj__lastResponseTime,
        ):
            table.pop(node, None)

    def _judge(self, peer: str) -> None:
        """Is the folder at the other end the one that the configuration means?

        One that was wiped has forgotten what it acknowledged and whom it voted for: its
        votes, acks and echoes count for nothing until a change readmits it.
        """
        flow, node = self._flows[peer], self._nodes[peer]
        presented = self._peers.incarnation(peer)
        if presented is None:
            return
        member = self.configuration.member(peer)
        expected = (member.incarnation if member else "") or self._peers.recorded(peer)
        trusted = expected is None or presented == expected
        if trusted != flow.trusted:
            flow.trusted = trusted
            flow.restart()
            self._SyncObj__raftMatchIndex[node] = 0
            self._SyncObj__raftNextIndex[node] = self._probe_index()

    def _probe_index(self) -> int:
        """Where to begin with a peer that has proven nothing: at the newest entry."""
        return max(self._log.last_index, FIRST_INDEX + 1)

    @property
    def all_trusted(self) -> bool:
        return all(flow.trusted for flow in self._flows.values())

    def replaced_voters(self) -> list[tuple[str, str]]:
        """Members that are connected with another data folder: (id, its incarnation)."""
        return [
            (peer, incarnation)
            for peer, flow in sorted(self._flows.items())
            if not flow.trusted
            and self.configuration.member(peer) is not None
            and (incarnation := self._peers.incarnation(peer)) is not None
        ]

    def _on_members(self, node: Node, message: Message) -> None:
        """A peer knows of newer members than this node, which was away. They are only
        connected to: who votes and who leads is still decided by the own log."""
        hint = message["configuration"]
        newest = max(self.configuration.index, self._hint.index if self._hint else 0)
        if hint.index > newest:
            self._hint = hint
            self._adopt()

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
        self._forget_configurations(fromIDx)
