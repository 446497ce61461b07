"""What a node sets of its process."""

from __future__ import annotations

import gc

from node.environment import settle_memory


def test_what_there_is_at_the_start_is_not_looked_at_again() -> None:
    kept = [[] for _ in range(1_000)]  # the collector follows lists
    try:
        settle_memory()
        assert gc.get_freeze_count() > len(kept)
        assert not any(each is kept for each in gc.get_objects())
    finally:
        gc.unfreeze()
