"""What the MCP tools take and answer: argument types and answer models.

Field names of the guide's tools follow it (camelCase on the wire); all others are snake_case, as
in the HTTP API. Those of collections and texts are in `mcp_schemas_database`. An absent figure
is null, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.alias_generators import to_camel

T = TypeVar("T", bound=BaseModel)

LIST_LIMIT_MAX = 200  # items of one answer; 200 keys of 4 KiB are more than an agent wants to read
LIST_LIMIT_DEFAULT = 50
HISTORY_LIMIT_DEFAULT = 10
ALL_NAMESPACES = "*"  # no namespace can have this name
TTL_SECONDS_MAX = 10 * 365 * 86_400  # ten years, the HTTP API's bound
TIMEOUT_MS_MIN, TIMEOUT_MS_MAX, TIMEOUT_MS_DEFAULT = 1000, 30_000, 5000  # the guide's


def not_bool(value: object) -> object:
    # pydantic would read `true` as 1, and a version of 1 guards something else than was meant.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


_NUMBER = BeforeValidator(not_bool)

Namespace = Annotated[
    str, Field(min_length=1, max_length=64, description="Tenant or application: A-Z a-z 0-9 . _ -")
]
Session = Annotated[
    str, Field(min_length=1, max_length=256, description="Named group of keys, such as a task")
]
Key = Annotated[str, Field(min_length=1, max_length=4096, description="Name of the record")]
Value = Annotated[Any, Field(description="Any JSON value; it comes back with the same type")]
Consistency = Annotated[
    Literal["linearizable", "leader", "stale"],
    Field(description="linearizable: newest acknowledged value; stale: fastest, may lag"),
]
ExpectVersion = Annotated[
    int | None,
    Field(ge=0, description="Write only if the record has this version; 0: only if it is absent"),
    _NUMBER,
]
TtlSeconds = Annotated[
    float | None, Field(gt=0, le=TTL_SECONDS_MAX, description="Forget after this time"), _NUMBER
]
ListedNamespace = Annotated[
    str, Field(min_length=1, max_length=64, description='"*" lists the namespaces')
]
ListedSession = Annotated[str | None, Field(min_length=1, max_length=256)]
Prefix = Annotated[str, Field(max_length=4096, description="Only keys that start with this")]
WithValues = Annotated[bool, Field(description="With the values, not only names and versions")]
Offset = Annotated[
    int, Field(ge=0, description="Byte to start at: next_offset of a truncated answer"), _NUMBER
]
Limit = Annotated[int, Field(ge=1, le=LIST_LIMIT_MAX), _NUMBER]
Cursor = Annotated[str | None, Field(description="next_cursor of the previous answer")]
AtRevision = Annotated[
    int | None, Field(ge=1, description="Only the value as it was at this revision"), _NUMBER
]
Timeout = Annotated[
    int, Field(ge=TIMEOUT_MS_MIN, le=TIMEOUT_MS_MAX, description="Milliseconds"), _NUMBER
]
GuideOperation = Literal["read", "write", "delete", "sync", "repair"]
DoneOperation = Literal["read", "write", "delete"]
GuideConsistency = Annotated[
    Literal["eventual", "strong", "weak"],
    Field(description="Of reads; writes always wait for a majority"),
]
MISSING = object()  # tells a value that was not given from null
GuideValue = Annotated[
    Any, Field(default_factory=lambda: MISSING, description="For write: any JSON value")
]
Component = Literal["coordinator", "optimizer", "backends", "all"]

# Lists and objects, which some clients send as JSON text.
JSON_ARGUMENTS = frozenset(
    {"components", "parameters", "requirements", "routing", "settings", "metadata"}
)
ComponentNames = Annotated[Sequence[Component], Field(min_length=1)]
Detailed = Annotated[bool, Field(description="With figures of the leader and of every node")]

Encoding = Literal["json", "utf-8", "base64"]


class Answer(BaseModel):
    """Base of every tool's answer."""

    model_config = ConfigDict(extra="forbid")


class GetAnswer(Answer):
    found: bool
    value: Any = Field(default=None, description="null if not found; text or base64 if truncated")
    encoding: Encoding | None = None
    content_type: str | None = None
    version: int | None = None
    revision: int | None = Field(default=None, description="Of the record's last change")
    size: int | None = Field(default=None, description="Bytes of the whole value")
    truncated: bool = False
    next_offset: int | None = None
    expires_at: str | None = None
    served_by: str | None = None


class PutAnswer(Answer):
    version: int
    revision: int


class DeleteAnswer(Answer):
    deleted: bool = Field(description="false: there was nothing to delete")
    version: int | None = Field(description="The version that ended")
    revision: int | None


class ListItem(Answer):
    """One key; `value` and `encoding` only when values were asked for."""

    key: str
    version: int
    revision: int
    size: int
    content_type: str
    updated_at: str
    expires_at: str | None = None
    value: Any = None
    encoding: Encoding | None = None
    truncated: bool = Field(default=False, description="The value is cut: read the rest with get")


