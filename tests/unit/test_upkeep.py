"""Room on the disk, and memory of the map."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from node import upkeep
from node.upkeep import Upkeep, has_room, is_out_of_space


class Group:
    def __init__(self) -> None:
        self.told: list[bool] = []

    def set_room(self, room: bool) -> None:
        self.told.append(room)


def test_room_has_hysteresis() -> None:
    assert has_room(100, 100, had_room=True)
    assert not has_room(99, 100, had_room=True)
    assert not has_room(124, 100, had_room=False)
    assert has_room(125, 100, had_room=False)


def test_the_group_is_told_when_room_ends_and_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group()
    watch = Upkeep(tmp_path, 1000, group, lambda: None)
    for free in (5000, 999, 1100, 1250):
        monkeypatch.setattr(upkeep, "_free_bytes", lambda folder, free=free: free)
        watch.look()
    assert group.told == [True, False, False, True]


def test_the_real_disk_is_asked(tmp_path: Path) -> None:
    group = Group()
    Upkeep(tmp_path, 1 << 62, group, lambda: None).look()
    Upkeep(tmp_path, 1, group, lambda: None).look()
    assert group.told == [False, True]


def test_mapped_memory_is_given_back_above_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[bool] = []
    watch = Upkeep(tmp_path, 1, Group(), lambda: released.append(True))
    monkeypatch.setattr(upkeep, "mapped_bytes", lambda: upkeep.MAPPED_BYTES_MAX)
    watch.look()
    assert released == []
    monkeypatch.setattr(upkeep, "mapped_bytes", lambda: upkeep.MAPPED_BYTES_MAX + 1)
    watch.look()
    assert released == [True]


def test_a_full_disk_is_told_from_other_failures() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("cannot commit")
    wrapped.__cause__ = full
    assert is_out_of_space(full)
    assert is_out_of_space(wrapped)
    assert is_out_of_space(RuntimeError("mdb_txn_commit: No space left on device"))
    assert not is_out_of_space(OSError(errno.EIO, "Input/output error"))
    assert not is_out_of_space(None)
