"""Vector search over HTTP: a cluster of three, and Chroma's server, on the same vectors.

Each client has a connection of its own and sends its next search when the last one is answered.
Requests are encoded before the clock starts; answers are parsed after it has stopped, for
recall@10 against an exact search. hivemem's cache of answers is off. The systems
take turns, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import uvloop

from scripts.benchmarks.daemons import cpu_seconds
from tests.benchmark_http import pids_of, post
from tests.cluster.harness import LocalCluster, running_cluster

LIMIT = 10
_SETTINGS = {"HIVEMEM_OPTIMIZER_CACHE_BYTES_MAX": "0"}
WRITE_DOCUMENTS = 500
SETTLE_SECONDS = 1_800.0
START_SECONDS = 60.0
COLLECTION = "vectors"

_CHROMA = """
import sys
from chromadb.cli.cli import app
sys.argv = ["chroma", "run", "--path", sys.argv[1], "--host", "127.0.0.1", "--port", sys.argv[2]]
app()
"""


Requests = Iterator[tuple[int, bytes]]
"""For ever: the number of a query, and what is sent."""


class Figures(NamedTuple):
    """Of one run."""

    rate: float  # searches per second
    p50_ms: float
    p99_ms: float
    recall: float
    cpu_ms: float  # of the servers, all of them, per search


class Way(NamedTuple):
    """How a cluster is asked. `packs`: vectors travel as base64 of f32, not as numbers."""

    where: str
    consistency: str
    packs: bool


LEADER, ALL = "at the leader", "at all three"
WAYS = (
    Way(LEADER, "linearizable", False),
    Way(LEADER, "linearizable", True),
    Way(ALL, "linearizable", False),
    Way(ALL, "stale", False),
    Way(ALL, "stale", True),
)


class System(NamedTuple):
    """A server that is full: where the clients go in turn, their requests, ids of an answer."""

    name: str
    addresses: tuple[tuple[str, int], ...]
    requests: Requests
    pids: tuple[int, ...]
    ids: Callable[[dict[str, Any]], set[str]]


class Connection(asyncio.Protocol):
    """Sends a request, collects the answer. HTTP/1.1 with Content-Length, kept alive."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 2"):
            self._fail(ConnectionError(self._received.decode(errors="replace")))
            return
        place = head.lower().index(b"content-length:") + len(b"content-length:")
        if len(body) >= int(head[place:].split(b"\r", 1)[0]):
            assert self._answered is not None
            self._received = b""
            self._answered.set_result(body)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("closed by the server"))

    async def ask(self, request: bytes) -> bytes:
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)


async def drive(system: System, clients: int, seconds: float, true: list[set[str]]) -> Figures:
    loop = asyncio.get_running_loop()
    answers: dict[int, bytes] = {}
    times: list[float] = []

    async def client(place: int) -> None:
        address = system.addresses[place % len(system.addresses)]
        _, connection = await loop.create_connection(Connection, *address)
        try:
            while time.perf_counter() < end:
                number, asked = next(system.requests)
                begin = time.perf_counter()
                answers[number] = await connection.ask(asked)
                times.append(time.perf_counter() - begin)
        finally:
            connection.close()

    cpu = cpu_seconds(system.pids)
    begin = time.perf_counter()
    end = begin + seconds
    await asyncio.gather(*(client(place) for place in range(clients)))
    spent, cpu = time.perf_counter() - begin, cpu_seconds(system.pids) - cpu
    found = [
        len(system.ids(json.loads(answer)) & true[number]) for number, answer in answers.items()
    ]
    cuts = statistics.quantiles(times, n=100)
    return Figures(
        len(times) / spent, cuts[49] * 1e3, cuts[98] * 1e3, sum(found) / len(found) / LIMIT,
        cpu / len(times) * 1e3,
    )  # fmt: skip


def request(host: str, path: str, body: Any) -> bytes:
    packed = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(packed)}\r\n\r\n"
    )
    return head.encode() + packed


def requests(host: str, path: str, body: Callable[[list[float]], Any], queries: Any) -> Requests:
    """All queries again and again."""
    made = [
        (number, request(host, path, body([round(float(each), 7) for each in query])))
        for number, query in enumerate(queries)
    ]
    return itertools.cycle(made)


def place_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def pieces(vectors: Any) -> Iterator[tuple[int, Any]]:
    for start in range(0, len(vectors), WRITE_DOCUMENTS):
        yield start, vectors[start : start + WRITE_DOCUMENTS]


# --- hivemem -----------------------------------------------------------------------------


def fill_cluster(url: str, vectors: Any, expansion: int | None = None) -> None:
    settings = {"dimensions": vectors.shape[1]}
    if expansion is not None:
        settings["expansion_search"] = expansion
    body = {"name": COLLECTION, "engine": "vector", "settings": settings}
    post(f"{url}/v1/collections", body)
    for start, piece in pieces(vectors):
        documents = [
            {
                "id": str(start + place),
                "vector": {"f32": packed(vector)},
                "metadata": {"share": (start + place) % 100},
            }
            for place, vector in enumerate(piece)
        ]
        asked = {"collection": COLLECTION, "operation": "vector_insert"}
        post(f"{url}/v1/query", {**asked, "parameters": {"documents": documents}})


async def settle(urls: Sequence[str]) -> None:
    """Wait until every node's graph holds everything."""
    asked = {
        "collection": COLLECTION,
        "operation": "vector_info",
        "requirements": {"consistency": "stale"},
    }
    deadline = time.monotonic() + SETTLE_SECONDS
    for url in urls:
        while (await asyncio.to_thread(post, f"{url}/v1/query", asked))["result"][
            "pending_vectors"
        ]:
            if time.monotonic() > deadline:
                raise SystemExit("vectors: the graphs are not made in time")
            await asyncio.sleep(0.5)


