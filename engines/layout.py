"""Binary layouts of what the store holds. Integers are big-endian.

Every record carries a CRC-32 over its database key and its bytes, so that a flipped
bit, and a record that ended up under another's key, are both seen on read.

sealed    crc u32 | body                                  (small records)
leaf      sealed: LEAF_HEAD | content type | retained     (a key's current state)
retained  (revision u64 | sub u16 | size u32)*            (its kept changes, oldest first)
change    crc u32 | CHANGE_HEAD | namespace NUL session | key | content type | value

A change's crc covers all but the value, which has its own (in the head): a listing
checks what it shows without reading megabytes that it does not show.

Why structs and not MessagePack: unpacking a fixed head is one C call that copies
nothing, and a head can be read without touching the value's pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

from engines.errors import CorruptRecord
from engines.interfaces import ChangeId

Buffer = bytes | memoryview

U64 = Struct(">Q")
CHANGE_ID = Struct(">QH")
EXPIRY_KEY = Struct(">QQH")  # expires_ms, revision, sub
RETAINED = Struct(">QHI")  # revision, sub, size
_CRC = Struct(">I")
# revision, sub, kind, compacted, version, created_revision, created_ms, updated_ms,
# expires_ms (0: none), size, retained_bytes; then the length of the content type.
_LEAF_HEAD = Struct(">QHBBQQQQQIQH")
# kind, version, created_revision, created_ms, time_ms, expires_ms (0: none), lengths of
# namespace NUL session, key, content type, value; crc of the value.
_CHANGE_HEAD = Struct(">BQQQQQHHHII")

pack_change_id = CHANGE_ID.pack
pack_u64 = U64.pack
_new_tuple = tuple.__new__


class Leaf(NamedTuple):
    """A key's current state: its newest change, and which changes are retained.

    Invariant: retained is oldest first and ends with (revision, sub, size);
    retained_bytes is the sum of the retained sizes; compacted is 1 once a change was
    dropped from retained.
    """

    revision: int
    sub: int
    kind: int
    compacted: int
    version: int
    created_revision: int
    created_ms: int
    updated_ms: int
    expires_ms: int  # 0: none
    size: int
    retained_bytes: int
    content_type: str
    retained: bytes


class ChangeHead(NamedTuple):
    """All of a stored change but its value."""

    kind: int
    version: int
    created_revision: int
    created_ms: int
    time_ms: int
    expires_ms: int  # 0: none
    owner: bytes  # namespace NUL session
    key: bytes
    content_type: str
    size: int
    value_crc: int
    value_offset: int


def seal(key: bytes, body: bytes) -> bytes:
    """`body` behind a checksum that binds it to its key."""
    return _CRC.pack(crc32(body, crc32(key))) + body


def unseal(database: str, key: bytes, record: Buffer) -> bytes:
    """The body that was sealed under `key`. Raises CorruptRecord."""
    body = bytes(record[_CRC.size :])
    if len(record) < _CRC.size or _CRC.unpack_from(record)[0] != crc32(body, crc32(key)):
        raise CorruptRecord(database, key, "checksum mismatch")
    return body


def pack_leaf(key: bytes, leaf: Leaf) -> bytes:
    *head, content_type, retained = leaf
    return pack_leaf_fields(key, content_type.encode(), retained, *head)


def pack_leaf_fields(key: bytes, content_type: bytes, retained: bytes, *head: int) -> bytes:
    """The same from `Leaf`'s fields up to `retained_bytes`."""
    body = _LEAF_HEAD.pack(*head, len(content_type)) + content_type + retained
    return _CRC.pack(crc32(body, crc32(key))) + body


