"""The only table from error to a Redis reply.

The code says what a client may do. `CLUSTERDOWN` and `TRYAGAIN` certainly had no effect, and
Redis's cluster clients repeat such a command by themselves; `OUTCOMEUNKNOWN` may have had one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from node.errors import DeadlineExceeded, HivememError, Unavailable
from node.http_errors import as_hivemem
from node.resp_reply import Failure

_CODES: Final[Mapping[str, str]] = {
    "QUORUM_NOT_REACHED": "CLUSTERDOWN",
    "STOPPING": "CLUSTERDOWN",
    "OVERLOADED": "TRYAGAIN",
    "DISK_FULL": "DISKFULL",
    "UNAUTHENTICATED": "WRONGPASS",
    "DEADLINE_EXCEEDED": "TIMEOUT",
    "STALE": "STALE",
    "REPLICA_QUARANTINED": "CLUSTERDOWN",
}


def failure(error: Exception, *, writes: bool) -> Failure:
    """The reply for whatever was raised. `writes`: the command could have changed something."""
    known = as_hivemem(error, writes=writes)
    return Failure(_code(known, writes), known.message)


def _code(error: HivememError, writes: bool) -> str:
    if writes and not error.definite:
        return "OUTCOMEUNKNOWN"
    return _CODES.get(error.code, "ERR")


def expired(*, writes: bool) -> HivememError:
    """A command was not answered in time."""
    if writes:
        message = "no quorum confirmed the write in time; it may or may not be applied"
        return Unavailable(message, code="OUTCOME_UNKNOWN", definite=False)
    return DeadlineExceeded("the command did not finish in time")
