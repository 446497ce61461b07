"""Errors that users see, each defined once; the wire code is the class's `code`.

HivememError
├── BadRequest            400/413, definite; names the field
├── Unauthenticated       401, definite
├── NotFound              404, definite
├── MethodNotAllowed      405, definite
├── Conflict              409, definite
├── CompactedError        410, definite
├── WrongCluster          421, definite
├── Unavailable           503; definite says whether a write may have been applied
├── OutOfSpace            507; the same
├── DeadlineExceeded      504; reads only
└── InternalError         500; definite is False: what happened is not known

StartupError: a process did not start; never crosses the API
├── ConfigError           settings that do not hold; lists every problem at once
├── DataDirError          the data folder is missing, unwritable, or another node's
│   └── DataDirInUse      another process holds the folder's lock
└── LaunchError           a local cluster did not start, or does not stop
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self


class HivememError(Exception):
    """Base of every error that crosses the API.

    `definite` True: the request certainly had no effect. `leader`: HTTP address of the
    leader, if known. `field`: the input at fault. `version`: for VERSION_CONFLICT.
    `request_id`: with which a write of unknown outcome can be repeated, where its caller says so.
    """

    status = 500
    code = "INTERNAL"
    request_id: str | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        definite: bool = True,
        leader: str | None = None,
        field: str | None = None,
        version: int | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.status = status or type(self).status
        self.definite = definite
        self.leader = leader
        self.field = field
        self.version = version

    def with_effect(self, what: str) -> Self:
        """This error, of a request that did something before it failed; `what` says what."""
        self.definite = False
        self.message = f"{self.message}; {what}"
        self.args = (self.message,)
        return self


class BadRequest(HivememError):
    """INVALID_ARGUMENT, UNKNOWN_PARAMETER, MALFORMED_JSON, INVALID_CURSOR, *_TOO_LARGE (413)."""

    status = 400
    code = "INVALID_ARGUMENT"


class Unauthenticated(HivememError):
    """UNAUTHENTICATED."""

    status = 401
    code = "UNAUTHENTICATED"


class NotFound(HivememError):
    """KEY_NOT_FOUND, ROUTE_NOT_FOUND, MEMBER_NOT_FOUND, SNAPSHOT_NOT_FOUND."""

    status = 404
    code = "KEY_NOT_FOUND"


class MethodNotAllowed(HivememError):
    """METHOD_NOT_ALLOWED."""

    status = 405
    code = "METHOD_NOT_ALLOWED"


class Conflict(HivememError):
    """VERSION_CONFLICT, REQUEST_ID_REUSED, LIMIT_EXCEEDED, MEMBERSHIP_CHANGE_REFUSED,
    REPAIR_REFUSED, NOT_PARTITIONED."""

    status = 409
    code = "VERSION_CONFLICT"


class CompactedError(HivememError):
    """COMPACTED: what was asked for is no longer kept."""

    status = 410
    code = "COMPACTED"


class WrongCluster(HivememError):
    """WRONG_CLUSTER: the node is of another cluster than the one that was meant."""

    status = 421
    code = "WRONG_CLUSTER"


class Unavailable(HivememError):
    """QUORUM_NOT_REACHED, OVERLOADED, STALE, OUTCOME_UNKNOWN, STOPPING, DRAINING,
    REPLICA_QUARANTINED."""

    status = 503
    code = "QUORUM_NOT_REACHED"


class OutOfSpace(HivememError):
    """DISK_FULL: the leader's disk is nearly full; asking another node does not help."""

    status = 507
    code = "DISK_FULL"


class DeadlineExceeded(HivememError):
    """DEADLINE_EXCEEDED: a read did not finish in time; nothing was changed."""

    status = 504
    code = "DEADLINE_EXCEEDED"


class InternalError(HivememError):
    """INTERNAL: a defect; logged with its traceback on the node."""


class StartupError(Exception):
    """Base of what keeps a process from starting; the message is for a person."""


class ConfigError(StartupError):
    """Settings that do not hold. `problems`: one sentence each, every one that was found."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DataDirError(StartupError):
    """The data folder cannot be used; the message names the folder and the reason."""


class DataDirInUse(DataDirError):
    """Another process holds the folder. `pid` is None when its id is not known."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        super().__init__(f"data folder in use by pid {pid or 'unknown'}: {folder}")
        self.folder = folder
        self.pid = pid


class LaunchError(StartupError):
    """A local cluster could not be started or stopped; nothing is left half-started."""
