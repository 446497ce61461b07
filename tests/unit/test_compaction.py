"""What the node is told of a snapshot that did not come off."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from cluster.compaction import CompactionLimits, Compactor
from cluster.errors import Overloaded
from cluster.interfaces import RaftLog, SnapshotMeta, Snapshots
from cluster.membership import Member, bootstrap

META = SnapshotMeta(5, 1, 10, bytes(32), bootstrap([Member("n1")]))


class Scripted:
    """Snapshots whose making ends when the test says so."""

    newest = None
    busy = False
    done: Callable[[SnapshotMeta | None, Exception | None], None]

    def create(self, configuration_at: Any, done: Any) -> bool:
        self.done = done
        return True


def test_why_the_last_snapshot_failed_is_known_until_one_succeeds() -> None:
    snapshots, failed = Scripted(), []
    log = SimpleNamespace(size_bytes=0, first_index=1, last_index=5)
    compactor = Compactor(
        cast(RaftLog, log), cast(Snapshots, snapshots), CompactionLimits(), lambda meta: None,
        failed.append,
    )  # fmt: skip
    assert compactor.failure is None
    busy = Overloaded("all readers are in use")
    assert compactor.begin(lambda index: META.configuration)
    snapshots.done(None, busy)
    assert compactor.failure is busy
    assert compactor.begin(lambda index: META.configuration)
    snapshots.done(META, None)
    assert compactor.failure is None
    assert failed == []
