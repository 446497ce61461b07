"""What a cluster on one machine looks like on disk: its nodes, ports and files.

    <root>/cluster.json         cluster id and nodes; its presence makes the folder ours
    <root>/secret               the cluster's secret, mode 0600
    <root>/launch.lock          held while somebody starts, stops or deletes the cluster
    <root>/<name>/node.toml     settings of one node; settings added by hand are kept
    <root>/<name>/daemon.log    its output
    <root>/<name>/...           its data folder (node/datadir.py)

Paths inside the files are relative, so a stopped cluster's folder may be moved as a whole.
Nothing here starts or stops a process: that is node/local_cluster.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node import private_file
from node.clock import Clock
from node.config_checks import split_address
from node.config_schema import (
    HTTP_PORT,
    MEMBERS_MAX,
    PARTITIONS_MAX,
    REPLICATION_FACTOR_DEFAULT,
    REPLICATION_FACTOR_MAX,
)
from node.datadir import explain, owner_pid, write_durably
from node.errors import LaunchError
from node.local_ports import (
    HOST,
    Ports,
    completed,
    following,
    kept,
    port_is_free,
    row,
    spare_ports,
)

PLAN_FORMAT = 1  # raised when cluster.json changes its shape
LAUNCH_WAIT_MS = 15_000  # ms; two `up` at once: the second finds the cluster of the first
_LAUNCH_POLL_MS = 50

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_HEADER = (
    "# Written by `hivemem up`. Settings may be added (docs/configuration.md) and are kept;\n"
    "# comments are not. Addresses are rewritten when ports change.\n"
)


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One node of a local cluster. `join`: it was added to the cluster after the first start."""

    name: str
    id: str
    http_port: int
    peer_port: int
    redis_port: int
    join: bool = False

    @property
    def ports(self) -> Ports:
        return Ports(self.http_port, self.peer_port, self.redis_port)

    @property
    def http(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def peer(self) -> str:
        return f"{HOST}:{self.peer_port}"

    @property
    def redis(self) -> str:
        return f"{HOST}:{self.redis_port}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster in one folder. Invariant: names, ids and ports are each unique."""

    root: Path
    cluster_id: str
    nodes: tuple[LocalNode, ...]
    partitions: int = 0  # 0: not partitioned
    replication_factor: int = REPLICATION_FACTOR_DEFAULT  # of partitions

    @property
    def quorum(self) -> int:
        return len(self.nodes) // 2 + 1

    def node(self, name: str) -> LocalNode | None:
        return next((node for node in self.nodes if node.name == name), None)

    def folder(self, node: LocalNode) -> Path:
        return self.root / node.name

    def config_path(self, node: LocalNode) -> Path:
        return self.folder(node) / "node.toml"

    def log_path(self, node: LocalNode) -> Path:
        return self.folder(node) / "daemon.log"

    def ports(self) -> list[int]:
        return [port for node in self.nodes for port in node.ports]

    def running(self) -> dict[str, int]:
        """Name → pid of each node whose data folder is in use now."""
        pids = {node.name: owner_pid(self.folder(node)) for node in self.nodes}
        return {name: pid for name, pid in pids.items() if pid is not None}


def new_plan(
    root: Path,
    count: int,
    clock: Clock,
    partitions: int = 0,
    replication_factor: int = REPLICATION_FACTOR_DEFAULT,
) -> Plan:
    """A new cluster of `count` nodes, without ports yet. Raises LaunchError."""
    if not 1 <= count <= MEMBERS_MAX:
        raise LaunchError(f"a cluster has 1 to {MEMBERS_MAX} nodes, not {count}")
    if not 0 <= partitions <= PARTITIONS_MAX:
        raise LaunchError(f"a cluster has 0 to {PARTITIONS_MAX} partitions, not {partitions}")
    if not 1 <= replication_factor <= REPLICATION_FACTOR_MAX:
        raise LaunchError(
            f"a partition has 1 to {REPLICATION_FACTOR_MAX} replicas, not {replication_factor}"
        )
    nodes = tuple(LocalNode(f"node{i}", clock.new_id(), 0, 0, 0) for i in range(1, count + 1))
    return Plan(root, clock.new_id(), nodes, partitions, replication_factor)


def read_plan(root: Path) -> Plan | None:
    """The cluster kept in a folder; None if the folder is absent or empty.

    Raises LaunchError if it holds something else: nothing of ours is put beside it.
    """
    path = root / "cluster.json"
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        if root.is_dir() and any(entry.name != "launch.lock" for entry in root.iterdir()):
            raise LaunchError(
                f"{root} is not empty and is not a hivemem folder (no cluster.json); "
                "choose another with --data-dir"
            ) from None
        return None
    except OSError as error:
        raise LaunchError(explain(root, error)) from error
    except ValueError as error:
        raise LaunchError(f"{path} is damaged: {error}") from error
    return _parse_plan(root, fields)


def _parse_plan(root: Path, fields: object) -> Plan:
    path = root / "cluster.json"
    if not isinstance(fields, dict) or fields.get("format") != PLAN_FORMAT:
        raise LaunchError(f"{path} is not of format {PLAN_FORMAT}: made by another version?")
    try:
        nodes = tuple(
            LocalNode(
                str(node["name"]),
                str(node["id"]),
                split_address(node["http"].removeprefix("http://"))[1],
                split_address(node["peer"])[1],
                # Absent: planned before nodes had this door.
                split_address(node["redis"])[1] if "redis" in node else 0,
                node.get("join") is True,
            )
            for node in fields["nodes"]
        )
        plan = Plan(
            root,
            str(fields["cluster_id"]),
            nodes,
            # Absent: planned before there were partitions.
            int(fields.get("partitions", 0)),
            int(fields.get("replication_factor", REPLICATION_FACTOR_DEFAULT)),
        )
        plan = _assigned(plan, completed([node.ports for node in nodes]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LaunchError(f"{path} is damaged: {error!r}") from error
    for node in nodes:
        # Names become folders that --fresh deletes: never let one lead elsewhere.
        if not _NAME.fullmatch(node.name):
            raise LaunchError(f"{path} is damaged: a node is called {node.name!r}")
    return plan


def write_plan(plan: Plan) -> None:
    """Write every file of the plan that is missing or differs. Raises LaunchError."""
    try:
        plan.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fields = {
            "format": PLAN_FORMAT,
            "cluster_id": plan.cluster_id,
            **_partition_fields(plan),
            # Clients on this machine find the nodes here too (node/discovery.py).
            "nodes": [_node_fields(node) for node in plan.nodes],
        }
        # First, because it marks the folder as ours: an interrupted start can be repeated.
        _write_changed(plan.root / "cluster.json", json.dumps(fields, indent=2) + "\n")
        with contextlib.suppress(FileExistsError):
            private_file.create_secret(plan.root / "secret")
        for node in plan.nodes:
            plan.folder(node).mkdir(mode=0o700, exist_ok=True)
            _write_changed(plan.config_path(node), _node_toml(plan, node))
    except OSError as error:
        raise LaunchError(explain(plan.root, error)) from error


def _partition_fields(plan: Plan) -> dict[str, object]:
    if not plan.partitions:
        return {}
    return {"partitions": plan.partitions, "replication_factor": plan.replication_factor}


def _node_fields(node: LocalNode) -> dict[str, object]:
    names = ("name", "id", "http", "peer", "redis")
    fields: dict[str, object] = {name: getattr(node, name) for name in names}
    return {**fields, "join": True} if node.join else fields


def delete_plan(plan: Plan) -> None:
    """Delete a cluster's files, and nothing else that lies in its folder.

    Raises LaunchError if a node runs: then nothing was deleted.
    """
    running = plan.running()
    if running:
        raise LaunchError(
            f"the cluster in {plan.root} is running (pid {', '.join(map(str, running.values()))}); "
            f"end it first: hivemem down --data-dir {plan.root}"
        )
    try:
        for node in plan.nodes:
            if plan.folder(node).exists():
                shutil.rmtree(plan.folder(node))
        (plan.root / "secret").unlink(missing_ok=True)
        # Last, so that an interrupted deletion can be repeated.
        (plan.root / "cluster.json").unlink()
    except OSError as error:
        raise LaunchError(explain(plan.root, error)) from error


@contextlib.contextmanager
def launch_lock(root: Path) -> Iterator[None]:
    """Hold the right to start, stop or delete the cluster in `root`.

    Waits for another command that is about to be done. Raises LaunchError.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(root / "launch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LaunchError(explain(root, error)) from error
    try:
        waited_ms = 0
        while not _try_lock(descriptor):
            if waited_ms >= LAUNCH_WAIT_MS:
                raise LaunchError(f"another hivemem command is at work on {root}; try again")
            time.sleep(_LAUNCH_POLL_MS / 1000)
            waited_ms += _LAUNCH_POLL_MS
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def with_ports(plan: Plan, base: int | None, clock: Clock, *, spare: bool = False) -> Plan:
    """Give each node its ports.

    `base`: explicit first HTTP port, refused with LaunchError where any is taken. Without
    it: the ports the cluster had, else the usual ones, else spare ones, whole sets at a time
    (but for Redis ports, see `kept`).
    `spare`: never the usual ones, which tests leave to people.
    """
    count = len(plan.nodes)
    if base is not None:
        ports = row(base, count)
        taken = [str(port) for each in ports for port in each if not port_is_free(port)]
        if taken:
            raise LaunchError(
                f"--port {base}: already in use on {HOST}: {', '.join(taken)}; "
                "choose another, or leave --port out to get free ones"
            )
        return _assigned(plan, ports)
    had = [node.ports for node in plan.nodes]
    for wanted in (had,) if spare else (had, row(HTTP_PORT, count)):
        found = kept(wanted, clock)
        if found is not None:
            return _assigned(plan, found)
    return _assigned(plan, spare_ports(count, clock))


def with_new_node(plan: Plan, name: str, clock: Clock, *, spare: bool = False) -> Plan:
    """The plan and one more node, which is to join. Raises LaunchError.

    Its ports follow the others' where they are free; `spare` as in `with_ports`.
    """
    if not _NAME.fullmatch(name):
        raise LaunchError(
            f"{name!r} cannot be a node's name here: 1 to 32 of A-Z a-z 0-9 _ -, "
            "starting with a letter or digit"
        )
    if plan.node(name) is not None:
        raise LaunchError(f"the cluster in {plan.root} has a node called {name} already")
    folder = plan.root / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LaunchError(
            f"{folder} is not empty: it may hold the data of a node that was removed; "
            "delete it, or choose another name"
        )
    ports = following([node.ports for node in plan.nodes], clock, spare=spare)
    return replace(plan, nodes=(*plan.nodes, LocalNode(name, clock.new_id(), *ports, True)))


def without_node(plan: Plan, node: str) -> Plan:
    """The plan without the node of this id. Its folder is not touched."""
    left = tuple(each for each in plan.nodes if each.id != node)
    if len(left) == 1:
        left = (replace(left[0], join=False),)  # there is nobody whom it could join
    return replace(plan, nodes=left)


def _assigned(plan: Plan, ports: Sequence[Ports]) -> Plan:
    nodes = tuple(
        replace(node, http_port=each.http, peer_port=each.peer, redis_port=each.redis)
        for node, each in zip(plan.nodes, ports, strict=True)
    )
    return replace(plan, nodes=nodes)


def _node_toml(plan: Plan, node: LocalNode) -> str:
    """The node's settings: those written by hand stay, identity and addresses are ours."""
    path = plan.config_path(node)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = {}
    except ValueError as error:
        raise LaunchError(f"{path} is not a TOML file: {error}") from error
    # A node that joins is told where all the others are. The first ones know each other, so
    # that they agree on who they are; of the rest they learn from the log.
    known = [each for each in plan.nodes if node.join or not each.join]
    ours: Mapping[str, Mapping[str, object]] = {
        "node": {"id": node.id, "name": node.name, "data_dir": "."},
        "http": {"host": HOST, "port": node.http_port},
        "redis": {"host": HOST, "port": node.redis_port},
        "peer": {"host": HOST, "port": node.peer_port},
        "cluster": {
            "id": plan.cluster_id,
            "secret_file": "../secret",
            **_partition_fields(plan),
            "members": [
                {"id": each.id, "name": each.name, "peer": each.peer, "http": each.http}
                for each in known
            ],
        },
    }
    try:
        for section, fields in ours.items():
            document[section] = {**document.get(section, {}), **fields}
        document["cluster"].pop("join", None)
        if node.join:
            document["cluster"]["join"] = True
        return _HEADER + "\n".join(_toml_section(name, body) for name, body in document.items())
    except (TypeError, AttributeError) as error:  # a section that is no table, a date, …
        raise LaunchError(f"{path} holds something that is no setting: {error}") from error


def _toml_section(name: str, body: Mapping[str, object]) -> str:
    lines = [f"[{name}]"]
    rows: list[str] = []
    for key, value in body.items():
        if isinstance(value, list):
            for item in value:
                rows += ["", f"[[{name}.{key}]]"]
                rows += [f"{field} = {_toml_value(text)}" for field, text in item.items()]
        else:
            lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(lines + rows) + "\n"


def _toml_value(value: object) -> str:
    """Strings, numbers and booleans look alike in JSON and TOML, but for DEL in strings."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write_changed(path: Path, text: str) -> None:
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        write_durably(path, content)
