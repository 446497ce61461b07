"""Three nodes become five and then four under load, and what clients noticed of it.

    python -m tests.fault.rebalance --partitions 8 --rate 400 --runs 5 --kill

`scripts/rebalance` starts it. Exit status 1: a write was lost, a history is not linearizable,
an error that nothing explains, or the partitions did not come to where they should be.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import HivememError
from tests.cluster.harness import LocalCluster
from tests.fault.judgement import Judgement
from tests.fault.moves import CALM_SECONDS, Moves, Phase
from tests.fault.rounds import CHURN
from tests.fault.workload import Record, Timing

RATE: Final = 400.0
# With kills: copies are slow enough to be hit on the way.
SLOW_COPIES: Final = {"HIVEMEM_STORAGE_SNAPSHOT_BYTES_PER_SECOND_MAX": str(1 << 17)}


@dataclass(frozen=True)
class Figures:
    """One phase. Latencies: of what was done as asked. None: nothing was."""

    phase: str
    seconds: float
    moved: int
    ops_per_second: float
    reads_ms: tuple[float, float, float] | None  # p50, p99, max
    writes_ms: tuple[float, float, float] | None
    gap_ms: float | None  # the longest without an answer, of all partitions
    partition_gap_ms: float | None  # the same, of the partition where it was longest
    kills: tuple[str, ...]


def figures(phase: Phase, record: Record) -> Figures:
    timings = [each for each in record.timings if phase.began <= each.ended < phase.ended]
    seconds = phase.ended - phase.began
    groups = {each.group for each in record.timings}
    gaps = [_gap([each for each in timings if each.group == group], phase) for group in groups]
    return Figures(
        phase.name,
        seconds,
        phase.moved,
        len(timings) / seconds,
        _latencies([each for each in timings if not each.writes]),
        _latencies([each for each in timings if each.writes]),
        _gap(timings, phase),
        max(gaps, default=None),
        phase.kills,
    )


def _latencies(timings: list[Timing]) -> tuple[float, float, float] | None:
    if not timings:
        return None
    found = sorted(each.seconds * 1000 for each in timings)
    return found[len(found) // 2], found[len(found) * 99 // 100], found[-1]


def _gap(timings: list[Timing], phase: Phase) -> float:
    times = [phase.began, *sorted(each.ended for each in timings), phase.ended]
    return max(later - at for at, later in itertools.pairwise(times)) * 1000


HEAD: Final = (
    "| phase | s | replicas moved | ops/s | reads (ms): p50, p99, max "
    "| writes (ms): p50, p99, max | longest gap (ms): all, one partition | killed |\n"
    "|---|---|---|---|---|---|---|---|"
)


def row(found: Figures) -> str:
    """One line of the table."""

    def ms(values: tuple[float, float, float] | None) -> str:
        return "none" if values is None else ", ".join(f"{value:.1f}" for value in values)

    gap = "none" if found.partition_gap_ms is None else f"{found.partition_gap_ms:.0f}"
    return (
        f"| {found.phase} | {found.seconds:.1f} | {found.moved} | {found.ops_per_second:.0f} "
        f"| {ms(found.reads_ms)} | {ms(found.writes_ms)} | {found.gap_ms:.0f}, {gap} "
        f"| {', '.join(found.kills) or '-'} |"
    )


def verdict(judged: Judgement) -> str:
    """The last line of a run."""
    return (
        f"acknowledged {judged.acknowledged}, lost {len(judged.lost)}, "
        f"linearizability violations {int(judged.violation is not None)}, "
        f"refused but found {len(judged.resurrected)}, unexplained errors "
        f"{len(judged.defects)}; outcome unknown {judged.unknown}, refused {judged.refused}, "
        f"errors {dict(judged.errors)}"
    )


async def run(options: argparse.Namespace, number: int) -> dict[str, Any] | None:
    """One run; its figures. None: something that must come to happen did not."""
    seed = options.seed + number
    record = Record(f"run-{number}", options.partitions)
    remove_leader = options.remove == "leader" or (options.remove == "either" and number % 2 == 1)
    with tempfile.TemporaryDirectory(prefix="hivemem-moves-") as folder:
        settings = {**CHURN, **(SLOW_COPIES if options.kill else {})}
        cluster = LocalCluster(Path(folder), 3, settings, options.partitions)
        async with cluster:
            await cluster.wait_leader()
            moves = Moves(
                cluster,
                record,
                options.rate,
                seed=seed,
                kill=options.kill,
                remove_leader=remove_leader,
                calm_seconds=options.calm,
                redis=not options.no_redis,
            )
            try:
                judged = await moves.run()
            except (TimeoutError, AssertionError, RuntimeError, HivememError) as error:
                print(f"\nrun {number}: {type(error).__name__}: {error}", flush=True)
                _keep(options.keep, number, record, cluster)
                return None
            if not judged.good:
                print(judged.explain(), file=sys.stderr)
            if options.keep_all or not judged.good:
                _keep(options.keep, number, record, cluster)
    rows = [figures(phase, record) for phase in moves.phases]
    print(f"\nrun {number}, seed {seed}\n{HEAD}")
    print("\n".join(row(each) for each in rows))
    print(verdict(judged), flush=True)
    told = {name: value for name, value in asdict(judged).items() if name != "errors"}
    errors = dict(judged.errors)
    phases = [asdict(each) for each in rows]
    return {**told, "errors": errors, "good": judged.good, "phases": phases}


def _keep(folder: Path, number: int, record: Record, cluster: LocalCluster) -> None:
    place = folder / f"moves-{number}"
    place.mkdir(parents=True, exist_ok=True)
    record.history.save(place / "history.jsonl")
    with open(place / "timings.jsonl", "w") as file:
        file.writelines(json.dumps(each) + "\n" for each in record.timings)
    for index, node in enumerate(cluster.nodes):
        (place / f"{node.name}.log").write_text(cluster.log_text(index))
    print(f"kept in {place}", file=sys.stderr)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/rebalance", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rate", type=float, default=RATE, help="operations per second")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--calm", type=float, default=CALM_SECONDS, help="seconds between moves")
    parser.add_argument(
        "--remove",
        choices=("founder", "leader", "either"),
        default="either",
        help="who leaves: any of the first three, the system group's leader, or in turns",
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        help="kill -9 a moving partition's leader, its learner, the system group's leader, and all",
    )
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--no-redis", action="store_true", help="only the HTTP doors are used")
    parser.add_argument("--keep-all", action="store_true", help="what good runs left, too")
    parser.add_argument("--keep", type=Path, default=Path("fault-failures"), metavar="FOLDER")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    print(
        f"seed {options.seed}, {options.partitions} partitions, {options.rate:.0f} ops/s wanted, "
        f"{options.runs} runs{', with kills' if options.kill else ''}",
        flush=True,
    )
    results = [asyncio.run(run(options, number)) for number in range(options.runs)]
    good = [each for each in results if each is not None and each["good"]]
    print(
        f"\n{len(good)} of {len(results)} runs good; acknowledged "
        f"{sum(each['acknowledged'] for each in results if each)}, lost "
        f"{sum(len(each['lost']) for each in results if each)}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(len(good) < len(results))


if __name__ == "__main__":
    sys.exit(main())
