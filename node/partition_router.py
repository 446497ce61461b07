"""Requests by what they are about: a session's go to the group that holds it, those of a
whole namespace to all groups, whose pages become one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

from engines.collection_requests import ListCollections
from engines.command import Checkpoint, Command, Configure, Expire, Sweep
from engines.interfaces import Result
from engines.read_merge import merge_collections, merge_listed, merge_names, within
from engines.read_requests import (
    GetMany,
    ListNamespaces,
    ListSessions,
    ReadRequest,
    Shown,
    WalkNamespace,
    Wanted,
)
from node.errors import BadRequest, HivememError
from node.partitions import Partitions
from node.reads import ReadOptions
from node.remote_router import Elsewhere, RemoteRouter
from node.replica import Shared

T = TypeVar("T")

SEVERAL_PARTITIONS = 0  # where a revision would stand: each partition has its own


class GroupRouter(Protocol):
    """The way to one group: `Router`, `RemoteRouter`."""

    async def propose(self, command: Command, deadline: float) -> Result: ...

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]: ...

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]: ...


class PartitionRouter:
    """The `Router` of a cluster with partitions. Loop thread only."""

    def __init__(self, partitions: Partitions, shared: Shared) -> None:
        self._partitions = partitions
        self._shared = shared
        self._self_id = shared.config.node.id
        self._remote: dict[int, RemoteRouter] = {}
        partitions.on_leave = lambda replica: replica.router.leave(self._away(replica.id))

    # --- Where ---------------------------------------------------------------------

    def of_session(self, session: str) -> GroupRouter:
        """The way to the group that holds a session."""
        return self.of_group(self._partitions.group_of(session))

    def of_group(self, group: int) -> GroupRouter:
        replica = self._partitions.serving(group)
        if replica is not None:
            return replica.router
        return self._away(group)

    def _away(self, group: int) -> RemoteRouter:
        found = self._remote.get(group)
        if found is None:
            found = self._remote[group] = self._to(group)
        return found

    def _to(self, group: int) -> RemoteRouter:
        partitions = self._partitions

        def nodes() -> list[str]:
            return [node for node in partitions.holders(group) if node != self._self_id]

        elsewhere = Elsewhere(nodes, self._shared.calls.of(group))
        return RemoteRouter(
            group, elsewhere, self._shared.remote_reads, self._shared.clock, partitions.http_of
        )

    # --- Writes --------------------------------------------------------------------

    async def propose(self, command: Command, deadline: float) -> Result:
        """See `Proposals.propose`."""
        return await self.of_session(_session(command)).propose(command, deadline)

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        """See `Proposals.propose_many`."""
        places = self._by_group(_session(command) for command in commands)
        answers = await asyncio.gather(
            *(
                self.of_group(group).propose_many([commands[at] for at in where], deadline)
                for group, where in places.items()
            )
        )
        return _in_order(places.values(), answers)

    # --- Reads ---------------------------------------------------------------------

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """See `Router.read`. What concerns several partitions shows no revision."""
        merged: Any
        match cast(Any, request):  # which of them it is decides what T is
            case ListSessions() | ListNamespaces() as names_of:
                names: list[Any] = await self._read_all(request, options, deadline)
                merged = merge_names(names, names_of.limit)
            case ListCollections() as collections_of:
                pages: list[Any] = await self._read_all(request, options, deadline)
                merged = merge_collections(pages, collections_of.limit)
            case WalkNamespace() as walk:
                listed: list[Any] = await self._read_all(request, options, deadline)
                merged = merge_listed(listed, walk.limit, walk.bytes_max)
            case GetMany() as many:
                return cast(Shown[T], await self._get_many(many, options, deadline))
            case of_session:
                return await self.of_session(of_session.session).read(request, options, deadline)
        return Shown(merged, SEVERAL_PARTITIONS)

    async def _read_all(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> list[T]:
        _refuse_revision(options)
        shown = await asyncio.gather(
            *(
                self.of_group(group).read(request, options, deadline)
                for group in self._partitions.data_groups()
            )
        )
        return [found for found, _ in shown]

    async def _get_many(
        self, request: GetMany, options: ReadOptions, deadline: float
    ) -> Shown[tuple[Any, ...]]:
        places = self._by_group(wanted.session for wanted in request.wanted)
        if len(places) == 1:
            (group,) = places
            return await self.of_group(group).read(request, options, deadline)
        _refuse_revision(options)

        async def some(group: int, where: list[int]) -> tuple[Any, ...]:
            wanted: tuple[Wanted, ...] = tuple(request.wanted[at] for at in where)
            part = GetMany(wanted, request.bytes_max)
            return (await self.of_group(group).read(part, options, deadline)).found

        answers = await asyncio.gather(*(some(group, where) for group, where in places.items()))
        records = _in_order(places.values(), answers)
        return Shown(tuple(within(records, request.bytes_max)), SEVERAL_PARTITIONS)

    def _by_group(self, sessions: Iterable[str]) -> dict[int, list[int]]:
        """Group → the places in `sessions` that are its."""
        places: dict[int, list[int]] = {}
        for at, session in enumerate(sessions):
            places.setdefault(self._partitions.group_of(session), []).append(at)
        return places


def _session(command: Command) -> str:
    # Those concern a group as a whole, whose leader proposes them by itself.
    assert not isinstance(command, Expire | Configure | Checkpoint | Sweep)
    return command.session


def _in_order(places: Iterable[list[int]], answers: Iterable[Sequence[T]]) -> list[T]:
    """Answers that were asked for by place, in the order of the places."""
    found = {
        at: answer
        for where, some in zip(places, answers, strict=True)
        for at, answer in zip(where, some, strict=True)
    }
    return [found[at] for at in range(len(found))]


def _refuse_revision(options: ReadOptions) -> None:
    if options.min_revision is not None:
        raise BadRequest(
            "revisions are those of one partition: min_revision is for reads of one session",
            field="min_revision",
        )
