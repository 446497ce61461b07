"""Bounds of one Raft group."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.deferral import DeferralLimits


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Bounds of one group. Counts are commands or entries; sizes are bytes."""

    entry_commands_max: int = 1024  # commands in one entry
    entry_bytes_max: int = 1 << 20  # command bytes in one entry (a larger command goes alone)
    command_bytes_max: int = 60 << 20  # one command; a log record and a frame hold 64 MiB
    proposals_inflight_max: int = 4096  # commands waiting or not yet applied
    proposals_bytes_max: int = 128 << 20  # their bytes
    reads_waiting_max: int = 8192  # reads waiting for a round, and as many to be applied
    apply_entries_max: int = 256  # entries applied in one turn
    apply_bytes_max: int = 4 << 20  # payload bytes applied in one turn (at least one entry)
    deferral: DeferralLimits = field(default_factory=DeferralLimits)
