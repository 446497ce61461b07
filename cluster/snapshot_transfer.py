"""Moving a snapshot from the node that offers it to the one that needs it.

The leader offers its newest snapshot with every heartbeat; the follower pulls it in chunks,
a few at a time. Pulling bounds what is on its way without any bookkeeping at the sender,
keeps the transport's bulk lane short (heartbeats travel in the other), and resumes by
itself: after a lost connection, a restart or another leader's offer of the same bytes, the
follower asks on from what it holds. The sha256 in the offer decides at the end.

Loop thread only; disk work is done by `Snapshots`, which answers on the loop thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cluster.errors import CorruptSnapshot, Overloaded
from cluster.interfaces import SnapshotMeta, Snapshots
from cluster.messages import Message

CHUNK_BYTES: Final = 256 * 1024  # bytes asked for at once
WINDOW_BYTES: Final = 1024 * 1024  # bytes asked for and not yet written
STALL_SECONDS: Final = 0.5  # without progress for so long, an offer makes us ask again
READS_INFLIGHT_MAX: Final = 8  # chunks being read for one peer; more are not answered
REFUSED: Final = 0  # bytes asked for by who got it all and found it damaged

SendMessage = Callable[[str, Message], None]


class SnapshotSender:
    """Answers pulls. Any node that holds the snapshot may: its bytes prove themselves."""

    def __init__(
        self, snapshots: Snapshots, send: SendMessage, on_refused: Callable[[], None]
    ) -> None:
        """`send` puts a message on the bulk lane. `on_refused`: what was sent did not verify."""
        self._snapshots = snapshots
        self._send = send
        self._on_refused = on_refused
        self._reading: dict[str, int] = {}

    def pull(self, peer: str, message: Message) -> None:
        if message["size"] == REFUSED:
            self._on_refused()
            return
        if self._reading.get(peer, 0) >= READS_INFLIGHT_MAX:
            return  # It asks again when nothing comes.
        index, offset = message["index"], message["offset"]

        self._reading[peer] = self._reading.get(peer, 0) + 1

        def answer(data: bytes | None) -> None:
            self._reading[peer] -= 1
            if data:
                chunk = {"type": "snapshot_chunk", "term": message["term"], "data": data}
                self._send(peer, {**chunk, "index": index, "offset": offset})

        try:
            self._snapshots.read(index, offset, min(message["size"], CHUNK_BYTES), answer)
        except Overloaded:
            self._reading[peer] -= 1
            return  # The disk has enough to do; it asks again when nothing comes.


class SnapshotReceiver:
    """Pulls one snapshot at a time.

    Invariant: held <= received <= asked <= held + WINDOW_BYTES + CHUNK_BYTES, in bytes.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        send: SendMessage,
        on_received: Callable[[SnapshotMeta], None],
        fail: Callable[[Exception], None],
        now: Callable[[], float],
        thorough: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_received`: it is whole, durable and the newest. `fail` stops the node.
        `thorough()`: whether every record in it is to be looked at."""
        self._snapshots = snapshots
        self._send = send
        self._on_received = on_received
        self._fail = fail
        self._now = now
        self._thorough = thorough
        self._meta: SnapshotMeta | None = None
        self._peer = ""
        self._term = 0
        self._held = 0  # bytes written
        self._received = 0  # bytes given to be written
        self._asked = 0
        self._finishing = False
        self._moved_at = 0.0
        self.corrupt_count = 0  # snapshots that were refused after they had arrived

    @property
    def receiving(self) -> SnapshotMeta | None:
        return self._meta

    @property
    def held_bytes(self) -> int:
        return self._held

    def offer(self, peer: str, term: int, meta: SnapshotMeta) -> None:
        """A leader has this snapshot, and this node needs one."""
        newest = self._snapshots.newest
        if self._finishing or (newest is not None and meta.index < newest.index):
            return
        moving = self._meta is not None and self._now() - self._moved_at < STALL_SECONDS
        if moving and peer == self._peer:
            return  # Even if it has a newer one by now: one that arrives beats two that do not.
        if self._received > self._held:
            return  # Bytes are on their way to the disk; ask again when they are there.
        if self._meta is None or (meta.index, meta.sha256) != (
            self._meta.index,
            self._meta.sha256,
        ):
            if self._meta is not None:
                self._snapshots.abandon()
                self._meta = None
            if self._snapshots.busy:
                return  # Our own is being made; the next offer comes with the next heartbeat.
            self._held = self._snapshots.begin(meta)
            self._meta = meta
        self._peer, self._term = peer, term
        self._received = self._asked = self._held
        self._moved_at = self._now()
        self._go_on()

    def chunk(self, peer: str, message: Message) -> None:
        """Bytes of the snapshot. What does not continue what is here is ignored."""
        meta, data = self._meta, message["data"]
        if (
            meta is None
            or self._finishing
            or (peer, message["index"], message["offset"])
            != (self._peer, meta.index, self._received)
            or self._received + len(data) > meta.size
        ):
            return
        offset = self._received
        self._received += len(data)
        self._asked = max(self._asked, self._received)

        def written(error: Exception | None) -> None:
            if error is not None:
                self._fail(error)
            elif self._meta is meta:
                self._held = offset + len(data)
                self._moved_at = self._now()
                self._go_on()

        try:
            self._snapshots.write(offset, data, written)
        except Overloaded:
            self._received = offset  # The disk has enough to do; a later offer asks again.

    def disconnected(self, peer: str) -> None:
        """What was asked of this peer does not come; the next offer begins anew."""
        if peer == self._peer:
            self._moved_at = float("-inf")

    def cancel(self) -> None:
        """The snapshot is not needed any more. What is here is kept for resuming."""
        if self._meta is not None and not self._finishing:
            self._snapshots.abandon()
            self._meta = None
            self._held = self._received = self._asked = 0

    def _go_on(self) -> None:
        meta = self._meta
        assert meta is not None
        if self._held == meta.size:
            self._finishing = True
            self._snapshots.finish(self._finished, thorough=self._thorough())
            return
        while self._asked < meta.size and self._asked - self._held < WINDOW_BYTES:
            size = min(CHUNK_BYTES, meta.size - self._asked)
            pull = {"type": "snapshot_pull", "term": self._term, "index": meta.index}
            self._send(self._peer, {**pull, "offset": self._asked, "size": size})
            self._asked += size

    def _finished(self, error: Exception | None) -> None:
        meta = self._meta
        assert meta is not None
        self._meta = None
        self._finishing = False
        self._held = self._received = self._asked = 0
        if isinstance(error, CorruptSnapshot):
            # Refused and dropped; the next offer fetches it again. Frames are checked on
            # their way, so the damage may well be at the sender: let it look.
            self.corrupt_count += 1
            refusal = {"type": "snapshot_pull", "term": self._term, "index": meta.index}
            self._send(self._peer, {**refusal, "offset": meta.size, "size": REFUSED})
        elif error is not None:
            self._fail(error)
        else:
            self._on_received(meta)
