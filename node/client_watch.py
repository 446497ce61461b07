"""Watching: Server-Sent Events that survive the death of the node they come from.

Theory of operation. A watch reads from one node at a time. When that node ends the stream,
goes silent for longer than its heartbeat allows, or dies, the watch goes on at another one,
from the id of the last event that it handed out; before the first event, from where the
first node said that the watch began. Ids only grow, so an event at or below the last id is
a repetition and is dropped. So each event comes once, and in order, whichever nodes it
came from. Ids of a watch of several partitions say where each of them stands; they are not
compared: the last one is handed back as it came. Knows no HTTP library.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NamedTuple, NoReturn, Protocol, Self, TypeVar

from node import client_errors
from node import client_wire as wire
from node.client_retry import PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, SendFailed
from node.client_types import Event, EventId
from node.clock import Clock
from node.errors import CompactedError, HivememError, InternalError, Unavailable
from node.topology import Topology

T = TypeVar("T")

EVENT_BYTES_MAX = 64 << 20  # one event; an 8 MiB value of control characters, escaped, is 48 MiB
SILENCE_SECONDS_MAX = 25.0  # nodes send a comment every 10 s
READY_SECONDS_MAX = 3.0  # a node that is paused accepts connections, and then says nothing
_AFTER_REVISION = 1 << 62  # a position behind every event of its revision
_BEFORE_ALL = EventId(-1, 0)


class Message(NamedTuple):
    """One Server-Sent Event, or only an id to resume from; what it lacks is ""."""

    name: str
    id: str
    data: str


class EventParser:
    """Takes a stream's bytes in any cut; gives complete messages. Each byte is copied once."""

    def __init__(self, bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._partial: list[bytes] = []  # pieces of a line whose end has not come
        self._partial_bytes = 0
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> list[Message]:
        """Raises: InternalError if an event is too large or not UTF-8."""
        *complete, rest = data.split(b"\n")
        messages: list[Message] = []
        for piece in complete:
            line = b"".join((*self._partial, piece)) if self._partial else piece
            self._partial.clear()
            self._partial_bytes = 0
            message = self._line(line)
            if message is not None:
                messages.append(message)
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
            if self._partial_bytes > self._bytes_max:
                raise InternalError(f"the node sent an event of more than {self._bytes_max} bytes")
        return messages

    def _line(self, line: bytes) -> Message | None:
        line = line.removesuffix(b"\r")
        if not line:
            fields, self._fields = self._fields, {}
            if not fields:
                return None
            return Message(fields.get("event", ""), fields.get("id", ""), fields.get("data", ""))
        name, _, value = line.partition(b":")
        if name in (b"event", b"id", b"data"):
            try:
                text = value.removeprefix(b" ").decode()
            except UnicodeDecodeError as reason:
                raise client_errors.unexpected(reason) from reason
            field = name.decode()
            if field == "data" and field in self._fields:
                text = f"{self._fields[field]}\n{text}"
            self._fields[field] = text
        return None


class Stream(Protocol):
    """An open answer whose body goes on."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises: SendFailed."""

    def close(self) -> None: ...


# address, target → an open stream. Raises: SendFailed, HivememError (the node's answer).
Open = Callable[[str, str], Awaitable[Stream]]


class Watch:
    """Changes as they happen: `async for event in watch`. Close it, or use `async with`.

    Entering connects, so that what is written afterwards is seen. Iterating raises
    CompactedError when what follows is no longer kept, Unavailable when no node could be
    reached for `patience_ms`; after any error the watch is closed.
    """

    def __init__(
        self,
        target: Callable[[str | None], str],
        since: int | str | EventId | None,
        *,
        topology: Topology,
        open_stream: Open,
        clock: Clock,
        patience_ms: int,
        look: Callable[[], None],
        on_close: Callable[[Watch], None],
    ) -> None:
        """`target(since)` gives the request's path and query; `look` finds other nodes."""
        # The revision when the watch began; 0 where partitions have one each.
        self.revision: int | None = None
        self._target = target
        self._since = None if since is None else str(since)
        self._topology = topology
        self._open = open_stream
        self._clock = clock
        self._patience = patience_ms / 1000
        self._look = look
        self._on_close = on_close
        self._last = _position(self._since) or _BEFORE_ALL
        self._stream: Stream | None = None
        self._address = ""  # where the stream comes from
        self._parser = EventParser()
        self._messages: deque[Message] = deque()
        self._closed = False

    @property
    def last_id(self) -> str | None:
        """Where another watch would go on: the last event's id, or where this one began; after
        a CompactedError that names a partition, behind what is no longer kept."""
        return self._since

    async def __aenter__(self) -> Self:
        if self._stream is None:
            await self._guarded(self._connect())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._guarded(self._next())
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Stop watching; a pending iteration ends. Idempotent."""
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._disconnect()
            self._on_close(self)

    def _ended(self) -> bool:
        """Was it closed while something was waited for?"""
        return self._closed

    async def _guarded(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except HivememError:
            self.close()
            raise

    async def _next(self) -> Event | None:
        """The next event; None once the watch is closed."""
        while not self._closed:
            while self._messages:
                event = self._take(self._messages.popleft())
                if event is not None:
                    return event
            if self._stream is None:
                await self._connect()
                continue
            await self._read(self._stream)
        return None

    async def _read(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                data = await stream.read()
        except (TimeoutError, SendFailed):
            data = b""
        if data:
            self._messages.extend(self._parser.feed(data))
        elif not self._closed:
            # An end without "compacted" is the node's, not the watch's: ask the others first.
            self._topology.failed(self._address, self._clock.monotonic())
            self._disconnect()

    def _take(self, message: Message) -> Event | None:
        match message.name:
            case "put" | "delete" | "expire":
                event = wire.parsed(
                    message.data.encode(), lambda fields: wire.event(message.id, fields)
                )
                if isinstance(event.id, EventId):
                    if event.id <= self._last:
                        return None
                    self._last = event.id
                self._since = str(event.id)
                return event
            case "ready":
                self._ready(message)
            case "" if message.id:
                # A quiet watch moves on with the changes of others, so that what it would
                # resume from is still kept.
                self._resume_from(message.id)
            case "compacted":
                self._compacted(json.loads(message.data))
            case _:
                pass  # a kind of message that a later version sends
        return None

    def _ready(self, message: Message) -> None:
        revision = wire.parsed(message.data.encode(), lambda fields: fields["revision"])
        if self.revision is None and isinstance(revision, int):
            self.revision = revision
        if self._since is None:
            # From now on "now" must not move, whichever node the watch goes on at.
            self._resume_from(message.id or str(revision))

    def _compacted(self, fields: dict[str, object]) -> NoReturn:
        kept, after = fields.get("compacted_revision"), fields.get("since")
        if not isinstance(after, str):
            raise CompactedError(
                f"events up to revision {kept} are no longer kept; list the keys again "
                "and watch from the revision of that list"
            )
        self._since = after
        raise CompactedError(
            f"events of partition {fields.get('partition')} up to its revision {kept} are no "
            f"longer kept; watch from {after} on, and then list the keys again"
        )

    def _resume_from(self, since: str) -> None:
        position = _position(since)
        if position is None:
            self._since = since
        elif position > self._last:
            self._last, self._since = position, since

    async def _connect(self) -> None:
        """Connect to some node and read its `ready`. Raises: HivememError."""
        deadline = self._clock.monotonic() + self._patience
        pause = PAUSE_SECONDS_MIN
        while True:
            problem = await self._try_each(deadline)
            if problem is None:
                return
            wait = self._clock.random().uniform(0, pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            if self._clock.monotonic() + wait >= deadline:
                raise problem
            await asyncio.sleep(wait)

    async def _try_each(self, deadline: float) -> HivememError | None:
        """Try each address once; the last problem, or None when connected (or closed)."""
        tried: set[str] = set()
        problem: HivememError = Unavailable("no node was asked", code="UNREACHABLE")
        while not self._closed:
            now = self._clock.monotonic()
            address = self._topology.next(tried, now, leader=False)
            if address is None or (tried and now >= deadline):
                return problem
            tried.add(address)
            try:
                async with asyncio.timeout(READY_SECONDS_MAX):
                    self._stream = await self._open(address, self._target(self._since))
                    self._address = address
                    if self._ended():
                        break  # when there was no stream yet that could be ended
                    await self._until_ready(self._stream)
            except (SendFailed, TimeoutError) as failure:
                if self._ended():
                    break  # we ended the stream, which says nothing of the node
                reason = str(failure) or "it accepts connections, and then says nothing"
                problem = Unavailable(f"no answer from {address}: {reason}", code="UNREACHABLE")
                self._topology.failed(address, self._clock.monotonic())
            except Unavailable as error:
                if self._ended():
                    break
                problem = error
                self._topology.unable(address, self._clock.monotonic())
            else:
                self._topology.answered(address)
                self._look()  # while it lasts: for when it ends
                return None
            self._look()
            self._disconnect()
        self._disconnect()
        return None

    async def _until_ready(self, stream: Stream) -> None:
        """Read up to the first message. Raises: SendFailed if the stream ends before it."""
        while not self._messages:
            data = await stream.read()
            if not data:
                raise SendFailed("the stream ended before it began", sent=True)
            self._messages.extend(self._parser.feed(data))
        if self._messages[0].name == "ready":
            self._ready(self._messages.popleft())

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        self._parser = EventParser()
        self._messages.clear()
        if stream is not None:
            stream.close()


def _position(since: str | None) -> EventId | None:
    """Where a revision or an event's id stands; None: the node has to say."""
    if since is None:
        return None
    try:
        return EventId.parse(since) if "." in since else EventId(int(since), _AFTER_REVISION)
    except ValueError:
        return None  # of several partitions, or refused by the node in the API's words