class ListAnswer(Answer):
    """Exactly one of the three lists is filled."""

    keys: list[ListItem] | None = None
    sessions: list[str] | None = None
    namespaces: list[str] | None = None
    truncated: bool = Field(description="There is more: call again with next_cursor")
    next_cursor: str | None = None
    revision: int | None = None


class HistoryItem(Answer):
    type: Literal["put", "delete", "expire"]
    version: int
    revision: int
    time: str | None
    size: int | None = None
    content_type: str | None = None
    value: Any = None
    encoding: Encoding | None = None
    truncated: bool = False


class HistoryAnswer(Answer):
    items: list[HistoryItem] = Field(description="Newest first")
    compacted: bool = Field(description="Older versions existed and are no longer kept")
    truncated: bool = Field(description="There is more: call again with next_cursor")
    next_cursor: str | None = None


class GuideAnswer(Answer):
    """Answers of the guide's tools: camelCase on the wire."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Decision(GuideAnswer):
    """What the cluster did: an id that names the place in its history, and who takes part."""

    id: str | None = Field(description="<cluster>/<revision>; null if a read found nothing")
    status: Literal["completed"]
    participants: list[str] | None = Field(description="Nodes healthy now; null: not known")
    timestamp: str = Field(description="When the answer was given, UTC")


class DistributeResult(GuideAnswer):
    found: bool = Field(description="read: the key exists; delete: it did; write: true")
    value: Any = None
    encoding: Encoding | None = None
    truncated: bool = False
    version: int | None = None
    revision: int | None = None
    served_by: str | None = None


class DistributeAnswer(GuideAnswer):
    operation: DoneOperation
    session_id: str
    key: str
    decision: Decision
    consistency: Literal["eventual", "strong", "weak"]
    result: DistributeResult


class CoordinatorHealth(GuideAnswer):
    status: Literal["healthy", "degraded", "critical"]
    details: dict[str, Any] | None = None


class OptimizerHealth(GuideAnswer):
    status: Literal["healthy", "not_initialized"] | None = Field(description="null: not known")
    metrics: dict[str, Any] | None = None
    details: dict[str, Any] | None = None


class BackendsHealth(GuideAnswer):
    total: int | None
    healthy: int | None
    details: list[dict[str, Any]] | None = None


class Components(GuideAnswer):
    """Components that were not asked for are null."""

    coordinator: CoordinatorHealth | None = None
    optimizer: OptimizerHealth | None = None
    backends: BackendsHealth | None = None


class HealthAnswer(GuideAnswer):
    overall: Literal["healthy", "degraded", "critical"]
    timestamp: str
    components: Components
    issues: list[str]
    recommendations: list[str]


def strict(arguments: type[T]) -> type[T]:
    """The same arguments, but an unknown one is refused: a typo must not go unnoticed."""
    return create_model(arguments.__name__, __base__=arguments, __cls_kwargs__={"extra": "forbid"})


def explain(cause: object) -> str | None:
    """One line per argument that was refused, or None if `cause` is no such refusal."""
    if not isinstance(cause, ValidationError):
        return None
    lines = []
    for error in cause.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in error["loc"]) or "arguments"
        if error["type"] == "extra_forbidden":
            lines.append(f"{name}: there is no such argument")
        else:
            said = error["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {said[0].lower()}{said[1:]}")
    return "; ".join(lines)


def without_titles(schema: Any) -> Any:
    """The schema without pydantic's generated titles: they repeat the names and cost tokens."""
    if isinstance(schema, list):
        return [without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for name, item in schema.items():
        if name == "properties":
            kept[name] = {field: without_titles(inner) for field, inner in item.items()}
        elif name != "title" or not isinstance(item, str):
            kept[name] = without_titles(item)
    return kept


def concise_arguments(arguments: type[BaseModel]) -> dict[str, Any]:
    """The schema of a tool's arguments, in as few tokens as say it.

    An argument that may be left out is not described as "or null" too; null is accepted.
    """
    schema: dict[str, Any] = without_titles(arguments.model_json_schema(by_alias=True))
    _inline(schema["properties"], schema.pop("$defs", {}))
    for name, described in schema["properties"].items():
        choices = described.get("anyOf", [])
        if len(choices) == 2 and choices[1] == {"type": "null"}:
            rest = {key: item for key, item in described.items() if key not in _OR_NULL}
            schema["properties"][name] = choices[0] | rest
    return schema


def _inline(node: Any, definitions: dict[str, Any]) -> None:
    """Put definitions where they are named, without what explains them to programmers."""
    if isinstance(node, list):
        for item in node:
            _inline(item, definitions)
    elif isinstance(node, dict):
        if "$ref" in node:
            found = definitions[node.pop("$ref").rpartition("/")[2]]
            node.update({name: item for name, item in found.items() if name not in node})
            node.pop("description", None)
        for item in node.values():
            _inline(item, definitions)


_OR_NULL = ("anyOf", "default")
