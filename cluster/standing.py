"""Does this node still belong to its cluster? What it does not find out by itself, the
others tell it; but only what is committed ends it."""

from __future__ import annotations

from collections.abc import Callable

from cluster.errors import Removed
from cluster.membership import Configuration
from cluster.raft import SafeCore


class Standing:
    """Watches the configurations of one group's log for this node. Loop thread only."""

    def __init__(
        self, core: SafeCore, self_id: str, wanted: Callable[[], bool] = lambda: False
    ) -> None:
        """`wanted`: is this node to be a member, whatever the log says by now? One that comes
        back reads in the log of its own removal before it reads that it is here again."""
        self._core = core
        self._self_id = self_id
        self._wanted = wanted
        self._was_member = self._is_listed()
        self._listed_in: Configuration | None = None  # where this node was last seen to be

    def check(self) -> None:
        """Raises Removed once it is committed that this node, which was a member, is none."""
        if self._core.configuration is self._listed_in:
            return
        if self._is_listed():
            self._was_member = True
            self._listed_in = self._core.configuration
        elif self._was_member and not self._core.is_hinted() and not self._wanted():
            current = self._core.configuration_at(self._core.applied_index)
            if current.index and self._self_id not in current.ids:
                raise Removed(
                    f"node {self._self_id} was removed from the cluster; to use it again, "
                    "empty its data folder and add it as a new member"
                )

    def _is_listed(self) -> bool:
        configuration = self._core.configuration
        return configuration.index > 0 and self._self_id in configuration.ids
