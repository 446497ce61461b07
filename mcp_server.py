"""`hivemem mcp`: the MCP server, over stdio or streamable HTTP. The only importer of the MCP SDK.

A thin client of the cluster: it owns no data, reaches the cluster through `HivememClient` and
follows the leader with it. Nothing is connected before the first call, so that a client's
handshake never waits for a cluster. One tool is one client call; shapes are in `mcp_schemas`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations

import mcp_answers as answers
import mcp_schemas as schemas
import mcp_values
from node.client import HivememClient
from node.client_types import (
    ClusterView,
    Consistency,
    HistoryPage,
    NodeStatus,
    Page,
    Value,
)
from node.clock import Clock, SystemClock
from node.errors import HivememError, NotFound, Unavailable

AnyPage = TypeVar("AnyPage", Page, HistoryPage)

ClientFactory = Callable[[], HivememClient]
"""Makes an unopened client; the server opens it when it starts and closes it when it stops."""

VIEW_SECONDS_MAX = 3.0  # how long a health check waits for a node that answers
PARTICIPANTS_SECONDS_MAX = 0.5  # how much longer a decision waits for the cluster's members
GUIDE_NAMESPACE = "default"  # the guide's tools know sessions and keys only
TOOLS_TTL_MS = 3_600_000  # the tools never change while the server runs

INSTRUCTIONS = """\
Durable memory shared by all agents of this cluster. A record is (namespace, session, key) -> \
value with a version; a session groups the keys of one task or topic.
Read with get (a miss is found=false), browse with list (sessions first, then keys), look back \
with history. A put that answers is stored for good on a majority of nodes.
Other agents write too: to change a record, get it, then put with expect_version set to the \
version you read; expect_version=0 creates it only if it is absent. On VERSION_CONFLICT get, \
merge and retry. When an error says that the outcome is unknown, get before you write again.
Long answers are truncated and say how to go on (next_offset, next_cursor)."""


@dataclass(slots=True)
class Attachment:
    """What one running server knows of its cluster."""

    client: HivememClient
    clock: Clock
    cluster_id: str | None = None
    revision_seen: int = 0  # stale reads wait for it: an agent sees what it wrote and read before

    async def read(
        self,
        namespace: str,
        session: str,
        key: str,
        consistency: Consistency,
        timeout_ms: int | None = None,
    ) -> Value:
        """Raises: NotFound and the client's other errors."""
        stale = consistency in ("stale", "eventual")
        found = await self.client.get(
            namespace,
            session,
            key,
            consistency=consistency,
            min_revision=self.revision_seen or None if stale else None,
            timeout_ms=timeout_ms,
        )
        self.saw(found.revision)
        return found

    async def view(self) -> ClusterView | HivememError:
        """The cluster as one node sees it, or why no node says so in time."""
        try:
            async with asyncio.timeout(VIEW_SECONDS_MAX):
                view = await self.client.cluster()
        except TimeoutError:
            return Unavailable(f"no node answered within {VIEW_SECONDS_MAX:g} seconds")
        except HivememError as error:
            return error
        self.cluster_id = view["cluster_id"]
        return view

    def saw(self, revision: int | None) -> None:
        self.revision_seen = max(self.revision_seen, revision or 0)

    def now(self) -> str:
        return answers.rfc3339(datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC))


Call = Context[Attachment, Any]


def _attachment(call: Call) -> Attachment:
    return call.request_context.lifespan_context


def _answer(model: schemas.Answer) -> CallToolResult:
    """Structured content, and the same as compact text for clients that read only text."""
    fields = model.model_dump(mode="json", by_alias=True)
    text = model.model_dump_json(by_alias=True, exclude_defaults=True)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=fields)


