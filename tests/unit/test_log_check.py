"""Durable records are read again: what is sound passes, and any byte that changed does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import CorruptLog
from cluster.interfaces import LogEntry
from cluster.log_check import Extent, verify_records
from cluster.log_format import SEGMENT_HEADER_BYTES
from tests.log_harness import Recorder, SegmentedRig
from tests.snapshot_harness import flip


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SegmentedRig]:
    rig = SegmentedRig(tmp_path / "log")
    yield rig
    rig.end()


def fill(rig: SegmentedRig) -> list[Extent]:
    """Several segments with entries, truncations and hard states."""
    recorder = Recorder(rig)
    recorder.hard_state(3, "a")
    recorder.append(60, 3, 100)
    recorder.truncate(50)
    recorder.append(30, 4, 100)
    rig.settle()
    return rig.log.extents()


def verify(extent: Extent, bytes_max: int) -> int:
    pieces = offset = 0
    while offset < extent.size:
        offset = verify_records(extent, offset, bytes_max)
        pieces += 1
    assert offset == extent.size
    return pieces


def test_what_is_durable_verifies_piece_by_piece(rig: SegmentedRig) -> None:
    extents = fill(rig)
    assert len(extents) > 2
    assert sum(extent.size for extent in extents) == rig.log.size_bytes
    assert all(verify(extent, 1) > 2 for extent in extents)
    assert all(verify(extent, 1 << 20) == 1 for extent in extents)


def test_what_is_not_durable_yet_is_not_looked_at(rig: SegmentedRig) -> None:
    extents = fill(rig)
    rig.log.append([LogEntry(rig.log.last_index + 1, 4, b"x")])
    assert rig.log.extents() == extents
    rig.settle()
    assert rig.log.extents() != extents


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_a_byte_that_changed_is_found_and_its_record_named(rig: SegmentedRig, place: float) -> None:
    extent = fill(rig)[1]
    at = SEGMENT_HEADER_BYTES + int((extent.size - SEGMENT_HEADER_BYTES) * place)
    flip(extent.path, at)
    with pytest.raises(CorruptLog, match=extent.path.name) as told:
        verify(extent, 200)
    assert told.value.offset <= at
    flip(extent.path, at)  # for the end of the test, which reads it


def test_a_file_that_ends_too_early_is_damage(rig: SegmentedRig) -> None:
    extent = fill(rig)[0]
    content = extent.path.read_bytes()
    extent.path.write_bytes(content[: extent.size - 10])
    with pytest.raises(CorruptLog):
        verify(extent, 1 << 20)
    extent.path.write_bytes(content)


def test_a_file_that_is_gone_is_told_as_that(rig: SegmentedRig) -> None:
    extent = fill(rig)[0]
    with pytest.raises(FileNotFoundError):
        verify_records(extent._replace(path=extent.path.with_name("gone")), 0, 100)
