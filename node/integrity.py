"""What is known about the soundness of one group's state on this node, for status and metrics."""

from __future__ import annotations

from collections.abc import Callable

from engines.interfaces import StateStats
from node.quarantine import Quarantine
from node.views import ComparisonView, IntegrityView, ScrubView


class Integrity:
    """Loop thread only, but for `stats`."""

    def __init__(self, group: int, quarantine: Quarantine) -> None:
        self.scrub: Callable[[], ScrubView | None] = lambda: None
        self.comparison: Callable[[], ComparisonView | None] = lambda: None
        self._group = group
        self._quarantine = quarantine

    def stats(self) -> StateStats | None:
        """Figures of the state; None while it is not answered from. Any thread."""
        return self._quarantine.stats()

    def view(self) -> IntegrityView:
        quarantine = self._quarantine
        last = quarantine.last
        return IntegrityView(
            self._group,
            "serving" if quarantine.mark is None else "quarantined",
            last.reason if last else None,
            last.since_ms if last else None,
            dict(quarantine.found),
            self.scrub(),
            self.comparison(),
        )
