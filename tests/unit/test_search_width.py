"""The width of approximate searches follows the recall that is sampled."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from node.search_width import EXACT_SHARE_MAX, FIRST_EXECUTIONS, HISTORY_MAX, Width

LEAST, MOST = 128, 4_096


def search(
    width: Width, recall: Callable[[int], float], searches: int, *, size: int = 1_000,
    exact_seconds: float = 0.0005, seed: int = 1,
) -> list[int]:  # fmt: skip
    """Searches of 10 nearest that take 1 ms each; the widths that they had."""
    chance = random.Random(seed)
    widths = []
    for _ in range(searches):
        now = width.width(LEAST, MOST)
        widths.append(now)
        if width.due:
            found = sum(chance.random() < recall(now) for _ in range(10))
            width.compared(now, LEAST, MOST, found, 10, exact_seconds, size)
        width.searched(0.001)
    return widths


def test_what_finds_enough_stays_as_the_settings_say() -> None:
    width = Width(0.95)
    assert set(search(width, lambda width: 0.99, 5_000)) == {LEAST}
    assert width.recall is not None
    assert width.recall > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_what_finds_too_little_widens_until_it_finds_enough(seed: int) -> None:
    width = Width(0.9)
    # 0.6, 0.8, 0.9, 0.95 at 128, 256, 512, 1,024.
    widths = search(width, lambda width: 1 - 0.4 * LEAST / width, 20_000, seed=seed)
    assert widths[0] == LEAST
    assert widths[-1] in (512, 1_024)
    assert not width.exhausted
    kept = widths[len(widths) // 2 :]
    assert sum(1 - 0.4 * LEAST / each for each in kept) / len(kept) >= 0.9


def test_what_never_finds_enough_stops_at_the_widest() -> None:
    width = Width(0.95)
    assert search(width, lambda width: 0.5, 20_000)[-1] == MOST
    assert width.exhausted
    assert len(width.history) <= HISTORY_MAX


def test_a_width_that_is_needed_no_more_is_given_up() -> None:
    width = Width(0.9)
    assert search(width, lambda width: 0.5 if width < 1_024 else 1.0, 20_000)[-1] == 1_024
    # The same widths are not tried again before the collection is another one.
    assert set(search(width, lambda width: 1.0, 20_000)) == {1_024}
    assert search(width, lambda width: 1.0, 20_000, size=5_000)[-1] == LEAST


def test_exact_searches_take_a_bounded_share_of_the_time() -> None:
    width = Width(0.95)
    search(width, lambda width: 0.99, 20_000, exact_seconds=0.05)
    assert width.samples > 5
    assert width.exact_seconds <= EXACT_SHARE_MAX * width.search_seconds + 0.05


def test_a_rare_pattern_is_not_sampled() -> None:
    width = Width(0.95)
    search(width, lambda width: 0.5, FIRST_EXECUTIONS)
    assert width.samples == 0
