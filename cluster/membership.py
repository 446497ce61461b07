"""Who belongs to a group: configurations, single changes, and their bytes. Pure.

A configuration is an entry of the log and is in force from the moment it is appended
(Ongaro 2014, section 4.1). Changes are made one at a time, so any two consecutive
configurations have overlapping majorities. Entries hold the whole configuration rather
than the difference: the newest one in log or snapshot is the truth, whatever is missing
below it.

A member's Raft identity is its id *and* the incarnation of its data folder. A folder that
was wiped has forgotten votes and entries: under the old identity it could vote twice. So a
member with another incarnation is readmitted as a learner, like a new node, and is
promoted once it has caught up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.errors import ChangeRefused

VOTERS_MAX: Final = 9  # each write waits for a majority of them
LEARNERS_MAX: Final = 9
TEXT_BYTES_MAX: Final = 255  # of each text of a member


class Member(NamedTuple):
    """One node of a configuration."""

    id: str
    voter: bool = True  # False: a learner, which receives the log and has no vote
    name: str = ""
    peer: str = ""  # host:port for other nodes
    http: str = ""  # URL for clients
    incarnation: str = ""  # of its data folder; "": not known yet


class Configuration(NamedTuple):
    """The members, ordered by id, and the log index that set them.

    `index` 0: the initial members, from the settings file, not from the log.
    """

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    members: tuple[Member, ...]

    @property
    def voters(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members if member.voter)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members)

    def member(self, node: str) -> Member | None:
        return next((member for member in self.members if member.id == node), None)


@dataclass(frozen=True, slots=True)
class Add:
    """Admit a node as a learner."""

    member: Member


@dataclass(frozen=True, slots=True)
class Promote:
    """Give a learner its vote, once it has caught up."""

    id: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a member out. It is told, and stops."""

    id: str


@dataclass(frozen=True, slots=True)
class Update:
    """What a member says of itself. Empty texts leave what is known.

    Another incarnation than the recorded one makes the member a learner: see the module.
    """

    id: str
    name: str = ""
    peer: str = ""
    http: str = ""
    incarnation: str = ""


Change = Add | Promote | Remove | Update


def bootstrap(members: Iterable[Member]) -> Configuration:
    """The configuration of a group whose log holds none yet."""
    return Configuration(0, tuple(sorted(members)))


def changed(configuration: Configuration, change: Change) -> tuple[Member, ...]:
    """The members after one change; the same tuple if it changes nothing.

    Raises ChangeRefused with a reason a person can act on.
    """
    members = {member.id: member for member in configuration.members}
    if isinstance(change, Add):
        members[change.member.id] = _admitted(members, change.member)
    else:
        found = members.get(change.id)
        if found is None:
            raise ChangeRefused(f"node {change.id} is not a member", "id")
        if isinstance(change, Remove):
            del members[change.id]
        elif isinstance(change, Promote):
            members[change.id] = found._replace(voter=True)
        else:
            members[change.id] = _updated(found, change)
    after = tuple(sorted(members.values()))
    _check(after)
    return configuration.members if after == configuration.members else after


def _admitted(members: dict[str, Member], member: Member) -> Member:
    if not member.id:
        raise ChangeRefused("a member needs an id", "id")
    if member.id in members:
        raise ChangeRefused(f"node {member.id} is a member already", "id")
    return member._replace(voter=False)


def _updated(member: Member, update: Update) -> Member:
    wiped = bool(
        update.incarnation and member.incarnation and update.incarnation != member.incarnation
    )
    return member._replace(
        name=update.name or member.name,
        peer=update.peer or member.peer,
        http=update.http or member.http,
        incarnation=update.incarnation or member.incarnation,
        voter=member.voter and not wiped,
    )


def _check(members: tuple[Member, ...]) -> None:
    voters = sum(member.voter for member in members)
    if not voters:
        raise ChangeRefused("the last voter cannot be removed", "id")
    if voters > VOTERS_MAX:
        raise ChangeRefused(f"a group has at most {VOTERS_MAX} voters", "id")
    if len(members) - voters > LEARNERS_MAX:
        raise ChangeRefused(f"a group has at most {LEARNERS_MAX} learners", "id")
    for field in ("name", "peer", "http"):
        texts = [text for member in members if (text := getattr(member, field))]
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise ChangeRefused(f"two members would have the {field} {twice}", field)
    for member in members:
        for field in ("id", "name", "peer", "http", "incarnation"):
            if len(getattr(member, field).encode()) > TEXT_BYTES_MAX:
                raise ChangeRefused(f"longer than {TEXT_BYTES_MAX} bytes", field)


def encode(members: Iterable[Member]) -> bytes:
    """Bytes of a configuration's members, as they stand in entries and manifests."""
    return json.dumps([list(member) for member in members], separators=(",", ":")).encode()


def decode(data: bytes) -> tuple[Member, ...]:
    """Members of `encode`. Raises ValueError for anything else."""
    rows = json.loads(data)
    if not isinstance(rows, list) or not rows:
        raise ValueError("a configuration is a list of members")
    members = []
    for row in rows:
        if not isinstance(row, list) or len(row) != len(Member._fields):
            raise ValueError("a member has another shape")
        member = Member._make(row)
        texts = (member.id, *member[2:])
        if not all(isinstance(text, str) for text in texts) or type(member.voter) is not bool:
            raise ValueError("a member has another shape")
        members.append(member)
    if len({member.id for member in members}) != len(members):
        raise ValueError("a member is listed twice")
    return tuple(members)
