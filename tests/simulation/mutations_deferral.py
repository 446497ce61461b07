"""Rules of what a follower puts off, each switched off: see `mutations.py`."""

from __future__ import annotations

from tests.simulation.mutation import DEFERRAL, GROUP, STATE, one

DEFERRALS = (
    one(
        "a read is answered before what it waits for is applied",
        "-",
        GROUP + "when_applied",
        "self._core.applied_index >= index",
        "self._core.commit_index >= index",
        "deferral.a_read_is_answered_once_its_entry_is_applied",
    ),
    one(
        "a read waits for what is put off",
        "-",
        GROUP + "_must_apply",
        "or bool(self._applied_waiters)",
        "",
        "deferral.a_read_that_waited_for_the_commit_is_not_put_off",
    ),
    one(
        "a watch waits for what is put off",
        "-",
        GROUP + "_must_apply",
        "or self._watched()",
        "",
        "deferral.nothing_is_put_off_while_somebody_watches",
    ),
    one(
        "a node that campaigns puts off",
        "-",
        GROUP + "_must_apply",
        "self._core.state != raft.FOLLOWER",
        "self._core.state == raft.LEADER",
        "deferral.who_campaigns_puts_nothing_off",
    ),
    one(
        "a state that is rebuilt is put off",
        "-",
        GROUP + "_must_apply",
        "or self._core.repairing",
        "",
        "repair.a_log_that_was_never_cut_is_applied_again",
    ),
    one(
        "what is put off has no bound in time",
        "-",
        DEFERRAL + "is_due",
        "or now - self._since >= limits.seconds_max",
        "",
        "deferral.a_follower_applies_several_entries_at_once",
    ),
    one(
        "what is put off has no bound in entries",
        "-",
        DEFERRAL + "is_due",
        "entries >= limits.entries_max",
        "False",
        "deferral.many_entries_or_bytes_are_not_put_off",
    ),
    one(
        "what is put off has no bound in bytes",
        "-",
        DEFERRAL + "is_due",
        "or payload_bytes >= limits.bytes_max",
        "",
        "deferral.many_entries_or_bytes_are_not_put_off",
    ),
    one(
        "a state that misses what is put off counts as fresh",
        "-",
        STATE + "_check_current",
        "self.applied_index >= self._newest_mark[1]",
        "True",
        "deferral.a_state_that_misses_only_the_newest_entry_is_no_fresher",
    ),
)
