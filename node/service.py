"""What a node does for its callers: one async method per use case, whatever the door.

Doors (HTTP today) decode into these calls and encode what they return. Refusals by the
state machine come back as exceptions here, because every door has to tell them apart
from success.

Deadlines are `Clock.monotonic()` seconds and cover the whole call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from engines.command import (
    Command,
    Delete,
    Put,
    Txn,
    validate,
    validate_key,
    validate_namespace,
    validate_session,
)
from engines.errors import InvalidArgument, ReadersBusy
from engines.interfaces import (
    ChangeId,
    DeleteResult,
    HistoryPage,
    Limits,
    PutResult,
    Record,
    RecordPage,
    Rejected,
    Result,
    TxnResult,
)
from engines.read_requests import (
    PAGE_BYTES_MAX,
    GetMany,
    GetRecord,
    GetRecordAt,
    ListHistory,
    ListNamespaces,
    ListSessions,
    NamePage,
    ReadRequest,
    ScanSession,
    Shown,
    Wanted,
)
from engines.session_search import HitPage, SearchSession
from node.clock import Clock
from node.errors import Conflict, HivememError, InternalError, NotFound
from node.forget import Forget, Forgetting, Forgotten
from node.http_errors import as_hivemem, bad_argument, rejection
from node.local_reads import ReaderThreads
from node.reads import LINEARIZABLE, ReadOptions

T = TypeVar("T")


class Router(Protocol):
    """Where a request runs. Loop thread only; every error is a HivememError."""

    async def propose(self, command: Command, deadline: float) -> Result:
        """Replicate one command and return its result, which may be a refusal."""

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        """Replicate independent commands; each has its own result or error, in order."""

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """What a state that may answer answers. Raises also what the request raises."""


@dataclass(frozen=True, slots=True)
class Get:
    """One read inside a batch."""

    namespace: str
    session: str
    key: bytes


BatchOperation = Put | Delete | Get
BatchOutcome = PutResult | DeleteResult | Record | HivememError


class Service:
    """The use cases of one node. Loop thread only."""

    def __init__(
        self, router: Router, limits: Limits, clock: Clock, threads: ReaderThreads
    ) -> None:
        self._router = router
        self._clock = clock
        self.limits = limits
        self.reads = threads.queue
        self.offload = threads.offload
        self.on_thread = threads.on_thread

    def now_ms(self) -> int:
        """What a command is stamped with."""
        return self._clock.now_ms()

    # --- Writes --------------------------------------------------------------------

    async def put(self, command: Put, deadline: float) -> PutResult:
        """Raises: BadRequest, Conflict, Unavailable."""
        return _expect(await self._write(command, deadline), PutResult)

    async def delete(self, command: Delete, deadline: float) -> DeleteResult:
        """Raises: BadRequest, Conflict, Unavailable."""
        return _expect(await self._write(command, deadline), DeleteResult)

    async def txn(self, command: Txn, deadline: float) -> TxnResult:
        """Raises: BadRequest, Conflict, Unavailable."""
        return _expect(await self._write(command, deadline), TxnResult)

    async def forget(self, request: Forget, deadline: float) -> Forgotten:
        """Delete what a session holds, in steps. Raises: BadRequest, Unavailable."""
        walk = Forgetting(self._router, request, self.limits, self._clock, deadline)
        return await walk.run()

    async def _write(self, command: Command, deadline: float) -> Result:
        validate(command, self.limits)
        result = await self._router.propose(command, deadline)
        if isinstance(result, Rejected):
            raise rejection(result)
        return result

    async def batch(
        self, operations: Sequence[BatchOperation], deadline: float
    ) -> list[BatchOutcome]:
        """Run independent operations; one outcome for each, in order.

        Writes are proposed first and together; reads are answered after them, from one
        state. Values beyond `PAGE_BYTES_MAX` in total come back as LIMIT_EXCEEDED.
        Raises: BadRequest if any operation is malformed; then none of them ran.
        """
        writes = [item for item in operations if not isinstance(item, Get)]
        self._validate_batch(operations)
        written = iter(await self._router.propose_many(writes, deadline) if writes else ())
        reads = [item for item in operations if isinstance(item, Get)]
        found = iter(await self._batch_reads(reads, deadline) if reads else ())
        return [
            next(found) if isinstance(item, Get) else _outcome(next(written), item)
            for item in operations
        ]

    def _validate_batch(self, operations: Sequence[BatchOperation]) -> None:
        for number, item in enumerate(operations):
            try:
                if isinstance(item, Get):
                    validate_namespace(item.namespace, self.limits)
                    validate_session(item.session, self.limits)
                    validate_key(item.key, self.limits)
                else:
                    validate(item, self.limits)
            except InvalidArgument as error:
                raise bad_argument(error, f"operations[{number}].") from None

    async def _batch_reads(self, reads: Sequence[Get], deadline: float) -> list[BatchOutcome]:
        request = GetMany(tuple(Wanted(each.namespace, each.session, each.key) for each in reads))
        try:
            found, _ = await self._router.read(request, LINEARIZABLE, deadline)
        except (HivememError, ReadersBusy) as error:
            # The writes of the batch have their outcomes; the reads must not hide them.
            return [as_hivemem(error, writes=False)] * len(reads)
        return [_batch_outcome(record) for record in found]

    # --- Reads ---------------------------------------------------------------------

    async def get(
        self,
        namespace: str,
        session: str,
        key: bytes,
        read: ReadOptions,
        deadline: float,
        *,
        values: bool = True,
    ) -> Record:
        """Raises: NotFound, Unavailable, DeadlineExceeded."""
        request = GetRecord(namespace, session, key, values)
        return _present(await self._router.read(request, read, deadline))

    async def get_at(
        self,
        namespace: str,
        session: str,
        key: bytes,
        revision: int,
        read: ReadOptions,
        deadline: float,
    ) -> Record:
        """The record as it was at `revision`. Raises also: CompactedError, BadRequest."""
        request = GetRecordAt(namespace, session, key, revision)
        return _present(await self._router.read(request, read, deadline))

    async def keys(
        self,
        namespace: str,
        session: str,
        prefix: bytes,
        after: bytes | None,
        limit: int,
        read: ReadOptions,
        deadline: float,
        *,
        values: bool,
    ) -> Shown[RecordPage]:
        """One page of a session's records in key order, and the revision it shows."""
        request = ScanSession(namespace, session, prefix, after, limit, values)
        return await self._router.read(request, read, deadline)

    async def search(
        self, request: SearchSession, read: ReadOptions, deadline: float
    ) -> Shown[HitPage]:
        """Records of one session by their words, best first, and the revision that it shows."""
        return await self._router.read(request, read, deadline)

    async def sessions(
        self, namespace: str, after: str | None, limit: int, read: ReadOptions, deadline: float
    ) -> Shown[NamePage]:
        """One page of session names in order, and the revision it shows."""
        return await self._router.read(ListSessions(namespace, after, limit), read, deadline)

    async def namespaces(
        self, after: str | None, limit: int, read: ReadOptions, deadline: float
    ) -> Shown[NamePage]:
        """One page of namespaces in order, and the revision it shows."""
        return await self._router.read(ListNamespaces(after, limit), read, deadline)

    async def history(
        self,
        namespace: str,
        session: str,
        key: bytes,
        before: ChangeId | None,
        limit: int,
        read: ReadOptions,
        deadline: float,
        *,
        values: bool,
    ) -> Shown[HistoryPage]:
        """One page of a key's retained changes, newest first, and the revision it shows."""
        request = ListHistory(namespace, session, key, before, limit, values)
        return await self._router.read(request, read, deadline)


def _expect(result: Result, kind: type[T]) -> T:
    if not isinstance(result, kind):
        # A request id that was used for another kind of command is refused by the state
        # machine, so this is a defect, and the write did happen.
        raise InternalError("the state machine answered another command", definite=False)
    return result


def _outcome(outcome: Result | HivememError, command: Put | Delete) -> BatchOutcome:
    if isinstance(outcome, Rejected):
        return rejection(outcome)
    if isinstance(outcome, PutResult | DeleteResult | HivememError):
        return outcome
    return as_hivemem(TypeError(f"{type(outcome)} for {type(command)}"), writes=True)


def _present(shown: Shown[Record | None]) -> Record:
    if shown.found is None:
        raise _not_found()
    return shown.found


def _batch_outcome(record: Record | None) -> BatchOutcome:
    if record is None:
        return _not_found()
    return record if record.value is not None else _batch_full()


def _not_found() -> NotFound:
    return NotFound("no such key", field="key")


def _batch_full() -> Conflict:
    return Conflict(
        f"the batch's answer would exceed {PAGE_BYTES_MAX} bytes; get this key by itself",
        code="LIMIT_EXCEEDED",
    )
