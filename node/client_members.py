"""Calls that change who belongs to the cluster and who leads it. No I/O here.

Each can be repeated, so that the client may try it again within the deadline: what an
earlier attempt did already is no error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import cast

from node import client_wire as wire
from node.client_retry import Call, Reply
from node.client_types import JSON, Members, Partitions
from node.errors import NotFound

_MEMBERS = "/v1/cluster/members"


class MemberCalls(ABC):
    """Part of `ClientApi`. Nodes are named by their ids.

    Each raises NotFound MEMBER_NOT_FOUND, Conflict MEMBERSHIP_CHANGE_REFUSED (a learner
    lags, a quorum would be lost, another change is under way, …), Unavailable, ….
    """

    @abstractmethod
    async def _reply(self, call: Call, timeout_ms: int | None) -> Reply:
        """The successful answer to `call`. Raises: HivememError."""

    @abstractmethod
    async def _once(self, endpoint: str, call: Call, timeout_ms: int | None) -> Reply:
        """The answer of one node, asked once. Raises: HivememError."""

    async def members(self, *, timeout_ms: int | None = None) -> Members:
        """The members, as the node that answers knows them."""
        call = Call("GET", _MEMBERS, timed=False)
        return wire.parsed((await self._reply(call, timeout_ms)).body, wire.members)

    async def add_member(
        self, node: str, name: str, peer: str, http: str, *, timeout_ms: int | None = None
    ) -> Members:
        """Add a node that runs with `cluster.join`: a learner, which gets its vote by itself.

        `node`: its id; `peer`: host:port; `http`: URL.
        """
        fields: wire.Fields = {"id": node, "name": name, "peer": peer, "http": http}
        return await self._change("POST", _MEMBERS, fields, timeout_ms)

    async def update_member(
        self,
        node: str,
        *,
        name: str | None = None,
        peer: str | None = None,
        http: str | None = None,
        timeout_ms: int | None = None,
    ) -> Members:
        """Change what the cluster knows of a member; None leaves it as it is."""
        fields = wire.without_none({"name": name, "peer": peer, "http": http})
        return await self._change("PATCH", _path(node), fields, timeout_ms)

    async def promote_member(self, node: str, *, timeout_ms: int | None = None) -> Members:
        """Give a learner its vote now, if it has caught up."""
        return await self._change("POST", f"{_path(node)}/promote", {}, timeout_ms)

    async def remove_member(self, node: str, *, timeout_ms: int | None = None) -> Members:
        """Take a member out; it stops by itself. A leader hands over first."""
        call = Call("DELETE", _path(node), mutates=True)
        try:
            reply = await self._reply(call, timeout_ms)
        except NotFound as error:
            if error.definite:
                raise
            return await self.members(timeout_ms=timeout_ms)  # an earlier attempt removed it
        return wire.parsed(reply.body, wire.members, mutates=True)

    async def partitions(self, *, timeout_ms: int | None = None) -> Partitions:
        """Where the partitions are, and how far moves are, as the nodes say now."""
        call = Call("GET", "/v1/partitions", timed=False)
        return wire.parsed((await self._reply(call, timeout_ms)).body, wire.partitions)

    async def drain_member(
        self, node: str, *, draining: bool = True, timeout_ms: int | None = None
    ) -> None:
        """Have the node's replicas move elsewhere, or allow it replicas again."""
        document = wire.dumps({"draining": draining})
        await self._reply(_call("POST", f"{_path(node)}/drain", document), timeout_ms)

    async def compare_digests(
        self, endpoint: str, *, leading: bool = True, timeout_ms: int | None = None
    ) -> Sequence[Mapping[str, object]]:
        """Have the replicas of the groups that are at `endpoint` compare their digests now;
        `leading`: of those that it leads. One mapping for each, as the API documents."""
        call = _call("POST", "/v1/cluster/digests", wire.dumps({"leading": leading}))
        return wire.parsed((await self._once(endpoint, call, timeout_ms)).body, _comparisons)

    async def reseed_member(
        self, node: str, *, group: int | None = None, timeout_ms: int | None = None
    ) -> Sequence[int]:
        """Have a node drop its states, or that of one group, and take the leaders'. Returns
        the groups that it begins with. Raises Conflict REPAIR_REFUSED: others do not serve."""
        document = wire.dumps(wire.without_none({"group": group}))
        reply = await self._reply(_call("POST", f"{_path(node)}/reseed", document), timeout_ms)
        return wire.parsed(reply.body, _groups, mutates=True)

    async def transfer_leadership(
        self, target: str | None = None, *, timeout_ms: int | None = None
    ) -> str:
        """Have `target` lead (None: whoever is furthest, but not the leader of now).

        Returns the id of who leads then.
        """
        document = wire.dumps(wire.without_none({"target": target}))
        call = _call("POST", "/v1/cluster/transfer-leadership", document)
        return wire.parsed((await self._reply(call, timeout_ms)).body, wire.leader, mutates=True)

    async def _change(
        self, method: str, path: str, fields: wire.Fields, timeout_ms: int | None
    ) -> Members:
        reply = await self._reply(_call(method, path, wire.dumps(fields)), timeout_ms)
        return wire.parsed(reply.body, wire.members, mutates=True)


def _comparisons(body: wire.Fields) -> Sequence[Mapping[str, object]]:
    return [dict(each) for each in cast("list[dict[str, object]]", body["comparisons"])]


def _groups(body: wire.Fields) -> Sequence[int]:
    return [int(each) for each in cast("list[int]", body["groups"])]


def _path(node: str) -> str:
    return f"{_MEMBERS}/{wire.one_name('id', node)}"


def _call(method: str, target: str, document: bytes) -> Call:
    headers = {"Content-Type": JSON}
    return Call(method, target, headers=headers, document=document, mutates=True)
