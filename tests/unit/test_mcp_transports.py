"""`hivemem mcp` as a process: how it starts, what it refuses, who may use its HTTP port."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

import mcp_http
import mcp_server
from node.errors import StartupError
from tests.mcp_process import COMMAND, ROOT, START_SECONDS_MAX, environment, http_server, stdio
from tests.mcp_walk import TOOLS, call

NOWHERE = "http://127.0.0.1:1"  # nothing listens on port 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_stdio_answers_without_a_cluster(mode: str) -> None:
    async with Client(stdio("--endpoints", NOWHERE), mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
        health = await call(client, "memory_health_check")
        assert health["overall"] == "critical"


# What makes a node take its time to start: its storage, its consensus, its doors, its settings.
SERVER_SIDE = {
    *("cluster", "engines", "pysyncobj", "lmdb", "msgpack", "uvloop", "prometheus_client"),
    *("aiohttp.web", "node.config", "node.http", "node.service", "node.daemon"),
}


def test_starting_loads_nothing_of_a_node() -> None:
    """Clients give a server little time for its handshake, and it waits for no cluster."""
    command = [sys.executable, "-X", "importtime", *COMMAND[1:]]
    done = subprocess.run(
        [*command, "--endpoints", NOWHERE],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=START_SECONDS_MAX,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"mcp_server", "node.client"} <= loaded, "the list is one of what it needs"
    assert not loaded & SERVER_SIDE


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_http_answers_without_a_cluster(mode: str) -> None:
    async with (
        http_server("--endpoints", NOWHERE) as url,
        Client(url, mode=mode) as client,
    ):
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
        assert (await call(client, "memory_health_check"))["overall"] == "critical"


async def post(url: str, **headers: str) -> int:
    """The status of a request without a body, sent by hand."""
    address = re.fullmatch(r"http://([\d.]+):(\d+)/mcp", url)
    assert address
    reader, writer = await asyncio.open_connection(address[1], int(address[2]))
    json = "application/json"
    usual = {
        "Host": f"{address[1]}:{address[2]}",
        "Content-Type": json,
        "Accept": f"{json}, text/event-stream",
    }
    headers = usual | headers
    lines = [f"{name}: {value}" for name, value in headers.items()]
    writer.write(
        "\r\n".join(["POST /mcp HTTP/1.1", *lines, "Content-Length: 2", "", "{}"]).encode()
    )
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


async def test_a_token_guards_http_where_the_cluster_wants_one() -> None:
    async with http_server("--endpoints", NOWHERE, HIVEMEM_TOKEN="hm_secret") as url:
        assert await post(url) == 401
        assert await post(url, Authorization="Bearer hm_other") == 401
        assert await post(url, Authorization="hm_secret") == 401
        assert await post(url, Authorization="Bearer hm_secret") == 400
        headers = {"Authorization": "Bearer hm_secret"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert (await client.list_tools()).tools
        with pytest.raises((MCPError, ExceptionGroup, httpx2.HTTPError)):
            async with Client(url, mode="legacy") as client:
                await client.list_tools()


async def test_web_pages_are_kept_out() -> None:
    async with http_server("--endpoints", NOWHERE) as url:
        assert await post(url) == 400
        assert await post(url, Host="rebound.example:80") == 421
        assert await post(url, Origin="http://evil.example") == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_nothing_listens_beyond_loopback(host: str) -> None:
    with pytest.raises(StartupError, match="loopback") as caught:
        mcp_http.listen(host, 0)
    assert "--endpoints" in str(caught.value), "it says what to do instead"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_loopback_is_fine(host: str) -> None:
    with mcp_http.listen(host, 0) as opened:
        assert mcp_http.url(opened).endswith("/mcp")


def test_a_taken_port_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with mcp_http.listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        arguments = ["--http", "--port", str(port), "--endpoints", NOWHERE]
        assert mcp_server.main(arguments) == 1
    told = capsys.readouterr().err
    assert f"port {port}" in told
    assert "--port" in told


def test_bad_endpoints_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert mcp_server.main(["--endpoints", "ftp://x"]) == 1
    assert "ftp://x" in capsys.readouterr().err


def test_the_command_line_does_not_load_the_sdk() -> None:
    script = "import sys, node.cli; node.cli.build_parser(); print('mcp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
