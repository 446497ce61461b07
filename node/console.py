"""What people see: tables, progress, errors. The only importer of rich, and only when needed.

Answers go to standard output, everything said on the way to standard error. Without a
terminal a table is plain text with aligned columns and progress is a line now and then, so
that both can be piped and logged.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from node.clock import Clock, SystemClock

PLAIN_PROGRESS_SECONDS = 5.0  # between two progress lines where there is no terminal
FOLDED_COLUMNS_MIN = 20  # a last column narrower than this cannot be read
BAR_SECONDS = 0.1  # between two updates of a bar: drawing costs more than importing a record


def write(text: str) -> None:
    """A line of the answer."""
    sys.stdout.write(f"{_encodable(text, sys.stdout.encoding)}\n")
    sys.stdout.flush()


def write_bytes(data: bytes) -> None:
    """Bytes of the answer, exactly."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def write_json(value: object) -> None:
    """One JSON document on one line."""
    write(json.dumps(value, ensure_ascii=False))


def say(text: str) -> None:
    """Something on the way, or an error: to standard error."""
    sys.stderr.write(f"{_encodable(text, sys.stderr.encoding)}\n")
    sys.stderr.flush()


def say_json(value: object) -> None:
    """One JSON document on one line, to standard error."""
    say(json.dumps(value, ensure_ascii=False))


def confirm(question: str) -> bool | None:
    """Whether a person answers `yes`; None where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    sys.stderr.write(f"{question} [yes/no] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def is_terminal() -> bool:
    """Whether a person reads the answer."""
    return sys.stdout.isatty()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with one row per item; cells are shown as they are, on one line each."""
    clean = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headings, *clean, strict=True)]
    if sys.stdout.isatty() and _fits(widths):
        _rich_table(headings, clean)
        return
    for row in ([heading.upper() for heading in headings], *clean):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write("  ".join(cells).rstrip())


def _fits(widths: Sequence[int]) -> bool:
    """Whether all columns but the last, which may fold, fit into the terminal.

    Where they do not, folded cells are harder to read than lines that the terminal wraps.
    """
    room = shutil.get_terminal_size().columns
    return sum(widths[:-1]) + 3 * len(widths) + min(widths[-1], FOLDED_COLUMNS_MIN) <= room


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings[:-1]:
        shown.add_column(heading.upper(), no_wrap=True)
    shown.add_column(headings[-1].upper(), overflow="fold")
    for row in rows:
        # As Text, because a cell such as "[red]" is data and not markup.
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


class Progress:
    """How far a long command is. `done_bytes` of `total_bytes`; None: nobody knows."""

    def __init__(
        self, label: str, total_bytes: int | None, clock: Clock, unit: str = "records"
    ) -> None:
        self.items = 0
        self._label = label
        self._unit = unit  # of the items; "": there are none
        self._total_bytes = total_bytes
        self._clock = clock
        self._shown_at = clock.monotonic()
        self._done_bytes = 0

    def expect(self, total_bytes: int) -> None:
        """It has turned out how many bytes there are in all."""
        self._total_bytes = total_bytes

    def update(self, items: int, done_bytes: int) -> None:
        """`items` are done in all, and `done_bytes`."""
        self.items, self._done_bytes = items, done_bytes
        now = self._clock.monotonic()
        if now - self._shown_at >= self._period():
            self._shown_at = now
            self._show()

    def _period(self) -> float:
        return PLAIN_PROGRESS_SECONDS

    def _show(self) -> None:
        share = ""
        if self._total_bytes:
            share = f", {min(100, 100 * self._done_bytes // self._total_bytes)} %"
        items = f"{self.items} {self._unit}, " if self._unit else ""
        say(f"{self._label}: {items}{size(self._done_bytes)}{share}")


class _Bar(Progress):
    """On a terminal."""

    def __enter__(self) -> _Bar:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            *([progress.TextColumn(f"{{task.fields[items]}} {self._unit}")] * bool(self._unit)),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        self._bars = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task(self._label, total=self._total_bytes, items=0)
        self._bars.start()
        return self

    def close(self) -> None:
        self._show()
        self._bars.stop()

    def _period(self) -> float:
        return BAR_SECONDS

    def _show(self) -> None:
        self._bars.update(
            self._task,
            total=self._total_bytes,
            completed=self._done_bytes,
            items=self.items,
        )


@contextmanager
def progress(label: str, total_bytes: int | None, unit: str = "records") -> Iterator[Progress]:
    """A bar on a terminal, otherwise a line every few seconds; both on standard error.

    `unit`: of what is counted beside the bytes; "": nothing is.
    """
    clock = SystemClock()
    if not sys.stderr.isatty():
        yield Progress(label, total_bytes, clock, unit)
        return
    bar = _Bar(label, total_bytes, clock, unit).__enter__()
    try:
        yield bar
    finally:
        bar.close()


def printable(text: str) -> str:
    """One line without control characters, which could redraw the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii") if char != " " else char


def _encodable(text: str, encoding: str | None) -> str:
    """A terminal that is not UTF-8 gets escapes rather than an error."""
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)


def size(count: int | None) -> str:
    """Bytes for people: 1.5 MiB; "-" if unknown."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds for people: 2d 3h; "-" if unknown."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"
