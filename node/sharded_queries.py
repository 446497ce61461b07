"""One operation on a collection of several shards: the steps of its engine, at the parts.

Each shard answers at a moment of its own. What is asked of several at once is asked at the same
time, and shares the deadline: a read ends with the first shard that fails, and the others are
cancelled; of a write every shard's outcome is waited for, because it is to be said. A write is
atomic in each shard and not in all together: if one refuses what others have done, the error
is not definite and names the shards that did their part. A retry with the same request id finds
in each part what came of the first try.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from engines.codec import Value, pack_value, unpack_value
from engines.collection_reader import NO_COLLECTION
from engines.collection_requests import ExplainQuery, QueryAnswer, QueryCollection
from engines.engine import Across, Engine, Kind, Refused, Round, Steps, across_of
from engines.errors import InvalidArgument
from engines.interfaces import CollectionResult, RejectCode, Rejected
from engines.read_requests import PAGE_BYTES_MAX
from node.balanced_reads import BalancedReads
from node.clock import Clock
from node.errors import BadRequest, Conflict, HivememError, NotFound
from node.http_errors import as_hivemem, rejection
from node.http_limits import INLINE_BYTES_MAX
from node.local_reads import ReaderThreads
from node.partition_router import SEVERAL_PARTITIONS
from node.parts import Parted, seed_of, step_id
from node.queries import Outcome, Query, prepared, shortened
from node.service import Router
from node.sharded_collections import ASKED_MAX, CollectionGone, ShardedCollections

T = TypeVar("T")

ANSWERS_BYTES_MAX: Final = 64 << 20  # of one round, packed: held until they are merged
_SEED_BITS: Final = 128
_REFUSALS: Final = (InvalidArgument, BadRequest, Conflict, NotFound)
_PLACE = re.compile(r"(parameters\.\w+\[)(\d+)(\].*)", re.DOTALL).fullmatch

Asked = Mapping[int, bytes]  # shard → what it is asked, or answered, packed


class ShardedQueries:
    """Loop thread only."""

    def __init__(
        self,
        collections: ShardedCollections,
        router: Router,
        balanced: BalancedReads,
        threads: ReaderThreads,
        clock: Clock,
    ) -> None:
        self._collections = collections
        self._router = router
        self._balanced = balanced
        self._threads = threads
        self._clock = clock

    async def run(self, query: Query, known: Parted, engine: Engine, deadline: float) -> Outcome:
        """`engine`: that of the operation. Raises as `CollectionService.query`, and
        CollectionGone, if nothing was done."""
        kind = engine.operations[query.operation]
        across = await self._across(query, known, engine, deadline)
        if query.request_id is not None:
            seed = seed_of(known.home, query.request_id)
        else:
            seed = self._clock.random().getrandbits(_SEED_BITS).to_bytes(_SEED_BITS // 8)
        steps = _Steps(query, known, engine, across, seed)
        run = _Run(query, known, deadline)
        size = query.size
        work: Callable[[], Asked | bytes] = steps.begin
        while True:
            inline = size <= INLINE_BYTES_MAX and not (
                run.rounds and query.operation in across.long
            )
            try:
                found = await self._thought(
                    work, query, deadline, inline=inline, first=not run.rounds
                )
            except _REFUSALS:
                if not run.rounds:
                    # Refused by what this node knows, which may be of earlier.
                    await self._collections.must_be(known.home, deadline)
                raise
            if isinstance(found, bytes):
                return Outcome(found, engine.name, kind, run.log_index, run.served_by)
            if kind is Kind.WRITE:
                answers = await self._write(run, steps.round, found)
            else:
                answers = await self._read(run, found)
            run.rounds += 1
            size = sum(map(len, answers.values()))
            work = _bound(steps.go_on, answers)

    async def _across(self, query: Query, known: Parted, engine: Engine, deadline: float) -> Across:
        """Raises InvalidArgument: the operation is another engine's; CollectionGone."""
        across = across_of(engine)
        if engine.name == known.home.engine and across is not None:
            return across
        await self._collections.must_be(known.home, deadline)
        does = "write" if engine.operations[query.operation] is Kind.WRITE else "read"
        raise InvalidArgument(
            "operation", f"{query.operation} is no {does} of engine {known.home.engine}"
        )

    async def _thought(
        self,
        work: Callable[[], T],
        query: Query,
        deadline: float,
        *,
        inline: bool,
        first: bool,
    ) -> T:
        """On a thread what takes long; what follows an answer does not queue again."""
        if inline:
            return work()
        if first:
            return await self._threads.offload(work, deadline, query.read.priority)
        return await self._threads.on_thread(work)

    # --- Reads ---------------------------------------------------------------------

    async def _read(self, run: _Run, asked: Asked) -> dict[int, bytes]:
        slots = asyncio.Semaphore(ASKED_MAX)
        held = 0

        async def one(shard: int, parameters: bytes) -> bytes:
            nonlocal held
            async with slots:
                found, node = await self._read_part(run, shard, parameters)
            held += len(found.answer)
            if held > ANSWERS_BYTES_MAX:
                raise InvalidArgument(
                    "parameters",
                    f"the answers of the shards are over {ANSWERS_BYTES_MAX} bytes together: ask "
                    "for fewer items or fields",
                )
            run.saw(found.applied_index, node)
            return found.answer

        answers = await _together([one(shard, each) for shard, each in asked.items()])
        return dict(zip(asked, answers, strict=True))

    async def _read_part(
        self, run: _Run, shard: int, parameters: bytes
    ) -> tuple[QueryAnswer, str | None]:
        query, part = run.query, run.known.parts[shard]
        kind = ExplainQuery if query.explain else QueryCollection
        request = kind(query.namespace, part, query.operation, parameters)
        try:
            return await self._read_once(run, part, request)
        except InvalidArgument as error:
            if error.code != NO_COLLECTION:
                raise
        await self._collections.restore(run.known, shard, run.deadline)
        try:
            return await self._read_once(run, part, request)
        except InvalidArgument as error:
            if error.code != NO_COLLECTION:
                raise
            # A replica that lags behind, or the same as for a write.
            raise _not_found(query) from error

    async def _read_once(
        self, run: _Run, part: str, request: QueryCollection
    ) -> tuple[QueryAnswer, str | None]:
        query = run.query
        if query.routing is None:
            shown = await self._router.read(request, query.read, run.deadline)
            return shown.found, None
        shown, node = await self._balanced.read(
            part, request, query.read, query.routing, run.deadline
        )
        return shown.found, node

    # --- Writes --------------------------------------------------------------------

    async def _write(self, run: _Run, round_: Round, asked: Asked) -> dict[int, bytes]:
        query, known = run.query, run.known
        for shard, body in asked.items():  # all of them are within the limits, or none is sent
            self._collections.command(
                query.namespace, known.parts[shard], query.operation, body, None
            )
        shards = list(asked)
        outcomes = await asyncio.gather(
            *(self._write_part(run, shard, asked[shard]) for shard in shards),
            return_exceptions=True,
        )
        answers: dict[int, bytes] = {}
        failed: dict[int, BaseException] = {}
        for shard, outcome in zip(shards, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                failed[shard] = outcome
            else:
                run.saw(outcome.log_index, None)
                run.done.add(shard)
                answers[shard] = outcome.answer
        if failed:
            raise _failure(run, round_, failed)
        return answers

    async def _write_part(self, run: _Run, shard: int, body: bytes) -> CollectionResult:
        result = await self._write_once(run, shard, body, 0)
        if isinstance(result, Rejected) and result.code is RejectCode.COLLECTION_NOT_FOUND:
            await self._collections.restore(run.known, shard, run.deadline)
            result = await self._write_once(run, shard, body, 1)
            if isinstance(result, Rejected) and result.code is RejectCode.COLLECTION_NOT_FOUND:
                # It is being dropped, or its part was and cannot be made again (`parts.py`).
                raise _not_found(run.query)
        if isinstance(result, Rejected):
            raise _RejectedByShard(result)
        return result

    async def _write_once(
        self, run: _Run, shard: int, body: bytes, attempt: int
    ) -> CollectionResult | Rejected:
        query, part = run.query, run.known.parts[shard]
        request_id = query.request_id
        if request_id is not None:
            request_id = step_id(part, request_id, run.rounds, attempt)
        command = self._collections.command(
            query.namespace, part, query.operation, body, request_id
        )
        return await self._collections.decided(command, run.deadline)


class _RejectedByShard(Exception):
    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.message)
        self.rejected = rejected


