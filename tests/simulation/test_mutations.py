"""Every safety rule of the adapter, switched off, is noticed by the tests that it names."""

from __future__ import annotations

import inspect
import re

import pytest

from cluster import raft_election, raft_following, raft_leading, raft_members, raft_state
from cluster.raft import SafeCore
from tests.simulation.direct import fails
from tests.simulation.holes import HOLES
from tests.simulation.mutation import Mutation, applied, find
from tests.simulation.mutations import MUTATIONS, UNMUTATED

PARTS = (
    raft_state.CoreState,
    raft_members.Members,
    raft_election.Elections,
    raft_leading.Leading,
    raft_following.Following,
    SafeCore,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_rule_that_is_switched_off_is_noticed(mutation: Mutation):
    assert mutation.tests
    for name in mutation.tests:
        with applied(mutation):
            assert fails(name), f"{name} does not notice"


def test_without_a_mutation_the_same_tests_pass():
    for name in {name for mutation in MUTATIONS for name in mutation.tests}:
        assert not fails(name), name


def test_mutations_are_named_once_and_open_holes_that_exist():
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    known = {hole.id for hole in HOLES} | {"-"}
    assert {hole for mutation in MUTATIONS for hole in mutation.holes.split()} <= known


def test_every_override_is_mutated_or_listed_with_a_reason():
    mutated = {find(edit.target) for mutation in MUTATIONS for edit in mutation.edits}
    overrides = {
        name: member
        for part in PARTS
        for name, member in vars(part).items()
        if inspect.isfunction(member) and re.match(r"_SyncObj__|_on_", name)
    }
    for name, member in overrides.items():
        assert (member in mutated) != (name in UNMUTATED), name
    assert UNMUTATED.keys() <= overrides.keys()
    assert all(UNMUTATED.values())
