"""The bytes of columns: they decode to the bit, whatever wrote them and in how many pieces."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import timeseries_columns
from engines.codec import Malformed
from engines.timeseries_chunks import make_chunk, read_chunk
from engines.timeseries_columns import TIME_MS_MAX, from_lists

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1_000, 1_000).map(float),
    st.sampled_from([0.0, -0.0, 1.5]),
)
steps = st.one_of(st.just(1_000), st.integers(1, 50), st.integers(1, 1 << 40))
points = st.lists(st.tuples(steps, numbers), min_size=1, max_size=120)
starts = st.one_of(st.integers(-(1 << 52), 1 << 52), st.just(-TIME_MS_MAX + 1))


def of(start: int, pairs: list[tuple[int, float]]) -> timeseries_columns.Columns:
    times, time = [], start
    for step, _ in pairs:
        times.append(time)
        time += step
    return from_lists(times, [value for _, value in pairs])


@given(starts, points, st.data())
def test_one_encoding_whoever_writes_it(
    start: int, pairs: list[tuple[int, float]], data: st.DataObject
) -> None:
    columns = of(start, pairs)
    written = []
    for few in (0, 1_000):
        with patch.object(timeseries_columns, "_FEW", few):
            written.append(make_chunk(columns).pack())
    cut = data.draw(st.integers(1, columns.count))
    chunk = make_chunk(columns.part(0, cut))
    if cut < columns.count:
        chunk = chunk.appended(columns.part(cut, columns.count))
    assert chunk.pack() == written[0] == written[1]
    found = read_chunk(written[0]).columns()
    assert found.times.tobytes() == columns.times.tobytes()
    assert found.values.tobytes() == columns.values.tobytes()


@given(points, st.data())
def test_cut_bytes_are_malformed_or_decode(
    pairs: list[tuple[int, float]], data: st.DataObject
) -> None:
    packed = make_chunk(of(0, pairs)).pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(Malformed):
        read_chunk(packed[:cut]).columns()
