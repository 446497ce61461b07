"""The derived index of one vector collection: rows in memory, and a graph over most of them.

What an apply changed goes into a queue; whoever searches, or the index's own thread, takes it
over into rows, under a lock. The thread adds rows to the graph in batches, on a copy, and
publishes that; a search uses the graph and looks at the rows behind it one by one. So a write
waits for nothing and a search sees everything.

    queue ──drain──▶ rows 0 .. count        all of them searchable
                     rows 0 .. graph_rows   in the graph
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engines import vector_file
from engines.codec import Value
from engines.errors import QueryCancelled
from engines.space import ItemChange, View
from engines.vector_distance import Doubles
from engines.vector_graph import Graph
from engines.vector_items import PREFIX, item_id, unpack_item
from engines.vector_rounding import BY_WIDTH, narrowest
from engines.vector_rows import Array, Places, Postings, Rows, posted
from engines.vector_settings import vector_bytes

QUEUE_BYTES_MAX: Final = 64 << 20  # of changes while the index is built
LAG_SECONDS_MAX: Final = 1.0  # that a search waits for changes it has seen in its snapshot
IDLE_SECONDS: Final = 0.2  # without changes, before a small batch is added
BATCH_ROWS_MIN: Final = 1_024
BATCH_ROWS_MAX: Final = 16_384
BATCH_SHARE: Final = 8  # a batch is this part of the graph, which is copied for it
DOUBTS_MAX: Final = 32  # searches repeated exactly, before the graph is to round less
CHUNK_ROWS: Final = 64  # added between two looks at whether the index is still wanted
DEAD_SHARE: Final = 4  # rows are renumbered when this part of them is dead
DEAD_ROWS_MIN: Final = 1_024
SAVE_SHARE: Final = 4  # saved when this part of the graph is new
SAVE_ROWS_MIN: Final = 10_000  # added since the last save


@dataclass(frozen=True, slots=True)
class Sight:
    """What a search sees: arrays as of one moment, of which `count` rows are filled."""

    rows: Rows
    graph: Graph | None
    graph_rows: int
    count: int
    vectors: Array
    inverse: Doubles
    visible: Callable[[Places], Any]  # rows → booleans
    lock: threading.Lock | None
    doubted: Callable[[int], None] = lambda count: None  # of so many searches rounding was in doubt

    def postings(self, path: str) -> Postings:
        """Those of one field, over all rows of this sight."""
        if self.lock is None:
            return posted(self.rows, path, self.count)
        with self.lock:
            return posted(self.rows, path, self.count)


class VectorIndex:
    """`changed`: the thread that applies. Everything else: any thread."""

    def __init__(self, settings: Mapping[str, Any], graph_rows_min: int) -> None:
        """`graph_rows_min`: below it, looking at every vector is as fast as a graph."""
        self._settings = settings
        self._graph_rows_min = graph_rows_min
        self._path: Path | None = None
        self._queue: deque[tuple[Sequence[ItemChange], int]] = deque()
        self._queued_bytes = 0
        self._lost = 0  # changes up to this log index were not kept
        self._heard = -1  # everything up to this log index is in rows or queue
        self._news = threading.Condition()  # never held for long: a write takes it
        self._lock = threading.Lock()  # of all below; held as long as taking over takes
        self._rows: Rows | None = None
        self._graph: Graph | None = None
        self._graph_rows = 0
        self._unsaved = 0  # rows added since the graph was saved
        self._doubts = 0  # since the graph rounds as it does
        self._floor = BY_WIDTH[0]  # nothing narrower: it was in doubt
        self._narrowest = "f32"  # the index's own thread's, as the next
        self._scalar_rows = 0  # that were looked at to tell
        self._closed = False
        self._keep = True  # on disk, when closed
        self._thread: threading.Thread | None = None

    @property
    def failed(self) -> bool:
        """See `DerivedIndex`."""
        return False

    def keep_in(self, path: Path) -> None:
        """Where the graph is loaded from and saved to. Before `build`."""
        self._path = path

    def build(self, view: View) -> None:
        """See `DerivedIndex`. Raises CorruptRecord, QueryCancelled."""
        if view.applied_index < self._lost:
            raise QueryCancelled("the index is behind what was written meanwhile")
        rows, graph = self._loaded(view)
        with self._lock:
            if self._lost > view.applied_index:
                raise QueryCancelled("too much was written while the index was built")
            self._rows, self._graph, self._graph_rows = rows, graph, len(graph or ())
            self._heard = max(self._heard, view.applied_index)
            if not self._closed:
                self._thread = threading.Thread(target=self._work, name="vector-index", daemon=True)
                self._thread.start()

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None:
        """See `DerivedIndex`."""
        if self._rows is None:
            with self._lock:  # nobody keeps it while there are no rows
                if self._rows is None and self._overrun(changes, log_index):
                    return
        self._queue.append((changes, log_index))
        self._heard = log_index
        self._tell()

    def close(self) -> None:
        """See `DerivedIndex`; the thread saves the graph before it ends."""
        self._closed = True
        self._tell()

    def ended(self, seconds: float) -> None:
        """Wait until a closed index is saved, but not for ever."""
        if self._thread is not None:
            self._thread.join(seconds)

    def discard(self) -> None:
        """Close it, and leave nothing on disk."""
        self._keep = False
        self.close()
        if self._path is not None:
            _remove(self._path)

    def sight(self, view: View) -> Sight | None:
        """What the view's snapshot holds; None: the index cannot tell, being younger or older."""
        written, applied = view.collection.written_index, view.applied_index
        if self._heard < written:  # committed a moment ago, and about to be told
            with self._news:
                self._news.wait_for(lambda: self._closed or self._heard >= written, LAG_SECONDS_MAX)
        with self._lock:
            self._drain()
            rows = self._rows
            if rows is None or self._heard < written or applied < rows.base:
                return None
            born, died = rows.born, rows.died

            def visible(places: Places) -> Any:
                return (born[places] <= applied) & (died[places] > applied)

            return Sight(
                rows, self._graph, self._graph_rows, rows.count, rows.vectors, rows.inverse,
                visible, self._lock, self._doubted,
            )  # fmt: skip

    def _doubted(self, count: int) -> None:
        """Searches that had to be repeated exactly, for what the graph rounds away."""
        if count:
            self._doubts += count
            if self._doubts >= DOUBTS_MAX:
                self._tell()

    def settled(self, seconds: float) -> bool:
        """Wait until everything is in the graph that is to be there; whether it is. For tests:
        a write may wait for it."""
        with self._news:
            return self._news.wait_for(lambda: self._closed or not self._pending(), seconds)

    def stats(self) -> dict[str, Value]:
        with self._lock:
            rows, graph = self._rows, self._graph
            return {
                "graph_vectors": self._graph_rows,
                "graph_scalar": graph.scalar if graph else None,
                "pending_vectors": rows.count - self._graph_rows if rows else 0,
                "dead_vectors": rows.dead if rows else 0,
                "rows_memory_bytes": rows.memory_bytes if rows else 0,
                "graph_memory_bytes": graph.memory_bytes if graph else 0,
            }

    # --- Taking in -----------------------------------------------------------------

    def _drain(self) -> None:
        """The queue into rows. Under the lock."""
        rows = self._rows
        while rows is not None and self._queue:
            changes, log_index = self._queue.popleft()
            if log_index <= rows.base:
                continue  # what the rows were built from has it
            for change in changes:
                if not change.key.startswith(PREFIX):
                    continue
                identity = item_id(change.key)
                if change.value is None:
                    rows.remove(identity, log_index)
                else:
                    item = unpack_item(change.key, change.value)
                    rows.put(identity, item.vector, item.metadata, log_index)

    def _loaded(self, view: View) -> tuple[Rows, Graph | None]:
        """Rows of every item, in the places that a saved graph has for them."""
        saved = self._saved()
        graph = None
        if saved is not None:
            try:
                graph = Graph.restored(self._settings, saved.graph)
            except ValueError:
                graph = None
        digests = saved.digests if saved is not None and graph is not None else []
        if graph is not None and len(graph) != len(digests):
            graph, digests = None, []
        places = {digest: row for row, digest in enumerate(digests)}
        filled: list[tuple[int, str, bytes, bytes]] = []
        count = len(digests)
        for key, value in view.prefix(PREFIX):
            item, identity = unpack_item(key, value), item_id(key)
            row = (
                places.pop(vector_file.row_digest(identity, item.vector), None) if places else None
            )
            if row is None:
                row = count
                count += 1
            filled.append((row, identity, item.vector, item.metadata))
        rows = self._empty(view.applied_index)
        rows.fill(filled, count)
        return rows, graph

    def _saved(self) -> vector_file.Saved | None:
        if self._path is None:
            return None
        try:
            return vector_file.load(self._path, self._shape())
        except OSError:
            return None  # everything is added again

    def _empty(self, base: int) -> Rows:
        bits = self._settings["scalar"] == "b1"
        width = vector_bytes(self._settings)
        return Rows(width if bits else width // 4, bits, base)

    def _shape(self) -> list[int | str]:
        names = ("dimensions", "metric", "scalar", "connectivity", "expansion_add")
        return [self._settings[name] for name in names]

    # --- The index's own thread ----------------------------------------------------

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def _pending(self) -> int:
        """Rows that are to be added to the graph."""
        with self._lock:
            self._drain()
            rows = self._rows
            if rows is None or (self._graph is None and rows.count < self._graph_rows_min):
                return 0
            return rows.count - self._graph_rows

    def _work(self) -> None:
        while not self._closed:
            heard = self._heard
            pending = self._pending()
            if self._doubts >= DOUBTS_MAX:
                self._widen()
            if self._wasteful():
                self._renumber()
            elif not pending:
                self._await_news(heard, None)
            elif pending >= self._batch_rows() or not self._await_news(heard, IDLE_SECONDS):
                self._extend()
            if self._unsaved >= max(SAVE_ROWS_MIN, self._graph_rows // SAVE_SHARE):
                self._save()
        self._save()

    def _batch_rows(self) -> int:
        share = self._graph_rows // BATCH_SHARE
        return min(max(BATCH_ROWS_MIN, share), BATCH_ROWS_MAX)

    def _await_news(self, heard: int, seconds: float | None) -> bool:
        """Wait for changes behind those heard; whether there are any."""
        with self._news:
            return self._news.wait_for(
                lambda: self._closed or self._heard != heard or self._doubts >= DOUBTS_MAX, seconds
            )

    def _overrun(self, changes: Sequence[ItemChange], log_index: int) -> bool:
        """Count what waits while the index is built; whether it is given up, for being too much."""
        self._queued_bytes += sum(len(change.value or b"") for change in changes)
        if self._queued_bytes <= QUEUE_BYTES_MAX:
            return False
        self._lost = log_index
        self._queue.clear()
        self._queued_bytes = 0
        return True

    def _wasteful(self) -> bool:
        rows = self._rows
        return rows is not None and rows.dead > max(DEAD_ROWS_MIN, rows.count // DEAD_SHARE)

    def _extend(self) -> None:
        """Add the rows that are there to a copy of the graph, and publish it."""
        with self._lock:
            rows, old, first = self._rows, self._graph, self._graph_rows
            assert rows is not None  # the thread starts when they are there
            vectors, count = rows.vectors, min(rows.count, first + BATCH_ROWS_MAX)
        scalar = self._scalar(vectors[:count])
        if old is not None and _is_wider(scalar, old.scalar):
            old, first = None, 0  # what came since is not of that kind; the old one serves so long
        graph = Graph(self._settings, scalar) if old is None else old.copy()
        added = self._add(graph, vectors, np.arange(first, count), first)
        with self._lock:
            self._graph, self._graph_rows = graph, first + added
            self._unsaved += added
        self._tell()

    def _renumber(self) -> None:
        """Rows without the dead ones, and a graph of them; the old ones serve until it is made."""
        with self._lock:
            rows, base = self._rows, self._heard
            self._drain()
            assert rows is not None  # the thread starts when they are there
            vectors, behind = rows.vectors, rows.count
            kept = np.flatnonzero(rows.died[: rows.count] > base)
            graph_wanted = len(kept) >= self._graph_rows_min
        self._scalar_rows = 0
        graph = Graph(self._settings, self._scalar(vectors[kept]) if graph_wanted else None)
        added = self._add(graph, vectors, kept, 0) if graph_wanted else 0
        if self._closed:
            return
        with self._lock:
            self._drain()
            self._rows = rows.without_dead(kept, behind, base)
            self._graph = graph if graph_wanted else None
            self._graph_rows = added
            self._unsaved += added
        self._tell()

    def _scalar(self, vectors: Array) -> str:
        """What a graph of them is to hold; looked at anew when there are twice as many."""
        kept: str = self._settings["scalar"]
        if kept != "f32":
            return kept
        if len(vectors) >= 2 * self._scalar_rows:
            with suppress(QueryCancelled):
                self._narrowest = narrowest(self._settings["metric"], vectors, self._must_go_on)
                self._scalar_rows = len(vectors)
        return max(self._narrowest, self._floor, key=BY_WIDTH.index)

    def _widen(self) -> None:
        """Make the graph anew, with more of each component."""
        graph, self._doubts = self._graph, 0
        ours = self._settings["scalar"] == "f32"  # else the collection's settings say what it holds
        if ours and graph is not None and _is_wider("f32", graph.scalar):
            self._floor = BY_WIDTH[BY_WIDTH.index(graph.scalar) + 1]
            self._extend()

    def _must_go_on(self) -> None:
        if self._closed:
            raise QueryCancelled("the index is closed")

    def _add(self, graph: Graph, vectors: Array, rows: Places, first: int) -> int:
        """Rows, numbered from `first` on, until the index is closed; how many."""
        for start in range(0, len(rows), CHUNK_ROWS):
            if self._closed:
                return start
            chunk = rows[start : start + CHUNK_ROWS]
            numbers = np.arange(first + start, first + start + len(chunk))
            graph.add(numbers, vectors[chunk])
            with self._lock:
                self._drain()  # the queue must not grow as long as this takes
        return len(rows)

    def _save(self) -> None:
        """The published graph, which nobody adds to."""
        with self._lock:
            rows, graph, count = self._rows, self._graph, self._graph_rows
            path = self._path
            if not self._keep or path is None or rows is None or graph is None:
                return
            if not self._unsaved:
                return
            self._unsaved = 0
            vectors, ids = rows.vectors, rows.ids
        digests = [vector_file.row_digest(ids[row], vectors[row].tobytes()) for row in range(count)]
        try:
            vector_file.save(path, self._shape(), digests, graph.dump())
        except OSError:
            return  # the next start adds everything again
        self._unlink_discarded(path)

    def _unlink_discarded(self, path: Path) -> None:
        if not self._keep:  # since the save began
            _remove(path)


def _is_wider(scalar: str, other: str) -> bool:
    return scalar in BY_WIDTH and BY_WIDTH.index(scalar) > BY_WIDTH.index(other)


def _remove(path: Path) -> None:
    with suppress(OSError):  # it is of no use to anybody, but does no harm
        path.unlink()
