"""Collections of several shards: made, altered, dropped and measured; see `engines/catalog.py`.

The home decides, the parts follow. Whatever is interrupted between the two is finished by whoever
comes next:

* A part that is missing while its home is there was not made yet, and is made by the request that
  misses it. It is made at most once: its creation has a request id of its own (`creation_id`).
* Parts are dropped behind their home, which leaves a record of them until they are gone. Until
  then no collection of that name is made; whoever wants to makes sure of it first, and the
  leader of the home's partition does so by itself (`shard_duties.py`). Dropping a part that was not
  made uses up the id of its creation.
* Settings travel whole and with their version, so that the newest stay, in whatever order parts
  hear of them. A part that did not hear of them does with the next change, or when it is repeated.

A node keeps what it knows of homes. It need not hear of their end: once a drop was answered, no
part of that home is there any more, and a part that is missing is asked the home for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from engines.catalog import SHARDS_MAX, Collection
from engines.codec import Value, pack_value
from engines.collection_reader import NO_COLLECTION, PartSize
from engines.collection_requests import PARTS_MAX, DescribeCollection, MeasureParts
from engines.collection_writes import ALTER, CREATE, DROP, FORGET
from engines.command import CollectionCommand, validate
from engines.engine import Engine, Settings
from engines.errors import InvalidArgument
from engines.interfaces import CollectionResult, Limits, RejectCode, Rejected
from engines.shards import check_shards
from node.clock import Clock
from node.errors import BadRequest, HivememError, InternalError, NotFound
from node.http_errors import as_hivemem, rejection
from node.parts import Parted, creation_id, home_of, identity_of, parted
from node.reads import LINEARIZABLE, ReadOptions
from node.service import Router

T = TypeVar("T")

SEED_BITS: Final = 63
KNOWN_MAX: Final = 1_000  # homes that a node keeps in mind
ASKED_MAX: Final = 16  # parts that one request waits for at a time


class CollectionGone(Exception):
    """What this node knew of the collection is no longer so: there is another one, or none."""


class Placement(Protocol):
    """Which partitions there are, and which of them a name belongs to."""

    @property
    def count(self) -> int:
        """0: the cluster has no partitions."""

    def group_of(self, session: str) -> int: ...


class ShardedCollections:
    """Loop thread only. Deadlines are `Clock.monotonic()` seconds and cover the whole call."""

    def __init__(self, router: Router, limits: Limits, clock: Clock, placement: Placement) -> None:
        self._router = router
        self._limits = limits
        self._clock = clock
        self._placement = placement
        self._known: OrderedDict[tuple[str, str], Parted] = OrderedDict()

    # --- What is known -------------------------------------------------------------

    def known(self, namespace: str, name: str) -> Parted | None:
        """None: it is not known to have several shards."""
        return self._known.get((namespace, name)) if self._known else None

    def learned(self, home: Collection) -> Parted:
        key = (home.namespace, home.name)
        before = self._known.get(key)
        if before is not None and _same(before.home, home):
            # What a lagging replica, or a repeated request, tells of may be of earlier.
            newest = max(before.home, home, key=lambda each: each.settings_version)
            found = Parted(newest, before.parts)
        else:
            found = parted(home, self._placement.group_of, self._placement.count)
        self._known[key] = found
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return found

    async def must_be(self, home: Collection, deadline: float) -> None:
        """Raises CollectionGone: it is not, or no longer just like that."""
        now = (await self._now(home, deadline)).home
        if now.settings_version != home.settings_version:
            raise CollectionGone

    async def _now(self, home: Collection, deadline: float) -> Parted:
        """The same collection with its settings of now. Raises CollectionGone: it is not there."""
        try:
            now = await self.look_up(home.namespace, home.name, deadline)
        except InvalidArgument as error:
            if error.code == NO_COLLECTION:
                raise CollectionGone from error
            raise
        if not _same(now, home):
            raise CollectionGone
        return self.learned(now)

    async def look_up(self, namespace: str, name: str, deadline: float) -> Collection:
        """The collection as it is now. Raises also InvalidArgument (COLLECTION_NOT_FOUND)."""
        self._known.pop((namespace, name), None)
        request = DescribeCollection(namespace, name)
        found = (await self._router.read(request, LINEARIZABLE, deadline)).found
        if found.shards > 1:
            self.learned(found)
        return found

    def check(self, engine: Engine, settings: Settings, shards: int) -> None:
        """Can there be a collection like that? Raises InvalidArgument."""
        most = max(1, min(SHARDS_MAX, self._placement.count))
        if not 1 <= shards <= most:
            why = "the cluster has no partitions" if self._placement.count == 0 else (
                f"at most one for each of the cluster's {self._placement.count} partitions"
            )  # fmt: skip
            raise InvalidArgument("shards", f"must be a whole number from 1 to {most}: {why}")
        check_shards(engine, settings, shards)

    # --- Made and altered ----------------------------------------------------------

    async def complete(self, home: Collection, deadline: float) -> None:
        """Make the parts of a home that was made, perhaps by an earlier try of the same request.

        Raises HivememError, not definite: the collection is there, and stays, since others may
        have written to it already. (LIMIT_EXCEEDED: a partition takes no more.)
        """
        try:
            known = await self._now(home, deadline)
            await _all(self._make(known, shard, deadline) for shard in range(home.shards))
        except CollectionGone:
            return  # it was dropped since that try
        except HivememError as error:
            raise error.with_effect(
                "the collection is made, its missing shards are when they are first asked"
            ) from None

    async def restore(self, known: Parted, shard: int, deadline: float) -> None:
        """A part is not there: make it, if its home is. Raises CollectionGone, Unavailable."""
        await self._make(await self._now(known.home, deadline), shard, deadline)

    async def follow(self, home: Collection, deadline: float) -> None:
        """Tell the parts the settings of a home that was altered. Raises HivememError, which says
        that the home has them."""
        known = self.learned(home)
        try:
            await _all(self._alter(known, shard, deadline) for shard in range(home.shards))
        except (HivememError, CollectionGone) as error:
            if isinstance(error, CollectionGone):
                error = NotFound("it was dropped meanwhile", code=NO_COLLECTION)
            raise error.with_effect(
                "the collection has the new settings, and not all of its shards: repeat the request"
            ) from None

    async def _make(self, known: Parted, shard: int, deadline: float) -> None:
        home, part = known.home, known.parts[shard]
        body: Value = {
            "engine": home.engine,
            "settings": dict(home.settings),
            "settings_version": home.settings_version,
        }
        result = await self.propose(home.namespace, part, CREATE, body, creation_id(part), deadline)
        made = (RejectCode.REQUEST_ID_REUSED, RejectCode.COLLECTION_EXISTS)
        # Made before, with other settings perhaps, or given up: who asks the part learns which.
        if isinstance(result, Rejected) and result.code not in made:
            raise rejection(result)

    async def _alter(self, known: Parted, shard: int, deadline: float) -> None:
        home, part = known.home, known.parts[shard]
        body: Value = {
            "settings": dict(home.settings), "settings_version": home.settings_version,
        }  # fmt: skip
        result = await self.propose(home.namespace, part, ALTER, body, None, deadline)
        if isinstance(result, Rejected) and result.code is RejectCode.COLLECTION_NOT_FOUND:
            await self.restore(known, shard, deadline)
            result = await self.propose(home.namespace, part, ALTER, body, None, deadline)
        if isinstance(result, Rejected):
            raise rejection(result)

    # --- Dropped -------------------------------------------------------------------

    async def finish_drop(self, home: Collection, deadline: float) -> None:
        """Drop the parts of a home that was dropped, then its record. Raises HivememError, which
        says that the collection is gone."""
        key = (home.namespace, home.name)
        if (known := self._known.get(key)) is not None and known.home.id == home.id:
            del self._known[key]
        parts = parted(home, self._placement.group_of, self._placement.count).parts
        try:
            await _all(self._drop(home.namespace, part, deadline) for part in parts)
            body: Value = {"id": home.id}
            result = await self.propose(home.namespace, home.name, FORGET, body, None, deadline)
            if isinstance(result, Rejected):
                raise rejection(result)
        except HivememError as error:
            raise error.with_effect(
                "the collection is dropped, and what is left of its shards is removed soon"
            ) from None

    async def drop_orphan(self, namespace: str, part: str, deadline: float) -> bool:
        """Drop a part whose home is not there any more; whether it was one. Raises HivememError.

        A home is there before its parts, which no other home has (`parts.py`), so a part without it
        belongs to nothing and never will.
        """
        name, identity = home_of(part)
        request = DescribeCollection(namespace, name)
        try:
            found = (await self._router.read(request, LINEARIZABLE, deadline)).found
            if identity_of(found) == identity:
                return False
        except InvalidArgument as error:
            if error.code != NO_COLLECTION:
                raise
        await self._drop(namespace, part, deadline)
        return True

    async def _drop(self, namespace: str, part: str, deadline: float) -> None:
        result = await self.propose(namespace, part, DROP, {}, creation_id(part), deadline)
        if isinstance(result, Rejected) and result.code is RejectCode.REQUEST_ID_REUSED:
            result = await self.propose(namespace, part, DROP, {}, None, deadline)
        if isinstance(result, Rejected):
            raise rejection(result)

    # --- Measured ------------------------------------------------------------------

    async def measured(
        self, collections: Sequence[Collection], options: ReadOptions, deadline: float
    ) -> list[Collection]:
        """The same, with what the parts of those in several shards hold: one question to each
        partition. Each part is seen at a moment of its own; one that is not made holds nothing.

        Their `written_index` is the sum of all: it says nothing of any log, and grows with each
        change.
        """
        by_partition: dict[int, list[str]] = {}
        parts: dict[bytes, tuple[str, ...]] = {}
        homes = [each for each in collections if each.shards > 1]
        if not homes:
            return list(collections)
        if options.min_revision is not None:
            raise BadRequest(
                "revisions are those of one partition, and the collection is in several",
                field="min_revision",
            )
        for home in homes:
            parts[home.key] = self.learned(home).parts
            for part in parts[home.key]:
                by_partition.setdefault(self._placement.group_of(part), []).append(part)
        namespace = homes[0].namespace
        requests = [
            MeasureParts(namespace, tuple(names[start : start + PARTS_MAX]))
            for names in by_partition.values()
            for start in range(0, len(names), PARTS_MAX)
        ]
        answers = await _all(self._router.read(each, options, deadline) for each in requests)
        sizes: dict[str, PartSize] = {}
        for request, (found, _) in zip(requests, answers, strict=True):
            for part, size in zip(request.names, found, strict=True):
                sizes[part] = size or PartSize(0, 0, 0)
        return [
            each if each.shards == 1 else _sized(each, [sizes[part] for part in parts[each.key]])
            for each in collections
        ]

    # --- Proposals -----------------------------------------------------------------

    async def propose(
        self,
        namespace: str,
        name: str,
        operation: str,
        body: Value,
        request_id: str | None,
        deadline: float,
    ) -> CollectionResult | Rejected:
        """One command, to whichever partition its name belongs. Raises HivememError."""
        command = self.command(namespace, name, operation, pack_value(body), request_id)
        return await self.decided(command, deadline)

    def command(
        self, namespace: str, name: str, operation: str, body: bytes, request_id: str | None
    ) -> CollectionCommand:
        """Stamped and checked. Raises InvalidArgument."""
        seed = self._clock.random().getrandbits(SEED_BITS)
        now_ms = self._clock.now_ms()
        command = CollectionCommand(namespace, name, operation, body, now_ms, seed, request_id)
        validate(command, self._limits)
        return command

    async def decided(
        self, command: CollectionCommand, deadline: float
    ) -> CollectionResult | Rejected:
        result = await self._router.propose(command, deadline)
        if not isinstance(result, CollectionResult | Rejected):
            raise InternalError("the state machine answered another command", definite=False)
        return result


def _same(one: Collection, other: Collection) -> bool:
    """Are they one collection, whatever its settings at the time?"""
    return identity_of(one) == identity_of(other) and one.shards == other.shards


def _sized(home: Collection, sizes: Iterable[PartSize]) -> Collection:
    items, item_bytes, written = map(sum, zip(*sizes, strict=True))
    return replace(
        home, items=items, item_bytes=item_bytes, written_index=home.written_index + written
    )


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Everything, some at a time and to its end; raises what the first of those that failed
    raised, as HivememError."""
    slots = asyncio.Semaphore(ASKED_MAX)

    async def one(each: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await each

    found = await asyncio.gather(*(one(each) for each in work), return_exceptions=True)
    done: list[T] = []
    for each in found:
        if isinstance(each, CollectionGone) or (
            isinstance(each, BaseException) and not isinstance(each, Exception)
        ):
            raise each
        if isinstance(each, Exception):
            raise as_hivemem(each, writes=True) from each
        done.append(each)
    return done
