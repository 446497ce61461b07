"""One Raft group on one node: proposals, group commit, reads, apply.

A *turn* does everything that can be done now: timers, commit, one read round, one new
entry for all commands that wait, replication, apply. Turns are asked for by events
(`wake`) and by a timer; many events in one loop turn share one turn. Commands that
arrive while an entry is being fsynced wait and become the next entry: that is the group
commit, and it needs no tuning, since the batch grows with the load.

Loop thread only. Anything that raises inside a turn stops the node (`fail`): a group
that cannot apply or write must not limp on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random  # noqa: TID251 - the caller seeds it

from cluster import entry as entries_codec
from cluster import raft
from cluster.errors import ClusterError, NoQuorum, NotLeader, Overloaded
from cluster.interfaces import (
    CommittedBatch,
    GroupStatus,
    PeerTransport,
    RaftLog,
    Role,
    StateMachine,
)
from cluster.messages import MalformedMessage
from cluster.raft import FlowLimits, SafeCore
from cluster.reads import ReadRounds
from cluster.upstream import RaftTiming

Done = Callable[[object, ClusterError | None], None]  # result, or why there is none
ReadDone = Callable[[int | None, ClusterError | None], None]

_ROLE_NAMES = {raft.FOLLOWER: "follower", raft.CANDIDATE: "candidate", raft.LEADER: "leader"}


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Bounds of one group. Counts are commands or entries; sizes are bytes."""

    entry_commands_max: int = 1024  # commands in one entry
    entry_bytes_max: int = 1 << 20  # command bytes in one entry (a larger command goes alone)
    command_bytes_max: int = 60 << 20  # one command; a log record and a frame hold 64 MiB
    proposals_inflight_max: int = 4096  # commands waiting or not yet applied
    proposals_bytes_max: int = 128 << 20  # their bytes
    reads_waiting_max: int = 8192  # reads waiting for a round, and as many to be applied
    apply_entries_max: int = 256  # entries applied in one turn
    apply_bytes_max: int = 4 << 20  # payload bytes applied in one turn (at least one entry)


@dataclass(slots=True)
class _Appended:
    """An entry that this node appended as leader, waiting to be applied."""

    term: int
    waiters: Sequence[Done]
    size: int  # bytes of its commands


