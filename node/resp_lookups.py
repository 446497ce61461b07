"""What the Redis door's reads look for and find, and where a session's group is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.interfaces import Consensus
from engines.edits import Answer, Aspect
from engines.interfaces import Held
from node.errors import HivememError
from node.local_reads import Readers
from node.reads import ReadOptions
from node.remote_reads import GroupReads
from node.resp_actions import Look
from node.resp_limits import ANSWER_BYTES_MAX

Found = list[Held | None]
Wanted = Sequence[tuple[str, bytes, bool]]  # session, key, with its value
Done = Callable[[Found | HivememError], None]


class AnswerTooLarge(HivememError):
    """The values of one command are more than one answer may hold."""

    code = "LIMIT_EXCEEDED"
    status = 409

    def __init__(self) -> None:
        super().__init__(f"the values are more than {ANSWER_BYTES_MAX} bytes")


class Barrier(Protocol):
    """What is needed of a hosted group's router."""

    async def barrier(self, read: ReadOptions, deadline: float) -> None:
        """Return when this node's state may answer the read."""


class Hosted(Protocol):
    """A group of which this node holds a replica."""

    @property
    def group(self) -> Consensus: ...
    @property
    def router(self) -> Barrier: ...
    @property
    def readers(self) -> Readers: ...


class Groups(Protocol):
    """Where sessions are; see `Partitions`."""

    @property
    def count(self) -> int:
        """Partitions; 0: group 0 holds every session, and is here."""

    def group_of(self, session: str) -> int: ...

    def replica(self, group: int) -> Hosted | None:
        """What is here of a group."""

    def serving(self, group: int) -> Hosted | None:
        """The same, if reads may be answered from it."""


WayTo = Callable[[int], GroupReads]  # the way to a group, wherever it is


@dataclass(slots=True)
class Waiting:
    """Records of one group that one command looks for. `blocked`: its client does not take
    its answers, so that they are not looked up now."""

    namespace: str
    wanted: Wanted
    done: Done
    blocked: Callable[[], bool]


def value_bytes(found: Sequence[Held | None]) -> int:
    return sum(held.size for held in found if held is not None and held.value is not None)


def tell(batch: Sequence[Waiting], error: HivememError) -> None:
    for item in batch:
        item.done(error)


def _answer(held: Held | None, aspect: Aspect, now_ms: int) -> Answer:
    """What an EditLook would answer at `now_ms`: a record that has expired is absent."""
    if held is None or 0 < held.expires_ms <= now_ms:
        return {Aspect.EXISTS: False, Aspect.LENGTH: 0}.get(aspect)
    match aspect:
        case Aspect.VALUE:
            return held.value
        case Aspect.EXISTS:
            return True
        case Aspect.LENGTH:
            return held.size
        case Aspect.DEADLINE:
            return held.expires_ms


def answers(looks: Sequence[Look], found: Sequence[Held | None], now_ms: int) -> list[Answer]:
    if len(looks) == 1:  # most commands
        (held,) = found
        return [_answer(held, looks[0].aspect, now_ms)]
    return [_answer(held, look.aspect, now_ms) for look, held in zip(looks, found, strict=True)]