@contextlib.contextmanager
def _explained(*, writes: bool) -> Iterator[None]:
    """Turn what the client raises into an error that tells the agent what to do next."""
    try:
        yield
    except HivememError as error:
        raise ToolError(answers.error_text(error, writes=writes)) from error
    except mcp_values.ValueRefused as error:
        raise ToolError(f"INVALID_ARGUMENT: {error}. Nothing was changed.") from error
    except UnicodeEncodeError as error:
        raise ToolError(
            "INVALID_ARGUMENT: a name holds half of a surrogate pair, which is no text. "
            "Nothing was changed."
        ) from error


async def get(
    call: Call,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    consistency: schemas.Consistency = "linearizable",
    offset: schemas.Offset = 0,
) -> Annotated[CallToolResult, schemas.GetAnswer]:
    """Read one record. A key that does not exist is found=false, not an error."""
    here = _attachment(call)
    with _explained(writes=False):
        try:
            found = await here.read(namespace, session, key, consistency)
        except NotFound:
            return _answer(schemas.GetAnswer(found=False))
    return _answer(answers.value_answer(found, offset))


async def put(
    call: Call,
    session: schemas.Session,
    key: schemas.Key,
    value: schemas.Value,
    namespace: schemas.Namespace = "default",
    expect_version: schemas.ExpectVersion = None,
    ttl_seconds: schemas.TtlSeconds = None,
) -> Annotated[CallToolResult, schemas.PutAnswer]:
    """Store a value durably, replacing what was there. Give expect_version to change a record
    that other agents may change too."""
    here = _attachment(call)
    with _explained(writes=True):
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
    return _answer(schemas.PutAnswer(version=done.version, revision=done.revision))


async def list_(
    call: Call,
    namespace: schemas.ListedNamespace = "default",
    session: schemas.ListedSession = None,
    prefix: schemas.Prefix = "",
    limit: schemas.Limit = schemas.LIST_LIMIT_DEFAULT,
    cursor: schemas.Cursor = None,
    values: schemas.WithValues = False,
) -> Annotated[CallToolResult, schemas.ListAnswer]:
    """List the keys of a session; without session, the sessions of the namespace."""
    here = _attachment(call)
    with _explained(writes=False):
        if session is None:
            if prefix or values:
                raise ToolError("INVALID_ARGUMENT: prefix and values need a session. Add session.")
            return _answer(await _names(here, namespace, limit, cursor))
        if namespace == schemas.ALL_NAMESPACES:
            raise ToolError("INVALID_ARGUMENT: session needs one namespace. Name it.")
        client = here.client

        async def page(limit: int) -> Page:
            return await client.list_page(
                namespace, session, prefix=prefix, limit=limit, cursor=cursor, values=values
            )

        return _answer(answers.list_answer(await _fitting(page, limit)))


