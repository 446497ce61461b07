"""A share of the spare ports for one test run, so that runs side by side seldom meet.

A port that a stopped daemon left free is taken by the next cluster that starts anywhere on
the machine; a test that starts the daemon again then finds another port, or none. Commands
that tests run as processes of their own draw from all spare ports.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from node import local_ports

SHARES = 16
_claimed: list[int] = []  # locked files, held open until the process ends


def claim() -> None:
    """Draw spare ports of this process from a share that no other test run holds.

    With more runs than shares the last ones draw from all, as before there were shares.
    """
    size = len(local_ports.SPARE_PORTS) // SHARES
    for number in range(SHARES):
        name = f"hivemem-test-ports-{os.getuid()}-{number}"
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(Path(tempfile.gettempdir(), name), flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _claimed.append(descriptor)
        local_ports.SPARE_PORTS = local_ports.SPARE_PORTS[number * size : (number + 1) * size]
        return
