"""docs/correctness.md says what the tests say."""

from __future__ import annotations

from pathlib import Path

from tests.simulation import tables
from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import FAULTS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "correctness.md").read_text(encoding="utf-8")


def test_the_table_of_holes_is_the_one_that_the_tests_hold() -> None:
    assert tables.holes() in DOCUMENT, "run: python -m tests.simulation.tables holes"


def test_every_mutation_is_in_the_table_and_was_noticed() -> None:
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]
    for mutation in MUTATIONS:
        row = next((row for row in rows if row.startswith(f"| {mutation.name} |")), None)
        assert row is not None, f"not in the table: {mutation.name}; run scripts/mutate"
        assert "**nobody**" not in row


def test_every_kind_of_fault_is_counted_in_the_record_of_the_campaign() -> None:
    for name in FAULTS:
        assert f"| {name} |" in DOCUMENT, f"{name} is not in the campaign's record"
