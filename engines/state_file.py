"""A copy of a state in a file (`StateMachine.copy_to`), examined where it lies.

It is opened read-only and without a lock file: the file stays as it is, byte for byte, and
may be a snapshot's. Nobody else may write it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import lmdb

from engines.check import problems
from engines.command import Configure, decode
from engines.counters import Counters, load_counters
from engines.environment import FORMAT, Database, Databases, Transaction
from engines.errors import CorruptRecord, StoreFailed, UnknownFormat
from engines.interfaces import Limits
from engines.layout import unseal
from engines.state_machine import LIMITS_KEY

# Written out rather than taken from Databases and Counters: what later versions add must not
# change the digest of what earlier ones have saved.
CONTENT_FORMAT = b"hivemem content 1"
CONTENT_DATABASES = (
    *("sessions", "leaves", "graves", "changes", "expiry"),
    *("requests", "request_order"),
)
CONTENT_COUNTERS = (
    *("revision", "floor_revision", "floor_sub", "next_id"),
    *("request_first", "request_next"),
)


class StateFacts(NamedTuple):
    """What a sound state holds. `content`: see `content_digest`."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    revision: int
    keys: int  # live records
    content: bytes
    limits: Limits  # in force


def examine(path: Path) -> StateFacts:
    """Check every record and every invariant of the state in the file at `path`.

    Reads it twice; time in proportion to its size, memory not.
    Raises CorruptRecord (something in it is wrong), UnknownFormat, StoreFailed.
    """
    with opened(path) as (txn, databases):
        if wrong := problems(txn, databases):
            raise CorruptRecord("state", b"", wrong[0])
        counters = load_counters(txn, databases)
        return StateFacts(
            counters.applied_index,
            counters.applied_term,
            counters.revision,
            counters.keys,
            content_digest(txn, databases, counters),
            _limits(txn, databases),
        )


def content_digest(txn: Transaction, databases: Databases, counters: Counters) -> bytes:
    """SHA-256 (32 bytes) over what clients have stored, and what follows from it.

    In it: sessions, records, deletions that are remembered, retained changes, deadlines and
    request ids with their results, each as stored (with versions, revisions and times); the
    revision, the floor of the watch window, and where ids and request ids go on.
    Not in it: applied index and term, which are the log's, and the limits, which are settings.
    So a cluster that was restored elsewhere has the same digest until somebody writes.
    """
    state = sha256(CONTENT_FORMAT)
    for name in CONTENT_COUNTERS:
        state.update(b"%b %d\n" % (name.encode(), getattr(counters, name)))
    for name in CONTENT_DATABASES:
        state.update(b"%b\n" % name.encode())
        with txn.cursor(db=getattr(databases, name)) as cursor:
            for key, value in cursor.iternext():
                state.update(b"%d %d " % (len(key), len(value)))
                state.update(key)
                state.update(value)
    return state.digest()


def _limits(txn: Transaction, databases: Databases) -> Limits:
    record = txn.get(LIMITS_KEY, db=databases.meta)
    command = None if record is None else decode(unseal("meta", LIMITS_KEY, record))
    if not isinstance(command, Configure):
        raise CorruptRecord("meta", LIMITS_KEY, "not limits")
    return command.limits


@contextmanager
def opened(path: Path) -> Iterator[tuple[Transaction, Databases]]:
    """Read the file at `path`. Raises UnknownFormat, StoreFailed, CorruptRecord."""
    try:
        environment = lmdb.open(
            str(path),
            subdir=False,
            readonly=True,
            lock=False,
            create=False,
            max_dbs=len(Databases._fields),
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise UnknownFormat(str(path), f"not a store: {error}") from error
    except (lmdb.Error, OSError) as error:
        raise StoreFailed(f"cannot open the state {path}: {error}") from error
    try:
        with environment.begin(buffers=True) as txn:
            yield txn, Databases(*(_database(environment, txn, name) for name in Databases._fields))
    except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
        raise CorruptRecord("store", b"", str(error)) from error
    except lmdb.Error as error:
        raise StoreFailed(f"state {path}: {error}") from error
    finally:
        environment.close()


def _database(environment: lmdb.Environment, txn: Transaction, name: str) -> Database:
    try:
        found = environment.open_db(name.encode(), txn=txn, create=False)
    except lmdb.NotFoundError as error:
        raise UnknownFormat(str(environment.path()), f"it has no database {name!r}") from error
    if name == "meta":
        record = txn.get(b"format", db=found)
        written = None if record is None else unseal("meta", b"format", record)
        if written != FORMAT:
            reason = f"its format is {written!r}; this build knows {FORMAT!r}"
            raise UnknownFormat(str(environment.path()), reason)
    return found
