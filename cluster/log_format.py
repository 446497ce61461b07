"""The bytes of the Raft log on disk: segment headers and records. Pure; touches no file.

A segment is one header of 512 bytes, then records. All integers are little-endian.

Every checksum of a record starts from a value that is unique to its segment and to its
offset (`segment seed XOR offset`). Bytes that merely look like a record, such as a copy of
a log stored as somebody's value, therefore never verify where they happen to lie. That
matters because recovery searches damaged files for records (`log_recovery`).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple
from zlib import crc32

KIB: Final = 1 << 10
MIB: Final = 1 << 20

FORMAT_VERSION: Final = 1
SEGMENT_HEADER_BYTES: Final = 512
VOTE_BYTES_MAX: Final = 255
RECORD_BYTES_LIMIT: Final = 1 << 30  # bytes; what `LogOptions.record_bytes_max` may be at most
SEGMENT_BYTES_LIMIT: Final = 1 << 31  # bytes; offsets must stay below 2^32 to seed a checksum

# Record kinds. Plain integers: they are packed thousands of times per second.
ENTRY: Final = 1  # payload: the entry's body
HARD_STATE: Final = 2  # `term`; payload: the vote
TRUNCATE: Final = 3  # every entry with an index >= `index` is dropped
SYNC: Final = 4  # only its `synced` matters
RESET: Final = 5  # every entry is dropped; the next one is `index` + 1; `index` had `term`
KINDS: Final = frozenset((ENTRY, HARD_STATE, TRUNCATE, SYNC, RESET))

# 0xF5 and 0xC1 never occur in UTF-8, so that text values do not slow the search down.
RECORD_MARK: Final = b"\xf5\xc1HR"

_SEGMENT_MAGIC: Final = b"HIVELOG\n"
_SEGMENT: Final = struct.Struct("<8sHxxIQQQQIH")
_CHECKSUM: Final = struct.Struct("<I")
_CHECKED_BYTES: Final = SEGMENT_HEADER_BYTES - _CHECKSUM.size
_RECORD_PREFIX: Final = struct.Struct("<4sI")
_RECORD_FIELDS: Final = struct.Struct("<IIBQQQ")
RECORD_HEADER_BYTES: Final = _RECORD_PREFIX.size + _RECORD_FIELDS.size  # 41

_NO_VOTE: Final = b"\x00"
_A_VOTE: Final = b"\x01"
_NAME: Final = re.compile(r"([0-9]{10})-([0-9]{20})\.seg")


class Mutation(NamedTuple):
    """One change of the log, as it is buffered, written and replayed."""

    kind: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Bounds of one group's log.

    Invariant: record_bytes_max <= 1 GiB and segment_bytes <= 2 GiB, so that every offset
    fits 32 bits (a segment holds at least one record, however large).
    """

    segment_bytes: int = 64 * MIB  # bytes after which the next segment is begun
    cache_bytes: int = 16 * MIB  # bytes of durable entries kept in memory, newest first
    record_bytes_max: int = 64 * MIB  # bytes of one entry's body
    preallocate_bytes: int = 256 * KIB  # zeros written ahead of the records; 0: none
    salt: int = 0  # 32 unpredictable bits, mixed into the checksums of new segments

    def __post_init__(self) -> None:
        if not 4 * KIB <= self.segment_bytes <= SEGMENT_BYTES_LIMIT:
            raise ValueError(f"segment_bytes: must be 4096..{SEGMENT_BYTES_LIMIT}")
        if not 1 <= self.record_bytes_max <= RECORD_BYTES_LIMIT:
            raise ValueError(f"record_bytes_max: must be 1..{RECORD_BYTES_LIMIT}")
        if self.cache_bytes < 0 or not 0 <= self.preallocate_bytes <= 64 * MIB:
            raise ValueError("cache_bytes, preallocate_bytes: out of range")
        if not 0 <= self.salt < 1 << 32:
            raise ValueError("salt: must fit 32 bits")


