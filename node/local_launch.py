"""Bringing a local cluster up: find it or make it, choose its ports, start what is missing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.clock import Clock
from node.config_schema import REPLICATION_FACTOR_DEFAULT
from node.errors import LaunchError
from node.local_cluster import LocalCluster
from node.local_plan import (
    Plan,
    delete_plan,
    launch_lock,
    new_plan,
    read_plan,
    with_ports,
    write_plan,
)
from node.local_ports import port_is_free

NODES_DEFAULT = 3  # nodes: the fewest that survive the death of one
PORT_ATTEMPTS_MAX = 3  # starts with other ports when ports are taken under our hands


@dataclass(frozen=True, slots=True)
class Request:
    """What `hivemem up` was asked for. `count` and `base` None: as it is, else the usual.

    `spare`: keep off the usual ports (see with_ports).
    """

    root: Path
    count: int | None = None
    base: int | None = None
    partitions: int | None = None
    replication_factor: int | None = None
    fresh: bool = False
    spare: bool = False


def bring_up(
    request: Request, clock: Clock, environ: Mapping[str, str], interrupted: threading.Event
) -> LocalCluster:
    """Make or find the cluster in a folder and have all its nodes run.

    Nodes that run already are left alone. Raises LaunchError, Interrupted; processes that
    were started here are stopped before that.
    """
    read_plan(request.root)  # refuses a folder that is not ours before anything is put into it
    with launch_lock(request.root):
        plan = read_plan(request.root)
        if plan is None or request.fresh:
            count = NODES_DEFAULT if request.count is None else request.count
            old, plan = plan, _planned(request, count, clock)
            if old is not None:
                if not old.running():
                    with_ports(
                        plan, request.base, clock, spare=request.spare
                    )  # what cannot start deletes nothing
                delete_plan(old)
        elif request.partitions not in (None, plan.partitions):
            raise LaunchError(
                f"the cluster in {request.root} has {plan.partitions} partitions, not "
                f"{request.partitions}: their number is fixed once it was started"
            )
        elif request.count not in (None, len(plan.nodes)):
            raise LaunchError(
                f"the cluster in {request.root} has {len(plan.nodes)} nodes, not {request.count}; "
                "leave --nodes out, choose another --data-dir, or delete its data with --fresh"
            )
        if plan.running():
            return _join_running(plan, request, clock, environ, interrupted)
        return _start_all(plan, request, clock, environ, interrupted)


def _planned(request: Request, count: int, clock: Clock) -> Plan:
    return new_plan(
        request.root,
        count,
        clock,
        request.partitions or 0,
        request.replication_factor or REPLICATION_FACTOR_DEFAULT,
    )


def _join_running(
    plan: Plan,
    request: Request,
    clock: Clock,
    environ: Mapping[str, str],
    interrupted: threading.Event,
) -> LocalCluster:
    """Start what is missing of a cluster that runs in part; its ports cannot change now."""
    if request.base not in (None, plan.nodes[0].http_port):
        raise LaunchError(
            f"the cluster in {plan.root} is running on ports from {plan.nodes[0].http_port}; "
            f"end it first: hivemem down --data-dir {plan.root}"
        )
    cluster = LocalCluster(plan, clock, environ, interrupted=interrupted)
    if len(plan.running()) < len(plan.nodes):
        write_plan(plan)  # an older version may have written it, and left something out
        cluster.start()
    return cluster


def _start_all(
    plan: Plan,
    request: Request,
    clock: Clock,
    environ: Mapping[str, str],
    interrupted: threading.Event,
) -> LocalCluster:
    for attempt in range(PORT_ATTEMPTS_MAX):
        plan = with_ports(plan, request.base, clock, spare=request.spare)
        write_plan(plan)
        cluster = LocalCluster(plan, clock, environ, interrupted=interrupted)
        try:
            cluster.start()
        except LaunchError:
            # Between our look at the ports and the daemons' bind somebody may have come
            # first. Free ports are then chosen anew, unless the caller insists on these.
            taken = not all(port_is_free(port) for port in plan.ports())
            if request.base is not None or not taken or attempt + 1 == PORT_ATTEMPTS_MAX:
                raise
        else:
            break
    return cluster
