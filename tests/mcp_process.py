"""`hivemem mcp` as a process, for tests that talk to it as an agent's client does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from mcp import StdioServerParameters
from mcp.client.stdio import get_default_environment

import mcp_http

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "node.cli", "mcp"]
START_SECONDS_MAX = 20.0  # on a machine that is busy with other tests


def environment(**variables: str) -> dict[str, str]:
    return {**get_default_environment(), "PYTHONPATH": str(ROOT), **variables}


def stdio(*arguments: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], *arguments], env=environment(), cwd=ROOT
    )


@contextlib.asynccontextmanager
async def http_server(*arguments: str, **variables: str) -> AsyncIterator[str]:
    """A server on a free port; yields its URL."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--http",
        "--port",
        "0",
        *arguments,
        cwd=ROOT,
        env=environment(**variables),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stderr.readline(), START_SECONDS_MAX)
        found = re.search(rb"http://\S+", line)
        assert found, line + await process.stderr.read()
        yield found.group().decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), mcp_http.STOP_SECONDS_MAX + 5)
        except TimeoutError:
            process.kill()
            raise
