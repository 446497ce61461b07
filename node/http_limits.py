"""Bounds of the HTTP door: what one node holds in memory on behalf of its clients.

They are local to a node. Each shows in `/v1/status` as `http.<name>`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

KIB = 1 << 10
MIB = 1 << 20

# Limits of the contract itself (docs/http-api.md): equal on every node, not settings.
TIMEOUT_MS_DEFAULT = 5_000
TIMEOUT_MS_MAX = 60_000
PAGE_ITEMS_DEFAULT = 100
INLINE_BYTES_MAX = 256 * KIB  # larger bodies are decoded and encoded on a reader thread
BATCH_OPERATIONS_MAX = 1_000
FORGET_KEYS_DEFAULT = 1_000
FORGET_KEYS_MAX = 10_000  # deleted by one request
JSON_BODY_BYTES_MAX = 32 * MIB
MEMBER_BODY_BYTES_MAX = 16 * KIB  # of a request that names one member
# A body of 32 MiB could hold ten million tiny values, each far larger in memory than in
# the body. The largest honest one, a full batch, has 8,000.
JSON_VALUES_MAX = 20_000
QUERY_VALUES_MAX = 1_000_000  # of a query: vectors are arrays of hundreds of numbers


def _limit(default: int, unit: str) -> Any:
    return field(default=default, metadata={"unit": unit})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Beyond each of these the answer is 503 OVERLOADED unless another is named."""

    # Each may hold 128 KiB of a body that nobody reads yet.
    connections_max: int = _limit(4096, "connections")
    requests_inflight_max: int = _limit(2048, "requests")
    # Request and answer bodies are counted apart: a flood of large reads must not
    # keep writes out, and the reverse.
    request_body_bytes_inflight_max: int = _limit(256 * MIB, "bytes")
    response_body_bytes_inflight_max: int = _limit(256 * MIB, "bytes")
    request_line_bytes_max: int = _limit(32 * KIB, "bytes")  # a 4 KiB key, escaped, and a cursor
    header_bytes_max: int = _limit(8 * KIB, "bytes")  # one header: 400 INVALID_ARGUMENT
    headers_max: int = _limit(64, "headers")  # 400 INVALID_ARGUMENT
    idle_connection_seconds_max: int = _limit(600, "seconds")  # then the connection is closed
    blocked_client_seconds_max: int = _limit(60, "seconds")  # takes no byte: it is cut off
    stop_seconds_max: int = _limit(10, "seconds")  # for requests in flight when a node stops
    watches_max: int = _limit(1024, "watches")
    watch_queue_changes_max: int = _limit(1024, "changes")  # then the watch reads from the store
    watch_frames_bytes_max: int = _limit(8 * MIB, "bytes")  # encoded events shared by watches
    snapshot_streams_max: int = _limit(2, "streams")  # each holds two MiB of its snapshot
    read_threads_max: int = _limit(2, "threads")  # scans and large encodings; more wait
    # For a thread; of low priority half as many, of medium three quarters (node/read_queue.py).
    reads_waiting_max: int = _limit(1024, "reads")

    def figures(self) -> dict[str, tuple[int, str]]:
        """Every limit in force: `http.name` → (value, unit)."""
        return {
            f"http.{item.name}": (getattr(self, item.name), item.metadata["unit"])
            for item in fields(self)
        }
