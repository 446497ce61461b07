"""Faults that come and go. Each is a context: inside it the fault is there, after it healed.

    async with NEMESES["kill-leader"].fault(cluster):
        ...

A fault's end repairs what it broke, also when the test inside has failed: nodes that were
stopped run again, links are whole, disks and clocks are right.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal

from tests.fault.cluster import FaultCluster

Fault = Callable[[FaultCluster], AbstractAsyncContextManager[None]]
Surroundings = Literal["direct", "proxied", "preload", "namespaces", "small disk", "powered disk"]

DELAY_SECONDS = 0.02  # of a slow link, each way
BYTES_PER_SECOND = 200_000  # of a throttled link: less than the workload wants
FLAP_SECONDS = 0.4  # between two resets of a flapping link


@dataclass(frozen=True)
class Nemesis:
    """One kind of fault. `seconds`: how long it lasts. `needs`: the cluster it works on, and
    `settings` how that differs from others'. `repaired`: each time, a node has to notice
    damage, and something has to be done about it (FaultCluster.repairs)."""

    name: str
    fault: Fault
    needs: Surroundings
    seconds: float = 3.0
    settings: Mapping[str, str] = field(default_factory=dict)
    repaired: bool = False


def nemesis(
    name: str,
    needs: Surroundings = "direct",
    seconds: float = 3.0,
    settings: Mapping[str, str] | None = None,
    repaired: bool = False,
) -> Callable[[Callable[[FaultCluster], AsyncIterator[None]]], Fault]:
    """Register a fault under a name."""

    def register(fault: Callable[[FaultCluster], AsyncIterator[None]]) -> Fault:
        context = contextlib.asynccontextmanager(fault)
        NEMESES[name] = Nemesis(name, context, needs, seconds, settings or {}, repaired)
        return context

    return register


NEMESES: dict[str, Nemesis] = {}


def a_follower(cluster: FaultCluster, leader: int) -> int:
    return cluster.rng.choice([index for index in cluster.running() if index != leader])


# --- Processes -----------------------------------------------------------------------------


@nemesis("kill-leader")
async def kill_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    leader = await cluster.wait_leader()
    await cluster.kill(leader)
    try:
        yield
    finally:
        await cluster.restart(leader)


@nemesis("kill-random")
async def kill_random(cluster: FaultCluster) -> AsyncIterator[None]:
    victim = cluster.rng.choice(cluster.running())
    await cluster.kill(victim)
    try:
        yield
    finally:
        await cluster.restart(victim)


@nemesis("kill-all", seconds=1.0)
async def kill_all(cluster: FaultCluster) -> AsyncIterator[None]:
    await cluster.kill_all()
    try:
        await cluster.restart_all(ready=False)
        yield
    finally:
        await cluster.wait_leader()


@nemesis("pause-leader")
async def pause_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    """SIGSTOP for several elections, then SIGCONT: it wakes up believing that it leads."""
    leader = await cluster.wait_leader()
    cluster.pause(leader)
    try:
        yield
    finally:
        cluster.resume(leader)


@nemesis("pause-random")
async def pause_random(cluster: FaultCluster) -> AsyncIterator[None]:
    victim = cluster.rng.choice(cluster.running())
    cluster.pause(victim)
    try:
        yield
    finally:
        cluster.resume(victim)


@nemesis("pause-all", seconds=0.0)
async def pause_all(cluster: FaultCluster) -> AsyncIterator[None]:
    """Everything stands still for longer than an election and goes on at once."""
    nodes = cluster.running()
    for index in nodes:
        cluster.pause(index)
    try:
        for _ in range(15):
            await asyncio.sleep(0.1)
        yield
    finally:
        for index in nodes:
            cluster.resume(index)


# --- Links (in user space) -----------------------------------------------------------------


@nemesis("cut-leader", "proxied")
async def cut_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    """The leader reaches nobody; clients still reach it."""
    leader = cluster.name(await cluster.wait_leader())
    for other in cluster.links.others(leader):
        cluster.links.cut(leader, other)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("cut-follower", "proxied")
async def cut_follower(cluster: FaultCluster) -> AsyncIterator[None]:
    """A follower reaches nobody, and comes back: it must not depose the leader."""
    leader = await cluster.wait_leader()
    victim = cluster.name(a_follower(cluster, leader))
    for other in cluster.links.others(victim):
        cluster.links.cut(victim, other)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("cut-one-link", "proxied")
async def cut_one_link(cluster: FaultCluster) -> AsyncIterator[None]:
    """The leader and one follower do not reach each other; the third reaches both."""
    leader = await cluster.wait_leader()
    cluster.links.cut(cluster.name(leader), cluster.name(a_follower(cluster, leader)))
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("mute-leader", "proxied")
async def mute_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    """One way: the leader hears the others, and nothing that it says arrives."""
    leader = cluster.name(await cluster.wait_leader())
    for other in cluster.links.others(leader):
        cluster.links.stall(leader, other)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("deaf-leader", "proxied")
async def deaf_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    """One way: the leader's words arrive, and it hears no answer."""
    leader = cluster.name(await cluster.wait_leader())
    for other in cluster.links.others(leader):
        cluster.links.stall(other, leader)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("stall-all", "proxied", seconds=1.5)
