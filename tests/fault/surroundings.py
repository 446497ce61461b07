"""The cluster that each kind of nemesis works on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from node.local_plan import Plan
from tests.fault.cluster import Direct, FaultCluster, Network, Proxied
from tests.fault.disks import SMALL_BYTES, PoweredDisk, mounted
from tests.fault.namespaces import Namespaced
from tests.fault.nemesis import Surroundings


def fault_cluster(
    needs: Surroundings,
    folder: Path,
    *,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    preload: bool = False,
) -> FaultCluster:
    """Three nodes as a nemesis needs them. Everything is made in `folder`."""
    network: Network = Direct()
    folders: Callable[[Plan], AbstractContextManager[PoweredDisk | None]] | None = None
    if needs == "proxied":
        network = Proxied()
    elif needs == "namespaces":
        network = Namespaced(folder / "certificates")
    elif needs == "small disk":
        folders = small_disk(folder)
    elif needs == "powered disk":
        folders = powered_disk(folder)
    return FaultCluster(
        folder,
        settings=settings,
        network=network,
        preload=preload or needs == "preload",
        seed=seed,
        folders=folders,
    )


def small_disk(beside: Path) -> Callable[[Plan], AbstractContextManager[None]]:
    """The first node's folder is a small file system."""

    def folders(plan: Plan) -> AbstractContextManager[None]:
        return mounted(beside / "small.img", plan.folder(plan.nodes[0]), SMALL_BYTES)

    return folders


def powered_disk(beside: Path) -> Callable[[Plan], AbstractContextManager[PoweredDisk]]:
    """All nodes' folders are on one disk whose power can be cut."""

    @contextlib.contextmanager
    def folders(plan: Plan) -> Iterator[PoweredDisk]:
        disk = PoweredDisk(plan.root, beside / "power")
        try:
            yield disk
        finally:
            disk.close()

    return folders


@contextlib.asynccontextmanager
async def showing_logs(cluster: FaultCluster) -> AsyncIterator[None]:
    """Print the daemons' logs if what is inside fails."""
    try:
        yield
    except BaseException:
        print(cluster.log_tails())
        raise
