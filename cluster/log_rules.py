"""What both logs refuse: mutations that Raft never asks for. Pure.

A refused call changes nothing. These are defects above the log, not input errors; the log
checks them because what it would store could not be repaired.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.interfaces import LogEntry
from cluster.log_format import RECORD_HEADER_BYTES


def check_append(entries: Sequence[LogEntry], last_index: int, body_bytes_max: int) -> int:
    """Bytes that `entries` take on disk.

    Raises ValueError unless they continue the log at last_index + 1 without a gap, each
    with a body of at most `body_bytes_max`.
    """
    size = len(entries) * RECORD_HEADER_BYTES
    due = last_index
    for index, _, body in entries:
        due += 1
        if index != due:
            raise ValueError(f"entry {index} appended where {due} is due")
        if len(body) > body_bytes_max:
            raise ValueError(f"entry {index} has {len(body)} bytes, at most {body_bytes_max}")
        size += len(body)
    return size


def check_truncation(index: int, first_index: int) -> None:
    """Raise ValueError for a truncation below what the log holds."""
    if index < first_index:
        raise ValueError(f"cannot truncate at {index}: the log begins at {first_index}")


def check_reset(index: int, term: int, first_index: int) -> None:
    """Raise ValueError for a reset to where nothing can be in a snapshot, or below the base."""
    if index < max(1, first_index - 1):
        raise ValueError(f"cannot reset to {index}: the log begins at {first_index}")
    if term < 0:
        raise ValueError(f"cannot reset to term {term}")


def check_hard_state(term: int, vote: str | None, new_term: int, new_vote: str | None) -> None:
    """Raise ValueError unless Raft may go from one hard state to the other.

    Terms only grow, and a vote given in a term stands (Raft, figure 2 and section 5.4).
    """
    if new_term < term:
        raise ValueError(f"term {new_term} is lower than {term}")
    if new_term == term and vote is not None and new_vote != vote:
        raise ValueError(f"vote for {new_vote!r} in term {term}, which went to {vote!r}")
