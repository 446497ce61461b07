"""Where a daemon's log lines go: standard error, or one bounded file.

With `node.log_file` set, standard output and error are pointed at that file before
anything is logged, so that what the interpreter itself prints (a traceback at exit, a
fault handler's dump) lands there too. The file is rotated to `<name>.1` when it passes
`node.log_bytes_max`; one older file is kept, so the two never hold much more than twice
that.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from node.config_schema import NodeSection

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"


def configure_logging(section: NodeSection) -> None:
    """Send every log record to where the settings say. Raises OSError for a bad file."""
    handler: logging.Handler = (
        logging.StreamHandler()
        if section.log_file is None
        else BoundedFileHandler(section.log_file, section.log_bytes_max)
    )
    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=section.log_level.upper(), handlers=[handler], force=True)


class BoundedFileHandler(logging.Handler):
    """Appends to a file behind standard output and error, and rotates it by size."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        super().__init__()
        self._path = path
        self._bytes_max = bytes_max
        self._open()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if os.fstat(2).st_size + len(line) > self._bytes_max:
                rotate(self._path)
                self._open()
            os.write(2, line)
        except OSError:
            # A full disk must not stop the node by way of its log; logging reports it once.
            self.handleError(record)

    def _open(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def rotate(path: Path) -> None:
    """Rename a log file to `<name>.1`, over the older one. Nothing happens if it is absent."""
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.1"))


def tail(path: Path, lines_max: int) -> list[str]:
    """The last lines of a log file, at most 64 KiB of them; [] if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            return file.read().decode("utf-8", "replace").splitlines()[-lines_max:]
    except FileNotFoundError:
        return []
