"""Batches: operations that no quorum could decide are tried again, the others are not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import replace

from node import client_wire as wire
from node.client_types import BatchGet, BatchOperation, BatchResult
from node.clock import Clock
from node.errors import HivememError, Unavailable

PAUSE_SECONDS_MAX = 0.1  # before operations without an outcome are sent again
REQUEST_MS_MAX = 60_000

Outcome = BatchResult | HivememError
Send = Callable[[Sequence[BatchOperation], int], Awaitable[Sequence[Outcome]]]


def batch_document(operations: Sequence[BatchOperation]) -> bytes:
    return wire.dumps({"operations": [wire.operation(each) for each in operations]})


async def run_batch(
    operations: Sequence[BatchOperation], send: Send, clock: Clock, deadline: float
) -> list[Outcome]:
    """One outcome for each operation, in order. `deadline`: monotonic seconds.

    Every write has a request id, the same each time it is sent. Raises: HivememError, if
    the batch as a whole failed before any operation had an outcome.
    """
    filled = [_identified(each, clock) for each in operations]
    outcomes: dict[int, Outcome] = {}
    waiting = list(range(len(filled)))
    while waiting:
        left_ms = max(1, int(1000 * (deadline - clock.monotonic())))
        try:
            answers = await send([filled[i] for i in waiting], min(left_ms, REQUEST_MS_MAX))
        except HivememError as error:
            if not outcomes:
                raise
            # Each its own, because what is known of each operation differs.
            answers = [copy(error) for _ in waiting]
        for i, answer in zip(waiting, answers, strict=True):
            outcomes[i] = _carried(outcomes.get(i), answer)
        waiting = [i for i in waiting if isinstance(outcomes[i], Unavailable)]
        pause = clock.random().uniform(0, PAUSE_SECONDS_MAX)
        if not waiting or clock.monotonic() + pause >= deadline:
            break
        await asyncio.sleep(pause)
    return [outcomes[i] for i in range(len(filled))]


def _identified(op: BatchOperation, clock: Clock) -> BatchOperation:
    if isinstance(op, BatchGet) or op.request_id is not None:
        return op
    return replace(op, request_id=clock.new_id())


def _carried(earlier: Outcome | None, now: Outcome) -> Outcome:
    """`now`, but not more certain than what is known of earlier tries of the operation."""
    unsure = isinstance(earlier, HivememError) and not earlier.definite
    # Nodes remember a conflict under the request id: it settles the earlier tries too.
    if unsure and isinstance(now, HivememError) and now.code != "VERSION_CONFLICT":
        now.definite = False
    return now
