"""Three hundred seeds of the campaign, and proof that what it injects really happens.

A failure names its seed. `scripts/simulate` runs as many more as a night allows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation import campaign
from tests.simulation.schedule import FAULTS

ROOT = Path(__file__).parents[2]
BLOCK = 25
BLOCKS = 12


@pytest.mark.parametrize("block", range(BLOCKS))
def test_seeds(block: int) -> None:
    total: Counter[str] = Counter()
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        total += campaign.run(seed)
    assert total["client_ok"] > 10 * BLOCK, "a campaign in which nothing succeeds proves nothing"
    assert total["elections"] > BLOCK
    often = [name for name in FAULTS if not name.startswith(("member_", "wipe", "corrupt"))]
    assert [name for name in often if not total[name]] == []


def test_a_seed_repeats_exactly() -> None:
    """In another process too, where Python hashes texts differently."""
    code = "from tests.simulation import campaign; print(sorted(campaign.run(7).items()))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1
