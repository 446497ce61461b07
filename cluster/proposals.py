"""Commands on their way through the log: waiting, appended, answered. Pure.

An outcome is told once and only when it is certain; while it is open, nothing is said and
the caller's deadline decides. What can never be known here any more, because a snapshot
took the place of the entry, is told as unknown (P14).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.errors import ClusterError, NotLeader, OutcomeUnknown
from cluster.interfaces import CommittedBatch

Done = Callable[[object, ClusterError | None], None]  # result, or why there is none


@dataclass(slots=True)
class _Appended:
    """An entry that this node appended as leader, waiting to be applied."""

    term: int
    waiters: Sequence[Done]
    size: int  # bytes of its commands
    result: object = None  # of an entry without commands, for its one waiter


class Proposals:
    """The commands of one group on one node. Loop thread only.

    Invariant: every `Done` is called at most once; `count` is how many are open.
    """

    def __init__(self, leader: Callable[[], str | None]) -> None:
        """`leader()`: whom to ask instead, for what is refused."""
        self._leader = leader
        self._queue: deque[tuple[bytes, Done]] = deque()
        self._appended: dict[int, list[_Appended]] = {}  # an index may be ours in several terms
        self.count = 0
        self.bytes = 0

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def add(self, command: bytes, done: Done) -> None:
        self.count += 1
        self.bytes += len(command)
        self._queue.append((command, done))

    def take(self, count_max: int, bytes_max: int) -> tuple[list[bytes], list[Done], int]:
        """The commands of the next entry, their waiters and their bytes; at least one."""
        commands: list[bytes] = []
        waiters: list[Done] = []
        size = 0
        while self._queue and len(commands) < count_max:
            if commands and size + len(self._queue[0][0]) > bytes_max:
                break
            command, done = self._queue.popleft()
            commands.append(command)
            waiters.append(done)
            size += len(command)
        return commands, waiters, size

    def appended(self, index: int, term: int, waiters: Sequence[Done], size: int) -> None:
        self._appended.setdefault(index, []).append(_Appended(term, waiters, size))

    def appended_alone(self, index: int, term: int, done: Done, result: object) -> None:
        """An entry without commands: `done` gets `result` once it is committed."""
        self.count += 1
        self._appended.setdefault(index, []).append(_Appended(term, (done,), 0, result))

    def resolve(self, batch: CommittedBatch, results: Sequence[object]) -> None:
        """Answer whoever proposed at this index, in whichever term this node led."""
        for appended in self._appended.pop(batch.index, ()):
            self._release(appended)
            if appended.term != batch.term:
                self._answer(appended, NotLeader(self._leader()))
                self._refuse_later(appended.term)
            elif batch.commands:
                for done, result in zip(appended.waiters, results, strict=True):
                    done(result, None)
            else:
                for done in appended.waiters:
                    done(appended.result, None)

    def skip(self, index: int) -> None:
        """A snapshot holds everything up to `index`: what became of ours is not known."""
        for skipped in sorted(found for found in self._appended if found <= index):
            for appended in self._appended.pop(skipped):
                self._release(appended)
                message = "a snapshot took the place of the entry"
                self._answer(appended, OutcomeUnknown(message))

    def refuse_waiting(self) -> None:
        """Leadership ended: what was not appended never will be."""
        refused, self._queue = self._queue, deque()
        for command, done in refused:
            self.count -= 1
            self.bytes -= len(command)
            done(None, NotLeader(self._leader()))

    def _refuse_later(self, term: int) -> None:
        """Another entry is committed where this node had one of `term`. By log matching no
        log that holds a later entry of that same term can win either: those are refused."""
        for index in sorted(self._appended):
            items = self._appended[index]
            kept = [item for item in items if item.term != term]
            if kept:
                self._appended[index] = kept
            else:
                del self._appended[index]
            for item in items:
                if item.term == term:
                    self._release(item)
                    self._answer(item, NotLeader(self._leader()))

    def _answer(self, appended: _Appended, error: ClusterError) -> None:
        for done in appended.waiters:
            done(None, error)

    def _release(self, appended: _Appended) -> None:
        self.count -= len(appended.waiters)
        self.bytes -= appended.size
