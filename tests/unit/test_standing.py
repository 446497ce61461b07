"""When a node takes itself for removed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.errors import Removed
from cluster.membership import Configuration
from cluster.standing import Standing
from tests.unit.member_group import IDS, member

WITH = Configuration(5, (member(1), member(2), member(3)))
WITHOUT = Configuration(10, (member(2), member(3)))


class Core:
    """A log of configurations, the last in force; all that `applied_index` covers applied."""

    def __init__(self) -> None:
        self.found = [WITH]
        self.applied_index = 5

    @property
    def configuration(self) -> Configuration:
        return self.found[-1]

    def configuration_at(self, index: int) -> Configuration:
        return [each for each in self.found if each.index <= index][-1]

    def is_hinted(self) -> bool:
        return False


def test_a_node_is_removed_once_that_is_applied() -> None:
    core = Core()
    standing = Standing(core, IDS[1])  # type: ignore[arg-type]
    standing.check()
    core.found.append(WITHOUT)
    standing.check()
    core.applied_index = 10
    with pytest.raises(Removed):
        standing.check()


def test_a_node_that_comes_back_is_not_removed_by_what_it_reads_of_its_past() -> None:
    """Its replica is new and reads the log from the start: that it was a member, and was
    removed. That it was admitted again comes later."""
    core, wanted = Core(), SimpleNamespace(now=True)
    standing = Standing(core, IDS[1], lambda: wanted.now)  # type: ignore[arg-type]
    standing.check()
    core.found.append(WITHOUT)
    core.applied_index = 10
    standing.check()
    core.found.append(Configuration(20, WITH.members))
    core.applied_index = 20
    standing.check()
    core.found.append(Configuration(30, WITHOUT.members))
    core.applied_index = 30
    standing.check()
    wanted.now = False
    with pytest.raises(Removed):
        standing.check()
