"""`hivemem up`, `down` and `start`: a cluster on this machine, and one node in the foreground.

Answers go to standard output (tables for people, JSON with `-o json`), everything said on
the way to standard error. Exit status: 0 done, 1 refused or failed, 130 interrupted before
the cluster served.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from node import console, discovery
from node.cli_options import UsageError
from node.clock import SystemClock
from node.config import add_config_arguments
from node.config_schema import HTTP_PORT, REPLICATION_FACTOR_DEFAULT
from node.environment import environment
from node.errors import LaunchError
from node.local_cluster import (
    Exit,
    Interrupted,
    LocalCluster,
    NodeView,
    daemon_command,
    daemon_environment,
    supervise,
)
from node.local_launch import NODES_DEFAULT, Request, bring_up
from node.local_plan import launch_lock, read_plan

EXIT_INTERRUPTED = 130


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the three commands; each sets `run`, a function from options to exit status."""
    up = subparsers.add_parser("up", help="start a cluster on this machine")
    up.add_argument(
        "--nodes", type=int, metavar="N", help=f"nodes of a new cluster (default {NODES_DEFAULT})"
    )
    up.add_argument(
        "--partitions",
        type=int,
        metavar="P",
        help="partitions of a new cluster (default 0: every node holds everything)",
    )
    up.add_argument(
        "--replication-factor",
        type=int,
        metavar="R",
        help=f"nodes that hold a partition (default {REPLICATION_FACTOR_DEFAULT})",
    )
    up.add_argument("--detach", action="store_true", help="leave it running and return")
    up.add_argument("--fresh", action="store_true", help="delete the data of a former cluster")
    up.add_argument(
        "--from",
        dest="backup",
        type=Path,
        metavar="FILE",
        help="make a new cluster of a backup (hivemem snapshot save) first",
    )
    up.add_argument(
        "--port",
        type=int,
        metavar="BASE",
        help="first HTTP port; peers use BASE+10 and up, Redis BASE+20 and up",
    )
    up.set_defaults(run=run_up)
    down = subparsers.add_parser("down", help="stop the cluster on this machine")
    down.set_defaults(run=run_down)
    for command in (up, down):
        command.add_argument(
            "--data-dir",
            type=Path,
            metavar="D",
            help="folder of the cluster (default: HIVEMEM_DATA_DIR, else one of the user's)",
        )
        command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    start = subparsers.add_parser("start", help="run one node in the foreground")
    add_config_arguments(start)
    start.set_defaults(run=run_start)


def run_up(options: argparse.Namespace) -> int:
    """Start a local cluster; in the foreground, stop it on SIGINT, SIGTERM or SIGHUP.

    Raises StartupError when it cannot be started; nothing is left half-started.
    """
    environ = environment()
    root = discovery.data_dir(options.data_dir, environ)
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP so that what it starts outlives the terminal: it stays so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: interrupted.set())
    if options.backup is not None:
        _restore(options, root)
    console.say(f"hivemem: starting the cluster in {root}")
    request = Request(
        root,
        options.nodes,
        options.port,
        options.partitions,
        options.replication_factor,
        options.fresh,
    )
    try:
        cluster = bring_up(request, SystemClock(), environ, interrupted)
    except Interrupted:
        console.say("hivemem: interrupted; nothing was left running")
        return EXIT_INTERRUPTED
    already = not cluster.children
    views = cluster.views()
    if already:
        console.say("hivemem: already running")
    elif cluster.plan.nodes[0].http_port != (options.port or HTTP_PORT):
        console.say(
            f"hivemem: not at the usual port {HTTP_PORT}; {views[0].name} is at {views[0].http}"
        )
    _show(cluster, views, options.output)
    if options.output == "table":
        flag = "" if root == discovery.data_dir(None, environ) else f" --data-dir {root}"
        stays = options.detach or already
        console.write(_next_steps(views, flag, stays=stays))
    if options.detach or already:
        return 0 if options.detach else 1
    return _stay(cluster, interrupted)


def _restore(options: argparse.Namespace, root: Path) -> None:
    """Make the cluster that is to be started. Raises StartupError."""
    from node.cli_snapshot import restored_cluster, restored_text

    if options.fresh:
        raise UsageError("give one of --from and --fresh")
    if options.partitions is not None or options.replication_factor is not None:
        raise UsageError("--partitions and --replication-factor are those of the backup")
    count = NODES_DEFAULT if options.nodes is None else options.nodes
    console.say(
        f"hivemem: {restored_text(restored_cluster(options.backup, root, count, options.port))}"
    )


