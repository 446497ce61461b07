"""Frames of Raft messages and entry payloads: round trips and refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import entry, messages
from cluster.interfaces import LogEntry, SnapshotMeta
from cluster.membership import Configuration, Member

U64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**32 - 1)

ACK = st.fixed_dictionaries(
    {
        "type": st.just("next_node_idx"),
        "term": U64,
        "next_node_idx": U64,
        "read_seq": U64,
        "reset": st.booleans(),
        "success": st.booleans(),
        "full": st.booleans(),
        "stateless": st.booleans(),
        "awaited": st.booleans(),
    }
)
LAST = {"last_log_index": U64, "last_log_term": U64}
VOTE_REQUEST = st.fixed_dictionaries(
    {"type": st.just("request_vote"), "term": U64, "transfer": st.booleans(), **LAST}
)
VOTE = st.fixed_dictionaries({"type": st.just("response_vote"), "term": U64})
PRE_VOTE = st.fixed_dictionaries({"type": st.just("pre_vote"), "term": U64, "round": SMALL, **LAST})
PRE_VOTE_RESPONSE = st.fixed_dictionaries(
    {
        "type": st.just("pre_vote_response"),
        "term": U64,
        "round": SMALL,
        "granted": st.booleans(),
    }
)


TIMEOUT_NOW = st.fixed_dictionaries({"type": st.just("timeout_now"), "term": U64})
PULL = st.fixed_dictionaries(
    {"type": st.just("snapshot_pull"), "term": U64, "index": U64, "offset": U64, "size": SMALL}
)
CHUNK = st.fixed_dictionaries(
    {
        "type": st.just("snapshot_chunk"),
        "term": U64,
        "index": U64,
        "offset": U64,
        "data": st.binary(),
    }
)
TEXT = st.text(max_size=20)
MEMBERS = st.lists(
    st.builds(Member, TEXT, st.booleans(), TEXT, TEXT, TEXT, TEXT),
    min_size=1,
    max_size=5,
    unique_by=lambda member: member.id,
).map(tuple)
CONFIGURATION = st.builds(Configuration, U64, MEMBERS)


@given(st.one_of(ACK, VOTE_REQUEST, VOTE, PRE_VOTE, PRE_VOTE_RESPONSE, TIMEOUT_NOW, PULL, CHUNK))
def test_messages_round_trip(message):
    assert messages.decode(messages.encode(message)) == message


@given(U64, U64, st.integers(0, 2**40), U64, U64, st.lists(st.tuples(U64, st.binary())))
def test_appends_round_trip(term, commit, prev, prev_term, seq, items):
    log = [LogEntry(prev + 1 + i, t, payload) for i, (t, payload) in enumerate(items)]
    decoded = messages.decode(messages.encode_append(term, commit, prev, prev_term, seq, log))
    assert decoded["entries"] == [(item.payload, item.index, item.term) for item in log]
    fields = ("term", "commit_index", "prevLogIdx", "prevLogTerm", "read_seq")
    assert [decoded[name] for name in fields] == [term, commit, prev, prev_term, seq]


def test_every_cut_of_an_append_is_refused():
    frame = messages.encode_append(1, 2, 3, 1, 0, [LogEntry(4, 1, b"abc"), LogEntry(5, 1, b"")])
    for end in range(len(frame)):
        with pytest.raises(messages.MalformedMessage):
            messages.decode(frame[:end])
    with pytest.raises(messages.MalformedMessage):
        messages.decode(frame + b"x")


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x09" * 30, b"\xff"])
def test_unknown_messages_are_refused(frame):
    with pytest.raises(messages.MalformedMessage):
        messages.decode(frame)


def test_upstreams_own_messages_have_no_wire_form():
    for kind in ("apply_command", "apply_command_response", "append_entries"):
        with pytest.raises(KeyError):
            messages.encode({"type": kind, "term": 1})


@given(st.lists(st.binary(), min_size=1))
def test_entries_round_trip(commands):
    assert entry.unpack(entry.pack(commands)) == commands


def test_a_no_op_has_no_commands():
    assert entry.unpack(entry.NO_OP_PAYLOAD) == []


def test_damaged_or_unknown_entries_stop_the_node():
    payload = entry.pack([b"abc", b"de"])
    broken = [payload[:end] for end in range(len(payload))]
    broken += [payload + b"x", bytes([entry.MEMBERSHIP]) + payload[1:], b"\x07"]
    for bad in broken:
        with pytest.raises(entry.UnknownEntry):
            entry.unpack(bad)


@given(U64, U64, U64, U64, U64, U64, st.binary(min_size=32, max_size=32), CONFIGURATION)
def test_offers_round_trip(term, commit, seq, index, its_term, size, sha256, configuration):
    meta = SnapshotMeta(index, its_term, size, sha256, configuration)
    decoded = messages.decode(messages.encode_offer(term, commit, seq, meta))
    assert decoded["meta"] == meta
    assert (decoded["term"], decoded["commit_index"], decoded["read_seq"]) == (term, commit, seq)


@given(CONFIGURATION)
def test_members_round_trip_in_hints_and_entries(configuration):
    decoded = messages.decode(messages.encode_members(configuration))
    assert decoded["configuration"] == configuration
    payload = entry.pack_membership(configuration.members)
    assert entry.unpack_membership(payload) == configuration.members
    assert entry.unpack(payload) == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"[[]]", b'[["a",1,"","","",""]]', b"nonsense"]
)
def test_a_configuration_that_is_none_is_refused(body):
    with pytest.raises(entry.UnknownEntry):
        entry.unpack(bytes([entry.MEMBERSHIP]) + body)
    with pytest.raises(messages.MalformedMessage):
        messages.decode(messages.encode_members(Configuration(1, (Member("a"),)))[:9] + body)
