"""Attempts, retries and what may be said at the end of them. Knows no HTTP library.

Theory of operation. A call has one deadline and as many attempts as fit into it. A *round*
tries each known address at most once, without pauses: a refused connection costs nothing,
and another node may be on the majority's side of a netsplit. Between rounds there is a
pause, doubling, with full jitter. An attempt gets only part of the time, so that a node
that is paused or cut off does not use up the whole deadline; each next attempt gets twice
as much, so that what is merely slow succeeds as well.

Every attempt of a call carries the same request id: a retry after an unknown outcome is
applied at most once. What is reported at the end is `definite` only if *every* attempt
was: an attempt whose answer was lost may still be applied, whatever later ones said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from node import client_errors
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError, Unavailable, WrongCluster
from node.topology import Topology

PAUSE_SECONDS_MIN = 0.02  # upper bound of the first pause between rounds
PAUSE_SECONDS_MAX = 0.5
ATTEMPT_SECONDS_FIRST = 2.0  # at most; and never more than half of the deadline
ATTEMPT_SECONDS_MIN = 0.1  # a retry with less left would only make the outcome unknown
ANSWER_SECONDS_MAX = 0.25  # the node's deadline ends before ours, so that its answer arrives


class SendFailed(Exception):
    """No answer. `sent`: the request may have reached a node; False: it certainly did not."""

    def __init__(self, reason: str, *, sent: bool, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.timed_out = timed_out


class Reply(Protocol):
    """An answer, read completely. Header names are looked up case-insensitively."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request, the same for every attempt.

    `target`: encoded path and query, without timeout_ms. That goes into the query, or, where
    `document` is given, into this JSON object as one more field (which the body then is).
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    document: bytes | None = None
    mutates: bool = False
    leader: bool = True  # prefer the leader
    spread: bool = False  # take turns between nodes
    timed: bool = True  # False: this route takes no timeout_ms

    def at(self, timeout_ms: int) -> tuple[str, bytes | None]:
        """Target and body of an attempt that the node may spend `timeout_ms` on."""
        if self.document is not None:
            rest = self.document[1:]
            comma = b"" if rest == b"}" else b","
            return self.target, b'{"timeout_ms":%d' % timeout_ms + comma + rest
        if not self.timed:
            return self.target, self.body
        mark = "&" if "?" in self.target else "?"
        return f"{self.target}{mark}timeout_ms={timeout_ms}", self.body


Send = Callable[[str, Call, float], Awaitable[Reply]]  # address, call, seconds; raises SendFailed


@dataclass(slots=True)
class _Trouble:
    """What went wrong so far in one call."""

    mutates: bool
    reached: bool = False  # some node took a request
    maybe_applied: bool = False  # some attempt's outcome is not known
    answered: HivememError | None = None  # the last error that a node answered
    failed: HivememError | None = None  # the last attempt without an answer

    @property
    def overloaded(self) -> bool:
        return self.answered is not None and self.answered.code == "OVERLOADED"

    def note_answer(self, error: HivememError) -> None:
        if isinstance(error, WrongCluster):
            # It is as good as no node, where one of ours listened before.
            self.answered = self.answered or error
            return
        self.answered = error
        self.reached = True
        self.maybe_applied |= self.mutates and not error.definite

    def note_failure(self, address: str, failure: SendFailed) -> None:
        text = f"no answer from {address}: {failure}"
        self.reached |= failure.sent
        self.maybe_applied |= self.mutates and failure.sent
        if self.mutates and failure.sent:
            hint = "the write may or may not be applied; retry it with the same request_id"
            message = f"{text}; {hint}"
            self.failed = Unavailable(message, code="OUTCOME_UNKNOWN", definite=False)
        elif failure.timed_out and not self.mutates:
            self.failed = DeadlineExceeded(text)
        else:
            self.failed = Unavailable(text, code="UNREACHABLE")

    def final(self, error: HivememError) -> HivememError:
        """`error` as the outcome of the whole call."""
        # A conflict answers for the request id: nodes remember it, so that an earlier
        # attempt which is still on its way cannot be applied any more.
        if self.maybe_applied and error.definite and error.code != "VERSION_CONFLICT":
            error.definite = False
            error.message += "; an earlier attempt may have been applied"
            error.args = (error.message,)
        return error

    def expired(self) -> HivememError:
        """The error to raise when the deadline passes."""
        # A node's own words say more than that its dead neighbours did not answer.
        error = self.answered or self.failed
        if error is None:
            return DeadlineExceeded("the deadline passed before the first attempt")
        if self.maybe_applied and error.code == "UNREACHABLE":
            error.code = "OUTCOME_UNKNOWN"
        return self.final(error)


