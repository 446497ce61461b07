"""Bounds of the Redis door: what one node holds in memory on behalf of its clients.

They are local to a node. Each shows in `/v1/status` as `redis.<name>`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

KIB = 1 << 10
MIB = 1 << 20

ANSWER_BYTES_MAX = 16 * MIB  # value bytes of one answer of several keys
CHUNK_BYTES = 8 * MIB  # value bytes that are read before they are given to the clients
KEYS_MAX = 1_000  # of one command


def _limit(default: int, unit: str) -> Any:
    return field(default=default, metadata={"unit": unit})


@dataclass(frozen=True, slots=True)
class RespLimits:
    connections_max: int = _limit(4096, "connections")  # beyond: told so, and closed
    # Commands of one connection that are read ahead; then its socket is not read.
    pipeline_commands_max: int = _limit(1024, "commands")
    pipeline_bytes_max: int = _limit(16 * MIB, "bytes")  # of those; the same
    reads_inflight_max: int = _limit(128, "commands")  # of one connection at a time
    # Commands of all connections that are not complete, or wait; then whose made it so ends.
    input_bytes_max: int = _limit(256 * MIB, "bytes")
    request_bytes_max: int = _limit(64 * MIB, "bytes")  # one command; then the connection ends
    request_arguments_max: int = _limit(4096, "arguments")
    unauthenticated_bytes_max: int = _limit(4 * KIB, "bytes")  # one command before AUTH
    inline_bytes_max: int = _limit(64 * KIB, "bytes")  # one command typed without RESP
    # Answers that a client does not read; then no more of its commands run.
    output_bytes_max: int = _limit(1 * MIB, "bytes")
    blocked_client_seconds_max: int = _limit(60, "seconds")  # takes no byte: it is cut off
    command_timeout_ms: int = _limit(5_000, "ms")  # until a command is answered with an error
    transaction_commands_max: int = _limit(128, "commands")  # of one MULTI
    scan_cursors_max: int = _limit(1024, "cursors")  # kept; the one used longest ago goes first

    def figures(self) -> dict[str, tuple[int, str]]:
        """Every limit in force: `redis.name` → (value, unit)."""
        return {
            f"redis.{item.name}": (getattr(self, item.name), item.metadata["unit"])
            for item in fields(self)
        }
