"""What the Redis protocol calls a key, and what it is here.

`{session}key` is the key `key` of the session `session`. A name without a tag is a session
of its own, whose one record has the key `@`. So related keys are put together by a tag, as
in a Redis Cluster, and any other name has a session, and with that a hash slot, to itself.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cluster.slots import hash_slot

OWN_KEY: Final = b"@"  # of the record that a name without a tag stands for
DEFAULT_NAMESPACE: Final = "default"  # logical database 0


class InvalidName(Exception):
    """A name that cannot be a record's; the message says why."""


class Name(NamedTuple):
    session: str
    key: bytes


def split(name: bytes) -> Name:
    """The record that a name stands for. Raises InvalidName."""
    start = name.find(b"{")
    end = name.find(b"}", start + 1) if start >= 0 else -1
    tagged = end > start + 1  # Redis Cluster: an empty tag is none
    if tagged and start > 0:
        raise InvalidName("a key's {tag} must be at its start")
    session, key = (name[1:end], name[end + 1 :]) if tagged else (name, OWN_KEY)
    if not key:
        raise InvalidName("a key must go on after its {tag}")
    if tagged and key == OWN_KEY:
        raise InvalidName("{tag}@ is what the name without braces stands for")
    try:
        return Name(session.decode(), key)
    except UnicodeDecodeError:
        raise InvalidName("a key without a {tag}, or its tag, must be UTF-8 text") from None


def join(session: str, key: bytes) -> bytes | None:
    """The name of a record; None if it has none, since its session holds braces."""
    plain = session.encode()
    name = plain if key == OWN_KEY else b"{%b}%b" % (plain, key)
    try:
        return name if split(name) == (session, key) else None
    except InvalidName:
        return None


def slot_of(name: bytes) -> int:
    """The slot that Redis Cluster gives to any name, also to one that cannot be a key here."""
    start = name.find(b"{")
    end = name.find(b"}", start + 1) if start >= 0 else -1
    return hash_slot(name[start + 1 : end] if end > start + 1 else name)


def namespace(database: bytes) -> str:
    """The namespace of a logical database: `default` for 0, otherwise the one of its name."""
    try:
        text = database.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidName("a database's name must be ASCII text") from None
    return DEFAULT_NAMESPACE if text == "0" else text