def unpack_leaf(database: str, key: bytes, record: Buffer) -> Leaf:
    """Raises CorruptRecord."""
    # All in one function, and the tuple made directly: this runs for every read and write.
    body = bytes(record[4:])
    try:
        if crc32(body, crc32(key)) != _CRC.unpack_from(record)[0]:
            raise CorruptRecord(database, key, "checksum mismatch")
        head = _LEAF_HEAD.unpack_from(body)
        content_end = _LEAF_HEAD.size + head[11]
        content_type = body[_LEAF_HEAD.size : content_end].decode()
    except (StructError, UnicodeDecodeError) as error:
        raise CorruptRecord(database, key, f"not a leaf: {error}") from error
    return _new_tuple(Leaf, (*head[:11], content_type, body[content_end:]))


def retained_changes(leaf: Leaf) -> Iterator[tuple[int, int, int]]:
    """(revision, sub, size) of each retained change, oldest first."""
    iterator: Iterator[tuple[int, int, int]] = RETAINED.iter_unpack(leaf.retained)
    return iterator


def pack_change(
    change_id: bytes,
    owner: bytes,
    key: bytes,
    content_type: bytes,
    value: bytes,
    *head: int,
) -> bytes:
    """The record of a change. `owner`: the session's key; `head`: `ChangeHead`'s fields up
    to `expires_ms`."""
    packed = _CHANGE_HEAD.pack(
        *head, len(owner), len(key), len(content_type), len(value), crc32(value)
    )
    body = packed + owner + key + content_type
    return _CRC.pack(crc32(body, crc32(change_id))) + body + value


def unpack_change(change_id: bytes, record: Buffer) -> ChangeHead:
    """Verifies and decodes all but the value. Raises CorruptRecord."""
    head, body, value_offset = _verified_head(change_id, record)
    owner_bytes, key_bytes, _, size, value_crc = head[6:]
    key_start = _CHANGE_HEAD.size + owner_bytes
    key_end = key_start + key_bytes
    owner, key = body[_CHANGE_HEAD.size : key_start], body[key_start:key_end]
    try:
        content_type = body[key_end:].decode()
    except UnicodeDecodeError as error:
        raise CorruptRecord("changes", change_id, f"not a change: {error}") from error
    return ChangeHead._make((*head[:6], owner, key, content_type, size, value_crc, value_offset))


def change_value(change_id: bytes, record: Buffer, head: ChangeHead) -> bytes:
    """The change's value, verified. Raises CorruptRecord."""
    return _verified_value(change_id, record, head.value_offset, head.value_crc)


def value_of(change_id: bytes, record: Buffer, owner: bytes, key: bytes) -> bytes:
    """The value of a change of `key` in the session of `owner`, verified, and that it is theirs.

    Most reads want nothing else of a change. Raises CorruptRecord.
    """
    head, body, value_offset = _verified_head(change_id, record)
    names = owner + key
    start = _CHANGE_HEAD.size
    if head[6] != len(owner) or head[7] != len(key) or body[start : start + len(names)] != names:
        raise CorruptRecord("changes", change_id, "belongs to another record")
    return _verified_value(change_id, record, value_offset, head[10])


def _verified_head(change_id: bytes, record: Buffer) -> tuple[tuple[int, ...], bytes, int]:
    """(`_CHANGE_HEAD`'s fields, all between checksum and value, where the value begins)."""
    try:
        head = _CHANGE_HEAD.unpack_from(record, _CRC.size)
        value_offset = _CRC.size + _CHANGE_HEAD.size + head[6] + head[7] + head[8]
        body = bytes(record[_CRC.size : value_offset])
        if _CRC.unpack_from(record)[0] != crc32(body, crc32(change_id)):
            raise CorruptRecord("changes", change_id, "checksum mismatch")
    except StructError as error:
        raise CorruptRecord("changes", change_id, f"not a change: {error}") from error
    if len(record) != value_offset + head[9]:
        raise CorruptRecord("changes", change_id, "wrong length")
    return head, body, value_offset


def _verified_value(change_id: bytes, record: Buffer, offset: int, checksum: int) -> bytes:
    value = bytes(record[offset:])
    if crc32(value) != checksum:
        raise CorruptRecord("changes", change_id, "value checksum mismatch")
    return value


def change_id_of(key: Buffer) -> ChangeId:
    return ChangeId(*CHANGE_ID.unpack(key))
