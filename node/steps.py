"""One step of a partition's move, done by the leader of its group because the leader of the
system group asks for it.

A step names the configuration that it was decided on; where another is in force it is
refused, and decided anew on what there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cluster.errors import ChangeRefused, ClusterError, NotLeader
from cluster.interfaces import Consensus
from cluster.membership import Add, Member, Promote, Remove
from cluster.moves import Action, TransferLeadership
from node.forward import encode_error, payload_of
from node.group_calls import Caller
from node.members import decided

STEP = 18  # method of a call

_OK = b"\x00"


class Steps:
    """Serves the steps of one group. Loop thread only."""

    def __init__(self, self_id: str, group: Consensus, caller: Caller) -> None:
        self._self_id = self_id
        self._group = group
        caller.on_call(STEP, self._serve)

    async def _serve(self, peer: str, payload: bytes) -> bytes:
        request = json.loads(payload)
        try:
            await self.take(_action(request), request["index"], request["seconds"])
        except ClusterError as error:
            return encode_error(error)
        return _OK

    async def take(self, action: Action, index: int, seconds: float) -> None:
        """Do it as the leader. Raises ClusterError."""
        role = self._group.role()
        if role.leader != self._self_id:
            raise NotLeader(role.leader)
        found = self._group.configuration().index
        if found != index:
            raise ChangeRefused(f"it was decided on configuration {index}; {found} is in force")
        await decided(lambda done: self._start(action, done), seconds)

    def _start(self, action: Action, done: Callable[[object, ClusterError | None], None]) -> None:
        if isinstance(action, TransferLeadership):
            self._group.transfer_leadership(action.target, done)
        else:
            self._group.change_membership(action, done)


async def ask_for_step(
    caller: Caller, leader: str, action: Action, index: int, seconds: float
) -> None:
    """Have `leader` take a step. Raises ClusterError."""
    request = {"kind": type(action).__name__, "index": index, "seconds": seconds}
    if isinstance(action, Add):
        request["member"] = list(action.member)
    else:
        request["node"] = action.target if isinstance(action, TransferLeadership) else action.id
    payload_of(await caller.call(leader, STEP, json.dumps(request).encode(), seconds))


def _action(request: dict[str, Any]) -> Action:
    match request["kind"]:
        case "Add":
            return Add(Member(*request["member"]))
        case "Promote":
            return Promote(request["node"])
        case "Remove":
            return Remove(request["node"])
        case "TransferLeadership":
            return TransferLeadership(request["node"])
        case kind:
            raise ChangeRefused(f"a step of another version: {kind}")
