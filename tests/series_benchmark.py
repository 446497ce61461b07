"""A million points into engine `timeseries` and aggregates over them: in process, over HTTP to
one daemon and to three, and in DuckDB if there is one.

Prints CPU seconds (of the process that does the work; over HTTP of all daemons together) and
elapsed seconds. Over HTTP every append is durable on a majority before the next one is sent.
DuckDB runs in a process of its own with its defaults, one thread, its file on the same disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.benchmarks.daemons import cpu_seconds
from tests.benchmark_http import asker, pids_of, post
from tests.cluster.harness import LocalCluster, running_cluster
from tests.unit import engine_state
from tests.unit.series_state import SeriesState

START_MS = 1_700_000_000_000
STEP_MS = 1_000
HOUR_MS = 3_600_000
ROUNDS = 5  # of each aggregate; the best counts
AGGREGATES = {"avg, min, max by hour": ["avg", "min", "max"], "p99 by hour": ["p99"]}

_DUCKDB = """
import json, os, sys, time
try:
    import duckdb
except ImportError:
    print(json.dumps(None)); sys.exit()
folder, points, batch, start, step, hour, rounds = sys.argv[1], *map(int, sys.argv[2:])
from math import sin
db = duckdb.connect(os.path.join(folder, "series.duckdb"), config={"threads": 1})
db.execute("CREATE TABLE points (host VARCHAR, time_ms BIGINT, value DOUBLE)")
def measured(work):
    cpu, begin = time.process_time(), time.perf_counter()
    work()
    return [time.process_time() - cpu, time.perf_counter() - begin]
batches = [[list(range(start + first * step, start + min(first + batch, points) * step, step)),
            [round(20 + 5 * sin(n / 500), 2) for n in range(first, min(first + batch, points))]]
           for first in range(0, points, batch)]
def append():
    for times, values in batches:
        db.execute("INSERT INTO points SELECT 'a', unnest(?), unnest(?)", [times, values])
def ask(what):
    return db.execute(f"SELECT time_ms // {hour} * {hour} AS s, {what} FROM points "
                      "GROUP BY s ORDER BY s").fetchall()
found = {"append": measured(append)}
for name, what in (("avg, min, max by hour", "avg(value), min(value), max(value)"),
                   ("p99 by hour", "quantile_cont(value, 0.99)")):
    found[name] = min(measured(lambda: ask(what)) for _ in range(rounds))
print(json.dumps({"version": duckdb.__version__, "figures": found}))
"""


class Figure(NamedTuple):
    """Seconds."""

    cpu: float
    elapsed: float


Figures = dict[str, Figure]
Run = tuple[list[int], list[float]]


def runs(points: int, batch: int) -> Iterator[Run]:
    """A sine with two decimals, one point a second."""
    for first in range(0, points, batch):
        numbers = range(first, min(first + batch, points))
        times = [START_MS + number * STEP_MS for number in numbers]
        yield times, [round(20 + 5 * math.sin(number / 500), 2) for number in numbers]


def measured(work: Callable[[], object], cpu: Callable[[], float]) -> Figure:
    before, begin = cpu(), time.perf_counter()
    work()
    return Figure(cpu() - before, time.perf_counter() - begin)


def measure(
    ask: Callable[[str, dict[str, Any]], Any],
    cpu: Callable[[], float],
    batches: Sequence[Run],
    points: int,
) -> Figures:
    """`ask`: an operation and its parameters; returns the engine's answer."""

    def append() -> None:
        for times, values in batches:
            run = {"metric": "cpu", "tags": {"host": "a"}, "times": times, "values": values}
            answer = ask("series_append", {"columns": run})
            assert answer["added"] == len(times), answer

    found = {"append": measured(append, cpu)}
    for name, aggregates in AGGREGATES.items():
        wanted = {"metric": "cpu", "window_ms": HOUR_MS, "aggregates": [*aggregates, "count"]}

        def aggregate(wanted: dict[str, Any] = wanted) -> None:
            (group,) = ask("series_downsample", wanted)["groups"]
            assert sum(window["count"] for window in group["windows"]) == points

        found[name] = min(measured(aggregate, cpu) for _ in range(ROUNDS))
    return found


def in_process(folder: Path, batches: Sequence[Run], points: int) -> Figures:
    """One entry for each append: checked, packed, decoded, applied, committed; no log."""
    engine_state.MAP_BYTES = 4 << 30
    state = SeriesState(folder / "state")
    state.create()

    def ask(operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "series_append":
            return state.write(operation, **parameters)
        return state.query(operation, **parameters)

    found = measure(ask, time.process_time, batches, points)
    (series,) = state.series()
    size = state.machine.stats()
    print(f"in process: {series['chunks']} chunks, {size.map_bytes_used / points:.1f} B a point")
    state.machine.close()
    return found


async def over_http(folder: Path, nodes: int, batches: Sequence[Run], points: int) -> Figures:
    async with running_cluster(folder, nodes) as cluster:
        leader = await cluster.wait_leader()
        address = cluster.nodes[leader].http
        return await asyncio.to_thread(_over_http, cluster, address, batches, points)


def _over_http(cluster: LocalCluster, address: str, batches: Sequence[Run], points: int) -> Figures:
    pids = pids_of(cluster)
    post(f"{address}/v1/collections", {"name": "series", "engine": "timeseries"})
    return measure(asker(address, "series"), lambda: cpu_seconds(pids), batches, points)


def in_duckdb(python: str, folder: Path, points: int, batch: int) -> tuple[str, Figures] | None:
    numbers = (points, batch, START_MS, STEP_MS, HOUR_MS, ROUNDS)
    done = subprocess.run(
        [python, "-c", _DUCKDB, str(folder), *map(str, numbers)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    if found is None:
        return None
    figures = {name: Figure(*each) for name, each in found["figures"].items()}
    return f"DuckDB {found['version']}", figures


def report(name: str, figures: Figures, points: int) -> None:
    for case, figure in figures.items():
        each = figure.cpu / points * 1e6
        print(
            f"| {case} | {name} | {figure.cpu:.2f} | {each:.2f} | {figure.elapsed:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10_000, help="points of one append")
    parser.add_argument(
        "--duckdb-python", default=sys.executable, help="a Python that can import duckdb"
    )
    parser.add_argument("--no-http", action="store_true", help="without daemons")
    options = parser.parse_args()
    batches = list(runs(options.points, options.batch))
    print(f"{options.points} points, {options.batch} in each append; CPU and elapsed seconds")
    print("| case | where | CPU s | CPU µs a point | elapsed s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="hivemem-series-") as name:
        folder = Path(name)
        report("in process", in_process(folder, batches, options.points), options.points)
        for nodes in () if options.no_http else (1, 3):
            (folder / str(nodes)).mkdir()
            figures = asyncio.run(over_http(folder / str(nodes), nodes, batches, options.points))
            report(f"HTTP, {nodes} node{'s' * (nodes > 1)}", figures, options.points)
        found = in_duckdb(options.duckdb_python, folder, options.points, options.batch)
        if found is None:
            print("DuckDB is not installed there: not measured")
        else:
            report(*found, options.points)


if __name__ == "__main__":
    main()
