"""Members, partitions, repair and snapshots, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from cluster.slots import SLOTS
from engines.interfaces import INTEGER_MAX, Limits
from engines.schema import (
    Schema,
    boolean,
    integer,
    listed,
    members,
    one_of,
    or_null,
    text,
)
from node.comparison import Compared
from node.config_checks import NODE_NAME_PATTERN
from node.http_integrity import GROUPS_MAX
from node.http_limits import MEMBER_BODY_BYTES_MAX
from node.http_snapshots import ID_PATTERN
from node.openapi_shapes import (
    BODY_CODES,
    TIMEOUT,
    UUID,
    Described,
    Routes,
    headers,
    json_body,
    operation,
    query_parameter,
    schema_of,
    uses,
)
from node.partition_service import PartitionsView

_MEMBERS = "/v1/cluster/members"
_MEMBER = f"{_MEMBERS}/{{id}}"
_CHANGE_CODES = (
    "MEMBER_NOT_FOUND", "MEMBERSHIP_CHANGE_REFUSED", "QUORUM_NOT_REACHED", "OUTCOME_UNKNOWN",
    "DRAINING", "DEADLINE_EXCEEDED", "DISK_FULL", "REPLICA_QUARANTINED",
)  # fmt: skip
_REPAIR_CODES = (
    "QUORUM_NOT_REACHED", "REPLICA_QUARANTINED", "OUTCOME_UNKNOWN", *BODY_CODES,
)  # fmt: skip
_NAME = text(pattern=f"^{NODE_NAME_PATTERN}$")
_PEER = text(pattern="^.+:[0-9]{1,5}$", description="host:port")
_HTTP = text(pattern="^https?://.+", description="such as http://host:port")
_TEXTS: dict[str, Schema] = {"name": _NAME, "peer": _PEER, "http": _HTTP}
_TIMED: dict[str, Schema] = {"timeout_ms": TIMEOUT}
_VIEW = members(
    {
        "configuration_index": integer(0),
        "leader": or_null(text()),
        "members": listed(
            members(
                {
                    "id": text(),
                    "name": text(),
                    "role": one_of(("voter", "learner")),
                    "peer": text(),
                    "http": text(),
                }
            )
        ),
    }
)
_META = members(
    {
        "id": text(),
        "index": integer(0),
        "term": integer(0),
        "size": integer(0),
        "sha256": text(pattern="^[0-9a-f]{64}$"),
    }
)


def _body(schema: Schema, *, required: bool = True) -> Described:
    return json_body(schema, MEMBER_BODY_BYTES_MAX, required=required)


def routes(limits: Limits) -> Routes:
    return {**_members(), **_partitions(), **_repair(), **_snapshots()}


def _members() -> Routes:
    def change(summary: str, body: Described | None, answer: Schema = _VIEW, **more: Any) -> Any:
        codes = (*_CHANGE_CODES, *(BODY_CODES if body else ()))
        return operation(summary, answer, codes, body=body, **more)

    one = uses("id")
    return {
        ("GET", _MEMBERS): operation("List the members, as this node knows them", _VIEW),
        ("POST", _MEMBERS): change(
            "Add a node, as a learner first", _body(members({"id": UUID, **_TEXTS}, _TIMED))
        ),
        ("PATCH", _MEMBER): change(
            "Tell the cluster where a member is",
            _body(
                members({}, {**_TEXTS, **_TIMED}, anyOf=[{"required": [name]} for name in _TEXTS])
            ),
            parameters=one,
        ),
        ("DELETE", _MEMBER): change("Remove a member", None, parameters=uses("id", "timeout_ms")),
        ("POST", f"{_MEMBER}/promote"): change(
            "Give a learner its vote",
            _body(members({}, _TIMED), required=False),
            parameters=one,
        ),
        ("POST", "/v1/cluster/transfer-leadership"): change(
            "Have another node lead",
            _body(members({}, {"target": UUID, **_TIMED}), required=False),
            members({"leader": text()}),
        ),
    }


def _partitions() -> Routes:
    return {
        ("GET", "/v1/partitions"): operation(
            "Where the partitions are",
            schema_of(PartitionsView),
            ("QUORUM_NOT_REACHED", "REPLICA_QUARANTINED", "DEADLINE_EXCEEDED"),
        ),
        ("POST", f"{_MEMBER}/drain"): operation(
            "Move a node's replicas elsewhere, or stop doing so",
            members({"id": text(), "draining": boolean()}),
            ("NOT_PARTITIONED", *_CHANGE_CODES, *BODY_CODES),
            parameters=uses("id"),
            body=_body(members({"draining": boolean()}, _TIMED)),
        ),
    }


def _repair() -> Routes:
    # A group that could not be compared has its number and the error alone.
    compared = schema_of(Compared)
    outcome = {
        **compared,
        "properties": {**compared["properties"], "error": or_null(text())},
        "required": ["group", "error"],
    }
    return {
        ("POST", "/v1/cluster/digests"): operation(
            "Compare the replicas now",
            members({"comparisons": listed(outcome)}),
            _REPAIR_CODES,
            body=_body(members({}, {"leading": boolean(), **_TIMED}), required=False),
        ),
        ("POST", f"{_MEMBER}/reseed"): operation(
            "Have a node take its state anew",
            members({"node": text(), "groups": listed(integer(0))}),
            ("MEMBER_NOT_FOUND", "REPAIR_REFUSED", *_REPAIR_CODES),
            parameters=uses("id"),
            body=_body(members({}, {"group": integer(0, GROUPS_MAX), **_TIMED}), required=False),
        ),
    }


def _snapshots() -> Routes:
    slots = listed(listed(integer(0, SLOTS - 1), 2, 2))
    group = members(
        {
            "group": integer(0),
            "slots": slots,
            "holders": listed(text()),
            "snapshots": listed(_META),
        }
    )
    made = members(
        {
            "group": integer(0),
            "min_index": integer(0),
            "served_by": text(),
            "snapshot": or_null(_META),
        }
    )
    asked = members({}, {"group": integer(0), "min_index": integer(1, INTEGER_MAX), **_TIMED})
    stream: Described = {
        "description": "the bytes from offset to the end, no faster than is set",
        "headers": headers(
            X_Hivemem_Snapshot=text(),
            X_Hivemem_Snapshot_Sha256=text(description="of the whole"),
            X_Hivemem_Served_By=text(),
        ),
        "content": {"application/octet-stream": {}},
    }
    number = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": text(pattern=f"^{ID_PATTERN}$"),
    }
    return {
        ("GET", "/v1/snapshots"): operation(
            "The groups, and the snapshots that this node holds",
            members({"cluster_id": text(), "slots": {"const": SLOTS}, "groups": listed(group)}),
        ),
        ("POST", "/v1/snapshots"): operation(
            "Have a snapshot made that holds what was acknowledged",
            made,
            (
                "SNAPSHOT_NOT_FOUND",
                "QUORUM_NOT_REACHED",
                "REPLICA_QUARANTINED",
                "DISK_FULL",
                *BODY_CODES,
            ),
            body=_body(asked, required=False),
        ),
        ("GET", "/v1/snapshots/{id}"): operation(
            "Read a snapshot",
            stream,
            ("SNAPSHOT_NOT_FOUND", "ROUTE_NOT_FOUND"),
            parameters=[number, query_parameter("offset", integer(0, INTEGER_MAX))],
        ),
    }
