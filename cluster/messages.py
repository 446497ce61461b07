"""Raft messages on the wire: fixed little-endian structs, no pickle.

The consensus core (PySyncObj) speaks dicts; this module turns them into frames and
back. Field names are upstream's. Added to upstream: `term` and `read_seq` in acks,
`read_seq` in appends, `transfer` in vote requests, and the two pre-vote messages.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from cluster.interfaces import LogEntry

Message = dict[str, Any]

_REQUEST_VOTE, _VOTE, _APPEND, _ACK, _PRE_VOTE, _PRE_VOTE_RESPONSE = range(1, 7)

_VOTE_REQUEST = struct.Struct("<BQQQB")  # kind, term, last index, last term, transfer
_VOTE_RESPONSE = struct.Struct("<BQ")  # kind, term
_APPEND_HEAD = struct.Struct("<BQQQQQI")  # kind, term, commit, prev index, prev term, seq, count
_ENTRY_HEAD = struct.Struct("<QI")  # term, payload bytes; the index follows from the previous
_ACK_BODY = struct.Struct("<BQQQBB")  # kind, term, next index, read seq, reset, success
_PRE_VOTE_BODY = struct.Struct("<BQIQQ")  # kind, term, round, last index, last term
_PRE_VOTE_ANSWER = struct.Struct("<BQIB")  # kind, term of the answerer, round, granted


class MalformedMessage(Exception):
    """A frame from an authenticated peer that does not parse: a defect, not an attack."""


def encode_append(
    term: int,
    commit_index: int,
    prev_index: int,
    prev_term: int,
    read_seq: int,
    entries: Sequence[LogEntry],
) -> bytes:
    """Frame of an append; entries must follow `prev_index` without a gap."""
    count = len(entries)
    parts = [_APPEND_HEAD.pack(_APPEND, term, commit_index, prev_index, prev_term, read_seq, count)]
    for entry in entries:
        parts.append(_ENTRY_HEAD.pack(entry.term, len(entry.payload)))
        parts.append(entry.payload)
    return b"".join(parts)


def encode(message: Message) -> bytes:
    """Frame of any message but an append. Raises KeyError for an unknown type."""
    kind = message["type"]
    if kind == "next_node_idx":
        return _ACK_BODY.pack(
            _ACK,
            message["term"],
            message["next_node_idx"],
            message["read_seq"],
            message["reset"],
            message["success"],
        )
    if kind == "request_vote":
        last = (message["last_log_index"], message["last_log_term"])
        return _VOTE_REQUEST.pack(_REQUEST_VOTE, message["term"], *last, message["transfer"])
    if kind == "response_vote":
        return _VOTE_RESPONSE.pack(_VOTE, message["term"])
    if kind == "pre_vote":
        last = (message["last_log_index"], message["last_log_term"])
        return _PRE_VOTE_BODY.pack(_PRE_VOTE, message["term"], message["round"], *last)
    if kind == "pre_vote_response":
        return _PRE_VOTE_ANSWER.pack(
            _PRE_VOTE_RESPONSE, message["term"], message["round"], message["granted"]
        )
    raise KeyError(kind)


def decode(frame: bytes) -> Message:
    """Message of a frame. Raises MalformedMessage."""
    try:
        return _DECODERS[frame[0]](frame)
    except (KeyError, IndexError, struct.error) as error:
        raise MalformedMessage(f"frame of {len(frame)} bytes: {error!r}") from error


def _decode_append(frame: bytes) -> Message:
    _, term, commit, prev_index, prev_term, read_seq, count = _APPEND_HEAD.unpack_from(frame)
    offset = _APPEND_HEAD.size
    entries = []
    for index in range(prev_index + 1, prev_index + 1 + count):
        entry_term, size = _ENTRY_HEAD.unpack_from(frame, offset)
        offset += _ENTRY_HEAD.size
        if offset + size > len(frame):
            raise MalformedMessage(f"entry {index} is cut short")
        entries.append((frame[offset : offset + size], index, entry_term))
        offset += size
    if offset != len(frame):
        raise MalformedMessage(f"{len(frame) - offset} bytes behind the last entry")
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "prevLogIdx": prev_index,
        "prevLogTerm": prev_term,
        "read_seq": read_seq,
        "entries": entries,
    }


def _decode_ack(frame: bytes) -> Message:
    _, term, next_index, read_seq, reset, success = _ACK_BODY.unpack(frame)
    return {
        "type": "next_node_idx",
        "term": term,
        "next_node_idx": next_index,
        "read_seq": read_seq,
        "reset": bool(reset),
        "success": bool(success),
    }


def _decode_request_vote(frame: bytes) -> Message:
    _, term, last_index, last_term, transfer = _VOTE_REQUEST.unpack(frame)
    return {
        "type": "request_vote",
        "term": term,
        "last_log_index": last_index,
        "last_log_term": last_term,
        "transfer": bool(transfer),
    }


def _decode_vote(frame: bytes) -> Message:
    return {"type": "response_vote", "term": _VOTE_RESPONSE.unpack(frame)[1]}


def _decode_pre_vote(frame: bytes) -> Message:
    _, term, round_, last_index, last_term = _PRE_VOTE_BODY.unpack(frame)
    return {
        "type": "pre_vote",
        "term": term,
        "round": round_,
        "last_log_index": last_index,
        "last_log_term": last_term,
    }


def _decode_pre_vote_response(frame: bytes) -> Message:
    _, term, round_, granted = _PRE_VOTE_ANSWER.unpack(frame)
    return {"type": "pre_vote_response", "term": term, "round": round_, "granted": bool(granted)}


_DECODERS = {
    _REQUEST_VOTE: _decode_request_vote,
    _VOTE: _decode_vote,
    _APPEND: _decode_append,
    _ACK: _decode_ack,
    _PRE_VOTE: _decode_pre_vote,
    _PRE_VOTE_RESPONSE: _decode_pre_vote_response,
}
