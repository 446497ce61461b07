"""The seams of the cluster package: what consensus needs, and what it offers.

`cluster` moves opaque bytes and knows no data model. Everything here is called
from the event-loop thread unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cluster.contact import ContactGaps
from cluster.errors import ClusterError
from cluster.membership import Change, Configuration


class LogEntry(NamedTuple):
    """One Raft log entry. `payload` starts with a command-type byte."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    payload: bytes


class CommittedBatch(NamedTuple):
    """The commands of one committed entry, in the order in which they were proposed."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    commands: Sequence[bytes]


Decided = Callable[[CommittedBatch, Sequence[object]], None]


class SnapshotMeta(NamedTuple):
    """What a snapshot is: all effects up to `index`, and who were the members then."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int  # of the entry at `index`
    size: int  # bytes of the state
    sha256: bytes  # of those bytes
    configuration: Configuration  # in force at `index`


class StateMachine(Protocol):
    """What a Raft group replicates: a deterministic function of entry and state."""

    @property
    def applied_index(self) -> int:
        """Index of the last entry whose effects are in the state (0: none)."""

    def apply(self, batches: Sequence[CommittedBatch], decided: Decided) -> list[list[object]]:
        """Apply committed entries, in order, in one transaction.

        Returns one list per batch with one result per command. A refusal is a
        result. `decided` hears each of these lists once it is certain, which may be before
        the state shows it. Raises StateDamaged, with nothing applied, for a state that has to be
        rebuilt; else only for what must stop the node: storage failure, a command this
        build does not know.
        """

    def reset(self) -> None:
        """Drop the whole state: as one to which nothing was ever applied. Blocks briefly."""


