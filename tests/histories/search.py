"""The search for a linearization of one key's operations.

Wing and Gong (1993) try every order that real time permits; Lowe (2017) remembers the
configurations that were tried, and keeps the events in a doubly linked list from which
operations are lifted as they are placed. Porcupine is the form followed here. Four
refinements keep it exact and make it short:

- An operation that can be placed and leaves the state as it is, is placed at once, without
  an alternative: in any linearization from here it may be moved to the front.
- What may be placed next is what was called before the first return that is still in the
  list. The calls in that *window* say which operations are left, so that a configuration is
  (window, optional operations used, state), of constant size where a bit mask grows.
- Optional operations (of unknown outcome) are not in the list. They are tried after the
  others, one per family (`model.Problem`), and may be left over.
- A limit counts steps of the model, so that a verdict does not depend on the machine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from tests.histories.history import Operation
from tests.histories.model import Model, Placed, Problem

S = TypeVar("S")

STATES_MAX = 8  # states shown of the point beyond which there was no way
PLACED_MAX = 8  # operations shown that were placed last


class Verdict(StrEnum):
    OK = "ok"
    VIOLATION = "violation"
    UNDECIDED = "undecided"  # the limit on steps was reached


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why there is no linearization.

    Of a problem prepared without foresight: up to any earlier return there is one, and up to
    the return of `blocked` there is none.
    """

    blocked: Operation
    concurrent: tuple[Operation, ...]  # others that one attempt had not placed by then
    placed: tuple[Operation, ...]  # by that attempt, in its order: the last PLACED_MAX
    states: tuple[str, ...]  # what the record could be then: at most STATES_MAX


@dataclass(frozen=True, slots=True)
class SearchResult:
    verdict: Verdict
    steps: int
    obstacle: Obstacle | None = None  # of a violation


@dataclass(slots=True)
class _Frame(Generic[S]):
    """A configuration on the way to the present one, and the ways out of it."""

    state: S
    used: tuple[int, ...]  # of each queue, how many operations
    forced: list[int] = field(default_factory=list)  # lifted on arrival
    # (operation, or -1 - queue; the state after it)
    moves: list[tuple[int, S]] = field(default_factory=list)
    tried: int = 0  # Invariant: moves[tried - 1] is in effect, if tried > 0


