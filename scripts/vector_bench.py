"""The vector engine beside bare usearch on the same vectors, in one process.

Prints recall@10 against an exact search, and searches per second of the process's CPU time,
best of several runs, for batches: of a bare index of the same settings on one thread, and
of the engine on a store of its own. There is no network and no log in it.
"""

from __future__ import annotations

import argparse
import base64
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from usearch.index import Index

from engines.codec import pack_value
from engines.collection_writes import CREATE
from engines.command import CollectionCommand, encode
from engines.interfaces import Limits
from engines.kv import KvReader
from engines.registry import Registry
from engines.state_machine import StateMachine
from engines.store import Store
from engines.vector import VectorEngine
from engines.vector_settings import complete

LIMIT = 10
WRITE_DOCUMENTS = 500
SETTLE_SECONDS = 3_600.0


class Entry(NamedTuple):
    index: int
    term: int
    commands: list[bytes]


class Bed:
    """A state machine with one collection, fed without a log."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.engine = VectorEngine()
        self.folder = folder
        self.open()
        self.run(CREATE, {"engine": "vector", "settings": settings})

    def open(self) -> None:
        self.store = Store(self.folder / "state", 8 << 30, 16)
        self.machine = StateMachine(self.store, Limits(), registry=Registry((self.engine,)))

    def run(self, operation: str, body: Any) -> None:
        index = self.machine.applied_index + 1
        command = CollectionCommand("n", "c", operation, pack_value(body), 1, index)
        self.machine.apply([Entry(index, 1, [encode(command)])])

    def fill(self, vectors: Any) -> None:
        for start in range(0, len(vectors), WRITE_DOCUMENTS):
            documents = [
                {
                    "id": str(start + place),
                    "vector": vector.tolist(),
                    "metadata": {"share": (start + place) % 100},
                }
                for place, vector in enumerate(vectors[start : start + WRITE_DOCUMENTS])
            ]
            self.run(
                "vector_insert", self.engine.prepare("vector_insert", {"documents": documents})
            )

    def query(self, operation: str, **parameters: Any) -> Any:
        with self.store.read() as snapshot:
            reader = KvReader(snapshot, self.machine.registry, self.machine.indexes)
            return reader.collections.query("n", "c", operation, parameters)[0]

    def settle(self) -> None:
        """Wait until everything is in the graph."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.query("vector_info")["pending_vectors"] and time.monotonic() < deadline:
            time.sleep(0.5)


def best(times: int, work: Callable[[], object]) -> float:
    """CPU seconds of this process, the least of several runs."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def clustered(count: int, dimensions: int, seed: int) -> Any:
    """Around 256 centres that are the same for every seed. Shape: (count, dimensions)."""
    centres = np.random.default_rng(0).standard_normal((256, dimensions))
    chance = np.random.default_rng(seed)
    spread = chance.standard_normal((count, dimensions))
    return (centres[chance.integers(256, size=count)] + 0.7 * spread).astype(np.float32)


def measure(options: argparse.Namespace, folder: Path) -> None:
    vectors, queries = given_vectors(options)
    dimensions = vectors.shape[1]
    settings = complete({"dimensions": dimensions}, None)
    bed = Bed(folder, {"dimensions": dimensions})
    print("filling", flush=True)
    bed.fill(vectors)
    bed.query("vector_info")
    bed.settle()
    index = Index(
        ndim=dimensions, metric="cos", dtype="f32",
        connectivity=settings["connectivity"], expansion_add=settings["expansion_add"],
        expansion_search=settings["expansion_search"],
    )  # type: ignore[arg-type] # fmt: skip
    print("filling bare usearch", flush=True)
    index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)
    true = nearest(bed, queries, exact=True)
    bare = [set(map(str, row)) for row in index.search(queries, LIMIT, threads=1).keys.tolist()]
    bare_rate = options.queries / best(
        options.runs, lambda: index.search(queries, LIMIT, threads=1)
    )
    given = [{"f32": encoded(query)} for query in queries]
    rate = options.queries / best(
        options.runs,
        lambda: bed.query("vector_search", vectors=given, limit=LIMIT, include=[]),
    )
    print(f"bare usearch   recall {recall(bare, true):.4f}   {bare_rate:.0f} searches/CPU s")
    print(
        f"engine         recall {recall(nearest(bed, queries), true):.4f}   {rate:.0f} "
        f"searches/CPU s   {rate / bare_rate:.2f} of bare"
    )
    for share in (1, 10, 50):
        condition = {"share": {"$lt": share}}
        wanted = nearest(bed, queries[:100], exact=True, filter=condition)
        spent = best(1, lambda where=condition: nearest(bed, queries[:100], filter=where))
        found = recall(nearest(bed, queries[:100], filter=condition), wanted)
        print(f"filter {share:2d} %    recall {found:.4f}   {spent * 10:.2f} CPU ms/search")
    bed.machine.close()
    start = time.perf_counter()
    bed.open()
    bed.query("vector_search", vector=given[0], limit=LIMIT)
    print(f"restart        first answer after {time.perf_counter() - start:.2f} s")
    print(f"graph          {bed.query('vector_info')['graph_vectors']} vectors, as loaded")
    bed.machine.close()


def given_vectors(options: argparse.Namespace) -> tuple[Any, Any]:
    """What is searched, and what is searched for."""
    if options.embeddings is None:
        return (
            clustered(options.vectors, options.dimensions, 1),
            clustered(options.queries, options.dimensions, 2),
        )
    given = np.load(options.embeddings)
    first = given[: -options.queries]
    return first[: options.vectors], given[-options.queries :]


def nearest(bed: Bed, queries: Any, **more: Any) -> list[set[str]]:
    vectors = [{"f32": encoded(query)} for query in queries]
    found = bed.query("vector_search", vectors=vectors, limit=LIMIT, **more)["results"]
    return [{match["id"] for match in each["matches"]} for each in found]


def encoded(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def recall(found: list[set[str]], true: list[set[str]]) -> float:
    return sum(len(a & b) for a, b in zip(found, true, strict=True)) / sum(map(len, true))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=384, help="of clustered ones")
    parser.add_argument(
        "--embeddings", help=".npy, float32, shape (n, d), instead; the last are queries"
    )
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hivemem-vectors-") as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
