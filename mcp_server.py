"""`hivemem mcp`: the MCP server, over stdio or streamable HTTP. The only importer of the MCP SDK.

A thin client of the cluster: it owns no data, reaches the cluster through `HivememClient` and
follows the leader with it. Nothing is connected before the first call, so that a client's
handshake never waits for a cluster. The tools themselves are in `mcp_records`, `mcp_memory` and
`mcp_database`, their shapes in `mcp_schemas` and `mcp_schemas_database`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
import mcp_records
import mcp_schemas as schemas
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
Function = Callable[..., Awaitable[schemas.Answer]]
"""A tool: a function of the cluster and the arguments, which raises Refused."""


def _cluster(call: Call) -> Cluster:
    return call.request_context.lifespan_context


def _answer(model: schemas.Answer) -> CallToolResult:
    """Structured content, and the same as compact text for clients that read only text."""
    fields = model.model_dump(mode="json", by_alias=True)
    text = TextContent(type="text", text=answers.brief_text(fields))
    return CallToolResult(content=[text], structured_content=fields)


def _of_cluster(function: Function) -> Callable[..., Any]:
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
    function: Function,
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
        _of_cluster(function),
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
        _tool(mcp_records.get, "Read a record", reads=True, idempotent=True),
        _tool(mcp_records.put, "Store a record"),
        _tool(mcp_records.list_, "List keys", reads=True, idempotent=True),
        _tool(mcp_records.delete, "Delete a record", idempotent=True),
        _tool(mcp_records.history, "Show past versions", reads=True, idempotent=True),
        _tool(mcp_memory.remember, "Remember a text"),
        _tool(mcp_memory.recall, "Find texts", reads=True, idempotent=True),
        _tool(mcp_database.database_query, "Query a collection"),
        _tool(
            mcp_database.database_describe,
            "Describe collections and engines",
            reads=True,
            idempotent=True,
        ),
        _tool(mcp_database.database_collection, "Create, alter, drop a collection"),
        _tool(mcp_records.memory_distribute, "Distributed operation"),
        _tool(mcp_records.memory_health_check, "Check health", reads=True, idempotent=True),
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
            cluster_id=found.cluster_id,
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
