"""One seed of a campaign, from an empty cluster to the verdict; and many of them.

    python -m tests.simulation.campaign --seeds 10000 --from 0 --jobs 2

A violation ends in an AssertionError whose message names the seed and the command that
repeats it.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pytest

from cluster import snapshot_transfer
from cluster.compaction import CompactionLimits
from cluster.group_limits import GroupLimits
from cluster.raft import FlowLimits
from tests.histories.final_state import lost_writes
from tests.histories.history import Status
from tests.histories.linearizability import Verdict, check_history
from tests.simulation.clients import Clients
from tests.simulation.schedule import FAULTS, Schedule
from tests.simulation.world import World

STEPS = 2000
HEALING_ROUNDS_MAX = 400
RAM_FOLDER = Path("/dev/shm")  # states live here where it exists: simulated disks need no real one


def run(seed: int, steps: int = STEPS) -> Counter[str]:
    """Run one seed; returns how often each thing happened. Raises AssertionError."""
    folder = Path(
        tempfile.mkdtemp(prefix="hivemem-sim-", dir=RAM_FOLDER if RAM_FOLDER.is_dir() else None)
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            return _run(patch, folder, seed, steps)
    except Exception as error:
        command = f"python -m tests.simulation.campaign --seeds 1 --from {seed}"
        raise AssertionError(f"seed {seed}: {error!r}; repeat it with: {command}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(patch: pytest.MonkeyPatch, folder: Path, seed: int, steps: int) -> Counter[str]:
    rng = random.Random(seed)
    patch.setattr(snapshot_transfer, "CHUNK_BYTES", rng.choice((4096, 16384)))
    patch.setattr(snapshot_transfer, "WINDOW_BYTES", 32768)
    world = World(
        patch,
        folder,
        rng.choice((3, 3, 5)),
        seed,
        limits=GroupLimits(
            entry_commands_max=rng.choice((1, 3, 100)), apply_entries_max=rng.choice((2, 7, 256))
        ),
        flow=FlowLimits(append_bytes_max=rng.choice((100, 2000, 1 << 20)), inflight_bytes_max=4000),
        compaction=CompactionLimits(
            entries_max=rng.choice((15, 40, 10_000)),
            log_bytes=rng.choice((2_000, 1 << 30)),
            keep_entries=rng.choice((0, 3, 20)),
            keep_bytes_max=rng.choice((1_000, 1 << 30)),
        ),
    )
    try:
        world.settle(12)
        clients = Clients(world, rng, rng.choice((2, 6)))
        schedule = Schedule(world, clients, rng)
        for _ in range(steps):
            schedule.step()
        _heal(world, clients)
        _judge(world, clients)
    finally:
        world.close()
    counts = Counter(schedule.counts)
    counts.update({f"client_{name}": number for name, number in clients.counts.items()})
    counts["elections"] = len(world.leaders)
    counts["operations"] = len(clients.history)
    return counts


def _heal(world: World, clients: Clients) -> None:
    """End every fault, and wait until the members agree."""
    world.heal_everything()
    for _ in range(HEALING_ROUNDS_MAX):
        world.restart_members()
        world.settle(1)
        world.record_incarnations()
        world.promote_learners()
        if world.converged():
            break
    else:
        raise AssertionError(f"not converged: {world.describe()}")
    clients.give_up()


def _judge(world: World, clients: Clients) -> None:
    world.check_states()
    report = check_history(clients.history)
    assert report.verdict is Verdict.OK, str(report)
    leader = world.leader()
    assert leader is not None
    machine = world.nodes[leader].machine
    final = {}
    for key in {operation.key for operation in clients.history}:
        record = machine.get(key)
        value = None if record is None else (record.value or b"").decode()
        final[key] = (0 if record is None else record.version, value)
    lost = lost_writes(clients.history, final)
    assert not lost, "\n".join(map(str, lost))
    _check_once(world, clients, leader)


def _check_once(world: World, clients: Clients, leader: str) -> None:
    """Every acknowledged put is in the log of changes exactly once, a refused one never."""
    changes = world.nodes[leader].machine.values_written()
    seen = Counter(changes)
    for operation in clients.history:
        if operation.value is None:
            continue
        times = seen[operation.value]
        status = operation.outcome.status
        if status is Status.OK:
            assert times == 1, f"acknowledged, and {times} times there: {operation}"
        elif status is Status.FAILED or status is Status.CONFLICT:
            assert times == 0, f"refused, and {times} times there: {operation}"
        else:
            assert times <= 1, f"applied {times} times: {operation}"


def _try(seed: int, steps: int) -> tuple[int, Counter[str] | None, str]:
    logging.getLogger("cluster").setLevel(logging.CRITICAL)  # damaged states are the point
    try:
        return seed, run(seed, steps), ""
    except Exception:
        return seed, None, traceback.format_exc()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many (default 300)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each (default {STEPS})")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--keep-going", action="store_true", help="count all violations")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    total: Counter[str] = Counter()
    done = 0
    failed: list[int] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        seeds = range(options.first, options.first + options.seeds)
        running = [pool.submit(_try, seed, options.steps) for seed in seeds]
        for future in as_completed(running):
            seed, counts, trace = future.result()
            done += 1
            if counts is not None:
                total += counts
                continue
            failed.append(seed)
            print(trace, file=sys.stderr)
            if not options.keep_going:
                pool.shutdown(cancel_futures=True)
                break
    elapsed = time.monotonic() - started
    last = options.first + options.seeds - 1
    print(
        f"seeds {options.first}–{last}: {done} run, {len(failed)} violations, {elapsed:.0f} s, "
        f"{done / elapsed:.1f} seeds/s with {options.jobs} processes"
    )
    for name, number in sorted(total.items()):
        print(f"  {name:24} {number:>10,}")
    absent = [name for name in FAULTS if not total[name]]
    if absent:
        print(f"never happened: {', '.join(absent)}")
    if failed:
        print(f"violations in seeds: {sorted(failed)}")
    return 1 if failed or (absent and done > 100) else 0


if __name__ == "__main__":
    sys.exit(main())