class SegmentHeader(NamedTuple):
    """What a segment says about itself, and about where it continues from."""

    group: int
    sequence: int  # 1 for the first segment of a log; each next one is one higher
    first_index: int  # index that the next entry was going to have
    previous_bytes: int  # length of the segment before this one; 0 for the first
    term: int  # hard state when the segment was begun
    vote: str | None
    salt: int
    version: int = FORMAT_VERSION


class RecordHeader(NamedTuple):
    """A verified record header. `synced`: this segment was fsynced up to that offset."""

    payload_crc: int
    length: int
    kind: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    synced: int


def segment_name(sequence: int, first_index: int) -> str:
    return f"{sequence:010d}-{first_index:020d}.seg"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(sequence, first index), or None where the name is not one of ours."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def encode_vote(vote: str | None) -> bytes:
    """Raises: ValueError for a vote that would not fit a segment header."""
    if vote is None:
        return _NO_VOTE
    encoded = vote.encode()
    if len(encoded) > VOTE_BYTES_MAX:
        raise ValueError(f"vote: {len(encoded)} bytes, at most {VOTE_BYTES_MAX}")
    return _A_VOTE + encoded


def decode_vote(encoded: bytes) -> str | None:
    return None if encoded == _NO_VOTE else encoded[1:].decode()


def encode_segment_header(header: SegmentHeader) -> bytes:
    vote = encode_vote(header.vote)
    fixed = _SEGMENT.pack(
        _SEGMENT_MAGIC,
        header.version,
        header.group,
        header.sequence,
        header.first_index,
        header.previous_bytes,
        header.term,
        header.salt,
        len(vote),
    )
    checked = (fixed + vote).ljust(_CHECKED_BYTES, b"\0")
    return checked + _CHECKSUM.pack(crc32(checked))


def decode_segment_header(encoded: bytes) -> SegmentHeader | None:
    """None if it does not verify. The place of the checksum is the same in all versions."""
    if len(encoded) < SEGMENT_HEADER_BYTES or not encoded.startswith(_SEGMENT_MAGIC):
        return None
    if crc32(encoded[:_CHECKED_BYTES]) != segment_seed(encoded):
        return None
    _, version, group, sequence, first, previous, term, salt, size = _SEGMENT.unpack_from(encoded)
    vote = decode_vote(encoded[_SEGMENT.size : _SEGMENT.size + size])
    return SegmentHeader(group, sequence, first, previous, term, vote, salt, version)


def segment_seed(encoded: bytes) -> int:
    """The header's own checksum. (A CRC over a message *and* its CRC is a constant.)"""
    seed: int = _CHECKSUM.unpack_from(encoded, _CHECKED_BYTES)[0]
    return seed


def encode_record_header(
    seed: int, offset: int, synced: int, kind: int, index: int, term: int, payload: bytes
) -> bytes:
    """The 41 bytes that precede `payload` at `offset` of the segment with `seed`.

    Header and payload have a checksum each, so that a header can be trusted, and a search
    for records stays linear, without reading the payload that it announces.
    """
    start = seed ^ offset
    fields = _RECORD_FIELDS.pack(crc32(payload, start), len(payload), kind, index, term, synced)
    return _RECORD_PREFIX.pack(RECORD_MARK, crc32(fields, start)) + fields


def decode_record_header(seed: int, offset: int, encoded: bytes) -> RecordHeader | None:
    """The header at the start of `encoded`, or None if it does not verify at `offset`."""
    if len(encoded) < RECORD_HEADER_BYTES or not encoded.startswith(RECORD_MARK):
        return None
    fields = encoded[_RECORD_PREFIX.size : RECORD_HEADER_BYTES]
    if crc32(fields, seed ^ offset) != _RECORD_PREFIX.unpack_from(encoded)[1]:
        return None
    return RecordHeader._make(_RECORD_FIELDS.unpack(fields))


def payload_verifies(seed: int, offset: int, header: RecordHeader, payload: bytes) -> bool:
    return len(payload) == header.length and crc32(payload, seed ^ offset) == header.payload_crc
