"""`hivemem mcp`: the MCP server for agents. The SDK is loaded only when it runs."""

from __future__ import annotations

import argparse
from typing import Any

import mcp_options


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command; it sets `run`, a function from options to exit status."""
    text = "serve agents over MCP: on stdin and stdout, or --http"
    parser: argparse.ArgumentParser = subparsers.add_parser("mcp", help=text, description=text)
    mcp_options.add_arguments(parser)
    parser.set_defaults(run=run_mcp)


def run_mcp(options: argparse.Namespace) -> int:
    """Serve until the client goes, or SIGINT or SIGTERM."""
    import mcp_server

    return mcp_server.run(options)
