"""Is a history linearizable? Each key is decided by itself, and the report says why not.

    python -m tests.histories.linearizability FILE     exit 0: yes, 1: no, 2: undecided

Linearizability is local (Herlihy and Wing 1990, theorem 1): a history is linearizable
exactly if that of each object is, and the keys of a session are written one by one.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.histories.history import History, Operation, Status
from tests.histories.model import Model, VersionedRegister
from tests.histories.search import Obstacle, Search, SearchResult, Verdict

STEPS_MAX = 2_000_000  # steps of the model, for each key: some seconds

_EXIT_CODES = {Verdict.OK: 0, Verdict.VIOLATION: 1, Verdict.UNDECIDED: 2}


@dataclass(frozen=True, slots=True)
class KeyResult:
    key: str
    operations: int
    search: SearchResult


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `results`: violations first, then undecided keys, then the rest."""

    results: tuple[KeyResult, ...]
    statuses: dict[Status, int]  # operations by what their client was told

    @property
    def verdict(self) -> Verdict:
        return self.results[0].search.verdict if self.results else Verdict.OK

    @property
    def steps(self) -> int:
        return sum(result.search.steps for result in self.results)

    def __str__(self) -> str:
        """The verdict, then each key that is not ok, with the operations in question."""
        counts = ", ".join(f"{count} {status}" for status, count in self.statuses.items())
        lines = [
            f"{self.verdict}: {sum(self.statuses.values())} operations ({counts}), "
            f"{len(self.results)} keys, {self.steps} steps"
        ]
        for result in self.results:
            if result.search.verdict is not Verdict.OK:
                lines += _rendered(result)
        return "\n".join(lines)


def check_key(
    key: str,
    operations: Iterable[Operation],
    model: Model[Any] | None = None,
    steps_max: int = STEPS_MAX,
) -> KeyResult:
    """Decide one key, whose operations these are, in any order. `model`: VersionedRegister.

    A violation is searched again without foresight, for a report of where it shows first.
    """
    chosen: Model[Any] = VersionedRegister() if model is None else model
    listed = list(operations)
    decided = Search(chosen, chosen.prepare(listed, foresight=True), steps_max).run()
    if decided.verdict is Verdict.VIOLATION:
        again = Search(chosen, chosen.prepare(listed, foresight=False), steps_max).run()
        obstacle = decided.obstacle if again.obstacle is None else again.obstacle
        steps = decided.steps + again.steps
        decided = SearchResult(Verdict.VIOLATION, steps, obstacle)
    return KeyResult(key, len(listed), decided)


def check_history(
    history: Iterable[Operation],
    model: Model[Any] | None = None,
    steps_max: int = STEPS_MAX,
) -> Report:
    """Decide every key. `steps_max` bounds the search of each, in steps of the model."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    statuses = dict.fromkeys(Status, 0)
    for operation in history:
        by_key[operation.key].append(operation)
        statuses[operation.outcome.status] += 1
    results = [check_key(key, by_key[key], model, steps_max) for key in sorted(by_key)]
    gravity = (Verdict.VIOLATION, Verdict.UNDECIDED, Verdict.OK)
    results.sort(key=lambda result: gravity.index(result.search.verdict))
    return Report(tuple(results), statuses)


def _rendered(result: KeyResult) -> list[str]:
    obstacle = result.search.obstacle
    if obstacle is None:
        return [
            f"key {result.key}: undecided after {result.search.steps} steps, "
            f"{result.operations} operations"
        ]
    return [f"key {result.key}: not linearizable", *_explained(obstacle)]


def _explained(obstacle: Obstacle) -> list[str]:
    lines = ["  no order of what was called before the return of this has a place for it:"]
    lines.append(f"    {obstacle.blocked}")
    lines.append(f"  the record could be: {'; '.join(obstacle.states)}")
    if obstacle.concurrent:
        lines.append("  not placed either, by one attempt:")
        lines += (f"    {operation}" for operation in obstacle.concurrent)
    if obstacle.placed:
        lines.append("  placed before, by that attempt, the last ones in its order:")
        lines += (f"    {operation}" for operation in obstacle.placed)
    return lines


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tests.histories.linearizability FILE", file=sys.stderr)
        return 64
    report = check_history(History.load(Path(arguments[0])))
    print(report)
    return _EXIT_CODES[report.verdict]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
