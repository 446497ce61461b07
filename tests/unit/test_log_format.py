"""The bytes of segment headers and record headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.log_format import (
    KINDS,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    LogOptions,
    SegmentHeader,
    decode_record_header,
    decode_segment_header,
    encode_record_header,
    encode_segment_header,
    parse_segment_name,
    payload_verifies,
    segment_name,
    segment_seed,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    SegmentHeader,
    group=U32,
    sequence=U64,
    first_index=U64,
    previous_bytes=U64,
    term=U64,
    vote=st.one_of(st.none(), st.text(max_size=63)),
    salt=U32,
    version=st.integers(0, 2**16 - 1),
)


@given(HEADERS)
def test_segment_headers_round_trip(header: SegmentHeader) -> None:
    encoded = encode_segment_header(header)
    assert len(encoded) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(encoded) == header


@given(HEADERS, HEADERS)
def test_different_headers_seed_their_records_differently(
    one: SegmentHeader, other: SegmentHeader
) -> None:
    """The CRC of a message with its own CRC appended would be the same for all headers."""
    same = segment_seed(encode_segment_header(one)) == segment_seed(encode_segment_header(other))
    assert same == (one == other)


@given(U32, st.integers(0, 2**31), U64, st.sampled_from(sorted(KINDS)), U64, U64, st.binary())
def test_records_verify_only_in_their_place(
    seed: int, offset: int, synced: int, kind: int, index: int, term: int, payload: bytes
) -> None:
    encoded = encode_record_header(seed, offset, synced, kind, index, term, payload)
    assert len(encoded) == RECORD_HEADER_BYTES
    header = decode_record_header(seed, offset, encoded)
    assert header is not None
    assert header[1:] == (len(payload), kind, index, term, synced)
    assert payload_verifies(seed, offset, header, payload)
    assert not payload_verifies(seed, offset, header, payload + b"\0")
    assert decode_record_header(seed, offset + 1, encoded) is None
    assert decode_record_header(seed ^ 1, offset, encoded) is None
    assert decode_record_header(seed, offset, encoded[:-1]) is None


def test_the_longest_vote_fits() -> None:
    header = SegmentHeader(0, 1, 1, 0, 0, "v" * 255, 0)
    assert decode_segment_header(encode_segment_header(header)) == header


@given(st.integers(1, 10**10 - 1), st.integers(1, 2**64 - 1))
def test_names_parse_and_sort_by_sequence(sequence: int, first_index: int) -> None:
    name = segment_name(sequence, first_index)
    assert parse_segment_name(name) == (sequence, first_index)
    if sequence > 1:
        assert segment_name(sequence - 1, 2**64 - 1) < name


@pytest.mark.parametrize(
    "name", ["", "1-1.seg", "0000000001-00000000000000000001.seg~", "0000000001.seg", "x.seg"]
)
def test_other_names_are_not_ours(name: str) -> None:
    assert parse_segment_name(name) is None


@pytest.mark.parametrize(
    "options",
    [
        {"segment_bytes": 100},
        {"segment_bytes": 2**31 + 1},
        {"record_bytes_max": 0},
        {"record_bytes_max": 2**31},
        {"cache_bytes": -1},
        {"preallocate_bytes": -1},
        {"salt": 2**32},
        {"salt": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LogOptions(**options)
