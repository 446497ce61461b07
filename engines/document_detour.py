"""The answer of one plan by the way of another: what a choice between plans rests on.

Without a sort, documents come in the order of the plan's walk, and a page ends within it. So an
alternative to a plan must yield the same documents in the same order. A *detour* walks another
plan, keeps what matches, and puts it into the order that the control's walk has; of every
document the place there is a function of the document and the control. What becomes too much
to keep, or takes too many looks, is given up, and the control is walked after all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engines.document_filter import Filter, before_trying, is_light
from engines.document_indexes import Index
from engines.document_items import IndexState, Record, document_key
from engines.document_plan import Plan
from engines.document_walk import GivenUp, Walk, places
from engines.space import View

LOOKS_MAX: Final = 5_000  # entries or documents of another plan, until it is given up
KEPT_MAX: Final = 1_000  # documents
KEPT_BYTES_MAX: Final = 8 << 20

Indexed = tuple[Index, IndexState]


class Detour:
    """As a `Walk` of `control`, but that it yields only what matches."""

    def __init__(
        self, view: View, wanted: Filter, control: tuple[Plan, Indexed | None], other: Walk,
        after: bytes | None,
    ) -> None:  # fmt: skip
        self._view = view
        self._wanted = wanted
        self._plan, self._index = control
        self._other = other
        self._after = after
        self._walks = [other]
        self.given_up = False

    @property
    def entries(self) -> int:
        return sum(walk.entries for walk in self._walks)

    @property
    def documents(self) -> int:
        return sum(walk.documents for walk in self._walks)

    def __iter__(self) -> Iterator[tuple[bytes, Record]]:
        try:
            kept = self._kept()
        except GivenUp:
            self.given_up = True
            walk = Walk(self._view, self._plan, self._index, self._after)
            self._walks.append(walk)
            yield from walk
            return
        kept.sort(key=lambda pair: pair[0], reverse=self._plan.reverse)
        yield from kept

    def _kept(self) -> list[tuple[bytes, Record]]:
        """Raises GivenUp."""
        found: list[tuple[bytes, Record]] = []
        size = 0
        for _, record in self._other:
            if not is_light(self._wanted, len(record.packed)):
                raise GivenUp  # the control's walk may end before it
            before_trying(self._view, self._wanted, len(record.packed), "filter")
            if not self._wanted.matches(record.document()):
                continue
            place = self._place(record)
            if place is None or not self._behind(place):
                continue
            size += len(record.packed)
            if len(found) == KEPT_MAX or size > KEPT_BYTES_MAX:
                raise GivenUp
            found.append((place, record))
        return found

    def _place(self, record: Record) -> bytes | None:
        """Where the control's walk meets the document; None: nowhere."""
        if self._index is None:
            return document_key(record.id)
        inside = places(self._plan, *self._index, record)
        if not inside:
            return None
        return max(inside) if self._plan.reverse else min(inside)

    def _behind(self, place: bytes) -> bool:
        if self._after is None:
            return True
        return place < self._after if self._plan.reverse else place > self._after