class RaftGroup:
    """One group: `SafeCore` plus what waits for it. See the module docstring.

    Invariant: every `Done` is called exactly once; `_inflight` counts those not called.
    """

    def __init__(
        self,
        group: int,
        self_id: str,
        peer_ids: Sequence[str],
        log: RaftLog,
        machine: StateMachine,
        transport: PeerTransport,
        *,
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
        rng: Random,
        timing: RaftTiming | None = None,
        limits: GroupLimits | None = None,
        flow: FlowLimits | None = None,
    ) -> None:
        self.group = group
        self.self_id = self_id
        self._log = log
        self._machine = machine
        self._limits = limits or GroupLimits()
        self._wake = wake
        self._fail = fail
        self._failed = False
        self._queue: deque[tuple[bytes, Done]] = deque()
        self._appended: dict[int, list[_Appended]] = {}  # an index may be ours in several terms
        self._inflight = 0
        self._inflight_bytes = 0
        self._applied_waiters: list[tuple[int, int, Callable[[], None]]] = []
        self._waiter_number = count()
        self._reads = ReadRounds()
        self.on_leader_change: Callable[[], None] = lambda: None
        self._core = SafeCore(
            self_id,
            peer_ids,
            log,
            machine.applied_index,
            lambda peer, frame, bulk: transport.send(peer, group, frame, bulk=bulk),
            timing or RaftTiming(),
            flow or FlowLimits(),
            rng,
        )
        self._core.on_read_echo = self._reads.echo
        self._core.on_leader_change = self._leadership_changed
        log.on_durable = self._log_is_durable
        transport.register(group, self)

    # --- Events --------------------------------------------------------------------

    def peer_connected(self, peer: str) -> None:
        self._guarded(lambda: self._core.peer_connected(peer))

    def peer_disconnected(self, peer: str) -> None:
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

    def _stop(self, error: Exception) -> None:
        """Nothing is applied, acknowledged or voted for from here on."""
        self._failed = True
        self._fail(error)

    # --- Requests ------------------------------------------------------------------

    def submit(self, command: bytes, done: Done) -> None:
        """Replicate one command; `done` gets its result from the state machine, or
        NotLeader or Overloaded (both definite: it was not appended, or can never commit).

        It may be called before submit returns. It is never called while the outcome is
        open: the caller sets a deadline and then reports the outcome as unknown.
        """
        if self._core.state != raft.LEADER or self._failed:
            done(None, NotLeader(self._core.leader))
        elif len(command) > self._limits.command_bytes_max:
            done(None, Overloaded("the command is larger than command_bytes_max"))
        elif (
            self._inflight >= self._limits.proposals_inflight_max
            or self._inflight_bytes + len(command) > self._limits.proposals_bytes_max
        ):
            done(None, Overloaded("too many commands wait to be committed"))
        else:
            self._inflight += 1
            self._inflight_bytes += len(command)
            self._queue.append((command, done))
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
        if self._core.applied_index >= index:
            done()
        elif len(self._applied_waiters) >= self._limits.reads_waiting_max:
            raise Overloaded("too many reads wait for this node to catch up")
        else:
            heappush(self._applied_waiters, (index, next(self._waiter_number), done))

    # --- The turn ------------------------------------------------------------------

    def turn(self) -> None:
        """Do everything that can be done now. Never raises: a failure goes to `fail`."""
        if self._failed:
            return
        try:
            self._core.advance()
            if self._core.state == raft.LEADER:
                self._begin_read_round()
                self._append_waiting()
            self._core.replicate()
            self._reads.confirm(self._core.voters)
            self._apply()
        except Exception as error:
            self._stop(error)

    def _begin_read_round(self) -> None:
        if self._core.noop_committed and self._reads.begin(self._core.commit_index):
            self._core.read_seq = self._reads.seq
            self._core.broadcast_heartbeat()

    def _append_waiting(self) -> None:
        """Turn the commands that wait into one entry, unless an entry is being fsynced."""
        if not self._queue or self._log.durable_index < self._log.last_index:
            return
        commands: list[bytes] = []
        waiters: list[Done] = []
        size = 0
        while self._queue and len(commands) < self._limits.entry_commands_max:
            if commands and size + len(self._queue[0][0]) > self._limits.entry_bytes_max:
                break
            command, done = self._queue.popleft()
            commands.append(command)
            waiters.append(done)
            size += len(command)
        index, term = self._core.append(commands)
        self._appended.setdefault(index, []).append(_Appended(term, waiters, size))

    def _apply(self) -> None:
        """Apply what is committed and durable here, bounded so that the loop stays live."""
        first = self._core.applied_index + 1
        last = self._core.applicable_index()
        if first > last:
            return
        end = min(last, first + self._limits.apply_entries_max - 1) + 1
        entries = self._log.read(first, end, self._limits.apply_bytes_max)
        batches = [
            CommittedBatch(item.index, item.term, entries_codec.unpack(item.payload))
            for item in entries
        ]
        results = self._machine.apply(batches)
        applied = entries[-1].index
        self._core.set_applied(applied)
        for batch, batch_results in zip(batches, results, strict=True):
            self._resolve(batch, batch_results)
        while self._applied_waiters and self._applied_waiters[0][0] <= applied:
            heappop(self._applied_waiters)[2]()
        if applied < last:
            self._wake()

    def _resolve(self, batch: CommittedBatch, results: Sequence[object]) -> None:
        """Answer whoever proposed at this index, in whichever term this node led."""
        for appended in self._appended.pop(batch.index, ()):
            self._release(appended)
            if appended.term == batch.term:
                for done, result in zip(appended.waiters, results, strict=True):
                    done(result, None)
            else:
                self._refuse(appended)
                self._refuse_later(appended.term)

    def _refuse_later(self, term: int) -> None:
        """Another entry is committed where this node had one of `term`. By log matching no
        log that holds a later entry of that same term can win either: those are refused."""
        for index in sorted(self._appended):
            items = self._appended[index]
            kept = [item for item in items if item.term != term]
            if kept:
                self._appended[index] = kept
            else:
                del self._appended[index]
            for item in items:
                if item.term == term:
                    self._release(item)
                    self._refuse(item)

    def _refuse(self, appended: _Appended) -> None:
        for done in appended.waiters:
            done(None, NotLeader(self._core.leader))

    def _release(self, appended: _Appended) -> None:
        self._inflight -= len(appended.waiters)
        self._inflight_bytes -= appended.size

    def _leadership_changed(self) -> None:
        if self._core.state != raft.LEADER:
            self._reads.fail_all()
            refused, self._queue = self._queue, deque()
            for command, done in refused:
                self._inflight -= 1
                self._inflight_bytes -= len(command)
                done(None, NotLeader(self._core.leader))
        self.on_leader_change()
        self._wake()

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
            proposals_inflight=self._inflight,
            has_quorum=self._core.has_quorum,
        )
