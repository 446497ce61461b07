"""Partitions in this process, each a state machine, and nodes that ask them: for tests of shards.

A node can be made to fail at any of its commands: before it is applied, or after it without
hearing of it, as a crash or a lost answer would have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from cluster.interfaces import Role
from cluster.slots import partition_of, session_slot
from engines.check import check
from engines.codec import unpack_value
from engines.collection_requests import ListCollections
from engines.command import CollectionCommand, Command, Sweep
from engines.errors import InvalidArgument
from engines.interfaces import Limits, Result
from engines.read_codec import decode_answer, decode_read, encode_answer, encode_read
from engines.read_merge import merge_collections
from engines.read_requests import ReadRequest, Shown
from node.balanced_reads import BalancedReads
from node.clock import SystemClock
from node.collection_service import CollectionService
from node.errors import HivememError, Unavailable
from node.http_limits import HttpLimits
from node.local_reads import ReaderThreads
from node.queries import Outcome, Query
from node.reads import LINEARIZABLE, ReadOptions
from node.shard_duties import ShardDuties
from tests.unit.engine_state import State

T = TypeVar("T")

FAR = 1e12  # a deadline
SHARDS = 3
COMMANDS_MAX = 20  # of what is interrupted: more than it takes


class Crash(BaseException):
    """The node that asked is no more."""


class Node:
    """A node's service over all partitions. `fail_at`: the command, counted from 0, at which it
    fails; `applied`: is that command applied all the same?"""

    def __init__(self, cluster: Partitions) -> None:
        self.cluster = cluster
        self.commands = 0
        self.reads = 0
        self.fail_at: int | None = None
        self.applied = False
        self.crash = True  # else it hears that the outcome is not known
        self.down: set[int] = set()  # partitions that refuse commands, certainly without effect
        self.silent: set[int] = set()  # those that do not answer reads
        balanced = cast(BalancedReads, self)  # which these tests do not ask for
        self.service = CollectionService(
            self, cluster.states[1].machine.registry, Limits(), SystemClock(), balanced,
            cluster.threads, cluster,
        )  # fmt: skip

    # --- Router --------------------------------------------------------------------

    async def propose(self, command: Command, deadline: float) -> Result:
        assert isinstance(command, CollectionCommand)
        number, self.commands = self.commands, self.commands + 1
        group = self.cluster.group_of(command.session)
        if group in self.down:
            raise Unavailable(f"partition {group} has no leader")
        if self.fail_at is not None and (
            number == self.fail_at or (self.crash and number > self.fail_at)
        ):
            if self.applied and number == self.fail_at:
                self.cluster.states[group].apply(command)
            if self.crash:
                raise Crash
            raise Unavailable("it may be applied", code="OUTCOME_UNKNOWN", definite=False)
        (result,) = self.cluster.states[group].apply(command)
        return result  # type: ignore[no-any-return]

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        return [await self.propose(each, deadline) for each in commands]

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """As if it was asked of another node."""
        self.reads += 1
        travelled: Any = decode_read(encode_read(request))
        if isinstance(travelled, ListCollections):
            pages = [self._shown(group, travelled).found for group in self.cluster.groups]
            return Shown(merge_collections(pages, travelled.limit), 0)  # type: ignore[arg-type]
        group = self.cluster.group_of(travelled.session)
        if group in self.silent:
            raise Unavailable(f"partition {group} does not answer")
        return self._shown(group, travelled)

    def _shown(self, group: int, request: Any) -> Any:
        with self.cluster.states[group].reader() as reader:
            try:
                answer = request.run(reader)
            except InvalidArgument as error:
                answer = error
        return decode_answer(request, encode_answer(request, answer))

    # --- Asked ---------------------------------------------------------------------

    async def create(self, name: str, engine: str = "document", **more: Any) -> Any:
        settings = more.pop("settings", {})
        shards, request_id = more.pop("shards", 1), more.pop("request_id", None)
        return await self.service.create("n", name, engine, settings, request_id, FAR, shards)

    async def drop(self, name: str, request_id: str | None = None) -> Any:
        return await self.service.drop("n", name, request_id, FAR)

    async def alter(self, name: str, settings: Any, request_id: str | None = None) -> Any:
        return await self.service.alter("n", name, settings, request_id, FAR)

    async def outcome(
        self, name: str, operation: str, parameters: Any, request_id: str | None = None, **more: Any
    ) -> Outcome:
        query = Query("n", name, operation, parameters, LINEARIZABLE, request_id, **more)
        return await self.service.query(query, FAR)

    async def query(
        self, name: str, operation: str, request_id: str | None = None, **parameters: Any
    ) -> Any:
        return unpack_value((await self.outcome(name, operation, parameters, request_id)).packed)

    async def described(self, name: str) -> Any:
        return await self.service.describe("n", name, LINEARIZABLE, FAR)


class Partitions:
    """`groups`: 1 to `count`, each a state."""

    def __init__(self, folder: Path, count: int, executor: ThreadPoolExecutor) -> None:
        self.count = count
        self.groups = range(1, count + 1)
        self.states = {group: State(folder / str(group)) for group in self.groups}
        self.threads = ReaderThreads(executor, SystemClock(), HttpLimits())

    def group_of(self, session: str) -> int:
        return partition_of(session_slot(session), self.count)

    def node(self) -> Node:
        return Node(self)

    def names(self) -> dict[int, list[str]]:
        """Every collection that there is, parts as well."""
        found: dict[int, list[str]] = {}
        for group, state in self.states.items():
            with state.reader() as reader:
                cursor = reader.collections._snapshot.txn.cursor(
                    db=reader.collections._snapshot.databases.collections
                )
                keys = [bytes(key) for key, _ in cursor]
            found[group] = [key.decode() for key in keys if key[0] > 2]
        return found

    def left(self) -> int:
        """Collections, parts and records of dropped homes that there are in all partitions."""
        total = sum(map(len, self.names().values()))
        for state in self.states.values():
            with state.reader() as reader:
                total += len(reader.collections.dropping(100))
        return total

    def sound(self) -> None:
        for state in self.states.values():
            state.apply(Sweep(1_000))
            with state.store.read() as snapshot:
                assert check(snapshot) == []


@contextmanager
def partitions(folder: Path, count: int = 4) -> Iterator[Partitions]:
    """Every state must hold together when the test is over."""
    with ThreadPoolExecutor(1) as executor:
        cluster = Partitions(folder, count, executor)
        yield cluster
        cluster.sound()
        for state in cluster.states.values():
            state.machine.close()


async def fill(node: Node, name: str, count: int = 20) -> None:
    documents = [{"_id": f"d{number:02}", "n": number} for number in range(count)]
    await node.query(name, "document_insert", documents=documents)


async def ids(node: Node, name: str) -> list[str]:
    answer = await node.query(name, "document_find", limit=1000)
    return [item["id"] for item in answer["items"]]


def duties(cluster: Partitions, leads: set[int]) -> ShardDuties:
    """Those of a node that leads these partitions."""
    replicas = [
        SimpleNamespace(
            id=group,
            group=SimpleNamespace(
                role=lambda group=group: Role("", "me" if group in leads else "", 1)
            ),
            readers=state.reader,
        )
        for group, state in cluster.states.items()
    ]
    partitions = cast(Any, SimpleNamespace(data=lambda: replicas, count=cluster.count))
    return ShardDuties("me", partitions, cluster.node().service.sharded, SystemClock())
