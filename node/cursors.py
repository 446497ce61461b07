"""Cursors: where a listing goes on, in a form that callers cannot mistake for their own.

A cursor is base64url of `check(4) kind(1) scope(8) position`. `scope` digests what was
listed, so that a cursor of one listing is refused by another; `check` digests the rest,
so that a damaged one is refused too. They are no secret and no signature: whoever may
list may start anywhere, a cursor only has to be hard to get wrong by accident.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import struct

from engines.interfaces import ChangeId
from node.http_errors import bad_request

_CHECK_BYTES = 4
_SCOPE_BYTES = 8
_HEAD_BYTES = _CHECK_BYTES + 1 + _SCOPE_BYTES
_CHANGE_ID = struct.Struct(">QI")


class Listing(enum.IntEnum):
    """What is being paged through."""

    NAMESPACES = 1
    SESSIONS = 2
    KEYS = 3
    HISTORY = 4
    COLLECTIONS = 5


def encode(listing: Listing, scope: tuple[bytes, ...], position: bytes) -> str:
    """The cursor that continues after `position` in the listing of `scope`."""
    rest = bytes([listing]) + _digest_scope(scope) + position
    raw = hashlib.blake2b(rest, digest_size=_CHECK_BYTES).digest() + rest
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def position(text: str | None, listing: Listing, scope: tuple[bytes, ...]) -> bytes | None:
    """As `decode`; None without a cursor."""
    return None if text is None else decode(text, listing, scope)


def name_position(text: str | None, listing: Listing, scope: tuple[bytes, ...]) -> str | None:
    """The same in a listing of names."""
    after = position(text, listing, scope)
    return None if after is None else after.decode("utf-8", "replace")


def decode(text: str, listing: Listing, scope: tuple[bytes, ...]) -> bytes:
    """The position in a cursor made by `encode` for the same listing.

    Raises: BadRequest INVALID_CURSOR.
    """
    try:
        raw = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (UnicodeEncodeError, binascii.Error):
        raise bad_request("cursor", "is not a cursor", "INVALID_CURSOR") from None
    check, rest = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if len(raw) < _HEAD_BYTES or check != hashlib.blake2b(rest, digest_size=_CHECK_BYTES).digest():
        raise bad_request("cursor", "is not a cursor", "INVALID_CURSOR")
    if rest[: 1 + _SCOPE_BYTES] != bytes([listing]) + _digest_scope(scope):
        raise bad_request("cursor", "belongs to another listing", "INVALID_CURSOR")
    return rest[1 + _SCOPE_BYTES :]


def pack_change_id(change: ChangeId) -> bytes:
    return _CHANGE_ID.pack(change.revision, change.sub)


def unpack_change_id(position: bytes) -> ChangeId:
    """Raises: BadRequest INVALID_CURSOR."""
    if len(position) != _CHANGE_ID.size:
        raise bad_request("cursor", "is not a cursor", "INVALID_CURSOR")
    return ChangeId(*_CHANGE_ID.unpack(position))


def _digest_scope(scope: tuple[bytes, ...]) -> bytes:
    # Lengths keep ("a", "bc") apart from ("ab", "c").
    digest = hashlib.blake2b(digest_size=_SCOPE_BYTES)
    for part in scope:
        digest.update(struct.pack(">I", len(part)) + part)
    return digest.digest()