class Search(Generic[S]):
    """One search, of one problem. Times are those of the operations."""

    def __init__(self, model: Model[S], problem: Problem, steps_max: int) -> None:
        self._model = model
        self._required = sorted(problem.required, key=lambda placed: placed.operation.called)
        self._count = len(self._required)
        self._steps, self._steps_max = 0, steps_max
        self._queues: list[tuple[Placed, ...]] = []
        self._families: list[range] = []
        for family in problem.optional:
            self._families.append(range(len(self._queues), len(self._queues) + len(family)))
            self._queues.extend(family)
        self._held = problem.held
        self._next, self._previous = self._links()
        self._path: list[_Frame[S]] = []
        # (time, operation) of the latest return that ended a window
        self._furthest: tuple[float, int] = (-math.inf, -1)
        self._pending: list[int] = []  # that window
        self._placed: list[Operation] = []
        self._states: dict[S, None] = {}  # in order of discovery

    def run(self) -> SearchResult:
        state, used = self._model.initial, (0,) * len(self._queues)
        seen: set[tuple[tuple[int, ...], tuple[int, ...], S]] = set()
        while True:
            frame = _Frame(state, used)
            window, blocking = self._scan(frame)
            if not window:
                return SearchResult(Verdict.OK, self._steps)
            if self._steps > self._steps_max:
                return SearchResult(Verdict.UNDECIDED, self._steps)
            self._path.append(frame)
            configuration = (tuple(window), used, state)
            if configuration in seen:
                frame.moves.clear()
            else:
                seen.add(configuration)
                self._note(window, blocking, state)
                self._weigh(frame, self._required[blocking].returned)
            following = self._advance()
            if following is None:
                return SearchResult(Verdict.VIOLATION, self._steps, self._obstacle())
            state, used = following

    def _links(self) -> tuple[list[int], list[int]]:
        """The list's links. Node i is the call of operation i, i + count its return; 2 * count
        is the head and 2 * count + 1 the tail. At equal times calls precede returns: what
        touches counts as concurrent."""
        events = [(placed.operation.called, i) for i, placed in enumerate(self._required)]
        events += [(placed.returned, i + self._count) for i, placed in enumerate(self._required)]
        head, tail = 2 * self._count, 2 * self._count + 1
        order = [head, *(node for _, node in sorted(events)), tail]
        following, previous = [tail] * (tail + 1), [head] * (tail + 1)
        for before, after in itertools.pairwise(order):
            following[before], previous[after] = after, before
        return following, previous

    def _scan(self, frame: _Frame[S]) -> tuple[list[int], int]:
        """Place what leaves the state as it is, and find the window and the moves.

        Returns the window ([]: all is placed) and the operation whose return ends it.
        """
        step, required, following = self._model.step, self._required, self._next
        state, count = frame.state, self._count
        window: list[int] = []
        node = following[2 * count]
        while node < count:
            self._steps += 1
            after = step(state, required[node].operation)
            if after is not None and after == state:
                self._lift(node)
                frame.forced.append(node)
            else:
                window.append(node)
                if after is not None:
                    frame.moves.append((node, after))
            node = following[node]
        return window, node - count

    def _weigh(self, frame: _Frame[S], end: float) -> None:
        """Drop moves that need not be tried, sort by promise, and append optional operations.

        `end`: the time of the return that ends the window.
        """
        if end < self._held.get(frame.state, end):
            frame.moves.clear()  # An operation that needs this state has not been called.
            return
        if len(frame.moves) > 1:
            frame.moves.sort(key=lambda move: self._required[move[0]].returned)
            effects: set[Hashable] = set()
            kept = []
            for move in frame.moves:
                effect = self._required[move[0]].effect
                if effect is None or effect not in effects:
                    effects.add(effect)
                    kept.append(move)
            frame.moves = kept
        self._offer_optional(frame, end)

    def _offer_optional(self, frame: _Frame[S], end: float) -> None:
        """Append one move per family: an optional operation called before `end`."""
        for family in self._families:
            for queue in family:
                used = frame.used[queue]
                if used == len(self._queues[queue]):
                    continue
                operation = self._queues[queue][used].operation
                if operation.called > end:
                    continue
                self._steps += 1
                after = self._model.step(frame.state, operation)
                if after is not None and after != frame.state:
                    frame.moves.append((-1 - queue, after))
                    break

    def _advance(self) -> tuple[S, tuple[int, ...]] | None:
        """Make the next move that was not tried; None when none is left."""
        while self._path:
            frame = self._path[-1]
            if frame.tried and frame.moves[frame.tried - 1][0] >= 0:
                self._unlift(frame.moves[frame.tried - 1][0])
            if frame.tried < len(frame.moves):
                move, after = frame.moves[frame.tried]
                frame.tried += 1
                if move >= 0:
                    self._lift(move)
                    return after, frame.used
                queue = -1 - move
                used = (*frame.used[:queue], frame.used[queue] + 1, *frame.used[queue + 1 :])
                return after, used
            for operation in reversed(frame.forced):
                self._unlift(operation)
            self._path.pop()
        return None

    def _lift(self, operation: int) -> None:
        following, previous = self._next, self._previous
        # The return first: the call's own link then skips it, and a scan can go on from there.
        for node in (operation + self._count, operation):
            following[previous[node]] = following[node]
            previous[following[node]] = previous[node]

    def _unlift(self, operation: int) -> None:
        following, previous = self._next, self._previous
        for node in (operation, operation + self._count):
            following[previous[node]] = node
            previous[following[node]] = node

    def _note(self, window: list[int], blocking: int, state: S) -> None:
        """Remember the furthest point reached, for the report."""
        rank = (self._required[blocking].returned, blocking)
        if rank < self._furthest:
            return
        if rank > self._furthest:
            self._furthest, self._pending = rank, window
            self._placed = self._newest_placed()
            self._states.clear()
        if len(self._states) < STATES_MAX:
            self._states[state] = None

    def _newest_placed(self) -> list[Operation]:
        """The last PLACED_MAX operations placed, in their order."""
        newest_first: list[Operation] = []
        for frame in reversed(self._path):
            if frame.tried:
                move = frame.moves[frame.tried - 1][0]
                queue = -1 - move
                placed = (
                    self._required[move] if move >= 0 else self._queues[queue][frame.used[queue]]
                )
                newest_first.append(placed.origin)
            newest_first += (self._required[each].origin for each in reversed(frame.forced))
            if len(newest_first) >= PLACED_MAX:
                break
        return newest_first[:PLACED_MAX][::-1]

    def _obstacle(self) -> Obstacle:
        blocked = self._furthest[1]
        return Obstacle(
            self._required[blocked].origin,
            tuple(self._required[each].origin for each in self._pending if each != blocked),
            tuple(self._placed),
            tuple(self._model.describe(state) for state in self._states),
        )
