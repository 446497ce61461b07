"""A new cluster from what one node holds, for when a quorum is lost for good. Offline.

Theory of operation. The node's log gets one more entry, a configuration in which it is the
only voter: when it starts it elects itself, and everything in its log is committed. Nothing
can tell whether that is what the lost majority had; so the others must never meet it
again. That is what the new cluster id is for: peers of another cluster are refused.

Order of the steps, each durable before the next:

1. `recovery.json` in the data folder: the former and the new cluster id.
2. `identity.json` gets the new id. From here on the node does not start, because its
   settings name another cluster than its folder.
3. The entry is appended.
4. The settings get the new id (and `cluster.json` of a local cluster, which then has this
   node only). From here on the node starts, as the new cluster.
5. `recovery.json` is removed.

After an interruption the same command goes on: the file of step 1 says with which id.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cluster import entry, snapshot_directory
from cluster.errors import CorruptLog, StorageFailed
from cluster.interfaces import LogEntry, SnapshotMeta
from cluster.log import SegmentedLog
from cluster.log_format import LogOptions
from cluster.log_writer import LogWriter
from cluster.membership import Configuration, Member, bootstrap
from node.clock import Clock
from node.config import load
from node.config_schema import NodeConfig
from node.datadir import DataDir, explain, owner_pid, write_durably
from node.errors import DataDirInUse, StartupError
from node.local_plan import Plan, launch_lock, read_plan, write_plan

GROUP = 0  # the one group of this version
SCAN_BYTES = 4 << 20  # of log read at once
MARKER = "recovery.json"


class RecoveryError(StartupError):
    """This node did not become a new cluster; the message says why."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the node holds, and what becomes of it."""

    config_path: Path
    data_dir: Path
    node: Member  # as the only voter
    former_cluster_id: str
    cluster_id: str
    last_index: int  # everything up to here becomes committed
    last_term: int
    configuration: Configuration  # in force until now, as far as this node knows
    local: Path | None  # folder of the local cluster that the node is part of

    @property
    def dropped(self) -> tuple[Member, ...]:
        """Members that are left behind."""
        return tuple(each for each in self.configuration.members if each.id != self.node.id)


class Recovery:
    """One node's folder, locked and looked at. Made by `prepared`."""

    def __init__(self, outlook: Outlook, data_dir: DataDir, log: SegmentedLog) -> None:
        self.outlook = outlook
        self._data_dir = data_dir
        self._log = log

    def carry_out(self) -> None:
        """Make the new cluster; see the module. Durable on return.

        Raises StartupError: it may be half done, and can be run again.
        """
        outlook, marker = self.outlook, self._data_dir.root / MARKER
        ids = {"from": outlook.former_cluster_id, "to": outlook.cluster_id}
        try:
            write_durably(marker, json.dumps(ids).encode() + b"\n")
            self._data_dir.change_cluster(outlook.cluster_id)
            self._append()
            self._rewrite_settings()
            marker.unlink()
        except OSError as error:
            raise RecoveryError(explain(outlook.data_dir, error)) from error
        except StorageFailed as error:
            raise RecoveryError(f"{error}; run the same command again") from error

    def _append(self) -> None:
        """Append the configuration, unless a former run did."""
        log, outlook = self._log, self.outlook
        if (log.last_index, log.last_term) != (outlook.last_index, outlook.last_term):
            # The snapshot was not brought into the log yet; starting would do the same.
            log.reset(outlook.last_index, outlook.last_term)
        payload = entry.pack_membership((outlook.node,))
        last = log.read(log.last_index, log.last_index + 1, SCAN_BYTES)
        if last and last[0].payload == payload:
            return
        term = max(log.term, log.last_term)
        log.append([LogEntry(log.last_index + 1, term, payload)])
        log.flush()
        log.close()
        if log.durable_index != log.last_index:
            raise StorageFailed("the log could not be written")

    def _rewrite_settings(self) -> None:
        outlook = self.outlook
        if outlook.local is not None:
            plan = read_plan(outlook.local)
            assert plan is not None
            own = next(node for node in plan.nodes if node.id == outlook.node.id)
            nodes = (replace(own, join=False),)
            write_plan(replace(plan, cluster_id=outlook.cluster_id, nodes=nodes))
            return
        path = outlook.config_path.resolve()
        text = path.read_text(encoding="utf-8")
        mode = stat.S_IMODE(path.stat().st_mode)
        changed = with_cluster_id(text, outlook.former_cluster_id, outlook.cluster_id)
        write_durably(path, changed.encode(), mode)


