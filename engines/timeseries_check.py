"""Verification of a collection of time series: every invariant between its items."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from engines.space import View
from engines.timeseries_chunks import (
    CHUNK_POINTS_MAX,
    CHUNKS,
    Chunk,
    chunk_key,
    chunk_of,
    make_chunk,
    points_of,
)
from engines.timeseries_columns import sound
from engines.timeseries_rollups import ROLLUPS, read_row
from engines.timeseries_series import (
    ID_BYTES,
    POSTINGS,
    SERIES,
    Series,
    posting_key,
    read_series,
)


def problems(view: View) -> Iterator[str]:
    """In words. Raises CorruptRecord."""
    ids: set[bytes] = set()
    postings = 0
    for key, packed in view.prefix(SERIES):
        series = read_series(key, packed)
        ids.add(series.id)
        postings += len(series.name.tags)
        yield from (f"series {series.name}: {each}" for each in _series(view, series))
    counted = 0
    for key, _ in view.prefix(POSTINGS):
        counted += 1
        if key[-ID_BYTES:] not in ids:
            yield f"posting {key.hex()} names no series"
    if counted != postings:
        yield f"there are {counted} postings for {postings} tags"
    for prefix, what in ((CHUNKS, "chunk"), (ROLLUPS, "rollup row")):
        for key, _ in view.prefix(prefix):
            if key[1 : 1 + ID_BYTES] not in ids:
                yield f"{what} {key.hex()} belongs to no series"
    for key, _ in view.range():
        if key[:1] not in (SERIES, POSTINGS, CHUNKS, ROLLUPS):
            yield f"item {key.hex()} is of no kind"


def _series(view: View, series: Series) -> Iterator[str]:
    if series.empty:
        yield "is empty"
    for tag, value in series.name.tags:
        if view.get(posting_key(series.name.metric, tag, value, series.id)) is None:
            yield f"has no posting for {tag}"
    chunks: list[Chunk] = []
    for key, packed in view.prefix(CHUNKS + series.id):
        chunk = chunk_of(key, packed)
        chunks.append(chunk)
        yield from _chunk(series, key, packed, chunk)
    for chunk, following in pairwise(chunks):
        if chunk.last_ms >= following.first_ms:
            yield f"chunks overlap at {following.first_ms}"
    found = (sum(chunk.count for chunk in chunks), len(chunks))
    if found != (series.points, series.chunks):
        yield f"has {found[0]} points in {found[1]} chunks, its record says otherwise"
    if chunks:
        times = (chunks[0].first_ms, chunks[-1].last_ms, chunks[-1].first_ms)
        if times != (series.first_ms, series.last_ms, series.open_ms):
            yield "times are not those of its record"
        if series.rolled_ms is not None and chunks[0].first_ms < series.rolled_ms:
            yield "has points of a time that rollups stand for"
    rows = 0
    for key, packed in view.prefix(ROLLUPS + series.id):
        rows += 1
        if read_row(key, packed).points < 1:
            yield f"row {key.hex()} is of no points"
    if rows != series.rows:
        yield f"has {rows} rollup rows, its record says {series.rows}"


def _chunk(series: Series, key: bytes, packed: bytes, chunk: Chunk) -> Iterator[str]:
    if key != chunk_key(series.id, chunk.first_ms):
        yield f"chunk of {chunk.first_ms} is under another time"
    if chunk.count > CHUNK_POINTS_MAX:
        yield f"chunk of {chunk.first_ms} has {chunk.count} points"
    points = points_of(series.id, chunk)
    if not sound(points):
        yield f"chunk of {chunk.first_ms}: times do not ascend, or a value is not finite"
    if make_chunk(points).pack() != packed:
        yield f"chunk of {chunk.first_ms} is not as its points are written"
