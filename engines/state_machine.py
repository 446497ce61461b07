"""The replicated state: entries in, results out.

`apply` is a function of entry and state. One call is one write transaction that holds
the effects, the applied index, the counters and the request ids; it is kept whole or
not at all. Entries at or below the applied index are skipped, so that a log may be
replayed over a state that is ahead of it. However entries are batched, and wherever
the process restarts between them, the bytes in the store are the same.

Threads: everything here is called by the one thread that writes; `revision` and
`applied_index` may be read from any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

from engines.check import problems
from engines.collection_writes import CollectionWrites
from engines.command import (
    Checkpoint,
    CollectionCommand,
    Command,
    Configure,
    Delete,
    Edit,
    Expire,
    Put,
    Sweep,
    Txn,
    decode,
    encode,
)
from engines.counters import COUNTERS_KEY, Counters, load_counters, save_counters
from engines.derived import DerivedIndexes
from engines.digests import (
    Digest,
    Tally,
    Watched,
    digest_of,
    load_buckets,
    save_buckets,
)
from engines.environment import Databases, Transaction
from engines.errors import CorruptRecord, InvalidArgument, UnknownCommand
from engines.interfaces import (
    Change,
    CheckpointResult,
    ConfigureResult,
    Limits,
    RejectCode,
    Rejected,
    Result,
    StateStats,
)
from engines.kv import KvEngine, KvReader
from engines.layout import seal, unseal
from engines.made_changes import MadeChanges
from engines.overlay import Overlay
from engines.registry import Registry, load_registry
from engines.requests import RequestTable
from engines.space import ItemChange
from engines.store import Store
from engines.validation import validate

LIMITS_KEY = b"limits"
# By which the file grows for each small command of a large apply, about: 500 to 850 measured.
PAGE_BYTES_PER_COMMAND = 1 << 10
DIGESTS_KEPT = 8  # of the newest Checkpoints, in memory

# Refusals that say nothing of the records: who asks again may be answered otherwise.
_NOT_DECIDED = frozenset(
    (RejectCode.LIMIT_EXCEEDED, RejectCode.COLLECTION_SHARDED, RejectCode.COLLECTION_DROPPING)
)


class Batch(Protocol):
    """The commands of one committed entry."""

    @property
    def index(self) -> int: ...

    @property
    def term(self) -> int: ...

    @property
    def commands(self) -> Sequence[bytes]: ...


B = TypeVar("B", bound=Batch)


class StateMachine:
    """The state of one group, in `store`."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        on_changes: Callable[[Sequence[Change]], None] | None = None,
        registry: Registry | None = None,
    ) -> None:
        """`limits`: those of a state that is still empty. They become part of it.

        Afterwards limits change through the log alone (Configure): if each replica
        followed its own configuration file, replaying one log would give two states.
        `on_changes` hears the changes of each apply, with values, after its commit and
        on the same thread; it may be replaced at any time.
        Raises InvalidArgument for limits that cannot work, CorruptRecord.
        """
        problems = limits.problems()
        if problems:
            raise InvalidArgument("limits", "; ".join(problems))
        self.on_changes = on_changes
        self.on_replaced: Callable[[], None] | None = None
        # Hears of the records that each apply changed, after its commit; see `scan.py`.
        self.on_records: Callable[[Sequence[Watched]], None] | None = None
        # Hears of operations that an engine could not do for a reason that it does not know of:
        # a defect of the engine, or of who proposed the command. They were refused.
        self.on_unforeseen: Callable[[str, Exception], None] | None = None
        self.digests: dict[int, Digest] = {}  # by log index, of the newest Checkpoints
        self.registry = registry or load_registry()
        self.indexes = DerivedIndexes(store)
        self._store = store
        self._first_limits = limits
        self._begin(limits)

    def _begin(self, limits: Limits) -> None:
        """Take up what is stored; a state that is empty gets `limits`."""
        self.digests.clear()
        store = self._store
        with store.write() as txn:
            counters = load_counters(txn, store.databases)
            stored = _load_limits(txn, store.databases)
            if stored is None:
                _save_limits(txn, store.databases, limits)
        self._take_over(counters, stored or limits)

    def _take_over(self, counters: Counters, limits: Limits) -> None:
        self._limits = limits
        self._applied_index = counters.applied_index
        self._applied_term = counters.applied_term
        self._revision = counters.revision

    @property
    def applied_index(self) -> int:
        """Index of the last entry whose effects are in the state (0: none)."""
        return self._applied_index

    @property
    def applied_term(self) -> int:
        """Term of that entry."""
        return self._applied_term

    @property
    def revision(self) -> int:
        """Revision of the newest change."""
        return self._revision

    @property
    def limits(self) -> Limits:
        """The limits in force. A leader configured otherwise proposes Configure."""
        return self._limits

    def apply(
        self,
        batches: Sequence[B],
        decided: Callable[[B, Sequence[object]], None] | None = None,
    ) -> list[list[object]]:
        """Apply committed entries, in order, in one transaction.

        Returns one list per batch with one Result per command; None in place of each
        result of an entry that was applied before. A refusal is a result. `decided` hears them
        as soon as they are certain, which is before the transaction ends: it must not look at
        the state.
        Raises what must stop the node, with nothing applied: UnknownCommand, StoreFull,
        StoreFailed, CorruptRecord. What `on_changes` raises passes through, after the
        commit.
        """
        results: list[list[object]] = []
        while len(results) < len(batches):
            results += self._apply(batches[len(results) :], decided)
        return results

    def _apply(
        self, batches: Sequence[B], decided: Callable[[B, Sequence[object]], None] | None
    ) -> list[list[object]]:
        """Apply batches up to the first with a Checkpoint, in one transaction: what is noted is
        the state after that whole entry, whatever it was batched with."""
        sessions = self.indexes.sessions
        changes = MadeChanges() if self.on_changes is not None or sessions else None
        tally = Tally(None if self.on_records is None else [])
        store = self._store
        results: list[list[object]] = []
        commands = chain.from_iterable(batch.commands for batch in batches)
        with store.write(sum(2 * len(each) + PAGE_BYTES_PER_COMMAND for each in commands)) as txn:
            # Also while there is no index: one may begin before this commits, with the state
            # as it was.
            items: list[ItemChange] = []
            application = _Application(
                txn, store.databases, self._limits, changes, tally, self.registry, items
            )
            for batch in batches:
                results.append(application.run(batch))
                if application.checkpoint:
                    break
            if decided is not None:
                for batch, told in zip(batches, results, strict=False):
                    decided(batch, told)
            application.finish()
            noted = application.digest() if application.checkpoint else None
        self._take_over(application.counters, application.limits)
        if noted is not None:
            self.digests[noted.index] = noted
            while len(self.digests) > DIGESTS_KEPT:
                del self.digests[min(self.digests)]
        for identity, gone in application.ended.items():
            (self.indexes.dropped if gone else self.indexes.altered)(identity)
        if items:
            self.indexes.changed(items, self._applied_index)
        if sessions:
            if changes is None:  # of one that began meanwhile; nobody noted what changed
                sessions.clear()
            else:
                sessions.changed(changes.parts, self._applied_index)
        if self.on_unforeseen is not None:
            for operation, error in application.unforeseen:
                self.on_unforeseen(operation, error)
        if tally.watched and self.on_records is not None:
            self.on_records(tally.watched)
        if changes and self.on_changes is not None:
            self.on_changes(changes)
        return results

    def copy_to(self, fd: int) -> tuple[int, int]:
        """Write the state as of now to `fd`, a pipe or a file, for `replace` elsewhere.

        Returns (index, term) applied in exactly that copy. Any thread; apply goes on.
        Raises ReadersBusy, StoreFailed (the copy is not whole), CorruptRecord.
        """
        with self._store.read() as snapshot:
            counters = load_counters(snapshot.txn, snapshot.databases)
            snapshot.copy_to(fd)
        return counters.applied_index, counters.applied_term

    def replace(self, path: Path, index: int, term: int, *, thorough: bool = False) -> None:
        """Make the copy in the file at `path`, applied to `index`, `term`, the state.

        `thorough`: check every record first, in time proportional to the state. Takes the
        file away; see `Store.replace`. Watchers hear `on_replaced`.
        Raises, with the state as it was, CorruptRecord (another index; counters or limits
        that do not verify; with `thorough`, any record), UnknownFormat, StoreFailed.
        """
        found: list[tuple[Counters, Limits]] = []

        def accept(txn: Transaction, databases: Databases) -> None:
            counters = load_counters(txn, databases)
            limits = _load_limits(txn, databases)
            if limits is None:
                raise CorruptRecord("meta", LIMITS_KEY, "missing")
            if (counters.applied_index, counters.applied_term) != (index, term):
                raise CorruptRecord(
                    "meta",
                    COUNTERS_KEY,
                    f"of entry {counters.applied_index}, term {counters.applied_term}; "
                    f"expected {index}, {term}",
                )
            if thorough and (wrong := problems(txn, databases, self.registry)):
                raise CorruptRecord("state", b"", wrong[0])
            found.append((counters, limits))

        self._store.replace(path, accept)
        self.indexes.clear()
        self.digests.clear()
        self._take_over(*found[0])
        if self.on_replaced is not None:
            self.on_replaced()

    def reset(self) -> None:
        """Drop the whole state: an empty one, with the limits that every state begins with.

        `on_replaced` is not called. Raises StoreFailed.
        """
        self._store.clear()
        self.indexes.clear()
        self._begin(self._first_limits)

    def release_memory(self) -> None:
        """Give back memory of pages that were read. Any thread."""
        self._store.release_memory()

    def stats(self) -> StateStats:
        """Figures as of the last commit. Any thread."""
        with self._store.read() as snapshot:
            return KvReader(snapshot).stats()

    def close(self) -> None:
        """Close the store. Idempotent."""
        self.indexes.close()
        self._store.close()


