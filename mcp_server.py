"""`hivemem mcp`: the MCP server, over stdio or streamable HTTP. The only importer of the MCP SDK.

A thin client of the cluster: it owns no data, reaches the cluster through `HivememClient` and
follows the leader with it. Nothing is connected before the first call, so that a client's
handshake never waits for a cluster. One tool is one client call; shapes are in `mcp_schemas`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any

from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations

import mcp_answers as answers
import mcp_database
import mcp_http
import mcp_memory
import mcp_options
import mcp_schemas as schemas
import mcp_values
from mcp_cluster import Cluster
from node.client import HivememClient
from node.clock import Clock, SystemClock
from node.discovery import from_options
from node.errors import HivememError, StartupError

ClientFactory = Callable[[], HivememClient]
"""Makes an unopened client; the server opens it when it starts and closes it when it stops."""

UNREACHABLE_MS_MAX = 1500  # ms; an agent learns so soon that no node at all takes a connection
TOOLS_TTL_MS = 3_600_000  # the tools never change while the server runs

INSTRUCTIONS = """\
Durable memory shared by all agents of this cluster. A record is (namespace, session, key) -> \
value with a version; a session groups the keys of one task or topic.
Read with get (a miss is found=false), browse with list (sessions first, then keys), look back \
with history. A put that answers is stored for good on a majority of nodes.
Other agents write too: to change a record, get it, then put with expect_version set to the \
version you read; expect_version=0 creates it only if it is absent. On VERSION_CONFLICT get, \
merge and retry. When an error says that the outcome is unknown, get before you write again.
Texts to be found again by their words: remember, recall. Documents, vectors, graphs, SQL, time \
series: collections, with database_query; database_describe says what there is and how to ask.
Long answers are truncated and say how to go on (next_offset, next_cursor)."""


Call = Context[Cluster, Any]


def _cluster(call: Call) -> Cluster:
    return call.request_context.lifespan_context


def _answer(model: schemas.Answer) -> CallToolResult:
    """Structured content, and the same as compact text for clients that read only text."""
    fields = model.model_dump(mode="json", by_alias=True)
    text = TextContent(type="text", text=answers.brief_text(fields))
    return CallToolResult(content=[text], structured_content=fields)


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
    with _explained(writes=False):
        found = await _cluster(call).read(namespace, session, key, consistency)
    if found is None:
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
    here = _cluster(call)
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
    here = _cluster(call)
    with _explained(writes=False):
        if session is None and not prefix and not values:
            return _answer(await here.names(namespace, limit, cursor))
        if session is None:
            raise ToolError("INVALID_ARGUMENT: prefix and values need a session: add it.")
        if namespace == schemas.ALL_NAMESPACES:
            raise ToolError("INVALID_ARGUMENT: a session needs one namespace: name it.")
        return _answer(await here.keys(namespace, session, prefix, limit, cursor, values))


async def delete(
    call: Call,
    session: schemas.Session,
    key: schemas.Key,
    namespace: schemas.Namespace = "default",
    expect_version: schemas.ExpectVersion = None,
) -> Annotated[CallToolResult, schemas.DeleteAnswer]:
    """Delete one record. Its history stays readable for a while."""
    here = _cluster(call)
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
    here = _cluster(call)
    with _explained(writes=False):
        if at_revision is not None:
            return _answer(await here.past_at(namespace, session, key, at_revision))
        return _answer(await here.past(namespace, session, key, limit, cursor))


async def memory_distribute(
    call: Call,
    operation: schemas.GuideOperation,
    sessionId: schemas.Session,  # the guide's name
    key: schemas.Key,
    value: schemas.GuideValue,
    consistency: schemas.GuideConsistency = "eventual",
    timeout: schemas.Timeout = schemas.TIMEOUT_MS_DEFAULT,
) -> Annotated[CallToolResult, schemas.DistributeAnswer]:
    """read, write or delete a key of a session (namespace "default") and say what the cluster
    decided. sync and repair are not available yet."""
    if operation == "sync" or operation == "repair":
        raise ToolError(
            f"NOT_AVAILABLE: operation {operation} is not available yet, and nothing was done. "
            "Replicas follow one log; memory_health_check shows how each of them is."
        )
    if operation == "write" and value is schemas.MISSING:
        raise ToolError("INVALID_ARGUMENT: value: a write needs one. Nothing was changed.")
    here = _cluster(call)
    with _explained(writes=operation != "read"):
        result, view = await here.distribute(operation, sessionId, key, value, consistency, timeout)
    decision = schemas.Decision(
        id=answers.decision_id(here.cluster_id, result.revision),
        status="completed",
        participants=None if view is None else answers.healthy_names(view),
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


async def memory_health_check(
    call: Call,
    components: schemas.ComponentNames = ("all",),
    detailed: schemas.Detailed = False,
) -> Annotated[CallToolResult, schemas.HealthAnswer]:
    """How the cluster is: critical without a quorum, degraded while a node is down."""
    here = _cluster(call)
    view = await here.view()
    status = await here.leader_status(view) if detailed else None
    return _answer(answers.health_answer(view, status, components, here.now(), detailed=detailed))


def _of_cluster(function: Callable[..., Awaitable[schemas.Answer]]) -> Callable[..., Any]:
    """A tool that is a function of the cluster and its arguments, as the SDK wants to see it."""
    signature = inspect.signature(function, eval_str=True)
    _, *arguments = signature.parameters.values()

    async def tool(call: Call, **given: Any) -> CallToolResult:
        try:
            return _answer(await function(_cluster(call), **given))
        except answers.Refused as refusal:
            raise ToolError(str(refusal)) from refusal

    tool.__name__ = function.__name__
    tool.__doc__ = function.__doc__
    call = inspect.Parameter("call", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Call)
    shown = signature.replace(
        parameters=[call, *arguments],
        return_annotation=Annotated[CallToolResult, signature.return_annotation],
    )
    tool.__signature__ = shown  # type: ignore[attr-defined]
    tool.__annotations__ = {each.name: each.annotation for each in shown.parameters.values()}
    return tool


class ExactArguments(FuncMetadata):
    """Takes string arguments as they are.

    The SDK parses strings that look like JSON, for clients that send lists as text. Here this
    would turn the text "null" into nothing and the session "[1]" into a list, so only
    arguments that are lists or objects are parsed.
    """

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        parsed = super().pre_parse_json(data)
        return {
            name: parsed[name] if name in schemas.JSON_ARGUMENTS else given
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
        destructive_hint=not reads,  # what writes may replace what was there
        idempotent_hint=idempotent,
        open_world_hint=False,
    )
    tool = Tool.from_function(
        function,
        name=function.__name__.rstrip("_"),
        title=title,
        description=" ".join((function.__doc__ or "").split()),
        annotations=hints,
    )
    described = tool.fn_metadata
    arguments = schemas.strict(described.arg_model)
    metadata = ExactArguments(
        arg_model=arguments,
        output_model=described.output_model,
        output_schema=schemas.without_titles(described.output_schema),
    )
    parameters = schemas.concise_arguments(arguments)
    return tool.model_copy(update={"fn_metadata": metadata, "parameters": parameters})


def _tools() -> list[Tool]:
    return [
        _tool(get, "Read a record", reads=True, idempotent=True),
        _tool(put, "Store a record"),
        _tool(list_, "List keys", reads=True, idempotent=True),
        _tool(delete, "Delete a record", idempotent=True),
        _tool(history, "Show past versions", reads=True, idempotent=True),
        _tool(_of_cluster(mcp_memory.remember), "Remember a text"),
        _tool(_of_cluster(mcp_memory.recall), "Find texts", reads=True, idempotent=True),
        _tool(_of_cluster(mcp_database.database_query), "Query a collection"),
        _tool(
            _of_cluster(mcp_database.database_describe),
            "Describe collections and engines",
            reads=True,
            idempotent=True,
        ),
        _tool(_of_cluster(mcp_database.database_collection), "Create, alter, drop a collection"),
        _tool(memory_distribute, "Distributed operation"),
        _tool(memory_health_check, "Check health", reads=True, idempotent=True),
    ]


class MemoryServer(MCPServer[Cluster]):
    """Gives errors as the tools word them, and one line per argument that was refused."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Call | None = None
    ) -> CallToolResult | InputRequiredResult:
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError:
            raise
        except ToolError as error:
            refused = schemas.explain(error.__cause__)
            if refused is None:
                raise ToolError(str(error).removeprefix(f"Error executing tool {name}: ")) from None
            raise ToolError(
                f"INVALID_ARGUMENT: {refused}. Nothing was done; correct it and call again."
            ) from None


