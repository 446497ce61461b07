"""File systems of their own for nodes: small ones to fill, and one to cut the power of.

Needs root: they are ext4 images mounted through loop devices, on Linux.

*Power loss.* All nodes' folders lie on one file system, whose image is a file on another,
outer one. Freezing the outer file system stops every write to the image at one instant,
while the inner one knows nothing of it; the image is copied, and the copy holds what a disk
holds after a power cut: what was fsynced, nothing that was only in the page cache except
what happened to be written back, and writes under way in part. Not modelled: a disk that
loses blocks which it took and was not yet told to flush.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
SMALL_BYTES: Final = 512 * MIB  # sparse; ten rounds of states, snapshots and logs fit
DISK_BYTES: Final = 1024 * MIB  # of the disk whose power is cut; sparse
OUTER_BYTES: Final = 2 * DISK_BYTES
# Nothing reaches the disk by itself: journal commits are rare, and so is what they drag along.
COMMIT_SECONDS: Final = 60
UNMOUNT_SECONDS_MAX: Final = 15.0
BALLAST: Final = "ballast"
_FIFREEZE: Final = 0xC0045877  # linux/fs.h
_FITHAW: Final = 0xC0045878


@contextlib.contextmanager
def mounted(image: Path, folder: Path, size: int | None = None) -> Iterator[None]:
    """Mount an ext4 image at `folder`; `size`: make it first, of so many bytes."""
    if size is not None:
        with image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "root_owner=0:0", str(image))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run("mount", "-o", f"loop,commit={COMMIT_SECONDS}", str(image), str(folder))
    try:
        with contextlib.suppress(FileNotFoundError):
            (folder / "lost+found").rmdir()
        folder.chmod(0o700)
        yield
    finally:
        _unmount(folder)


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Let nothing be written to a file system, from this instant on; reading works."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, _FITHAW, 0)
    finally:
        os.close(descriptor)


class PoweredDisk:
    """A disk mounted at `folder` whose power can be cut. Work files are put into `beside`."""

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder = folder
        self._beside = beside
        self._cuts = 0
        self._stack = contextlib.ExitStack()
        outer = beside / "outer"
        beside.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(mounted(beside / "outer.img", outer, OUTER_BYTES))
        self._outer = outer
        self._disk = contextlib.ExitStack()
        self._stack.callback(lambda: self._disk.close())
        self._image = outer / "disk-0.img"
        self._disk.enter_context(mounted(self._image, folder, DISK_BYTES))

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """The power is gone at this instant. End every process that uses the disk inside:
        their writes are lost already. Mount what is left with `restore`."""
        self._cuts += 1
        with frozen(self._outer):
            self._run_copy(self._image, self._copy)
            yield

    def restore(self) -> None:
        """Mount what the power cut left, in place of the disk. Nobody uses it any more."""
        self._disk.close()
        self._image.unlink()
        # Where a later cut can freeze it.
        self._image = self._outer / self._copy.name
        self._run_copy(self._copy, self._image)
        self._copy.unlink()
        self._disk = contextlib.ExitStack()
        self._disk.enter_context(mounted(self._image, self.folder))

    def close(self) -> None:
        """Unmount everything. Idempotent."""
        self._stack.close()

    @property
    def _copy(self) -> Path:
        return self._beside / f"disk-{self._cuts}.img"

    def _run_copy(self, source: Path, target: Path) -> None:
        _run("cp", "--sparse=always", str(source), str(target))


def fill(folder: Path, free_bytes: int = 0) -> None:
    """Use up the space of the file system, but for `free_bytes`, with a ballast file."""
    descriptor = os.open(folder / BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        for step in (MIB, 64 << 10, 4 << 10):
            while _free(folder) >= free_bytes + step:
                try:
                    os.posix_fallocate(descriptor, size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
                size += step
    finally:
        os.close(descriptor)


def free(folder: Path) -> None:
    """Give the space back."""
    (folder / BALLAST).unlink(missing_ok=True)


def explained(log: str) -> bool:
    """Whether a node's log names the full disk as its reason, or the commit that it cut short:
    LMDB tells of a write of which only a part was taken as an error of the disk."""
    cut_short = f"mdb_txn_commit: {os.strerror(errno.EIO)}"
    return os.strerror(errno.ENOSPC) in log or cut_short in log


def loop_mounts_work() -> bool:
    """Whether this process may do what is needed here."""
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control")


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _unmount(folder: Path) -> None:
    """Whoever used it may need a moment to go."""
    deadline = time.monotonic() + UNMOUNT_SECONDS_MAX
    while True:
        done = subprocess.run(["umount", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            # Not left behind, whoever still holds a file of it.
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
            raise RuntimeError(f"{folder} cannot be unmounted: {done.stderr.strip()}")
        time.sleep(0.05)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
