"""Room on the disk is had before it is written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines.file_space import AHEAD_MAX, AHEAD_MIN, FileSpace, FileSpaceUnavailableError

MIB = 1 << 20
GIB = 1 << 30


class Disk:
    """`posix_fallocate` of a disk that has `free` bytes for one file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        self.held = 0
        self.calls = 0
        monkeypatch.setattr(os, "posix_fallocate", self._allocate)
        monkeypatch.setattr(os, "fstatvfs", self._room)

    def _allocate(self, fd: int, offset: int, length: int) -> None:
        assert offset == self.held, "what is held is not looked at again"
        self.calls += 1
        if offset + length > self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.held = offset + length

    def _room(self, fd: int) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=max(self.free - self.held, 0) // 4096, f_frsize=4096)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 8192)
    return path


def test_the_disk_really_has_the_room(file: Path) -> None:
    space = FileSpace(file, GIB)
    space.ensure(8192)
    assert file.stat().st_blocks * 512 >= 8192 + AHEAD_MIN
    assert file.read_bytes()[:8192] == b"x" * 8192
    space.trim(8192)
    space.close()
    assert file.read_bytes() == b"x" * 8192


def test_holes_within_what_is_used_are_filled(file: Path) -> None:
    """A copy may have them."""
    os.truncate(file, 10 * MIB)
    assert file.stat().st_blocks * 512 < MIB
    space = FileSpace(file, GIB)
    space.ensure(10 * MIB)
    space.close()
    assert file.stat().st_blocks * 512 >= 10 * MIB + AHEAD_MIN


@pytest.mark.parametrize(
    ("used", "ahead"), [(0, AHEAD_MIN), (80 * MIB, 10 * MIB), (10 * GIB, AHEAD_MAX)]
)
def test_room_is_in_proportion_and_bounded(
    file: Path, monkeypatch: pytest.MonkeyPatch, used: int, ahead: int
) -> None:
    disk = Disk(monkeypatch, 100 * GIB)
    space = FileSpace(file, 64 * GIB)
    space.ensure(used)
    assert disk.held == used + ahead


def test_the_disk_is_asked_now_and_then_and_half_of_the_room_is_always_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, 100 * GIB)
    space = FileSpace(file, 64 * GIB)
    for used in range(0, 64 * MIB, 4096):
        space.ensure(used)
        assert disk.held >= used + AHEAD_MIN // 2
    assert disk.calls < 50


def test_a_disk_that_is_nearly_full_gives_what_it_has(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, GIB + 3 * MIB)
    space = FileSpace(file, 64 * GIB)
    space.ensure(GIB)
    assert GIB + AHEAD_MIN // 2 <= disk.held <= disk.free


def test_a_full_disk_is_an_error_until_there_is_room(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, MIB)
    space = FileSpace(file, 64 * GIB)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            space.ensure(0)
    disk.free = GIB
    space.ensure(0)
    assert disk.held == AHEAD_MIN


def test_no_more_than_the_map_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, GIB)
    space = FileSpace(file, MIB)
    space.ensure(0)
    space.ensure(MIB)
    assert (disk.held, disk.calls) == (MIB, 1)


def test_what_a_transaction_is_expected_to_need_is_there_before_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, GIB)
    space = FileSpace(file, 64 * GIB)
    space.ensure(0)
    space.ensure(MIB, 40 * MIB)
    assert disk.held >= 41 * MIB
    with pytest.raises(OSError, match="No space left"):
        space.ensure(MIB, 2 * GIB)


def test_little_is_had_ahead_on_a_disk_that_has_little(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that nobody writes to must not bring its disk below what a node wants free."""
    disk = Disk(monkeypatch, 64 * GIB)
    room = SimpleNamespace(f_bavail=190 * MIB // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: room)
    FileSpace(file, 64 * GIB).ensure(GIB)
    assert disk.held <= GIB + 12 * MIB


def test_a_file_system_without_the_call_is_told_from_a_full_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    # With its cause: a file system may take the call at first, and not later.
    with pytest.raises(FileSpaceUnavailableError, match=os.strerror(errno.EOPNOTSUPP)):
        FileSpace(file, GIB).ensure(0)