class _Run:
    """One operation, on its way through the shards."""

    def __init__(self, query: Query, known: Parted, deadline: float) -> None:
        self.query = query
        self.known = known
        self.deadline = deadline
        self.rounds = 0  # that are done
        self.done: set[int] = set()  # shards that a write changed, or looked at
        self._seen: list[tuple[int, str | None]] = []

    def saw(self, log_index: int, node: str | None) -> None:
        self._seen.append((log_index, node))

    @property
    def log_index(self) -> int:
        """Of the one part that was asked; each has a log of its own."""
        return self._seen[0][0] if len(self._seen) == 1 else SEVERAL_PARTITIONS

    @property
    def served_by(self) -> str | None:
        nodes = {node for _, node in self._seen}
        return nodes.pop() if len(nodes) == 1 else None


class _Steps:
    """An engine's steps, from bytes to bytes: of what shards are asked, or of the answer."""

    def __init__(
        self, query: Query, known: Parted, engine: Engine, across: Across, seed: bytes
    ) -> None:
        self._query = query
        self._home = known.home
        self._engine = engine
        self._across = across
        self._seed = seed
        self._explained: list[dict[str, Value]] = []
        self._steps: Steps | None = None
        self.round = Round({})

    def begin(self) -> Asked | bytes:
        """Raises InvalidArgument, HivememError."""
        query, home = self._query, self._home
        if self._engine.operations[query.operation] is Kind.WRITE:
            self._steps = self._across.write(
                home.settings, query.operation, prepared(query, self._engine), home.shards,
                self._seed,
            )  # fmt: skip
        else:
            self._steps = self._across.read(
                home.settings, query.operation, shortened(query, self._engine), home.shards
            )
        return self._sent(None)

    def go_on(self, answers: Asked) -> Asked | bytes:
        """With the answers to what was asked last. Raises as `begin`."""
        return self._sent({shard: self._opened(shard, each) for shard, each in answers.items()})

    def _opened(self, shard: int, answer: bytes) -> Any:
        found = unpack_value(answer)
        if not self._query.explain:
            return found
        assert isinstance(found, dict)  # as `ExplainQuery` makes it
        self._explained.append({"shard": shard, **found["explain"]})
        return found["result"]

    def _sent(self, answers: Any) -> Asked | bytes:
        assert self._steps is not None
        try:
            self.round = self._steps.send(answers)
        except StopIteration as end:
            return self._ended(end.value)
        except Refused as refusal:
            raise rejection(
                Rejected(refusal.code, str(refusal), refusal.version, refusal.field)
            ) from refusal
        return {shard: pack_value(each) for shard, each in self.round.asked.items()}

    def _ended(self, answer: Value) -> bytes:
        if self._query.explain:
            explain: dict[str, Value] = {"engine": self._engine.name, "shards": self._explained}
            answer = {"result": answer, "explain": explain}
        packed = pack_value(answer)
        if len(packed) > PAGE_BYTES_MAX and not self._writes():
            raise InvalidArgument(
                "parameters",
                f"the answer is {len(packed)} bytes; at most {PAGE_BYTES_MAX}: ask for fewer "
                "items or fields",
            )
        return packed

    def _writes(self) -> bool:
        return self._engine.operations[self._query.operation] is Kind.WRITE


