"""The HNSW graph of a vector collection: the only importer of usearch.

A graph that is searched is never added to: the library's threads share its buffers, and a
search beside an addition is more than it promises. Who adds does it to a copy, which costs
far less than the additions, and then publishes that. Source: Malkov & Yashunin 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from usearch.compiled import MetricKind, ScalarKind
from usearch.index import BatchMatches, Index

from engines.vector_distance import Doubles
from engines.vector_rows import Array, Places

_METRICS: Final = {"cos": MetricKind.Cos, "l2sq": MetricKind.L2sq, "ip": MetricKind.IP}
_SCALARS: Final = {
    "f32": ScalarKind.F32,
    "bf16": ScalarKind.BF16,
    "f16": ScalarKind.F16,
    "i8": ScalarKind.I8,
    "b1": ScalarKind.B1,
}
GRAPH_SCALARS: Final = tuple(_SCALARS)


class Graph:
    """Keys are row numbers. One thread adds; any number search a graph nobody adds to."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        scalar: str | None = None,
        *,
        index: Index | None = None,
    ) -> None:
        """`scalar`: what it holds of each component; None: what the settings say."""
        self._settings = settings
        self._index = _empty(settings, scalar or settings["scalar"]) if index is None else index

    def __len__(self) -> int:
        return len(self._index)

    def copy(self) -> Self:
        return type(self)(self._settings, index=self._index.copy())

    @property
    def scalar(self) -> str:
        """What it holds of each component."""
        return self._index.dtype.name.lower()

    @property
    def precise(self) -> bool:
        """Does it hold the vectors as they are stored?"""
        return self._index.dtype in (ScalarKind.F32, ScalarKind.B1)

    def add(self, rows: Places, vectors: Array) -> None:
        """Shape: (n,) and (n, d)."""
        self._index.add(rows.astype(np.uint64), vectors, threads=1)

    def search(self, queries: Array, count: int) -> tuple[Places, Doubles]:
        """The nearest rows of each query, best first, and how far away it takes them to be; -1
        and inf where there are fewer.

        Shape: (m, d) → (m, count), twice. The library looks at as many candidates as are asked
        for, if that is more than `expansion_search`.
        """
        found = self._index.search(queries, count, threads=1)
        keys: npt.NDArray[np.int64] = np.asarray(found.keys).astype(np.int64)
        told: Doubles = np.asarray(found.distances).astype(np.float64)
        if isinstance(found, BatchMatches):
            short = np.asarray(found.counts)[:, None] <= np.arange(keys.shape[1])[None, :]
            keys[short], told[short] = -1, np.inf
            return keys, told
        padded = np.full((1, count), -1, np.int64)
        padded[0, : len(keys)] = keys
        away = np.full((1, count), np.inf)
        away[0, : len(keys)] = told
        return padded, away

    def dump(self) -> bytes:
        return bytes(self._index.save() or b"")

    @classmethod
    def restored(cls, settings: Mapping[str, Any], dumped: bytes) -> Self:
        """Raises ValueError: the library does not take it."""
        index = _empty(settings, settings["scalar"])  # the file's own prevails
        try:
            index.load(dumped)
        except Exception as error:  # the library has no types of its own for this
            raise ValueError(f"not a graph: {error}") from error
        # It has a setter, which the type checker does not see behind another property.
        index.expansion_search = settings["expansion_search"]  # type: ignore[misc]
        return cls(settings, index=index)

    @property
    def expansion(self) -> int:
        """Candidates that a search looks at, at least."""
        return int(self._index.expansion_search)

    @property
    def memory_bytes(self) -> int:
        return int(self._index.memory_usage)


def _empty(settings: Mapping[str, Any], scalar: str) -> Index:
    bits = settings["scalar"] == "b1"
    return Index(
        ndim=settings["dimensions"],
        metric=MetricKind.Hamming if bits else _METRICS[settings["metric"]],
        dtype=_SCALARS[scalar],
        connectivity=settings["connectivity"],
        expansion_add=settings["expansion_add"],
        expansion_search=settings["expansion_search"],
        enable_key_lookups=False,
    )
