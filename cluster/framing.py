"""The wire format of a peer connection: chunks with checksums, reassembled into frames.

Every chunk is a header of 20 bytes and a payload, little-endian:

    length u32 | kind u8 | flags u8 | tag u16 | id u32 | header crc u32 | payload crc u32

The header has a checksum of its own, so that a damaged length is noticed at once and
not after waiting for bytes that never come. The payload's checksum is seeded with the
header's, so that a payload cannot pass under another header. A frame longer than a
chunk travels as several chunks of one lane, all but the last flagged MORE; the lanes
interleave freely. `id` is a Raft group, or the number of a call; `tag` is a call's
method, or 1 when an error is definite.

This module knows bytes and no sockets: the same input gives the same frames however
it is split.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import crc32

CHUNK_BYTES_MAX: Final = 64 * 1024
CHUNK_BYTES_MIN: Final = 4 * 1024  # A shorter chunk with MORE is refused: it only costs.
RECEIVE_BUFFER_BYTES: Final = 4 * CHUNK_BYTES_MAX
HANDSHAKE_BYTES_MAX: Final = 2 * 1024
HEADER_BYTES: Final = 20
_CHECKED_BYTES: Final = 12  # of the header, covered by its checksum

# Kinds of frames.
GROUP: Final = 1  # to a Raft group
CALL: Final = 2
REPLY: Final = 3  # what the handler returned
REPLY_ERROR: Final = 4  # what the handler raised
REPLY_REFUSED: Final = 5  # the handler was not run
PING: Final = 6
PONG: Final = 7
JOINED: Final = 8  # the sender takes part in a group from now on
CHALLENGE: Final = 16
HELLO: Final = 17
WELCOME: Final = 18
READY: Final = 19
REFUSED: Final = 20

MORE: Final = 1  # the frame goes on in the next chunk of its lane
BULK: Final = 2  # the lane that others overtake
_FLAGS: Final = MORE | BULK

_FIELDS = struct.Struct("<IBBHI")
_CHECKSUMS = struct.Struct("<II")
_HEADER = struct.Struct("<IBBHIII")
assert _HEADER.size == HEADER_BYTES
assert _FIELDS.size == _CHECKED_BYTES
assert RECEIVE_BUFFER_BYTES > HEADER_BYTES + CHUNK_BYTES_MAX


class Frame(NamedTuple):
    """One whole frame as received."""

    kind: int
    tag: int
    id: int
    payload: bytes


class FrameError(Exception):
    """The stream breaks a rule of the format; nothing after it can be trusted."""


def encode_header(
    kind: int, flags: int, tag: int, frame_id: int, payload: bytes | memoryview
) -> bytes:
    """The 20 bytes that precede `payload` on the wire."""
    fields = _FIELDS.pack(len(payload), kind, flags, tag, frame_id)
    crc = crc32(fields)
    return fields + _CHECKSUMS.pack(crc, crc32(payload, crc))


class _Partial:
    """A frame of one lane whose chunks are still arriving."""

    __slots__ = ("bytes", "chunks", "frame_id", "kind", "tag")

    def __init__(self) -> None:
        self.kind = self.tag = self.frame_id = self.bytes = 0
        self.chunks: list[bytes] = []


class FrameDecoder:
    """Incremental decoder over one fixed buffer.

    Use: fill `buffer()`, call `filled(count)`, then `decode()`. It starts with the
    tiny bounds of the handshake, one chunk per frame; `open` lifts them.
    Invariant: what is undecoded is less than one chunk, so the buffer never fills up.
    """

    def __init__(self) -> None:
        self._view = memoryview(bytearray(HEADER_BYTES + HANDSHAKE_BYTES_MAX))
        self._end = 0
        self._chunk_bytes_max = HANDSHAKE_BYTES_MAX
        self._frame_bytes_max = HANDSHAKE_BYTES_MAX
        # Keyed by the BULK bit of the flags.
        self._partials: Mapping[int, _Partial] = {0: _Partial(), BULK: _Partial()}
        self._chunked = 0  # lanes with a frame still arriving

    def open(self, frame_bytes_max: int) -> None:
        """Accept frames of up to `frame_bytes_max` from here on."""
        view = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        view[: self._end] = self._view[: self._end]
        self._view = view
        self._chunk_bytes_max = CHUNK_BYTES_MAX
        self._frame_bytes_max = frame_bytes_max

    def buffer(self) -> memoryview:
        """Where to put the next bytes received; never empty."""
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """`count` bytes were put into `buffer()`."""
        self._end += count

    def decode(self, frames_max: int = 1 << 30) -> list[Frame]:
        """The next whole frames, at most `frames_max`. Raises FrameError."""
        view, end, start = self._view, self._end, 0
        frames: list[Frame] = []
        while end - start >= HEADER_BYTES and len(frames) < frames_max:
            length, kind, flags, tag, frame_id, header_crc, payload_crc = _HEADER.unpack_from(
                view, start
            )
            crc = crc32(view[start : start + _CHECKED_BYTES])
            if crc != header_crc:
                raise FrameError("header checksum does not match")
            if length > self._chunk_bytes_max:
                raise FrameError(f"chunk of {length} bytes, at most {self._chunk_bytes_max}")
            stop = start + HEADER_BYTES + length
            if stop > end:
                break
            payload = bytes(view[start + HEADER_BYTES : stop])
            if crc32(payload, crc) != payload_crc:
                raise FrameError("payload checksum does not match")
            start = stop
            frame = Frame(kind, tag, frame_id, payload)
            if not flags and not self._chunked:
                frames.append(frame)
            elif (whole := self._reassemble(flags, frame)) is not None:
                frames.append(whole)
        if start:
            self._end = end - start
            view[: self._end] = view[start:end]
        return frames

    def _reassemble(self, flags: int, chunk: Frame) -> Frame | None:
        """Add one chunk to its lane; the frame if this was its last."""
        if flags & ~_FLAGS:
            raise FrameError(f"unknown flags {flags:#04x}")
        partial = self._partials[flags & BULK]
        if not partial.chunks:
            if not flags & MORE:
                return chunk
            partial.kind, partial.tag, partial.frame_id = chunk.kind, chunk.tag, chunk.id
            self._chunked += 1
        elif (chunk.kind, chunk.tag, chunk.id) != (partial.kind, partial.tag, partial.frame_id):
            raise FrameError("chunks of two frames are mixed in one lane")
        if flags & MORE and len(chunk.payload) < CHUNK_BYTES_MIN:
            raise FrameError(f"chunk of {len(chunk.payload)} bytes in the middle of a frame")
        partial.bytes += len(chunk.payload)
        if partial.bytes > self._frame_bytes_max:
            raise FrameError(f"frame of more than {self._frame_bytes_max} bytes")
        partial.chunks.append(chunk.payload)
        if flags & MORE:
            return None
        payload = b"".join(partial.chunks)
        partial.chunks.clear()
        partial.bytes = 0
        self._chunked -= 1
        return Frame(chunk.kind, chunk.tag, chunk.id, payload)
