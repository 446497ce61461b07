"""ReadIndex rounds (Ongaro 2014, 6.4)."""

from __future__ import annotations

from cluster.reads import ReadRounds


def waiters(rounds: ReadRounds, count: int) -> list:
    answers: list = []
    for _ in range(count):
        rounds.add(answers.append)
    return answers


def test_one_round_serves_all_that_wait():
    rounds = ReadRounds()
    answers = waiters(rounds, 3)
    assert rounds.begin(7)
    rounds.confirm(("B", "C"))
    assert answers == []
    rounds.echo("B", rounds.seq)
    rounds.confirm(("B", "C"))
    assert answers == [7, 7, 7]


def test_a_read_that_arrives_during_a_round_waits_for_the_next():
    rounds = ReadRounds()
    first = waiters(rounds, 1)
    rounds.begin(7)
    late = waiters(rounds, 1)
    assert not rounds.begin(9)
    rounds.echo("B", rounds.seq)
    rounds.confirm(("B", "C"))
    assert first == [7]
    assert late == []
    assert rounds.begin(9)
    rounds.confirm(("B", "C"))
    assert late == []  # B's echo is of the round before
    rounds.echo("B", rounds.seq)
    rounds.confirm(("B", "C"))
    assert late == [9]


def test_a_majority_of_five_takes_two_others():
    rounds = ReadRounds()
    answers = waiters(rounds, 1)
    rounds.begin(1)
    rounds.echo("B", rounds.seq)
    rounds.echo("B", rounds.seq)
    rounds.confirm("BCDE")
    assert answers == []
    rounds.echo("C", rounds.seq)
    rounds.confirm("BCDE")
    assert answers == [1]


def test_a_single_voter_confirms_itself():
    rounds = ReadRounds()
    answers = waiters(rounds, 1)
    rounds.begin(1)
    rounds.confirm(())
    assert answers == [1]


def test_losing_leadership_answers_everyone_and_forgets_echoes():
    rounds = ReadRounds()
    answers = waiters(rounds, 1)
    rounds.begin(1)
    answers_waiting = waiters(rounds, 1)
    rounds.echo("B", rounds.seq + 5)
    rounds.fail_all()
    assert answers == answers_waiting == [None]
    again = waiters(rounds, 1)
    rounds.begin(2)
    rounds.confirm(("B", "C"))
    assert again == []


def test_the_echo_of_a_learner_or_a_former_voter_does_not_count():
    rounds = ReadRounds()
    answers = waiters(rounds, 1)
    rounds.begin(4)
    rounds.echo("L", rounds.seq)
    rounds.confirm(("B", "C"))
    assert answers == []
    rounds.echo("C", rounds.seq)
    rounds.confirm(("B", "C"))
    assert answers == [4]
