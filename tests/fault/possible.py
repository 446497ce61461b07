"""What can be done on this machine, and by this user."""

from __future__ import annotations

import sys

from tests.fault.disks import loop_mounts_work
from tests.fault.namespaces import namespaces_work
from tests.fault.nemesis import Surroundings
from tests.fault.preload import compiler


def impossible(needs: Surroundings) -> str | None:
    """Why such a cluster cannot be had here; None if it can."""
    if needs == "namespaces" and not namespaces_work():
        return "needs root: network namespaces"
    if needs in ("small disk", "powered disk") and not loop_mounts_work():
        return "needs root: loop mounts"
    if needs == "preload" and (compiler() is None or sys.platform != "linux"):
        return "needs Linux and a C compiler"
    if needs == "proxied" and sys.platform != "linux":
        return "needs Linux: /proc tells who dialled"
    return None
