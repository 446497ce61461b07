"""Distances, computed from stored vectors: what an answer says, whatever found the vector.

`cos`: 1 - cosine, 0 to 2. `l2sq`: the squared Euclidean distance. `ip`: 1 - inner product. Of
bits: how many differ.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

_CELLS_MAX: Final = 1 << 20  # components of differences in memory at once


def inverse_norms(vectors: Array) -> Doubles:
    """Shape: (n, d) → (n,). 0 for a vector of zeros."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    with np.errstate(divide="ignore"):
        inverse: Doubles = np.where(squares > 0, 1 / np.sqrt(squares), 0.0)
    return inverse


def exact(metric: str, queries: Array, candidates: Array) -> Doubles:
    """Distances of each query to candidates of its own, in double precision.

    Shape: (m, d) and (m, c, d) → (m, c).
    """
    if queries.dtype == np.uint8:
        return _differing(queries[:, None, :], candidates)
    left, right = queries.astype(np.float64), candidates.astype(np.float64)
    if metric == "l2sq":
        right -= left[:, None, :]
        squares: Doubles = np.einsum("mcd,mcd->mc", right, right)
        return squares
    products: Doubles = np.matmul(right, left[:, :, None])[:, :, 0]
    if metric == "ip":
        return 1 - products
    norms = np.einsum("md,md->m", left, left)[:, None] * np.einsum("mcd,mcd->mc", right, right)
    # Rounding may lead out of the range.
    return np.clip(1 - products / np.sqrt(np.where(norms > 0, norms, 1.0)), 0.0, 2.0)


def rough(metric: str, queries: Array, vectors: Array, inverse: Doubles) -> Doubles:
    """Distances of all to all in single precision, to choose candidates by: their order is
    right up to rounding, their scale may be another.

    Shape: (m, d), (n, d) and the vectors' `inverse_norms` → (m, n).
    """
    if queries.dtype == np.uint8:
        return np.stack([_differing(query, vectors) for query in queries])
    if metric == "l2sq":
        # Differences, not |a|² + |b|² - 2ab: that loses what is near, far from the origin.
        return np.stack([_squares(query, vectors) for query in queries])
    products = queries @ vectors.T
    if metric == "ip":
        return -products.astype(np.float64)
    found: Doubles = -products * inverse
    return found


def _squares(query: Array, vectors: Array) -> Doubles:
    found = np.empty(len(vectors))
    step = max(1, _CELLS_MAX // vectors.shape[1])
    for start in range(0, len(vectors), step):
        away = vectors[start : start + step] - query
        found[start : start + step] = np.einsum("ij,ij->i", away, away)
    return found


def _differing(left: Array, right: Array) -> Doubles:
    counts: Doubles = np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.float64)
    return counts
