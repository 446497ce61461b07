"""Configurations and single changes: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import membership
from cluster.errors import ChangeRefused
from cluster.membership import Add, Change, Configuration, Member, Promote, Remove, Update

THREE = membership.bootstrap(
    [Member(name, True, f"n{name}", f"h{name}:1", f"http://h{name}", f"i{name}") for name in "abc"]
)
NAMES = st.sampled_from("abcdef")
CHANGES = st.one_of(
    st.builds(lambda name: Add(Member(name)), NAMES),
    st.builds(Promote, NAMES),
    st.builds(Remove, NAMES),
    st.builds(lambda name, folder: Update(name, incarnation=folder), NAMES, st.sampled_from("xy")),
)


def after(change: Change, before: Configuration = THREE) -> Configuration:
    return Configuration(before.index + 1, membership.changed(before, change))


def test_what_is_added_has_no_vote_whatever_was_asked() -> None:
    found = after(Add(Member("d", voter=True)))
    assert found.voters == {"a", "b", "c"}
    assert found.ids == {"a", "b", "c", "d"}


def test_members_are_ordered_so_that_equal_ones_encode_alike() -> None:
    found = after(Add(Member("B")))
    assert [member.id for member in found.members] == ["B", "a", "b", "c"]


def test_another_folder_costs_the_vote_and_the_same_one_does_not() -> None:
    assert after(Update("b", incarnation="other")).voters == {"a", "c"}
    assert after(Update("b", incarnation="ib", name="new")).voters == {"a", "b", "c"}
    unknown = membership.bootstrap([Member("a"), Member("b")])
    assert after(Update("a", incarnation="first"), unknown).voters == {"a", "b"}


def test_empty_texts_leave_what_is_known() -> None:
    member = after(Update("a", peer="moved:2")).member("a")
    assert member == Member("a", True, "na", "moved:2", "http://ha", "ia")


def test_nothing_to_change_gives_the_same_members() -> None:
    assert membership.changed(THREE, Update("a", name="na")) is THREE.members
    assert membership.changed(THREE, Promote("a")) is THREE.members


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (Add(Member("a")), "id"),
        (Add(Member("")), "id"),
        (Add(Member("d", name="na")), "name"),
        (Add(Member("d", peer="ha:1")), "peer"),
        (Add(Member("d", http="http://ha")), "http"),
        (Add(Member("d", name="n" * 256)), "name"),
        (Update("a", name="nb"), "name"),
        (Update("d", name="nd"), "id"),
        (Promote("d"), "id"),
        (Remove("d"), "id"),
    ],
)
def test_a_refusal_names_the_field(change: Change, field: str) -> None:
    with pytest.raises(ChangeRefused) as refusal:
        membership.changed(THREE, change)
    assert refusal.value.field == field
    assert refusal.value.definite


def test_the_last_voter_stays() -> None:
    with pytest.raises(ChangeRefused):
        membership.changed(membership.bootstrap([Member("a")]), Remove("a"))


def test_voters_and_learners_are_bounded() -> None:
    full = membership.bootstrap(Member(f"v{i}") for i in range(membership.VOTERS_MAX))
    more = after(Add(Member("one-more")), full)
    with pytest.raises(ChangeRefused, match="voters"):
        membership.changed(more, Promote("one-more"))
    learners = [Member(f"l{i}", voter=False) for i in range(membership.LEARNERS_MAX)]
    crowded = membership.bootstrap([Member("v"), *learners])
    with pytest.raises(ChangeRefused, match="learners"):
        membership.changed(crowded, Add(Member("one-more")))


@given(st.lists(CHANGES, max_size=20))
def test_any_two_consecutive_configurations_have_overlapping_majorities(changes) -> None:
    """At most one voter comes or goes at a time (Ongaro 2014, section 4.1)."""
    current = THREE
    for change in changes:
        try:
            following = after(change, current)
        except ChangeRefused:
            continue
        assert len(current.voters ^ following.voters) <= 1
        assert following.voters
        current = following


@given(st.lists(CHANGES, max_size=10))
def test_configurations_survive_their_bytes(changes) -> None:
    current = THREE
    for change in changes:
        try:
            current = after(change, current)
        except ChangeRefused:
            continue
    assert membership.decode(membership.encode(current.members)) == current.members


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b'[["a"]]', b'[["a",true,"","","",""],["a",true,"","","",""]]']
)
def test_bytes_that_are_no_configuration_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        membership.decode(data)
