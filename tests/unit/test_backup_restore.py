"""Restoring: what is made, what is refused, and that a refusal leaves nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import snapshot_directory
from cluster.interfaces import SnapshotMeta
from cluster.log import SegmentedLog
from cluster.log_writer import LogWriter
from cluster.membership import Member
from cluster.partition_map import PartitionMap
from cluster.reconcile import reconcile
from cluster.snapshot import SnapshotStore
from engines.interfaces import Limits
from engines.kv import KvReader
from engines.state_file import examine
from engines.state_machine import StateMachine
from engines.store import Store
from node import backup_file, backup_restore
from node.backup_format import BackupError, Manifest
from node.backup_restore import Request, Restored, restore
from node.cli import main
from node.clock import SystemClock
from node.config import load
from node.datadir import DataDir
from node.errors import DataDirError, LaunchError
from node.local_plan import read_plan
from node.system_state import records
from tests.unit.test_backup_file import CLUSTER, places, write_backup

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a cluster with one group."""
    return write_backup(tmp_path_factory.mktemp("backup"), 0)


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a cluster with 5 partitions, two replicas of each."""
    return write_backup(tmp_path_factory.mktemp("partitioned"), 5)


def restored(file: Path, root: Path, count: int = 3) -> Restored:
    return restore(Request(file, root, count, spare=True), CLOCK, lambda count: None)


def manifest_of(file: Path) -> Manifest:
    with file.open("rb") as opened:
        return backup_file.read_manifest(opened)


def newest(folder: Path, group: int) -> SnapshotMeta:
    path = folder / "groups" / str(group) / "snapshots"
    found = snapshot_directory.recover(path, group)
    assert found.problems == []
    (held,) = found.held.values()
    return held.meta


@pytest.mark.parametrize("count", [1, 3, 5])
def test_each_node_gets_each_group_and_all_agree_who_they_are(
    backup: Path, tmp_path: Path, count: int
) -> None:
    root = tmp_path / "new"
    found = restored(backup, root, count)
    plan = read_plan(root)
    assert plan == found.plan
    assert plan is not None
    assert len(plan.nodes) == count
    assert plan.cluster_id != CLUSTER
    metas = set()
    for node in plan.nodes:
        config = load(plan.config_path(node), environ={})
        assert config.cluster.id == plan.cluster_id
        identity = json.loads((plan.folder(node) / "identity.json").read_text())
        assert (identity["node_id"], identity["cluster_id"]) == (node.id, plan.cluster_id)
        assert identity["known_incarnations"] == {}
        for state in found.manifest.groups:
            meta = newest(plan.folder(node), state.group)
            metas.add((state.group, meta))
            own = Member(node.id, True, node.name, node.peer, node.http, identity["incarnation"])
            assert meta.configuration.member(node.id) == own
            assert (meta.index, meta.term, meta.size) == (state.index, state.term, state.size)
            assert meta.sha256.hex() == state.sha256
            assert meta.configuration.index == meta.index
    assert len(metas) == 1, "the nodes differ in what they start from"
    assert {path.name for path in tmp_path.iterdir()} == {"new"}
    assert {path.name for path in root.iterdir()} == {
        *(node.name for node in plan.nodes), "cluster.json", "secret",
    }  # fmt: skip


@pytest.mark.parametrize(("count", "replicas"), [(1, 1), (3, 2), (5, 2)])
def test_partitions_are_placed_on_the_new_nodes(
    partitioned: Path, tmp_path: Path, count: int, replicas: int
) -> None:
    found = restored(partitioned, tmp_path / "new", count)
    plan = found.plan
    assert (plan.partitions, plan.replication_factor) == (5, 2)
    ids = {node.id for node in plan.nodes}
    made = map_of(found)
    assert made.epoch == 1
    assert made.replication_factor == 2
    for state in found.manifest.groups[1:]:
        wanted = made.partitions[state.group - 1]
        assert len(wanted.replicas) == replicas
        assert set(wanted.replicas) <= ids
        for node in plan.nodes:
            config = load(plan.config_path(node), environ={})
            assert (config.cluster.partitions, config.cluster.replication_factor) == (5, 2)
            folder = plan.folder(node) / "groups" / str(state.group)
            assert folder.exists() == (node.id in wanted.replicas)
            if folder.exists():
                meta = newest(plan.folder(node), state.group)
                assert meta.sha256.hex() == state.sha256, "the data is as it was saved"
                assert meta.configuration.voters == set(wanted.replicas)
    held = [len(list((plan.folder(node) / "groups").iterdir())) for node in plan.nodes]
    assert max(held) - min(held) <= 1


def test_limits_go_on_as_they_were(tmp_path: Path) -> None:
    """With the usual ones the new leader would have the cluster forget history."""
    (tmp_path / "saved").mkdir()
    limits = Limits(history_versions_max=99, request_ids_max=7)
    file = write_backup(tmp_path / "saved", 1, limits=limits)
    found = restored(file, tmp_path / "new", 3)
    for node in found.plan.nodes:
        assert load(found.plan.config_path(node), environ={}).limits == limits


def map_of(found: Restored) -> PartitionMap:
    """What all nodes' system group says, and that it says nothing of the old nodes."""
    maps = set()
    for node in found.plan.nodes:
        with started(found.plan.folder(node)) as (log, machine, snapshots):
            reconcile(log, snapshots, lambda: machine.applied_index)
            assert machine.applied_index == found.manifest.groups[0].index + 1
            with machine._store.read() as snapshot:
                held = records(KvReader(snapshot))
        assert held.nodes == {}
        maps.add(held.map)
    (made,) = maps
    assert made is not None
    return made