@contextlib.contextmanager
def prepared(config_path: Path, environ: Mapping[str, str], clock: Clock) -> Iterator[Recovery]:
    """Lock the node's folder and look at what it holds. Changes nothing that a start would not.

    Raises RecoveryError, DataDirInUse, or any other StartupError.
    """
    config = load(config_path, environ=environ)
    root = config.node.data_dir
    pid = owner_pid(root)
    if pid is not None:
        raise DataDirInUse(root, pid)
    former, target, current = _cluster_ids(config, clock)
    with contextlib.ExitStack() as stack:
        local = _local_plan(config, config_path, {former, target})
        if local is None:
            _check_settings(config_path, config, former, target)
        else:
            stack.enter_context(launch_lock(local.root))
            _check_alone(local)
        data_dir = DataDir.open(
            root,
            node_id=config.node.id,
            cluster_id=current,
            name=config.node.name,
            clock=clock,
        )
        stack.callback(data_dir.close)
        snapshot = _newest_snapshot(data_dir)
        log = stack.enter_context(_log(data_dir, config, clock))
        _check_state(data_dir, log, snapshot, clock)
        index, term, configuration = _holdings(log, snapshot, config)
        own = config.member()
        incarnation = data_dir.identity.incarnation
        outlook = Outlook(
            config_path=config_path,
            data_dir=root,
            node=Member(own.id, True, own.name, own.peer, own.http, incarnation),
            former_cluster_id=former,
            cluster_id=target,
            last_index=index,
            last_term=term,
            configuration=configuration,
            local=local.root if local else None,
        )
        yield Recovery(outlook, data_dir, log)


def _cluster_ids(config: NodeConfig, clock: Clock) -> tuple[str, str, str]:
    """Former id, new id, and the one that the folder has now. Raises RecoveryError."""
    root, named = config.node.data_dir, config.cluster.id
    try:
        found = json.loads((root / "identity.json").read_bytes())["cluster_id"]
        marker = json.loads((root / MARKER).read_bytes()) if (root / MARKER).exists() else {}
        former, target = marker.get("from", ""), marker.get("to", "")
    except FileNotFoundError:
        raise RecoveryError(f"{root} holds no node's data") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecoveryError(f"{root}: identity.json or {MARKER} is damaged: {error!r}") from error
    if named == former and found in (former, target):
        return str(former), str(target), str(found)  # an interrupted run; it goes on
    if found != named:
        raise RecoveryError(
            f"{root} belongs to cluster {found}, but the settings say cluster {named}"
        )
    return named, clock.new_id(), named


def _local_plan(config: NodeConfig, config_path: Path, ids: set[str]) -> Plan | None:
    """The plan of `hivemem up` that the node is part of; None if it is not. Raises LaunchError."""
    root = config_path.absolute().parent.parent
    if not (root / "cluster.json").is_file():
        return None
    plan = read_plan(root)
    if plan is None or plan.cluster_id not in ids:
        return None
    own = next((node for node in plan.nodes if node.id == config.node.id), None)
    if own is None or plan.config_path(own).resolve() != config_path.resolve():
        return None
    return plan


def _check_alone(plan: Plan) -> None:
    running = plan.running()
    if running:
        raise RecoveryError(
            f"nodes of this cluster are running: {', '.join(running)}; "
            f"end them first: hivemem down --data-dir {plan.root}"
        )


