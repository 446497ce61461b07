"""Raft messages on the wire: fixed little-endian structs, no pickle.

The consensus core (PySyncObj) speaks dicts; this module turns them into frames and
back. Field names are upstream's. Added to upstream: `term`, `read_seq`, `full`,
`stateless` and `awaited` in acks, `read_seq` in appends, `transfer` in vote requests; pre-votes;
snapshots, which are offered by a leader and pulled by a follower; and what tells a node
that was away where the members are now.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from cluster import membership
from cluster.interfaces import LogEntry, SnapshotMeta
from cluster.membership import Configuration

Message = dict[str, Any]

(
    _REQUEST_VOTE,
    _VOTE,
    _APPEND,
    _ACK,
    _PRE_VOTE,
    _PRE_VOTE_RESPONSE,
    _TIMEOUT_NOW,
    _SNAPSHOT_OFFER,
    _SNAPSHOT_PULL,
    _SNAPSHOT_CHUNK,
    _MEMBERS,
) = range(1, 12)

_VOTE_REQUEST = struct.Struct("<BQQQB")  # kind, term, last index, last term, transfer
_VOTE_RESPONSE = struct.Struct("<BQ")  # kind, term
_APPEND_HEAD = struct.Struct("<BQQQQQI")  # kind, term, commit, prev index, prev term, seq, count
_ENTRY_HEAD = struct.Struct("<QI")  # term, payload bytes; the index follows from the previous
_ACK_BODY = struct.Struct("<BQQQB")  # kind, term, next index, read seq, flags
_RESET, _SUCCESS, _FULL, _STATELESS, _AWAITED = 1, 2, 4, 8, 16  # flags of an ack
_PRE_VOTE_BODY = struct.Struct("<BQIQQ")  # kind, term, round, last index, last term
_PRE_VOTE_ANSWER = struct.Struct("<BQIB")  # kind, term of the answerer, round, granted
_TIMEOUT_NOW_BODY = struct.Struct("<BQ")  # kind, term
# kind, term, commit, read seq, index, its term, bytes, sha256, index of the configuration
_OFFER_HEAD = struct.Struct("<BQQQQQQ32sQ")
_PULL_BODY = struct.Struct("<BQQQI")  # kind, term, index, offset, bytes wanted
_CHUNK_HEAD = struct.Struct("<BQQQ")  # kind, term, index, offset; the bytes follow
_MEMBERS_HEAD = struct.Struct("<BQ")  # kind, index of the configuration; its members follow


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
        flags = (
            _RESET * message["reset"]
            | _SUCCESS * message["success"]
            | _FULL * message["full"]
            | _STATELESS * message["stateless"]
            | _AWAITED * message["awaited"]
        )
        position = (message["next_node_idx"], message["read_seq"])
        return _ACK_BODY.pack(_ACK, message["term"], *position, flags)
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
    if kind == "timeout_now":
        return _TIMEOUT_NOW_BODY.pack(_TIMEOUT_NOW, message["term"])
    if kind == "snapshot_pull":
        place = (message["index"], message["offset"], message["size"])
        return _PULL_BODY.pack(_SNAPSHOT_PULL, message["term"], *place)
    if kind == "snapshot_chunk":
        start = (message["index"], message["offset"])
        data: bytes = message["data"]
        return _CHUNK_HEAD.pack(_SNAPSHOT_CHUNK, message["term"], *start) + data
    raise KeyError(kind)


def encode_offer(term: int, commit_index: int, read_seq: int, meta: SnapshotMeta) -> bytes:
    """Frame in which a leader offers its newest snapshot to a follower that needs one."""
    place = (meta.index, meta.term, meta.size, meta.sha256, meta.configuration.index)
    head = _OFFER_HEAD.pack(_SNAPSHOT_OFFER, term, commit_index, read_seq, *place)
    return head + membership.encode(meta.configuration.members)


def encode_members(configuration: Configuration) -> bytes:
    """Frame that tells a peer who the members are: addresses only, never votes."""
    head = _MEMBERS_HEAD.pack(_MEMBERS, configuration.index)
    return head + membership.encode(configuration.members)


def decode(frame: bytes) -> Message:
    """Message of a frame. Raises MalformedMessage."""
    try:
        return _DECODERS[frame[0]](frame)
    except (KeyError, IndexError, ValueError, struct.error) as error:
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
    _, term, next_index, read_seq, flags = _ACK_BODY.unpack(frame)
    return {
        "type": "next_node_idx",
        "term": term,
        "next_node_idx": next_index,
        "read_seq": read_seq,
        "reset": bool(flags & _RESET),
        "success": bool(flags & _SUCCESS),
        "full": bool(flags & _FULL),
        "stateless": bool(flags & _STATELESS),
        "awaited": bool(flags & _AWAITED),
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


def _decode_timeout_now(frame: bytes) -> Message:
    return {"type": "timeout_now", "term": _TIMEOUT_NOW_BODY.unpack(frame)[1]}


def _decode_offer(frame: bytes) -> Message:
    fields = _OFFER_HEAD.unpack_from(frame)
    _, term, commit, read_seq, index, snapshot_term, size, sha256, configured = fields
    configuration = Configuration(configured, membership.decode(frame[_OFFER_HEAD.size :]))
    return {
        "type": "snapshot_offer",
        "term": term,
        "commit_index": commit,
        "read_seq": read_seq,
        "meta": SnapshotMeta(index, snapshot_term, size, sha256, configuration),
    }


def _decode_pull(frame: bytes) -> Message:
    _, term, index, offset, size = _PULL_BODY.unpack(frame)
    place = {"index": index, "offset": offset, "size": size}
    return {"type": "snapshot_pull", "term": term, **place}


def _decode_chunk(frame: bytes) -> Message:
    _, term, index, offset = _CHUNK_HEAD.unpack_from(frame)
    data = frame[_CHUNK_HEAD.size :]
    return {"type": "snapshot_chunk", "term": term, "index": index, "offset": offset, "data": data}


def _decode_members(frame: bytes) -> Message:
    _, index = _MEMBERS_HEAD.unpack_from(frame)
    members = membership.decode(frame[_MEMBERS_HEAD.size :])
    return {"type": "members", "configuration": Configuration(index, members)}


_DECODERS = {
    _REQUEST_VOTE: _decode_request_vote,
    _VOTE: _decode_vote,
    _APPEND: _decode_append,
    _ACK: _decode_ack,
    _PRE_VOTE: _decode_pre_vote,
    _PRE_VOTE_RESPONSE: _decode_pre_vote_response,
    _TIMEOUT_NOW: _decode_timeout_now,
    _SNAPSHOT_OFFER: _decode_offer,
    _SNAPSHOT_PULL: _decode_pull,
    _SNAPSHOT_CHUNK: _decode_chunk,
    _MEMBERS: _decode_members,
}
