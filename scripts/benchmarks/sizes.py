"""What data cost: memory, disk, and the writes that a system of some size still does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from scripts.benchmarks import cases
from scripts.benchmarks.generator import BenchmarkError
from scripts.benchmarks.measure import Footprint, Result, Session, median
from scripts.benchmarks.systems import DOORS, System, usage

VALUE_BYTES = 100
# One door of each system: the size is what differs here.
WRITERS = {
    "hivemem": "hivemem-redis",
    "etcd": "etcd-grpc",
    "redis": "redis-wait",
    "nats": "nats-kv",
}


def store(session: Session, keys: int, say: Callable[[str], None]) -> list[Footprint]:
    """The keys that the cases use, in every system. One that cannot take them is left out."""
    found: list[Footprint] = []
    for name, system in list(session.systems.items()):
        say(f"{name}: storing {keys:,} keys")
        try:
            session.settle()
            empty = usage(system)
            found.append(session.fill(system, keys, VALUE_BYTES, first=0, empty=empty))
        except BenchmarkError as error:
            say(f"{name} is left out: {error}")
            del session.systems[name]
    return found


def grow(
    session: Session,
    system: System,
    sizes: Sequence[int],
    repetitions: int,
    say: Callable[[str], None],
) -> tuple[list[Footprint], list[Result]]:
    """From empty through each size; at each, its footprint and writes of 64 clients, the median
    of `repetitions`.

    Overwritten keys cost what a system keeps of their past, so the footprint of a size includes
    the writes that were measured at the sizes before it.
    """
    footprints: list[Footprint] = []
    writes: list[Result] = []
    door = DOORS[WRITERS[system.name]]
    first = 0
    try:
        session.settle()
        empty = usage(system)
        for keys in sizes:
            footprints.append(session.fill(system, keys, VALUE_BYTES, first=first, empty=empty))
            case = replace(cases.write(64, (door.name,)), name="write-by-size", keys=keys)
            samples = [session.sample(case, door.name, seed) for seed in range(repetitions)]
            writes.append(median(case, door.name, samples))
            first = keys
    except BenchmarkError as error:
        say(f"{system.name} stops at {first:,} keys: {error}")
    return footprints, writes
