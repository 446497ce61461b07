"""One client of the Redis door: its commands in order, its replies in order.

Theory of operation. A client may send many commands without waiting (a pipeline), and each
must see what the ones before it did. So commands run in *phases*: writes that follow each
other are proposed together, and the log of their partition keeps their order; reads that
follow each other share one quorum round. A read waits for the writes before it, and a write
for the reads.
What asks for more than that (`Alone`) runs by itself. Every command has a slot for its
reply; replies leave in the order of the slots.

A command that is not answered in time is answered with an error, and whatever comes of it
later finds its slot filled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

from cluster.errors import NotLeader
from engines.edits import Aspect
from engines.interfaces import Held, Result
from node.errors import HivememError, Unavailable
from node.http_errors import FATAL
from node.resp_actions import Arguments, CommandError, Read, Spec, Write, finish, fits
from node.resp_commands import COMMANDS
from node.resp_errors import expired, failure
from node.resp_lookups import answers
from node.resp_names import DEFAULT_NAMESPACE
from node.resp_reader import ProtocolError, RequestReader
from node.resp_redirects import Redirects
from node.resp_reply import QUEUED, Failure, Reply, encode
from node.resp_steps import Alone, Door, Proposal, Slot, Step, Transaction
from node.resp_writes import Writes

_HTTP: Final = (b"POST", b"HOST:")  # a web page that tries to reach this port
_WITHOUT_AUTH: Final = ("auth", "hello", "quit", "reset")
_BYTES_HELD_LITTLE: Final = 64 << 10  # with so few bytes a connection is not at fault
_TOO_MUCH: Final = Failure("ERR", "too many bytes of commands are held (input_bytes_max)")
_QUOTED_BYTES_MAX: Final = 128  # of what a client sent, in an error
# As clients spell them, so that the usual spellings cost one lookup.
_BY_WORD: Final[dict[bytes, tuple[str, Spec | None]]] = {
    word: (name, spec)
    for name, spec in COMMANDS.items()
    for word in (name.encode(), name.upper().encode())
}


class Connection(asyncio.Protocol):
    """Loop thread only."""

    def __init__(self, door: Door, number: int) -> None:
        limits = door.limits
        self.door = door
        self.number = number
        self.name = ""
        self.address = ""
        self.namespace = DEFAULT_NAMESPACE
        self.protocol = 2
        self.user: str | None = None  # the token's name
        self.stale = False  # READONLY: reads are answered from this node's state
        self.transaction: Transaction | None = None
        self.watched: dict[tuple[str, str, bytes], int] = {}  # record → its revision
        self._reader = RequestReader(
            limits.request_bytes_max if door.tokens is None else limits.unauthenticated_bytes_max,
            limits.request_arguments_max,
            limits.inline_bytes_max,
        )
        self._timeout_seconds = limits.command_timeout_ms / 1000
        self._transport: asyncio.Transport | None = None
        self._bytes_ahead = 0  # received since no command waited the last time
        self._bytes_held = 0  # as the door was told
        self._commands: deque[Arguments | ProtocolError] = deque()
        self._next: Step | _Nothing = NOTHING
        self._slots: deque[Slot] = deque()
        self._reads = self._writes = 0  # under way
        self._alone: asyncio.Task[None] | None = None
        self._redirects = Redirects(self._forward)
        self._advancing = self._blocked = self._paused = self._closing = False
        self._blocked_at = 0.0

    # --- The socket ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(self.door.limits.output_bytes_max)
        peer = transport.get_extra_info("peername")
        self.address = f"{peer[0]}:{peer[1]}" if peer else ""
        if not self.door.admit(self):
            self._closing = True
            self._transport.write(b"-ERR max number of clients reached\r\n")
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._commands.clear()
        self._slots.clear()
        self._redirects.cancel()
        if self._alone is not None:
            self._alone.cancel()
        self.door.hold(-self._bytes_held)
        self._bytes_held = 0
        self.door.reads.resume()
        self.door.forget(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._bytes_ahead += len(data)
        try:
            self._commands.extend(self._reader.feed(data))
        except ProtocolError as error:
            self._commands.extend((*error.commands, error))
        self._advance()
        if not self._account() and self._bytes_held > _BYTES_HELD_LITTLE and not self._closing:
            self._commands.clear()
            self._slots.append(Slot(encode(_TOO_MUCH, self.protocol)))
            self.close()

    def _account(self) -> bool:
        """Tell the door how much this connection holds; False: it is too much for all."""
        held = self._reader.pending
        if self._commands:
            held = max(held, self._bytes_ahead)
        if not held and not self._bytes_held:
            return True  # as with most commands: it came whole and is done
        more, self._bytes_held = held - self._bytes_held, held
        return self.door.hold(more)

    def pause_writing(self) -> None:
        self._blocked = True
        self._blocked_at = self.door.clock.monotonic()

    def resume_writing(self) -> None:
        self._blocked = False
        self.door.reads.resume()
        self._advance()

    def close(self) -> None:
        """Answer what is under way, and close."""
        self._closing = True
        self._flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close_after_replies(self) -> None:
        """Take no more commands; the one that asks for it is still answered."""
        self._closing = True

    def authenticated(self, user: str) -> None:
        self.user = user
        self._reader.bytes_max = self.door.limits.request_bytes_max

    def leave(self) -> None:
        """Be nobody again."""
        self.user = None
        if self.door.tokens is not None:
            self._reader.bytes_max = self.door.limits.unauthenticated_bytes_max

    @property
    def open(self) -> bool:
        """May it be used? False before AUTH where tokens are needed."""
        return self.door.tokens is None or self.user is not None

    # --- From commands to steps ----------------------------------------------------

    def _advance(self) -> None:
        """Start what can be started."""
        if self._advancing:
            return
        self._advancing = True
        slots_max = self.door.limits.pipeline_commands_max
        try:
            while not (self._blocked or self._closing or self._alone):
                if self._next is NOTHING:
                    if not self._commands or len(self._slots) >= slots_max:
                        break
                    self._next = self._prepare(self._commands.popleft())
                if not self._start(self._next):
                    break
                self._next = NOTHING
        finally:
            self._advancing = False
        self._flush()
        self._throttle()

    def _throttle(self) -> None:
        """Read from the socket only while there is room for more commands."""
        limits, waiting = self.door.limits, len(self._commands)
        if not waiting:
            self._bytes_ahead = 0
        if self._bytes_held:
            self._account()  # what was done meanwhile is not held any more
        full = (
            waiting >= limits.pipeline_commands_max
            or self._bytes_ahead >= limits.pipeline_bytes_max
        )
        if self._transport is None or self._closing or full == self._paused:
            return
        self._paused = full
        if full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _prepare(self, words: Arguments | ProtocolError) -> Step:
        if isinstance(words, ProtocolError):
            self._closing = True
            return Failure("ERR", f"Protocol error: {words}")
        try:
            return self._interpret(words)
        except Exception as error:  # a reply may have led here: see _told
            if self.transaction is not None:
                self.transaction.spoilt = True
            return self._failed(error, writes=False)

    def _interpret(self, words: Arguments) -> Step:
        """Raises CommandError, HivememError."""
        known = _BY_WORD.get(words[0])
        name, spec = known if known is not None else _by_any_word(words[0])
        control = None if spec is not None else self.door.controls.get(name)
        if not self.open and name not in _WITHOUT_AUTH:
            raise CommandError("Authentication required.", "NOAUTH")
        if self.door.stopping:
            raise Unavailable("this node is stopping", code="STOPPING")
        if spec is None and control is None:
            if words[0].upper() in _HTTP:
                self.close_after_replies()
                raise CommandError("this is no HTTP door")
            raise _unknown(words)
        self.door.count(name)
        if not fits(spec.arity if spec else control.arity if control else 0, len(words)):
            raise CommandError(f"wrong number of arguments for '{name}' command")
        if control is not None:
            if self.transaction is not None and not control.in_transaction:
                raise CommandError(f"{name.upper()} is not possible inside MULTI")
            return control.run(self, words)
        assert spec is not None
        now_ms = self.door.clock.now_ms()
        action = spec.parse(words, now_ms)
        if self.transaction is not None:
            return self._queue(action)
        if isinstance(action, Read):
            return action
        command = self.door.writes.command(self.namespace, action, now_ms)
        return Proposal(command, partial(_write_reply, action))

    def _queue(self, action: Read | Write) -> Step:
        assert self.transaction is not None
        actions_max = self.door.limits.transaction_commands_max
        if len(self.transaction.actions) >= actions_max:
            raise CommandError(f"at most {actions_max} commands in one transaction")
        self.transaction.actions.append(action)
        return QUEUED

    # --- From steps to replies -----------------------------------------------------

    def _start(self, step: Step | _Nothing) -> bool:
        """Begin a step; False: not yet."""
        match step:
            case Read():
                return self._start_read(step)
            case Proposal():
                return self._start_write(step)
            case Alone():
                return self._start_alone(step)
            case _:
                self._slots.append(Slot(encode(cast(Reply, step), self.protocol)))
                return True

    def _start_read(self, read: Read) -> bool:
        if self._writes or self._reads >= self.door.limits.reads_inflight_max:
            return False
        wanted = [(look.session, look.key, look.aspect is Aspect.VALUE) for look in read.looks]
        slot = self._begin(writes=False)
        self.door.reads.add(
            self.namespace,
            wanted,
            partial(self._found, read, slot),
            self._takes_nothing,
            stale=self.stale,
        )
        return True

    def _takes_nothing(self) -> bool:
        return self._blocked and not self._closing

    def _found(self, read: Read, slot: Slot, found: list[Held | None] | HivememError) -> None:
        if isinstance(found, HivememError):
            self._settle(slot, failure(found, writes=False))
            return
        now_ms = self.door.clock.now_ms()
        self._settle(slot, self._told(_read_reply, read, found, now_ms, writes=False))

    def _start_write(self, proposal: Proposal) -> bool:
        if self._reads:
            return False
        slot = self._begin(writes=True)
        if self._redirects and self._redirects.behind(self._group_of(proposal), proposal, slot):
            return True

        def done(result: Result | None, error: Exception | None) -> None:
            if result is not None:
                self._settle(slot, self._told(proposal.reply, result, writes=True))
            elif isinstance(error, NotLeader):
                self._redirect(proposal, slot)
            elif error is not None:
                self._settle(slot, failure(error, writes=True))

        self.door.writes.submit(proposal.command, done)
        return True

    def _group_of(self, proposal: Proposal) -> int:
        return self.door.writes.group_of(proposal.command)

    def _redirect(self, proposal: Proposal, slot: Slot) -> None:
        """Another node leads."""
        if slot.reply is None and not self._closing:
            self._redirects.add(self._group_of(proposal), proposal, slot)

    async def _forward(self, proposal: Proposal, slot: Slot) -> None:
        if slot.reply is not None:
            return  # given up
        try:
            result = await self.door.writes.forward(proposal.command, slot.deadline)
        except HivememError as error:
            reply: Reply = failure(error, writes=True)
        else:
            reply = self._told(proposal.reply, result, writes=True)
        self._settle(slot, reply)

    def _start_alone(self, alone: Alone) -> bool:
        if self._reads or self._writes:
            return False
        slot = self._begin(writes=False)

        async def run() -> None:
            try:
                reply = await alone.run()
            except Exception as error:
                reply = self._failed(error, writes=False)
            self._alone = None
            self._settle(slot, reply)

        self._alone = asyncio.create_task(run())
        return True

    def _told(self, reply: Callable[..., Reply], *of: object, writes: bool) -> Reply:
        """A reply, or that there is none: whoever calls back must not meet our defects."""
        try:
            return reply(*of)
        except Exception as error:
            return self._failed(error, writes=writes)

    def _failed(self, error: Exception, *, writes: bool) -> Failure:
        if isinstance(error, CommandError):
            return error.reply
        if isinstance(error, FATAL):
            self.door.fail(error)
        return failure(error, writes=writes)

    def _begin(self, *, writes: bool) -> Slot:
        if writes:
            self._writes += 1
        else:
            self._reads += 1
        slot = Slot(None, writes, self.door.clock.monotonic() + self._timeout_seconds)
        self._slots.append(slot)
        return slot

    def _settle(self, slot: Slot, reply: Reply) -> None:
        """Fill a slot, unless it was given up."""
        if slot.reply is not None:
            return
        slot.reply = encode(reply, self.protocol)
        if slot.writes:
            self._writes -= 1
        else:
            self._reads -= 1
        waiting = self._commands or self._next is not NOTHING or self._paused
        if waiting and not self._closing and not self._reads and not self._writes:
            self._advance()
        else:
            self._flush()

    def _flush(self) -> None:
        transport, slots = self._transport, self._slots
        if transport is None:
            return
        ready: list[bytes] = []
        while slots:
            reply = slots[0].reply
            if reply is None:
                break
            ready.append(reply)
            slots.popleft()
        if ready:
            transport.write(b"".join(ready) if len(ready) > 1 else ready[0])
        if self._closing and not slots:
            transport.close()

    def tick(self, now: float) -> None:
        """Give up what takes too long: commands, and a client that does not read."""
        if self._blocked and now - self._blocked_at > self.door.limits.blocked_client_seconds_max:
            assert self._transport is not None
            self._transport.abort()
            return
        late = [slot for slot in self._slots if slot.reply is None and now >= slot.deadline]
        if late and self._alone is not None:
            self._alone.cancel()
            self._alone = None
        for slot in late:
            self._settle(slot, failure(expired(writes=slot.writes), writes=slot.writes))


class _Nothing:
    """No step: `None` is one, a null reply."""


NOTHING: Final = _Nothing()


def _read_reply(read: Read, found: Sequence[Held | None], now_ms: int) -> Reply:
    return read.reply(answers(read.looks, found, now_ms))


def _write_reply(action: Write, result: Result) -> Reply:
    return finish(action, Writes.answers(result))


def _by_any_word(word: bytes) -> tuple[str, Spec | None]:
    name = word.decode("latin-1").lower()
    return name, COMMANDS.get(name)


def _unknown(words: Arguments) -> CommandError:
    name, *rest = (word[:_QUOTED_BYTES_MAX].decode("utf-8", "replace") for word in words[:4])
    beginning = " ".join(f"'{word}'" for word in rest)
    return CommandError(f"unknown command '{name}', with args beginning with: {beginning}")
