"""Bytes of a client → commands: hiredis parses, this module bounds what it is given.

A command is an array of byte strings. What people type into a plain connection, a line of
words, is understood as well ("inline commands" in Redis's words).

hiredis believes what an array's header says and makes room for that many elements, eight
bytes each, before any of them has arrived. A header that promises too much must not reach
it. But the same bytes may be part of a value, where they mean nothing; so whenever bytes
look like such a header, everything before them is parsed first, and then it is known
whether a new command begins at them.
"""

from __future__ import annotations

import re
from typing import Final

import hiredis

_LONG_HEADER: Final = re.compile(rb"\*[0-9]{5,}").search
_HEADER_BYTES_MAX: Final = 25  # of one that is held until the rest of it is here
_SHORT_HEADER_BYTES: Final = 6  # `*9999` and its end: shorter than `_LONG_HEADER`
_CUT_HEADER: Final = re.compile(rb"\*[0-9]{0,24}\Z").search
_ASTERISK: Final = ord("*")
_DIGITS: Final = re.compile(rb"\*([0-9]{1,18})").match
_WORD: Final = re.compile(rb"[^\s\"']+|\"([^\"\\]*)\"|'([^']*)'").finditer

Command = list[bytes]


class ProtocolError(Exception):
    """The connection cannot go on: where the next command begins is not known any more.

    `commands`: those that were whole before.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.commands: list[Command] = []


class RequestReader:
    """The commands of one connection, in order."""

    def __init__(self, bytes_max: int, arguments_max: int, inline_bytes_max: int) -> None:
        """`bytes_max`: of one command; may be changed at any time."""
        self.bytes_max = bytes_max
        self._arguments_max = arguments_max
        self._inline_bytes_max = inline_bytes_max
        self._reader = hiredis.Reader(protocolError=ProtocolError, replyError=_Unexpected)
        self._pending = 0  # bytes that were fed and are no complete command yet
        self._held = b""  # the beginning of a header, or of a typed line

    @property
    def pending(self) -> int:
        """Bytes of a command that is not complete."""
        return self._pending + len(self._held)

    def feed(self, data: bytes) -> list[Command]:
        """The commands that `data` completes. Raises ProtocolError."""
        found: list[Command] = []
        try:
            self._feed(data, found)
        except ProtocolError as error:
            error.commands = found
            raise
        return found

    def _feed(self, data: bytes, found: list[Command]) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif not self._pending and _one_command(data):
            self._parse(data, found)
            return
        while data and self._pending == 0 and data[0] != _ASTERISK:
            command, data = self._inline(data)
            if command:
                found.append(command)
        cut = _CUT_HEADER(data[-_HEADER_BYTES_MAX:])
        if cut is not None:
            start = max(0, len(data) - _HEADER_BYTES_MAX) + cut.start()
            self._held, data = data[start:], data[:start]
        self._arrays(data, found)

    def _inline(self, data: bytes) -> tuple[Command, bytes]:
        """(the words of the first line, the rest); no words and no rest: it is not whole."""
        line, newline, rest = data.partition(b"\n")
        if len(line) > self._inline_bytes_max:
            raise ProtocolError("too big inline request")
        if not newline:
            self._held = data
            return [], b""
        words = [match[1] or match[2] or match[0].strip(b"\"'") for match in _WORD(line)]
        if len(words) > self._arguments_max:
            raise ProtocolError("too many arguments")
        return words, rest

    def _arrays(self, data: bytes, found: list[Command]) -> None:
        start = 0
        while (long := _LONG_HEADER(data, start)) is not None:
            self._parse(data[start : long.start()], found)
            if self._pending == 0:
                self._check_header(data, long.start())
            # At least the asterisk goes on, so that this ends.
            start = long.start()
            following = _LONG_HEADER(data, start + 1)
            end = len(data) if following is None else following.start()
            self._parse(data[start:end], found)
            start = end
        self._parse(data[start:] if start else data, found)

    def _check_header(self, data: bytes, at: int) -> None:
        digits = _DIGITS(data, at)
        if digits is None or int(digits[1]) > self._arguments_max:
            raise ProtocolError("invalid multibulk length")

    def _parse(self, data: bytes, found: list[Command]) -> None:
        if not data:
            return
        reader = self._reader
        reader.feed(data)
        self._pending += len(data)
        while (command := reader.gets()) is not False:
            self._pending -= self._size(command)
            if command:
                found.append(command)
        if self._pending > self.bytes_max:
            raise ProtocolError(f"a command of more than {self.bytes_max} bytes")

    def _size(self, command: object) -> int:
        """Bytes that a command had on the wire. hiredis takes numbers in one spelling only
        (no sign, no leading zero), so they follow from the command."""
        if type(command) is not list or len(command) > self._arguments_max:
            raise ProtocolError("expected an array of bulk strings, and not too many")
        size = 3 + len(str(len(command)))
        for argument in command:
            if type(argument) is not bytes:
                raise ProtocolError("expected an array of bulk strings")
            length = len(argument)
            size += length + (6 if length < 10 else 7 if length < 100 else 5 + len(str(length)))
        if size > self.bytes_max:
            raise ProtocolError(f"a command of more than {self.bytes_max} bytes")
        return size


def _one_command(data: bytes) -> bool:
    """Is there no header but a short one at the start, and none that was cut? What a client
    sends that waits for each answer mostly looks like this, and needs no search."""
    return data.rfind(b"*") == 0 and data.find(b"\r", 0, _SHORT_HEADER_BYTES) > 0


class _Unexpected(Exception):
    """A client sent an error, which is no command."""
