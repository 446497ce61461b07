"""Every mutation against all scenarios, for the record: see `scripts/mutate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.simulation.direct import fails, names
from tests.simulation.mutation import Mutation, applied
from tests.simulation.mutations import MUTATIONS, named

FILES = (
    "scenarios",
    "holes",
    "holes_votes",
    "holes_snapshots",
    "membership",
    "snapshots_sim",
    "compaction_sim",
    "repair",
    "deferral",
)
FAILURES_MAX = 3  # tests that are named in the table


def noticing(mutation: Mutation, tests: Sequence[str]) -> list[str]:
    """The first of the tests that fail with the mutation; those that it names come first."""
    found: list[str] = []
    with applied(mutation):
        for test in dict.fromkeys((*mutation.tests, *tests)):
            if len(found) < FAILURES_MAX and _fails(test):
                found.append(test)
    return found


def _fails(test: str) -> bool:
    try:
        return fails(test)
    except Exception:  # a scenario that a mutant does not even let come about
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutations; all if none is named")
    chosen = [named(name) for name in parser.parse_args(arguments).names] or MUTATIONS
    everything = names(*FILES)
    broken = [test for test in everything if fails(test)]
    if broken:
        print(f"Not counted, since they fail anyhow: {', '.join(broken)}\n")
    tests = [test for test in everything if test not in broken]
    print("| rule that is switched off | hole | noticed by (the first of them) |")
    print("|---|---|---|", flush=True)
    missed = 0
    for mutation in chosen:
        found = noticing(mutation, tests)
        missed += not found
        cell = ", ".join(f"`{test}`" for test in found) or "**nobody**"
        print(f"| {mutation.name} | {mutation.holes} | {cell} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