class _Application:
    """One apply: its transaction, and what it has changed so far."""

    def __init__(
        self,
        txn: Transaction,
        databases: Databases,
        limits: Limits,
        changes: MadeChanges | None,
        tally: Tally,
        registry: Registry,
        items: list[ItemChange],
    ) -> None:
        self.counters: Counters = load_counters(txn, databases)
        self.limits = limits
        self.checkpoint = False  # has a Checkpoint been applied?
        self._tally = tally
        self._buckets = load_buckets(txn, databases)
        self._txn = txn
        self._databases = databases
        self._overlay = overlay = Overlay(txn, databases, tally)
        self._kv = KvEngine(overlay, self.counters, changes)
        self._requests = RequestTable(overlay, self.counters)
        self._registry = registry
        self._items = items
        self._collections: CollectionWrites | None = None  # most applies touch none
        self._advanced = False
        self._index = 0  # of the entry that is applied

    def run(self, batch: Batch) -> list[object]:
        counters = self.counters
        if batch.index <= counters.applied_index:
            return [None] * len(batch.commands)
        self._index = batch.index
        try:
            results: list[object] = [self._execute(decode(data)) for data in batch.commands]
        except UnknownCommand as error:
            raise UnknownCommand(f"entry {batch.index}: {error}") from error
        counters.applied_index = batch.index
        counters.applied_term = batch.term
        self._advanced = True
        return results

    def finish(self) -> None:
        if self._advanced:
            self._overlay.flush()
            save_counters(self._txn, self._databases, self.counters)
            save_buckets(self._txn, self._databases, self._buckets, self._tally.deltas)

    @property
    def ended(self) -> dict[bytes, bool]:
        """Collections whose derived indexes are of no use any more: are they gone, too?"""
        return {} if self._collections is None else self._collections.ended

    @property
    def unforeseen(self) -> list[tuple[str, Exception]]:
        """Operations, and what they raised though engines should not."""
        return [] if self._collections is None else self._collections.unforeseen

    def digest(self) -> Digest:
        """The hash tree, once it is finished."""
        return digest_of(self._txn, self._databases, self.counters.applied_index)

    def _execute(self, command: Command) -> Result:
        try:
            validate(command, self.limits)
        except InvalidArgument as error:
            return Rejected(RejectCode.LIMIT_EXCEEDED, str(error))
        if type(command) is Put and command.request_id is None:
            return self._kv.put(command, self.limits)
        if isinstance(command, Expire):
            return self._kv.expire(command, self.limits)
        if isinstance(command, Configure):
            return self._configure(command.limits)
        if isinstance(command, Checkpoint):
            self.checkpoint = True
            return CheckpointResult(self._index)
        if isinstance(command, Sweep):
            return self._collection_writes().sweep(command)
        request_id = command.request_id
        if request_id is None:
            return self._write(command)
        result = self._requests.recall(command.namespace, request_id, command)
        if result is not None:
            return result
        result = self._write(command)
        if not isinstance(result, Rejected) or result.code not in _NOT_DECIDED:
            self._requests.remember(command.namespace, request_id, command, result, self.limits)
        return result

    def _write(self, command: Put | Delete | Txn | Edit | CollectionCommand) -> Result:
        match command:
            case Put():
                return self._kv.put(command, self.limits)
            case Delete():
                return self._kv.delete(command, self.limits)
            case Txn():
                return self._kv.txn(command, self.limits)
            case Edit():
                return self._kv.edit(command, self.limits)
            case CollectionCommand():
                return self._collection_writes().run(command, self._index)

    def _collection_writes(self) -> CollectionWrites:
        if self._collections is None:
            self._collections = CollectionWrites(
                self._overlay, self.counters, self._registry, self._items
            )
        return self._collections

    def _configure(self, limits: Limits) -> ConfigureResult:
        changed = limits != self.limits
        if changed:
            _save_limits(self._txn, self._databases, limits)
            self.limits = limits
        return ConfigureResult(changed)


def _load_limits(txn: Transaction, databases: Databases) -> Limits | None:
    record = txn.get(LIMITS_KEY, db=databases.meta)
    if record is None:
        return None
    # Stored as the command that would set them, which has a version and checks types.
    command = decode(unseal("meta", LIMITS_KEY, record))
    if not isinstance(command, Configure):
        raise CorruptRecord("meta", LIMITS_KEY, "not limits")
    return command.limits


def _save_limits(txn: Transaction, databases: Databases, limits: Limits) -> None:
    body = encode(Configure(limits))
    txn.put(LIMITS_KEY, seal(LIMITS_KEY, body), db=databases.meta)
