"""The tools of collections: ask and change them, see what there is, make and drop them.

Each is a function of the running server's cluster and the arguments; `mcp_server` registers it.
"""

from __future__ import annotations

import mcp_answers as answers
import mcp_engines
import mcp_results
import mcp_schemas as schemas
import mcp_schemas_database as shapes
import mcp_values
from mcp_answers import Refused
from mcp_cluster import Cluster, fitting_page
from mcp_collections import Wanted
from node.client_collections import CollectionPage, EngineInfo, Routing

CREATE, ALTER, DROP = "create", "alter", "drop"


async def database_query(
    here: Cluster,
    operation: shapes.Operation,
    collection: shapes.CollectionOrNone = None,
    parameters: shapes.Parameters = None,
    namespace: schemas.Namespace = "default",
    requirements: shapes.RequirementsGiven = None,
    routing: shapes.RoutingGiven = None,
    requestId: shapes.RequestId = None,  # the guide's way of naming
) -> shapes.QueryAnswer:
    """Run one operation on a collection: documents, vectors, graphs, SQL tables, time series,
    texts. database_describe lists operations and how to call them."""
    begun = here.clock.monotonic()
    demands = requirements or shapes.Requirements()
    given = dict(parameters or {})
    with answers.query_explained(writes=False):
        mcp_values.to_bytes(given, "parameters")
        writes = await here.client.is_write(operation, timeout_ms=demands.timeout)
    if requestId is not None and not writes:
        raise Refused("INVALID_ARGUMENT: requestId: is for writes. Nothing was done.")
    query_id = (requestId or here.clock.new_id()) if writes else None
    if collection is None and isinstance(given.get("collection"), str):
        collection = given.pop("collection")  # where the guide has it
    if collection is None:
        raise Refused("INVALID_ARGUMENT: collection: field required. Nothing was done.")
    wanted = Wanted(
        namespace,
        collection,
        operation,
        given,
        writes,
        begun + demands.timeout / 1000,
        demands.consistency,
        demands.capabilities,
        _routing(demands, routing, writes=writes),
        query_id,
        demands.priority,
    )
    with answers.query_explained(writes=writes, repeat=f'requestId "{query_id}"'):
        if writes:
            answer = await here.collections.query(wanted)
        else:
            answer = await here.collections.fitting(wanted)
    result, omitted = mcp_results.cut(answer["result"], mcp_values.VALUE_BYTES_MAX)
    cursor = answer["result"].get("next_cursor") if isinstance(answer["result"], dict) else None
    return shapes.QueryAnswer(
        status="completed",
        engine_id=answer["engine"],
        query_id=query_id,
        execution_time=round((here.clock.monotonic() - begun) * 1000, 3),
        log_index=answer["log_index"],
        served_by=answer.get("served_by"),
        result=result,
        next_cursor=cursor,
        truncated=result is not answer["result"],
        omitted=omitted or None,
    )


def _routing(
    requirements: shapes.Requirements, given: shapes.Routing | None, *, writes: bool
) -> Routing | None:
    """As the guide has it: eventual reads go where they are answered soonest, unless told."""
    if writes or requirements.consistency != "eventual":
        if given is not None:
            raise Refused(
                "INVALID_ARGUMENT: routing: is only for reads with requirements.consistency "
                "eventual; the leader does the rest. Nothing was done; call again without it."
            )
        return None
    chosen = shapes.Routing() if given is None else given
    return Routing(
        load_balancing=chosen.load_balancing,
        preferred=chosen.preferred,
        excluded=chosen.excluded,
    )


async def database_describe(
    here: Cluster,
    about: shapes.About = None,
    namespace: schemas.Namespace = "default",
    limit: schemas.Limit = schemas.LIST_LIMIT_DEFAULT,
    cursor: schemas.Cursor = None,
) -> shapes.DescribeAnswer:
    """What there is: the namespace's collections, and the engines with their operations. With
    about: an engine's operations and settings, or an operation's parameters, result, example."""
    with answers.query_explained(writes=False):
        if about is not None:
            return await _described(here, about)

        async def fetch(limit: int) -> CollectionPage:
            return await here.client.collections_page(namespace, limit=limit, cursor=cursor)

        page = await fitting_page(
            fetch, lambda page: [mcp_results.size(each) for each in page["items"]], limit
        )
        engines = None if cursor is not None else await here.client.engines()
    return shapes.DescribeAnswer(
        collections=[
            shapes.CollectionShown(
                name=each["name"],
                engine=each["engine"],
                settings=each["settings"],
                items=each["items"],
                item_bytes=each["item_bytes"],
                created_at=each["created_at"],
            )
            for each in page["items"]
        ],
        truncated=page["next_cursor"] is not None,
        next_cursor=page["next_cursor"],
        engines=None if engines is None else mcp_engines.briefly(engines),
    )


async def _described(here: Cluster, about: str) -> shapes.DescribeAnswer:
    engines: list[EngineInfo] = await here.client.engines()
    for engine in engines:
        if about == engine["engine"] or about in engine["aliases"]:
            document = await here.client.openapi()
            return shapes.DescribeAnswer(engines=[mcp_engines.of_engine(engine, document)])
        if about in engine["operations"]:
            document = await here.client.openapi()
            return shapes.DescribeAnswer(
                operation=mcp_engines.of_operation(about, engine, document)
            )
    known = ", ".join(engine["engine"] for engine in engines)
    raise Refused(
        f"INVALID_ARGUMENT: about: {about} is neither an engine nor an operation here; "
        f"engines: {known}. Call database_describe without it to see the operations."
    )


async def database_collection(
    here: Cluster,
    action: shapes.Action,
    collection: shapes.Collection,
    engine: shapes.Engine = None,
    settings: shapes.Settings = None,
    shards: shapes.Shards = None,
    namespace: schemas.Namespace = "default",
) -> shapes.CollectionAnswer:
    """Create a collection, alter its settings, or drop it with everything in it for good."""
    _check_given(action, engine, settings, shards)
    with answers.query_explained(writes=True):
        if settings is not None:
            mcp_values.to_bytes(settings, "settings")
        try:
            if action == DROP:
                gone = await here.client.drop_collection(namespace, collection)
                return shapes.CollectionAnswer(done=gone)
            if action == CREATE:
                assert engine is not None
                made = await here.client.create_collection(
                    namespace, collection, engine, settings, shards=shards or 1
                )
                return shapes.CollectionAnswer(
                    done=True, engine=made["engine"], settings=made["settings"]
                )
            made = await here.client.alter_collection(namespace, collection, settings or {})
            return shapes.CollectionAnswer(done=True, settings=made["settings"])
        finally:
            # Also after an error: the change may have been made.
            here.collections.changed(namespace, collection)


def _check_given(action: str, engine: str | None, settings: object, shards: int | None) -> None:
    problem = None
    if action == CREATE and engine is None:
        problem = "engine: create needs one; database_describe lists them"
    elif action != CREATE and engine is not None:
        problem = f"engine: is for create, not for {action}"
    elif action != CREATE and shards is not None:
        problem = f"shards: is for create, not for {action}"
    elif action == ALTER and settings is None:
        problem = "settings: alter needs those that are to change"
    elif action == DROP and settings is not None:
        problem = "settings: are not for drop"
    if problem is not None:
        raise Refused(f"INVALID_ARGUMENT: {problem}. Nothing was done; correct it and call again.")
