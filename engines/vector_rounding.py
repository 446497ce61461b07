"""How far may a graph round f32 vectors? What is narrower is smaller, and faster to walk.

What a graph finds is compared anew by the vectors themselves, so rounding costs nothing but what
it makes the graph overlook. Embeddings are spread so widely that it overlooks next to nothing;
vectors close together and far from the origin (all components near 1,000, say) become one. Hence
the vectors that are there are looked at: of a sample, are the nearest among the candidates that
rounded vectors would give?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def to_bfloat16(vectors: Array) -> Array:
    """The nearest ones. Shape and type: f32, as given; finite."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    found: Array = ((bits + _HALF + odd) & _KEPT_BITS).view(np.float32)
    return found


def to_i8(vectors: Array) -> Array:
    """As usearch makes i8 of vectors for cosines: at a length of 127, without what is behind the
    point. Shape and type: f32, as given."""
    found: Array = np.trunc(vectors * (inverse_norms(vectors) * 127)[:, None]).astype(np.float32)
    return found


_NARROW: Final[Mapping[str, Callable[[Array], Array]]] = {
    "i8": to_i8,
    "bf16": to_bfloat16,
}
BY_WIDTH: Final = (*_NARROW, "f32")


def narrowest(metric: str, vectors: Array, step: Callable[[], object] = lambda: None) -> str:
    """Of BY_WIDTH, with which a graph finds as much. Shape: f32 (n, d).

    `step`: called once a block, may raise.
    """
    sample = vectors[:: max(1, len(vectors) // SAMPLE_ROWS)][:SAMPLE_ROWS]
    count = NEAREST * ROUNDED_FACTOR + MARGIN
    true = _nearest(metric, sample, vectors, NEAREST, lambda block: block, step)
    for scalar, shown in _NARROW.items():
        if scalar == "i8" and metric != "cos":
            continue  # which has no length to lose
        found = _nearest(metric, shown(sample), vectors, count, shown, step)
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(true, found, strict=True))
        if hits >= FOUND_SHARE_MIN * true.size:
            return scalar
    return "f32"


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
