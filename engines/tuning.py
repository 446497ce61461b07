"""What a node and an engine tell each other about one read: choices, and what the work was.

An engine that knows several ways to the same answer names them (`choose`): the way that its own
rules take is the *control*, the others are *alternatives*. The node, which has a clock and
remembers what earlier reads of the same pattern took, picks one. Whatever it picks, the answer
is the same; so a choice needs no agreement between nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.catalog import Collection
from engines.codec import Value


class Work:
    """What the engine did for one answer, as far as it says. `examined`: documents, rows, points
    or vectors that were looked at; `plan`: JSON values."""

    # Of the class until one is set: there is one of these for each query, which says little.
    examined: int | None = None
    returned: int | None = None
    approximate = False  # may the answer lack some of what is nearest?
    index: str | None = None  # the name of the secondary index that served
    scans = False  # was everything looked at, for want of an index?
    # Of a filter that nothing served: paths that an index could bind, equality first.
    fields: tuple[str, ...] = ()
    plan: Mapping[str, Value] | None = None  # only where it is asked for


class Tuning:
    """One read that nobody tunes: the engines' own rules, and nothing is kept of it.

    One thread at a time. `brief`: only what takes no longer than a look at a record or two is
    to be computed on this thread; all else raises QueryCancelled, and is tried again elsewhere.
    """

    # Of the class until one is set, as those of `Work`.
    answers = 0  # that were computed
    exact_seconds = 0.0  # that a comparison with an exact search took

    def __init__(self, *, brief: bool = False, explain: bool = False) -> None:
        self.brief = brief
        self.explain = explain
        self.work = Work()

    def found(self, note: object) -> None:
        """The answer was kept; `note`: what `end` returned when it was computed."""

    def begin(self, collection: Collection, operation: str, parameters: Mapping[str, Any]) -> None:
        """The answer is about to be computed. Raises QueryCancelled: not on this thread."""

    def choose(self, point: str, control: str, others: Sequence[str]) -> str:
        """One of these. At most one choice for each `point`, a word for what is chosen."""
        return control

    def width(self, least: int, most: int) -> int:
        """How many candidates an approximate search looks at; `least`: as the settings say."""
        return least

    @property
    def samples_recall(self) -> bool:
        """Is this search to be compared with an exact one? The answer goes to `recall`."""
        return False

    def recall(self, width: int, found: int, wanted: int) -> None:
        """Of `wanted` nearest ones a search with this width found so many."""

    def cancelled(self) -> None:
        """It took longer than `brief` allows, or than its caller waited."""

    def failed(self) -> None:
        """The request was refused."""

    def explanation(self) -> dict[str, Value]:
        """What was chosen and why, for `explain`."""
        return {"node": None, "optimizer": False, "choices": [], "pattern": None}

    def end(self, answers: int = 1) -> object:
        """The answer is there; `answers`: several that were computed together, as many requests
        of one pattern. Returns a note to keep beside it."""
        self.answers = answers
        return None
