"""Replies as bytes, in both versions of the protocol (RESP2, RESP3).

bytes and str are bulk strings, int and bool numbers, None a null, list and tuple arrays,
dict a map (in RESP2 a flat array). What has no such type is a `Simple`, a `Failure`, or
one of the constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple


class Simple(NamedTuple):
    """A status, such as OK."""

    text: str


class Failure(NamedTuple):
    """An error: a code in capitals, and the message."""

    code: str
    message: str


class NullArray(NamedTuple):
    """The reply of an EXEC that did not come off."""


Reply = (
    bytes
    | str
    | int
    | None
    | Simple
    | Failure
    | NullArray
    | Sequence["Reply"]
    | Mapping[str, "Reply"]
)

OK: Final = Simple("OK")
QUEUED: Final = Simple("QUEUED")
NULL_ARRAY: Final = NullArray()

_OK_BYTES: Final = b"+OK\r\n"
_NULL: Final = {2: b"$-1\r\n", 3: b"_\r\n"}
_NULL_ARRAY: Final = {2: b"*-1\r\n", 3: b"_\r\n"}


def encode(reply: Reply, protocol: int) -> bytes:
    """`protocol`: 2 or 3."""
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if reply is OK:
        return _OK_BYTES
    if reply is None:
        return _NULL[protocol]
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return _encode_other(reply, protocol)


def _encode_other(reply: object, protocol: int) -> bytes:
    match reply:
        case Simple(text):
            return b"+%b\r\n" % text.encode()
        case Failure(code, message):
            return b"-%b %b\r\n" % (code.encode(), _line(message).encode())
        case NullArray():
            return _NULL_ARRAY[protocol]
        case str():
            return encode(reply.encode(), protocol)
        case Mapping():
            items = [part for pair in reply.items() for part in pair]
            head = b"%%%d\r\n" % len(reply) if protocol == 3 else b"*%d\r\n" % len(items)
            return head + b"".join(encode(item, protocol) for item in items)
        case Sequence():
            return b"*%d\r\n" % len(reply) + b"".join(encode(item, protocol) for item in reply)
        case _:
            raise TypeError(f"{type(reply)} is not a reply")


def _line(message: str) -> str:
    """An error is one line: whatever a client sent must not begin another reply."""
    return " ".join(message.split())
