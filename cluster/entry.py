"""What a log entry's payload holds: a type byte, then a batch of opaque commands, or members.

Group commit packs the commands that arrived together into one entry, so that one
append and one fsync serve them all. The type bytes are upstream's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from cluster import membership
from cluster.membership import Member

REGULAR = 0
NO_OP = 1
MEMBERSHIP = 2  # the members follow, as in `membership.encode`

NO_OP_PAYLOAD = bytes([NO_OP])
_HEAD = struct.Struct("<BI")  # type, number of commands
_LENGTH = struct.Struct("<I")  # bytes of one command
COMMAND_OVERHEAD_BYTES = _LENGTH.size


class UnknownEntry(Exception):
    """The log holds an entry that this build does not understand: stop, never skip."""


def pack(commands: Sequence[bytes]) -> bytes:
    """Payload of one entry with these commands, in order."""
    parts = [_HEAD.pack(REGULAR, len(commands))]
    for command in commands:
        parts.append(_LENGTH.pack(len(command)))
        parts.append(command)
    return b"".join(parts)


def pack_membership(members: Iterable[Member]) -> bytes:
    """Payload of an entry that sets the configuration."""
    return bytes([MEMBERSHIP]) + membership.encode(members)


def unpack_membership(payload: bytes) -> tuple[Member, ...] | None:
    """Members that an entry sets; None if it is of another type. Raises UnknownEntry."""
    if payload[:1] != bytes([MEMBERSHIP]):
        return None
    try:
        return membership.decode(payload[1:])
    except ValueError as error:
        raise UnknownEntry(f"configuration entry: {error}") from error


def unpack(payload: bytes) -> list[bytes]:
    """Commands of an entry; [] where it holds none. Raises UnknownEntry."""
    if payload == NO_OP_PAYLOAD or unpack_membership(payload) is not None:
        return []
    if not payload or payload[0] != REGULAR:
        raise UnknownEntry(f"entry type {payload[0] if payload else None}")
    try:
        _, count = _HEAD.unpack_from(payload)
        offset = _HEAD.size
        commands = []
        for _ in range(count):
            (size,) = _LENGTH.unpack_from(payload, offset)
            offset += _LENGTH.size
            commands.append(payload[offset : offset + size])
            offset += size
    except struct.error as error:
        raise UnknownEntry(f"entry of {len(payload)} bytes is cut short") from error
    if offset != len(payload):
        raise UnknownEntry(f"entry of {len(payload)} bytes has a wrong length")
    return commands
