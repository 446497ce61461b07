"""Errors of the cluster package, each defined once.

ClusterError
├── NotLeader            definite: nothing was proposed
├── Overloaded           definite: nothing was proposed
├── DiskFull             definite: nothing was proposed, the leader's disk is nearly full
├── NoQuorum             definite: nothing was proposed, no leader can be confirmed
├── ChangeRefused        definite: a membership change or transfer that cannot be made now
├── InvalidPartitionMap  definite: a map that breaks a rule; nothing was stored
├── OutcomeUnknown       not definite: the command may still commit
├── PeerUnreachable      definite is set by the caller: was the request sent?
├── RemoteCallFailed     a handler on the peer raised; definite is what its error said
├── HandshakeRefused     a peer failed to prove membership
├── CorruptLog           fail-stop: names file and offset
├── CorruptSnapshot      names the file; it is refused and fetched again
│   └── DamagedContent   its bytes are as they were made: the copy of a damaged state
├── StateDamaged         the applied state does not verify: it is dropped and rebuilt
├── Removed              fail-stop: this node is no longer a member
└── StorageFailed        fail-stop: the disk refused a write or an fsync
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base. `definite` is Jepsen's distinction: True means "certainly not applied"."""

    definite = True


class NotLeader(ClusterError):
    """This node does not lead the group; `leader` is the node id to ask, if known."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"not the leader; leader is {leader or 'unknown'}")
        self.leader = leader


class Overloaded(ClusterError):
    """A bounded queue is full; retry later."""


class DiskFull(ClusterError):
    """The leader's disk is nearly full, so nothing is appended until there is room again."""


class NoQuorum(ClusterError):
    """No leader is known, or the leader could not confirm that it still leads."""


class ChangeRefused(ClusterError):
    """A membership change or leadership transfer that cannot be made; `field` names what of
    the request is wrong, "" where it is only the moment."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidPartitionMap(ClusterError, ValueError):
    """A partition map, or what one is made of, breaks a rule. `field` names what is wrong
    with it, as `partitions[2].replicas`; "": all of it."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field or 'partition map'}: {message}")
        self.field = field


class OutcomeUnknown(ClusterError):
    """The command was proposed, and whether it commits is not known here."""

    definite = False


class PeerUnreachable(ClusterError):
    """A request to a peer could not be completed."""

    def __init__(self, message: str, *, definite: bool) -> None:
        super().__init__(message)
        self.definite = definite


class RemoteCallFailed(ClusterError):
    """The peer's handler of a call raised; the message names its error."""

    def __init__(self, message: str, *, definite: bool) -> None:
        super().__init__(message)
        self.definite = definite


class HandshakeRefused(ClusterError):
    """The peer, or this node, failed the handshake. The message says which check."""


class CorruptLog(ClusterError):
    """A record that was known to be durable does not verify."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"corrupt log: {path} at offset {offset}: {reason}")
        self.path = path
        self.offset = offset


class CorruptSnapshot(ClusterError):
    """A snapshot whose files are missing, torn or altered. Never used; fetched again."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"corrupt snapshot: {path}: {reason}")
        self.path = path


class DamagedContent(CorruptSnapshot):
    """A snapshot whose bytes are what was copied, and what was copied was damaged."""


class StateDamaged(ClusterError):
    """The state machine met damage in its state: nothing may be answered from it."""


class Removed(ClusterError):
    """The cluster's configuration no longer lists this node: it must stop."""


class StorageFailed(ClusterError):
    """The disk refused a write or an fsync; the node must stop. `errno` as the OS gave it."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
