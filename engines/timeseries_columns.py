"""Columns of times and values, and their compressed bytes; for time series numpy is imported here.

Times are delta-of-delta, zigzag, LEB128 varints. A value is XORed with the one before it; what
is left is written without its leading and trailing zero bytes, of which a control byte tells
(leading << 4 | bytes written). After Pelkonen et al. 2015, "Gorilla", section 4.1, in whole
bytes instead of bits, so that numpy does the work.

What is stored is a function of the input alone, on every machine: integer operations, and sums
that are rounded once (`math.fsum`), not in an order that a processor chooses.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engines.codec import Malformed

Times = npt.NDArray[np.int64]  # UTC milliseconds since 1970
Values = npt.NDArray[np.float64]
_Words = npt.NDArray[np.uint64]
_Places = npt.NDArray[np.intp]

TIME_MS_MAX: Final = 1 << 53  # either side of 1970: differences of differences fit 64 bits
_VARINT_BYTES_MAX: Final = 10
_FEW: Final = 48  # points: up to here plain Python encodes faster than numpy
_BITS: Final = struct.Struct(">d")
_ONE: Final = np.uint64(1)
_SEVEN: Final = np.uint64(7)
_LIMITS = np.array([1 << (7 * n) for n in range(1, _VARINT_BYTES_MAX)], np.uint64)
_SHIFTS = np.arange(_VARINT_BYTES_MAX, dtype=np.uint64) * _SEVEN
# By control byte: which of a value's eight bytes are in the payload, and how many.
_WRITTEN = np.array(
    [
        [control >> 4 <= place < (control >> 4) + (control & 15) for place in range(8)]
        for control in range(256)
    ]
)
_LENGTHS = _WRITTEN.sum(axis=1)


class DuplicateTime(Exception):
    """There is a point of this time, and the policy is `reject`."""

    def __init__(self, time_ms: int) -> None:
        super().__init__(f"there is a point at {time_ms} already")
        self.time_ms = time_ms


class SumOverflow(Exception):
    """Two values of one time have a sum that is no finite number."""

    def __init__(self, time_ms: int) -> None:
        super().__init__(f"the sum of the values at {time_ms} is not finite")
        self.time_ms = time_ms


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Points: as many times as values, sorted by time unless said otherwise."""

    times: Times
    values: Values

    @property
    def count(self) -> int:
        return self.times.size

    @property
    def first_ms(self) -> int:
        return int(self.times[0])

    @property
    def last_ms(self) -> int:
        return int(self.times[-1])

    def between(self, first_ms: int, end_ms: int) -> Columns:
        """Those with first_ms <= time < end_ms."""
        low, high = np.searchsorted(self.times, (first_ms, end_ms)).tolist()
        return self.part(low, high)

    def outside(self, first_ms: int, end_ms: int) -> Columns:
        """Those that `between` leaves out."""
        low, high = np.searchsorted(self.times, (first_ms, end_ms)).tolist()
        return Columns(
            np.concatenate((self.times[:low], self.times[high:])),
            np.concatenate((self.values[:low], self.values[high:])),
        )

    def part(self, first: int, end: int) -> Columns:
        return Columns(self.times[first:end], self.values[first:end])

    def pairs(self) -> list[list[Any]]:
        """[[time_ms, value], …], of Python's types."""
        return [[*pair] for pair in zip(self.times.tolist(), self.values.tolist(), strict=True)]


EMPTY: Final = Columns(np.empty(0, np.int64), np.empty(0, np.float64))


def from_lists(times: Sequence[int], values: Sequence[float]) -> Columns:
    """Sorted by time, those of one time in the order given. Numbers must have been checked."""
    columns = Columns(np.array(times, np.int64), np.array(values, np.float64))
    if np.all(columns.times[1:] >= columns.times[:-1]):
        return columns
    order = np.argsort(columns.times, kind="stable")
    return Columns(columns.times[order], columns.values[order])


def to_bytes(columns: Columns) -> tuple[bytes, bytes]:
    """Both columns as they travel: little-endian, 8 bytes each."""
    return columns.times.astype("<i8").tobytes(), columns.values.astype("<f8").tobytes()


def from_bytes(times: bytes, values: bytes) -> Columns:
    """Raises Malformed."""
    if len(times) != len(values) or len(times) % 8:
        raise Malformed("columns of different lengths")
    return Columns(
        np.frombuffer(times, "<i8").astype(np.int64),
        np.frombuffer(values, "<f8").astype(np.float64),
    )


