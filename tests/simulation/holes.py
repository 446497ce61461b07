"""The holes of the library that the adapter is built on, and the tests of both sides.

One row per hole: what the unmodified library does, as the stock test asserts it, and what
the adapter does in the same situation. Numbers P1 to P15 and
H1 to H15 are the audit's order. `test_holes.py` checks that the tests exist.
"""

from __future__ import annotations

from typing import NamedTuple


class Hole(NamedTuple):
    """One way in which the library loses data, lies or stops, under a schedule."""

    id: str
    title: str
    stock: str  # what the unmodified library does
    stock_test: str  # path below tests/ and name, as "simulation/test_x.py::test_y"
    ours: str  # what the adapter does
    our_tests: tuple[str, ...]


_HOLES = "simulation/test_stock_holes.py::test_stock_"
_FURTHER = "simulation/test_stock_further.py::test_stock_"
_SAFE = "simulation/test_scenarios.py::test_"
_HERE = "simulation/test_holes.py::test_"
_VOTES = "simulation/test_holes_votes.py::test_"
_SNAPSHOTS = "simulation/test_holes_snapshots.py::test_"
_SENDING = "simulation/test_snapshots_sim.py::test_"
_LINKS = "unit/transport/test_transport_"
_MEMBERS = "simulation/test_membership.py::test_"

