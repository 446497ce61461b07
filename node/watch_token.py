"""Where a watch of several partitions stands, as text: event ids that a client hands back.

`w1` and base64 without padding of: the CRC-32 of what follows (4 bytes, big endian); the
number of partitions; each one's position. Numbers are LEB128. A position is revision * 4
plus 0 (after the revision's first change), 1 (after all of it) or 2 (the place within it
follows). So a token has 6 bytes and about 4 per partition before base64, at most 13.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from typing import Final

from cluster.slots import PARTITIONS_MAX
from engines.interfaces import INTEGER_MAX, SUB_MAX, ChangeId

_PREFIX: Final = "w1"
_FIRST, _WHOLE, _WITHIN = 0, 1, 2
_TOKEN = re.compile(r"w1[A-Za-z0-9_-]+")
_POSITION_BYTES_MAX = 13
TOKEN_CHARS_MAX: Final = 2 + (4 + 3 + PARTITIONS_MAX * _POSITION_BYTES_MAX) * 4 // 3 + 1


def plain(position: ChangeId) -> str:
    """Where a watch of a single group stands: a revision, or an event's id within one."""
    if position.sub == SUB_MAX:
        return str(position.revision)
    return f"{position.revision}.{position.sub}"


def encode_one(position: ChangeId) -> bytes:
    """One partition's part of a token."""
    revision, sub = position
    if sub == 0:
        return _number(revision << 2 | _FIRST)
    if sub == SUB_MAX:
        return _number(revision << 2 | _WHOLE)
    return _number(revision << 2 | _WITHIN) + _number(sub)


def join(parts: Sequence[bytes]) -> str:
    """The token of all partitions' parts, in their order."""
    body = _number(len(parts)) + b"".join(parts)
    packed = zlib.crc32(body).to_bytes(4, "big") + body
    return _PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def encode(positions: Sequence[ChangeId]) -> str:
    """The token of all partitions' positions, in the order of their ids."""
    return join([encode_one(position) for position in positions])


def decode(text: str, partitions: int) -> tuple[ChangeId, ...]:
    """The positions in a token of a cluster with so many partitions.

    Raises: ValueError, whose text says what is wrong with it.
    """
    if len(text) > TOKEN_CHARS_MAX or not _TOKEN.fullmatch(text):
        raise ValueError("is not an event id of a watch of several partitions")
    coded = text[len(_PREFIX) :]
    try:
        packed = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except binascii.Error:
        raise ValueError("is a damaged event id") from None
    body = packed[4:]
    if zlib.crc32(body).to_bytes(4, "big") != packed[:4]:
        raise ValueError("is a damaged event id")
    try:
        count, at = _read(body, 0)
        positions: list[ChangeId] = []
        while at < len(body):
            position, at = _read_one(body, at)
            positions.append(position)
    except IndexError:
        raise ValueError("is a damaged event id") from None
    if count != len(positions):
        raise ValueError("is a damaged event id")
    if count != partitions:
        raise ValueError(f"is of a cluster with {count} partitions; this one has {partitions}")
    return tuple(positions)


def _read_one(body: bytes, at: int) -> tuple[ChangeId, int]:
    number, at = _read(body, at)
    revision, kind = number >> 2, number & 3
    sub = (0, SUB_MAX, 0, 0)[kind]
    if kind == _WITHIN:
        sub, at = _read(body, at)
    if revision > INTEGER_MAX or sub > SUB_MAX or kind > _WITHIN:
        raise ValueError("is a damaged event id")
    return ChangeId(revision, sub), at


def _number(value: int) -> bytes:
    coded = bytearray()
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def _read(body: bytes, at: int) -> tuple[int, int]:
    """(number, where the next begins). Raises IndexError at the end."""
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F:
            return value, at