def joined(parts: Sequence[Columns]) -> Columns:
    """One after the other."""
    if not parts:
        return EMPTY
    return Columns(
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def merged(old: Columns, new: Columns, policy: str) -> Columns:
    """Both, sorted, one point for each time.

    `policy` says what becomes of several values of one time, taken in order, those of `old`
    first: last, first, sum, max, min or reject. Raises DuplicateTime, SumOverflow.
    """
    times = np.concatenate((old.times, new.times))
    values = np.concatenate((old.values, new.values))
    if not np.all(times[1:] > times[:-1]):
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        return _one_each(times, values, policy)
    return Columns(times, values)


def _one_each(times: Times, values: Values, policy: str) -> Columns:
    starts = np.flatnonzero(np.concatenate(([True], times[1:] != times[:-1])))
    if starts.size == times.size:
        return Columns(times, values)
    ends = np.append(starts[1:], times.size)
    several = np.flatnonzero(ends - starts > 1)
    if policy == "reject":
        raise DuplicateTime(int(times[starts[several[0]]]))
    if policy == "first":
        return Columns(times[starts], values[starts])
    kept = values[ends - 1]
    if policy != "last":
        # In Python, so that equal numbers (0.0 and -0.0) are taken in the order they came in.
        for place in several.tolist():
            found = values[starts[place] : ends[place]].tolist()
            kept[place] = _reduced(found, policy, int(times[starts[place]]))
    return Columns(times[starts], kept)


def _reduced(values: list[float], policy: str, time_ms: int) -> float:
    if policy != "sum":
        return max(values) if policy == "max" else min(values)
    total = values[0]
    for value in values[1:]:
        total += value
    if not -np.inf < total < np.inf:
        raise SumOverflow(time_ms)
    return total


def sound(points: Columns) -> bool:
    """Do times ascend, one point each, and are the values finite?"""
    return bool(np.all(points.times[1:] > points.times[:-1]) and np.isfinite(points.values).all())


# --- Bytes -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """Compressed points, in three sections, each of which grows at its end."""

    times: bytes
    controls: bytes  # one for each value
    payload: bytes


def encode(columns: Columns, last_ms: int, delta_ms: int, last_value: float) -> Encoded:
    """`last_ms`, `delta_ms`, `last_value`: of the point before (a chunk's first: its own time,
    0 and 0.0). Source: see the module."""
    if columns.count <= _FEW:
        return _encode_few(columns, last_ms, delta_ms, last_value)
    deltas = np.diff(columns.times, prepend=np.int64(last_ms))
    changes = np.diff(deltas, prepend=np.int64(delta_ms))
    zigzag = ((changes << 1) ^ (changes >> 63)).view(np.uint64)
    controls, payload = _xor_bytes(columns.values, last_value)
    return Encoded(_varints(zigzag), controls, payload)


def decode(encoded: Encoded, count: int, first_ms: int) -> Columns:
    """The points of a whole chunk. Raises Malformed."""
    zigzag = _from_varints(np.frombuffer(encoded.times, np.uint8), count)
    changes = (zigzag >> _ONE).view(np.int64) ^ -(zigzag & _ONE).view(np.int64)
    times = np.cumsum(np.cumsum(changes)) + np.int64(first_ms)
    return Columns(times, _from_xor_bytes(encoded, count))


def _encode_few(columns: Columns, last_ms: int, delta_ms: int, last_value: float) -> Encoded:
    times, controls, payload = bytearray(), bytearray(), bytearray()
    before = _BITS.pack(last_value)
    for time, value in zip(columns.times.tolist(), columns.values.tolist(), strict=True):
        change = time - last_ms - delta_ms
        last_ms, delta_ms = time, time - last_ms
        left = change << 1 if change >= 0 else ~(change << 1)
        while left > 127:
            times.append(left & 127 | 128)
            left >>= 7
        times.append(left)
        bits = _BITS.pack(value)
        xor = int.from_bytes(bits) ^ int.from_bytes(before)
        before = bits
        tail = xor.to_bytes(8).lstrip(b"\x00")
        written = tail.rstrip(b"\x00")
        controls.append((8 - len(tail)) << 4 | len(written) if written else 0)
        payload += written
    return Encoded(bytes(times), bytes(controls), bytes(payload))


def _varints(numbers: _Words) -> bytes:
    lengths = np.searchsorted(_LIMITS, numbers, side="right") + 1
    longest = int(lengths.max())
    if longest == 1:
        return numbers.astype(np.uint8).tobytes()
    groups = ((numbers[:, None] >> _SHIFTS[:longest]) & np.uint64(127)).astype(np.uint8)
    places = np.arange(longest)
    groups[places < (lengths - 1)[:, None]] |= 128
    return groups[places < lengths[:, None]].tobytes()


def _from_varints(packed: npt.NDArray[np.uint8], count: int) -> _Words:
    ends = np.flatnonzero(packed < 128)
    if ends.size != count or count == 0 or ends[-1] != packed.size - 1:
        raise Malformed("times are not as many as the chunk says")
    if packed.size == count:
        return packed.astype(np.uint64)
    lengths = np.diff(ends, prepend=-1)
    longest = int(lengths.max())
    if longest > _VARINT_BYTES_MAX:
        raise Malformed("a time of too many bytes")
    numbers = packed[ends].astype(np.uint64)
    # From the last, most significant byte on; most numbers have no other.
    for length in range(2, longest + 1):
        longer = np.flatnonzero(lengths >= length)
        group = packed[ends[longer] - (length - 1)] & 127
        numbers[longer] = numbers[longer] << _SEVEN | group
    return numbers


def _xor_bytes(values: Values, last_value: float) -> tuple[bytes, bytes]:
    bits = np.concatenate((np.array([last_value]), values)).view(np.uint64)
    left = bits[1:] ^ bits[:-1]
    rows = left.astype(">u8").view(np.uint8).reshape(-1, 8)
    nonzero = rows != 0
    some = left != 0
    leading = np.where(some, nonzero.argmax(axis=1), 0)
    written = np.where(some, 8 - nonzero[:, ::-1].argmax(axis=1) - leading, 0)
    controls = (leading << 4 | written).astype(np.uint8)
    return controls.tobytes(), rows[_WRITTEN[controls]].tobytes()


def _from_xor_bytes(encoded: Encoded, count: int) -> Values:
    controls = np.frombuffer(encoded.controls, np.uint8)
    if controls.size != count or int(_LENGTHS[controls].sum()) != len(encoded.payload):
        raise Malformed("values are not as many as the chunk says")
    rows = np.zeros((count, 8), np.uint8)
    rows[_WRITTEN[controls]] = np.frombuffer(encoded.payload, np.uint8)
    left = rows.view(">u8").reshape(-1).astype(np.uint64)
    return np.bitwise_xor.accumulate(left).view(np.float64)


# --- Windows -----------------------------------------------------------------------------

_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Windows:
    """Aggregates of the windows that hold points; None: not a finite number."""

    starts: list[int]  # UTC milliseconds
    counts: list[int]
    columns: dict[str, list[float | None]]  # by aggregate, equally long


def aggregate(parts: Sequence[Columns], window_ms: int, wanted: Sequence[str]) -> Windows:
    """The points of several series together, by windows that begin at multiples of `window_ms`.

    `wanted`: avg, min, max, sum, first, last, p50, p90, p95, p99 (between the two nearest
    points, linearly), rate (see `_rates`).
    """
    both = joined(parts)
    if len(parts) > 1:
        order = np.argsort(both.times, kind="stable")
        both = Columns(both.times[order], both.values[order])
    if not both.count:
        return Windows([], [], {name: [] for name in wanted})
    windows = both.times // window_ms
    begins = np.flatnonzero(np.concatenate(([True], windows[1:] != windows[:-1])))
    ends = np.append(begins[1:], both.count)
    counts = ends - begins
    ranked = EMPTY.values
    if any(name in _QUANTILES for name in wanted):
        ranked = both.values[np.lexsort((both.values, windows))]
    found: dict[str, list[float | None]] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # shows as None
        for name in wanted:
            if name in _QUANTILES:
                column = _quantiles(ranked, begins, counts, _QUANTILES[name])
            elif name == "rate":
                column = _rates(parts, window_ms, windows[begins])
            else:
                column = _simple(name, both.values, begins, ends)
            finite = np.isfinite(column).tolist()
            found[name] = [
                value if is_finite else None
                for value, is_finite in zip(column.tolist(), finite, strict=True)
            ]
    return Windows((windows[begins] * window_ms).tolist(), counts.tolist(), found)


def _simple(name: str, values: Values, begins: _Places, ends: _Places) -> Values:
    sums: Values
    match name:
        case "sum":
            return np.add.reduceat(values, begins)
        case "avg":
            sums = np.add.reduceat(values, begins)
            return sums / (ends - begins)
        case "min":
            return np.minimum.reduceat(values, begins)
        case "max":
            return np.maximum.reduceat(values, begins)
        case "first":
            return values[begins]
        case "last":
            return values[ends - 1]
        case _:
            raise ValueError(f"no aggregate {name}")


def _quantiles(ranked: Values, begins: _Places, counts: _Places, quantile: float) -> Values:
    places = (counts - 1) * quantile
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, counts - 1)
    low, high = ranked[begins + below], ranked[begins + above]
    between: Values = low + (high - low) * (places - below)
    return between


def _rates(parts: Sequence[Columns], window_ms: int, windows: Times) -> Values:
    """How fast counters grow, per second: for each series the increases between its points in a
    window, over the time between the first and the last of them; a value that is lower than the
    one before is a counter that began again at 0. Summed over the series; NaN where none has
    two points."""
    rates = np.full(windows.size, np.nan)
    for part in parts:
        own = part.times // window_ms
        same = own[1:] == own[:-1]
        if not same.any():
            continue
        steps = np.diff(part.values)
        grown = np.where(steps < 0, part.values[1:], steps)[same]
        places = np.searchsorted(windows, own[1:][same])
        increase = np.bincount(places, grown, windows.size)
        seconds = np.bincount(places, np.diff(part.times)[same] / 1000, windows.size)
        some = seconds > 0
        rates[some] = np.nan_to_num(rates[some]) + increase[some] / seconds[some]
    return rates