def _check_settings(path: Path, config: NodeConfig, former: str, target: str) -> None:
    """See that the file's cluster id can be rewritten. Raises RecoveryError."""
    text = path.read_text(encoding="utf-8")
    if tomllib.loads(text).get("cluster", {}).get("id") != config.cluster.id:
        raise RecoveryError(
            f"cluster.id does not come from {path}; unset HIVEMEM_CLUSTER_ID, and write it there"
        )
    if not os.access(path.resolve().parent, os.W_OK):
        raise RecoveryError(f"{path} cannot be rewritten: its folder is not writable")
    with_cluster_id(text, former, target)


def with_cluster_id(text: str, former: str, target: str) -> str:
    """A TOML file's text with another `cluster.id`; all else stays, comments too.

    Raises RecoveryError.
    """
    expected = tomllib.loads(text)
    expected["cluster"]["id"] = target
    for found in re.finditer(re.escape(former), text):  # it may stand in a comment too
        changed = text[: found.start()] + target + text[found.end() :]
        with contextlib.suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(changed) == expected:
                return changed
    raise RecoveryError("cluster.id could not be found in the settings file")


def _newest_snapshot(data_dir: DataDir) -> SnapshotMeta | None:
    folder = data_dir.snapshots_path(GROUP)
    if not folder.is_dir():
        return None
    held = snapshot_directory.recover(folder, GROUP).held
    return held[max(held)].meta if held else None


@contextlib.contextmanager
def _log(data_dir: DataDir, config: NodeConfig, clock: Clock) -> Iterator[SegmentedLog]:
    folder = data_dir.log_path(GROUP)
    if not folder.is_dir():
        raise RecoveryError(f"{folder} does not exist: this node has never run")
    # There is no loop: what becomes durable is delivered when the log is closed, and whether
    # anything failed is seen from what is durable then.
    writer = LogWriter(lambda callback: None, lambda failure: None)
    writer.start()
    options = LogOptions(
        segment_bytes=config.storage.segment_bytes, salt=clock.random().getrandbits(32)
    )
    try:
        try:
            log = SegmentedLog.open(folder, GROUP, writer, options)
        except (CorruptLog, StorageFailed) as error:
            raise RecoveryError(str(error)) from error
        try:
            yield log
        finally:
            log.close()
    finally:
        writer.stop()


def _check_state(
    data_dir: DataDir, log: SegmentedLog, snapshot: SnapshotMeta | None, clock: Clock
) -> None:
    """See that the state can be had again: there will be nobody to send it."""
    cut = log.first_index - 1
    if snapshot is not None and snapshot.index >= cut:
        return
    if cut and not data_dir.live_is_trustworthy(clock.boot_id()):
        raise RecoveryError(
            f"the log begins at {log.first_index} and no whole snapshot covers what is below; "
            "the state cannot be rebuilt from this folder"
        )


def _holdings(
    log: SegmentedLog, snapshot: SnapshotMeta | None, config: NodeConfig
) -> tuple[int, int, Configuration]:
    """Last index and term, and the newest configuration, of log and snapshot."""
    configuration = bootstrap(
        Member(each.id, not config.cluster.join, each.name, each.peer, each.http)
        for each in config.cluster.members
    )
    if snapshot is not None:
        configuration = snapshot.configuration
        stale = log.first_index <= snapshot.index
        if stale and log.term_at(snapshot.index) != snapshot.term:
            return snapshot.index, snapshot.term, configuration
    start = log.first_index
    while start <= log.last_index:
        entries = log.read(start, log.last_index + 1, SCAN_BYTES)
        for each in entries:
            members = entry.unpack_membership(each.payload)
            if members is not None and each.index > configuration.index:
                configuration = Configuration(each.index, members)
        start = entries[-1].index + 1
    if not log.last_index:
        raise RecoveryError("the log is empty: this node has never run")
    return log.last_index, log.last_term, configuration
