"""Errors of the engines package, each defined once.

EngineError
├── InvalidArgument      names the field; nothing stored
│   └── CollectionSharded  its items are elsewhere: the parts are to be asked
├── Compacted            the revision asked for is no longer kept
├── QueryCancelled       the caller's deadline passed; what the query found is not wanted
├── ReadersBusy          too many snapshots are open at once; retry
│   └── BuilderBusy      an index is being built, and another one would have to be; retry
├── UnknownRead          a read or an answer that this build cannot decode; nothing was read
├── UnknownCommand       fail-stop: this build cannot read the log
├── UnknownFormat        fail-stop: this build cannot read the store
├── CorruptRecord        fail-stop: a record's checksum does not verify
├── StoreFull            fail-stop: the store reached `map_bytes`
└── StoreFailed          fail-stop: the disk or the store refused an operation
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.catalog import Collection


class EngineError(Exception):
    """Base."""


class InvalidArgument(EngineError):
    """Bad input, refused whole."""

    def __init__(self, field: str, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        # INVALID_ARGUMENT | KEY_TOO_LARGE | VALUE_TOO_LARGE | BODY_TOO_LARGE |
        # COLLECTION_NOT_FOUND | INVALID_CURSOR
        self.code = code


class CollectionSharded(InvalidArgument):
    """A read that met the home of a collection of several shards, which holds no items."""

    def __init__(self, collection: Collection) -> None:
        super().__init__("collection", f"is in {collection.shards} shards")
        self.collection = collection


class Compacted(EngineError):
    """The revision asked for lies before what is retained."""

    def __init__(self, compacted_revision: int) -> None:
        super().__init__(f"revisions before {compacted_revision} are no longer kept")
        self.compacted_revision = compacted_revision


class QueryCancelled(EngineError):
    """Nobody waits for this query's answer any more."""


class ReadersBusy(EngineError):
    """As many snapshots are open as `readers_max` allows. Nothing was read; retry."""

    def __init__(self, readers_max: int) -> None:
        super().__init__(f"all {readers_max} readers (readers_max) are in use")
        self.readers_max = readers_max


class BuilderBusy(ReadersBusy):
    """An index is being built, and only one may be at a time. Nothing was read; retry."""

    def __init__(self) -> None:
        EngineError.__init__(self, "the index of another session is being made")


class UnknownRead(EngineError):
    """A read request or an answer of an unknown version or kind, or malformed."""


class UnknownCommand(EngineError):
    """A command that this build cannot read: of an unknown version or kind, or malformed.

    In the log it means stop, never skip.
    """


class UnknownFormat(EngineError):
    """The store on disk is not one that this build can read: refuse to open it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot open the store {path}: {reason}")
        self.path = path


class CorruptRecord(EngineError):
    """A stored record's checksum does not verify, or what it refers to is not there."""

    def __init__(self, database: str, key: bytes, reason: str) -> None:
        super().__init__(f"corrupt record in {database} at key {key[:64].hex()}: {reason}")
        self.database = database
        self.key = key
        self.reason = reason


class StoreFull(EngineError):
    """The store has reached its size limit; the transaction was aborted whole."""

    def __init__(self, path: str, map_bytes: int) -> None:
        super().__init__(
            f"the store {path} is full: it reached map_bytes = {map_bytes}; "
            "raise storage.map_bytes and start the node again"
        )
        self.path = path
        self.map_bytes = map_bytes


class StoreFailed(EngineError):
    """The disk or the store refused an operation; the transaction was aborted whole."""