class RaftLog(Protocol):
    """The durable log of one group: entries plus hard state (term, vote).

    Mutations are buffered in memory in call order; `flush` hands them to the
    log writer, which writes and fsyncs soon. Reads see buffered mutations at once.
    Positions number the mutations; they only grow.
    Invariant: durable_position <= position; durable_index <= last_index.

    `first_index - 1` is the log's base: what lies at or below it is in a snapshot. The base's
    term is known after `reset`, and after `drop_prefix` in the same process.
    """

    on_durable: Callable[[], None] | None  # called on the loop thread after each fsync

    @property
    def first_index(self) -> int:
        """Lowest index held; 1 for a log that was never cut."""

    @property
    def last_index(self) -> int:
        """Highest index held; first_index - 1 when empty."""

    @property
    def last_term(self) -> int:
        """Term of the last entry; of an empty log, of its base (0 if never reset)."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the segment files, or of the entries held in memory."""

    @property
    def term(self) -> int:
        """currentTerm as last set (buffered or durable)."""

    @property
    def vote(self) -> str | None:
        """votedFor in `term`."""

    @property
    def position(self) -> int:
        """Number of the newest mutation."""

    @property
    def durable_position(self) -> int:
        """Every mutation up to this one is on stable storage."""

    @property
    def durable_index(self) -> int:
        """Every entry up to this index, as currently held, is on stable storage."""

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`, or of the base where it is known; None elsewhere."""

    def read(self, start: int, end: int, bytes_max: int) -> list[LogEntry]:
        """Entries start..end-1, cut after the one that reaches `bytes_max`.

        At least one entry if `start` is held; [] otherwise.
        """

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Buffer entries; the first must be last_index + 1 and indexes consecutive."""

    def truncate_from(self, index: int) -> None:
        """Drop every entry with an index >= `index`."""

    def reset(self, index: int, term: int) -> None:
        """Drop every entry; the next one appended is `index` + 1, and the base has `term`.

        For use once a durable snapshot covers `index`: so durable_index is `index` at once.
        A mutation like any other: ordered, flushed and replayed. Hard state stays.
        """

    def drop_prefix(self, index: int) -> None:
        """Forget entries below `index`, or fewer (whole files), once a durable snapshot
        covers them. The newest entry stays. After a crash some may be there again."""

    def set_hard_state(self, term: int, vote: str | None) -> None: ...

    def flush(self) -> None:
        """Hand buffered mutations to the writer. Cheap when there are none."""

    def close(self) -> None:
        """Flush, wait for the fsync, close files. Idempotent."""


class Snapshots(Protocol):
    """The snapshots of one group on this node, and the one it is receiving.

    Loop thread only. Slow work is done elsewhere and answered through `done` on the loop
    thread, possibly before the call returns; never after `close`. What raises StorageFailed
    or calls back with it must stop the node.
    """

    @property
    def newest(self) -> SnapshotMeta | None:
        """The newest one that is durable and whole."""

    @property
    def busy(self) -> bool:
        """Whether one is being made or received."""

    def create(
        self,
        configuration_at: Callable[[int], Configuration],
        done: Callable[[SnapshotMeta | None, Exception | None], None],
    ) -> bool:
        """Copy the machine's state as of now into a new durable snapshot.

        `configuration_at(index)`, called on the loop thread, gives who were the members at
        the index that the copy turns out to have. False: busy, `done` is not called.
        """

    def read(
        self, index: int, offset: int, size: int, done: Callable[[bytes | None], None]
    ) -> None:
        """Bytes of the snapshot at `index`; None where it is not held (any more). A snapshot
        that is being read is kept until nobody has read it for a while."""

    def verify(self, done: Callable[[Exception | None], None]) -> None:
        """Check the newest one, its bytes and what they hold. CorruptSnapshot, of which
        DamagedContent says that it was made of a damaged state: it was set aside."""

    def prepare(self, done: Callable[[Exception | None], None]) -> None:
        """Check the newest one as `verify` does, and get a copy ready for `install`."""

    def distrust(self, *, held: bool) -> None:
        """The state was found damaged: a snapshot of it that is being made is dropped.
        `held`: those that were made of it are set aside, too."""

    def begin(self, meta: SnapshotMeta) -> int:
        """Get ready to receive this snapshot; returns how many of its bytes are here already
        (resumed). A partial one with another sha256 is dropped."""

    def write(self, offset: int, data: bytes, done: Callable[[Exception | None], None]) -> None:
        """Store bytes of the snapshot being received, at the place where they belong."""

    def finish(self, done: Callable[[Exception | None], None], *, thorough: bool = False) -> None:
        """Verify what was received, make it durable and the newest, and get a copy ready
        for `install`. `thorough`: look at every record in it, too.
        CorruptSnapshot: it was dropped, begin again."""

    def abandon(self) -> None:
        """Stop receiving. What is here is kept for resuming."""

    def install(self) -> None:
        """Replace the machine's state by the newest snapshot's. Blocks briefly after
        `finish`; at start, where no copy is ready, verifies and copies it.

        Raises CorruptSnapshot, StorageFailed."""

    def close(self) -> None:
        """Wait for what is under way, briefly; call nobody back. Idempotent."""


class PeerEvents(Protocol):
    """What a Raft group wants to hear from the transport."""

    def peer_connected(self, peer: str) -> None:
        """A connection is open, and empty. It may come again without a `peer_disconnected`:
        the peer registered the group later than it connected, and has seen nothing yet."""

    def peer_disconnected(self, peer: str) -> None: ...

    def peer_message(self, peer: str, frame: bytes) -> None: ...


class PeerTransport(Protocol):
    """One authenticated connection per peer, shared by all groups."""

    def register(self, group: int, events: PeerEvents) -> None:
        """Deliver this group's frames to `events`; announces already-connected peers."""

    def send(self, peer: str, group: int, frame: bytes, *, bulk: bool = False) -> bool:
        """Queue one frame; False when the peer is not connected.

        Order holds within a lane (bulk, not bulk) of one connection. A full queue
        closes the connection (peer_disconnected): single frames are never dropped.
        """

    def flush_if_alone(self) -> None:
        """Send what is queued now, if no other group shares the connections."""

    def incarnation(self, peer: str) -> str | None:
        """Incarnation of the data folder at the other end of the open connection."""

    def recorded_incarnation(self, peer: str) -> str | None:
        """The one that this node saw on its first contact with that peer, ever."""

    def record_incarnation(self, peer: str, incarnation: str) -> None:
        """Replace that record, since the members agreed on another folder. Durable."""

    def set_members(self, configuration: Configuration) -> None:
        """Connect to these nodes, at these addresses, and to no others. Idempotent."""


class Role(NamedTuple):
    """A group's role on this node, as seen at one moment."""

    name: str  # leader | follower | candidate
    leader: str | None  # node id, None when unknown
    term: int


class GroupStatus(NamedTuple):
    """Figures of one Raft group on one node. Indexes are log indexes."""

    group: int
    role: str
    leader: str | None
    term: int
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    match_index: dict[str, int]  # leader only: per peer
    proposals_inflight: int
    has_quorum: bool
    configuration: Configuration
    snapshot_index: int  # of the newest durable snapshot; 0: none
    log_first_index: int
    room: bool  # False: the disk is nearly full, so nothing is appended here
    contact: ContactGaps = ContactGaps()  # as a follower: how often the leader was heard
    repairing: bool = False  # the state was found damaged, and is not rebuilt yet
    stateless: bool = False  # the state waits for a snapshot of the leader


class Consensus(Protocol):
    """One replicated group, as the node uses it. `RaftGroup` and `InMemoryGroup` are two.

    Callbacks rather than futures, so that a simulation needs no event loop. Each callback
    is called at most once, on the loop thread, possibly before the call returns.
    """

    on_leader_change: Callable[[], None]

    def submit(self, command: bytes, done: Callable[[object, ClusterError | None], None]) -> None:
        """Replicate one command; `done(result, None)` once it is applied here.

        `done(None, error)` with a definite error if it certainly is not and will not be.
        Never called while the outcome is open: the caller keeps a deadline.
        """

    def read_index(self, done: Callable[[int | None, ClusterError | None], None]) -> None:
        """Give the log index that a linearizable read must have applied."""

    def when_applied(self, index: int, done: Callable[[], None]) -> None:
        """Call `done` once this node has applied `index`. Raises Overloaded."""

    def catch_up(self) -> None:
        """Somebody waits for what this node has not applied: put none of it off."""

    def staleness_seconds(self) -> float:
        """How old this node's state may be: the age of the newest moment at which a leader
        said what was committed and this node has applied all of it. inf: never."""

    def role(self) -> Role: ...

    def configuration(self) -> Configuration:
        """The newest configuration in this node's log, committed or not."""

    def committed_configuration(self) -> Configuration:
        """The newest configuration that this node knows to be committed."""

    def change_membership(
        self, change: Change, done: Callable[[object, ClusterError | None], None]
    ) -> None:
        """Leader only: make one change; `done(Configuration, None)` once it is committed.

        `done(None, error)`: NotLeader, ChangeRefused (another change is under way, the learner
        lags, a quorum would be lost…): both definite. Never called while the outcome is open.
        """

    def transfer_leadership(
        self, target: str | None, done: Callable[[object, ClusterError | None], None]
    ) -> None:
        """Leader only: hand over to `target` (None: whoever is furthest); `done(id, None)`
        once another leader is heard of. Meanwhile proposals are refused, definitely."""

    def status(self) -> GroupStatus: ...