async def _names(
    here: Attachment, namespace: str, limit: int, cursor: str | None
) -> schemas.ListAnswer:
    if namespace == schemas.ALL_NAMESPACES:
        page = await here.client.namespaces_page(limit=limit, cursor=cursor)
    else:
        page = await here.client.sessions_page(namespace, limit=limit, cursor=cursor)
    names = list(page.names)
    every = namespace == schemas.ALL_NAMESPACES
    return schemas.ListAnswer(
        namespaces=names if every else None,
        sessions=None if every else names,
        truncated=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


async def _fitting(fetch: Callable[[int], Awaitable[AnyPage]], limit: int) -> AnyPage:
    """A page that fits into one answer: fetched again, shorter, where it does not.

    Only the cluster can make the cursor that goes on after a shorter page.
    """
    while True:
        page = await fetch(limit)
        fits = mcp_values.fitting(answers.item_sizes(page.items), mcp_values.VALUE_BYTES_MAX)
        if fits == len(page.items):
            return page
        limit = fits


async def delete(
    call: Call,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    expect_version: schemas.ExpectVersion = None,
) -> Annotated[CallToolResult, schemas.DeleteAnswer]:
    """Delete one record. Its history stays readable for a while."""
    here = _attachment(call)
    with _explained(writes=True):
        done = await here.client.delete(namespace, session, key, if_version=expect_version)
    here.saw(done.revision)
    return _answer(
        schemas.DeleteAnswer(deleted=done.deleted, version=done.version, revision=done.revision)
    )


async def history(
    call: Call,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    limit: schemas.Limit = schemas.HISTORY_LIMIT_DEFAULT,
    cursor: schemas.Cursor = None,
    at_revision: schemas.AtRevision = None,
) -> Annotated[CallToolResult, schemas.HistoryAnswer]:
    """Past versions of one record, newest first; or, with at_revision, as it was then."""
    client = _attachment(call).client
    with _explained(writes=False):
        if at_revision is not None:
            try:
                past = await client.get_at(namespace, session, key, at_revision)
            except NotFound:
                return _answer(answers.past_answer(None))
            return _answer(answers.past_answer(past))

        async def page(limit: int) -> HistoryPage:
            return await client.history_page(namespace, session, key, limit=limit, cursor=cursor)

        return _answer(answers.history_answer(await _fitting(page, limit)))


async def memory_distribute(
    call: Call,
    operation: schemas.GuideOperation,
    sessionId: schemas.Session,  # noqa: N803  # the guide's name
    key: schemas.Key,
    value: schemas.GuideValue,
    consistency: schemas.GuideConsistency = "eventual",
    timeout: schemas.Timeout = schemas.TIMEOUT_MS_DEFAULT,
) -> Annotated[CallToolResult, schemas.DistributeAnswer]:
    """read, write or delete a key of a session (namespace "default") and say what the cluster
    decided. sync and repair are not available yet."""
    if operation in ("sync", "repair"):
        raise ToolError(
            f"NOT_AVAILABLE: operation {operation} is not available yet, and nothing was done. "
            "Replicas follow one log; memory_health_check shows how each of them is."
        )
    if operation == "write" and value is schemas.MISSING:
        raise ToolError("INVALID_ARGUMENT: value: a write needs one. Nothing was changed.")
    here = _attachment(call)
    looking = asyncio.create_task(here.view())
    try:
        with _explained(writes=operation != "read"):
            result = await _distributed(
                here, operation, sessionId, key, value, consistency, timeout
            )
        await asyncio.wait({looking}, timeout=PARTICIPANTS_SECONDS_MAX)
        view = looking.result() if looking.done() else None
    finally:
        looking.cancel()
    known = None if view is None or isinstance(view, HivememError) else view
    decision = schemas.Decision(
        id=answers.decision_id(here.cluster_id, result.revision),
        status="completed",
        participants=None if known is None else answers.healthy_names(known),
        timestamp=here.now(),
    )
    return _answer(
        schemas.DistributeAnswer(
            operation=operation,
            session_id=sessionId,
            key=key,
            decision=decision,
            consistency=consistency,
            result=result,
        )
    )


async def _distributed(
    here: Attachment,
    operation: schemas.GuideOperation,
    session: str,
    key: str,
    value: object,
    consistency: Consistency,
    timeout_ms: int,
) -> schemas.DistributeResult:
    place = (GUIDE_NAMESPACE, session, key)
    if operation == "read":
        try:
            found = await here.read(*place, consistency, timeout_ms)
        except NotFound:
            return schemas.DistributeResult(found=False)
        return answers.distributed_read(found)
    if operation == "write":
        data, content_type = mcp_values.to_bytes(value)
        put = await here.client.put(*place, data, content_type=content_type, timeout_ms=timeout_ms)
        here.saw(put.revision)
        return answers.distributed_write(value, put)
    gone = await here.client.delete(*place, timeout_ms=timeout_ms)
    here.saw(gone.revision)
    return schemas.DistributeResult(
        found=gone.deleted, version=gone.version, revision=gone.revision
    )


async def memory_health_check(
    call: Call,
    components: schemas.ComponentNames = ("all",),
    detailed: schemas.Detailed = False,
) -> Annotated[CallToolResult, schemas.HealthAnswer]:
    """How the cluster is: critical without a quorum, degraded while a node is down."""
    here = _attachment(call)
    view = await here.view()
    status = await _leader_status(here, view) if detailed else None
    return _answer(answers.health_answer(view, status, components, here.now(), detailed=detailed))


async def _leader_status(here: Attachment, view: ClusterView | HivememError) -> NodeStatus | None:
    """What the leader says of itself; None if there is none, or it does not answer."""
    if isinstance(view, HivememError):
        return None
    leader = next((node for node in view["nodes"] if node["id"] == view["leader"]), None)
    if leader is None or leader["http"] is None:
        return None
    with contextlib.suppress(HivememError, TimeoutError):
        async with asyncio.timeout(VIEW_SECONDS_MAX):
            return await here.client.status(leader["http"])
    return None


class ExactArguments(FuncMetadata):
    """Takes string arguments as they are.

    The SDK parses strings that look like JSON, for clients that send lists as text. Here this
    would turn the text "null" into nothing and the session "[1]" into a list, so only
    arguments that are lists are parsed.
    """

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        parsed = super().pre_parse_json(data)
        return {
            name: parsed[name] if name in schemas.LIST_ARGUMENTS else given
            for name, given in data.items()
        }


def _tool(
    function: Callable[..., Any],
    title: str,
    *,
    reads: bool = False,
    idempotent: bool = False,
) -> Tool:
    """`function` as a tool: unknown arguments are refused, and schemas carry no noise."""
    hints = ToolAnnotations(
        read_only_hint=reads,
        destructive_hint=not reads,  # a put replaces what was there
        idempotent_hint=idempotent,
        open_world_hint=False,
    )
    tool = Tool.from_function(
        function, name=function.__name__.rstrip("_"), title=title, annotations=hints
    )
    described = tool.fn_metadata
    arguments = schemas.strict(described.arg_model)
    metadata = ExactArguments(
        arg_model=arguments,
        output_model=described.output_model,
        output_schema=schemas.without_titles(described.output_schema),
    )
    parameters = schemas.without_titles(arguments.model_json_schema(by_alias=True))
    return tool.model_copy(update={"fn_metadata": metadata, "parameters": parameters})


def _tools() -> list[Tool]:
    return [
        _tool(get, "Read a record", reads=True, idempotent=True),
        _tool(put, "Store a record"),
        _tool(list_, "List keys", reads=True, idempotent=True),
        _tool(delete, "Delete a record", idempotent=True),
        _tool(history, "Show past versions", reads=True, idempotent=True),
        _tool(memory_distribute, "Distributed operation"),
        _tool(memory_health_check, "Check health", reads=True, idempotent=True),
    ]


class MemoryServer(MCPServer[Attachment]):
    """Says in one line per argument why arguments were refused."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Call | None = None
    ) -> CallToolResult | InputRequiredResult:
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            refused = schemas.explain(error.__cause__)
            if refused is None:
                raise
            raise ToolError(
                f"INVALID_ARGUMENT: {refused}. Nothing was done; correct it and call again."
            ) from None


def build_server(client_factory: ClientFactory, clock: Clock | None = None) -> MemoryServer:
    """The server, not yet running. The client is opened and closed with its lifespan."""

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer[Attachment]) -> AsyncIterator[Attachment]:
        async with client_factory() as client:
            yield Attachment(client, clock or SystemClock())

    return MemoryServer(
        name="hivemem",
        title="hivemem",
        version=importlib.metadata.version("hivemem"),
        instructions=INSTRUCTIONS,
        tools=_tools(),
        lifespan=lifespan,
        log_level="WARNING",
        cache_hints={"tools/list": CacheHint(ttl_ms=TOOLS_TTL_MS, scope="public")},
    )