class Retrier:
    """Makes calls until they succeed, are refused, or their deadline passes."""

    def __init__(
        self,
        topology: Topology,
        send: Send,
        clock: Clock,
        on_trouble: Callable[[], None] = lambda: None,
        unreachable_ms_max: int | None = None,
    ) -> None:
        """`on_trouble` is called when a node did not answer: who leads may have changed.

        `unreachable_ms_max`: give up after so long without any node that takes a request,
        though the deadline allows more; None: do not.
        """
        self._topology = topology
        self._send = send
        self._clock = clock
        self._on_trouble = on_trouble
        self._unreachable_ms_max = unreachable_ms_max

    async def run(self, call: Call, timeout_ms: int) -> Reply:
        """The first successful answer. Raises: HivememError."""
        deadline = self._clock.monotonic() + timeout_ms / 1000
        budget = _Budget(timeout_ms / 1000)
        trouble = _Trouble(call.mutates)
        patience_ms = self._unreachable_ms_max
        patience_left = 0.0 if patience_ms is None else (timeout_ms - patience_ms) / 1000
        pause = PAUSE_SECONDS_MIN
        while True:
            reply = await self._round(call, deadline, budget, trouble)
            if reply is not None:
                return reply
            if isinstance(trouble.answered, WrongCluster) and trouble.failed is None:
                raise trouble.final(trouble.answered)  # all of them are
            wait = self._clock.random().uniform(0, pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            left = self._left(deadline) - wait
            hopeless = not trouble.reached and left < patience_left
            if left < ATTEMPT_SECONDS_MIN or hopeless:
                raise trouble.expired()
            await asyncio.sleep(wait)

    async def once(self, address: str, call: Call, timeout_ms: int) -> Reply:
        """One attempt at one node, whatever else is known. Raises: HivememError."""
        trouble = _Trouble(call.mutates)
        try:
            reply = await self._send(address, call, timeout_ms / 1000)
        except SendFailed as failure:
            trouble.note_failure(address, failure)
            raise trouble.expired() from failure
        if reply.status >= 300:
            raise client_errors.error(reply.status, reply.body)
        return reply

    async def _round(
        self, call: Call, deadline: float, budget: _Budget, trouble: _Trouble
    ) -> Reply | None:
        """Ask each address once; None: none could answer, try again later."""
        tried: set[str] = set()
        while True:
            now = self._clock.monotonic()
            address = self._topology.next(tried, now, leader=call.leader, spread=call.spread)
            if address is None:
                return None
            tried.add(address)
            left = self._left(deadline)
            if left < ATTEMPT_SECONDS_MIN and (trouble.answered or trouble.failed):
                raise trouble.expired()
            try:
                seconds = budget.attempt(left, alone=len(self._topology.known) == 1)
                reply = await self._send(address, call, seconds)
            except SendFailed as failure:
                self._topology.failed(address, self._clock.monotonic())
                trouble.note_failure(address, failure)
                if failure.timed_out:
                    budget.double()
                self._on_trouble()
                continue
            self._topology.answered(address)
            if reply.status < 300:
                return reply
            self._refused(address, reply, trouble)
            budget.double()
            if trouble.overloaded:
                return None  # asking its neighbours at once would only spread the load

    def _refused(self, address: str, reply: Reply, trouble: _Trouble) -> None:
        """Learn from an error; raise it unless another node, or the same later, may do better."""
        error = client_errors.error(reply.status, reply.body)
        trouble.note_answer(error)
        if not isinstance(error, Unavailable | DeadlineExceeded | WrongCluster):
            raise trouble.final(error)
        if not isinstance(error, DeadlineExceeded) and not trouble.overloaded:
            self._topology.unable(address, self._clock.monotonic())
            self._on_trouble()
        if error.leader is not None:
            self._topology.led_by(error.leader)

    def _left(self, deadline: float) -> float:
        return deadline - self._clock.monotonic()


class _Budget:
    """How long each attempt may take; doubled when one took its time and got nowhere."""

    def __init__(self, seconds: float) -> None:
        self._next = min(ATTEMPT_SECONDS_FIRST, seconds / 2)

    def attempt(self, left: float, *, alone: bool) -> float:
        """Seconds for the next attempt; all that is left if there is nobody else to ask."""
        given = self._next
        # What would remain for another attempt is better spent on this one.
        return left if alone or left - given < ATTEMPT_SECONDS_MIN else given

    def double(self) -> None:
        self._next *= 2


def node_timeout_ms(seconds: float) -> int:
    """The deadline to give a node whose answer must arrive within `seconds`."""
    given = seconds - min(ANSWER_SECONDS_MAX, seconds / 5)
    return max(1, min(60_000, int(given * 1000)))
