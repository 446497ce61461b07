"""A graph on disk: what was added to it, by content, so that a start needs not add it again.

`magic(8) blake2b(32) head_bytes(4) head digests graph`. The digest of each row is that of its
id and vector: a row is used again if the state holds just this vector under this id, whatever
became of the state meanwhile. So the file needs no log index, no fsync and no trust: one of
another state, or of another time, only saves less work.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

from engines.codec import Malformed, pack_value, unpack_value

DIGEST_BYTES: Final = 16
_MAGIC: Final = b"hivevec1"
_SIZE: Final = struct.Struct(">I")
_CHECK_BYTES: Final = 32


class Saved(NamedTuple):
    digests: list[bytes]  # of rows, in order
    graph: bytes


def row_digest(identity: str, vector: bytes) -> bytes:
    name = identity.encode()
    return hashlib.blake2b(_SIZE.pack(len(name)) + name + vector, digest_size=DIGEST_BYTES).digest()


def save(path: Path, shape: list[int | str], digests: list[bytes], graph: bytes) -> None:
    """`shape`: what of the settings the graph depends on. Raises OSError."""
    head = pack_value([*shape, len(digests)])
    parts = (_SIZE.pack(len(head)), head, *digests, graph)
    check = hashlib.blake2b(digest_size=_CHECK_BYTES)
    for part in parts:
        check.update(part)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    incoming = path.with_name(f"{path.name}.new")
    with incoming.open("wb") as file:
        file.writelines((_MAGIC, check.digest(), *parts))
    os.replace(incoming, path)


def load(path: Path, shape: list[int | str]) -> Saved | None:
    """None: there is none, or it is of no use; a damaged one is set aside. Raises OSError."""
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    try:
        return _parse(data, shape)
    except (Malformed, struct.error):
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        return None


def _parse(data: memoryview, shape: list[int | str]) -> Saved | None:
    start = len(_MAGIC) + _CHECK_BYTES
    check = hashlib.blake2b(data[start:], digest_size=_CHECK_BYTES).digest()
    if bytes(data[:start]) != _MAGIC + check:
        raise Malformed("not such a file, or its checksum does not verify")
    (head_bytes,) = _SIZE.unpack_from(data, start)
    first = start + _SIZE.size + head_bytes
    head = unpack_value(bytes(data[start + _SIZE.size : first]))
    if not isinstance(head, list) or type(head[-1]) is not int:
        raise Malformed("its head is none")
    if head[:-1] != shape:
        return None
    end = first + head[-1] * DIGEST_BYTES
    digests = [bytes(data[at : at + DIGEST_BYTES]) for at in range(first, end, DIGEST_BYTES)]
    return Saved(digests, bytes(data[end:]))
