"""Nodes that come to, and go from, the cluster on this machine while it runs.

These are the processes and files; the cluster itself is told by whoever calls this. Like
everything about local clusters, it blocks.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import NamedTuple

from node.clock import Clock
from node.datadir import explain
from node.errors import LaunchError
from node.local_cluster import (
    POLL_MS,
    STOP_GRACE_MS,
    Interrupted,
    LocalCluster,
    is_live,
    refuse_own_settings,
)
from node.local_plan import (
    LocalNode,
    Plan,
    launch_lock,
    read_plan,
    with_new_node,
    without_node,
    write_plan,
)

LIVE_MS_MAX = 30_000  # ms; a new node has no log to read


class Newcomer(NamedTuple):
    """A node that runs and waits to be added."""

    cluster: LocalCluster
    node: LocalNode

    @property
    def folder(self) -> Path:
        return self.cluster.plan.folder(self.node)

    @property
    def pid(self) -> int | None:
        return self.cluster.pids().get(self.node.name)

    def check_alive(self) -> None:
        """Raises LaunchError with its last words if it has ended."""
        for ended in self.cluster.exited():
            words = self.cluster.last_words(ended.node)
            raise LaunchError(f"{ended.node.name} {ended}{words}")


class Departed(NamedTuple):
    """What is left of a node that was removed. `pid`: it runs still; None: it has ended."""

    node: LocalNode
    folder: Path
    pid: int | None


def local_plan(root: Path, cluster_id: str) -> Plan | None:
    """The local cluster in a folder, if it is this one. Raises LaunchError."""
    if not (root / "cluster.json").is_file():
        return None
    plan = read_plan(root)
    return plan if plan is not None and plan.cluster_id == cluster_id else None


def start_newcomer(
    plan: Plan,
    name: str,
    members: Set[str],
    clock: Clock,
    environ: Mapping[str, str],
    *,
    spare: bool = False,
) -> Newcomer:
    """Plan one more node and start it. Raises LaunchError; then nothing is left of it.

    `members`: ids of the cluster's. A node of this name that was planned before and is not
    among them is taken up where an interrupted start left it. From now on `up` and `down`
    know the node. `spare` as in `with_ports`.
    """
    refuse_own_settings(environ)
    with launch_lock(plan.root):
        now = read_plan(plan.root)
        if now is None or now.cluster_id != plan.cluster_id:
            raise LaunchError(f"the cluster in {plan.root} is another one by now")
        node = now.node(name)
        if node is None or not node.join or node.id in members:
            now = with_new_node(now, name, clock, spare=spare)
            node = now.nodes[-1]
        write_plan(now)
        newcomer = Newcomer(LocalCluster(now, clock, environ), node)
        try:
            if newcomer.pid is None:
                newcomer.cluster.spawn(node)
            _await_live(newcomer, clock)
        except BaseException:
            _undo(newcomer)
            raise
    return newcomer


def _await_live(newcomer: Newcomer, clock: Clock) -> None:
    deadline = clock.monotonic() + LIVE_MS_MAX / 1000
    while not is_live(newcomer.node):
        newcomer.check_alive()
        if clock.monotonic() > deadline:
            words = newcomer.cluster.last_words(newcomer.node)
            raise LaunchError(f"{newcomer.node.name} did not answer in {LIVE_MS_MAX} ms{words}")
        if newcomer.cluster.interrupted.wait(POLL_MS / 1000):
            raise Interrupted


def abandon(newcomer: Newcomer) -> None:
    """Stop and delete a node that was not added after all. Raises LaunchError."""
    with launch_lock(newcomer.cluster.plan.root):
        _undo(newcomer)


def _undo(newcomer: Newcomer) -> None:
    newcomer.cluster.stop_node(newcomer.node)
    root = newcomer.cluster.plan.root
    plan = read_plan(root)
    if plan is not None:
        write_plan(without_node(plan, newcomer.node.id))
    try:
        shutil.rmtree(newcomer.folder)
    except OSError as error:
        raise LaunchError(explain(newcomer.folder, error)) from error


def forget(plan: Plan, node: LocalNode, clock: Clock, environ: Mapping[str, str]) -> Departed:
    """Take a removed node out of the plan, once it has ended by itself; its data stays.

    Raises LaunchError.
    """
    deadline = clock.monotonic() + STOP_GRACE_MS / 1000
    cluster = LocalCluster(plan, clock, environ)
    while (pid := cluster.pids().get(node.name)) is not None and clock.monotonic() < deadline:
        cluster.interrupted.wait(POLL_MS / 1000)
    with launch_lock(plan.root):
        now = read_plan(plan.root)
        if now is not None and now.cluster_id == plan.cluster_id and len(now.nodes) > 1:
            write_plan(without_node(now, node.id))
    return Departed(node, plan.folder(node), pid)
