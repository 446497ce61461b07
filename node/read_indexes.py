"""Read indices of a leader elsewhere: what a read has to wait for, before the state here answers.

Reads that come within one turn of the loop share a question, which is asked when the turn is
over: so it is asked after each of them came, as linearizability needs, and costs one message
for all. Batches grow with the load by themselves, and nobody waits for an answer that others
wait for already: far from the leader that would double the latency. A question has as much
time as the most patient of them; each of the others gives up by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import NamedTuple, Protocol

from cluster.errors import NoQuorum


class Asks(Protocol):
    """What is needed of a `Forwarder`."""

    def read_index(
        self, leader: str, *, confirmed: bool, timeout_seconds: float
    ) -> Awaitable[int]: ...


class _Whom(NamedTuple):
    leader: str
    confirmed: bool


class _Question:
    """`seconds`: the most that anybody has left who waits."""

    __slots__ = ("seconds", "waiting")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waiting: list[asyncio.Future[int]] = []  # each its own: one may give up


class ReadIndexes:
    """Loop thread only. Waiting reads are bounded by the requests that doors admit."""

    def __init__(self, forwarder: Asks) -> None:
        self._forwarder = forwarder
        self._loop = asyncio.get_running_loop()
        self._questions: dict[_Whom, _Question] = {}  # to be asked when this turn is over

    async def get(self, leader: str, *, confirmed: bool, seconds: float) -> int:
        """What that node says. A read may always be tried again.

        Raises NotLeader, NoQuorum (also after `seconds`), PeerUnreachable.
        """
        whom = _Whom(leader, confirmed)
        question = self._questions.get(whom)
        if question is None:
            question = self._questions[whom] = _Question()
            self._loop.call_soon(self._ask, whom)
        question.seconds = max(question.seconds, seconds)
        answer: asyncio.Future[int] = self._loop.create_future()
        question.waiting.append(answer)
        timer = self._loop.call_later(seconds, _expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    def _ask(self, whom: _Whom) -> None:
        question = self._questions.pop(whom)
        asked = asyncio.ensure_future(
            self._forwarder.read_index(
                whom.leader, confirmed=whom.confirmed, timeout_seconds=question.seconds
            )
        )
        asked.add_done_callback(partial(_tell, question))


def _expire(answer: asyncio.Future[int]) -> None:
    if not answer.done():
        answer.set_exception(NoQuorum("the leader did not answer in time"))


def _tell(question: _Question, asked: asyncio.Future[int]) -> None:
    error = NoQuorum("the question was given up") if asked.cancelled() else asked.exception()
    for answer in question.waiting:
        if answer.done():
            continue
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(asked.result())
