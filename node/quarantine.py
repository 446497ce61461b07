"""What this node does about one group's state that is found damaged.

Whoever meets damage, a read on any thread, an apply, the scrub, a comparison with the other
replicas, comes here. From that moment nothing is answered from the state (`StateGuard`); the
group rebuilds it (`cluster/repair.py`) while the process runs on, and then it is answered from
again. A mark in the group's folder, durable before the state is dropped, makes a node that is
started in between begin without it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from cluster.errors import StateDamaged
from cluster.group import RaftGroup
from cluster.interfaces import CommittedBatch, Decided
from engines.derived import DerivedIndexes
from engines.errors import CorruptRecord
from engines.interfaces import Change, StateStats
from engines.kv import KvReader
from engines.registry import Registry
from engines.state_machine import StateMachine
from engines.store import Store
from node.clock import Clock
from node.datadir import sync_folder, write_durably
from node.errors import Unavailable

logger = logging.getLogger(__name__)

CODE: Final = "REPLICA_QUARANTINED"
MARK: Final = "quarantine.json"
_REASON_CHARACTERS_MAX: Final = 500


class ReplicaQuarantined(Unavailable):
    """REPLICA_QUARANTINED: this node's state is damaged and is being rebuilt; others answer."""

    code = CODE

    def __init__(self, message: str) -> None:
        super().__init__(message, code=CODE)


@dataclass(frozen=True, slots=True)
class Mark:
    """That a group's state is not to be used. `reseed_from`: see `cluster/repair.py`."""

    reason: str
    reseed_from: int
    since_ms: int  # UTC


