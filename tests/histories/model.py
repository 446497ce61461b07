"""What one record may do: the sequential specification that histories are checked against.

The search knows nothing of the store. A `Model` gives it the record's first state, a pure
step, and the knowledge that makes the search short. To check something else (a lock, a
queue), write another `Model`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeVar

from tests.histories.history import Kind, Operation, Status, ok

S = TypeVar("S")


class Placed(NamedTuple):
    """An operation that the search must place, or may."""

    operation: Operation  # as the step is given it
    origin: Operation  # as it was recorded
    returned: float  # by when it must have taken effect; infinite for an optional one
    # Operations of equal effect may change places: where one can be applied the other can,
    # to the same end. None: like no other.
    effect: Hashable = None


@dataclass(frozen=True, slots=True)
class Problem:
    """The operations of one key, prepared for the search.

    `optional` holds families of queues. Invariant, which lets the search try one operation
    of a family at a time: at any state, of those heads that have been called and change the
    state, an earlier queue's head is as good as any other operation of the family.
    """

    required: tuple[Placed, ...]
    optional: tuple[tuple[tuple[Placed, ...], ...], ...]
    # Of states that never come back: when the last operation that needs it was called.
    held: Mapping[Hashable, float] = field(default_factory=dict)


class Model(Protocol[S]):
    @property
    def initial(self) -> S: ...

    def step(self, state: S, operation: Operation) -> S | None:
        """The state after `operation`, as its client saw it end; None if that cannot be.

        An operation with an unknown outcome is applied. One that changes nothing returns an
        equal state. Pure. States are hashable.
        """

    def prepare(self, operations: Sequence[Operation], foresight: bool) -> Problem:
        """All operations of one key → what must be placed and what may be.

        Invariant: the problem has a solution exactly if the operations are linearizable.
        `foresight`: use what later operations prove about earlier ones. It makes the search
        short, and lets it fail before the point where the history goes wrong.
        """

    def describe(self, state: S) -> str: ...


Record = tuple[int, str | None]  # (version, value); version 0: absent
ABSENT: Record = (0, None)


class VersionedRegister:
    """A key-value record with its version, as `engines/kv.py` answers.

    The version is 1 on creation and grows by one with each put; a delete ends the record, so
    that the next put creates it again, at 1. A conditional write is refused unless the
    version is the expected one (0: absent). A value of None stands for one that nobody read.
    """

    initial = ABSENT

    def step(self, state: Record, operation: Operation) -> Record | None:
        version, value = state
        status, told, observed = operation.outcome
        if operation.kind is Kind.GET:
            agrees = version > 0 if told is None else told == version
            return state if agrees and observed == value else None
        expected = operation.expected
        if status is Status.CONFLICT:
            agrees = told is None or told == version
            return state if agrees and expected != version else None
        if expected is not None and expected != version:
            return None
        if operation.kind is Kind.PUT:
            written = version + 1
            return (written, operation.value) if told is None or told == written else None
        found = version > 0 or status is Status.UNKNOWN
        agrees = found if told is None else told == version
        return ABSENT if agrees else None

    def prepare(self, operations: Sequence[Operation], foresight: bool) -> Problem:
        """Drop what had no effect and told nothing, and make the rest as alike as possible.

        A value that no get returned distinguishes nothing: it becomes None. A write whose
        outcome is unknown but whose value, written by nobody else, was read did take effect,
        before the first of those gets returned, and with the version that they told. While
        one of those gets has not been called, the value cannot have been overwritten.
        """
        live = [each for each in operations if each.outcome.status is not Status.FAILED]
        reads = _reads(live)
        writes = Counter(each.value for each in live)
        required: list[Placed] = []
        optional: list[Placed] = []
        held: dict[Hashable, float] = {}
        for each in live:
            read = None if each.value is None else reads.get(each.value)
            seen = each if each.value is None or read else replace(each, value=None)
            until = each.returned
            if foresight and read and writes[each.value] == 1 and each.called <= read.returned:
                # After the get's own return, so that a report names the get.
                until = min(until, math.nextafter(read.returned, math.inf))
                if each.outcome.status is Status.UNKNOWN:
                    seen = replace(each, returned=until, outcome=ok(read.version))
            if each.kind is Kind.GET and each.outcome.status is Status.UNKNOWN:
                continue
            if until == math.inf:
                optional.append(Placed(seen, each, until))
            else:
                required.append(Placed(seen, each, until, _effect(seen)))
        for value, read in reads.items():
            if foresight and writes[value] == 1 and read.version is not None:
                held[read.version, value] = read.last_called
        return Problem(tuple(required), _families(optional), held)

    def describe(self, state: Record) -> str:
        version, value = state
        if version == 0:
            return "absent"
        return f"version {version} " + ("(a value nobody read)" if value is None else repr(value))


class _Reads(NamedTuple):
    """All gets that returned one value."""

    version: int | None  # as one of them was told; the others agree, or it is a violation
    returned: float  # the first return
    last_called: float


def _reads(operations: Iterable[Operation]) -> dict[str, _Reads]:
    """By the value that was read."""
    reads: dict[str, _Reads] = {}
    for each in operations:
        value, version = each.outcome.value, each.outcome.version
        if value is None:
            continue
        known = reads.get(value, _Reads(None, math.inf, -math.inf))
        reads[value] = _Reads(
            version if known.version is None else known.version,
            min(known.returned, each.returned),
            max(known.last_called, each.called),
        )
    return reads


def _effect(operation: Operation) -> Hashable:
    """Writes that tell their version can be applied at one version only, and there alike."""
    version = operation.outcome.version
    if operation.outcome.status is not Status.OK or version is None or version == 0:
        return None
    return None if operation.kind is Kind.GET else (operation.kind, operation.value, version)


def _families(optional: Iterable[Placed]) -> tuple[tuple[tuple[Placed, ...], ...], ...]:
    """Group writes that do the same.

    Two writes of one value (or two deletes) that both can be applied at a state may change
    places in any order of the whole: the one called first can go wherever the other went.
    A conditional one goes first: whatever else it could be applied to later, the
    unconditional one can be applied to as well.
    """
    families: dict[tuple[Kind, str | None], dict[int | None, list[Placed]]] = {}
    for each in sorted(optional, key=lambda placed: placed.origin.called):
        queues = families.setdefault((each.operation.kind, each.operation.value), {})
        queues.setdefault(each.operation.expected, []).append(each)
    return tuple(
        tuple(tuple(queue) for _, queue in sorted(queues.items(), key=lambda item: item[0] is None))
        for queues in families.values()
    )
