"""A node's folder, looked at while no node runs on it: every checksum and every invariant.

Only reads. `mend` then makes good what can be made good here: what is derived is marked so that
the next start makes it anew, a snapshot that is not whole is set aside. A log holds what this node
promised to others; nothing here can make that anew, and a folder without it has to join the
cluster as another server does (`set_all_aside`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cluster.errors import ClusterError
from cluster.log_recovery import inspect
from cluster.snapshot_copy import verify
from cluster.snapshot_directory import STATE, complete, read_manifest, set_aside
from engines.check import problems
from engines.counters import load_counters
from engines.environment import DATA
from engines.errors import EngineError
from engines.state_file import opened
from node.clock import Clock
from node.datadir import IDENTITY_FORMAT, owner_pid, sync_folder
from node.errors import DataDirInUse, StartupError
from node.quarantine import MARK, Mark, read_mark, write_mark

ASIDE: Final = "damaged"  # prefix of the folder into which everything is moved
_PROBLEMS_SHOWN: Final = 3

Part = Literal["identity", "log", "snapshot", "state", "mark"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one part of a folder. `ok` False: it is damaged."""

    part: Part
    group: int | None
    path: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done about one damaged part. `done` False: it cannot be done here."""

    part: Part
    group: int | None
    path: str
    done: bool
    message: str


def examine(root: Path) -> list[Finding]:
    """Everything in the folder of a node that is stopped. Takes time in proportion to it.

    Raises DataDirInUse, StartupError: there is no such folder.
    """
    _check_at_rest(root)
    findings = [_identity(root)]
    for folder in _groups(root):
        findings += _group(folder, int(folder.name))
    return findings


def _check_at_rest(root: Path) -> None:
    if not root.is_dir():
        raise StartupError(f"{root} is not a folder")
    pid = owner_pid(root)
    if pid is not None:
        raise DataDirInUse(root, pid)


def _groups(root: Path) -> list[Path]:
    parent = root / "groups"
    found = parent.iterdir() if parent.is_dir() else ()
    return sorted((each for each in found if each.name.isdigit()), key=lambda each: int(each.name))


def _identity(root: Path) -> Finding:
    path = root / "identity.json"
    try:
        fields = json.loads(path.read_bytes())
        if fields["format"] != IDENTITY_FORMAT:
            raise ValueError(f"format {fields['format']}; this build knows {IDENTITY_FORMAT}")
        message = f"node {fields['node_id']} of cluster {fields['cluster_id']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding("identity", None, str(path), False, f"{type(error).__name__}: {error}")
    return Finding("identity", None, str(path), True, message)


def _group(folder: Path, group: int) -> Iterator[Finding]:
    mark = read_mark(folder)
    if mark is not None:
        text = f"the state is rebuilt at the next start: {mark.reason}"
        yield Finding("mark", group, str(folder / MARK), True, text)
    yield _log(folder / "log", group)
    for path in complete(folder / "snapshots"):
        yield _snapshot(path, group)
    live = folder / "live" / DATA
    if live.exists():
        yield _state(live, group)


def _log(path: Path, group: int) -> Finding:
    try:
        facts = inspect(path, group)
    except (ClusterError, OSError) as error:
        return Finding("log", group, str(path), False, str(error))
    if facts is None:
        return Finding("log", group, str(path), True, "there is none yet")
    torn = f"; {facts.torn_bytes} bytes of a torn tail" if facts.torn_bytes else ""
    text = f"entries {facts.first_index} to {facts.last_index}, term {facts.term}{torn}"
    return Finding("log", group, str(path), True, text)


def _snapshot(path: Path, group: int) -> Finding:
    try:
        meta = read_manifest(path, group)
        verify(path / STATE, meta, threading.Event())
        wrong = _problems(path / STATE)
    except (ClusterError, EngineError, OSError, ValueError) as error:
        return Finding("snapshot", group, str(path), False, str(error))
    if wrong:
        return Finding("snapshot", group, str(path), False, _shown(wrong))
    text = f"the state at entry {meta.index}, {meta.size} bytes"
    return Finding("snapshot", group, str(path), True, text)


def _state(path: Path, group: int) -> Finding:
    try:
        with opened(path) as (txn, databases):
            wrong = problems(txn, databases)
            index = load_counters(txn, databases).applied_index
    except EngineError as error:
        return Finding("state", group, str(path), False, str(error))
    if wrong:
        return Finding("state", group, str(path), False, _shown(wrong))
    return Finding("state", group, str(path), True, f"applied to entry {index}")


def _problems(path: Path) -> list[str]:
    with opened(path) as (txn, databases):
        return problems(txn, databases)


def _shown(wrong: list[str]) -> str:
    more = len(wrong) - _PROBLEMS_SHOWN
    return "; ".join(wrong[:_PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def mend(root: Path, findings: list[Finding], clock: Clock) -> list[Mended]:
    """Make good what is damaged, as far as that goes here. Durable on return.

    Raises DataDirInUse, OSError.
    """
    _check_at_rest(root)
    return [_mended(root, each, clock) for each in findings if not each.ok]


def _mended(root: Path, damage: Finding, clock: Clock) -> Mended:
    done, message = True, ""
    match damage.part:
        case "state":
            folder = root / "groups" / str(damage.group)
            write_mark(folder, Mark(damage.message[:500], 0, clock.now_ms()))
            message = (
                "the next start drops it, and rebuilds it from snapshot and log, or from the "
                "leader's snapshot"
            )
        case "snapshot":
            set_aside(Path(damage.path))
            message = "set aside; the node makes or gets another one"
        case _:
            done = False
            message = (
                "what this node promised to the others cannot be rebuilt from here: see --reseed"
            )
    return Mended(damage.part, damage.group, damage.path, done, message)


def set_all_aside(root: Path) -> Path:
    """Move identity, log, snapshots and state into a folder beside them; returns it.

    The next start makes a folder of another incarnation: the cluster takes the node for one that
    lost its disk, and readmits it as a learner. Raises DataDirInUse, OSError.
    """
    _check_at_rest(root)
    number = 1
    while (aside := root / f"{ASIDE}-{number}").exists():
        number += 1
    aside.mkdir(mode=0o700)
    # The groups go first: groups without an identity are refused at a start, the other way
    # round they would pass for those of another node.
    for name in ("groups", "boot.json", "identity.json"):
        path = root / name
        if path.exists():
            path.rename(aside / name)
            sync_folder(root)
    return aside
