"""Clients of a simulated cluster, and what they were told: histories for the checker.

A client does one operation at a time, as the router of a node would: on any node, forwarded
to the leader that this node believes in, repeated with the same request id where the
outcome is unknown. Reads take the ReadIndex path and are answered by any node.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cluster.errors import ClusterError
from engines.command import Command, Delete, Put, encode
from engines.interfaces import DeleteResult, PutResult, RejectCode, Rejected
from tests.histories.history import FAILED, UNKNOWN, History, Kind, Outcome, conflict, ok
from tests.simulation.world import NAMESPACE, SESSION, World

KEYS = 4
PATIENCE_SECONDS = 3.0  # virtual; then a client asks again, or gives up
TRIES_MAX = 3
LOSS = 0.02  # of requests and answers between nodes, of those that have one to cross


@dataclass(slots=True)
class Call:
    """One operation under way."""

    number: int  # in the history
    kind: Kind
    key: str
    command: bytes | None  # of a write
    started: float
    tries: int = 0
    open: bool = True
    unknown: bool = False  # an earlier try may have had an effect


@dataclass(slots=True)
class Client:
    name: str
    call: Call | None = None
    versions: dict[str, int] = field(default_factory=dict)  # as it saw them last


class Clients:
    """Drives clients against a world, one step at a time."""

    def __init__(self, world: World, rng: random.Random, count: int) -> None:
        self.world = world
        self.rng = rng
        self.history = History()
        self.clients = [Client(f"c{number}") for number in range(count)]
        self.written = 0
        self.counts: dict[str, int] = {}

    def step(self) -> None:
        """One client goes on: begins an operation, asks again, or gives up."""
        client = self.rng.choice(self.clients)
        if client.call is None:
            self._begin(client)
        elif self.world.time - client.call.started > PATIENCE_SECONDS:
            self._impatient(client, client.call)

    def give_up(self) -> None:
        """Nobody waits any longer."""
        for client in self.clients:
            if client.call is not None:
                self._end(client, client.call, UNKNOWN)

    # --- Beginning -------------------------------------------------------------------

    def _begin(self, client: Client) -> None:
        kind = self.rng.choices((Kind.PUT, Kind.GET, Kind.DELETE), (6, 3, 1))[0]
        key = f"k{self.rng.randrange(KEYS)}"
        value = expected = None
        if kind is not Kind.GET and self.rng.random() < 0.35:
            expected = client.versions.get(key, 0)
        if kind is Kind.PUT:
            self.written += 1
            value = f"v{self.written}" + "x" * self.rng.choice((0, 0, 50, 700))
        now = self.world.time
        number = self.history.begin(client.name, kind, key, now, value=value, expected=expected)
        command = self._command(client, kind, key, value, expected, number)
        client.call = Call(number, kind, key, command, now)
        self._try(client, client.call)

    def _command(
        self,
        client: Client,
        kind: Kind,
        key: str,
        value: str | None,
        expected: int | None,
        number: int,
    ) -> bytes | None:
        wall_ms = self.rng.randrange(1 << 41)  # wall clocks may say anything
        request = f"{client.name}-{number}"
        named = {"if_version": expected, "request_id": request}
        command: Command
        if kind is Kind.PUT:
            assert value is not None
            body = value.encode()
            command = Put(NAMESPACE, SESSION, key.encode(), body, "", wall_ms, **named)
        elif kind is Kind.DELETE:
            command = Delete(NAMESPACE, SESSION, key.encode(), wall_ms, **named)
        else:
            return None
        return encode(command)

    def _try(self, client: Client, call: Call) -> None:
        call.tries += 1
        up = self.world.awake()
        if not up:
            return
        node = self.rng.choice(up)
        leader = self.world.group(node).role().leader
        if leader is None or leader not in up:
            return
        crosses = node != leader
        if crosses and not self.world.network.connected(node, leader):
            return
        if crosses and self.rng.random() < LOSS:
            call.unknown = True  # Nobody can say whether the request or its answer was lost.
            return
        if call.command is None:
            self._read(client, call, node, leader)
        else:
            self.world.group(leader).submit(call.command, self._answerer(client, call))

    def _impatient(self, client: Client, call: Call) -> None:
        call.started = self.world.time
        call.unknown = True
        if call.tries < TRIES_MAX and self.rng.random() < 0.7:
            self.counts["retry"] = self.counts.get("retry", 0) + 1
            self._try(client, call)
        else:
            self._end(client, call, UNKNOWN)

    # --- Ending ----------------------------------------------------------------------

    def _answerer(self, client: Client, call: Call):
        def answered(result: object, error: ClusterError | None) -> None:
            if not call.open:
                return
            if error is not None:
                if not error.definite:
                    call.unknown = True
                elif not call.unknown:
                    self._end(client, call, FAILED)
                return
            self._end(client, call, self._outcome(call, result))

        return answered

    def _outcome(self, call: Call, result: object) -> Outcome:
        if isinstance(result, PutResult):
            return ok(result.version)
        if isinstance(result, DeleteResult):
            return ok(result.version if result.deleted else 0)
        assert isinstance(result, Rejected), result
        assert result.code is RejectCode.VERSION_CONFLICT, result
        return conflict(result.version)

    def _read(self, client: Client, call: Call, node: str, leader: str) -> None:
        group, machine = self.world.group(node), self.world.nodes[node].machine

        def served() -> None:
            if not call.open or self.world.nodes[node].group is not group:
                return
            record = machine.get(call.key)
            found = ok(0) if record is None else ok(record.version, (record.value or b"").decode())
            self._end(client, call, found)

        def confirmed(index: int | None, error: ClusterError | None) -> None:
            if index is not None and self.world.nodes[node].group is group:
                group.when_applied(index, served)

        self.world.group(leader).read_index(confirmed)

    def _end(self, client: Client, call: Call, outcome: Outcome) -> None:
        call.open = False
        client.call = None
        self.history.end(call.number, outcome, self.world.time)
        name = str(outcome.status)
        self.counts[name] = self.counts.get(name, 0) + 1
        if outcome.version is not None:
            client.versions[call.key] = outcome.version if call.kind is not Kind.DELETE else 0