HOLES: tuple[Hole, ...] = (
    Hole(
        "P1",
        "A snapshot chunk commits a tail that nobody verified",
        "The client is told SUCCESS for X; after convergence X is on no node.",
        f"{_HOLES}p01_success_for_a_write_that_no_node_keeps",
        "The commit index stays until the snapshot is installed, whole; X's client is told "
        "that its outcome is unknown, and X is on no node.",
        (
            f"{_SNAPSHOTS}p01_a_snapshot_commits_nothing_before_it_is_installed",
            f"{_SAFE}an_append_commits_no_further_than_it_proves",
        ),
    ),
    Hole(
        "P2",
        "A duplicate or short batch truncates matching entries",
        "The follower's log goes back from 14 to 5: nine acknowledged entries are lost.",
        f"{_HOLES}p02_a_short_batch_truncates_committed_entries",
        "Every append again, oldest first, leaves the log as it is; only a conflict truncates.",
        (f"{_SAFE}p2_matching_entries_are_never_truncated",),
    ),
    Hole(
        "P3",
        "Several membership changes at once",
        "Four additions and two removals at once: A decides with ADEFG, B and C with ABC.",
        f"{_HOLES}p03_several_membership_changes_at_once",
        "One is accepted; the others are refused until it is committed.",
        (
            f"{_MEMBERS}one_change_at_a_time",
            f"{_MEMBERS}no_change_before_an_entry_of_the_own_term_is_committed",
        ),
    ),
    Hole(
        "P4",
        "Killed between the dump and the journal's compaction",
        "The restarted node's log ends at 7 instead of 17: ten acknowledged entries are lost.",
        f"{_HOLES}p04_killed_between_dump_and_compaction",
        "Killed after any step, its log ends where it ended; the log is cut only below a "
        "durable snapshot.",
        (
            f"{_SNAPSHOTS}p04_killed_at_any_step_of_a_snapshot_and_its_compaction",
            "property/test_snapshot_power_loss.py::test_power_loss_after_every_call",
        ),
    ),
    Hole(
        "P5",
        "Killed while the journal is rewritten in place",
        "Of 1000 entries 299 are left, the last is 399.",
        f"{_HOLES}p05_killed_while_the_journal_is_rewritten",
        "Whole segments are deleted, oldest first; a log cut at any byte or lost call of the "
        "disk recovers to a prefix that holds everything durable.",
        (
            f"{_SNAPSHOTS}p05_killed_at_any_step_of_an_installation",
            "unit/test_log_recovery.py::test_segments_are_deleted_durably_one_by_one_oldest_first",
            "property/test_log_power_loss.py::test_power_loss_after_every_call",
        ),
    ),
    Hole(
        "P6",
        "Acks of an earlier term are counted",
        "Two clients are told SUCCESS for entries that two of five nodes hold.",
        f"{_HOLES}p06_an_ack_of_an_earlier_term_counts",
        "Acks name their term; the commit index stays and nobody is told anything.",
        (f"{_VOTES}p06_an_ack_of_an_earlier_term_does_not_count",),
    ),
    Hole(
        "P7",
        "A snapshot that failed to load is acknowledged",
        "The leader takes index 42 for replicated; its own log ends at 23.",
        f"{_HOLES}p07_a_snapshot_that_failed_to_load_is_acknowledged",
        "Nothing is acknowledged, what is damaged is dropped and fetched again, and the ack "
        "covers exactly the snapshot.",
        (f"{_SNAPSHOTS}p07_an_incomplete_or_damaged_snapshot_is_never_acknowledged",),
    ),
    Hole(
        "P8",
        "A command whose application raises",
        "Every node raises in every tick from then on and applies nothing further; two "
        "clients are never answered.",
        f"{_HOLES}p08_a_command_that_raises_wedges_every_node",
        "A refusal is a result, the same on every node, and the next command is applied; what "
        "is no refusal stops the node before anything is acknowledged.",
        (
            f"{_HERE}p08_a_refused_command_is_answered_and_the_next_one_applied",
            f"{_SAFE}a_group_that_failed_does_nothing_more",
        ),
    ),
    Hole(
        "P9",
        "A vote counts twice",
        "A leads five nodes with the votes of itself and one other.",
        f"{_HOLES}p09_one_vote_counts_twice",
        "A vote counts once per sender and term, from members only.",
        (
            f"{_SAFE}p9_a_vote_counts_once_per_sender",
            f"{_VOTES}p09_a_learners_vote_does_not_count",
            f"{_VOTES}p09_a_vote_of_a_former_term_does_not_count",
        ),
    ),
    Hole(
        "P10",
        "A node that hears only one other deposes a healthy leader",
        "A second leader within 1.5 s; the first believes in its term for 30 s more.",
        f"{_HOLES}p10_a_half_connected_node_deposes_the_leader",
        "Terms stay, the leader stays, and what is put on it commits.",
        (f"{_SAFE}p10_a_half_connected_node_does_not_depose_the_leader",),
    ),
    Hole(
        "P11a",
        "A deposed leader serves reads",
        "It reports leader and ready and reads the old value for 30 s.",
        f"{_HOLES}p11_a_deposed_leader_reads_old_values_for_30_seconds",
        "It steps down within an election timeout, and no read is confirmed meanwhile.",
        (
            f"{_SAFE}p11_a_leader_without_answers_steps_down",
            f"{_SAFE}a_deposed_leader_never_confirms_a_read",
            f"{_HERE}p11_a_deposed_leader_confirms_no_read_of_the_old_value",
            f"{_VOTES}p11_a_learners_echo_confirms_no_read",
            f"{_VOTES}p11_an_echo_for_an_earlier_leader_confirms_no_read",
        ),
    ),
    Hole(
        "P11b",
        "A new leader is ready before it has caught up",
        "It reports ready and reads v1 after v2 was acknowledged.",
        f"{_HOLES}p11_a_new_leader_is_ready_before_it_has_caught_up",
        "Reads wait until an entry of its own term is committed and applied.",
        (f"{_SAFE}a_new_leader_answers_reads_only_after_its_no_op",),
    ),
    Hole(
        "P12",
        "Membership is lost at a restart",
        "A restarted member of five becomes leader with two votes.",
        f"{_HOLES}p12_a_member_restarts_with_a_smaller_quorum",
        "The configuration is what log and snapshot hold, committed or not, and never the "
        "settings file's.",
        (
            f"{_HERE}p12_a_configuration_is_found_in_the_log_whether_committed_or_not",
            f"{_HERE}p12_a_configuration_that_only_the_snapshot_holds_is_found",
            f"{_MEMBERS}the_configuration_survives_restarts_whoever_asks",
        ),
    ),
    Hole(
        "P13",
        "An entry that this build does not know",
        "The entry after it is applied twice on every node.",
        f"{_HOLES}p13_after_an_unknown_entry_the_next_is_applied_twice",
        "Every node stops at it with UnknownEntry; it is never skipped.",
        (
            f"{_HERE}p13_an_unknown_entry_stops_the_node",
            "unit/test_messages.py::test_damaged_or_unknown_entries_stop_the_node",
        ),
    ),
    Hole(
        "P14",
        "A snapshot skips clients that wait",
        "Three clients are never answered, and stay in memory.",
        f"{_HOLES}p14_a_snapshot_skips_waiting_callbacks",
        "All three are told that their outcome is unknown, and forgotten.",
        (f"{_MEMBERS}what_a_snapshot_replaces_is_told_as_unknown",),
    ),
    Hole(
        "P15",
        "A flood to a lagging follower while a dump is written",
        "10 000 messages within one heartbeat.",
        f"{_HOLES}p15_a_flood_to_a_lagging_follower_while_a_dump_is_written",
        "At most one message per heartbeat, whether or not there is a snapshot.",
        (
            f"{_SNAPSHOTS}p15_at_most_one_message_per_heartbeat_to_who_needs_a_snapshot",
            f"{_HERE}p15_at_most_one_message_per_heartbeat_while_nothing_can_be_sent",
        ),
    ),
    Hole(
        "H1",
        "A snapshot drops the entries beyond it",
        "The follower's log goes back from 27 to 22: five acknowledged entries are lost.",
        f"{_FURTHER}h01_a_snapshot_drops_acknowledged_entries_beyond_it",
        "Late and repeated offers and chunks change nothing; an installed snapshot keeps what "
        "follows it in the log.",
        (
            f"{_SNAPSHOTS}h01_a_snapshot_keeps_the_entries_beyond_it",
            f"{_SNAPSHOTS}h01_an_installed_snapshot_keeps_what_follows_it_in_the_log",
            f"{_SENDING}what_a_node_without_its_state_acknowledged_stays_whatever_it_is_offered",
        ),
    ),
    Hole(
        "H2",
        "Fragments of a large entry end too early",
        "Two fragments are marked as the last; the first raises, and only what the exception "
        "leaves behind makes the second succeed.",
        f"{_FURTHER}h02_the_end_of_a_large_entry_is_announced_too_early",
        "An entry goes whole into one message; the transport cuts and joins frames.",
        (
            "unit/test_messages.py::test_appends_round_trip",
            "property/test_framing.py::test_any_split_decodes_identically",
        ),
    ),
    Hole(
        "H3",
        "A reset beyond the leader's end",
        "Leader and follower answer each other for ever; the follower gets no entry.",
        f"{_FURTHER}h03_a_reset_beyond_the_leaders_end_is_answered_for_ever",
        "A hint beyond the leader's end brings the follower no further than that end.",
        (f"{_HERE}h03_a_hint_beyond_the_leaders_end_does_no_harm",),
    ),
    Hole(
        "H4",
        "A node whose disk was wiped votes again",
        "Two leaders in term 1.",
        f"{_FURTHER}h04_a_wiped_node_votes_twice_in_one_term",
        "Its folder is another server: whoever met the former one, or has it in its log, counts "
        "neither its votes nor its acks; it is readmitted as a learner.",
        (
            f"{_MEMBERS}an_amnesiac_does_not_vote_twice_in_a_term",
            f"{_MEMBERS}a_wiped_node_does_not_vote_a_lagging_leader_into_office",
            f"{_VOTES}h04_an_ack_of_another_folder_does_not_count",
            f"{_VOTES}h04_a_candidate_does_not_count_the_vote_of_another_folder",
            f"{_MEMBERS}a_wiped_node_returns_as_a_learner_and_is_promoted_when_it_has_everything",
        ),
    ),
    Hole(
        "H5",
        "Request ids start again at 1",
        "After a restart the client of a command that is on no node is told SUCCESS.",
        f"{_FURTHER}h05_a_response_from_before_a_restart_completes_a_new_command",
        "Followers refuse commands, definitely, and name the leader; nothing is forwarded "
        "inside the group.",
        (
            f"{_HERE}h05_a_follower_refuses_commands_and_forwards_nothing",
            "unit/test_messages.py::test_upstreams_own_messages_have_no_wire_form",
        ),
    ),
    Hole(
        "H6",
        "A command that could not be forwarded",
        "Its client is never answered.",
        f"{_FURTHER}h06_a_command_that_could_not_be_forwarded_is_never_answered",
        "As H5: its client is answered at once.",
        (f"{_HERE}h05_a_follower_refuses_commands_and_forwards_nothing",),
    ),
    Hole(
        "H7",
        "A snapshot that cannot be read",
        "The leader raises in every tick and sends nothing to anyone.",
        f"{_FURTHER}h07_an_unreadable_dump_stops_replication_to_everyone",
        "Only the follower that needs it waits; the others get everything and commit.",
        (f"{_SNAPSHOTS}h07_a_snapshot_that_cannot_be_read_holds_up_only_who_needs_it",),
    ),
    Hole(
        "H8",
        "A removed member campaigns",
        "It deposes the leader.",
        f"{_FURTHER}h08_a_removed_member_deposes_the_leader",
        "It is told and stops; one that was away disturbs nobody.",
        (
            f"{_MEMBERS}a_removed_member_is_told_and_stops",
            f"{_MEMBERS}a_member_removed_while_it_was_away_disturbs_nobody",
            f"{_HERE}h08_a_member_that_missed_its_removal_deposes_nobody",
        ),
    ),
    Hole(
        "H9",
        "A late ack of a removed member",
        "The leader raises KeyError.",
        f"{_FURTHER}h09_a_late_ack_of_a_removed_member_raises",
        "It is ignored.",
        (f"{_HERE}h09_late_messages_of_a_removed_member_do_no_harm",),
    ),
    Hole(
        "H10",
        "A membership change is made when appended and again when applied",
        "Applying the older of two changes undoes the newer.",
        f"{_FURTHER}h10_applying_an_older_change_undoes_a_newer_one",
        "A change is made once, when it is in the log, and undone if it is truncated.",
        (
            f"{_HERE}h10_a_change_is_made_once_when_it_is_appended",
            f"{_MEMBERS}a_truncated_change_is_undone",
        ),
    ),
    Hole(
        "H11",
        "Success of a leadership transfer means that it was sent",
        "SUCCESS is told; the message is lost; the leader stays.",
        f"{_FURTHER}h11_a_transfer_succeeds_when_it_was_sent",
        "Success means that another leader is known; otherwise it is refused within an "
        "election timeout.",
        (f"{_MEMBERS}a_transfer_that_does_not_come_off_says_so_and_the_leader_goes_on",),
    ),
    Hole(
        "H12",
        "A transfer does not stop proposals",
        "The target lacks what was written meanwhile: term 2 begins and nobody leads.",
        f"{_FURTHER}h12_a_transfer_does_not_stop_proposals_and_nobody_leads",
        "Proposals are refused meanwhile, and the target is told once it has everything.",
        (
            f"{_HERE}h12_the_target_campaigns_only_with_everything_in_its_log",
            f"{_MEMBERS}leadership_is_handed_over_without_a_timeout",
        ),
    ),
    Hole(
        "H13",
        "LEADER_CHANGED is told of a command that commits",
        'Documented as "without command commit"; the command is on every node.',
        f"{_FURTHER}h13_leader_changed_is_told_of_a_command_that_commits",
        "A definite refusal is given only for what can never commit.",
        (
            f"{_SAFE}a_definite_refusal_only_for_what_can_never_commit",
            f"{_VOTES}h13_what_follows_a_lost_command_is_refused_with_it",
        ),
    ),
    Hole(
        "H14",
        "Nothing is fsynced",
        "SUCCESS without a single fsync on any node.",
        f"{_FURTHER}h14_success_without_any_fsync",
        "Success needs a majority that has fsynced, votes are durable before they are sent.",
        (
            f"{_SAFE}nothing_is_acknowledged_before_a_majority_has_fsynced",
            f"{_VOTES}h14_the_leader_does_not_count_what_only_its_memory_holds",
            f"{_VOTES}h14_a_vote_outlives_a_crash",
            f"{_VOTES}h14_nothing_is_applied_before_it_is_durable_here",
            f"{_SAFE}a_vote_is_durable_before_it_is_sent",
        ),
    ),
    Hole(
        "H15",
        "A peer that reconnects has two connections",
        "The messages of both interleave.",
        f"{_FURTHER}h15_messages_of_two_connections_of_one_peer_interleave",
        "A newer connection replaces the older one, and nothing of that arrives any more.",
        (
            f"{_LINKS}connection.py::test_a_newer_connection_replaces_the_older_one",
            f"{_LINKS}contract.py::test_frames_of_one_connection_never_arrive_on_the_next",
        ),
    ),
)
