"""Membership over HTTP: routes, refusals that name the field, and the typed client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.errors import ChangeRefused, ClusterError, DiskFull
from cluster.membership import Add, Promote, Remove, Update
from node.auth import load_tokens, new_token
from node.client import HivememClient
from node.client_retry import Call
from node.errors import Conflict, NotFound, OutOfSpace
from tests.unit.client_nodes import Act, Seen, addressed_door, door_address, fake_nodes, ok, refusal
from tests.unit.http_door import LEADER, OpenDoor, open_door
from tests.unit.member_group import IDS, member

MEMBERS = "/v1/cluster/members"
NEW = {
    "id": IDS[4],
    "name": "node4",
    "peer": "127.0.0.1:7425",
    "http": "http://127.0.0.1:7415",
}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as opened:
        yield opened


async def send(door: OpenDoor, method: str, path: str, document: object = None):
    body = None if document is None else json.dumps(document).encode()
    return await door.request(method, path, body)


async def test_each_change_answers_with_the_members_after_it(door: OpenDoor) -> None:
    group = door.member_group
    before = (await send(door, "GET", MEMBERS)).json()
    assert (before["configuration_index"], before["leader"]) == (3, IDS[1])
    assert before["members"][0] == {
        "id": IDS[1],
        "name": "node1",
        "role": "voter",
        "peer": "127.0.0.1:7422",
        "http": "http://127.0.0.1:7412",
    }
    added = (await send(door, "POST", MEMBERS, {**NEW, "timeout_ms": 900})).json()
    assert added["configuration_index"] == 4
    assert {**NEW, "role": "learner"} in added["members"]
    path = f"{MEMBERS}/{IDS[4]}"
    promoted = (await send(door, "POST", f"{path}/promote")).json()
    assert {**NEW, "role": "voter"} in promoted["members"]
    changed = (await send(door, "PATCH", path, {"peer": "[::1]:9"})).json()
    assert {**NEW, "role": "voter", "peer": "[::1]:9"} in changed["members"]
    removed = (await send(door, "DELETE", f"{path}?timeout_ms=900")).json()
    assert [each["id"] for each in removed["members"]] == IDS[1:4]
    assert removed == (await send(door, "GET", MEMBERS)).json()
    assert group.changes == [
        Add(member(4, voter=False, incarnation="")),
        Promote(IDS[4]),
        Update(IDS[4], peer="[::1]:9"),
        Remove(IDS[4]),
    ]


@pytest.mark.parametrize(
    ("document", "target", "leader"),
    [(None, None, IDS[2]), ({}, None, IDS[2]), ({"target": IDS[3]}, IDS[3], IDS[3])],
)
async def test_leadership_is_transferred(
    door: OpenDoor, document: object, target: str | None, leader: str
) -> None:
    reply = await send(door, "POST", "/v1/cluster/transfer-leadership", document)
    assert (reply.status, reply.json()) == (200, {"leader": leader})
    assert door.member_group.transfers == [target]


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in NEW.items() if key != name}


BAD = "INVALID_ARGUMENT"
REFUSALS = [
    ("POST", MEMBERS, without("id"), 400, BAD, "id"),
    ("POST", MEMBERS, without("name"), 400, BAD, "name"),
    ("POST", MEMBERS, without("peer"), 400, BAD, "peer"),
    ("POST", MEMBERS, without("http"), 400, BAD, "http"),
    ("POST", MEMBERS, None, 400, BAD, "id"),
    ("POST", MEMBERS, {**NEW, "id": "node4"}, 400, BAD, "id"),
    ("POST", MEMBERS, {**NEW, "id": IDS[4].replace("-", "")}, 400, BAD, "id"),
    ("POST", MEMBERS, {**NEW, "name": ""}, 400, BAD, "name"),
    ("POST", MEMBERS, {**NEW, "name": "a/b"}, 400, BAD, "name"),
    ("POST", MEMBERS, {**NEW, "peer": "127.0.0.1"}, 400, BAD, "peer"),
    ("POST", MEMBERS, {**NEW, "peer": "127.0.0.1:0"}, 400, BAD, "peer"),
    ("POST", MEMBERS, {**NEW, "peer": 7}, 400, BAD, "peer"),
    ("POST", MEMBERS, {**NEW, "http": "127.0.0.1:7415"}, 400, BAD, "http"),
    ("POST", MEMBERS, {**NEW, "http": "http://127.0.0.1:7415/x"}, 400, BAD, "http"),
    ("POST", MEMBERS, {**NEW, "voter": True}, 400, BAD, "voter"),
    ("POST", MEMBERS, {**NEW, "timeout_ms": 0}, 400, BAD, "timeout_ms"),
    ("POST", MEMBERS, [], 400, "MALFORMED_JSON", "body"),
    ("POST", f"{MEMBERS}?id=x", NEW, 400, "UNKNOWN_PARAMETER", "id"),
    ("POST", MEMBERS, {**NEW, "name": "n" * 20_000}, 413, "BODY_TOO_LARGE", "body"),
    ("POST", MEMBERS, {**NEW, "name": "node2"}, 409, "MEMBERSHIP_CHANGE_REFUSED", "name"),
    ("POST", MEMBERS, {**NEW, "peer": "127.0.0.1:9"}, 409, "MEMBERSHIP_CHANGE_REFUSED", "peer"),
    ("PATCH", f"{MEMBERS}/{IDS[2]}", {}, 400, BAD, "body"),
    ("PATCH", f"{MEMBERS}/{IDS[2]}", {"peer": ""}, 400, BAD, "peer"),
    ("PATCH", f"{MEMBERS}/{IDS[2]}", {"id": IDS[3]}, 400, BAD, "id"),
    ("PATCH", f"{MEMBERS}/node2", {"name": "x"}, 400, BAD, "id"),
    ("PATCH", f"{MEMBERS}/{IDS[5]}", {"name": "x"}, 404, "MEMBER_NOT_FOUND", "id"),
    ("DELETE", f"{MEMBERS}/node2", None, 400, BAD, "id"),
    ("DELETE", f"{MEMBERS}/{IDS[5]}", None, 404, "MEMBER_NOT_FOUND", "id"),
    ("DELETE", f"{MEMBERS}/{IDS[2]}?force=true", None, 400, "UNKNOWN_PARAMETER", "force"),
    ("DELETE", f"{MEMBERS}/{IDS[2]}", {}, 400, BAD, "body"),
    ("POST", f"{MEMBERS}/{IDS[5]}/promote", None, 404, "MEMBER_NOT_FOUND", "id"),
    ("POST", f"{MEMBERS}/{IDS[2]}/promote", {"x": 1}, 400, BAD, "x"),
    ("POST", "/v1/cluster/transfer-leadership", {"target": "x"}, 400, BAD, "target"),
    ("POST", "/v1/cluster/transfer-leadership", {"target": IDS[5]}, 404, "MEMBER_NOT_FOUND",
     "target"),
    ("GET", f"{MEMBERS}?x=1", None, 400, "UNKNOWN_PARAMETER", "x"),
    ("GET", f"{MEMBERS}/", None, 405, "METHOD_NOT_ALLOWED", None),
    ("GET", f"{MEMBERS}/{IDS[2]}", None, 405, "METHOD_NOT_ALLOWED", None),
    ("POST", f"{MEMBERS}/{IDS[2]}/demote", None, 404, "ROUTE_NOT_FOUND", None),
    ("POST", f"{MEMBERS}/{IDS[2]}/", None, 404, "ROUTE_NOT_FOUND", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "document", "status", "code", "field"), REFUSALS)
async def test_bad_input_is_refused_and_changes_nothing(
    door: OpenDoor,
    method: str,
    path: str,
    document: object,
    status: int,
    code: str,
    field: str | None,
) -> None:
    before = door.member_group.found
    reply = await send(door, method, path, document)
    assert (reply.status, reply.code) == (status, code), reply.body
    error = reply.json()["error"]
    assert error.get("field") == field
    assert error["definite"] is True
    assert error["leader"] == LEADER
    assert door.member_group.found == before


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ChangeRefused("a quorum would be lost"), 409, "MEMBERSHIP_CHANGE_REFUSED"),
        (DiskFull("no room"), 507, "DISK_FULL"),
    ],
)
async def test_what_the_group_refuses(
    door: OpenDoor, error: ClusterError, status: int, code: str
) -> None:
    door.member_group.refusals = [error] * 1000
    reply = await send(door, "DELETE", f"{MEMBERS}/{IDS[2]}?timeout_ms=200")
    assert (reply.status, reply.code) == (status, code)
    assert str(error) in reply.json()["error"]["message"]


async def test_an_unknown_outcome_says_so(door: OpenDoor) -> None:
    door.member_group.silent = True
    reply = await send(door, "DELETE", f"{MEMBERS}/{IDS[2]}?timeout_ms=50")
    assert (reply.status, reply.code) == (503, "OUTCOME_UNKNOWN")
    assert reply.json()["error"]["definite"] is False


async def test_changes_need_a_token_where_tokens_are_used(tmp_path: Path) -> None:
    token, line = new_token("admin")
    path = tmp_path / "tokens"
    path.write_text(f"{line}\n")
    path.chmod(0o600)
    routes = [
        ("GET", MEMBERS),
        ("POST", MEMBERS),
        ("PATCH", f"{MEMBERS}/{IDS[2]}"),
        ("DELETE", f"{MEMBERS}/{IDS[2]}"),
        ("POST", f"{MEMBERS}/{IDS[2]}/promote"),
        ("POST", "/v1/cluster/transfer-leadership"),
    ]
    async with open_door(tmp_path, tokens=load_tokens(path)) as door:
        for method, target in routes:
            assert (await door.request(method, target)).code == "UNAUTHENTICATED"
        headers = {"Authorization": f"Bearer {token}"}
        reply = await door.request("DELETE", f"{MEMBERS}/{IDS[2]}", headers=headers)
        assert reply.status == 200


async def test_the_client_makes_every_call(tmp_path: Path) -> None:
    async with addressed_door(tmp_path) as door, HivememClient([door_address(door)]) as client:
        added = await client.add_member(*NEW.values())
        assert {**NEW, "role": "learner"} in added["members"]
        assert await client.members() == added
        assert await client.add_member(*NEW.values()) == added
        promoted = await client.promote_member(IDS[4])
        assert {**NEW, "role": "voter"} in promoted["members"]
        updated = await client.update_member(IDS[4], name="other")
        assert {**NEW, "role": "voter", "name": "other"} in updated["members"]
        removed = await client.remove_member(IDS[4])
        assert [each["id"] for each in removed["members"]] == IDS[1:4]
        with pytest.raises(NotFound) as caught:
            await client.remove_member(IDS[4])
        assert caught.value.code == "MEMBER_NOT_FOUND"
        door.member_group.refusals = [ChangeRefused("no", "id")]
        with pytest.raises(Conflict, match="id: no"):
            await client.remove_member(IDS[2])
        door.member_group.refusals = [DiskFull("no room")]
        with pytest.raises(OutOfSpace, match="no room"):
            await client.remove_member(IDS[2])
        assert await client.transfer_leadership(IDS[3]) == IDS[3]


async def test_the_client_knows_a_removal_that_an_earlier_attempt_made() -> None:
    left = {"configuration_index": 9, "leader": IDS[1], "members": []}
    answers = [Act.CLOSE, refusal(404, "MEMBER_NOT_FOUND")]

    def behave(seen: Seen):
        if seen.method == "DELETE":
            return answers.pop(0)
        return ok(**left) if seen.path == MEMBERS else refusal(404, "ROUTE_NOT_FOUND")

    async with fake_nodes(behave) as nodes, HivememClient([nodes[0].address]) as client:
        assert await client.remove_member(IDS[2]) == left
    assert not answers


def test_a_document_without_fields_takes_the_timeout_too() -> None:
    assert Call("POST", "/x", document=b"{}").at(7) == ("/x", b'{"timeout_ms":7}')
    assert json.loads(Call("POST", "/x", document=b'{"a":1}').at(7)[1] or b"") == {
        "timeout_ms": 7,
        "a": 1,
    }
