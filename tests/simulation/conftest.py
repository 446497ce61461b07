"""Clusters of the unmodified library, and snapshots that travel in many chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.stock import StockCluster


@pytest.fixture
def stock(monkeypatch, tmp_path) -> Iterator[Callable[..., StockCluster]]:
    """Makes stock clusters. files: journals and dumps are in files, not in memory."""
    clusters: list[StockCluster] = []

    def make(size: int = 3, *, files: bool = False, **options) -> StockCluster:
        folder = tmp_path if files else None
        clusters.append(StockCluster(monkeypatch, size, folder=folder, **options))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.close()


def use_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.snapshot_transfer.CHUNK_BYTES", 1024)
    monkeypatch.setattr("cluster.snapshot_transfer.WINDOW_BYTES", 3 * 1024)


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Snapshots travel in many chunks, a few at a time."""
    use_small_chunks(monkeypatch)
