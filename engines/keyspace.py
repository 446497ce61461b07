"""Physical keys: how names of any length become LMDB keys of at most 511 bytes, in order.

Theory of operation. LMDB keys end at 511 bytes; ours go to 4 KiB, and a scan must give
them in exact byte order. So live keys are stored as a trie of segments in `leaves`:

    parent id (8 bytes) | up to 480 bytes: the rest of a key     a leaf
    parent id           | 480 bytes of a longer key | 0x01       a directory → its id

A session's root is a directory; `sessions` maps namespace NUL session to its id. A key
of n bytes is found after (n - 1) // 480 descents: none for ordinary keys, 8 for 4 KiB.

Order: within one parent, LMDB's byte order is the keys' byte order. The mark of a
directory puts it right behind the key that ends where it begins, and before any other
segment; no leaf is as long as a directory's entry, so the two are never confused.
A depth-first walk therefore visits keys in byte order.

Invariant: no directory is empty, and no session's root is: what empties is removed in
the same command. So listings and scans never wade through the dead.
Ids are never used again; they come from a counter in the state, equal on all replicas.

Why not hash long keys: order is lost. Why not a sorted list in one value: rewriting it
is linear in its length. Why not a shorter limit on keys: paths and URLs are keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Protocol

from engines.environment import Cursor
from engines.errors import CorruptRecord
from engines.interfaces import PHYSICAL_KEY_BYTES_MAX
from engines.layout import Buffer, seal, unseal

Get = Callable[[bytes], Buffer | None]  # a record of one database, by its key

ID_BYTES = 8
SEGMENT_BYTES = 480
_DIRECTORY = b"\x01"
_DIRECTORY_BYTES = ID_BYTES + SEGMENT_BYTES + len(_DIRECTORY)  # of its entry
assert _DIRECTORY_BYTES <= PHYSICAL_KEY_BYTES_MAX


class Table(Protocol):
    """`leaves`, to be changed."""

    def get(self, key: bytes) -> bytes | None: ...

    put: Callable[[bytes, bytes], None]

    def remove(self, key: bytes) -> bool: ...

    def first_from(self, key: bytes) -> bytes | None: ...


def session_key(namespace: str, session: str) -> bytes:
    """Key in `sessions`. Unambiguous and in order: namespaces hold neither NUL nor 0x01."""
    return b"%b\x00%b" % (namespace.encode(), session.encode())


def split_session_key(owner: bytes) -> tuple[str, str]:
    """(namespace, session) of a key in `sessions`."""
    namespace, _, session = owner.partition(b"\x00")
    return namespace.decode(), session.decode()


def grave_key(session: bytes, key: bytes) -> bytes:
    """Key in `graves`. `session`: its key in `sessions`.

    Graves are only ever looked up, so a digest does, and needs no directories.
    """
    return blake2b(b"%b\x00%b" % (session, key), digest_size=32).digest()


def find_root(get: Get, session: bytes) -> bytes | None:
    """Id of the session's root directory; None if the session holds no live key.

    `get`: of `sessions`.
    """
    if len(session) > PHYSICAL_KEY_BYTES_MAX:
        return None
    record = get(session)
    return None if record is None else unseal("sessions", session, record)


def find_leaf(get: Get, root: bytes, key: bytes) -> bytes | None:
    """Physical key of the leaf for `key`; None if a directory on the way is missing.

    `get`: of `leaves`.
    """
    parent, start = root, 0
    while len(key) - start > SEGMENT_BYTES:
        entry = parent + key[start : start + SEGMENT_BYTES] + _DIRECTORY
        record = get(entry)
        if record is None:
            return None
        parent = unseal("leaves", entry, record)
        start += SEGMENT_BYTES
    return parent + key[start:]


def make_leaf(leaves: Table, root: bytes, key: bytes, allocate: Callable[[], bytes]) -> bytes:
    """Physical key of the leaf for `key`; makes the directories on the way."""
    parent, start = root, 0
    while len(key) - start > SEGMENT_BYTES:
        entry = parent + key[start : start + SEGMENT_BYTES] + _DIRECTORY
        record = leaves.get(entry)
        if record is not None:
            parent = unseal("leaves", entry, record)
        else:
            parent = allocate()
            leaves.put(entry, seal(entry, parent))
        start += SEGMENT_BYTES
    return parent + key[start:]


def remove_leaf(leaves: Table, root: bytes, key: bytes) -> bool:
    """Delete the leaf for `key` and every directory this empties; True if `root` is empty."""
    parent, start = root, 0
    entries: list[bytes] = []  # on the way down, outermost first
    while len(key) - start > SEGMENT_BYTES:
        entry = parent + key[start : start + SEGMENT_BYTES] + _DIRECTORY
        record = leaves.get(entry)
        if record is None:
            raise CorruptRecord("leaves", entry, "a directory of a live key is missing")
        entries.append(entry)
        parent = unseal("leaves", entry, record)
        start += SEGMENT_BYTES
    doomed = parent + key[start:]
    while True:
        if not leaves.remove(doomed):
            raise CorruptRecord("leaves", doomed, "a leaf of a live key is missing")
        following = leaves.first_from(parent)
        if following is not None and following[:ID_BYTES] == parent:
            return False
        if not entries:
            return True
        doomed = entries.pop()
        parent = doomed[:ID_BYTES]


def walk(cursor: Cursor, root: bytes, start: bytes) -> Iterator[tuple[bytes, bytes, memoryview]]:
    """(key, physical key, leaf) of each live key >= `start`, in byte order.

    `cursor`: over `leaves`. The leaf is a view: valid until the next step.
    """
    base, parent, position, stack = _seek(cursor, root, start)
    found = cursor.set_range(position)
    while True:
        physical = bytes(cursor.key()) if found else b""
        if physical[:ID_BYTES] != parent:
            if not stack:
                return
            # Go on in the directory above, right after the entry that led here.
            base, entry = stack.pop()
            parent = entry[:ID_BYTES]
            found = cursor.set_range(entry + b"\x00")
        elif is_directory(physical):
            stack.append((base, physical))
            base += physical[ID_BYTES:-1]
            parent = unseal("leaves", physical, cursor.value())
            found = cursor.set_range(parent)
        else:
            yield base + physical[ID_BYTES:], physical, cursor.value()
            found = cursor.next()


def _seek(
    cursor: Cursor, root: bytes, start: bytes
) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
    """Descend along `start` as far as directories exist.

    Returns (key bytes above the directory reached, its id, the physical key to begin at,
    (base, entry) of the directories above it).
    """
    parent, offset = root, 0
    stack: list[tuple[bytes, bytes]] = []
    while len(start) - offset > SEGMENT_BYTES:
        entry = parent + start[offset : offset + SEGMENT_BYTES] + _DIRECTORY
        if not cursor.set_key(entry):
            # Nothing longer than this segment exists: begin at what follows it.
            return start[:offset], parent, entry, stack
        stack.append((start[:offset], entry))
        parent = unseal("leaves", entry, cursor.value())
        offset += SEGMENT_BYTES
    return start[:offset], parent, parent + start[offset:], stack


def is_directory(physical: bytes) -> bool:
    """Whether an entry of `leaves` leads to another directory."""
    return len(physical) == _DIRECTORY_BYTES
