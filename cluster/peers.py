"""Who the peers are: addresses from settings and configuration, and their data folders.

A peer may have two candidate addresses, the configuration's and the settings file's. A
stale one is harmless to dial, since the handshake proves who answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from cluster.membership import Configuration, Member
from cluster.peer import Peer
from cluster.transport_config import PeerAddress, PeerState

logger = logging.getLogger(__name__)


class Changes(NamedTuple):
    """What `Peers.set_members` changed."""

    joined: list[Peer]
    left: list[Peer]


class Peers:
    """The other members, and those that left whose peer_disconnected is still due.

    `files`: addresses from the settings file. It names the members until a configuration
    comes from the log. See `Transport` for the other arguments.
    """

    def __init__(
        self,
        self_id: str,
        files: Mapping[str, PeerAddress],
        known_incarnations: Mapping[str, str],
        on_incarnation: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._self_id = self_id
        self._files = dict(files)
        self._incarnations = dict(known_incarnations)
        self._on_incarnation = on_incarnation
        self._clock = clock
        self._peers: dict[str, Peer] = {}
        self.members: frozenset[str] = frozenset()  # without this node
        self.set_members(Configuration(0, ()))

    def __iter__(self) -> Iterator[Peer]:
        """Every peer, also those that left and are not forgotten yet."""
        return iter(list(self._peers.values()))

    def get(self, node_id: str) -> Peer | None:
        return self._peers.get(node_id)

    def member(self, node_id: str) -> Peer | None:
        """The peer, unless it is no member."""
        found = self._peers.get(node_id)
        return found if found is not None and found.member else None

    def states(self) -> dict[str, PeerState]:
        """Every member by node id, in order."""
        now = self._clock()
        return {
            node_id: self._peers[node_id].state(now, self._incarnations.get(node_id))
            for node_id in sorted(self.members)
        }

    def set_members(self, configuration: Configuration) -> Changes:
        """Make these the members. Index 0: those of the settings file belong to them.

        Who left stays until `forget` if its peer_disconnected is still due.
        """
        listed = {member.id: member for member in configuration.members}
        wanted = set(listed) if configuration.index else set(listed) | set(self._files)
        wanted.discard(self._self_id)
        changes = Changes([], [])
        for node_id in sorted(wanted):
            peer = self._peers.get(node_id)
            if peer is None:
                peer = self._peers[node_id] = Peer(node_id, self._clock())
            if not peer.member:
                peer.member = True
                changes.joined.append(peer)
            self._locate(peer, listed.get(node_id))
        for peer in self:
            if peer.member and peer.id not in wanted:
                peer.member = False
                changes.left.append(peer)
                self.forget(peer)
        self.members = frozenset(wanted)
        return changes

    def forget(self, peer: Peer) -> None:
        """Drop a peer that left, once nothing is due to the groups."""
        if self._peers.get(peer.id) is peer and not peer.member and peer.announced is None:
            del self._peers[peer.id]

    def recorded_incarnation(self, node_id: str) -> str | None:
        return self._incarnations.get(node_id)

    def record_incarnation(self, node_id: str, incarnation: str) -> None:
        """Durable on return, as far as `on_incarnation` is. Raises what that raises."""
        if self._incarnations.get(node_id) != incarnation:
            self._on_incarnation(node_id, incarnation)
            self._incarnations[node_id] = incarnation

    def _locate(self, peer: Peer, member: Member | None) -> None:
        """Set where `peer` is dialled, and the name that its certificate may carry."""
        file = self._files.get(peer.id)
        found = None if member is None else _address(member)
        candidates = [address for address in (found, file) if address is not None]
        if len(candidates) == 2 and candidates[0][:2] == candidates[1][:2]:
            candidates.pop()
        peer.addresses = tuple(candidates)
        # This node's own operator is believed before what the members agreed on.
        peer.name = (file.name if file else "") or (member.name if member else "")


def _address(member: Member) -> PeerAddress | None:
    """The configuration's address of a member; None where it gives none that can be used."""
    if not member.peer:
        return None
    try:
        return PeerAddress.parse(member.peer)
    except ValueError as error:
        # The entry is in the log of every node: refusing it here would stop them all.
        logger.warning("peer %s cannot be dialled: %s", member.id, error)
        return None