def test_a_backup_whose_map_is_missing_is_refused(tmp_path: Path) -> None:
    """Its partitions would be taken for new ones, and be begun anew beside the saved ones."""
    (tmp_path / "saved").mkdir()
    file = write_backup(tmp_path / "saved", 1, mapped=False)
    with pytest.raises(BackupError, match="no map of them"):
        restored(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_restored_clusters_have_nothing_in_common(backup: Path, tmp_path: Path) -> None:
    """Each could otherwise take the other's nodes for its own."""
    plans = [restored(backup, tmp_path / name).plan for name in ("a", "b")]
    assert plans[0].cluster_id != plans[1].cluster_id
    secrets = [(plan.root / "secret").read_bytes() for plan in plans]
    assert secrets[0] != secrets[1]
    ids = [{node.id for node in plan.nodes} for plan in plans]
    assert ids[0].isdisjoint(ids[1])


@contextmanager
def started(folder: Path) -> Iterator[tuple[SegmentedLog, StateMachine, SnapshotStore]]:
    """Group 0 of a restored node, as a daemon's start brings it up."""
    writer = LogWriter(lambda callback: callback(), lambda failure: None)
    writer.start()
    base = folder / "groups" / "0"
    log = SegmentedLog.open(base / "log", 0, writer)
    machine = StateMachine(Store(base / "live", 64 << 20, 16), Limits())
    snapshots = SnapshotStore(
        base / "snapshots", 0, machine, lambda callback: None, lambda error: None,
        monotonic=CLOCK.monotonic,
    )  # fmt: skip
    try:
        yield log, machine, snapshots
    finally:
        snapshots.close()
        machine.close()
        log.close()
        writer.stop()


def test_a_start_takes_the_snapshot_for_its_base(backup: Path, tmp_path: Path) -> None:
    found = restored(backup, tmp_path / "new", 1)
    state = found.manifest.groups[0]
    folder = found.plan.folder(found.plan.nodes[0])
    for first_start in (True, False):
        with started(folder) as (log, machine, snapshots):
            done = reconcile(log, snapshots, lambda: machine.applied_index)
            assert done == (first_start, first_start, ())
            assert (machine.applied_index, machine.applied_term) == (state.index, state.term)
            assert machine.revision == state.revision
            assert (log.first_index, log.last_index) == (state.index + 1, state.index)
            assert log.term_at(state.index) == state.term
            with (tmp_path / "copy.mdb").open("wb") as file:
                machine.copy_to(file.fileno())
        assert examine(tmp_path / "copy.mdb").content.hex() == state.digest


def test_a_folder_of_the_old_cluster_is_not_the_new_ones(backup: Path, tmp_path: Path) -> None:
    found = restored(backup, tmp_path / "new", 1)
    (node,) = found.plan.nodes
    with pytest.raises(DataDirError, match="belongs to cluster"):
        DataDir.open(
            found.plan.folder(node), node_id=node.id, cluster_id=CLUSTER, name="n", clock=CLOCK
        )


# --- Refusals --------------------------------------------------------------------------


def test_damage_is_refused_and_nothing_is_left(backup: Path, tmp_path: Path) -> None:
    data = backup.read_bytes()
    file = tmp_path / "damaged"
    for section, first, size in places(manifest_of(backup)):
        damaged = bytearray(data)
        damaged[first + size // 2] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(BackupError, match=r"damaged.*nothing was restored"):
            restored(file, tmp_path / "new")
        assert [path.name for path in tmp_path.iterdir()] == ["damaged"], section
    file.write_bytes(data[:-1])
    with pytest.raises(BackupError, match="ends too early"):
        restored(file, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_folders_above_the_target_are_made_and_a_refusal_takes_them_back(
    backup: Path, tmp_path: Path
) -> None:
    root = tmp_path / "a" / "b" / "new"
    file = tmp_path / "damaged"
    file.write_bytes(backup.read_bytes()[:-1])
    with pytest.raises(BackupError):
        restored(file, root)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]
    assert restored(backup, root).plan.root == root
    assert [path.name for path in root.parent.iterdir()] == ["new"]


def test_a_folder_that_is_not_empty_is_left_as_it_is(backup: Path, tmp_path: Path) -> None:
    root = tmp_path / "new"
    root.mkdir()
    (root / "mine").write_text("x")
    with pytest.raises(LaunchError, match="not empty"):
        restored(backup, root)
    assert [path.name for path in root.iterdir()] == ["mine"]
    (root / "mine").unlink()
    (root / "launch.lock").touch()  # of an `up` that came to nothing
    assert restored(backup, root).plan.root == root
    with pytest.raises(LaunchError, match="not empty"):
        restored(backup, root)


def test_a_file_in_the_way_is_left_as_it_is(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("x")
    with pytest.raises(LaunchError, match="not a folder"):
        restored(backup, tmp_path / "new")


@pytest.mark.parametrize("count", [0, 10])
def test_a_number_of_nodes_that_no_cluster_has(backup: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(LaunchError, match="1 to 9 nodes"):
        restored(backup, tmp_path / "new", count)
    assert not list(tmp_path.iterdir())


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="absent cannot be read: No such file"):
        restored(tmp_path / "absent", tmp_path / "new")


def test_too_little_room_is_said_before_anything_is_written(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = os.statvfs(tmp_path)
    assert usage.f_bavail
    monkeypatch.setattr(
        backup_restore.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})
    )
    with pytest.raises(BackupError, match="1000 B is free"):
        restored(backup, tmp_path / "new")
    assert not list(tmp_path.iterdir())


class Crash(BaseException):
    """As power loss: nothing after it runs, but for what the test undoes."""


def test_a_crash_at_any_step_leaves_no_cluster(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of which only some have the snapshot could elect one that has not."""
    left = 0

    def counted(name: str, module: object) -> None:
        real = getattr(module, name)

        def call(*arguments: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    counted("_write_snapshot", backup_restore)
    counted("write_plan", backup_restore)
    counted("_member", backup_restore)
    counted("_publish", backup_restore)
    monkeypatch.setattr(backup_restore.shutil, "rmtree", lambda *_, **__: None)
    for step in range(50):
        left = step
        try:
            restored(backup, tmp_path / "new")
        except Crash:
            assert not (tmp_path / "new").exists(), f"step {step}"
        else:
            assert read_plan(tmp_path / "new") is not None
            assert step == 1 + 3 + 3 + 1
            return
    pytest.fail("it never came to an end")


# --- The commands ----------------------------------------------------------------------


def test_verify_says_what_is_in_it(backup: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "verify", str(backup), "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    manifest = manifest_of(backup)
    assert shown["sound"] is True
    assert (shown["cluster_id"], shown["partitions"]) == (CLUSTER, 0)
    assert shown["checksum"] == manifest.checksum
    assert [each["digest"] for each in shown["groups"]] == [
        state.digest for state in manifest.groups
    ]
    assert main(["snapshot", "verify", str(backup)]) == 0
    assert "whole and sound" in capsys.readouterr().out
    assert not list(backup.parent.glob(".*"))


def test_verify_of_a_damaged_file(
    backup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(backup.read_bytes())
    data[-1] ^= 1
    file = tmp_path / "damaged"
    file.write_bytes(data)
    assert main(["snapshot", "verify", str(file), "-o", "json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "file": str(file), "sound": False, "problem": "the end of the file is damaged",
    }  # fmt: skip
    assert main(["snapshot", "verify", str(file)]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert main(["snapshot", "verify", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err


def test_restore_says_how_to_go_on(
    backup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new"
    given = ["snapshot", "restore", str(backup), "--data-dir", str(root), "--nodes", "1"]
    # Somebody else on this machine may be at one of them.
    ports = range(28_411, 28_811, 20)
    port = next(each for each in ports if main([*given, "--port", str(each)]) == 0)
    assert f"hivemem up --data-dir {root}" in capsys.readouterr().out
    assert main(given) == 1
    assert "not empty" in capsys.readouterr().err
    plan = read_plan(root)
    assert plan is not None
    assert plan.nodes[0].http_port == port


def test_save_does_not_overwrite_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b"
    file.write_text("precious")
    assert main(["snapshot", "save", str(file), "--endpoints", "http://127.0.0.1:9"]) == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    "given", [["--fresh"], ["--partitions", "3"], ["--replication-factor", "1"]]
)
def test_up_from_a_backup_takes_its_shape_from_it(
    backup: Path, tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new"
    assert main(["up", "--from", str(backup), "--data-dir", str(root), *given]) == 2
    assert given[0] in capsys.readouterr().err
    assert not root.exists()
