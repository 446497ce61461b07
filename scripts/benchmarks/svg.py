"""Line charts as SVG, written by hand: panels side by side, with one legend below them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

PANEL_WIDTH, PANEL_HEIGHT = 380, 290  # pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 30, 46  # around the plotted area
LEGEND_ROW, LEGEND_COLUMNS = 18, 4
TICKS = 5
INK, GRID, BACKGROUND = "#222", "#e2e2e2", "#ffffff"


@dataclass(frozen=True, slots=True)
class Panel:
    """`lines`: name → points. A logarithmic axis takes values above 0 only."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[float, ...] = ()  # where nothing is given, round numbers


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where on the axis, 0..1."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(value)
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)


def document(panels: Sequence[Panel], colours: Mapping[str, str]) -> str:
    """One SVG. `colours` orders the legend too."""
    used = [name for name in colours if any(name in panel.lines for panel in panels)]
    width = PANEL_WIDTH * len(panels)
    height = PANEL_HEIGHT + LEGEND_ROW * math.ceil(len(used) / LEGEND_COLUMNS) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="{BACKGROUND}"/>',
    ]
    for index, panel in enumerate(panels):
        lines += _panel(panel, index * PANEL_WIDTH, colours)
    for index, name in enumerate(used):
        row, column = divmod(index, LEGEND_COLUMNS)
        x = LEFT + column * (width - LEFT) / LEGEND_COLUMNS
        y = PANEL_HEIGHT + 10 + row * LEGEND_ROW
        lines.append(_line([(x, y), (x + 18, y)], colours[name]))
        lines.append(_text(x + 24, y + 4, name, "start"))
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, offset: float, colours: Mapping[str, str]) -> Iterator[str]:
    points = [point for line in panel.lines.values() for point in line]
    x_axis = _axis([x for x, _ in points], panel.x_log, panel.x_ticks)
    y_axis = _axis([y for _, y in points], panel.y_log, ())
    left, right = offset + LEFT, offset + PANEL_WIDTH - RIGHT
    top, bottom = TOP, PANEL_HEIGHT - BOTTOM

    def x_of(value: float) -> float:
        return left + x_axis.share(value) * (right - left)

    def y_of(value: float) -> float:
        return bottom - y_axis.share(value) * (bottom - top)

    for tick in y_axis.ticks:
        yield _line([(left, y_of(tick)), (right, y_of(tick))], GRID, 1)
        yield _text(left - 6, y_of(tick) + 4, short(tick), "end")
    for tick in x_axis.ticks:
        yield _line([(x_of(tick), bottom), (x_of(tick), bottom + 4)], INK, 1)
        yield _text(x_of(tick), bottom + 17, short(tick), "middle")
    yield _line([(left, top), (left, bottom), (right, bottom)], INK, 1)
    middle = (top + bottom) / 2
    yield _text((left + right) / 2, top - 12, panel.title, "middle", "font-weight='bold'")
    yield _text((left + right) / 2, bottom + 36, panel.x_label, "middle")
    turn = f"transform='rotate(-90 {offset + 14:.1f} {middle:.1f})'"
    yield _text(offset + 14, middle, panel.y_label, "middle", turn)
    for name, line in panel.lines.items():
        places = [(x_of(x), y_of(y)) for x, y in line]
        yield _line(places, colours[name])
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colours[name]}"/>'


def _axis(values: Sequence[float], log: bool, ticks: tuple[float, ...]) -> _Axis:
    low, high = min(values), max(values)
    if log:
        low, high = (low / 1.15, high * 1.15) if ticks else (_decade(low, -1), _decade(high, 1))
        first = math.floor(math.log10(low))
        decades = range(first, math.ceil(math.log10(high)) + 1)
        steps = (1.0,) if len(decades) > 3 else (1.0, 3.0)
        marks = tuple(step * 10.0**decade for decade in decades for step in steps)
        inside = tuple(mark for mark in marks if low * 0.999 <= mark <= high * 1.001)
        return _Axis(low, high, True, ticks or inside)
    step = _round_step(high / TICKS if high > 0 else 1.0)
    top = math.ceil(high / step) * step or step
    marks = tuple(step * index for index in range(round(top / step) + 1))
    return _Axis(0.0, top, False, ticks or marks)


def _decade(value: float, direction: int) -> float:
    """The next of 1, 3, 10, 30 … below or above."""
    exponent = math.floor(math.log10(value))
    marks = [step * 10.0**power for power in range(exponent - 1, exponent + 3) for step in (1, 3)]
    if direction < 0:
        return max(mark for mark in marks if mark <= value)
    return min(mark for mark in marks if mark >= value)


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * each for each in (1, 2, 5, 10) if size * each >= step)


def short(value: float) -> str:
    """12000 → 12 k: what fits beside an axis."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _line(points: Sequence[tuple[float, float]], colour: str, width: float = 1.8) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" {more}>'
        f"{escape(text)}</text>"
    )
