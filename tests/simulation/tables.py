"""The tables of docs/correctness.md that are made from the tests themselves.

python -m tests.simulation.tables holes
"""

from __future__ import annotations

import sys

from tests.simulation.holes import HOLES


def holes() -> str:
    """Every hole: what the library does, what the adapter does, and the tests of both."""
    rows = ["| # | hole | the library, as shipped | hivemem | tests |", "|---|---|---|---|---|"]
    for hole in HOLES:
        stock = hole.stock_test.partition("::")[2]
        ours = ", ".join(f"`{name.partition('::')[2]}`" for name in hole.our_tests)
        rows.append(
            f"| {hole.id} | {hole.title} | {hole.stock} | {hole.ours} | `{stock}`; {ours} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print({"holes": holes}[sys.argv[1]]())
