"""The adapter's safety rules, each switched off: which hole opens, and which tests notice.

`test_mutations.py` runs the tests that are named here; `scripts/mutate` runs all scenarios
against every mutation.
"""

from __future__ import annotations

from tests.simulation.mutation import Mutation
from tests.simulation.mutations_core import ELECTIONS, READS, REPLICATION
from tests.simulation.mutations_deferral import DEFERRALS
from tests.simulation.mutations_repair import REPAIR
from tests.simulation.mutations_snapshots import MEMBERS, SNAPSHOTS

MUTATIONS: tuple[Mutation, ...] = (
    *ELECTIONS,
    *REPLICATION,
    *READS,
    *SNAPSHOTS,
    *MEMBERS,
    *REPAIR,
    *DEFERRALS,
)

# Overrides of upstream, and handlers of messages, that no mutation is about.
UNMUTATED = {
    "_SyncObj__generateRaftTimeout": "liveness: when an election begins",
    "_SyncObj__getCurrentLogIndex": "access to the log: nothing works without it",
    "_SyncObj__getEntries": "access to the log: nothing works without it",
    "_SyncObj__sendAppendEntries": "when to send, not what",
    "_SyncObj__sendNextNodeIdx": "the fields of an ack; what they say is decided by its callers",
    "_SyncObj__onBecomeLeader": "upstream's; resets what was known of the peers",
    "_SyncObj__onMessageReceived": "the table of handlers",
    "_on_members": "addresses only: who votes is decided by the log",
    "_on_pre_vote": "advice: real votes are granted by upstream's own check of the log",
    "_on_pre_vote_response": "advice, as _on_pre_vote",
    "_on_append": "calls _heed and _accept_entries, which are mutated",
    "_on_snapshot_chunk": "hands over to the receiver",
}


def named(name: str) -> Mutation:
    """Raises KeyError."""
    return {mutation.name: mutation for mutation in MUTATIONS}[name]
