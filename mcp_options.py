"""The flags of `hivemem mcp`. Without the MCP SDK, so that the command line starts quickly."""

from __future__ import annotations

import argparse

from node.discovery import add_endpoint_arguments

HOST_DEFAULT = "127.0.0.1"
PORT_DEFAULT = 7441  # above the ports of nine local nodes: HTTP, peers, Redis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the transport's flags and those that say where the cluster is."""
    parser.add_argument(
        "--http", action="store_true", help="serve streamable HTTP instead of stdio"
    )
    parser.add_argument(
        "--host", default=HOST_DEFAULT, help=f"loopback address (default {HOST_DEFAULT})"
    )
    parser.add_argument(
        "--port", type=_port, default=PORT_DEFAULT, help=f"0: any (default {PORT_DEFAULT})"
    )
    add_endpoint_arguments(parser)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)
