"""Many rounds of every nemesis against real daemons, and a table of what they showed.

    python -m tests.fault.campaign --rounds 10 --only kill-leader --json results.json

`scripts/nemesis` starts it. Exit status 1: a write was lost, a history is not linearizable,
or something that must come to happen did not. What such a round left is kept: its history
(python -m tests.histories.linearizability FILE says what is wrong with it) and the logs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fault import nemesis_disks, nemesis_rot  # noqa: F401  # register their nemeses
from tests.fault.nemesis import NEMESES, Nemesis
from tests.fault.possible import impossible
from tests.fault.rounds import Round, run_round, settings
from tests.fault.surroundings import fault_cluster
from tests.fault.workload import OPS_PER_SECOND, Record

CALM_SECONDS = 5.0  # of load after each fault


@dataclass
class Result:
    """All rounds of one nemesis."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)

    @property
    def bad(self) -> bool:
        return bool(self.failures) or not all(each.judgement.good for each in self.rounds)

    def figures(self) -> dict[str, Any]:
        """Counts are sums over the rounds; ops/s is the lowest of a round."""
        judged = [each.judgement for each in self.rounds]
        gaps = [each.gap_seconds for each in self.rounds] or [float("nan")]
        return {
            "nemesis": self.name,
            "rounds": len(self.rounds),
            "operations": sum(each.operations for each in judged),
            "ops_per_second_min": min((each.ops_per_second for each in judged), default=0.0),
            "ops_per_second": statistics.median(
                [each.ops_per_second for each in judged] or [float("nan")]
            ),
            "acknowledged": sum(each.acknowledged for each in judged),
            "unknown": sum(each.unknown for each in judged),
            "refused": sum(each.refused for each in judged),
            "lost": sum(len(each.lost) for each in judged),
            "resurrected": sum(len(each.resurrected) for each in judged),
            "violations": sum(each.violation is not None for each in judged),
            "defects": sum(len(each.defects) for each in judged),
            "gap_seconds_median": statistics.median(gaps),
            "gap_seconds_max": max(gaps),
            "repairs": dict(self.repairs),
            "failures": self.failures,
        }


HEAD = (
    "| nemesis | rounds | ops | ops/s: median, min | writes: acknowledged | unknown | refused "
    "| lost | linearizable | gap (s): median | max |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(figures: dict[str, Any]) -> str:
    """One line of the table."""
    wrong = figures["violations"]
    verdict = f"no: {wrong} rounds" if wrong else "yes"
    if figures["resurrected"]:
        verdict += f", {figures['resurrected']} refused writes present"
    if figures["defects"]:
        verdict += f", {figures['defects']} unexplained errors"
    if figures["failures"]:
        verdict += f", {len(figures['failures'])} rounds failed"
    for what, count in figures["repairs"].items():
        verdict += f" ({what}: {count})"
    return (
        f"| {figures['nemesis']} | {figures['rounds']} | {figures['operations']} "
        f"| {figures['ops_per_second']:.0f}, {figures['ops_per_second_min']:.0f} "
        f"| {figures['acknowledged']} | {figures['unknown']} | {figures['refused']} "
        f"| {figures['lost']} | {verdict} "
        f"| {figures['gap_seconds_median']:.2f} | {figures['gap_seconds_max']:.2f} |"
    )


async def run(nemesis: Nemesis, options: argparse.Namespace) -> Result:
    """All rounds of one nemesis; after one that failed they go on with a fresh cluster."""
    result = Result(nemesis.name)
    number = 0
    while number < options.rounds:
        with tempfile.TemporaryDirectory(prefix="hivemem-fault-") as folder:
            async with fault_cluster(
                nemesis.needs, Path(folder), settings=settings(nemesis), seed=options.seed + number
            ) as cluster:
                cluster.repairs = result.repairs
                await cluster.wait_leader()
                while number < options.rounds:
                    number += 1
                    record = Record(f"round-{number}")
                    try:
                        found = await run_round(
                            cluster,
                            nemesis,
                            record,
                            seed=options.seed + number,
                            ops_per_second=options.rate,
                            calm_seconds=options.seconds,
                        )
                    except (TimeoutError, AssertionError, RuntimeError) as error:
                        result.failures.append(f"round {number}: {type(error).__name__}: {error}")
                        _keep(options.keep, nemesis, number, record, cluster.log_tails())
                        break
                    result.rounds.append(found)
                    if not found.judgement.good:
                        print(found.judgement.explain(), file=sys.stderr)
                        _keep(options.keep, nemesis, number, record, cluster.log_tails())
                    if options.verbose:
                        print(row(Result(f"{nemesis.name} {number}", [found]).figures()))
    return result


def _keep(folder: Path, nemesis: Nemesis, number: int, record: Record, logs: str) -> None:
    place = folder / f"{nemesis.name}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    record.history.save(place / "history.jsonl")
    (place / "daemons.log").write_text(logs)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/nemesis", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=10, help="of each nemesis")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; repeatable")
    parser.add_argument("--seconds", type=float, default=CALM_SECONDS, help="of load after a fault")
    parser.add_argument("--rate", type=float, default=OPS_PER_SECOND, help="operations per second")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--keep", type=Path, default=Path("fault-failures"), metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="name the nemeses, and end")
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    options = parser.parse_args(arguments)
    unknown = set(options.only or ()) - set(NEMESES)
    if unknown:
        parser.error(f"--only: no nemesis is called {', '.join(sorted(unknown))}; see --list")
    return options


def main() -> int:
    options = parse()
    chosen = [NEMESES[name] for name in options.only or NEMESES]
    if options.list:
        for nemesis in chosen:
            print(f"{nemesis.name:20s} {impossible(nemesis.needs) or nemesis.needs}")
        return 0
    print(f"seed {options.seed}, {options.rounds} rounds each, {options.rate:.0f} ops/s wanted\n")
    print(HEAD, flush=True)
    results = []
    for nemesis in chosen:
        reason = impossible(nemesis.needs)
        if reason is not None:
            print(f"| {nemesis.name} | 0 | skipped: {reason} | | | | | | | | |", flush=True)
            continue
        results.append(asyncio.run(run(nemesis, options)))
        print(row(results[-1].figures()), flush=True)
        if options.json is not None:
            text = json.dumps([each.figures() for each in results], indent=2)
            options.json.write_text(text + "\n")
    failures = [f"{each.name}: {text}" for each in results for text in each.failures]
    if failures:
        print("\n" + "\n".join(failures))
    return int(any(each.bad for each in results))


if __name__ == "__main__":
    sys.exit(main())
