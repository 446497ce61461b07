"""A new cluster from one node's folder: what it says first, what it does, and interruptions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from cluster import entry, snapshot_directory
from cluster.group import RaftGroup
from cluster.interfaces import CommittedBatch, Decided, LogEntry, SnapshotMeta
from cluster.log import SegmentedLog
from cluster.log_writer import LogWriter
from cluster.membership import Configuration, Member
from cluster.memory_transport import MemoryNetwork
from cluster.raft_state import Identity
from cluster.upstream import RaftTiming
from node import recover
from node.clock import SystemClock
from node.config import load
from node.datadir import DataDir
from node.errors import DataDirError, DataDirInUse, StartupError
from node.local_plan import LocalNode, Plan, read_plan, write_plan
from node.recover import RecoveryError, prepared, with_cluster_id
from tests.unit.member_group import IDS, configuration, member

CLOCK = SystemClock()
CLUSTER = "11111111-1111-4111-8111-111111111111"
COMMAND = entry.pack([b"write"])


def settings(folder: Path, extra: str = "") -> Path:
    """node1 of three, in `folder`/data."""
    (folder / "secret").write_bytes(b"x" * 32)
    (folder / "secret").chmod(0o600)
    members = "".join(
        f'\n[[cluster.members]]\nid = "{each.id}"\nname = "{each.name}"\n'
        f'peer = "{each.peer}"\nhttp = "{each.http}"\n'
        for each in map(member, (1, 2, 3))
    )
    path = folder / "node.toml"
    path.write_text(
        f'# not {CLUSTER} but\n[node]\nid = "{IDS[1]}"\nname = "node1"\ndata_dir = "data"\n'
        f"[cluster]\nid = '{CLUSTER}'  # this one\nsecret_file = \"secret\"\n{members}{extra}"
    )
    return path


def open_folder(path: Path) -> DataDir:
    config = load(path, environ={})
    return DataDir.open(
        config.node.data_dir,
        node_id=config.node.id,
        cluster_id=config.cluster.id,
        name=config.node.name,
        clock=CLOCK,
    )


@contextmanager
def open_log(folder: Path):
    writer = LogWriter(lambda callback: None, lambda failure: None)
    writer.start()
    log = SegmentedLog.open(folder, 0, writer)
    try:
        yield log
    finally:
        log.close()
        writer.stop()


def node(folder: Path, *payloads: bytes, term: int = 3) -> Path:
    """A node that has run: its log holds a no-op and then `payloads`. Returns its settings."""
    path = settings(folder)
    data = open_folder(path)
    with open_log(data.log_path(0)) as log:
        log.append([LogEntry(1, 0, entry.NO_OP_PAYLOAD)])
        log.append([LogEntry(i, 2, payload) for i, payload in enumerate(payloads, 2)])
        log.set_hard_state(term, IDS[2])
    data.close()
    return path


def log_of(path: Path) -> tuple[list[LogEntry], int]:
    folder = load(path, environ={}).node.data_dir / "groups" / "0" / "log"
    with open_log(folder) as log:
        return log.read(log.first_index, log.last_index + 1, 1 << 20), log.term


def recovered(path: Path) -> recover.Outlook:
    with prepared(path, {}, CLOCK) as found:
        found.carry_out()
    return found.outlook


def test_what_the_node_holds_is_said_first_and_nothing_is_changed(tmp_path: Path) -> None:
    members = (member(1), member(2, voter=False), member(4))
    path = node(tmp_path, COMMAND, entry.pack_membership(members), COMMAND)
    before = path.read_bytes(), log_of(path)
    with prepared(path, {}, CLOCK) as found:
        outlook = found.outlook
    assert (outlook.last_index, outlook.last_term) == (4, 2)
    assert outlook.configuration == Configuration(3, members)
    assert outlook.dropped == members[1:]
    assert outlook.former_cluster_id == CLUSTER
    assert (path.read_bytes(), log_of(path)) == before
    assert json.loads((tmp_path / "data/identity.json").read_bytes())["cluster_id"] == CLUSTER


def test_a_node_becomes_a_cluster_of_its_own(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND, COMMAND)
    data = open_folder(path)
    data.remember_incarnation(IDS[2], "former")
    incarnation = data.identity.incarnation
    data.close()
    text = path.read_text()
    outlook = recovered(path)
    assert outlook.cluster_id != CLUSTER
    entries, term = log_of(path)
    own = Member(IDS[1], True, "node1", "127.0.0.1:7422", "http://127.0.0.1:7412", incarnation)
    assert entries[-1] == LogEntry(4, 3, entry.pack_membership([own]))
    assert [each.payload for each in entries[1:3]] == [COMMAND, COMMAND]
    assert term == 3
    assert path.read_text() == text.replace(f"'{CLUSTER}'", f"'{outlook.cluster_id}'")
    data = open_folder(path)  # the folder and the settings agree
    assert data.identity.known_incarnations == {}
    data.close()
    assert not (tmp_path / "data" / recover.MARKER).exists()


def test_the_entry_is_of_the_highest_term_that_the_node_knows(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND, term=9)
    recovered(path)
    assert log_of(path)[0][-1].term == 9


def test_it_can_be_done_again(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND)
    first = recovered(path)
    second = recovered(path)
    assert second.former_cluster_id == first.cluster_id
    assert second.cluster_id not in (first.cluster_id, CLUSTER)
    assert second.dropped == ()


STEPS = ["write_durably", "change_cluster", "_append", "_rewrite_settings", "unlink"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_run_goes_on_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    path = node(tmp_path, COMMAND)
    owner = {
        "write_durably": recover,
        "change_cluster": DataDir,
        "_append": recover.Recovery,
        "_rewrite_settings": recover.Recovery,
        "unlink": Path,
    }[step]
    usual: Callable[..., object] = getattr(owner, step)

    class Killed(Exception):
        pass

    def dies(*arguments: object) -> None:
        if after:
            usual(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dies)
        with pytest.raises(Killed):
            recovered(path)
    started = STEPS.index(step) + after
    marked = (tmp_path / "data" / recover.MARKER).exists()
    assert marked == (0 < started < 5)
    if 2 <= started <= 3:
        with pytest.raises(DataDirError, match="belongs to cluster"):
            open_folder(path)
    interrupted = json.loads((tmp_path / "data/identity.json").read_bytes())["cluster_id"]
    outlook = recovered(path)
    if 2 <= started <= 3:
        assert outlook.cluster_id == interrupted
    assert load(path, environ={}).cluster.id == outlook.cluster_id
    entries, _ = log_of(path)
    alone = [each for each in entries if entry.unpack_membership(each.payload) is not None]
    assert entries[-1] in alone
    if started <= 3:
        assert len(alone) == 1
    open_folder(path).close()


def test_a_running_node_is_left_alone(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND)
    data = open_folder(path)
    with pytest.raises(DataDirInUse):
        recovered(path)
    data.close()


def test_a_folder_that_never_held_anything_is_refused(tmp_path: Path) -> None:
    path = settings(tmp_path)
    with pytest.raises(RecoveryError, match="holds no node's data"):
        recovered(path)
    assert not (tmp_path / "data").exists()
    open_folder(path).close()
    with pytest.raises(RecoveryError, match="never run"):
        recovered(path)


def test_another_clusters_folder_is_refused(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND)
    path.write_text(path.read_text().replace(CLUSTER, IDS[5]))
    with pytest.raises(RecoveryError, match=f"belongs to cluster {CLUSTER}"):
        recovered(path)


def test_an_id_from_elsewhere_than_the_file_is_refused(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND)
    path.write_text(path.read_text().replace(CLUSTER, IDS[5]))
    environ = {"HIVEMEM_CLUSTER_ID": CLUSTER}
    with (
        pytest.raises(RecoveryError, match="unset HIVEMEM_CLUSTER_ID"),
        prepared(path, environ, CLOCK),
    ):
        pass


def snapshot(path: Path, index: int, term: int, members: tuple[Member, ...]) -> SnapshotMeta:
    """Give the node a snapshot, whose state nobody looks at here."""
    folder = load(path, environ={}).node.data_dir / "groups/0/snapshots" / f"{index:020d}"
    folder.mkdir(parents=True)
    (folder / snapshot_directory.STATE).write_bytes(b"state")
    meta = SnapshotMeta(index, term, 5, bytes(32), Configuration(index - 1, members))
    snapshot_directory.write_manifest(folder, 0, meta, durable=False)
    return meta


def test_members_may_be_in_the_snapshot_only(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND, COMMAND)
    snapshot(path, 3, 2, (member(1), member(5)))
    with prepared(path, {}, CLOCK) as found:
        assert found.outlook.configuration.ids == {IDS[1], IDS[5]}
        assert found.outlook.last_index == 3


def test_a_snapshot_beyond_the_log_counts(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND, term=3)
    snapshot(path, 40, 7, (member(1), member(5)))
    outlook = recovered(path)
    assert (outlook.last_index, outlook.last_term) == (40, 7)
    entries, _ = log_of(path)
    assert [(each.index, each.term) for each in entries] == [(41, 7)]


def test_a_state_that_nothing_can_rebuild_is_refused(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND)
    data = open_folder(path)
    with open_log(data.log_path(0)) as log:
        log.reset(40, 7)
        log.append([LogEntry(41, 7, COMMAND)])
    data.live_path(0).mkdir()
    data.close()
    with pytest.raises(RecoveryError, match="no whole snapshot covers"):
        recovered(path)
    data = open_folder(path)
    data.mark_running(CLOCK.boot_id())  # the state is there, and of this boot
    data.close()
    assert recovered(path).last_index == 41


def local(tmp_path: Path) -> tuple[Path, Plan]:
    """node1 of a local cluster of three."""
    nodes = tuple(
        LocalNode(f"node{i}", IDS[i], 20_000 + i, 20_010 + i, 20_020 + i) for i in (1, 2, 3)
    )
    plan = Plan(tmp_path / "local", CLUSTER, nodes)
    write_plan(plan)
    path = plan.config_path(nodes[0])
    data = open_folder(path)
    with open_log(data.log_path(0)) as log:
        log.append([LogEntry(1, 0, entry.NO_OP_PAYLOAD)])
    data.close()
    return path, plan


def test_a_local_cluster_is_left_with_the_one_node(tmp_path: Path) -> None:
    path, plan = local(tmp_path)
    outlook = recovered(path)
    assert outlook.local == plan.root
    changed = read_plan(plan.root)
    assert changed is not None
    assert changed.cluster_id == outlook.cluster_id
    assert changed.nodes == plan.nodes[:1]
    config = load(path, environ={})
    assert config.cluster.id == outlook.cluster_id
    assert [each.id for each in config.cluster.members] == [IDS[1]]
    assert plan.folder(plan.nodes[1]).exists(), "data folders are kept"


def test_a_local_cluster_that_runs_is_left_alone(tmp_path: Path) -> None:
    path, plan = local(tmp_path)
    data = open_folder(plan.config_path(plan.nodes[2]))
    with pytest.raises(StartupError, match="node3; end them first: hivemem down"):
        recovered(path)
    data.close()


@pytest.mark.parametrize(
    "text",
    [
        f'[cluster]\nid = "{CLUSTER}"\n',
        f"[cluster]\nid='{CLUSTER}' # {CLUSTER}\n",
        f'# {CLUSTER}\ncluster = {{ id = "{CLUSTER}", join = true }}\n',
        f'[[cluster.members]]\nid = "{CLUSTER}"\n[cluster.x]\n'.replace("cluster.", "other.")
        + f'[cluster]\nid = """{CLUSTER}"""\n',
    ],
)
def test_only_the_clusters_id_is_rewritten(text: str) -> None:
    changed = with_cluster_id(text, CLUSTER, IDS[1])
    assert changed.count(CLUSTER) == text.count(CLUSTER) - 1
    assert changed.replace(IDS[1], CLUSTER) == text


def test_an_id_that_is_written_oddly_is_refused() -> None:
    escaped = CLUSTER.replace("4", "\\u0034")
    with pytest.raises(RecoveryError):
        with_cluster_id(f'[cluster]\nid = "{escaped}"\n', CLUSTER, IDS[1])


class Machine:
    """Remembers what was applied."""

    def __init__(self) -> None:
        self.applied_index = 0
        self.commands: list[bytes] = []

    def apply(self, batches: Sequence[CommittedBatch], decided: Decided) -> list[list[object]]:
        self.applied_index = batches[-1].index
        self.commands += [command for batch in batches for command in batch.commands]
        results: list[list[object]] = [[None] * len(batch.commands) for batch in batches]
        for batch, told in zip(batches, results, strict=True):
            decided(batch, told)
        return results


def test_the_node_leads_its_cluster_and_commits_what_it_holds(tmp_path: Path) -> None:
    path = node(tmp_path, COMMAND, COMMAND)
    outlook = recovered(path)
    first_voters = configuration(member(1), member(2), member(3), index=0)
    network = MemoryNetwork([IDS[1]])
    machine = Machine()
    failures: list[BaseException] = []
    snapshots = SimpleNamespace(newest=None, busy=False, create=lambda *_: False)
    with open_log(tmp_path / "data/groups/0/log") as log:
        group = RaftGroup(
            0,
            Identity(outlook.node.id, outlook.node.incarnation),
            first_voters,
            log,
            machine,
            snapshots,
            network.transport(IDS[1]),
            wake=lambda: None,
            fail=failures.append,
            rng=Random(1),
            timing=RaftTiming(0.005, 0.02, 0.04),
        )
        deadline = time.monotonic() + 10
        while group.status().applied_index <= outlook.last_index + 1:
            assert time.monotonic() < deadline
            group.turn()
            log.flush()
            log._writer.drain()
            time.sleep(0.001)
        assert group.role().leader == IDS[1]
        assert group.configuration() == Configuration(4, (outlook.node,))
    assert machine.commands == [b"write", b"write"]
    assert not failures