async def stall_all(cluster: FaultCluster) -> AsyncIterator[None]:
    """Connections stay open and nothing arrives anywhere; then everything does, late."""
    for node in cluster.plan.nodes:
        for other in cluster.links.others(node.name):
            cluster.links.stall(node.name, other)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("slow-links", "proxied")
async def slow_links(cluster: FaultCluster) -> AsyncIterator[None]:
    for node in cluster.plan.nodes:
        for other in cluster.links.others(node.name):
            cluster.links.slow(node.name, other, delay_seconds=DELAY_SECONDS)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("throttle-follower", "proxied")
async def throttle_follower(cluster: FaultCluster) -> AsyncIterator[None]:
    """One follower's link carries less than is written; the other one must not suffer."""
    leader = await cluster.wait_leader()
    victim = cluster.name(a_follower(cluster, leader))
    for other in cluster.links.others(victim):
        cluster.links.slow(victim, other, bytes_per_second=BYTES_PER_SECOND)
    try:
        yield
    finally:
        cluster.links.heal()


@nemesis("flap", "proxied")
async def flap(cluster: FaultCluster) -> AsyncIterator[None]:
    """Connections between random nodes break again and again."""
    names = [node.name for node in cluster.plan.nodes]

    async def break_links() -> None:
        while True:
            cluster.links.reset(*cluster.rng.sample(names, 2))
            await asyncio.sleep(FLAP_SECONDS)

    task = asyncio.create_task(break_links())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- Netsplits (in the kernel; root) -------------------------------------------------------


@nemesis("netsplit-leader", "namespaces")
async def netsplit_leader(cluster: FaultCluster) -> AsyncIterator[None]:
    """The leader's cable is out."""
    leader = await cluster.wait_leader()
    cluster.wires.unplug(cluster.name(leader))
    try:
        yield
    finally:
        cluster.wires.heal()


@nemesis("netsplit-follower", "namespaces")
async def netsplit_follower(cluster: FaultCluster) -> AsyncIterator[None]:
    leader = await cluster.wait_leader()
    cluster.wires.unplug(cluster.name(a_follower(cluster, leader)))
    try:
        yield
    finally:
        cluster.wires.heal()


@nemesis("netsplit-one-way", "namespaces")
async def netsplit_one_way(cluster: FaultCluster) -> AsyncIterator[None]:
    """No packet of the leader reaches another node; theirs reach it."""
    leader = cluster.name(await cluster.wait_leader())
    for node in cluster.plan.nodes:
        if node.name != leader:
            cluster.wires.drop(leader, node.name)
    try:
        yield
    finally:
        cluster.wires.heal()


@nemesis("netsplit-all", "namespaces", seconds=1.5)
async def netsplit_all(cluster: FaultCluster) -> AsyncIterator[None]:
    """Nobody reaches anybody."""
    for node in cluster.plan.nodes:
        cluster.wires.unplug(node.name)
    try:
        yield
    finally:
        cluster.wires.heal()
