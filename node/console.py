"""What people see: tables and progress. The only importer of rich, and only when needed.

Without a terminal a table is plain text with aligned columns, so that it can be piped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol


def write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def write_json(value: object) -> None:
    write(json.dumps(value, ensure_ascii=False))


def say(text: str) -> None:
    """Something on the way, or an error: to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with one row per item; cells are shown as they are, on one line each."""
    clean = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(headings, clean)
        return
    widths = [max(len(cell) for cell in column) for column in zip(headings, *clean, strict=True)]
    for row in ([heading.upper() for heading in headings], *clean):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write("  ".join(cells).rstrip())


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        shown.add_column(heading.upper(), overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


class Progress(Protocol):
    def advance(self, items: int, done_bytes: int) -> None:
        """`items` more are done; `done_bytes` of the total are read."""


@contextmanager
def progress(label: str, total_bytes: int | None) -> Iterator[Progress]:
    """A bar on a terminal; otherwise one line at the end."""
    if sys.stderr.isatty():
        with _rich_progress(label, total_bytes) as bar:
            yield bar
        return
    counter = _Counter()
    yield counter
    say(f"{label}: {counter.items} records")


class _Counter:
    def __init__(self) -> None:
        self.items = 0

    def advance(self, items: int, done_bytes: int) -> None:
        self.items += items


@contextmanager
def _rich_progress(label: str, total_bytes: int | None) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[items]} records"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total_bytes, items=0)

        class Bar(_Counter):
            def advance(self, items: int, done_bytes: int) -> None:
                super().advance(items, done_bytes)
                bars.update(task, completed=done_bytes, items=self.items)

        yield Bar()


def printable(text: str) -> str:
    """One line without control characters, which could redraw the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


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
