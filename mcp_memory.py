"""The tools `remember` and `recall`: texts found by their words, with nothing to set up.

They lie in one text collection for each namespace, which the first of them makes. Others may use
it as well: it is a collection like any other.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import mcp_answers as answers
import mcp_results
import mcp_schemas as schemas
import mcp_schemas_database as shapes
import mcp_values
from mcp_answers import rfc3339
from mcp_cluster import Cluster
from mcp_collections import Wanted
from node.client_collections import QueryResult
from node.errors import BadRequest, Conflict, NotFound

COLLECTION = "memory"
ENGINE = "text"
TEXT_CHARACTERS_MAX = 2_000  # of one text, shown in a search
METADATA_BYTES_MAX = 2_000  # of one text's metadata, shown in a search


async def remember(
    here: Cluster,
    text: shapes.Text,
    session: shapes.SessionOrNone = None,
    metadata: shapes.Metadata = None,
    time: shapes.Moment = None,
    id: shapes.TextId = None,
    namespace: schemas.Namespace = "default",
) -> shapes.RememberAnswer:
    """Store a text durably, so that recall finds it by its words. time: when it was so; absent,
    now."""
    made = id or here.clock.new_id()
    document: dict[str, Any] = {"id": made, "text": text, "session": session}
    if metadata is not None:
        document["metadata"] = metadata
    if time is not None:
        document["time_ms"] = _ms(time)
    # With its own id a text that is sent twice is stored once, even by another call.
    with answers.query_explained(writes=True, repeat=f'id "{made}"'):
        mcp_values.to_bytes(document, "metadata")
        try:
            answer = await _upsert(here, namespace, document)
        except NotFound as error:
            _require_missing(error)
            await _make_collection(here, namespace)
            answer = await _upsert(here, namespace, document)
    return shapes.RememberAnswer(id=made, created=answer["inserted"] == 1)


async def _upsert(here: Cluster, namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    parameters = {"documents": [document]}
    done = await _query(here, Wanted(namespace, COLLECTION, "text_upsert", parameters, writes=True))
    result: dict[str, Any] = done["result"]
    return result


async def _query(here: Cluster, wanted: Wanted) -> QueryResult:
    """Raises: HivememError; Refused if the collection is of another engine."""
    try:
        return await here.collections.query(wanted)
    except BadRequest as error:
        if error.field != "operation":
            raise
        found = await here.client.collection(wanted.namespace, COLLECTION)
        if found["engine"] == ENGINE:
            raise
        raise answers.Refused(
            f"INVALID_ARGUMENT: the collection {COLLECTION} of namespace {wanted.namespace} is of "
            f"engine {found['engine']}; remember and recall need it to be of engine {ENGINE}. "
            "Nothing was changed. Use another namespace here, or keep texts in a collection of "
            f"engine {ENGINE} with another name (database_collection makes it, database_query "
            f"fills and searches it), or have {COLLECTION} dropped by whoever made it."
        ) from error


async def _make_collection(here: Cluster, namespace: str) -> None:
    """Make it unless somebody else does at this moment."""
    try:
        await here.client.create_collection(namespace, COLLECTION, ENGINE)
    except Conflict as error:
        # If what is there is of another engine, `_query` says so.
        if error.code != "COLLECTION_EXISTS":
            raise
    finally:
        here.collections.changed(namespace, COLLECTION)


async def recall(
    here: Cluster,
    query: shapes.SearchWords,
    session: shapes.SessionOrNone = None,
    metadata: shapes.MetadataFilter = None,
    after: shapes.Moment = None,
    before: shapes.Moment = None,
    limit: shapes.RecallLimit = shapes.RECALL_LIMIT_DEFAULT,
    namespace: schemas.Namespace = "default",
) -> shapes.RecallAnswer:
    """Find remembered texts by their words, best first (BM25, stemmed English)."""
    parameters: dict[str, Any] = {"query": query, "limit": limit}
    if session is not None:
        parameters["sessions"] = [session]
    if metadata is not None:
        parameters["metadata"] = metadata
    if after is not None:
        parameters["from_ms"] = _ms(after)
    if before is not None:
        parameters["to_ms"] = _ms(before)
    with answers.query_explained(writes=False):
        mcp_values.to_bytes(parameters, "metadata")
        try:
            found = await _query(
                here, Wanted(namespace, COLLECTION, "text_search", parameters, writes=False)
            )
        except NotFound as error:
            _require_missing(error)
            return shapes.RecallAnswer(hits=[], exhaustive=True)
    hits = [_recalled(hit) for hit in found["result"]["hits"]]
    sizes = [answers.ITEM_BYTES + mcp_results.size(hit.model_dump()) for hit in hits]
    shown = mcp_values.fitting(sizes, mcp_values.VALUE_BYTES_MAX)
    return shapes.RecallAnswer(
        hits=hits[:shown],
        truncated=shown < len(hits),
        exhaustive=found["result"]["exhaustive"],
    )


def _recalled(hit: dict[str, Any]) -> shapes.Recalled:
    # Others may have given the collection more fields than `text`.
    text = "\n".join(hit["fields"].values())
    metadata = hit["metadata"]
    left_out = mcp_results.size(metadata) > METADATA_BYTES_MAX
    return shapes.Recalled(
        id=hit["id"],
        text=text[:TEXT_CHARACTERS_MAX],
        truncated=left_out or len(text) > TEXT_CHARACTERS_MAX,
        score=hit["score"],
        session=hit["session"],
        time=_time(hit["time_ms"]),
        metadata=None if left_out else metadata,
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _time(ms: int) -> str | None:
    """None for what no calendar has: others may store any number."""
    try:
        return rfc3339(datetime.fromtimestamp(ms / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None


def _require_missing(error: NotFound) -> None:
    """Raise `error` unless the collection was not found."""
    if error.code != "COLLECTION_NOT_FOUND":
        raise error
