"""How far an import is, kept beside its input: `FILE.hivemem-progress`.

The checkpoint names the run, whose id is part of every request id, so that what a former
process sent, but could not note any more, is not applied twice. It is bound to the cluster,
to the target namespace or collection, and to the bytes of the file that are done (their
head): a line behind them may be corrected before going on.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from node.errors import BadRequest

FORMAT = 1
HEAD_BYTES_MAX = 1 << 16  # bytes that identify the input
_FIELD = "checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every line up to `lines` is stored, or was reported as bad. Immutable; see `moved`."""

    run: str
    cluster_id: str
    namespace: str | None
    lines: int = 0
    offset: int = 0  # bytes of those lines
    head_sha256: str = hashlib.sha256(b"").hexdigest()
    format: int = FORMAT
    collection: str | None = None  # its name and the time it was made
    behind: tuple[str, ...] = ()  # digests of rows behind those lines that are stored already

    def moved(self, file: BinaryIO, lines: int, offset: int) -> Checkpoint:
        return replace(
            self,
            lines=lines,
            offset=offset,
            head_sha256=_head(file, offset),
        )


def path_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.hivemem-progress")


def load(
    path: Path,
    file: BinaryIO,
    cluster_id: str,
    namespace: str | None,
    collection: str | None = None,
) -> Checkpoint | None:
    """The checkpoint of an unfinished import of this file; None if there is none.

    Raises: BadRequest, if it is of another import: going on would leave records out.
    """
    try:
        fields = json.loads(path.read_bytes())
        found = Checkpoint(**{**fields, "behind": tuple(fields.get("behind", ()))})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise _refuse(path, f"is damaged ({error})") from error
    if found.format != FORMAT:
        raise _refuse(path, "was written by another version")
    if found.cluster_id != cluster_id:
        raise _refuse(path, "is of an import into another cluster")
    if found.namespace != namespace:
        raise _refuse(path, f"is of an import with --namespace {found.namespace}")
    if found.collection != collection:
        raise _refuse(path, "is of an import into something else, or that was made anew since")
    size = os.fstat(file.fileno()).st_size
    whole = found.offset <= size and (_ends_line(file, found.offset) or found.offset == size)
    if not whole or _head(file, found.offset) != found.head_sha256:
        raise _refuse(path, "does not fit the file, which has changed since")
    return found


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint; on return it is on disk. Raises: OSError."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        json.dump(asdict(checkpoint), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def _head(file: BinaryIO, offset: int) -> str:
    """Digest of the first bytes that are done. Leaves the file's position alone."""
    head = os.pread(file.fileno(), min(offset, HEAD_BYTES_MAX), 0)
    return hashlib.sha256(head).hexdigest()


def _ends_line(file: BinaryIO, offset: int) -> bool:
    return offset == 0 or os.pread(file.fileno(), 1, offset - 1) == b"\n"


def _refuse(path: Path, reason: str) -> BadRequest:
    return BadRequest(f"{path} {reason}; --restart imports from the beginning", field=_FIELD)
