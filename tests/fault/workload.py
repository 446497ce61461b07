"""Clients that read and write under faults and record what they were told.

Two kinds of work. *Registers*: put, compare-and-set, get and delete on keys that several
clients share; every operation is recorded, and the history must be linearizable. *Ledger*:
puts of keys that nobody else writes; each acknowledged one must be there at the end, on
every node, and each one that was refused for certain must not.

Some of the registers' plain operations go through the Redis door, beside HTTP: one history.

On a cluster with partitions registers and ledgers are spread over many sessions, so that every
partition has some of both.

One call of the client is one operation, however often it was sent: its attempts share one
request id. What is not known at its deadline is recorded as unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from cluster.slots import partition_of, session_slot
from node.client import HivememClient
from node.errors import Conflict, HivememError, NotFound
from tests.fault.redis_door import RedisDoor
from tests.histories.history import ABSENT, FAILED, UNKNOWN, History, Kind, Outcome, conflict, ok

CLIENTS = 64
OPS_PER_SECOND = 800  # of all clients together, while the cluster answers
TIMEOUT_MS = 5_000  # of one operation with its retries
# Some give up soon, so that there are outcomes which stay unknown, and definite refusals.
HASTY_TIMEOUT_MS = 400
HASTY_SHARE = 0.25
LATENESS_SECONDS_MAX = 1.0  # work that a client makes up for after it was held up
KEYS = 16  # registers in use at a time
KEY_OPERATIONS_MAX = 150  # on one register; then a fresh one takes its place
LEDGER_SHARE = 0.4
REDIS_SHARE = 0.4  # of the operations on registers but compare-and-set, which it does not have
LEDGER_BYTES = 600  # of each value, so that logs grow
REGISTERS = "registers"  # session; with partitions, what the names of several begin with
SESSIONS_PER_PARTITION = 4  # with registers; so that each has some
# Answers that a fault may cause. Any other error is a defect, whatever else happened.
EXPECTED_ERRORS = {
    "QUORUM_NOT_REACHED",
    "OVERLOADED",
    "OUTCOME_UNKNOWN",
    "STOPPING",
    "UNREACHABLE",
    "DEADLINE_EXCEEDED",
    "STALE",
    "DISK_FULL",
}


Door = HivememClient | RedisDoor


class Timing(NamedTuple):
    """One operation that was done as asked."""

    ended: float  # monotonic seconds
    seconds: float
    writes: bool
    group: int


@dataclass
class Record:
    """What was done and told. Times are monotonic seconds."""

    namespace: str
    partitions: int = 0  # of the cluster; 0: it has none
    history: History = field(default_factory=History)
    ledger: dict[str, dict[str, str]] = field(default_factory=dict)  # session → {key: value}
    refused: list[tuple[str, str]] = field(default_factory=list)  # the same, without effect
    acknowledged: list[float] = field(default_factory=list)  # when, of every write
    timings: list[Timing] = field(default_factory=list)
    revisions: dict[int, int] = field(default_factory=dict)  # group → the highest acknowledged
    unknown: int = 0  # writes with an unknown outcome
    refusals: int = 0  # writes that certainly had no effect, but for version conflicts
    operations: int = 0  # that ended
    errors: Counter[str] = field(default_factory=Counter)  # code → count
    defects: list[str] = field(default_factory=list)  # errors that no fault explains
    registers: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    began: float = 0.0
    ended: float = 0.0

    @property
    def ops_per_second(self) -> float:
        return self.operations / max(self.ended - self.began, 1e-9)

    def group_of(self, session: str) -> int:
        """The Raft group that holds a session; its revisions are those of that group."""
        return partition_of(session_slot(session), self.partitions) if self.partitions else 0

    def session_of(self, register: str) -> str:
        """The session of a register."""
        if not self.partitions:
            return REGISTERS
        number = int(register.rpartition("-")[2])
        return f"{REGISTERS}-{number % (self.partitions * SESSIONS_PER_PARTITION)}"

    def gap_after(self, moment: float) -> float:
        """Seconds of the longest time without an acknowledged write, from `moment` on."""
        before = [at for at in self.acknowledged if at <= moment]
        times = [before[-1] if before else moment]
        times += [at for at in self.acknowledged if at > moment]
        if self.ended > times[-1]:
            times.append(self.ended)
        return max((later - at for at, later in itertools.pairwise(times)), default=0.0)


class Workload:
    """Runs from `async with` to its end. Each client starts at one of `endpoints` and stays
    there until that node fails it."""

    def __init__(
        self,
        endpoints: list[str],
        record: Record,
        *,
        seed: int = 0,
        clients: int = CLIENTS,
        ops_per_second: float = OPS_PER_SECOND,
        timeout_ms: int = TIMEOUT_MS,
        redis: list[tuple[str, int]] | None = None,
    ) -> None:
        """`redis`: host and port of each node's Redis door; None: only HTTP is used."""
        self.record = record
        self._redis = redis
        self._endpoints = endpoints
        self._rng = random.Random(seed)
        self._clients = clients
        self._interval = clients / ops_per_second  # s between two operations of one client
        self._timeout_ms = timeout_ms
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._uses: list[tuple[str, int]] = []  # per place: register, operations on it
        self._fresh = 0
        self._requests = 0

    async def __aenter__(self) -> Self:
        self._uses = [(self._fresh_key(), 0) for _ in range(KEYS)]
        self.record.began = time.monotonic()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End after the operations under way. Idempotent."""
        self._stop.set()
        if self._task is not None:
            task, self._task = self._task, None
            try:
                await task
            finally:
                self.record.ended = time.monotonic()

    def use(self, endpoints: list[str], redis: list[tuple[str, int]] | None = None) -> None:
        """Have the clients go on at these, from their next operation on."""
        self._endpoints, self._redis = endpoints, redis

    async def reach(self, acknowledgements: int, seconds: float = 30.0) -> None:
        """Wait until so many more writes are acknowledged; TimeoutError after `seconds`."""
        times = self.record.acknowledged
        goal = len(times) + acknowledgements
        deadline = time.monotonic() + seconds
        while len(times) < goal:
            if self._task is None or self._task.done():
                raise AssertionError("the workload has ended")
            if time.monotonic() > deadline:
                short = f"{len(times) - goal + acknowledgements} of {acknowledgements}"
                raise TimeoutError(f"{short} writes acknowledged within {seconds} s")
            await asyncio.sleep(0.01)

    # --- Clients -------------------------------------------------------------------

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        name = f"client-{number:02d}"
        self.record.sessions.add(name)
        due = time.monotonic() + self._rng.random() * self._interval
        turns = itertools.count()
        while not self._stop.is_set():
            due = await self._work_through(self._endpoints, number, name, turns, due)

    async def _work_through(
        self, endpoints: list[str], number: int, name: str, turns: Iterator[int], due: float
    ) -> float:
        """One client's work, until others are to be used; returns when the next is due."""
        first = number % len(endpoints)
        nodes = endpoints[first:] + endpoints[:first]
        redis = self._redis_door(first)
        async with (
            HivememClient(nodes, timeout_ms=self._timeout_ms, follow=False) as client,
            contextlib.AsyncExitStack() as stack,
        ):
            if redis is not None:
                stack.push_async_callback(redis.close)
            while endpoints is self._endpoints and await self._wait_until(due):
                due = max(due + self._interval, time.monotonic() - LATENESS_SECONDS_MAX)
                turn = next(turns)
                if self._rng.random() < LEDGER_SHARE:
                    await self._enter(client, name, turn)
                else:
                    await self._use_register(client, redis, name, turn)
                self.record.operations += 1
        return due

    def _redis_door(self, first: int) -> RedisDoor | None:
        if self._redis is None:
            return None
        return RedisDoor(self._redis[first:] + self._redis[:first], self.record.namespace)

    async def _wait_until(self, due: float) -> bool:
        """False: it is time to stop."""
        left = due - time.monotonic()
        if left <= 0:
            await asyncio.sleep(0)
            return not self._stop.is_set()
        try:
            await asyncio.wait_for(self._stop.wait(), left)
        except TimeoutError:
            return True
        return False

    async def _enter(self, client: HivememClient, name: str, turn: int) -> None:
        """Put one ledger entry."""
        record = self.record
        key, value = f"{turn:06d}", f"{name}:{turn}:".ljust(LEDGER_BYTES, ".")
        began = time.monotonic()
        try:
            result = await client.put(
                record.namespace,
                name,
                key,
                value,
                request_id=self._request_id(),
                timeout_ms=self._patience_ms(),
            )
        except HivememError as error:
            self.note(error)
            if error.definite:
                record.refused.append((name, key))
                record.refusals += 1
            else:
                record.unknown += 1
            return
        record.ledger.setdefault(name, {})[key] = value
        self._acknowledge(name, result.revision)
        self._time(name, began, writes=True)

    async def _use_register(
        self, client: HivememClient, redis: RedisDoor | None, name: str, turn: int
    ) -> None:
        key = self._register()
        chance = self._rng.random()
        door: Door = client
        if redis is not None and self._rng.random() < REDIS_SHARE:
            door = redis
        if chance < 0.4:
            await self._get(door, name, key)
        elif chance < 0.7:
            await self._put(door, name, key, f"{name}:{turn}", None)
        elif chance < 0.9:
            version = await self._get(client, name, key)
            if version is not None:
                await self._put(client, name, key, f"{name}:{turn}", version)
        else:
            await self._delete(door, name, key)

    async def _get(self, client: Door, name: str, key: str) -> int | None:
        """Read a register; returns its version (0: absent), None if it did not answer."""
        session = self.record.session_of(key)

        async def ask() -> Outcome:
            patience_ms = self._patience_ms()
            try:
                if isinstance(client, RedisDoor):
                    told = await client.get(session, key, patience_ms)
                    return ok(told.version, told.text())
                found = await client.get(
                    self.record.namespace, session, key, timeout_ms=patience_ms
                )
            except NotFound:
                return ABSENT
            return ok(found.version, found.text())

        number = self.record.history.begin(name, Kind.GET, key, time.monotonic())
        outcome = await self._outcome(number, ask(), session, writes=False)
        return outcome.version

    async def _put(
        self, client: Door, name: str, key: str, value: str, expected: int | None
    ) -> None:
        session = self.record.session_of(key)

        async def ask() -> Outcome:
            if isinstance(client, RedisDoor):
                told = await client.put(session, key, value, self._patience_ms())
                self._acknowledge(session, told.revision)
                return ok(told.version)
            result = await client.put(
                self.record.namespace,
                session,
                key,
                value,
                if_version=expected,
                request_id=self._request_id(),
                timeout_ms=self._patience_ms(),
            )
            self._acknowledge(session, result.revision)
            return ok(result.version)

        number = self.record.history.begin(
            name, Kind.PUT, key, time.monotonic(), value=value, expected=expected
        )
        await self._outcome(number, ask(), session, writes=True)

    async def _delete(self, client: Door, name: str, key: str) -> None:
        session = self.record.session_of(key)

        async def ask() -> Outcome:
            if isinstance(client, RedisDoor):
                told = await client.delete(session, key, self._patience_ms())
                self._acknowledge(session, told.revision)
                return ok(told.version) if told.deleted else ABSENT
            result = await client.delete(
                self.record.namespace,
                session,
                key,
                request_id=self._request_id(),
                timeout_ms=self._patience_ms(),
            )
            self._acknowledge(session, result.revision)
            return ok(result.version) if result.deleted else ABSENT

        number = self.record.history.begin(name, Kind.DELETE, key, time.monotonic())
        await self._outcome(number, ask(), session, writes=True)

    async def _outcome(
        self, number: int, answer: Awaitable[Outcome], session: str, *, writes: bool
    ) -> Outcome:
        """Record how the operation ends, whatever happens."""
        outcome = UNKNOWN
        began = time.monotonic()
        try:
            outcome = await answer
            self._time(session, began, writes=writes)
        except Conflict as error:
            if error.code != "VERSION_CONFLICT":
                self.note(error)
            outcome = conflict(error.version) if error.definite else UNKNOWN
        except HivememError as error:
            self.note(error)
            # A read that failed told nothing.
            outcome = FAILED if error.definite or not writes else UNKNOWN
            self.record.unknown += outcome is UNKNOWN
            self.record.refusals += writes and outcome is FAILED
        finally:
            self.record.history.end(number, outcome, time.monotonic())
        return outcome

    # --- Bookkeeping ---------------------------------------------------------------

    def _acknowledge(self, session: str, revision: int) -> None:
        record = self.record
        record.acknowledged.append(time.monotonic())
        group = record.group_of(session)
        record.revisions[group] = max(record.revisions.get(group, 0), revision)

    def _time(self, session: str, began: float, *, writes: bool) -> None:
        now = time.monotonic()
        group = self.record.group_of(session)
        self.record.timings.append(Timing(now, now - began, writes, group))

    def note(self, error: HivememError) -> None:
        """Count an error; one that no fault explains is kept as a defect."""
        self.record.errors[error.code] += 1
        if error.code not in EXPECTED_ERRORS:
            self.record.defects.append(f"{error.code}: {error.message}")

    def _patience_ms(self) -> int:
        return HASTY_TIMEOUT_MS if self._rng.random() < HASTY_SHARE else self._timeout_ms

    def _request_id(self) -> str:
        self._requests += 1
        return f"{self.record.namespace}-{self._requests}"

    def _register(self) -> str:
        place = self._rng.randrange(KEYS)
        key, uses = self._uses[place]
        if uses >= KEY_OPERATIONS_MAX:
            key, uses = self._fresh_key(), 0
        self._uses[place] = (key, uses + 1)
        return key

    def _fresh_key(self) -> str:
        self._fresh += 1
        key = f"register-{self._fresh:05d}"
        self.record.registers.add(key)
        self.record.sessions.add(self.record.session_of(key))
        return key
