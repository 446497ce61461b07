"""Partitions move under load, and parties of a move die: nothing is lost, no answer is wrong.

`scripts/rebalance` does it at length, and prints what clients noticed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.harness import LocalCluster
from tests.fault import rebalance
from tests.fault.moves import Moves, Phase
from tests.fault.rebalance import SLOW_COPIES, figures
from tests.fault.rounds import CHURN
from tests.fault.workload import Record, Timing

pytestmark = pytest.mark.timeout(240)

PARTITIONS = 4
RATE = 150.0


@pytest.mark.parametrize("kill", [False, True], ids=["calmly", "with kills"])
async def test_nothing_is_lost_while_partitions_move(kill: bool, tmp_path: Path) -> None:
    record = Record("moves", PARTITIONS)
    settings = {**CHURN, **(SLOW_COPIES if kill else {})}
    async with LocalCluster(tmp_path, 3, settings, PARTITIONS) as cluster:
        await cluster.wait_leader()
        moves = Moves(
            cluster, record, RATE, kill=kill, remove_leader=kill, calm_seconds=0.3, more=1
        )
        try:
            judged = await moves.run()
        except BaseException:
            print(cluster.log_tails())
            raise
    assert judged.good, judged.explain()
    assert {record.group_of(session) for session in record.sessions} == {1, 2, 3, 4}
    names = [phase.name.partition(" ")[0] for phase in moves.phases]
    assert names == ["before", "add", "spread", "drain", "remove", "after"]
    assert all(phase.moved for phase in moves.phases if phase.name.startswith(("add", "remove")))


# --- The tool, without daemons -----------------------------------------------------------


def test_figures_are_those_of_their_phase() -> None:
    record = Record("unused", 2)
    record.timings += [
        Timing(1.0, 0.5, True, 1),  # before
        Timing(10.5, 0.010, True, 1),
        Timing(11.0, 0.020, False, 2),
        Timing(13.5, 0.030, False, 2),
        Timing(14.0, 9.0, False, 2),  # after
    ]
    found = figures(Phase("add node4", 10.0, 14.0, 3), record)
    assert (found.moved, found.ops_per_second) == (3, 0.75)
    assert found.writes_ms == pytest.approx((10.0, 10.0, 10.0))
    assert found.reads_ms == pytest.approx((30.0, 30.0, 30.0))
    assert found.gap_ms == pytest.approx(2500.0)
    assert found.partition_gap_ms == pytest.approx(3500.0)
    assert "| add node4 | 4.0 | 3 | 1 |" in rebalance.row(found)


def test_a_phase_in_which_nothing_was_done_can_be_shown() -> None:
    found = figures(Phase("before", 0.0, 1.0, 0), Record("unused", 2))
    assert (found.reads_ms, found.writes_ms, found.partition_gap_ms) == (None, None, None)
    assert found.gap_ms == 1000.0
    assert "none" in rebalance.row(found)