def run_down(options: argparse.Namespace) -> int:
    """Stop every node of a local cluster, whoever started it. Raises StartupError."""
    environ = environment()
    root = discovery.data_dir(options.data_dir, environ)
    plan = read_plan(root)
    if plan is None:
        raise LaunchError(f"no cluster in {root}; say where it is with --data-dir")
    with launch_lock(root):
        running = plan.running()
        killed = LocalCluster(plan, SystemClock(), environ).stop()
    if options.output == "json":
        stopped = [
            {"name": name, "pid": pid, "killed": name in killed} for name, pid in running.items()
        ]
        console.write_json({"data_dir": str(root), "stopped": stopped})
    elif running:
        text = f"stopped {', '.join(running)}{_and_killed(killed)}; the data stays in {root}"
        console.write(text)
    else:
        console.write(f"the cluster in {root} was not running")
    return 0


def run_start(options: argparse.Namespace) -> int:
    """Become one daemon. Raises LaunchError if that is not possible."""
    command = daemon_command(options.config.absolute())
    for setting in options.set:
        command += ["--set", setting]
    try:
        os.execve(command[0], command, daemon_environment(environment(), None))
    except OSError as error:
        raise LaunchError(f"{command[0]} cannot be run: {error.strerror}") from error


def _stay(cluster: LocalCluster, interrupted: threading.Event) -> int:
    """Keep a cluster in the foreground: report nodes that end; on an interrupt stop all."""
    codes: list[int] = []

    def report(ended: Exit) -> None:
        codes.append(ended.code)
        config = cluster.plan.config_path(ended.node)
        console.say(f"hivemem: {ended.node.name} (pid {ended.pid}) {ended}; the others go on.")
        console.say(f"         its log: {cluster.plan.log_path(ended.node)}")
        console.say(f"         to start it again: hivemem start --config {config}")

    supervise(cluster, interrupted, report)
    if not interrupted.is_set():
        console.say("hivemem: no node is left")
        return 0 if not any(codes) else 1
    console.say("hivemem: stopping (again to kill)")
    cluster.plan = read_plan(cluster.plan.root) or cluster.plan  # nodes were added or removed
    killed = cluster.stop()
    console.say(f"hivemem: stopped{_and_killed(killed)}; the data stays in {cluster.plan.root}")
    return 0


def _and_killed(names: list[str]) -> str:
    return f" ({', '.join(names)} had to be killed)" if names else ""


def _show(cluster: LocalCluster, views: list[NodeView], output: str) -> None:
    if output == "json":
        nodes = [
            {
                "name": view.name,
                "id": view.id,
                "http": view.http,
                "peer": view.peer,
                "redis": view.redis,
                "pid": view.pid,
                "role": view.role,
                "data_dir": str(view.data_dir),
            }
            for view in views
        ]
        document = {
            "cluster_id": cluster.plan.cluster_id,
            "data_dir": str(cluster.plan.root),
            "nodes": nodes,
        }
        console.write_json(document)
        return
    rows = [
        (
            view.name,
            view.http,
            view.role or ("unknown" if view.ready else "starting"),
            str(view.pid),
            str(view.data_dir),
        )
        for view in views
    ]
    console.table(("node", "http", "role", "pid", "data"), rows)


def _next_steps(views: list[NodeView], flag: str, *, stays: bool) -> str:
    """Commands to try, with this cluster's own addresses; `flag` leads them to its folder."""
    http = views[0].http
    hivemem = _as_typed(Path(sys.argv[0]))
    end = f"{hivemem} down{flag}" if stays else "Ctrl-C    # stops all nodes, keeps the data"
    redis = next((view.redis for view in views if view.redis), None)
    port = "" if redis is None else redis.rpartition(":")[2]
    return "\n".join(
        (
            "",
            "Try next:",
            f"  curl -X PUT --data 'likes green tea' {http}/v1/kv/demo/ann/drinks",
            f"  curl {http}/v1/kv/demo/ann/drinks",
            *([f"  redis-cli -p {port}    # or any other Redis client"] if port else []),
            f"  {hivemem} status{flag}",
            f"  {hivemem} mcp{flag}    # tools for agents, over stdio",
            f"  {end}",
        )
    )


def _as_typed(command: Path) -> str:
    """The command as the shell would find it from the working folder."""
    if command.name != "hivemem" or shutil.which("hivemem") == str(command):
        return "hivemem"
    relative = os.path.relpath(command.absolute())
    return str(command) if relative.startswith("..") else relative
