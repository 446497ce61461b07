"""Forgetting a session: what it holds is listed page by page, and deleted as it was listed.

Theory of operation. The bound is a revision: that of the first page's state, or an earlier one
that the caller gives. A key is deleted only while its last change is not behind the bound, which
the state machine compares as it deletes (`Txn`). So what is written after the listing stays,
whoever wrote it; a version would not tell that, for a key that was deleted and made anew begins
at 1 again. And whoever repeats a request under the same bound, because its answer was lost or
there was more, deletes nothing that was written since the first one.

A transaction holds many keys, since each command is replicated, applied and (its request id)
remembered by itself. One in which some key has changed does nothing, and is halved until what
changed stands alone.

Why not a command of its own: each build in a cluster would have to know it before one proposes
it, and an entry that deletes whatever a prefix matches would hold up every replica for as long as
there are keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from engines.command import Command, Compare, CompareOp, CompareTarget, Txn, TxnDelete, validate
from engines.errors import InvalidArgument, ReadersBusy
from engines.interfaces import (
    DeleteResult,
    Limits,
    Record,
    RecordPage,
    Rejected,
    Result,
    TxnResult,
)
from engines.read_requests import ReadRequest, ScanSession, Shown
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError, InternalError
from node.http_errors import as_hivemem, rejection
from node.reads import LINEARIZABLE, ReadOptions

T = TypeVar("T")

PAGE_KEYS_MAX = 500  # deleted by what is proposed together: a leader's batch of expired ones
REVISION_BYTES = 8  # that a comparison counts beside its key
TXN_KEY_BYTES_MAX = 64 << 10  # of one transaction's keys; it names each of them twice


class Router(Protocol):
    """Where a request runs; see `service.Router`."""

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]: ...

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]: ...


class Forget(NamedTuple):
    """Delete what a session holds, of keys that start with `prefix`, at most `limit` keys.

    `max_revision`: what changed after it stays; None: what changes from now on.
    """

    namespace: str
    session: str
    prefix: bytes
    limit: int
    max_revision: int | None = None


class Forgotten(NamedTuple):
    """`deleted`, `kept`: keys. `kept`: those seen that changed after `revision`, the bound.

    `more`: there may be others; then at least one was deleted.
    """

    deleted: int
    kept: int
    more: bool
    revision: int


class Forgetting:
    """One request, run once. Loop thread only."""

    def __init__(
        self, router: Router, request: Forget, limits: Limits, clock: Clock, deadline: float
    ) -> None:
        self._router = router
        self._request = request
        self._limits = limits
        self._clock = clock
        self._deadline = deadline
        self._bound = -1
        self._deleted = 0
        self._kept = 0

    async def run(self) -> Forgotten:
        """Raises: BadRequest, Unavailable, OutOfSpace, DeadlineExceeded; an error that comes when
        keys were deleted already is not definite, and says how many."""
        try:
            more = await self._walk()
        except (HivememError, InvalidArgument, ReadersBusy) as error:
            known = as_hivemem(error, writes=True)
            if self._deleted:
                done = f"{self._deleted} keys were deleted by this request before"
                known.with_effect(f"{done}; go on with max_revision={self._bound}")
            if known is error:
                raise
            raise known from error
        return Forgotten(self._deleted, self._kept, more, self._bound)

    async def _walk(self) -> bool:
        """Whether there may be more."""
        begun = self._clock.monotonic()
        # A page that is begun late would end in an error that hides what was done.
        enough = begun + (self._deadline - begun) / 2
        after: bytes | None = None
        while True:
            page = await self._page(after)
            taken = self._take(page.records)
            await self._delete([record.key for record in taken if self._is_old(record)])
            if not page.more and len(taken) == len(page.records):
                return False
            after = taken[-1].key
            now = self._clock.monotonic()
            # More is never said of nothing done: who asks again would ask for ever.
            if self._deleted >= (1 if now >= enough else self._request.limit):
                return True
            if now >= self._deadline:
                raise DeadlineExceeded("whatever was seen in time changed after max_revision")

    async def _page(self, after: bytes | None) -> RecordPage:
        namespace, session, prefix, _, max_revision = self._request
        scan = ScanSession(namespace, session, prefix, after, PAGE_KEYS_MAX, values=False)
        page, revision = await self._router.read(scan, LINEARIZABLE, self._deadline)
        if self._bound < 0:
            self._bound = revision if max_revision is None else min(max_revision, revision)
        return page

    def _take(self, records: Sequence[Record]) -> Sequence[Record]:
        """The first of them, as far as the limit allows; counts those that stay."""
        room = self._request.limit - self._deleted
        for count, record in enumerate(records, 1):
            room -= self._is_old(record)
            self._kept += not self._is_old(record)
            if room == 0:
                return records[:count]
        return records

    def _is_old(self, record: Record) -> bool:
        return record.revision <= self._bound

    async def _delete(self, keys: Sequence[bytes]) -> None:
        """Delete those that have not changed since they were listed; count them."""
        waiting = list(self._chunks(keys))
        while waiting:
            commands = [self._command(chunk) for chunk in waiting]
            for command in commands:
                validate(command, self._limits)
            outcomes = await self._router.propose_many(commands, self._deadline)
            changed = [
                chunk
                for chunk, outcome in zip(waiting, outcomes, strict=True)
                if isinstance(outcome, TxnResult) and not self._count(outcome)
            ]
            _raise_failure(outcomes)
            waiting = []
            for chunk in changed:
                if len(chunk) == 1:
                    self._kept += 1
                else:
                    middle = len(chunk) // 2
                    waiting += (chunk[:middle], chunk[middle:])

    def _count(self, result: TxnResult) -> bool:
        """Whether it was done."""
        # What somebody else deleted meanwhile, or what expired, is nobody's here.
        self._deleted += sum(
            isinstance(each, DeleteResult) and each.deleted for each in result.results
        )
        return result.succeeded

    def _chunks(self, keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        # Each key is in a comparison, with a revision, and in what is then done.
        revisions = REVISION_BYTES * min(self._limits.txn_ops_max, len(keys))
        bytes_max = min(TXN_KEY_BYTES_MAX, (self._limits.txn_bytes_max - revisions) // 2)
        first, size = 0, 0
        for at, key in enumerate(keys):
            if at > first and (
                at - first == self._limits.txn_ops_max or size + len(key) > bytes_max
            ):
                yield keys[first:at]
                first, size = at, 0
            size += len(key)
        if keys:
            yield keys[first:]

    def _command(self, keys: Sequence[bytes]) -> Txn:
        # With a request id it is tried again when the leader is lost, and done once.
        unchanged = (
            Compare(key, CompareTarget.REVISION, CompareOp.LE, self._bound) for key in keys
        )
        return Txn(
            self._request.namespace, self._request.session, tuple(unchanged),
            tuple(TxnDelete(key) for key in keys), (), self._clock.now_ms(), self._clock.new_id(),
        )  # fmt: skip


def _raise_failure(outcomes: Sequence[Result | HivememError]) -> None:
    """The first failure, one that leaves something unknown before all others."""
    failures: list[HivememError] = []
    for outcome in outcomes:
        if isinstance(outcome, Rejected):
            failures.append(rejection(outcome))
        elif isinstance(outcome, HivememError):
            failures.append(outcome)
        elif not isinstance(outcome, TxnResult):
            failures.append(
                InternalError("the state machine answered another command", definite=False)
            )
    if failures:
        raise min(failures, key=lambda error: error.definite)
