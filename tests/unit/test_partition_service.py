"""What is asked of the partitions when members come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.membership import Configuration, Member
from node.clock import SystemClock
from node.partition_service import PartitionService
from node.system_state import NodeRecord
from tests.unit.member_group import IDS, configuration, member


class Cluster:
    """`MemberService` and `SystemState` of a cluster of nodes 1 to 3, one of which leaves."""

    def __init__(self, found: Configuration, record: NodeRecord) -> None:
        self.log: list[tuple[str, str]] = []
        self.nodes = {IDS[3]: record}
        group = SimpleNamespace(configuration=lambda: found)
        partitions: Any = SimpleNamespace(count=8, state=self, system=SimpleNamespace(group=group))
        placement: Any = None
        members: Any = self
        self.service = PartitionService(partitions, placement, members, SystemClock())

    def refresh(self) -> bool:
        return True

    def node(self, node: str) -> NodeRecord:
        return self.nodes.get(node, NodeRecord())

    async def forget_node(self, node: str, deadline: float) -> None:
        self.log.append(("forget", node))
        del self.nodes[node]

    async def add(self, added: Member, deadline: float) -> None:
        self.log.append(("add", added.id))


LEAVING = NodeRecord(labels=("rack=a",), draining=True, removing=True)


async def test_a_node_that_comes_back_does_not_leave_again_at_once() -> None:
    """It was removed a moment ago, and its record had not been forgotten yet."""
    cluster = Cluster(configuration(member(1), member(2)), LEAVING)
    await cluster.service.add(member(3), 0.0)
    assert cluster.log == [("forget", IDS[3]), ("add", IDS[3])]
    assert cluster.node(IDS[3]) == NodeRecord()


@pytest.mark.parametrize(
    ("found", "record"),
    [
        (configuration(member(1), member(2), member(3)), LEAVING),  # it is still leaving
        (configuration(member(1), member(2)), NodeRecord(labels=("rack=a",))),
    ],
)
async def test_what_else_is_known_of_a_node_stays(found: Configuration, record: NodeRecord) -> None:
    cluster = Cluster(found, record)
    await cluster.service.add(member(3), 0.0)
    assert cluster.log == [("add", IDS[3])]
    assert cluster.node(IDS[3]) == record
