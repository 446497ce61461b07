"""May a graph hold rounded vectors? bfloat16 halves a graph's memory and the time of a search.

What a graph finds is compared anew by the vectors themselves, so rounding costs nothing but what
it makes the graph overlook. Embeddings are spread so widely that it overlooks none; vectors
close together and far from the origin (all components near 1,000, say) become one. Hence the
vectors that are there are looked at: of a sample, are the nearest among the candidates that
rounded vectors would give?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from engines.vector_distance import Array, inverse_norms, rough

MARGIN: Final = 16  # candidates beyond the limit, for what rounding confuses
ROUNDED_FACTOR: Final = 3  # candidates for each hit, of a graph of rounded vectors
SAMPLE_ROWS: Final = 32
NEAREST: Final = 10
FOUND_SHARE_MIN: Final = 0.99
_BLOCK_ROWS: Final = 4_096
_KEPT_BITS: Final = np.uint32(0xFFFF0000)
_HALF: Final = np.uint32(0x7FFF)  # and one more if what is kept is odd: ties to even


def rounded(vectors: Array) -> Array:
    """To the nearest bfloat16. Shape and type: f32, as given; finite."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    found: Array = ((bits + _HALF + odd) & _KEPT_BITS).view(np.float32)
    return found


def may_round(metric: str, vectors: Array, step: Callable[[], object] = lambda: None) -> bool:
    """Does a graph of these vectors find as much if they are rounded? Shape: f32 (n, d).

    `step`: called once a block, may raise.
    """
    sample = vectors[:: max(1, len(vectors) // SAMPLE_ROWS)][:SAMPLE_ROWS]
    count = NEAREST * ROUNDED_FACTOR + MARGIN
    true = _nearest(metric, sample, vectors, NEAREST, lambda block: block, step)
    found = _nearest(metric, rounded(sample), vectors, count, rounded, step)
    hits = sum(len(np.intersect1d(*pair)) for pair in zip(true, found, strict=True))
    return hits >= FOUND_SHARE_MIN * true.size


def _nearest(
    metric: str,
    queries: Array,
    vectors: Array,
    count: int,
    shown: Callable[[Array], Array],
    step: Callable[[], object],
) -> Array:
    """Rows of the vectors nearest to each query as they are shown. Shape: (m, count) or fewer."""
    rows = np.empty((len(queries), 0), np.int64)
    distances = np.empty((len(queries), 0))
    for start in range(0, len(vectors), _BLOCK_ROWS):
        step()
        block = shown(vectors[start : start + _BLOCK_ROWS])
        away = rough(metric, queries, block, inverse_norms(block))
        own = np.broadcast_to(np.arange(start, start + len(block)), away.shape)
        rows = np.concatenate([rows, own], axis=1)
        distances = np.concatenate([distances, away], axis=1)
        if rows.shape[1] > count:
            best = np.argpartition(distances, count - 1, axis=1)[:, :count]
            rows = np.take_along_axis(rows, best, axis=1)
            distances = np.take_along_axis(distances, best, axis=1)
    return rows
