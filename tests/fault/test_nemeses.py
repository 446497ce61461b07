"""Each nemesis once, under load: nothing acknowledged is lost, and no answer was wrong.

`scripts/nemesis` runs them many times and prints the table of docs/correctness.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fault import nemesis_disks, nemesis_rot  # noqa: F401  # register their nemeses
from tests.fault.nemesis import NEMESES
from tests.fault.possible import impossible
from tests.fault.rounds import run_round, settings
from tests.fault.surroundings import fault_cluster, showing_logs
from tests.fault.workload import Record

pytestmark = pytest.mark.timeout(180)

SECONDS_MAX = 2.0  # of a fault here: two elections


def every_nemesis() -> list[object]:
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                impossible(nemesis.needs) is not None, reason=str(impossible(nemesis.needs))
            ),
        )
        for name, nemesis in NEMESES.items()
    ]


@pytest.mark.parametrize("name", every_nemesis())
async def test_nothing_is_lost_and_no_answer_is_wrong(name: str, tmp_path: Path) -> None:
    nemesis = NEMESES[name]
    nemesis = replace(nemesis, seconds=min(nemesis.seconds, SECONDS_MAX))
    cluster = fault_cluster(nemesis.needs, tmp_path, settings=settings(nemesis))
    async with cluster, showing_logs(cluster):
        await cluster.wait_leader()
        found = await run_round(cluster, nemesis, Record(name))
        assert found.judgement.good, found.judgement.explain()
