"""The wire format: however a stream is split it decodes the same, and damage shows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.framing import (
    BULK,
    CHUNK_BYTES_MIN,
    GROUP,
    HANDSHAKE_BYTES_MAX,
    HEADER_BYTES,
    MORE,
    Frame,
    FrameDecoder,
    FrameError,
    encode_header,
)
from cluster.send_queue import SendQueue

FRAME_BYTES_MAX = 64 * 1024


@st.composite
def _sent(draw: st.DrawFn) -> tuple[Frame, bool]:
    size = draw(st.one_of(st.integers(0, 64), st.sampled_from([4095, 4096, 4097, 8192, 30_000])))
    payload = random.Random(draw(st.integers(0, 255))).randbytes(size)
    kind = draw(st.integers(0, 255))
    tag = draw(st.integers(0, 2**16 - 1))
    frame_id = draw(st.integers(0, 2**32 - 1))
    return Frame(kind, tag, frame_id, payload), draw(st.booleans())


def _wire(frames: list[tuple[Frame, bool]], write_bytes: int = 1) -> bytes:
    queue = SendQueue(CHUNK_BYTES_MIN)
    for frame, bulk in frames:
        queue.put(queue.bulk if bulk else queue.control, *frame)
    wire = bytearray()
    while data := queue.take(write_bytes):
        wire += data
    return bytes(wire)


def _open_decoder() -> FrameDecoder:
    decoder = FrameDecoder()
    decoder.open(FRAME_BYTES_MAX)
    return decoder


def _feed(decoder: FrameDecoder, data: bytes) -> list[Frame]:
    """Give `data` as reads from a socket would: never more than the buffer takes."""
    frames: list[Frame] = []
    while data:
        buffer = decoder.buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        decoder.filled(count)
        frames += decoder.decode()
        data = data[count:]
    return frames


@given(st.lists(_sent(), max_size=12), st.data())
def test_any_split_decodes_identically(
    frames: list[tuple[Frame, bool]], data: st.DataObject
) -> None:
    wire = _wire(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    decoder = _open_decoder()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += _feed(decoder, wire[start:end])
    assert found == _feed(_open_decoder(), wire)
    # Nothing is lost or changed. Control goes first: it was all queued before the first take.
    control = [frame for frame, bulk in frames if not bulk]
    bulk = [frame for frame, bulk in frames if bulk]
    assert found == control + bulk


def test_one_byte_at_a_time() -> None:
    frames = [(Frame(GROUP, 0, n, b"x" * n * 1000), n % 2 == 1) for n in range(8)]
    wire = _wire(frames)
    decoder = _open_decoder()
    found = [frame for byte in wire for frame in _feed(decoder, bytes((byte,)))]
    assert sorted(found) == sorted(frame for frame, _ in frames)


@given(st.lists(_sent(), min_size=1, max_size=4), st.data())
def test_any_flipped_byte_is_detected(
    frames: list[tuple[Frame, bool]], data: st.DataObject
) -> None:
    wire = bytearray(_wire(frames))
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FrameError):
        _feed(_open_decoder(), bytes(wire))


def test_every_flipped_bit_of_a_small_frame_is_detected() -> None:
    wire = _wire([(Frame(GROUP, 1, 2, b"payload"), False)])
    for bit in range(len(wire) * 8):
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            _feed(_open_decoder(), bytes(damaged))


@given(st.binary(min_size=HEADER_BYTES, max_size=4 * HEADER_BYTES))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(FrameError):
        _feed(_open_decoder(), garbage)


@settings(max_examples=50)
@given(st.lists(_sent(), max_size=8), st.integers(0, 3))
def test_control_may_overtake_between_any_two_chunks(
    frames: list[tuple[Frame, bool]], bulk_first: int
) -> None:
    frames = [(frame._replace(id=n), bulk) for n, (frame, bulk) in enumerate(frames)]
    queue = SendQueue(CHUNK_BYTES_MIN)
    decoder = _open_decoder()
    found: list[Frame] = []
    for frame, bulk in frames:
        queue.put(queue.bulk if bulk else queue.control, *frame)
        for _ in range(bulk_first):
            found += _feed(decoder, queue.take(1))
    while data := queue.take(1):
        found += _feed(decoder, data)
    for lane in (False, True):
        sent = [frame for frame, bulk in frames if bulk == lane]
        assert [frame for frame in found if frame in sent] == sent
    assert sorted(found) == sorted(frame for frame, _ in frames)
    assert (queue.bytes, queue.frames) == (0, 0)


def test_a_frame_over_the_bound_is_refused_before_it_is_whole() -> None:
    wire = _wire([(Frame(GROUP, 0, 0, bytes(FRAME_BYTES_MAX + 1)), True)])
    last = len(wire) - 1 - HEADER_BYTES
    with pytest.raises(FrameError, match=f"more than {FRAME_BYTES_MAX} bytes"):
        _feed(_open_decoder(), wire)
    assert len(_feed(_open_decoder(), wire[:last])) == 0


def test_a_stranger_gets_small_frames_only() -> None:
    payload = bytes(HANDSHAKE_BYTES_MAX + 1)
    with pytest.raises(FrameError, match="at most 2048"):
        _feed(FrameDecoder(), encode_header(GROUP, 0, 0, 0, payload) + payload)
    chunk = bytes(HANDSHAKE_BYTES_MAX)
    with pytest.raises(FrameError):
        _feed(FrameDecoder(), encode_header(GROUP, MORE, 0, 0, chunk) + chunk)


def test_rules_of_chunks() -> None:
    full = bytes(CHUNK_BYTES_MIN)
    for bad, reason in (
        (encode_header(GROUP, 4, 0, 0, b""), "unknown flags"),
        (encode_header(GROUP, MORE, 0, 0, b"tiny") + b"tiny", "in the middle"),
        (
            encode_header(GROUP, MORE | BULK, 0, 5, full)
            + full
            + encode_header(GROUP, BULK, 0, 6, b"x")
            + b"x",
            "mixed",
        ),
    ):
        with pytest.raises(FrameError, match=reason):
            _feed(_open_decoder(), bad)
