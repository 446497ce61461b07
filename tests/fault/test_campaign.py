"""The campaign's table and its exit status, without daemons."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fault import campaign
from tests.fault.judgement import Judgement
from tests.fault.nemesis import NEMESES
from tests.fault.rounds import Round


def judged(lost: tuple[str, ...] = (), violation: str | None = None) -> Judgement:
    return Judgement(1000, 700.0, 600, 5, 7, lost, (), violation, (), Counter())


def test_a_good_result_adds_up() -> None:
    result = campaign.Result(
        "x", [Round(judged(), 0.5), Round(judged(), 1.5), Round(judged(), 1.0)]
    )
    assert not result.bad
    assert campaign.row(result.figures()) == (
        "| x | 3 | 3000 | 700, 700 | 1800 | 15 | 21 | 0 | yes | 1.00 | 1.50 |"
    )


@pytest.mark.parametrize(
    ("judgement", "failures", "shown"),
    [
        (judged(lost=("s/k",)), [], "| 1 | yes |"),
        (judged(violation="k: …"), [], "| 0 | no: 1 rounds |"),
        (judged(), ["round 2: TimeoutError"], "| 0 | yes, 1 rounds failed |"),
    ],
)
def test_a_bad_round_makes_a_bad_result(
    judgement: Judgement, failures: list[str], shown: str
) -> None:
    result = campaign.Result("x", [Round(judgement, 0.5)], failures)
    assert result.bad
    assert shown in campaign.row(result.figures())


def test_a_result_without_rounds_can_be_shown() -> None:
    assert "1 rounds failed" in campaign.row(campaign.Result("x", [], ["no"]).figures())


def test_a_nemesis_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        campaign.parse(["--only", "nobody"])
    assert "nobody" in capsys.readouterr().err
    assert campaign.parse(["--only", "kill-all"]).only == ["kill-all"]


def test_every_kind_of_fault_is_there() -> None:
    """The list of docs/correctness.md."""
    assert {
        "kill-leader",
        "pause-leader",
        "netsplit-leader",
        "cut-leader",
        "slow-links",
        "stall-all",
        "full-disk-leader",
        "eio-fsync-leader",
        "rot-log",
        "rot-snapshot",
        "rot-state",
        "power-loss",
        "clock-jumps",
    } <= set(NEMESES)
