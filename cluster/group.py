"""One Raft group on one node: proposals, group commit, reads, members.

A *turn* does everything that can be done now: timers, commit, one read round, one new
entry for all commands that wait, replication, apply. Turns are asked for by events
(`wake`) and by a timer (`tick`); many events in one loop turn share one turn. Commands that
arrive while an entry is being fsynced wait and become the next entry: that is the group
commit, and it needs no tuning, since the batch grows with the load.

Loop thread only. Anything that raises inside a turn stops the node (`fail`): a group
that cannot apply or write must not limp on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from random import Random  # noqa: TID251 - the caller seeds it

from cluster import messages, raft
from cluster.applying import Applying
from cluster.compaction import CompactionLimits
from cluster.errors import (
    ChangeRefused,
    ClusterError,
    DiskFull,
    NoQuorum,
    NotLeader,
    Overloaded,
)
from cluster.group_limits import GroupLimits
from cluster.group_state import COMPACT_SECONDS, GroupState
from cluster.interfaces import (
    GroupStatus,
    PeerTransport,
    RaftLog,
    Role,
    Snapshots,
    StateMachine,
)
from cluster.membership import Change, Configuration, Update
from cluster.messages import MalformedMessage, Message
from cluster.proposals import Done, Proposals
from cluster.raft import FlowLimits, Identity, Peers, SafeCore
from cluster.reads import ReadRounds
from cluster.standing import Standing
from cluster.transfer import LeadershipTransfer
from cluster.upstream import RaftTiming

logger = logging.getLogger(__name__)

ReadDone = Callable[[int | None, ClusterError | None], None]

_ROLE_NAMES = {raft.FOLLOWER: "follower", raft.CANDIDATE: "candidate", raft.LEADER: "leader"}


class RaftGroup:
    """One group: `SafeCore` plus what waits for it. See the module docstring."""

    def __init__(
        self,
        group: int,
        identity: Identity,
        bootstrap: Configuration,
        log: RaftLog,
        machine: StateMachine,
        snapshots: Snapshots,
        transport: PeerTransport,
        *,
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
        rng: Random,
        timing: RaftTiming | None = None,
        limits: GroupLimits | None = None,
        flow: FlowLimits | None = None,
        compaction: CompactionLimits | None = None,
        governs_peers: bool = True,
        wanted: Callable[[], bool] = lambda: False,
        watched: Callable[[], bool] = lambda: False,
    ) -> None:
        """`bootstrap`: the members while the log holds no configuration. Log, snapshots and
        machine must agree: see `reconcile`. `governs_peers`: its members are whom the transport
        connects to; of several groups of a node one does, and holds all the others' members.
        `wanted`: see `Standing`. `watched`: does anybody want to hear of each change at once?"""
        self.group = group
        self.self_id = identity.id
        self._flush_peers = transport.flush_if_alone
        self._log = log
        self._machine = machine
        self._limits = limits or GroupLimits()
        self._wake = wake
        self._fail = fail
        self._failed = False
        self._logged_leader: str | None = None
        self._due_at = float("-inf")  # of the next tick that has something to do
        self._reads = ReadRounds()
        timing = timing or RaftTiming()
        peers = Peers(
            send=lambda peer, frame, bulk: transport.send(peer, group, frame, bulk=bulk),
            incarnation=transport.incarnation,
            recorded=transport.recorded_incarnation,
            set_members=transport.set_members if governs_peers else lambda configuration: None,
        )
        self._peers = peers
        self._core = core = SafeCore(
            identity,
            bootstrap,
            log,
            lambda: snapshots.newest,
            machine.applied_index,
            peers,
            timing,
            flow or FlowLimits(),
            rng,
        )
        self._proposals = Proposals(lambda: core.leader)
        self._transfer = LeadershipTransfer(core, timing.election_seconds_max)
        self._build_state(snapshots, compaction or CompactionLimits(), watched)
        self._standing = Standing(core, identity.id, wanted)
        self.on_leader_change: Callable[[], None] = lambda: None
        core.awaited = self._applying.is_awaited
        core.on_read_echo = self._reads.echo
        core.on_leader_change = self._leadership_changed
        log.on_durable = self._log_is_durable
        transport.register(group, self)

    def _build_state(
        self, snapshots: Snapshots, compaction: CompactionLimits, watched: Callable[[], bool]
    ) -> None:
        self._state = GroupState(
            self._core,
            self._log,
            self._machine,
            snapshots,
            compaction,
            self._send,
            guarded=self._guarded,
            quarantine=self.quarantine,
            restored=self._restored,
            wake=self._wake,
            stop=self._stop,
        )
        self._compactor = self._state.compactor
        self.repair = self._state.repair
        self._applying = Applying(
            self._core,
            self._log,
            self._machine,
            self._proposals,
            self._limits,
            applied=self._compactor.applied,
            quarantine=self.quarantine,
            wake=self._wake,
            watched=watched,
        )

    def _send(self, peer: str, message: Message, *, bulk: bool) -> None:
        self._peers.send(peer, messages.encode(message), bulk)

    # --- Events --------------------------------------------------------------------

    def peer_connected(self, peer: str) -> None:
        self._guarded(lambda: self._core.peer_connected(peer))

    def peer_disconnected(self, peer: str) -> None:
        self._state.receiver.disconnected(peer)
        self._guarded(lambda: self._core.peer_disconnected(peer))

    def peer_message(self, peer: str, frame: bytes) -> None:
        self._guarded(lambda: self._core.receive(peer, frame))

    def _log_is_durable(self) -> None:
        self._guarded(self._core.release_outbox)

    def _guarded(self, event: Callable[[], None]) -> None:
        """Handle an event and ask for a turn; what it raises stops the node.

        A frame that does not parse only ends its connection: the transport does that
        with what a handler raises. A newer build must not take down every older one.
        """
        if self._failed:
            return
        try:
            event()
        except MalformedMessage:
            raise
        except Exception as error:
            self._stop(error)
        else:
            self._wake()

    def halt(self) -> None:
        """Do nothing more: what this group relies on has failed. Idempotent.

        Nothing is applied, acknowledged, voted for or sent from here on, so that a leader
        which fails leaves its place at once, however long the node takes to stop.
        """
        self._failed = True

    def _stop(self, error: Exception) -> None:
        self.halt()
        self._fail(error)

    # --- Requests ------------------------------------------------------------------

    def submit(self, command: bytes, done: Done) -> None:
        """Replicate one command; `done` gets its result from the state machine, or
        NotLeader or Overloaded (both definite: it was not appended, or can never commit).

        It may be called before submit returns. It is never called while the outcome is
        open: the caller sets a deadline and then reports the outcome as unknown.
        """
        core = self._core
        if core.state != raft.LEADER or self._failed:
            done(None, NotLeader(core.leader))
        elif core.transferring or core.stateless or core.repairing:
            done(None, NotLeader(None))
        elif len(command) > self._limits.command_bytes_max:
            done(None, Overloaded("the command is larger than command_bytes_max"))
        elif not self._core.room:
            done(None, DiskFull("the leader's disk is nearly full"))
        elif (
            self._proposals.count >= self._limits.proposals_inflight_max
            or self._proposals.bytes + len(command) > self._limits.proposals_bytes_max
        ):
            done(None, Overloaded("too many commands wait to be committed"))
        else:
            self._proposals.add(command, done)
            self._wake()

    def read_index(self, done: ReadDone) -> None:
        """Give `done` the index that a linearizable read must have applied."""
        if self._core.state != raft.LEADER or self._failed:
            done(None, NotLeader(self._core.leader))
        elif self._reads.waiting_count >= self._limits.reads_waiting_max:
            done(None, Overloaded("too many reads wait for a round"))
        else:

            def answer(index: int | None) -> None:
                lost = NoQuorum("leadership ended before the read was confirmed")
                done(index, None if index is not None else lost)

            self._reads.add(answer)
            self._wake()

    def when_applied(self, index: int, done: Callable[[], None]) -> None:
        """Call `done` once this node has applied `index`. Raises Overloaded."""
        self._applying.when_applied(index, done)

    def catch_up(self) -> None:
        """Somebody waits for this node's state: put nothing off in the next turn, and ask the
        leader what is committed."""
        self._applying.catch_up()

    # --- Members and leadership --------------------------------------------------------

    def configuration(self) -> Configuration:
        """The newest configuration in this node's log, committed or not."""
        return self._core.configuration

    def committed_configuration(self) -> Configuration:
        """The newest configuration that this node knows to be committed."""
        return self._core.configuration_at(self._core.commit_index)

    def change_membership(self, change: Change, done: Done) -> None:
        """Leader only: make one change; `done(Configuration, None)` once it is committed.

        `done(None, error)`: NotLeader, ChangeRefused. Never called while it is open.
        """
        if self._core.state != raft.LEADER or self._failed:
            done(None, NotLeader(self._core.leader))
            return
        try:
            members = self._core.changed_members(change)
        except ChangeRefused as refusal:
            done(None, refusal)
            return
        if members is self._core.configuration.members:
            done(self._core.configuration, None)
            return
        index, term = self._core.append_configuration(members)
        self._proposals.appended_alone(index, term, done, Configuration(index, tuple(members)))
        self._wake()

    def transfer_leadership(self, target: str | None, done: Done) -> None:
        """Leader only: hand over to `target`, or to whoever is furthest (None)."""
        if self._failed:
            done(None, NotLeader(None))
            return
        self._transfer.begin(target, done)
        self._wake()

    def _readmit_replaced(self) -> None:
        """A member whose data folder was wiped becomes a learner, one at a time."""
        if self._core.all_trusted:
            return
        for peer, incarnation in self._core.replaced_voters():
            try:
                members = self._core.changed_members(Update(peer, incarnation=incarnation))
            except ChangeRefused:
                return  # Another change is under way; the next turn looks again.
            if members is not self._core.configuration.members:
                self._core.append_configuration(members)
            return

    # --- Disk and state --------------------------------------------------------------

    def set_room(self, room: bool) -> None:
        """Tell whether the disk has room for more. Without it nothing is appended here: a
        leader refuses commands and hands over, a follower lets its leader wait."""
        if room != self._core.room:
            self._core.room = room
            self._wake()

    def make_snapshot(self) -> bool:
        """Begin a snapshot now. False: one is being made or received, or there is no state."""
        return self._state.make_snapshot()

    @property
    def snapshot_failure(self) -> Exception | None:
        """Why the last attempt to make a snapshot did not come off; None: it did."""
        return self._compactor.failure

    def _give_way_if_unfit(self) -> None:
        core = self._core
        if not core.fit and not core.transferring and core.noop_committed and core.heir():
            self._transfer.begin(None, lambda result, error: None)

    def quarantine(self, reason: str, reseed_from: int = 0) -> None:
        """The state was found damaged: answer nothing from it, give up leadership, rebuild it.

        `reseed_from`: a log index at which it differed from the majority's, so that what was
        made of it here does not do either; 0: it does not verify. See `repair.py`.
        """
        if self._failed:
            return
        logger.error("the state is damaged and is rebuilt: %s", reason)
        try:
            self._state.drop(reason, reseed_from)
        except Exception as error:
            self._stop(error)
            return
        self._reads.fail_all()
        self._proposals.refuse_waiting()
        self._wake()

    def _restored(self) -> None:
        """A snapshot has become the state."""
        self._proposals.skip(self._core.applied_index)
        self._applying.release()
        self._wake()

    # --- The turn ------------------------------------------------------------------

    def tick(self) -> None:
        """A turn, if it is time for anything. Cheap where it is not."""
        if self._core.now() >= self._due_at:
            self.turn()

    def due_in(self) -> float:
        """Seconds until a tick has something to do, if nothing happens; inf: never again."""
        return inf if self._failed else self._due_at - self._core.now()

    def turn(self) -> None:
        """Do everything that can be done now. Never raises: a failure goes to `fail`."""
        if self._failed:
            return
        try:
            self._core.advance()
            if self._core.state == raft.LEADER:
                self._lead()
            if self._applying.takes_asking():
                self._core.ask_for_commit()
            self._core.replicate()
            # Before this node applies, or waits for its own disk.
            self._flush_peers()
            self._reads.confirm(self._core.voter_peers)
            self._applying.apply()
            self._state.compact()
            self.repair.check()
            self._transfer.check()
            self._standing.check()
            # What is looked at now and then leaves it to the turns that heartbeats bring, if
            # these come; it bounds how late all is that no time is kept of here.
            look_at = self._state.compact_at + COMPACT_SECONDS / 2
            self._due_at = min(look_at, self._core.due_at, self._applying.due_at)
        except Exception as error:
            self._stop(error)

    def _lead(self) -> None:
        self._readmit_replaced()
        self._give_way_if_unfit()
        if self._core.wants_fresh_snapshot() and self.make_snapshot():
            self._core.fresh_snapshot_begun()
        self._begin_read_round()
        self._append_waiting()

    def _begin_read_round(self) -> None:
        core = self._core
        able = core.noop_committed and core.is_voter
        able = able and not core.stateless and not core.repairing
        if able and self._reads.begin(self._core.commit_index):
            self._core.read_seq = self._reads.seq
            self._core.broadcast_heartbeat()

    def _append_waiting(self) -> None:
        """Turn the commands that wait into one entry, unless an entry is being fsynced."""
        if not self._proposals.waiting or self._log.durable_index < self._log.last_index:
            return
        if self._core.transferring:
            return
        limits = self._limits
        taken = self._proposals.take(limits.entry_commands_max, limits.entry_bytes_max)
        commands, waiters, size = taken
        index, term = self._core.append(commands)
        self._proposals.appended(index, term, waiters, size)

    def _leadership_changed(self) -> None:
        if self._core.state != raft.LEADER:
            self._reads.fail_all()
            self._proposals.refuse_waiting()
        self._log_leader()
        self.on_leader_change()
        self._wake()

    def _log_leader(self) -> None:
        """Say who leads, for whoever reads later why writes paused."""
        role = self.role()
        if role.leader == self._logged_leader:
            return
        self._logged_leader = role.leader
        which = f"partition {self.group}: " if self.group else ""
        if role.leader is None:
            logger.info("%sno leader is known, in term %d", which, role.term)
        elif role.name == "leader":
            logger.info("%sthis node leads in term %d", which, role.term)
        else:
            logger.info("%snode %s leads in term %d", which, role.leader, role.term)

    # --- What it is doing ----------------------------------------------------------

    def staleness_seconds(self) -> float:
        """How old this node's state may be; inf: it never heard a leader in this life."""
        return self._core.staleness_seconds()

    def role(self) -> Role:
        return Role(_ROLE_NAMES[self._core.state], self._core.leader, self._core.term)

    def status(self) -> GroupStatus:
        leading = self._core.state == raft.LEADER
        return GroupStatus(
            group=self.group,
            role=_ROLE_NAMES[self._core.state],
            leader=self._core.leader,
            term=self._core.term,
            last_index=self._log.last_index,
            durable_index=self._log.durable_index,
            commit_index=self._core.commit_index,
            applied_index=self._core.applied_index,
            match_index=self._core.match_index if leading else {},
            proposals_inflight=self._proposals.count,
            has_quorum=self._core.has_quorum,
            configuration=self._core.configuration,
            snapshot_index=self._core.snapshot.index if self._core.snapshot else 0,
            log_first_index=self._log.first_index,
            room=self._core.room,
            contact=self._core.contact.read(),
            repairing=self._core.repairing,
            stateless=self._core.stateless,
        )
