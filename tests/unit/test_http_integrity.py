"""The routes that have replicas compared and rebuilt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ClusterError, NotLeader, PeerUnreachable
from node.client import HivememClient
from node.comparison import Compared, Refused
from node.errors import BadRequest, Conflict, NotFound
from tests.unit.client_nodes import door_address
from tests.unit.http_door import OpenDoor, Reply, open_door
from tests.unit.member_group import IDS

DIGESTS = "/v1/cluster/digests"
RESEED = f"/v1/cluster/members/{IDS[2]}/reseed"


class Comparing:
    """One group's comparison, as it is told to be."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.error: ClusterError | None = None
        self.reseeded: list[str] = []

    async def compare_anywhere(self, seconds: float) -> Compared:
        assert 0 < seconds <= 60
        if self.error is not None:
            raise self.error
        odd = {IDS[2]: 3}
        return Compared(
            self.number, 7, "ab", (IDS[1], IDS[3]), (IDS[2],), (), True, odd, "one differs"
        )

    async def reseed(self, node: str, reason: str, seconds: float) -> None:
        if self.error is not None:
            raise self.error
        self.reseeded.append(node)


class Here:
    def __init__(self, number: int, leader: str) -> None:
        self.id = number
        self.comparison = Comparing(number)

        def member(node: str) -> str | None:
            return node if node in IDS else None

        self.group: Any = SimpleNamespace(
            role=lambda: SimpleNamespace(leader=leader),
            configuration=lambda: SimpleNamespace(member=member),
        )


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as opened:
        yield opened


@pytest.fixture
def groups(door: OpenDoor) -> list[Here]:
    """Two groups, the first led by the node that is asked."""
    found = [Here(0, "n1"), Here(1, IDS[3])]
    door.server._parts.integrity._groups = lambda: found
    return found


async def send(door: OpenDoor, path: str, document: object = None) -> Reply:
    return await door.request("POST", path, json.dumps(document).encode() if document else None)


async def test_all_groups_are_compared_or_those_that_the_node_leads(
    door: OpenDoor, groups: list[Here]
) -> None:
    groups[1].comparison.error = NotLeader(None)
    found = (await send(door, DIGESTS)).json()["comparisons"]
    assert found[0] == {
        "group": 0, "index": 7, "digest": "ab", "agreed": [IDS[1], IDS[3]], "odd": [IDS[2]],
        "silent": [], "differ": True, "buckets": {IDS[2]: 3}, "message": "one differs",
        "error": None,
    }  # fmt: skip
    assert found[1]["group"] == 1
    assert "leader" in found[1]["error"]
    led = (await send(door, DIGESTS, {"leading": True})).json()["comparisons"]
    assert [each["group"] for each in led] == [0]


async def test_a_node_is_reseeded_in_all_groups_or_in_one(
    door: OpenDoor, groups: list[Here]
) -> None:
    answer = (await send(door, RESEED)).json()
    assert answer == {"node": IDS[2], "groups": [0, 1]}
    assert (await send(door, RESEED, {"group": 1})).json()["groups"] == [1]
    assert groups[0].comparison.reseeded == [IDS[2]]
    assert groups[1].comparison.reseeded == [IDS[2]] * 2


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused("too few others serve"), 409, "REPAIR_REFUSED"),
        (PeerUnreachable("down", definite=True), 503, "QUORUM_NOT_REACHED"),
    ],
)
async def test_what_is_not_safe_is_refused(
    door: OpenDoor, groups: list[Here], error: ClusterError, status: int, code: str
) -> None:
    groups[0].comparison.error = error
    answer = await send(door, RESEED)
    assert (answer.status, answer.code) == (status, code)


async def test_bad_requests_name_the_field(door: OpenDoor, groups: list[Here]) -> None:
    for path, document, field in (
        (DIGESTS, {"leading": 1}, "leading"),
        (DIGESTS, {"other": True}, "other"),
        (RESEED, {"group": -1}, "group"),
        (RESEED, {"group": "0"}, "group"),
    ):
        answer = await send(door, path, document)
        assert answer.status == 400, document
        assert answer.json()["error"]["field"] == field
    unknown = await send(door, "/v1/cluster/members/nobody/reseed")
    assert unknown.status in (400, 404)
    assert not groups[0].comparison.reseeded


async def test_the_client_asks_for_both(door: OpenDoor, groups: list[Here]) -> None:
    endpoint = door_address(door)
    async with HivememClient([endpoint]) as client:
        (led,) = await client.compare_digests(endpoint)
        assert led["index"] == 7
        assert len(await client.compare_digests(endpoint, leading=False)) == 2
        assert list(await client.reseed_member(IDS[2], group=0)) == [0]
        with pytest.raises(NotFound):
            await client.reseed_member(IDS[2], group=9)
        groups[0].comparison.error = Refused("too few others serve")
        with pytest.raises(Conflict, match="too few"):
            await client.reseed_member(IDS[2], group=0)
        with pytest.raises(BadRequest):
            await client.reseed_member(IDS[2], group=-1)
