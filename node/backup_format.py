"""The format of a backup: a tar file with a manifest in front. Pure. docs/backup.md.

    manifest.json               what is in the file, padded to a size that its writer reserved
    groups/<gid>/state.mdb      one state per Raft group, as in a Raft snapshot
    two blocks of zeros         tar's end of an archive; nothing follows

Nothing in it goes unchecked. The manifest has a checksum and is written in one way only; it
holds the sha256 of each state; and every other byte (tar's headers, padding, end) follows
from it. So the manifest's checksum stands for the whole file.

Why tar: `tar -tv` and `tar -x` show and unpack it wherever hivemem is not at hand. Why the
manifest is in front: who reads knows what is to come, and how much room it takes.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from cluster.slots import PARTITIONS_MAX, SLOTS
from node.errors import StartupError

KIND = "hivemem backup"
FORMAT = 1  # raised when what a reader has to know changes
MANIFEST = "manifest.json"
BLOCK_BYTES = 512  # of tar
END = bytes(2 * BLOCK_BYTES)
GROUPS_MAX = PARTITIONS_MAX + 1
_MANIFEST_BYTES_BASE = 4096
_MANIFEST_BYTES_PER_GROUP = 1024

_HEX = re.compile(r"[0-9a-f]{64}")


class BackupError(StartupError):
    """There is no backup, or no restored cluster; the message says why."""


class DamagedBackup(BackupError):
    """A file that is not what its manifest says, or no backup at all."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """One Raft group's state. `slots`: inclusive ranges of the hash slots that it serves.

    `index`, `term`: of the newest entry in it. `digest`: `engines.state_file.content_digest`.
    """

    group: int
    slots: tuple[tuple[int, int], ...]
    index: int
    term: int
    revision: int
    keys: int
    size: int  # bytes
    sha256: str  # of those bytes
    digest: str

    @property
    def path(self) -> str:
        return f"groups/{self.group}/state.mdb"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. `groups`: 0, 1, …, in the order in which they lie in the file.

    Group 0 is the system's; it holds the data as well where it is the only one.
    """

    cluster_id: str  # of the cluster that was saved
    created_ms: int  # when the command began: what was acknowledged by then is in it
    hivemem: str  # version that wrote it
    groups: tuple[GroupState, ...]
    slots: int = SLOTS

    @property
    def partitions(self) -> int:
        """Of the data; 0: there is one group for all."""
        return len(self.groups) - 1

    @property
    def size(self) -> int:
        """Bytes of all states."""
        return sum(state.size for state in self.groups)

    @property
    def file_size(self) -> int:
        states = sum(BLOCK_BYTES + state.size + padding(state.size) for state in self.groups)
        return BLOCK_BYTES + reserved(len(self.groups)) + states + len(END)

    @property
    def checksum(self) -> str:
        """SHA-256 that stands for the whole file; see the module."""
        return _checksum(_fields(self))

    @property
    def created_at(self) -> str:
        """RFC 3339, UTC."""
        moment = datetime.fromtimestamp(self.created_ms // 1000, UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{self.created_ms % 1000:03d}Z"


def reserved(groups: int) -> int:
    """Bytes that the manifest of so many groups takes in the file."""
    return _MANIFEST_BYTES_BASE + _MANIFEST_BYTES_PER_GROUP * groups


def padding(size: int) -> int:
    """Zeros that follow so many bytes."""
    return -size % BLOCK_BYTES


def header(name: str, size: int, created_ms: int) -> bytes:
    """The block in front of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, created_ms // 1000
    return info.tobuf(tarfile.GNU_FORMAT)


def announced(block: bytes) -> int:
    """The manifest's size, which the first block of a file gives. Raises DamagedBackup."""
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise DamagedBackup("not a hivemem backup, or its first block is damaged") from error
    if info.name != MANIFEST or not 0 < info.size <= reserved(GROUPS_MAX):
        raise DamagedBackup(f"not a hivemem backup: it does not begin with {MANIFEST}")
    return info.size


def encode(manifest: Manifest) -> bytes:
    """The manifest as it lies in the file."""
    found = _fields(manifest)
    text = json.dumps({**found, "checksum": _checksum(found)}, indent=1) + "\n"
    size = reserved(len(manifest.groups))
    assert len(text) <= size, "a manifest outgrew the room that is reserved for it"
    return text.encode("ascii").ljust(size, b"\n")


def decode(data: bytes) -> Manifest:
    """The manifest of `encode`. Raises DamagedBackup, saying what is wrong."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise DamagedBackup(f"{MANIFEST}: not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise DamagedBackup(f"{MANIFEST}: not that of a hivemem backup")
    checksum = found.pop("checksum", None)
    if found.get("format") != FORMAT:
        raise DamagedBackup(
            f"{MANIFEST}: format {found.get('format')!r}; this build knows {FORMAT}"
        )
    if checksum != _checksum(found):
        raise DamagedBackup(f"{MANIFEST}: its checksum does not match")
    manifest = _manifest(found)
    if encode(manifest) != data:
        raise DamagedBackup(f"{MANIFEST}: not written as hivemem writes it")
    return manifest


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {
        "kind": KIND,
        "format": FORMAT,
        "cluster_id": manifest.cluster_id,
        "created_at": manifest.created_at,
        "created_ms": manifest.created_ms,
        "hivemem": manifest.hivemem,
        "slots": manifest.slots,
        "partitions": manifest.partitions,
        "groups": [
            {**asdict(state), "slots": [list(each) for each in state.slots]}
            for state in manifest.groups
        ],
    }


def _checksum(found: dict[str, Any]) -> str:
    canonical = json.dumps(found, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _manifest(found: dict[str, Any]) -> Manifest:
    """Raises DamagedBackup. What has a good checksum was written so: by another version?"""
    groups = found.get("groups")
    if not isinstance(groups, list) or not 0 < len(groups) <= GROUPS_MAX:
        raise DamagedBackup(f"{MANIFEST}: groups is not a list of 1 to {GROUPS_MAX}")
    states = tuple(_state(each) for each in groups)
    if [state.group for state in states] != list(range(len(states))):
        raise DamagedBackup(f"{MANIFEST}: the groups are not 0, 1, …")
    texts = [found.get(name) for name in ("cluster_id", "hivemem")]
    numbers = [found.get(name) for name in ("created_ms", "slots")]
    if not all(isinstance(text, str) for text in texts) or not all(map(_is_count, numbers)):
        raise DamagedBackup(f"{MANIFEST}: a field is missing or of another type")
    return Manifest(texts[0], numbers[0], texts[1], states, numbers[1])  # type: ignore[arg-type]


def _state(found: object) -> GroupState:
    names = [field.name for field in fields(GroupState)]
    if not isinstance(found, dict) or list(found) != names:
        raise DamagedBackup(f"{MANIFEST}: a group has another shape")
    try:
        slots = tuple((int(first), int(last)) for first, last in found["slots"])
    except (TypeError, ValueError) as error:
        raise DamagedBackup(f"{MANIFEST}: slots are not ranges") from error
    numbers = ("group", "index", "term", "revision", "keys", "size")
    digests = ("sha256", "digest")
    if not all(_is_count(found[name]) for name in numbers) or not all(
        isinstance(found[name], str) and _HEX.fullmatch(found[name]) for name in digests
    ):
        raise DamagedBackup(f"{MANIFEST}: a group has another shape")
    return GroupState(**{**found, "slots": slots})


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def ranges(slots: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Slot ranges as a node answers them. Raises BackupError."""
    try:
        return tuple((first, last) for first, last in slots)
    except (TypeError, ValueError) as error:
        raise BackupError("the node answered with something else than ranges of slots") from error
