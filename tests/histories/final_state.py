"""Cheap checks of what is left when a run is over: nothing acknowledged is missing, nothing
else is there. They cost one pass, find what they find without a search, and say it plainly.

Only what is certain is reported: a write that another may have followed is not missed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tests.histories.history import Kind, Operation, Status

_ABSENT = (0, None)

Final = Mapping[str, tuple[int, str | None]]
"""By key, what a read after the end of the history found: (version, value) or (0, None)."""


class LostWrite(NamedTuple):
    operation: Operation  # acknowledged
    found: tuple[int, str | None]

    def __str__(self) -> str:
        return f"lost: {self.operation}; at the end: {_described(self.found)}"


class Phantom(NamedTuple):
    """A record that no operation that may have had an effect can have left."""

    key: str
    found: tuple[int, str | None]
    refused: tuple[Operation, ...]  # operations with that value that must have had no effect

    def __str__(self) -> str:
        by = "; ".join(map(str, self.refused)) or "nobody"
        return f"phantom: {self.key} is {_described(self.found)}, written by {by}"


@dataclass(slots=True)
class _Writes:
    """Of one key, the writes that had an effect or may have."""

    acknowledged: list[Operation]
    latest: list[float]  # the latest two returns, descending
    latest_delete: float

    def add(self, operation: Operation) -> None:
        if operation.outcome.status is Status.OK:
            self.acknowledged.append(operation)
        self.latest = sorted((*self.latest, operation.returned), reverse=True)[:2]
        if operation.kind is Kind.DELETE:
            self.latest_delete = max(self.latest_delete, operation.returned)

    def last_beside(self, operation: Operation) -> float:
        """The latest return of any other write."""
        first, second = self.latest
        return second if operation.returned == first else first


def lost_writes(history: Iterable[Operation], final: Final) -> list[LostWrite]:
    """Acknowledged puts and deletes whose effect is not there though nothing undid it.

    Raises ValueError: a key that was written is not in `final`.
    """
    by_key: defaultdict[str, _Writes] = defaultdict(
        lambda: _Writes([], [-math.inf, -math.inf], -math.inf)
    )
    for operation in history:
        if _may_have_effect(operation):
            by_key[operation.key].add(operation)
    missing = sorted(by_key.keys() - final.keys())
    if missing:
        raise ValueError(f"final: {', '.join(missing)} were written and not read at the end")
    return [
        LostWrite(operation, final[key])
        for key, writes in by_key.items()
        for operation in writes.acknowledged
        if _lost(operation, writes, final[key])
    ]


def phantoms(history: Iterable[Operation], final: Final) -> list[Phantom]:
    """Records whose value was only ever written by operations without effect, or by none."""
    written: defaultdict[str, set[str | None]] = defaultdict(set)
    refused: defaultdict[tuple[str, str | None], list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.kind is Kind.PUT:
            if _may_have_effect(operation):
                written[operation.key].add(operation.value)
            else:
                refused[operation.key, operation.value].append(operation)
    return [
        Phantom(key, record, tuple(refused[key, record[1]]))
        for key, record in final.items()
        if record != _ABSENT and record[1] not in written[key]
    ]


def _may_have_effect(operation: Operation) -> bool:
    status, version, _ = operation.outcome
    if operation.kind is Kind.GET or status not in (Status.OK, Status.UNKNOWN):
        return False
    return operation.kind is Kind.PUT or version != 0  # That delete found nothing.


def _lost(operation: Operation, writes: _Writes, found: tuple[int, str | None]) -> bool:
    told = operation.outcome.version
    if writes.last_beside(operation) < operation.called:  # It is the last write.
        if operation.kind is Kind.DELETE:
            return found != _ABSENT
        return found[1] != operation.value or (told is not None and found[0] != told)
    if operation.kind is Kind.DELETE or told is None or writes.latest_delete >= operation.called:
        return False
    # Without a delete the version has not fallen since.
    return found[0] < told or (found[0] == told and found[1] != operation.value)


def _described(record: tuple[int, str | None]) -> str:
    return "absent" if record == _ABSENT else f"version {record[0]} {record[1]!r}"
