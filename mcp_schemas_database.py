"""What the MCP tools of collections, and of memory in them, take and answer.

`database_query` follows the guide (camelCase on the wire); the other tools are snake_case.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from mcp_schemas import Answer, GuideAnswer, not_bool

QUERY_TIMEOUT_MS_DEFAULT = 30_000  # the guide's
QUERY_TIMEOUT_MS_MAX = 60_000  # the HTTP API's bound
NAMES_MAX = 64  # capabilities, or nodes, of one request; the HTTP API's bound
RECALL_LIMIT_DEFAULT, RECALL_LIMIT_MAX = 10, 50

Names = Annotated[list[str], Field(max_length=NAMES_MAX)]
Operation = Annotated[
    str, Field(min_length=1, description="Such as document_find; database_describe lists them")
]
CollectionOrNone = Annotated[
    str | None, Field(min_length=1, max_length=128, description="Or as parameters.collection")
]
Collection = Annotated[str, Field(min_length=1, max_length=128)]
Parameters = Annotated[dict[str, Any] | None, Field(description="As database_describe says")]
RequestId = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=128,
        description="A write repeated with the same id is applied once",
    ),
]
About = Annotated[str | None, Field(min_length=1, description="An engine, or an operation")]
Action = Literal["create", "alter", "drop"]
Engine = Annotated[str | None, Field(min_length=1, description="For create")]
Settings = Annotated[
    dict[str, Any] | None, Field(description="For create and alter; database_describe says which")
]
Shards = Annotated[
    int | None,
    Field(ge=1, le=64, description="For create: partitions to spread over, for good; 1 if absent"),
]
Text = Annotated[str, Field(min_length=1)]
TextId = Annotated[
    str | None,
    Field(min_length=1, max_length=256, description="Replaces what has this id; made if absent"),
]
SessionOrNone = Annotated[str | None, Field(min_length=1, max_length=256)]
Metadata = Annotated[dict[str, Any] | None, Field(description="Any JSON object")]
MetadataFilter = Annotated[
    dict[str, Any] | None, Field(description="Only texts whose metadata has these values")
]
SearchWords = Annotated[
    str, Field(min_length=1, description='words, "a phrase", prefix*, -without; any word may match')
]
RecallLimit = Annotated[int, Field(ge=1, le=RECALL_LIMIT_MAX), BeforeValidator(not_bool)]


def _moment(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be text such as 2026-05-08T13:56:00Z")
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("is no time such as 2026-05-08T13:56:00Z") from None
    if found.tzinfo is None:
        raise ValueError("needs its offset from UTC, such as Z or +02:00")
    if found.timestamp() < 0:
        raise ValueError("lies before 1970")
    return found


Moment = Annotated[
    datetime | None, BeforeValidator(_moment), Field(description="RFC 3339 with offset")
]


class _Given(BaseModel):
    """An object in the arguments; unknown members are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Requirements(_Given):
    consistency: Literal["eventual", "strong", "weak"] = Field(
        default="eventual", description="Of reads; eventual still sees this server's own writes"
    )
    timeout: Annotated[int, BeforeValidator(not_bool)] = Field(
        default=QUERY_TIMEOUT_MS_DEFAULT, ge=1, le=QUERY_TIMEOUT_MS_MAX, description="Milliseconds"
    )
    priority: Literal["low", "medium", "high", "critical"] = Field(
        default="medium", description="Of reads, while a node has more to do than threads"
    )
    capabilities: Names = Field(default=[], description="That the engine must have")


class Routing(_Given):
    """Which replica answers. The guide's preferredEngines and excludeEngines mean the same."""

    preferred: Names = Field(
        default=[],
        validation_alias=AliasChoices("preferred", "preferredEngines", "preferred_engines"),
        description="Nodes",
    )
    excluded: Names = Field(
        default=[],
        validation_alias=AliasChoices("excluded", "excludeEngines", "exclude_engines"),
        description="Nodes",
    )
    load_balancing: Literal[
        "round_robin", "least_loaded", "performance_based", "capability_based"
    ] = "performance_based"


RequirementsGiven = Annotated[Requirements | None, Field(description="How it must be done")]
RoutingGiven = Annotated[
    Routing | None, Field(description="Of eventual reads: which replica answers")
]


class QueryAnswer(GuideAnswer):
    status: Literal["completed"]
    engine_id: str = Field(description="The engine")
    query_id: str | None = Field(description="requestId of a write; null for a read")
    execution_time: float = Field(description="Milliseconds, as seen from here")
    log_index: int = Field(description="Of the write, or of the state that was read")
    served_by: str | None = Field(default=None, description="The node that was chosen")
    result: Any = Field(description="As database_describe says of the operation")
    next_cursor: str | None = Field(
        default=None, description="More: call again with it as parameters.cursor"
    )
    truncated: bool = Field(
        default=False, description="The result of a write is not shown whole; see omitted"
    )
    omitted: dict[str, int] | None = Field(
        default=None, description="Items left out at the end of lists of the result"
    )


class CollectionShown(Answer):
    name: str
    engine: str
    settings: dict[str, Any]
    items: int = Field(description="Records of the engine, which may be more than were stored")
    item_bytes: int
    created_at: str


class EngineShown(Answer):
    """Of one engine alone also what may be set; its operations with what they do."""

    engine: str
    aliases: list[str]
    capabilities: list[str]
    operations: dict[str, str] = Field(description="Name: reads or writes, and what it does")
    settings_schema: dict[str, Any] | None = None
    settings_example: dict[str, Any] | None = None


class OperationShown(Answer):
    operation: str
    engine: str
    kind: str
    summary: str
    parameters_schema: dict[str, Any]
    result_schema: dict[str, Any]
    parameters_example: dict[str, Any] | None = None


class DescribeAnswer(Answer):
    """Collections and engines; or what `about` asked for."""

    collections: list[CollectionShown] | None = None
    truncated: bool = Field(default=False, description="There is more: call with next_cursor")
    next_cursor: str | None = None
    engines: list[EngineShown] | None = None
    operation: OperationShown | None = None


class CollectionAnswer(Answer):
    done: bool = Field(description="false: there was nothing to drop")
    engine: str | None = None
    settings: dict[str, Any] | None = Field(default=None, description="All that now hold")


class RememberAnswer(Answer):
    id: str
    created: bool = Field(description="false: it replaced the text with this id")


class Recalled(Answer):
    id: str
    text: str
    truncated: bool = Field(
        default=False, description="Cut: text_get of database_query has the whole"
    )
    score: float = Field(description="Greater is better; comparable within one answer only")
    session: str | None
    time: str | None
    metadata: dict[str, Any] | None


class RecallAnswer(Answer):
    hits: list[Recalled] = Field(description="Best first")
    truncated: bool = Field(
        default=False, description="More were found than an answer can hold: narrow the query"
    )
    exhaustive: bool = Field(description="false: a filter was applied to the best 10,000 only")
