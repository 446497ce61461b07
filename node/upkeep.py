"""What a node watches over by itself: room on its disk, and the memory of its map.

*Room.* A disk that runs full in the middle of a write ends the node, since after a failed
write nobody knows what is on it. So the node stops taking entries while there is still
room: for recovery, snapshots, votes. A leader hands over and refuses commands; a follower
lets its leader wait. Both end by themselves once there is room again.

*Memory.* Pages of the state's map count as resident although the kernel may take them back
at any time. Where limits are set on resident memory, that is no comfort: so above a bound
they are given back. They stay in the page cache; touching them again costs a minor fault.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)
WAIT_SECONDS = 1.0  # between looks of a node that ran out of space and waits to start again
INTERVAL_SECONDS = 0.25  # a disk that fills at 500 MB/s loses 125 MB between two looks
ROOM_AGAIN = 1.25  # of free_bytes_min: the distance that keeps it from going to and fro
MAPPED_BYTES_MAX = 256 << 20  # resident file pages above which they are given back


class Room(Protocol):
    """The part of a Raft group that is told."""

    def set_room(self, room: bool) -> None: ...


def mapped_bytes() -> int:
    """Resident file-backed memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[2]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except (OSError, IndexError, ValueError):
        return 0


def has_room(free_bytes: int, free_bytes_min: int, had_room: bool) -> bool:
    """Whether entries may be taken, with hysteresis."""
    return free_bytes >= free_bytes_min * (1.0 if had_room else ROOM_AGAIN)


def is_out_of_space(error: BaseException | None) -> bool:
    """Did a write fail, here or in what caused it, since the disk or a quota was full?"""
    while error is not None:
        if getattr(error, "errno", None) in OUT_OF_SPACE:
            return True
        # LMDB's errors carry the system's words and no number.
        if any(os.strerror(number) in str(error) for number in OUT_OF_SPACE):
            return True
        error = error.__cause__
    return False


def wait_for_room(folder: Path, free_bytes_min: int) -> None:
    """Block until the disk has room again. For a process that has nothing else to do."""
    logger.critical(
        "the disk ran full in the middle of a write; waiting until %d bytes are free",
        int(free_bytes_min * ROOM_AGAIN),
    )
    while not has_room(_free_bytes(folder), free_bytes_min, False):
        time.sleep(WAIT_SECONDS)


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


class Upkeep:
    """Looks a few times a second. Loop thread only."""

    def __init__(
        self,
        folder: Path,
        free_bytes_min: int,
        group: Room,
        release_memory: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._group = group
        self._release_memory = release_memory
        self._room = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL_SECONDS)

    def look(self) -> None:
        free = _free_bytes(self._folder)
        room = has_room(free, self._free_bytes_min, self._room)
        if room != self._room:
            self._room = room
            if room:
                logger.warning("the disk has room again (%d bytes free): taking entries", free)
            else:
                logger.error(
                    "the disk is nearly full: %d bytes free, storage.free_bytes_min is %d; "
                    "no entries are taken until there is room",
                    free,
                    self._free_bytes_min,
                )
        self._group.set_room(room)
        if mapped_bytes() > MAPPED_BYTES_MAX:
            self._release_memory()
