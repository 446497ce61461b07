"""A backup on disk: written beside its name and renamed when whole, read once and checked.

Blocks; called from the command line's threads. A piece of a state is in memory, never more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engines.errors import CorruptRecord, EngineError, UnknownFormat
from engines.interfaces import Limits
from engines.state_file import StateFacts, examine
from node.backup_format import (
    BLOCK_BYTES,
    END,
    MANIFEST,
    BackupError,
    DamagedBackup,
    GroupState,
    Manifest,
    announced,
    decode,
    encode,
    header,
    padding,
    reserved,
)

PIECE_BYTES = 1 << 20  # read and written at once
SYNC_BYTES = 64 << 20  # written between two fsyncs, so that the last one does not take minutes

OnBytes = Callable[[int], None]  # bytes done since the last call


class Extracted(NamedTuple):
    """A state that was taken out of a backup, whole and sound."""

    state: GroupState
    path: Path
    limits: Limits


# --- Writing ---------------------------------------------------------------------------


class BackupWriter:
    """The file that is being written. Made by `writing`; `finish` gives it its name."""

    def __init__(self, folder: Path, target: Path, created_ms: int, groups: int) -> None:
        self.folder = folder  # for what is not part of the backup yet
        self._target = target
        self._created_ms = created_ms
        self._groups = groups
        self._path = folder / "backup"
        self._file = created(self._path)
        self._unsynced = 0

    def begin(self) -> None:
        """Leave room for the manifest, which is known at the end. Raises OSError."""
        size = reserved(self._groups)
        self._write(header(MANIFEST, size, self._created_ms))
        self._write(bytes(size))

    def add(self, state: GroupState, path: Path) -> None:
        """Append a state, whose bytes are in the file at `path`. Raises OSError."""
        self._write(header(state.path, state.size, self._created_ms))
        with path.open("rb", buffering=0) as source:
            while piece := source.read(PIECE_BYTES):
                self._write(piece)
        self._write(bytes(padding(state.size)))

    def finish(self, manifest: Manifest) -> None:
        """Complete the file, make it durable and give it its name. Raises OSError."""
        assert len(manifest.groups) == self._groups
        self._write(END)
        self._file.seek(BLOCK_BYTES)
        self._write(encode(manifest))
        os.fsync(self._file.fileno())
        assert os.fstat(self._file.fileno()).st_size == manifest.file_size
        os.replace(self._path, self._target)
        sync_folder(self._target.parent)

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        write_all(self._file, data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            os.fsync(self._file.fileno())
            self._unsynced = 0


@contextmanager
def writing(target: Path, created_ms: int, groups: int) -> Iterator[BackupWriter]:
    """A backup to be called `target`; without `finish`, nothing is left. Raises BackupError."""
    try:
        folder = Path(tempfile.mkdtemp(".partial", f".{target.name}.", target.absolute().parent))
    except OSError as error:
        raise BackupError(f"{target} cannot be written: {error.strerror}") from error
    try:
        writer = BackupWriter(folder, target, created_ms, groups)
        try:
            writer.begin()
            yield writer
        finally:
            writer.close()
    except OSError as error:
        raise BackupError(f"{target} was not written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def created(path: Path) -> BinaryIO:
    """A new file that only its owner may read. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return open(descriptor, "wb", buffering=0)


def write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Reading ---------------------------------------------------------------------------


def read_manifest(file: BinaryIO) -> Manifest:
    """What the file says that it holds; its states come next. Raises DamagedBackup, OSError."""
    first = _exactly(file, BLOCK_BYTES, MANIFEST)
    size = announced(first)
    data = _exactly(file, size, MANIFEST)
    manifest = decode(data)
    if first != header(MANIFEST, size, manifest.created_ms):
        raise DamagedBackup(f"{MANIFEST}: its tar header is damaged")
    return manifest


def extract(
    file: BinaryIO, manifest: Manifest, folder: Path, on_bytes: OnBytes
) -> Iterator[Extracted]:
    """Take each state out into `folder`, and see that it is whole and sound.

    What comes last is the end of the file: only a caller who asks to the end has a backup
    that is whole. Raises DamagedBackup, BackupError (another version's), OSError.
    """
    for state in manifest.groups:
        if _exactly(file, BLOCK_BYTES, state.path) != header(
            state.path, state.size, manifest.created_ms
        ):
            raise DamagedBackup(f"{state.path}: its tar header is damaged")
        path = folder / f"{state.group}.mdb"
        _take(file, state, path, on_bytes)
        if any(_exactly(file, padding(state.size), state.path)):
            raise DamagedBackup(f"{state.path}: what follows it is damaged")
        facts = facts_of(path, state.path)
        compare(state, facts)
        yield Extracted(state, path, facts.limits)
    if _exactly(file, len(END), "the end of the file") != END:
        raise DamagedBackup("the end of the file is damaged")
    if file.read(1):
        raise DamagedBackup("something follows the end of the backup")


def _take(file: BinaryIO, state: GroupState, path: Path, on_bytes: OnBytes) -> None:
    found, left = hashlib.sha256(), state.size
    with created(path) as target:
        while left:
            piece = _exactly(file, min(left, PIECE_BYTES), state.path)
            found.update(piece)
            write_all(target, piece)
            left -= len(piece)
            on_bytes(len(piece))
    if found.hexdigest() != state.sha256:
        raise DamagedBackup(f"{state.path}: its sha256 is not the manifest's")


def _exactly(file: BinaryIO, size: int, what: str) -> bytes:
    """The next `size` bytes. Raises DamagedBackup where the file ends before."""
    parts = []
    while size:
        part = file.read(size)
        if not part:
            raise DamagedBackup(f"the file ends too early, within {what}")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# --- Soundness -------------------------------------------------------------------------


def facts_of(path: Path, name: str) -> StateFacts:
    """What the state at `path` holds, every record checked.

    Raises DamagedBackup; BackupError for a state of another version.
    """
    try:
        return examine(path)
    except CorruptRecord as error:
        raise DamagedBackup(f"{name}: {error}") from error
    except UnknownFormat as error:
        raise BackupError(f"{name} is of another version of hivemem: {error}") from error
    except EngineError as error:
        raise DamagedBackup(f"{name}: it cannot be opened: {error}") from error


def compare(state: GroupState, facts: StateFacts) -> None:
    """See that the manifest says of a state what is in it. Raises DamagedBackup."""
    for field, said, found in (
        ("index", state.index, facts.index),
        ("term", state.term, facts.term),
        ("revision", state.revision, facts.revision),
        ("keys", state.keys, facts.keys),
        ("digest", state.digest, facts.content.hex()),
    ):
        if said != found:
            raise DamagedBackup(f"{state.path}: {field} is {found}, the manifest says {said}")
