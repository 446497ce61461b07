"""Reading a log's files again, to see whether what was durable still verifies.

Only looks: what is found wrong is somebody else's to deal with. Nothing here needs the log to be
open; of an open one, what lies beyond its durable bytes is not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cluster.errors import CorruptLog
from cluster.log_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    decode_record_header,
    payload_verifies,
)
from cluster.log_reader import SegmentReader


class Extent(NamedTuple):
    """The durable part of one segment file."""

    path: Path
    seed: int
    size: int  # bytes, the file's header included


def verify_records(extent: Extent, start: int, bytes_max: int) -> int:
    """Verify records from the offset `start` on (0: the first), until `bytes_max` are read; at
    least one. Returns the offset of the next one: `extent.size` at the end.

    Blocks. Raises CorruptLog, OSError (FileNotFoundError: the file was deleted meanwhile).
    """
    offset = max(start, SEGMENT_HEADER_BYTES)
    limit = offset + bytes_max
    reader = SegmentReader(extent.path)
    try:
        while offset < min(extent.size, limit):
            header = decode_record_header(
                extent.seed, offset, reader.at(offset, RECORD_HEADER_BYTES)
            )
            if header is None:
                raise CorruptLog(str(extent.path), offset, "a durable record does not verify")
            payload = reader.at(offset + RECORD_HEADER_BYTES, header.length)
            if not payload_verifies(extent.seed, offset, header, payload):
                raise CorruptLog(str(extent.path), offset, "a durable record does not verify")
            offset += RECORD_HEADER_BYTES + header.length
    finally:
        reader.close()
    return offset