def read_mark(folder: Path) -> Mark | None:
    """The mark in a group's folder. One that cannot be understood is one all the same."""
    try:
        fields = json.loads((folder / MARK).read_bytes())
        return Mark(str(fields["reason"]), int(fields["reseed_from"]), int(fields["since_ms"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return Mark(f"{MARK} is damaged", 0, 0)


def write_mark(folder: Path, mark: Mark) -> None:
    """Durable on return. Raises DataDirError, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(folder / MARK, json.dumps(asdict(mark)).encode() + b"\n")


def clear_mark(folder: Path) -> None:
    """Durable on return."""
    try:
        os.unlink(folder / MARK)
    except FileNotFoundError:
        return
    sync_folder(folder)


class StateGuard:
    """The only way to a group's state for whoever reads. `readers`: any thread."""

    def __init__(
        self,
        store: Store,
        registry: Registry | None = None,
        indexes: DerivedIndexes | None = None,
    ) -> None:
        """`on_damage` hears of what a read meets, on the thread of the read."""
        self._registry = registry
        self._indexes = indexes
        self.on_damage: Callable[[CorruptRecord], None] = lambda error: None
        self._store = store
        self._closed = False
        self._closings = 0

    @property
    def closed(self) -> bool:
        """Is nothing answered from the state now?"""
        return self._closed

    def close(self) -> None:
        self._closings += 1
        self._closed = True

    def open(self) -> None:
        self._closed = False

    def check(self) -> None:
        """Raises ReplicaQuarantined while nothing is answered from the state."""
        if self._closed:
            raise _quarantined()

    def readers(self) -> AbstractContextManager[KvReader]:
        """A reader on the newest applied state.

        Entering, and leaving, raise ReplicaQuarantined: what was read is not to be used if
        damage was found meanwhile, by this read or by anybody.
        """
        return _GuardedRead(self)


class _GuardedRead:
    """See `StateGuard.readers`. A class, not a generator: every read goes through here."""

    __slots__ = ("_closings", "_guard", "_snapshot")

    def __init__(self, guard: StateGuard) -> None:
        self._guard = guard

    def __enter__(self) -> KvReader:
        guard = self._guard
        self._closings = guard._closings
        guard.check()
        self._snapshot = guard._store.read()
        try:
            snapshot = self._snapshot.__enter__()
        except CorruptRecord as error:
            raise self._damaged(error) from error
        return KvReader(snapshot, guard._registry, guard._indexes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._snapshot.__exit__(kind, error, traceback)
        except CorruptRecord as found:
            raise self._damaged(found) from found
        if isinstance(error, CorruptRecord):
            raise self._damaged(error) from error
        if error is None and self._closings != self._guard._closings:
            raise _quarantined()

    def _damaged(self, error: CorruptRecord) -> ReplicaQuarantined:
        guard = self._guard
        if self._closings == guard._closings:  # else it may have been that of the state before
            guard.close()
            guard.on_damage(error)
        return _quarantined()


def _quarantined() -> ReplicaQuarantined:
    return ReplicaQuarantined(
        "this node's state was found damaged and is being rebuilt; another node answers"
    )


class GuardedMachine:
    """The state machine as its Raft group has it: damage is told apart from failure."""

    def __init__(self, machine: StateMachine, guard: StateGuard) -> None:
        self._machine = machine
        self._guard = guard
        self.reset = machine.reset

    @property
    def applied_index(self) -> int:
        return self._machine.applied_index

    def apply(self, batches: Sequence[CommittedBatch], decided: Decided) -> list[list[object]]:
        try:
            return self._machine.apply(batches, decided)
        except CorruptRecord as error:
            self._guard.close()
            raise StateDamaged(str(error)) from error


class Quarantine:
    """One group's state on this node: whether it is answered from, and what was found.

    Loop thread only, but for `stats` and what the guard calls.
    """

    def __init__(
        self,
        folder: Path,
        group: RaftGroup,
        machine: StateMachine,
        guard: StateGuard,
        clock: Clock,
        call_soon_threadsafe: Callable[[Callable[[], None]], object],
    ) -> None:
        """`folder`: the group's."""
        self.mark: Mark | None = None  # while the state is not answered from
        self.found: Counter[str] = Counter()  # quarantines since the start, by who found why
        self.last: Mark | None = None  # the newest one since the start, also if it is over
        self.on_begun: Callable[[], None] = lambda: None
        self._folder = folder
        self._group = group
        self._machine = machine
        self._guard = guard
        self._clock = clock
        self._found_by = "apply"
        self._publish: Callable[[Sequence[Change]], None] | None = None
        self._replaced: Callable[[], None] | None = None
        group.repair.on_begun = self._begun
        group.repair.on_done = self._done
        guard.on_damage = lambda error: self._hand_over(call_soon_threadsafe, error)

    def _hand_over(
        self, call_soon_threadsafe: Callable[[Callable[[], None]], object], error: CorruptRecord
    ) -> None:
        call_soon_threadsafe(lambda: self.quarantine("read", str(error)))

    def resume(self) -> None:
        """At start: go on with what a crash interrupted. The state was discarded."""
        mark = read_mark(self._folder)
        if mark is not None:
            self.quarantine("start", mark.reason, mark.reseed_from)

    def quarantine(self, found_by: str, reason: str, reseed_from: int = 0) -> None:
        """Drop the state, and rebuild it. `found_by`: read | apply | scrub | digest | …

        `reseed_from`: a log index at which it was not the majority's; 0: it does not verify.
        """
        if found_by == "read" and self.mark is not None:
            return  # Several reads met it, or one that began before it was dropped.
        self._found_by = found_by
        try:
            self._group.quarantine(reason, reseed_from)
        finally:
            self._found_by = "apply"

    def stats(self) -> StateStats | None:
        """Figures of the state; None while it is not answered from. Any thread."""
        if self._guard.closed:
            return None
        try:
            return self._machine.stats()
        except CorruptRecord as error:
            self._guard.close()
            self._guard.on_damage(error)
            return None

    def _begun(self, reason: str, reseed_from: int) -> None:
        self._guard.close()
        mark = Mark(reason[:_REASON_CHARACTERS_MAX], reseed_from, self._clock.now_ms())
        write_mark(self._folder, mark)
        self.found[self._found_by] += 1
        if self.mark is None:
            # Changes that are applied again are no news to who watches.
            machine = self._machine
            self._publish, machine.on_changes = machine.on_changes, None
            self._replaced, machine.on_replaced = machine.on_replaced, None
        self.mark = self.last = mark
        self.on_begun()

    def _done(self) -> None:
        self._machine.on_changes, self._machine.on_replaced = self._publish, self._replaced
        self.mark = None
        clear_mark(self._folder)
        self._guard.open()
        if self._replaced is not None:
            self._replaced()
