"""The optimizer of one node: it watches the queries that run here and tries other ways for them.

A query runs where a replica is, which may be another node than the one that was asked; so each
node tunes what it executes itself, and keeps that in memory alone. What engines offer to choose
between gives the same answer (`engines/tuning.py`), so that nothing here can make one wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engines.catalog import Collection
from engines.errors import QueryCancelled
from engines.tuning import Tuning
from node.clock import Clock
from node.optimizer_views import pattern_view
from node.patterns import POINTS_MAX, Pattern, PatternKey, PatternTable, shape_of
from node.search_width import Width
from node.trials import Trial

PATTERNS_MAX: Final = 1_000
RECALL_TARGET: Final = 0.95
SETTINGS_EVERY: Final = 64  # executions, between two looks at which indexes there are
LOOP_PAUSE_DOUBLINGS_MAX: Final = 10  # executions that are not tried on the loop: 16 to 16,384


class Optimizer:
    """Any thread."""

    def __init__(
        self,
        clock: Clock,
        patterns_max: int = PATTERNS_MAX,
        recall_target: float = RECALL_TARGET,
        node: str | None = None,
    ) -> None:
        """`patterns_max` 0: nothing is watched, the engines' rules decide. `node`: its name."""
        self.node = node
        self.clock = clock
        self.lock = threading.Lock()  # of all patterns; held for microseconds
        self.patterns = PatternTable(patterns_max)
        self.started_ms = clock.now_ms()
        self.recall_target = recall_target
        self._seed = clock.random().getrandbits(64)

    @property
    def enabled(self) -> bool:
        return self.patterns.patterns_max > 0

    def execution(self, *, explain: bool = False) -> Tuning:
        """For one query, wherever on this node it runs."""
        if not self.enabled:
            return Tuning(explain=explain)
        return Execution(self, explain=explain)

    def trial(self, pattern: Pattern, point: str) -> Trial | None:
        """The pattern's trial of one choice; None: it has too many. Under the lock."""
        found = pattern.trials.get(point)
        if found is None and len(pattern.trials) < POINTS_MAX:
            self._seed += 1
            found = pattern.trials[point] = Trial(point, self._seed)
        return found


