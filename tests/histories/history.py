"""What clients asked of the store, when, and what they were told: the input of the checkers.

There is no clock here: whoever records passes monotonic seconds, real or virtual. Values are
labels chosen by the workload; checking is sharpest where each written value is unique. Only
linearizable operations belong in a history, on keys that start absent and never expire.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

OPERATIONS_MAX = 2_000_000  # operations in one history; about 400 bytes of memory each


class Kind(StrEnum):
    PUT = "put"  # with `expected`: only if that is the record's version (0: must not exist)
    DELETE = "delete"  # `expected` as for put
    GET = "get"


class Status(StrEnum):
    OK = "ok"
    CONFLICT = "conflict"  # refused: the version was not the expected one
    FAILED = "failed"  # certainly had no effect, and never will
    UNKNOWN = "unknown"  # may take effect at any time after the call, at most once, or never


class Outcome(NamedTuple):
    """What the client was told. `version` None: the answer did not tell it.

    put: the version written. get: the version read, 0 for absent. delete: the version that
    ended, 0 if nothing was there; None then still says that something was. conflict: the
    actual version, 0 if the record does not exist.
    """

    status: Status
    version: int | None = None
    value: str | None = None  # of a get that found a record

    def __str__(self) -> str:
        version = "?" if self.version is None else self.version
        match self.status:
            case Status.OK if self.version == 0:
                return "absent"
            case Status.OK:
                return f"version {version}" + ("" if self.value is None else f" {self.value!r}")
            case Status.CONFLICT:
                return f"conflict, actual version {version}"
            case _:
                return str(self.status)


FAILED = Outcome(Status.FAILED)
UNKNOWN = Outcome(Status.UNKNOWN)
ABSENT = Outcome(Status.OK, 0)  # of a get or a delete: no record was there


def ok(version: int | None = None, value: str | None = None) -> Outcome:
    return Outcome(Status.OK, version, value)


def conflict(actual: int | None = None) -> Outcome:
    return Outcome(Status.CONFLICT, actual)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client. Times are seconds.

    Invariant: called <= returned, and returned is infinite exactly if the outcome is unknown.
    """

    client: str
    kind: Kind
    key: str
    value: str | None  # what a put writes; None: it does not matter, since nobody read it
    expected: int | None  # the version that a conditional write asks for
    called: float
    returned: float
    outcome: Outcome

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        status = self.outcome.status
        if not -math.inf < self.called <= self.returned:
            raise ValueError(f"called: {self.called} is not before returned, {self.returned}")
        if (self.returned == math.inf) != (status is Status.UNKNOWN):
            raise ValueError(f"returned: {self.returned} does not fit the status {status}")
        if self.value is not None and self.kind is not Kind.PUT:
            raise ValueError(f"value: {self.value!r} does not fit the kind {self.kind}")
        if self.expected is not None and (self.kind is Kind.GET or self.expected < 0):
            raise ValueError(f"expected: {self.expected} does not fit the kind {self.kind}")
        self._check_outcome()

    def _check_outcome(self) -> None:
        status, version, value = self.outcome
        found = self.kind is Kind.GET and status is Status.OK and version != 0
        if (value is not None) != found:
            raise ValueError(f"outcome.value: {value!r} does not fit {self.kind} {status}")
        least = 1 if self.kind is Kind.PUT and status is Status.OK else 0
        if version is not None and version < least:
            raise ValueError(f"outcome.version: {version} does not fit {self.kind} {status}")
        if status is Status.CONFLICT and self.expected is None:
            raise ValueError(f"outcome.status: a {self.kind} without `expected` cannot conflict")

    def __str__(self) -> str:
        asked = "" if self.value is None else f" {self.value!r}"
        asked += "" if self.expected is None else f" if_version={self.expected}"
        until = "…" if self.returned == math.inf else f"{self.returned:.6f}"
        times = f"[{self.called:.6f} – {until}]"
        return f"{times} {self.client}: {self.kind} {self.key}{asked} → {self.outcome}"

    def to_json(self) -> str:
        """One line. An unknown outcome returns at null."""
        return json.dumps(
            {
                "client": self.client,
                "kind": self.kind,
                "key": self.key,
                "value": self.value,
                "expected": self.expected,
                "called": self.called,
                "returned": None if self.returned == math.inf else self.returned,
                "status": self.outcome.status,
                "version": self.outcome.version,
                "observed": self.outcome.value,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, line: str) -> Operation:
        """Raises ValueError, KeyError."""
        fields: dict[str, Any] = json.loads(line)
        returned = fields["returned"]
        return cls(
            fields["client"],
            Kind(fields["kind"]),
            fields["key"],
            fields["value"],
            fields["expected"],
            fields["called"],
            math.inf if returned is None else returned,
            Outcome(Status(fields["status"]), fields["version"], fields["observed"]),
        )


@dataclass(slots=True)
class _Open:
    """An operation that was called and has not returned."""

    client: str
    kind: Kind
    key: str
    value: str | None
    expected: int | None
    called: float

    def end(self, outcome: Outcome, returned: float) -> Operation:
        if outcome.status is Status.UNKNOWN:
            returned = math.inf
        return Operation(
            self.client,
            self.kind,
            self.key,
            self.value,
            self.expected,
            self.called,
            returned,
            outcome,
        )


class History:
    """Records operations; iterates over them in the order in which they were called.

    Call `begin` before the request is sent and `end` after the answer is here, with the time
    of that moment. Where the clock stands still, the order of these calls orders the
    operations: each moment is recorded as later than the one before, by the least amount.
    """

    def __init__(self, operations_max: int = OPERATIONS_MAX) -> None:
        self._operations: list[Operation | _Open] = []
        self._operations_max = operations_max
        self._now = -math.inf  # as passed in
        self._recorded = -math.inf  # Invariant: _recorded >= _now

    def __len__(self) -> int:
        return len(self._operations)

    def __iter__(self) -> Iterator[Operation]:
        """An operation that has not returned has an unknown outcome."""
        for each in self._operations:
            yield each if isinstance(each, Operation) else each.end(UNKNOWN, math.inf)

    def begin(
        self,
        client: str,
        kind: Kind,
        key: str,
        now: float,
        *,
        value: str | None = None,
        expected: int | None = None,
    ) -> int:
        """Record a call; returns the operation's number, for `end`.

        Raises ValueError: time went backwards, a put has no value, or the history is full.
        """
        if (value is None) == (kind is Kind.PUT):
            raise ValueError(f"value: {value!r} does not fit the kind {kind}")
        if len(self._operations) >= self._operations_max:
            raise ValueError(f"operations_max: the history holds {self._operations_max} already")
        self._operations.append(_Open(client, kind, key, value, expected, self._moment(now)))
        return len(self._operations) - 1

    def end(self, number: int, outcome: Outcome, now: float) -> Operation:
        """Record an answer, or that its outcome stays unknown.

        Raises ValueError: it ended before, the outcome does not fit, or time went backwards.
        """
        opened = self._operations[number]
        if isinstance(opened, Operation):
            raise ValueError(f"number: operation {number} has ended already")
        ended = opened.end(outcome, self._moment(now))
        self._operations[number] = ended
        return ended

    def save(self, path: Path) -> None:
        """Write JSON Lines, one operation each."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{operation.to_json()}\n" for operation in self)

    @classmethod
    def load(cls, path: Path, operations_max: int = OPERATIONS_MAX) -> History:
        """Raises ValueError that names the line."""
        operations: list[Operation] = []
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    operations.append(Operation.from_json(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"line {number}: {error!r}") from error
        return cls.of(operations, operations_max)

    @classmethod
    def of(cls, operations: Iterable[Operation], operations_max: int = OPERATIONS_MAX) -> History:
        """A history of operations with their own times, for instance of several recorders
        that shared a clock. Where moments are equal the operations count as concurrent."""
        history = cls(operations_max)
        history._operations.extend(sorted(operations, key=lambda each: each.called))
        if len(history) > operations_max:
            raise ValueError(f"operations_max: {len(history)} are more than {operations_max}")
        moments = [each.called for each in history]
        moments += [each.returned for each in history if each.returned < math.inf]
        history._now = history._recorded = max(moments, default=-math.inf)
        return history

    def _moment(self, now: float) -> float:
        if not self._now <= now < math.inf:
            raise ValueError(f"now: {now} is before {self._now}, which was recorded already")
        self._now = now
        self._recorded = max(now, math.nextafter(self._recorded, math.inf))
        return self._recorded
