"""What waits to be sent to one peer: two lanes, cut into chunks, bounded by the caller.

The control lane goes first, so that heartbeats, votes and acknowledgements overtake a
snapshot between two of its chunks. The bulk lane still gets a chunk after every
CONTROL_RUN_BYTES_MAX of control, so that steady replication cannot starve it for ever.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from cluster.framing import BULK, HEADER_BYTES, MORE, encode_header

CONTROL_RUN_BYTES_MAX: Final = 512 * 1024


class _LongFrame:
    """A frame that is sent chunk by chunk."""

    __slots__ = ("frame_id", "kind", "offset", "payload", "tag")

    def __init__(self, kind: int, tag: int, frame_id: int, payload: bytes) -> None:
        self.kind = kind
        self.tag = tag
        self.frame_id = frame_id
        self.payload = memoryview(payload)
        self.offset = 0


class Lane:
    """A FIFO of frames. `queued` and `started` count them since the connection began.

    Invariant: started <= queued; a frame's number is `queued` right after it was put.
    """

    __slots__ = ("flag", "frames", "queued", "started")

    def __init__(self, flag: int) -> None:
        self.flag = flag
        self.frames: deque[bytes | _LongFrame] = deque()
        self.queued = 0
        self.started = 0


class SendQueue:
    """Frames in, wire bytes out. It counts; its owner enforces the bounds."""

    __slots__ = ("_chunk_bytes", "_control_run", "bulk", "bytes", "control", "frames")

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._control_run = 0  # bytes of control since the last chunk of bulk
        self.control = Lane(0)
        self.bulk = Lane(BULK)
        self.bytes = 0  # payloads and headers still to be taken
        self.frames = 0

    def put(self, lane: Lane, kind: int, tag: int, frame_id: int, payload: bytes) -> None:
        """Queue one frame at the end of its lane."""
        size = len(payload)
        if size <= self._chunk_bytes:
            # Encoded at once: one object per frame is all that taking must touch.
            wire = encode_header(kind, lane.flag, tag, frame_id, payload) + payload
            lane.frames.append(wire)
            self.bytes += len(wire)
        else:
            # Raise for numbers out of range here, and not when it is half sent.
            encode_header(kind, lane.flag, tag, frame_id, b"")
            lane.frames.append(_LongFrame(kind, tag, frame_id, payload))
            self.bytes += size + HEADER_BYTES * -(-size // self._chunk_bytes)
        lane.queued += 1
        self.frames += 1

    def take(self, bytes_max: int) -> bytes:
        """The next bytes to send: at most one chunk more than `bytes_max`; b"" when empty."""
        parts: list[bytes | memoryview] = []
        taken = 0
        control, bulk = self.control, self.bulk
        while taken < bytes_max:
            if control.frames and not (bulk.frames and self._control_run >= CONTROL_RUN_BYTES_MAX):
                size = self._take_chunk(control, parts)
                self._control_run += size
            elif bulk.frames:
                size = self._take_chunk(bulk, parts)
                self._control_run = 0
            else:
                break
            taken += size
        self.bytes -= taken
        return b"".join(parts)

    def clear(self) -> None:
        """Forget what is queued. The counters of the lanes stay."""
        self.control.frames.clear()
        self.bulk.frames.clear()
        self.bytes = self.frames = 0

    def _take_chunk(self, lane: Lane, parts: list[bytes | memoryview]) -> int:
        frame = lane.frames[0]
        if isinstance(frame, bytes):
            lane.frames.popleft()
            lane.started += 1
            self.frames -= 1
            parts.append(frame)
            return len(frame)
        if frame.offset == 0:
            lane.started += 1
        chunk = frame.payload[frame.offset : frame.offset + self._chunk_bytes]
        frame.offset += len(chunk)
        flags = lane.flag
        if frame.offset < len(frame.payload):
            flags |= MORE
        else:
            lane.frames.popleft()
            self.frames -= 1
        parts.append(encode_header(frame.kind, flags, frame.tag, frame.frame_id, chunk))
        parts.append(chunk)
        return HEADER_BYTES + len(chunk)
