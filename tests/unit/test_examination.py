"""`hivemem doctor` and `repair` on the folder of a node that is stopped."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.interfaces import LogEntry
from cluster.membership import Configuration, Member
from cluster.snapshot import SnapshotStore
from cluster.snapshot_rules import SnapshotOptions
from engines.command import Put, encode
from engines.environment import DATA
from engines.interfaces import Limits
from engines.state_machine import StateMachine
from engines.store import Store
from node import cli
from node.clock import SystemClock
from node.datadir import DataDir
from node.errors import DataDirInUse, StartupError
from node.examination import Finding, examine, mend, set_all_aside
from node.quarantine import read_mark
from node.replica import Checkpoints
from tests.log_harness import SegmentedRig
from tests.snapshot_harness import flip
from tests.unit.engine_state import Entry

SECRET = b"a value that can be found in the file"
GROUP = 7  # that of the log harness


def opened(root: Path) -> DataDir:
    return DataDir.open(root, node_id="n", cluster_id="c", name="node", clock=SystemClock())


async def fill(root: Path) -> None:
    """A node's folder with one group, as a clean stop leaves it."""
    folder = opened(root)
    rig = SegmentedRig(folder.log_path(GROUP))
    rig.log.append([LogEntry(index, 1, b"\x01" + SECRET) for index in range(1, 21)])
    rig.settle()
    rig.end()
    machine = StateMachine(Store(folder.live_path(GROUP), 16 << 20, 8), Limits())
    snapshots = SnapshotStore(
        folder.snapshots_path(GROUP),
        GROUP,
        Checkpoints(machine, folder, lambda: 0.0),
        asyncio.get_running_loop().call_soon_threadsafe,
        lambda error: None,
        SnapshotOptions(copy_bytes_per_second_max=0),
        monotonic=lambda: 0.0,
    )
    for index in range(1, 6):
        command = encode(Put("n", "s", b"%d" % index, SECRET, "", 1))
        machine.apply([Entry(index, 1, [command])])
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    members = Configuration(1, (Member("a"),))
    assert snapshots.create(lambda index: members, lambda meta, error: made.set_result(error))
    assert await made is None
    snapshots.close()
    machine.close()
    folder.close()


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    await fill(tmp_path / "data")
    return tmp_path / "data"


def group(root: Path) -> Path:
    return root / "groups" / str(GROUP)


def rot(path: Path) -> None:
    """Flip a bit wherever the value stands: pages that are free hold it, too."""
    for found in re.finditer(re.escape(SECRET), path.read_bytes()):
        flip(path, found.start())


def damaged(root: Path) -> list[str]:
    return [each.part for each in examine(root) if not each.ok]


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_a_sound_folder_is_told_as_that_and_stays_as_it_is(root: Path) -> None:
    before = files(root)
    findings = examine(root)
    assert [(each.part, each.ok) for each in findings] == [
        ("identity", True), ("log", True), ("snapshot", True), ("state", True),
    ]  # fmt: skip
    by_part = {each.part: each.message for each in findings}
    assert "entries 1 to 20" in by_part["log"]
    assert "entry 5" in by_part["snapshot"]
    assert "entry 5" in by_part["state"]
    assert files(root) == before


async def test_each_part_that_is_damaged_is_found(root: Path) -> None:
    live = group(root) / "live" / DATA
    rot(live)
    assert damaged(root) == ["state"]
    (snapshot,) = group(root).glob("snapshots/*/state.mdb")
    rot(snapshot)
    assert damaged(root) == ["snapshot", "state"]
    (segment,) = group(root).glob("log/*.seg")
    rot(segment)
    assert damaged(root) == ["log", "snapshot", "state"]
    (root / "identity.json").write_text("{")
    assert damaged(root) == ["identity", "log", "snapshot", "state"]


async def test_a_record_that_was_changed_with_its_checksum_is_found(root: Path) -> None:
    store = Store(group(root) / "live", 16 << 20, 8)
    with store.write() as txn:
        txn.delete(b"format", db=store.databases.meta)
        txn.put(b"\x00" * 18, b"", db=store.databases.expiry)
    store.close()
    assert damaged(root) == ["state"]


async def test_what_is_derived_is_made_good(root: Path) -> None:
    live = group(root) / "live" / DATA
    rot(live)
    (snapshot,) = group(root).glob("snapshots/*/state.mdb")
    rot(snapshot)
    mended = mend(root, examine(root), SystemClock())
    assert [(each.part, each.done) for each in mended] == [("snapshot", True), ("state", True)]
    mark = read_mark(group(root))
    assert mark is not None
    assert "checksum" in mark.reason
    assert list(group(root).glob("snapshots/*.damaged"))
    findings = examine(root)
    assert [each.part for each in findings if each.part == "mark"] == ["mark"]
    assert not [each for each in findings if each.part == "snapshot"]


async def test_a_log_is_not_made_good_and_everything_can_be_set_aside(root: Path) -> None:
    (segment,) = group(root).glob("log/*.seg")
    rot(segment)
    (mended,) = mend(root, examine(root), SystemClock())
    assert not mended.done
    assert "--reseed" in mended.message
    aside = set_all_aside(root)
    assert {path.name for path in aside.iterdir()} == {"groups", "identity.json"}
    assert (aside / "groups" / str(GROUP) / "log").is_dir()
    again = opened(root)
    assert (
        again.identity.incarnation
        != json.loads((aside / "identity.json").read_bytes())["incarnation"]
    )
    again.close()
    await fill(root)
    assert set_all_aside(root) != aside


async def test_a_node_that_runs_is_left_alone(root: Path) -> None:
    folder = opened(root)
    for act in (examine, set_all_aside, lambda path: mend(path, [], SystemClock())):
        with pytest.raises(DataDirInUse):
            act(root)
    folder.close()
    with pytest.raises(StartupError):
        examine(root / "nothing")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = cli.main(list(words))
    return status, capsys.readouterr().out


async def test_the_commands_say_what_they_found_and_did(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = run(capsys, "doctor", "--node-dir", str(root))
    assert status == 0
    assert "DAMAGED" not in out
    live = group(root) / "live" / DATA
    rot(live)
    status, out = run(capsys, "doctor", "--node-dir", str(root))
    assert status == 1
    assert "DAMAGED" in out
    status, out = run(capsys, "doctor", "--node-dir", str(root), "-o", "json")
    assert status == 1
    found: Sequence[Any] = json.loads(out)["findings"]
    assert [Finding(**each).part for each in found if not each["ok"]] == ["state"]
    status, out = run(capsys, "repair", "--node-dir", str(root), "-o", "json")
    assert status == 0
    assert json.loads(out)["mended"][0]["done"] is True
    (segment,) = group(root).glob("log/*.seg")
    rot(segment)
    status, out = run(capsys, "repair", "--node-dir", str(root))
    assert status == 1
    assert "--reseed" in out
    status, out = run(capsys, "repair", "--node-dir", str(root), "--reseed")
    assert status == 0
    assert "damaged-1" in out
    assert cli.main(["repair", "node1", "--node-dir", str(root)]) == 2
