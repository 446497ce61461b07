"""Linearizability by its definition: every choice and every order. For tiny histories only.

It shares nothing with the search but the model's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from typing import TypeVar

from tests.histories.history import Operation, Status
from tests.histories.model import Model

S = TypeVar("S")


def linearizable(model: Model[S], operations: Sequence[Operation]) -> bool:
    """Whether some subset with all answered operations, in some order, explains the history."""
    answered = [
        each for each in operations if each.outcome.status not in (Status.FAILED, Status.UNKNOWN)
    ]
    open_ended = [each for each in operations if each.outcome.status is Status.UNKNOWN]
    return any(
        _explains(model, order)
        for count in range(len(open_ended) + 1)
        for applied in combinations(open_ended, count)
        for order in permutations([*answered, *applied])
    )


def _explains(model: Model[S], order: Sequence[Operation]) -> bool:
    latest_call = float("-inf")
    for operation in order:
        # It would stand after an operation that was called only once this one had returned.
        if operation.returned < latest_call:
            return False
        latest_call = max(latest_call, operation.called)
    state = model.initial
    for operation in order:
        after = model.step(state, operation)
        if after is None:
            return False
        state = after
    return True
