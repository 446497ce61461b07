"""What one statement may do, counted while it does it; more is refused, never cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from engines.cypher_errors import CypherLimit
from engines.cypher_values import SIZED, equal, weight

_STEP_UNITS: Final = 4  # of work that a step of a read is worth
_TEXT_BYTES: Final = 256  # compared or copied, for a unit of work
_PARTS_BYTES: Final = 128  # of lists and maps, the same
_KEY_BYTES: Final = 64  # the same, where each part is made a key
_KEPT_TIMES: Final = 3  # what a key takes, for what its value weighs


class CypherLimits(NamedTuple):
    visited_nodes_max: int  # nodes looked at: of a label, at the end of an edge
    visited_edges_max: int
    rows_max: int  # made by any clause
    work_max: int  # about a microsecond each: large values, wide expressions, labels, types
    held_bytes_max: int  # of rows that wait to be sorted, grouped or written
    result_rows_max: int
    result_bytes_max: int
    compiled_max: int = 20_000  # parts of expressions, some microseconds each, before it runs
    changed_max: int = 0  # nodes and edges made, changed or deleted


READ_LIMITS: Final = CypherLimits(
    visited_nodes_max=2_000_000,
    visited_edges_max=5_000_000,
    rows_max=5_000_000,
    work_max=20_000_000,
    held_bytes_max=64 << 20,
    result_rows_max=10_000,
    result_bytes_max=12 << 20,
)
# Every replica does a write while it does nothing else: about 0.1 s.
WRITE_LIMITS: Final = CypherLimits(
    visited_nodes_max=10_000,
    visited_edges_max=10_000,
    rows_max=10_000,
    work_max=50_000,
    held_bytes_max=8 << 20,
    result_rows_max=1_000,
    result_bytes_max=1 << 20,
    changed_max=2_000,
)


class Budget:
    """Raises CypherLimit. `step`: to be called for every row, to end what nobody waits for; it
    takes how many steps more this one is worth."""

    __slots__ = (
        "_answered",
        "_bytes",
        "_changes",
        "_edges",
        "_nodes",
        "_rows",
        "_work",
        "compiled_parts",
        "limits",
        "step",
    )

    def __init__(self, limits: CypherLimits, step: Callable[[int], None]) -> None:
        self.limits = limits
        self.step = step
        self._nodes = self._edges = self._rows = self._work = self._bytes = self._changes = 0
        self._answered = self.compiled_parts = 0

    def compiled(self, count: int = 1) -> None:
        """Parts of an expression: some are compiled for more than one use."""
        self.compiled_parts += count
        if self.compiled_parts > self.limits.compiled_max:
            raise CypherLimit(f"has more than {self.limits.compiled_max} parts")

    def node(self) -> None:
        self._nodes += 1
        if self._nodes > self.limits.visited_nodes_max:
            raise CypherLimit(f"visits more than {self.limits.visited_nodes_max} nodes")

    def edge(self) -> None:
        self._edges += 1
        if self._edges > self.limits.visited_edges_max:
            raise CypherLimit(f"follows more than {self.limits.visited_edges_max} relationships")

    def row(self) -> None:
        self.step(0)
        self._rows += 1
        if self._rows > self.limits.rows_max:
            raise CypherLimit(f"makes more than {self.limits.rows_max} rows")

    def work(self, units: int) -> None:
        self._work += units
        if self._work > self.limits.work_max:
            raise CypherLimit(f"takes more than {self.limits.work_max} units of work")
        if units >= _STEP_UNITS:
            self.step(units // _STEP_UNITS)

    def keys(self, *values: Any) -> int:
        """Before they are made keys to order or group by; bytes that the keys take."""
        size = sum(map(weight, values))
        self.work(size // _KEY_BYTES)
        return _KEPT_TIMES * size

    def compare(self, left: Any, right: Any, times: int = 1) -> int:
        """Before a pass over both; bytes that they weigh."""
        size = weight(left) + weight(right)
        parts = type(left) in (list, dict) or type(right) in (list, dict)
        self.work(size * times // (_PARTS_BYTES if parts else _TEXT_BYTES))
        return size

    def equal(self, left: Any, right: Any) -> bool | None:
        """`left = right`; None: unknown."""
        if type(left) in SIZED and type(left) is type(right) and len(left) == len(right):
            self.compare(left, right)
        return equal(left, right)

    def hold(self, size: int) -> None:
        """Negative: they are let go."""
        self._bytes += size
        if self._bytes > self.limits.held_bytes_max:
            raise CypherLimit(
                f"holds rows of more than {self.limits.held_bytes_max} bytes to sort, group or "
                "write them"
            )

    def answer(self, size: int) -> None:
        """Bytes of the answer."""
        self._answered += size
        if self._answered > self.limits.result_bytes_max:
            raise CypherLimit(f"answers more than {self.limits.result_bytes_max} bytes: use LIMIT")

    def change(self) -> None:
        self._changes += 1
        if self._changes > self.limits.changed_max:
            raise CypherLimit(
                f"changes more than {self.limits.changed_max} nodes and relationships"
            )
