"""Compare hivemem with etcd, Redis and NATS: the same work, the same machine, one run.

Three daemons of each system on loopback, fsync on, clients at the leader; the load comes from
one C program for all of them. Every case is repeated, the systems taking turns, and medians
are printed as ratios to a reference. Peers that are not installed are left out, by name.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from scripts.benchmarks import cases, generator, machine, plots, report, sizes
from scripts.benchmarks.ending import Ending
from scripts.benchmarks.etcd import Etcd
from scripts.benchmarks.generator import BenchmarkError
from scripts.benchmarks.hivemem import Hivemem
from scripts.benchmarks.install import install
from scripts.benchmarks.measure import Footprint, Result, Session
from scripts.benchmarks.nats import Nats
from scripts.benchmarks.redis_server import Redis
from scripts.benchmarks.systems import DOORS, System

PEERS = (Etcd, Redis, Nats)
QUICK_MINUTES = 10.0
FULL_MINUTES = 90.0
# About what a round takes: none begins so close to the end.
RESERVE_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go: standard output, and a file of JSON lines if one is wanted."""

    json: TextIO | None

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def case(self, results: list[Result], reference: str) -> None:
        print(report.case_table(results, reference) + "\n", flush=True)
        self._lines([report.json_line(result) for result in results])

    def footprints(self, found: list[Footprint], writes: list[Result]) -> None:
        print(report.footprint_table(found) + "\n", flush=True)
        if writes:
            print(report.size_table(writes) + "\n", flush=True)
        self._lines([report.footprint_line(each) for each in found])
        self._lines([report.json_line(each) for each in writes])

    def _lines(self, lines: list[str]) -> None:
        if self.json is not None:
            self.json.writelines(line + "\n" for line in lines)
            self.json.flush()


def main() -> int:
    options = arguments()
    try:
        if options.install:
            install([package for peer in PEERS for package in peer.PACKAGES])
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(_folder(options.folder)))
            file = stack.enter_context(open(options.json, "w")) if options.json else None
            compare(options, folder, Output(file), stack.enter_context(Ending()))
    except BenchmarkError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the main cases, under 10 minutes")
    parser.add_argument("--json", metavar="FILE", help="one JSON object a line")
    parser.add_argument("--plots", metavar="FOLDER", help="SVG plots (of a full run)")
    parser.add_argument("--install", action="store_true", help="root: Debian's packages first")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before each")
    parser.add_argument("--minutes", type=float, help="no further round begins after these")
    parser.add_argument("--keys", type=int, default=cases.KEYS, help="stored beforehand")
    parser.add_argument(
        "--sizes",
        type=sizes_in,
        default=cases.SIZES,
        metavar="N,N",
        help="keys at which the cost of data is looked at (full run)",
    )
    parser.add_argument("--systems", default="hivemem,etcd,redis,nats", help="which, by commas")
    parser.add_argument(
        "--reference",
        default="etcd-grpc",
        help="what ratios are to: a door, or the best of those whose names begin so",
    )
    parser.add_argument("--folder", help="where the data go (default: the temporary folder)")
    return parser.parse_args()


def sizes_in(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(part) for part in text.split(",")))


@contextlib.contextmanager
def _folder(parent: str | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="hivemem-bench-", dir=parent) as folder:
        yield folder


def compare(options: argparse.Namespace, folder: Path, output: Output, ending: Ending) -> None:
    minutes = options.minutes or (QUICK_MINUTES if options.quick else FULL_MINUTES)
    deadline = time.monotonic() + minutes * 60 - RESERVE_SECONDS
    program = generator.build(folder)
    systems = chosen(options.systems.split(","), output, ending)
    print("\n".join([*machine.facts(folder), f"generator: {generator.NAME}"]), flush=True)

    def session(started: dict[str, System]) -> Session:
        return Session(
            program, started, warmup=options.warmup, seconds=options.seconds, say=output.say
        )

    grown = [] if options.quick else growth(systems, folder, session, output, options)
    output.say("starting the systems")
    results: list[Result] = []
    with running(systems, folder / "loads") as started:
        print("\n".join(system.facts() for system in started.values()))
        names = [name for name, door in DOORS.items() if door.system in started]
        print("\n".join([*report.doors(names), ""]), flush=True)
        all_of_them = session(started)
        stored = sizes.store(all_of_them, options.keys, output.say)
        output.footprints(stored, [])
        for case in cases.with_keys(cases.quick() if options.quick else cases.full(), options.keys):
            found = all_of_them.case(case, options.repetitions, deadline)
            if found:
                output.case(found, options.reference)
            results += found
    if options.plots:
        plots.draw(Path(options.plots), results, grown)


def growth(
    systems: list[System],
    folder: Path,
    session: Callable[[dict[str, System]], Session],
    output: Output,
    options: argparse.Namespace,
) -> list[Footprint]:
    """Each system alone, from empty to large."""
    footprints: list[Footprint] = []
    writes: list[Result] = []
    for system in systems:
        output.say(f"{system.name}: from empty to {options.sizes[-1]:,} keys")
        with running([system], folder / "sizes") as started:
            found = sizes.grow(
                session(started), system, options.sizes, options.repetitions, output.say
            )
        footprints += found[0]
        writes += found[1]
    output.footprints(footprints, writes)
    return footprints


def chosen(names: list[str], output: Output, ending: Ending) -> list[System]:
    known = {"hivemem": Hivemem, **{peer.name: peer for peer in PEERS}}
    unknown = set(names) - set(known)
    if unknown:
        raise BenchmarkError(f"no system is called {', '.join(sorted(unknown))}")
    found: list[System] = []
    for name in names:
        kind = known[name]
        if kind is not Hivemem and kind.missing():
            packages = " ".join(kind.PACKAGES)
            output.say(f"{name} is not installed (Debian: {packages}; or --install as root)")
            continue
        found.append(kind(ending))
    return found


@contextlib.contextmanager
def running(systems: list[System], folder: Path) -> Iterator[dict[str, System]]:
    with contextlib.ExitStack() as stack:
        for system in systems:
            place = folder / system.name
            place.mkdir(parents=True)
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            stack.callback(system.stop)
            system.start(place)
        yield {system.name: system for system in systems}


if __name__ == "__main__":
    sys.exit(main())
