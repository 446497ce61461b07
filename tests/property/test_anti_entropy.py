"""Who is odd: held against the definition."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from cluster.anti_entropy import judge

NODES = "abcdefg"
digests = st.sampled_from([b"1", b"2", b"3", None])


@st.composite
def groups(draw: st.DrawFn) -> tuple[set[str], dict[str, bytes | None]]:
    voters = set(draw(st.lists(st.sampled_from(NODES), unique=True)))
    learners = set(draw(st.lists(st.sampled_from("xy"), unique=True)))
    return voters, {node: draw(digests) for node in sorted(voters | learners)}


@given(groups())
def test_a_replica_is_odd_if_a_majority_of_two_or_more_voters_holds_another_digest(
    group: tuple[set[str], dict[str, bytes | None]],
) -> None:
    voters, found = group
    verdict = judge(voters, found)
    right = None
    for size in range(2, len(voters) + 1):
        for some in combinations(sorted(voters), size):
            held = {found[node] for node in some}
            if len(held) == 1 and None not in held and 2 * size > len(voters):
                (right,) = held
    assert verdict.digest == right
    odd = {n for n, d in found.items() if right is not None and d not in (None, right)}
    assert verdict.odd == odd
    assert verdict.agreed == {n for n, d in found.items() if right is not None and d == right}
    assert verdict.silent == {n for n, d in found.items() if d is None}
    assert verdict.differ == (len({d for d in found.values() if d is not None}) > 1)
    assert not verdict.odd & verdict.agreed
    if verdict.odd:
        assert len(verdict.agreed & voters) > len(voters) / 2


def test_examples() -> None:
    a, b = b"a", b"b"
    assert judge("abc", {"a": a, "b": a, "c": b}).odd == {"c"}
    assert judge("abc", {"a": a, "b": b, "c": None}).odd == set()
    assert judge("ab", {"a": a, "b": b}).odd == set()
    assert judge("ab", {"a": a, "b": b}).differ
    assert judge("a", {"a": a}).digest is None
    assert judge("abcde", {"a": a, "b": a, "c": b, "d": b, "e": a}).odd == {"c", "d"}
    assert judge("abcd", {"a": a, "b": a, "c": b, "d": b}).odd == set()
    assert judge("abc", {"a": a, "b": a, "c": a, "x": b}).odd == {"x"}
    assert "no majority" in judge("ab", {"a": a, "b": b}).words
