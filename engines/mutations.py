"""The commands of the log, as frozen dataclasses: one per kind of mutation.

The proposer stamps what is not deterministic: `now_ms` and, from a time to live,
`expires_ms` (both UTC milliseconds). Use them through `engines.command`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from engines.edits import Edit
from engines.interfaces import DueRecord, Limits


class Put(NamedTuple):
    """Store a value. `if_version` 0: only if the key is absent; n: only over version n.

    A tuple, unlike its siblings: making a frozen dataclass of nine fields costs 1.5 us, and
    this is the command that is made by the million.
    """

    namespace: str
    session: str
    key: bytes
    value: bytes
    content_type: str
    now_ms: int
    expires_ms: int | None = None  # None clears a time to live that the record had
    if_version: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a record; removing what is absent succeeds and says so."""

    namespace: str
    session: str
    key: bytes
    now_ms: int
    if_version: int | None = None
    request_id: str | None = None


class CompareTarget(enum.StrEnum):
    """What of a record a comparison looks at. An absent record has version and revision 0."""

    VERSION = "version"
    REVISION = "revision"
    VALUE = "value"
    EXISTS = "exists"


class CompareOp(enum.StrEnum):
    """record <op> given value."""

    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


@dataclass(frozen=True, slots=True)
class Compare:
    """One guard of a transaction.

    `value`: int for version and revision, bytes for value, bool for exists (== and !=
    only). A comparison of the value of an absent record is false whatever the operator,
    as in etcd: absent is not a value.
    """

    key: bytes
    target: CompareTarget
    op: CompareOp
    value: int | bytes | bool


@dataclass(frozen=True, slots=True)
class TxnPut:
    key: bytes
    value: bytes
    content_type: str
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TxnDelete:
    key: bytes


@dataclass(frozen=True, slots=True)
class TxnGet:
    """Sees the effects of the operations before it in its transaction."""

    key: bytes


TxnOp = TxnPut | TxnDelete | TxnGet


@dataclass(frozen=True, slots=True)
class Txn:
    """All comparisons true: run `then`, else `otherwise`; one branch, whole, in order."""

    namespace: str
    session: str
    compare: tuple[Compare, ...]
    then: tuple[TxnOp, ...]
    otherwise: tuple[TxnOp, ...]
    now_ms: int
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Expire:
    """Remove records whose deadline has passed, those that have not changed since."""

    due: tuple[DueRecord, ...]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Replace the limits that the state is kept within, from this entry on."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Have every replica note its hash tree as of the entry that holds this, whole."""


@dataclass(frozen=True, slots=True)
class CollectionCommand:
    """One command on one collection, which is placed as a session of its name is.

    `operation`: CREATE, ALTER, DROP (`collections.py`), or one of its engine's that writes.
    `body`: `codec.pack_value` of the parameters. `seed`: 64 random bits for ids that the
    engine makes up.
    """

    namespace: str
    collection: str
    operation: str
    body: bytes
    now_ms: int
    seed: int
    request_id: str | None = None

    @property
    def session(self) -> str:
        return self.collection


@dataclass(frozen=True, slots=True)
class Sweep:
    """Remove items of dropped collections, at most so many."""

    items_max: int


Command = Put | Delete | Txn | Edit | Expire | Configure | Checkpoint | CollectionCommand | Sweep
