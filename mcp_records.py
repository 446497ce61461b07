"""The tools of records, and the guide's tools for memory.

Each is a function of the running server's cluster and the arguments; `mcp_server` registers it.
"""

from __future__ import annotations

import mcp_answers as answers
import mcp_schemas as schemas
import mcp_values
from mcp_answers import Refused
from mcp_cluster import Cluster


async def get(
    here: Cluster,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    consistency: schemas.Consistency = "linearizable",
    offset: schemas.Offset = 0,
) -> schemas.GetAnswer:
    """Read one record. A key that does not exist is found=false, not an error."""
    with answers.explained(writes=False):
        found = await here.read(namespace, session, key, consistency)
    if found is None:
        return schemas.GetAnswer(found=False)
    return answers.value_answer(found, offset)


async def put(
    here: Cluster,
    session: schemas.Session,
    key: schemas.Key,
    value: schemas.Value,
    namespace: schemas.Namespace = "default",
    expect_version: schemas.ExpectVersion = None,
    ttl_seconds: schemas.TtlSeconds = None,
) -> schemas.PutAnswer:
    """Store a value durably, replacing what was there. Give expect_version to change a record
    that other agents may change too."""
    with answers.explained(writes=True):
        data, content_type = mcp_values.to_bytes(value)
        done = await here.client.put(
            namespace,
            session,
            key,
            data,
            content_type=content_type,
            ttl_seconds=ttl_seconds,
            if_version=expect_version,
        )
    here.saw(done.revision)
    return schemas.PutAnswer(version=done.version, revision=done.revision)


async def list_(
    here: Cluster,
    namespace: schemas.ListedNamespace = "default",
    session: schemas.ListedSession = None,
    prefix: schemas.Prefix = "",
    limit: schemas.Limit = schemas.LIST_LIMIT_DEFAULT,
    cursor: schemas.Cursor = None,
    values: schemas.WithValues = False,
) -> schemas.ListAnswer:
    """List the keys of a session; without session, the sessions of the namespace."""
    with answers.explained(writes=False):
        if session is None and not prefix and not values:
            return await here.names(namespace, limit, cursor)
        if session is None:
            raise Refused("INVALID_ARGUMENT: prefix and values need a session: add it.")
        if namespace == schemas.ALL_NAMESPACES:
            raise Refused("INVALID_ARGUMENT: a session needs one namespace: name it.")
        return await here.keys(namespace, session, prefix, limit, cursor, values)


async def delete(
    here: Cluster,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    expect_version: schemas.ExpectVersion = None,
) -> schemas.DeleteAnswer:
    """Delete one record. Its history stays readable for a while."""
    with answers.explained(writes=True):
        done = await here.client.delete(namespace, session, key, if_version=expect_version)
    here.saw(done.revision)
    return schemas.DeleteAnswer(deleted=done.deleted, version=done.version, revision=done.revision)


async def history(
    here: Cluster,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    limit: schemas.Limit = schemas.HISTORY_LIMIT_DEFAULT,
    cursor: schemas.Cursor = None,
    at_revision: schemas.AtRevision = None,
) -> schemas.HistoryAnswer:
    """Past versions of one record, newest first; or, with at_revision, as it was then."""
    with answers.explained(writes=False):
        if at_revision is not None:
            return await here.past_at(namespace, session, key, at_revision)
        return await here.past(namespace, session, key, limit, cursor)


async def memory_distribute(
    here: Cluster,
    operation: schemas.GuideOperation,
    sessionId: schemas.Session,  # the guide's name
    key: schemas.Key,
    value: schemas.GuideValue,
    consistency: schemas.GuideConsistency = "eventual",
    timeout: schemas.Timeout = schemas.TIMEOUT_MS_DEFAULT,
) -> schemas.DistributeAnswer:
    """read, write or delete a key of a session (namespace "default") and say what the cluster
    decided. sync and repair are not available yet."""
    if operation == "sync" or operation == "repair":
        raise Refused(
            f"NOT_AVAILABLE: operation {operation} is not available yet, and nothing was done. "
            "Replicas follow one log; memory_health_check shows how each of them is."
        )
    if operation == "write" and value is schemas.MISSING:
        raise Refused("INVALID_ARGUMENT: value: a write needs one. Nothing was changed.")
    with answers.explained(writes=operation != "read"):
        result, view = await here.distribute(operation, sessionId, key, value, consistency, timeout)
    decision = schemas.Decision(
        id=answers.decision_id(here.cluster_id, result.revision),
        status="completed",
        participants=None if view is None else answers.healthy_names(view),
        timestamp=here.now(),
    )
    return schemas.DistributeAnswer(
        operation=operation,
        session_id=sessionId,
        key=key,
        decision=decision,
        consistency=consistency,
        result=result,
    )


async def memory_health_check(
    here: Cluster,
    components: schemas.ComponentNames = ("all",),
    detailed: schemas.Detailed = False,
) -> schemas.HealthAnswer:
    """How the cluster is: critical without a quorum, degraded while a node is down."""
    view = await here.view()
    status = await here.leader_status(view) if detailed else None
    tuned = await here.optimizer(view) if {"optimizer", "all"} & set(components) else None
    return answers.health_answer(view, status, tuned, components, here.now(), detailed=detailed)
