"""A tiny store with clients and a lossy network, in one thread, all of it drawn from a seed.

It makes histories to try the checkers on: correct ones, and those of a store with one
deliberate fault. Each client runs one operation at a time as a generator; a scheduler
resumes a random one, so that every step between two yields is atomic and nothing else is.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tests.histories.history import FAILED, UNKNOWN, History, Kind, Outcome, conflict, ok

Record = tuple[int, str | None]  # (version, value); version 0: absent
Serving = Generator[None, None, Outcome]

ATTEMPTS_MAX = 3  # of one operation, before its client gives up
TICK_SECONDS = 0.001


class Fault(StrEnum):
    NONE = "correct"
    STALE_READ = "a replica that lags serves reads"
    LOST_UPDATE = "a conditional write checks first and writes later"
    FORGETS = "an acknowledged write is gone"
    APPLIES_TWICE = "a retry is applied again"
    DIRTY_READ = "a write that is refused can be read for a while"


@dataclass(frozen=True, slots=True)
class Workload:
    """What the clients do. Shares are probabilities."""

    clients: int = 6
    keys: int = 3
    operations: int = 150
    get_share: float = 0.45
    delete_share: float = 0.08
    conditional_share: float = 0.5  # of puts and deletes
    loss_share: float = 0.08  # of requests, and of answers
    refusal_share: float = 0.04  # of requests


class Request(NamedTuple):
    number: int  # its id, by which a retry is known
    kind: Kind
    key: str
    value: str | None
    expected: int | None


@dataclass
class Store:
    random: random.Random
    fault: Fault
    records: dict[str, Record] = field(default_factory=dict)
    lagging: dict[str, Record] = field(default_factory=dict)  # each record, one write ago
    answers: dict[int, Outcome] = field(default_factory=dict)  # by request id

    def serve(self, request: Request) -> Serving:
        """Answer one copy of a request, at some later step."""
        yield
        if request.kind is Kind.GET:
            stale = self.fault is Fault.STALE_READ and self.random.random() < 0.2
            records = self.lagging if stale else self.records
            return ok(*records.get(request.key, (0, None)))
        if request.number in self.answers and self.fault is not Fault.APPLIES_TWICE:
            return self.answers[request.number]
        before = self.records.get(request.key, (0, None))
        answer, after = _write(request, before)
        if self.fault is Fault.LOST_UPDATE and request.expected is not None:
            yield
            yield
        self.answers[request.number] = answer
        if self.fault is Fault.FORGETS and self.random.random() < 0.05:
            return answer
        self._store(request.key, after)
        return answer

    def refuse(self, request: Request) -> Serving:
        """Answer that the request had no effect."""
        yield
        if self.fault is Fault.DIRTY_READ and request.kind is not Kind.GET:
            before = self.records.get(request.key, (0, None))
            after = _write(request, before)[1]
            self._store(request.key, after)
            for _ in range(3):
                yield
            if self.records.get(request.key) == after:
                self._store(request.key, before)
        return FAILED

    def _store(self, key: str, record: Record) -> None:
        if record != self.records.get(key, (0, None)):
            self.lagging[key] = self.records.get(key, (0, None))
            self.records[key] = record


def _write(request: Request, before: Record) -> tuple[Outcome, Record]:
    version = before[0]
    if request.expected is not None and request.expected != version:
        return conflict(version), before
    if request.kind is Kind.DELETE:
        return ok(version), (0, None)
    return ok(version + 1), (version + 1, request.value)


class Simulation:
    """One run of a workload against a store."""

    def __init__(self, fault: Fault, seed: int, workload: Workload) -> None:
        self.random = random.Random(seed)
        self.store = Store(self.random, fault)
        self.history = History()
        self.now = 0.0
        self._workload = workload
        self._versions: dict[str, int] = {}  # by key, as some client last heard
        self._late: list[Serving] = []  # copies of requests whose senders have given them up
        self._started = 0

    def run(self) -> None:
        clients = [f"client-{number}" for number in range(self._workload.clients)]
        running = [(client, self._operate(client)) for client in clients]
        while running:
            self.now += TICK_SECONDS * self.random.random()
            if self._late and self.random.random() < 0.2:
                self._deliver_late()
            index = self.random.randrange(len(running))
            client, operation = running[index]
            if next(operation, self) is not self:
                continue
            if self._started < self._workload.operations:
                running[index] = (client, self._operate(client))
            else:
                running[index] = running[-1]
                running.pop()
        while self._late:
            self._deliver_late()

    def _deliver_late(self) -> None:
        index = self.random.randrange(len(self._late))
        if next(self._late[index], self) is self:
            self._late[index] = self._late[-1]
            self._late.pop()

    def _operate(self, client: str) -> Iterator[None]:
        """One operation of a client, from the call to what it is told."""
        request = self._choose()
        number = self.history.begin(
            client,
            request.kind,
            request.key,
            self.now,
            value=request.value,
            expected=request.expected,
        )
        outcome = yield from self._ask(request)
        self.history.end(number, outcome, self.now)
        if outcome.version is not None:
            version = 0 if request.kind is Kind.DELETE else outcome.version
            self._versions[request.key] = version

    def _ask(self, request: Request) -> Serving:
        """Send a request until it is answered, or nobody knows what became of it."""
        load = self._workload
        for attempt in range(ATTEMPTS_MAX):
            yield
            if self.random.random() < load.refusal_share:
                refusal = yield from self.store.refuse(request)
                # What an earlier copy does is still open.
                return UNKNOWN if attempt else refusal
            if self.random.random() < load.loss_share:
                if self.random.random() < 0.7:
                    self._late.append(self.store.serve(request))
                continue
            answer = yield from self.store.serve(request)
            yield
            if self.random.random() >= load.loss_share:
                return answer
            if self.random.random() < 0.5:
                break
        return UNKNOWN

    def _choose(self) -> Request:
        load, chance = self._workload, self.random
        self._started += 1
        key = f"key-{chance.randrange(load.keys)}"
        draw = chance.random()
        if draw < load.get_share:
            return Request(self._started, Kind.GET, key, None, None)
        expected = None
        if chance.random() < load.conditional_share:
            expected = self._versions.get(key, 0)
        if draw < load.get_share + load.delete_share:
            return Request(self._started, Kind.DELETE, key, None, expected)
        return Request(self._started, Kind.PUT, key, f"value-{self._started}", expected)


def simulate(
    fault: Fault, seed: int, workload: Workload | None = None
) -> tuple[History, dict[str, Record]]:
    """Run a workload to its end; returns the history and the records as they are then."""
    chosen = workload or Workload()
    simulation = Simulation(fault, seed, chosen)
    simulation.run()
    keys = [f"key-{number}" for number in range(chosen.keys)]
    return simulation.history, {key: simulation.store.records.get(key, (0, None)) for key in keys}
