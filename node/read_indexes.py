"""Read indices of one group: what a read has to wait for, before the state here may answer it.

Reads that come within one turn of the loop share a question, which is asked when the turn is
over: so it is asked after each of them came, as linearizability needs, and costs once what it
costs, a round of the leader or a message to it. Batches grow with the load by themselves, and
nobody waits for an answer that others wait for already: far from the leader that would double
the latency.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import NamedTuple, Protocol

from cluster.errors import ClusterError, NoQuorum
from cluster.interfaces import Consensus


class Asks(Protocol):
    """What is needed of a `Forwarder`."""

    def read_index(
        self, leader: str, *, confirmed: bool, timeout_seconds: float
    ) -> Awaitable[int]: ...


class _Whom(NamedTuple):
    """`leader` None: this node leads."""

    leader: str | None
    confirmed: bool


class _Question:
    """`seconds`: the least that anybody has left who waits. Who has more asks again."""

    __slots__ = ("seconds", "waiting")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.waiting: list[asyncio.Future[int]] = []  # each its own: one may give up

    def answer(self, index: int) -> None:
        for each in self.waiting:
            if not each.done():
                each.set_result(index)

    def fail(self, error: BaseException) -> None:
        for each in self.waiting:
            if not each.done():
                each.set_exception(error)


class ReadIndexes:
    """Loop thread only."""

    def __init__(self, group: Consensus, forwarder: Asks | None) -> None:
        """`forwarder` None: there are no other nodes."""
        self._group = group
        self._forwarder = forwarder
        self._loop = asyncio.get_running_loop()
        self._questions: dict[_Whom, _Question] = {}  # to be asked when this turn is over

    def of_group(self, seconds: float) -> asyncio.Future[int]:
        """This node leads: the index, once a quorum has confirmed that it does.

        Raises NoQuorum, NotLeader, Overloaded; NoQuorum also after `seconds` or before, where
        another read of the same turn has less time. A read may always be tried again.
        """
        return self._join(_Whom(None, True), seconds)

    def of_leader(self, leader: str, *, confirmed: bool, seconds: float) -> asyncio.Future[int]:
        """What that node says. Raises NotLeader, NoQuorum, PeerUnreachable; as above."""
        return self._join(_Whom(leader, confirmed), seconds)

    def _join(self, whom: _Whom, seconds: float) -> asyncio.Future[int]:
        question = self._questions.get(whom)
        if question is None:
            question = self._questions[whom] = _Question(seconds)
            self._loop.call_soon(self._ask, whom)
        elif seconds < question.seconds:
            question.seconds = seconds
        future: asyncio.Future[int] = self._loop.create_future()
        question.waiting.append(future)
        return future

    def _ask(self, whom: _Whom) -> None:
        question = self._questions.pop(whom)
        if whom.leader is None:
            self._ask_group(question)
            return
        assert self._forwarder is not None
        asked = asyncio.ensure_future(
            self._forwarder.read_index(
                whom.leader, confirmed=whom.confirmed, timeout_seconds=question.seconds
            )
        )
        asked.add_done_callback(partial(_tell, question))

    def _ask_group(self, question: _Question) -> None:
        def done(index: int | None, error: ClusterError | None) -> None:
            timer.cancel()
            if index is not None:
                question.answer(index)
            else:
                question.fail(error or NoQuorum("no read index"))

        def expire() -> None:
            question.fail(NoQuorum("no quorum confirmed the read in time"))

        timer = self._loop.call_later(question.seconds, expire)
        self._group.read_index(done)


def _tell(question: _Question, asked: asyncio.Future[int]) -> None:
    if asked.cancelled():
        question.fail(NoQuorum("the question was given up"))
    elif (error := asked.exception()) is not None:
        question.fail(error)
    else:
        question.answer(asked.result())
