"""Faults inside a daemon: failing and slow disks, wrong clocks. The other half is faults.c.

Each daemon that was started with `environment(...)` maps a small file, and what is written
there takes effect at once. Needs a C compiler called `cc` or `gcc`, and Linux.
"""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

_CONTROL: Final = struct.Struct("<iiiiqi228s")
_HITS_AT: Final = 12
_PATH_AT: Final = 28
_SOURCE: Final = Path(__file__).with_name("faults.c")

LOG: Final = "/log/"  # a part of the path of every file of a Raft log
STATE: Final = "/live/"  # the same for the applied state
ALL: Final = ""


class Faults(NamedTuple):
    """What one daemon suffers. `path`: only files whose path contains it."""

    sync_errno: int = 0
    write_errno: int = 0
    sync_delay_ms: int = 0
    clock_offset_ms: int = 0  # added to the wall clock
    sync_lies: bool = False  # a sync does nothing, and says that it did
    path: str = LOG


LYING_SYNC: Final = Faults(sync_lies=True)
BROKEN_SYNC: Final = Faults(sync_errno=errno.EIO)
BROKEN_WRITE: Final = Faults(write_errno=errno.EIO)


def compiler() -> str | None:
    """The C compiler to use; None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


class Preload:
    """The library and the control files of some daemons, all in `folder`."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        """Raises CalledProcessError if the library does not compile."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._library = folder / "faults.so"
        command = [compiler() or "cc", "-shared", "-fPIC", "-O2", "-o", str(self._library)]
        subprocess.run([*command, str(_SOURCE), "-ldl"], check=True)
        self._maps: dict[str, mmap.mmap] = {}
        for name in names:
            path = folder / f"{name}.faults"
            path.write_bytes(bytes(_CONTROL.size))
            with path.open("r+b") as file:
                self._maps[name] = mmap.mmap(file.fileno(), _CONTROL.size)

    def environment(self) -> dict[str, str]:
        """Variables for daemons that are started in folders called as the control files."""
        return {"LD_PRELOAD": str(self._library), "FAULTS_FOLDER": str(self._folder)}

    def set(self, name: str, faults: Faults) -> None:
        """Let the daemon suffer these faults from now on, and no others."""
        control = self._maps[name]
        # The path first: errors must not hit other files for a moment.
        whole = _CONTROL.pack(
            faults.sync_errno,
            faults.write_errno,
            faults.sync_delay_ms,
            self.hits(name),
            faults.clock_offset_ms,
            int(faults.sync_lies),
            faults.path.encode(),
        )
        control[:_HITS_AT] = bytes(_HITS_AT)
        control[_PATH_AT:] = whole[_PATH_AT:]
        control[_HITS_AT + 4 : _PATH_AT] = whole[_HITS_AT + 4 : _PATH_AT]
        control[:_HITS_AT] = whole[:_HITS_AT]

    def clear(self, name: str) -> None:
        self.set(name, Faults())

    def hits(self, name: str) -> int:
        """How many calls failed or waited because of a fault, ever."""
        return int(_CONTROL.unpack(self._maps[name][:])[3])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for control in self._maps.values():
            control.close()
