"""The MCP tools of collections, over a whole node in this process: nothing is made up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client

import mcp_server
from node.client import HivememClient
from tests.mcp_database_walk import walk
from tests.unit.client_nodes import door_address
from tests.unit.http_door import open_door


async def test_the_whole_walk(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        server = mcp_server.build_server(lambda: HivememClient([door_address(door)], follow=False))
        async with Client(server) as client:
            await walk(client, "walk")
