"""The routes that change who belongs to the cluster and who leads it."""

from __future__ import annotations

from typing import Protocol

from cluster.membership import Member, Update
from node import http_views
from node.config_checks import member_problem
from node.http_bodies import Fields, parse_object
from node.http_call import Answer, Call
from node.http_errors import bad_request
from node.http_limits import MEMBER_BODY_BYTES_MAX, TIMEOUT_MS_MAX
from node.http_params import Query, decode
from node.http_receive import BodyReader
from node.http_views import dump
from node.members import MembersView

_TEXTS = ("name", "peer", "http")
_TIMEOUT = frozenset({"timeout_ms"})
_ADD = frozenset({"id", *_TEXTS}) | _TIMEOUT
_UPDATE = frozenset(_TEXTS) | _TIMEOUT
_TRANSFER = frozenset({"target"}) | _TIMEOUT
_NONE: frozenset[str] = frozenset()


class Members(Protocol):
    """What is needed of node/members.py. Deadlines are `Clock.monotonic()` seconds."""

    def members(self) -> MembersView: ...

    async def add(self, member: Member, deadline: float) -> MembersView: ...

    async def promote(self, node: str, deadline: float) -> MembersView: ...

    async def remove(self, node: str, deadline: float) -> MembersView: ...

    async def update(self, update: Update, deadline: float) -> MembersView: ...

    async def transfer(self, target: str | None, deadline: float) -> str: ...


class MemberHandlers:
    """One handler per route: decode, call, encode."""

    def __init__(self, members: Members, bodies: BodyReader) -> None:
        self._members = members
        self._bodies = bodies

    async def list_members(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        return _answer(self._members.members())

    async def add_member(self, call: Call) -> Answer:
        fields = await self._fields(call, _ADD)
        member = Member(_checked(fields, "id"), False, *(_checked(fields, name) for name in _TEXTS))
        return _answer(await self._members.add(member, deadline_of(call, fields)))

    async def update_member(self, call: Call) -> Answer:
        node = node_of(call)
        fields = await self._fields(call, _UPDATE)
        given = {name: _checked(fields, name) for name in _TEXTS if name in fields}
        if not given:
            raise bad_request("body", f"must give one of {', '.join(_TEXTS)}")
        update = Update(node, **given)
        return _answer(await self._members.update(update, deadline_of(call, fields)))

    async def promote_member(self, call: Call) -> Answer:
        node = node_of(call)
        fields = await self._fields(call, _TIMEOUT)
        return _answer(await self._members.promote(node, deadline_of(call, fields)))

    async def remove_member(self, call: Call) -> Answer:
        node = node_of(call)
        deadline = call.start + Query(call.query, _TIMEOUT).timeout_seconds()
        return _answer(await self._members.remove(node, deadline))

    async def transfer_leadership(self, call: Call) -> Answer:
        fields = await self._fields(call, _TRANSFER)
        target = None
        if "target" in fields:
            target = _checked(fields, "target", "id")
        leader = await self._members.transfer(target, deadline_of(call, fields))
        return Answer(dump({"leader": leader}), wrote=True)

    async def _fields(self, call: Call, known: frozenset[str]) -> Fields:
        """The body's fields; no body is an empty object."""
        Query(call.query, _NONE)  # what belongs into the body is refused here
        deadline = call.start + TIMEOUT_MS_MAX / 1000  # the request's own stands in the body
        body = await self._bodies.read(call, MEMBER_BODY_BYTES_MAX, "BODY_TOO_LARGE", deadline)
        return Fields(parse_object(body) if body else {}, "", known)


def _answer(view: MembersView) -> Answer:
    return Answer(dump(http_views.members(view)), wrote=True)


def deadline_of(call: Call, fields: Fields) -> float:
    return call.start + fields.timeout_ms() / 1000


def node_of(call: Call) -> str:
    """The node id in the path. Raises: BadRequest."""
    node = decode(call.names[0], "id").decode("utf-8")
    problem = member_problem("id", node)
    if problem is not None:
        raise bad_request("id", problem)
    return node


def _checked(fields: Fields, name: str, kind: str | None = None) -> str:
    """A text that a member may have as its `kind` (None: as its `name`). Raises: BadRequest."""
    text = fields.text(name)
    problem = member_problem(kind or name, text)
    if problem is not None:
        fields.refuse(name, problem)
    return text
