"""Queries over HTTP: reads of keys beside queries, result cache on and off, optimizer on and off.

Two clusters run side by side, which differ in one setting; they get the same requests, in turns
(A B A B …), and what is printed are medians of the rounds; ratios are of the rates of one round.
Requests are drawn from a seeded generator, so that both get the same ones. One process makes the
load, on the same machine: its CPU time is in nobody's figures, but it takes a share of the machine
from all alike.

reads     plain GET of a key, and queries of one document or row each, at the same clients
cache     requests of a Zipfian mix (finds with a filter, counts, aggregates) with some writes
choice    a filter on two fields with an index each, of which the engine's rules take the worse
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from scripts.benchmarks.daemons import cpu_seconds
from tests.benchmark_http import pids_of
from tests.cluster.harness import LocalCluster, running_cluster
from tests.http_load import Load, Measured, load, request

DOCUMENTS: Final = 20_000
KEYS: Final = 1_000
GROUPS: Final = 200  # of documents; 100 in each
TOWNS: Final = 2
REQUESTS: Final = 2_000  # different ones of the mix
ZIPF_EXPONENT: Final = 0.99  # as YCSB has it
WARM_SECONDS: Final = 0.5
SEED: Final = 1
_OFF_CACHE: Final = {"HIVEMEM_OPTIMIZER_CACHE_BYTES_MAX": "0"}
_OFF_OPTIMIZER: Final = {"HIVEMEM_OPTIMIZER_PATTERNS_MAX": "0"}

Make = Callable[[random.Random], bytes]  # one request


class Row(NamedTuple):
    """Medians. `cpu_us`: of all daemons of the cluster together, for each request."""

    case: str
    system: str
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    # Of `per_second`, to the row that the case compares with, in each round: rounds are neighbours
    # in time, so it holds where the machine changes its speed from one to the next.
    ratio: float | None


class System:
    """One cluster under test."""

    def __init__(self, name: str, cluster: LocalCluster, leader: int) -> None:
        self.name = name
        self._cluster = cluster
        self._pids = pids_of(cluster)
        self.leader = cluster.nodes[leader].http

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._pids)

    async def measure(self, work: Load) -> tuple[Measured, float]:
        """And the CPU microseconds of each request."""
        before = self.cpu_seconds()
        measured = await load(self.leader, work)
        spent = self.cpu_seconds() - before
        return measured, spent / max(1, measured.answered) * 1e6


def query(collection: str, operation: str, **parameters: Any) -> bytes:
    body = {"collection": collection, "operation": operation, "parameters": parameters}
    return request("POST", "/v1/query", json.dumps(body).encode())


# --- The data --------------------------------------------------------------------------


async def fill(system: System, keys: bool) -> None:
    requests = [
        request("POST", "/v1/collections", json.dumps(made).encode())
        for made in (
            {
                "name": "docs",
                "engine": "document",
                "settings": {
                    "indexes": [{"fields": [each]} for each in ("town", "email", "group")]
                },
            },
            {"name": "sql", "engine": "relational"},
        )
    ]
    requests += [
        query("docs", "document_insert", documents=[document(n) for n in numbers])
        for numbers in batches(DOCUMENTS, 2_000)
    ]
    if keys:
        table = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, email TEXT)"
        requests.append(query("sql", "sql_execute", sql=table))
        requests += [
            query("sql", "sql_execute", statements=[row(n) for n in numbers])
            for numbers in batches(DOCUMENTS, 1_000)
        ]
        requests += [request("PUT", f"/v1/kv/default/s/k{n}", b"x" * 100) for n in range(KEYS)]
    sent = iter(requests)
    await load(system.leader, Load(lambda: next(sent, None), 1, None))


def document(n: int) -> dict[str, Any]:
    return {
        "_id": f"d{n}", "email": f"u{n}@example.org", "group": n % GROUPS, "town": n % TOWNS,
        "age": n % 77, "name": f"user number {n}", "tags": ["a", "b"],
    }  # fmt: skip


def row(n: int) -> dict[str, Any]:
    params = [n, f"name {n}", f"u{n}@example.org"]
    return {"sql": "INSERT INTO t VALUES (?, ?, ?)", "params": params}


def batches(count: int, size: int) -> Iterator[range]:
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


# --- The cases -------------------------------------------------------------------------


def reads() -> dict[str, Make]:
    point = "SELECT * FROM t WHERE id = ?"

    def number(chance: random.Random) -> int:
        return chance.randrange(DOCUMENTS)

    return {
        "GET of a key": lambda c: request("GET", f"/v1/kv/default/s/k{c.randrange(KEYS)}"),
        "document by id": lambda c: query("docs", "document_get", id=f"d{number(c)}"),
        "document by index": lambda c: query(
            "docs", "document_find", filter={"email": f"u{number(c)}@example.org"}
        ),
        "SQL by key": lambda c: query("sql", "sql_query", sql=point, params=[number(c)]),
        "document by index, kept": lambda c: query(
            "docs", "document_find", filter={"email": f"u{c.randrange(50)}@example.org"}
        ),
    }


class Mix:
    """Requests by a Zipfian law over REQUESTS different ones; of a thousand so many write."""

    def __init__(self, writes_per_mille: float) -> None:
        self._writes = writes_per_mille / 1000
        chance = random.Random(SEED)
        self._requests = [self._made(chance) for _ in range(REQUESTS)]
        weights = (1 / rank**ZIPF_EXPONENT for rank in range(1, REQUESTS + 1))
        self._weights = list(accumulate(weights))

    def __call__(self, chance: random.Random) -> bytes:
        if chance.random() < self._writes:
            n = chance.randrange(DOCUMENTS)
            return query("docs", "document_upsert", documents=[document(n)])
        return chance.choices(self._requests, cum_weights=self._weights)[0]

    def _made(self, chance: random.Random) -> bytes:
        group, age = chance.randrange(GROUPS), chance.randrange(77)
        wanted = {"group": group, "age": {"$gte": age}}
        match chance.randrange(4):
            case 0:
                return query("docs", "document_find", filter=wanted, limit=20)
            case 1:
                newest = {"age": -1}
                return query(
                    "docs", "document_find", filter={"group": group}, sort=newest, limit=1 + age
                )
            case 2:
                return query("docs", "document_count", filter=wanted)
        stages = [
            {"$match": wanted},
            {"$group": {"_id": "$age", "count": {"$sum": 1}}},
            {"$sort": {"count": -1}},
        ]
        return query("docs", "document_aggregate", pipeline=stages)


def two_indexes(chance: random.Random) -> bytes:
    """Half of the documents are in the town, one in two hundred in the group."""
    group = chance.randrange(GROUPS)
    wanted = {"town": group % TOWNS, "group": group, "age": {"$gte": chance.randrange(77)}}
    return query("docs", "document_find", filter=wanted, limit=20)


# --- Measuring -------------------------------------------------------------------------


@asynccontextmanager
async def systems(
    folder: Path, nodes: int, settings: dict[str, dict[str, str]], keys: bool
) -> AsyncIterator[list[System]]:
    async with AsyncExitStack() as stack:
        found = []
        for name, variables in settings.items():
            own = folder / name.replace(" ", "-")
            own.mkdir(parents=True)
            cluster = await stack.enter_async_context(running_cluster(own, nodes, variables))
            system = System(name, cluster, await cluster.wait_leader())
            await fill(system, keys)
            found.append(system)
        yield found


async def compare(
    case: str, systems: Sequence[System], makes: dict[str, Make], options: argparse.Namespace
) -> list[Row]:
    """The first of systems and makes is what the others are compared with."""
    rounds: dict[tuple[str, str], list[tuple[Measured, float]]] = {}
    for number in range(options.rounds + 1):
        for name, make in makes.items():
            for system in systems:
                chance = random.Random(SEED + number)
                work = Load(
                    lambda make=make, chance=chance: make(chance), options.clients,
                    options.seconds if number else WARM_SECONDS,
                )  # fmt: skip
                measured = await system.measure(work)
                if number:  # the first round warms up
                    rounds.setdefault((name, system.name), []).append(measured)
    rows = []
    first = next(iter(rounds.values()))
    for (name, system_name), several in rounds.items():
        rate, p50, p99 = (
            statistics.median(getattr(measured, figure) for measured, _ in several)
            for figure in ("per_second", "p50_ms", "p99_ms")
        )
        cpu = statistics.median(each for _, each in several)
        ratio = None
        if several is not first:
            ratio = statistics.median(
                own.per_second / other.per_second
                for (own, _), (other, _) in zip(several, first, strict=True)
            )
        rows.append(Row(f"{case}: {name}", system_name, rate, p50, p99, cpu, ratio))
    return rows


async def run(folder: Path, options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    if "reads" in options.cases:
        async with systems(folder / "reads", options.nodes, {"hivemem": {}}, True) as found:
            rows += await compare("reads", found, reads(), options)
    if "cache" in options.cases:
        settings = {"cache off": _OFF_CACHE, "cache on": {}}
        async with systems(folder / "cache", options.nodes, settings, False) as found:
            for writes in options.writes:
                name = f"{writes:g} writes of 1,000"
                rows += await compare("cache", found, {name: Mix(writes)}, options)
    if "choice" in options.cases:
        settings = {"optimizer off": {**_OFF_CACHE, **_OFF_OPTIMIZER}, "optimizer on": _OFF_CACHE}
        async with systems(folder / "choice", options.nodes, settings, False) as found:
            rows += await compare("choice", found, {"two indexes": two_indexes}, options)
    return rows


def report(rows: Sequence[Row]) -> None:
    print("| case | system | /s | p50 ms | p99 ms | CPU µs each | ratio |")
    print("|---|---|---|---|---|---|---|")
    for each in rows:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        print(
            f"| {each.case} | {each.system} | {each.per_second:,.0f} | {each.p50_ms:.2f} | "
            f"{each.p99_ms:.2f} | {each.cpu_us:.0f} | {ratio} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1, help="of each cluster")
    parser.add_argument("--clients", type=int, default=16, help="connections")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up")
    parser.add_argument(
        "--writes", type=_numbers, default=(0.0, 1.0, 10.0), metavar="N[,N…]",
        help="of a thousand requests of the mix",
    )  # fmt: skip
    parser.add_argument("--cases", type=_cases, default=("reads", "cache", "choice"))
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hivemem-queries-") as name:
        rows = uvloop.run(run(Path(name), options))
    if options.output == "json":
        given = {key: value for key, value in vars(options).items() if key != "output"}
        print(json.dumps({"options": given, "rows": [each._asdict() for each in rows]}))
        return
    print(
        f"{options.nodes} nodes, {options.clients} clients, {DOCUMENTS} documents, medians of "
        f"{options.rounds} rounds of {options.seconds:g} s, {time.monotonic() - begun:.0f} s in "
        f"all, Python {sys.version.split()[0]}"
    )
    report(rows)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _cases(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= {"reads", "cache", "choice"}:
        raise argparse.ArgumentTypeError("known: reads, cache, choice")
    return found


if __name__ == "__main__":
    main()
