"""Every test in this folder runs on asyncio's loop and on uvloop, which the daemon uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.unit.transport.nodes import Nodes


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Makes transports and stops them after the test."""
    made = Nodes()
    yield made
    await made.stop()