def packed(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def of_cluster(urls: Sequence[str], pids: tuple[int, ...], queries: Any, way: Way) -> System:
    consistency = way.consistency

    def body(vector: list[float]) -> Any:
        given = {"f32": packed(vector)} if way.packs else vector
        return {
            "collection": COLLECTION,
            "operation": "vector_search",
            "parameters": {"vector": given, "limit": LIMIT},
            "requirements": {"consistency": consistency},
        }

    return System(
        f"hivemem, {consistency}, {way.where}{', base64' * way.packs}",
        tuple(map(place_of, urls)),
        requests("localhost", "/v1/query", body, queries),
        pids,
        lambda answer: {match["id"] for match in answer["result"]["matches"]},
    )


# --- Chroma ------------------------------------------------------------------------------


@contextmanager
def running_chroma(python: str, folder: Path, port: int) -> Iterator[tuple[str, int]]:
    """Its server with its defaults; yields the URL of the database, and its process."""
    with open(folder / "chroma.log", "wb") as log:
        server = subprocess.Popen(
            [python, "-c", _CHROMA, str(folder / "chroma"), str(port)], stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}/api/v2"
        deadline = time.monotonic() + START_SECONDS
        while not _alive(f"{url}/heartbeat"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"vectors: Chroma: {(folder / 'chroma.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield f"{url}/tenants/default_tenant/databases/default_database", server.pid
    finally:
        server.kill()
        server.wait()


def _alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def fill_chroma(url: str, vectors: Any, expansion: int | None = None) -> str:
    """Returns the URL of the collection."""
    graph: dict[str, Any] = {"space": "cosine"}
    if expansion is not None:
        graph["ef_search"] = expansion
    body: dict[str, Any] = {"name": COLLECTION, "configuration": {"hnsw": graph}}
    collection = f"{url}/collections/{post(f'{url}/collections', body)['id']}"
    for start, piece in pieces(vectors):
        numbers = range(start, start + len(piece))
        body = {
            "ids": [str(number) for number in numbers],
            "embeddings": piece.tolist(),
            "metadatas": [{"share": number % 100} for number in numbers],
        }
        post(f"{collection}/add", body)
    return collection


def of_chroma(collection: str, pid: int, queries: Any) -> System:
    host, _, path = collection.removeprefix("http://").partition("/")

    def body(vector: list[float]) -> Any:
        include = ["distances", "metadatas"]
        return {"query_embeddings": [vector], "n_results": LIMIT, "include": include}

    return System(
        "Chroma",
        (place_of(host),),
        requests(host, f"/{path}/query", body, queries),
        (pid,),
        lambda answer: set(answer["ids"][0]),
    )


# --- The run -----------------------------------------------------------------------------


def truth(vectors: Any, queries: Any) -> list[set[str]]:
    """The ten nearest by cosine, exactly."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        set(map(str, np.argpartition(-(unit @ query), LIMIT)[:LIMIT].tolist())) for query in queries
    ]


async def measure(options: argparse.Namespace, folder: Path) -> None:
    given = np.load(options.embeddings)
    vectors, queries = given[: -options.queries], given[-options.queries :]
    true = truth(vectors, queries)
    print(f"{len(vectors)} vectors of {vectors.shape[1]}, {options.clients} clients", flush=True)
    async with running_cluster(folder / "hivemem", 3, _SETTINGS) as cluster:
        systems = await _cluster_systems(cluster, vectors, queries, options.expansion)
        if options.chroma_python is None:
            return await compare(systems, options, true)
        with running_chroma(options.chroma_python, folder, options.chroma_port) as server:
            print("filling Chroma", flush=True)
            collection = await asyncio.to_thread(fill_chroma, server[0], vectors, options.expansion)
            chroma = of_chroma(collection, server[1], queries)
            await compare([*systems, chroma], options, true)


async def _cluster_systems(
    cluster: LocalCluster, vectors: Any, queries: Any, expansion: int | None = None
) -> list[System]:
    leader = cluster.nodes[await cluster.wait_leader()].http
    urls = [node.http for node in cluster.nodes]
    print("filling hivemem", flush=True)
    await asyncio.to_thread(fill_cluster, leader, vectors, expansion)
    await settle(urls)
    pids = pids_of(cluster)
    return [
        of_cluster([leader] if way.where == LEADER else urls, pids, queries, way) for way in WAYS
    ]


async def compare(
    systems: Sequence[System], options: argparse.Namespace, true: list[set[str]]
) -> None:
    runs: dict[str, list[Figures]] = {system.name: [] for system in systems}
    for _ in range(options.runs + 1):  # the first warms up
        for system in systems:
            found = await drive(system, options.clients, options.seconds, true)
            runs[system.name].append(found)
    print("| system | searches/s | p50 ms | p99 ms | recall@10 | CPU ms/search |")
    print("|---|---|---|---|---|---|")
    for name, figures in runs.items():
        middle = Figures(*(statistics.median(each) for each in zip(*figures[1:], strict=True)))
        print(
            f"| {name} | {middle.rate:.0f} | {middle.p50_ms:.1f} | {middle.p99_ms:.1f} "
            f"| {middle.recall:.3f} | {middle.cpu_ms:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("embeddings", help=".npy, float32, shape (n, d); the last are queries")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--expansion", type=int, help="candidates that a search looks at (default: each system's)"
    )
    parser.add_argument("--chroma-python", help="a Python that has chromadb; without: no Chroma")
    parser.add_argument("--chroma-port", type=int, default=8_901)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hivemem-vectors-") as name:
        folder = Path(name)
        (folder / "hivemem").mkdir()
        uvloop.run(measure(options, folder))


if __name__ == "__main__":
    main()
