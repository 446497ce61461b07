"""`hivemem mcp`: tools for agents, over stdio or HTTP."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command; the MCP SDK is imported only when it runs."""
    parser = subparsers.add_parser("mcp", help="serve agents over MCP", add_help=False)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run_mcp)


def run_mcp(options: argparse.Namespace) -> int:
    """Hand over to mcp_server.py, which parses the rest of the line."""
    import mcp_server

    return int(mcp_server.main(options.arguments))