def _bound(go_on: Callable[[Asked], Asked | bytes], answers: Asked) -> Callable[[], Asked | bytes]:
    return lambda: go_on(answers)


def _failure(run: _Run, round_: Round, failed: Mapping[int, BaseException]) -> BaseException:
    """What the caller is told. Of several errors the one that knows least, since that is what
    is known of all; of equals that of the lowest shard."""
    for error in failed.values():
        if not isinstance(error, Exception):
            return error
    gone = [error for error in failed.values() if isinstance(error, CollectionGone)]
    if gone and len(gone) == len(failed) and not run.done:
        return gone[0]
    known = {
        shard: _known_error(run.query, round_, shard, error)
        for shard, error in sorted(failed.items())
    }
    first = min(known.values(), key=lambda error: error.definite)
    if not run.done and all(error.definite for error in known.values()):
        return first
    did = _listed(sorted(run.done)) if run.done else "none for certain"
    return first.with_effect(
        f"a write is not atomic across shards: of {run.known.home.shards} these did their part: "
        f"{did}; these did not, or it is not known: {_listed(list(known))}"
    )


def _known_error(query: Query, round_: Round, shard: int, error: BaseException) -> HivememError:
    match error:
        case CollectionGone():
            return _not_found(query)
        case _RejectedByShard(rejected=rejected):
            field = _field(rejected.field, round_.places.get(shard))
            return rejection(Rejected(rejected.code, rejected.message, rejected.version, field))
        case _:
            assert isinstance(error, Exception)
            return as_hivemem(error, writes=True)


def _field(field: str | None, places: Sequence[int] | None) -> str | None:
    """A shard names an item by where it stands among its own."""
    found = None if field is None or places is None else _PLACE(field)
    if found is None or places is None:
        return field
    before, place, behind = found.groups()
    return f"{before}{places[int(place)]}{behind}" if int(place) < len(places) else field


def _not_found(query: Query) -> NotFound:
    return NotFound(
        f"there is no collection {query.collection} in {query.namespace}",
        code=NO_COLLECTION,
        field="collection",
    )


def _listed(shards: Sequence[int]) -> str:
    return ", ".join(map(str, shards))


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it, or what the first that fails raises; the others are cancelled then."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