class Execution(Tuning):
    """One query that is watched. One thread at a time, as its query."""

    pattern: Pattern | None = None
    _begun = 0.0
    _size = 0
    _choices: dict[str, tuple[Trial, int, str]] | None = None
    _widths: tuple[int, int] | None = None
    _exact_begun = 0.0

    def __init__(self, optimizer: Optimizer, *, explain: bool) -> None:
        super().__init__(explain=explain)
        self._optimizer = optimizer

    def found(self, note: object) -> None:
        super().found(note)
        if isinstance(note, Pattern):
            self.pattern = note
            now_ms = self._optimizer.clock.now_ms()
            with self._optimizer.lock:
                note.hits += 1
                note.last_used_ms = now_ms

    def begin(self, collection: Collection, operation: str, parameters: Mapping[str, Any]) -> None:
        optimizer = self._optimizer
        pattern = self.pattern
        if pattern is None:
            key = PatternKey(
                collection.namespace, collection.name, collection.id, operation,
                shape_of(parameters),
            )  # fmt: skip
            with optimizer.lock:
                pattern = self.pattern = optimizer.patterns.of(key)
                if self.brief and pattern.loop_pause:
                    pattern.loop_pause -= 1
                    raise QueryCancelled("requests like it took long")
                if self.brief and pattern.width is not None and pattern.width.due:
                    raise QueryCancelled("it is to be compared with an exact search")
        if not pattern.computed % SETTINGS_EVERY:
            pattern.known_indexes = _index_names(collection)
        self._size = collection.items
        self._begun = optimizer.clock.monotonic()

    def choose(self, point: str, control: str, others: Sequence[str]) -> str:
        pattern = self.pattern
        if pattern is None:
            return control
        choices = self._choices
        if choices is None:
            choices = self._choices = {}
        made = choices.get(point)
        if made is not None:  # before the query was begun again on another thread
            return made[2] if made[2] == control or made[2] in others else control
        with self._optimizer.lock:
            trial = self._optimizer.trial(pattern, point)
            if trial is None:
                return control
            name = trial.assign(control, others, self._size)
            choices[point] = trial, trial.epoch, name
        return name

    def width(self, least: int, most: int) -> int:
        pattern = self.pattern
        if pattern is None:
            return least
        self._widths = least, most
        with self._optimizer.lock:
            if pattern.width is None:
                pattern.width = Width(self._optimizer.recall_target)
            return pattern.width.width(least, most)

    @property
    def samples_recall(self) -> bool:
        pattern = self.pattern
        if self.brief or pattern is None or pattern.width is None or self._widths is None:
            return False
        with self._optimizer.lock:
            due = pattern.width.due
        self._exact_begun = self._optimizer.clock.monotonic()
        return due

    def recall(self, width: int, found: int, wanted: int) -> None:
        assert self._widths is not None
        assert self.pattern is not None
        assert self.pattern.width is not None
        self.exact_seconds = self._optimizer.clock.monotonic() - self._exact_begun
        with self._optimizer.lock:
            self.pattern.width.compared(
                width, *self._widths, found, wanted, self.exact_seconds, self._size
            )

    def end(self, answers: int = 1) -> object:
        self.answers = answers
        optimizer, pattern, work = self._optimizer, self.pattern, self.work
        assert pattern is not None
        seconds = optimizer.clock.monotonic() - self._begun - self.exact_seconds
        seconds /= answers
        now_ms = optimizer.clock.now_ms()
        with optimizer.lock:
            pattern.took(seconds, work.examined, work.returned, answers)
            pattern.last_used_ms = now_ms
            if self.brief:
                pattern.overruns = 0
            if work.index is not None:
                pattern.indexes[work.index] = pattern.indexes.get(work.index, 0) + 1
            pattern.scans, pattern.fields = work.scans, work.fields
            if self._choices is not None:
                self._record(seconds)
            if self._widths is not None and pattern.width is not None:
                pattern.width.searched(seconds, answers)
        return pattern

    def explanation(self) -> dict[str, Any]:
        pattern, optimizer = self.pattern, self._optimizer
        assert pattern is not None
        chosen = [
            {
                "point": point,
                "control": trial.control,
                "alternatives": list(trial.others),
                "chosen": name,
                "applied": name != trial.control,
            }
            for point, (trial, _, name) in (self._choices or {}).items()
        ]
        with optimizer.lock:
            return {
                "node": optimizer.node,
                "optimizer": True,
                "choices": chosen,
                "pattern": pattern_view(pattern),
            }

    def cancelled(self) -> None:
        """Too long for the event loop: the next ones are not tried there, at first. Too long for
        the caller: the way that was chosen took at least so long."""
        pattern, optimizer = self.pattern, self._optimizer
        assert pattern is not None
        seconds = optimizer.clock.monotonic() - self._begun
        with optimizer.lock:
            if self.brief:
                pattern.loop_pause = 16 << min(pattern.overruns, LOOP_PAUSE_DOUBLINGS_MAX)
                pattern.overruns += 1
            else:
                pattern.failures += 1
                self._record(seconds)

    def _record(self, seconds: float) -> None:
        for trial, epoch, name in (self._choices or {}).values():
            trial.record(epoch, name, seconds)

    def failed(self) -> None:
        pattern = self.pattern
        if pattern is not None:
            with self._optimizer.lock:
                pattern.failures += 1


def _index_names(collection: Collection) -> tuple[str, ...]:
    """Of a document collection's indexes, those that do nothing but serve reads."""
    listed = collection.settings.get("indexes", ())
    if not isinstance(listed, list | tuple):
        return ()
    return tuple(
        each["name"] for each in listed if isinstance(each, dict) and not each.get("unique")
    )
