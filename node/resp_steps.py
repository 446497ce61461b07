"""What a connection does with a command, and what it needs of the server for that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from engines.interfaces import Result
from node.auth import Tokens
from node.clock import Clock
from node.resp_actions import Arguments, Read, Write
from node.resp_limits import RespLimits
from node.resp_reads import ReadBatches
from node.resp_reply import Reply
from node.resp_writes import Command, Writes

if TYPE_CHECKING:
    from node.resp_connection import Connection


@dataclass(slots=True)
class Proposal:
    """A write that is ready to be proposed, and what its result is told as."""

    command: Command
    reply: Callable[[Result], Reply]


class Slot:
    """The place of one reply among a connection's. `deadline`: Clock.monotonic() seconds, until
    which the reply has to come."""

    __slots__ = ("deadline", "reply", "writes")

    def __init__(self, reply: bytes | None, writes: bool = False, deadline: float = 0.0) -> None:
        self.reply = reply
        self.writes = writes
        self.deadline = deadline


@dataclass(slots=True)
class Alone:
    """Something that runs while no other command of the connection does."""

    run: Callable[[], Awaitable[Reply]]


Step = Read | Proposal | Alone | Reply
Control = Callable[["Connection", Arguments], Step]


class ControlSpec(Protocol):
    """A command on the connection or the server, as COMMAND shows it."""

    @property
    def run(self) -> Control: ...

    @property
    def arity(self) -> int: ...

    @property
    def in_transaction(self) -> bool:
        """Runs at once also inside MULTI, where others are queued or refused."""


class Door(Protocol):
    """What a connection needs of the server."""

    @property
    def limits(self) -> RespLimits: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def reads(self) -> ReadBatches: ...
    @property
    def writes(self) -> Writes: ...
    @property
    def tokens(self) -> Tokens | None: ...
    @property
    def controls(self) -> Mapping[str, ControlSpec]: ...
    @property
    def stopping(self) -> bool: ...
    def admit(self, connection: Connection) -> bool: ...
    def forget(self, connection: Connection) -> None: ...
    def count(self, command: str) -> None: ...
    def hold(self, size: int) -> bool:
        """So many more bytes of commands are held, or fewer; False: that is too many."""

    def fail(self, error: BaseException) -> None: ...


@dataclass(slots=True)
class Transaction:
    """What was queued since MULTI. `spoilt`: a command was refused, so EXEC will be."""

    actions: list[Read | Write] = field(default_factory=list)
    spoilt: bool = False
