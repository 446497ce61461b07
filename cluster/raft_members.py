"""Who belongs to the group, as this node's log says, and whose word counts.

A configuration is in force from the moment it is in the log (Ongaro 2014, section 4.1), and
a truncation takes it back. `membership.py` has the rules of single changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from cluster import entry as entries_codec
from cluster import messages, upstream
from cluster.interfaces import LogEntry
from cluster.membership import Configuration, Member
from cluster.messages import Message
from cluster.raft_state import FIRST_INDEX, NEVER, CoreState, Flow
from cluster.upstream import Node

SCAN_BYTES: Final = 4 << 20  # read at once while looking for configurations


class Members(CoreState):
    """Keeps peers, flows and trust in line with the configurations that count.

    Invariant: `_configurations` ascend by index; the last one is in force, committed or not.
    """

    def _restore(self, applied_index: int) -> None:
        """Take up the durable log in place of the throw-away one upstream made."""
        if self._log.last_index == 0:
            self._log.append([LogEntry(FIRST_INDEX, 0, entries_codec.NO_OP_PAYLOAD)])
        if applied_index > self._log.last_index:
            raise ValueError(
                f"state is applied to {applied_index} but the log ends at {self._log.last_index}"
            )
        self._SyncObj__raftLog = upstream.LogView(self._log, self._entry_added)
        # Raft, section 5: a stored vote is valid only in the stored term.
        term = max(self._log.term, self._log.last_term)
        self._SyncObj__raftCurrentTerm = term
        self._SyncObj__votedForNodeId = self._log.vote if self._log.term == term else None
        self._SyncObj__raftLastApplied = max(applied_index, FIRST_INDEX)
        # What the log no longer holds, and what is in a snapshot, was committed, whether the
        # state is there or not.
        snapshot = self.snapshot
        known = max(self._log.first_index - 1, snapshot.index if snapshot else 0)
        self._SyncObj__raftCommitIndex = max(applied_index, known, FIRST_INDEX)
        self._SyncObj__needLoadDumpFile = False
        self._hard_state_position = self._log.position
        self._find_configurations()
        self._settled_index = self.configuration_at(self.commit_index).index
        self._adopt()
        self._log.flush()

    @property
    def may_lead(self) -> bool:
        """A voter may, and one whose removal is not committed yet: it may be the only one
        whose log is long enough to commit it (Ongaro 2014, section 4.2.2)."""
        committed = self.configuration_at(self.commit_index)
        return self.is_voter or (
            committed is not self.configuration and self._identity.id in committed.voters
        )

    # --- Configurations ------------------------------------------------------------

    def configuration_at(self, index: int) -> Configuration:
        """The configuration that was in force at a log index that is still known of."""
        return next(
            (found for found in reversed(self._configurations) if found.index <= index),
            self._configurations[0],
        )

    def is_hinted(self) -> bool:
        """Does a peer know of newer members than this log, with this node among them?"""
        return (
            self._hint is not None
            and self._hint.index > self.configuration.index
            and self._identity.id in self._hint.ids
        )

    def _find_configurations(self) -> None:
        """Collect every configuration that log and snapshot hold, committed or not (P12)."""
        found = {self.configuration.index: self.configuration}
        start = self._log.first_index
        if (snapshot := self.snapshot) is not None:
            found = {snapshot.configuration.index: snapshot.configuration}
            start = max(start, snapshot.index + 1)  # it knows what lies below
        while start <= self._log.last_index:
            entries = self._log.read(start, self._log.last_index + 1, SCAN_BYTES)
            for item in entries:
                members = entries_codec.unpack_membership(item.payload)
                if members is not None:
                    found[item.index] = Configuration(item.index, members)
            start = entries[-1].index + 1
        self._configurations = [found[index] for index in sorted(found)]

    def _entry_added(self, index: int, payload: bytes) -> None:
        """A configuration is in force as soon as it is in the log (Ongaro 2014, 4.1)."""
        members = entries_codec.unpack_membership(payload)
        if members is not None:
            self._configurations.append(Configuration(index, members))
            self._adopt()

    def _forget_configurations(self, index: int) -> None:
        """Entries from `index` on are gone, and so is what they configured."""
        kept = [found for found in self._configurations if found.index < index]
        if len(kept) < len(self._configurations):
            assert kept, "a committed configuration was truncated"
            self._configurations = kept
            self._adopt()

    def drop_configurations(self, index: int) -> None:
        """Forget configurations that a snapshot at `index` makes history."""
        current = self.configuration_at(index)
        self._configurations = [c for c in self._configurations if c.index >= current.index]

    def _adopt(self) -> None:
        """Bring peers in line with the configurations that count."""
        self.configuration = self._configurations[-1]
        voters = self.configuration.voters
        self.voter_peers = voters - {self._identity.id}
        self.is_voter = self._identity.id in voters
        self.majority = len(voters) // 2 + 1
        members = {member.id: member for member in self._known_members()}
        wanted = members.keys() - {self._identity.id}
        for peer in sorted(self._nodes.keys() - wanted):
            self._leave(peer)
        for peer in sorted(wanted - self._nodes.keys()):
            self._meet(peer)
        for peer in self._nodes:
            self._judge(peer)
        known = tuple(members[peer] for peer in sorted(members))
        self._peers.set_members(Configuration(self.configuration.index, known))

    def _known_members(self) -> Iterable[Member]:
        """Members to talk to, oldest word first: those of the configuration in force, those
        that the last change removes and that have not been told, and those of a hint."""
        settled = self.configuration_at(self._settled_index)
        yield from (
            member
            for found in self._configurations
            if found.index >= settled.index
            for member in found.members
        )
        if self._hint is not None and self._hint.index > self.configuration.index:
            yield from self._hint.members

    def _settle(self, now: float) -> None:
        """Part with members that a committed change removed, once they can have heard of it."""
        newest = self.configuration.index
        if self._settled_index == newest or self.commit_index < newest:
            self._settle_at = NEVER
        elif self._settle_at == NEVER:
            self._settle_at = now + 3 * self._timing.heartbeat_seconds
            for peer in self._nodes:
                self._tell_members(peer)
        elif now >= self._settle_at:
            self._settled_index = newest
            self._adopt()

    def _tell_members(self, peer: str) -> None:
        """Tell a connected peer who the members are. It may have been away while they
        changed, and nobody that it knows may still lead; see `_on_members`."""
        committed = self.configuration_at(self.commit_index)
        if committed.index and self._peers.incarnation(peer) is not None:
            self._peers.send(peer, messages.encode_members(committed), False)

    def _meet(self, peer: str) -> None:
        node = self._nodes[peer] = Node(peer)
        self._flows[peer] = Flow(deque())
        self._SyncObj__otherNodes.add(node)
        self._SyncObj__raftNextIndex[node] = self._probe_index()
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__lastResponseTime[node] = self.now()
        if self._peers.incarnation(peer) is not None:
            self._SyncObj__onNodeConnected(node)

    def _leave(self, peer: str) -> None:
        node = self._nodes.pop(peer)
        del self._flows[peer]
        self._SyncObj__otherNodes.discard(node)
        self._SyncObj__connectedNodes.discard(node)
        for table in (
            self._SyncObj__raftNextIndex,
            self._SyncObj__raftMatchIndex,
            self._SyncObj__lastResponseTime,
        ):
            table.pop(node, None)

    def _judge(self, peer: str) -> None:
        """Is the folder at the other end the one that the configuration means?

        One that was wiped has forgotten what it acknowledged and whom it voted for: its
        votes, acks and echoes count for nothing until a change readmits it.
        """
        flow, node = self._flows[peer], self._nodes[peer]
        presented = self._peers.incarnation(peer)
        if presented is None:
            return
        member = self.configuration.member(peer)
        expected = (member.incarnation if member else "") or self._peers.recorded(peer)
        trusted = expected is None or presented == expected
        if trusted != flow.trusted:
            flow.trusted = trusted
            flow.restart()
            self._SyncObj__raftMatchIndex[node] = 0
            self._SyncObj__raftNextIndex[node] = self._probe_index()

    def _probe_index(self) -> int:
        """Where to begin with a peer that has proven nothing: at the newest entry."""
        return max(self._log.last_index, FIRST_INDEX + 1)

    @property
    def all_trusted(self) -> bool:
        return all(flow.trusted for flow in self._flows.values())

    def replaced_voters(self) -> list[tuple[str, str]]:
        """Members that are connected with another data folder: (id, its incarnation)."""
        return [
            (peer, incarnation)
            for peer, flow in sorted(self._flows.items())
            if not flow.trusted
            and self.configuration.member(peer) is not None
            and (incarnation := self._peers.incarnation(peer)) is not None
        ]

    def _on_members(self, node: Node, message: Message) -> None:
        """A peer knows of newer members than this node, which was away. They are only
        connected to: who votes and who leads is still decided by the own log."""
        hint = message["configuration"]
        newest = max(self.configuration.index, self._hint.index if self._hint else 0)
        if hint.index > newest:
            self._hint = hint
            self._adopt()

    def _SyncObj__deleteEntriesFrom(self, fromIDx: int) -> None:
        self._log.truncate_from(fromIDx)
        self._forget_configurations(fromIDx)