def build_server(client_factory: ClientFactory, clock: Clock | None = None) -> MemoryServer:
    """The server, not yet running. The client is opened and closed with its lifespan."""

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer[Cluster]) -> AsyncIterator[Cluster]:
        async with client_factory() as client:
            yield Cluster(client, clock or SystemClock())

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


def run(options: argparse.Namespace) -> int:
    """Serve with the flags of `mcp_options`. Raises: BadRequest, StartupError."""
    found = from_options(options)
    server = build_server(
        lambda: HivememClient(
            found.endpoints,
            token=found.token,
            ca_file=found.ca_file,
            unreachable_ms_max=UNREACHABLE_MS_MAX,
        )
    )
    if options.http:
        return _run_http(server, options.host, options.port, found.token)
    if sys.stdin.isatty():
        _say("hivemem mcp speaks MCP on stdin and stdout; an agent's client starts it. --http?")
    server.run("stdio")
    return 0


def _run_http(server: MemoryServer, host: str, port: int, token: str | None) -> int:
    opened = mcp_http.listen(host, port)
    names = ("127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host)
    app = server.streamable_http_app(
        streamable_http_path=mcp_http.PATH,
        max_request_body_size=mcp_http.REQUEST_BYTES_MAX,
        session_idle_timeout=mcp_http.SESSION_IDLE_SECONDS_MAX,
        max_sessions=mcp_http.SESSIONS_MAX,
        # Pages of a browser on this machine can reach loopback; DNS names may be rebound to it.
        transport_security=TransportSecuritySettings(
            allowed_hosts=[f"{name}:*" for name in names],
            allowed_origins=[f"http://{name}:*" for name in names],
        ),
    )
    _say(f"hivemem mcp serves {mcp_http.url(opened)}")
    asyncio.run(mcp_http.serve(mcp_http.guarded(app, token), opened))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`hivemem mcp` without the rest of the command line. Exit status 1: could not start."""
    parser = argparse.ArgumentParser(prog="hivemem mcp", description="Serve agents over MCP.")
    mcp_options.add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except (HivememError, StartupError) as error:
        _say(f"hivemem: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _say(text: str) -> None:
    # Standard output belongs to the protocol.
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
