"""Power loss after every single call to the disk, with arbitrary loss of what was not fsynced.

While snapshots are made, received, replaced and removed; also during recovery. The newest is
then the one before or the one after, whole, and nothing half-made bears a snapshot's name.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest

from cluster.errors import CorruptSnapshot
from cluster.interfaces import SnapshotMeta
from tests.property.recording_tree import RecordingTree, Tree, write_tree
from tests.snapshot_harness import (
    SMALL,
    DiskRig,
    created,
    finish,
    meta_of,
    read,
    write_all,
)

SEEDS = range(3)
STEPS = 25


class History:
    """A random run: the newest snapshots that power loss at each call may leave."""

    def __init__(self, directory: Path, disk: RecordingTree, rng: Random) -> None:
        directory.mkdir()
        disk.start(directory)
        self.rig = DiskRig(directory)
        self.disk = disk
        self.rng = rng
        self.states: dict[bytes, bytes] = {}  # sha256 → bytes
        self.possible: list[set[SnapshotMeta | None]] = [{None}]  # per number of calls

    def run(self) -> None:
        for _ in range(STEPS):
            before = self.rig.snapshots.newest
            choice = self.rng.random()
            if choice < 0.45:
                self._create()
            else:
                self._receive(corrupt=choice > 0.9, whole=choice < 0.8)
            answered = len(self.disk.calls)
            self.rig.run_waiting()
            after = self.rig.snapshots.newest
            # Until it is answered either may be there; afterwards only the new one.
            self._stamp(answered - 1, {before, after})
            self._stamp(len(self.disk.calls), {after})

    def _stamp(self, calls: int, newest: set[SnapshotMeta | None]) -> None:
        self.possible += [newest] * (calls + 1 - len(self.possible))

    def _create(self) -> None:
        self.rig.machine.advance(self.rng.randrange(1, 30_000))
        meta = created(self.rig)
        self.states[meta.sha256] = self.rig.machine.data
        if self.rng.random() < 0.3:
            read(self.rig, meta.index, 0, 10)

    def _receive(self, *, corrupt: bool, whole: bool) -> None:
        snapshots = self.rig.snapshots
        data = self.rng.randbytes(self.rng.randrange(1, 30_000))
        newest = snapshots.newest.index if snapshots.newest else 1
        meta = meta_of(data, newest + self.rng.choice([0, 1, 5]))
        self.states[meta.sha256] = data
        start = snapshots.begin(meta)
        if not whole:
            write_all(self.rig, data, start, self.rng.randrange(len(data)))
            snapshots.abandon()
            return
        write_all(self.rig, data[::-1] if corrupt else data, start)
        error = finish(self.rig)
        assert isinstance(error, CorruptSnapshot) == (corrupt and data != data[::-1])
        if error is None:
            self.rig.machine.index = meta.index


def _interrupted_recovery(tree: Tree, directory: Path, disk: RecordingTree, rng: Random) -> Tree:
    write_tree(directory, tree)
    disk.start(directory)
    DiskRig(directory).end()
    return disk.image(rng.randrange(len(disk.calls) + 1), rng)


@pytest.mark.parametrize("seed", SEEDS)
def test_power_loss_after_every_call(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(seed)
    disk = RecordingTree(monkeypatch)
    history = History(tmp_path / "snapshots", disk, rng)
    history.run()
    history.rig.end()
    images = [disk.image(cut, rng) for cut in range(len(history.possible))]
    assert len(images) > 300
    for cut, image in enumerate(images):
        tree = image
        for number in range(rng.choice([0, 0, 1, 2])):  # power fails again while recovering
            directory = tmp_path / f"{cut}.{number}"
            tree = _interrupted_recovery(tree, directory, disk, rng)
            shutil.rmtree(directory)
        directory = tmp_path / f"{cut}"
        write_tree(directory, tree)
        disk.start(directory)
        rig = DiskRig(directory)
        where = f"seed {seed}, after {cut} calls"
        assert rig.snapshots.newest in history.possible[cut], where
        assert rig.snapshots.problems == [], where
        _check_whole(rig, history, where)
        _check_usable(rig, rng)
        rig.end()
        shutil.rmtree(directory)


def _check_whole(rig: DiskRig, history: History, where: str) -> None:
    assert len(rig.snapshots.held) <= SMALL.snapshots_kept + SMALL.snapshots_pinned_max + 1, where
    for meta in rig.snapshots.held:
        (path,) = rig.directory.glob(f"{meta.index:020d}*/state.mdb")
        assert path.read_bytes() == history.states[meta.sha256], where
    if rig.snapshots.newest is not None:
        rig.snapshots.install()
        assert rig.machine.data == history.states[rig.snapshots.newest.sha256], where


def _check_usable(rig: DiskRig, rng: Random) -> None:
    """What was being received can be begun again, and snapshots can be made."""
    data = rng.randbytes(9000)
    meta = meta_of(data, rig.machine.index + 1)
    write_all(rig, data, rig.snapshots.begin(meta))
    assert finish(rig) is None
    rig.machine.index += 1
    rig.machine.advance(100)
    assert created(rig).index == rig.machine.index
