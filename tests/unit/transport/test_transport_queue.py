"""The send queue and the settings: priorities, bounds, backoff."""

from __future__ import annotations

import struct

import pytest

from cluster.dialler import backoff_seconds
from cluster.framing import CHUNK_BYTES_MIN, GROUP, HEADER_BYTES, FrameDecoder
from cluster.send_queue import CONTROL_RUN_BYTES_MAX, SendQueue
from cluster.transport_config import PeerAddress, TransportLimits


def _decode(wire: bytes) -> list[bytes]:
    decoder = FrameDecoder()
    decoder.open(1 << 30)
    found: list[bytes] = []
    while wire:
        count = min(len(decoder.buffer()), len(wire))
        decoder.buffer()[:count] = wire[:count]
        decoder.filled(count)
        found += [frame.payload for frame in decoder.decode()]
        wire = wire[count:]
    return found


def test_control_overtakes_a_started_bulk_frame() -> None:
    queue = SendQueue(CHUNK_BYTES_MIN)
    queue.put(queue.bulk, GROUP, 0, 0, bytes(10 * CHUNK_BYTES_MIN))
    wire = queue.take(1)
    queue.put(queue.control, GROUP, 0, 0, b"heartbeat")
    wire += queue.take(1 << 20)
    assert [len(payload) for payload in _decode(wire)] == [9, 10 * CHUNK_BYTES_MIN]


def test_bulk_is_not_starved_by_endless_control() -> None:
    queue = SendQueue(CHUNK_BYTES_MIN)
    queue.put(queue.bulk, GROUP, 0, 0, b"snapshot")
    taken = b""
    while b"snapshot" not in taken:
        queue.put(queue.control, GROUP, 0, 0, bytes(1000))
        taken += queue.take(1000)
        assert len(taken) < CONTROL_RUN_BYTES_MAX + 10_000


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES_MIN, CHUNK_BYTES_MIN + 1, 3 * CHUNK_BYTES_MIN])
def test_accounting_matches_what_is_taken(size: int) -> None:
    queue = SendQueue(CHUNK_BYTES_MIN)
    for lane in (queue.control, queue.bulk):
        queue.put(lane, GROUP, 0, 0, bytes(size))
    promised = queue.bytes
    wire = queue.take(1 << 30)
    assert len(wire) == promised
    assert (queue.bytes, queue.frames) == (0, 0)
    assert queue.take(1) == b""
    assert [len(payload) for payload in _decode(wire)] == [size, size]


def test_one_take_is_bounded() -> None:
    queue = SendQueue(CHUNK_BYTES_MIN)
    queue.put(queue.bulk, GROUP, 0, 0, bytes(1 << 20))
    assert len(queue.take(10_000)) <= 10_000 + HEADER_BYTES + CHUNK_BYTES_MIN


def test_numbers_out_of_range_fail_when_queued_and_not_when_sent() -> None:
    queue = SendQueue(CHUNK_BYTES_MIN)
    for size in (1, 10 * CHUNK_BYTES_MIN):
        with pytest.raises(struct.error):
            queue.put(queue.bulk, GROUP, 0, 1 << 32, bytes(size))
    assert (queue.bytes, queue.frames) == (0, 0)


def test_backoff_doubles_to_its_bound_and_jitter_shortens_it() -> None:
    limits = TransportLimits()
    waits = [backoff_seconds(limits, failures, 0.0) for failures in range(8)]
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff_seconds(limits, 10**6, 1.0) == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        {"frame_bytes_max": 0},
        {"chunk_bytes": 1024},
        {"chunk_bytes": 1 << 20},
        {"frame_bytes_max": 10_000},
        {"ping_ms": 3000},
        {"reconnect_ms_min": 3000},
    ],
)
def test_limits_that_contradict_each_other_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        TransportLimits(**bad)


def test_addresses_read_as_operators_write_them() -> None:
    assert str(PeerAddress("10.0.0.1", 7000)) == "10.0.0.1:7000"
    assert str(PeerAddress("::1", 7000)) == "[::1]:7000"
