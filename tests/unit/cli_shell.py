"""Commands run against a whole node in this process, as a person would run them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node import cli
from node.client import HivememClient
from tests.unit.client_nodes import addressed_door, door_address
from tests.unit.http_door import OpenDoor


@dataclass
class Ran:
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Runs commands against a door, as a person would."""

    door: OpenDoor
    client: HivememClient
    capture: pytest.CaptureFixture[bytes]

    async def __call__(self, *arguments: str) -> Ran:
        self.capture.readouterr()
        try:
            # In a thread, because a command runs an event loop of its own.
            status = await asyncio.to_thread(cli.main, arguments)
        except SystemExit as exit_:  # argparse's way
            status = int(exit_.code or 0)
        out, err = self.capture.readouterr()
        return Ran(status, out, err.decode())


@asynccontextmanager
async def open_shell(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]
) -> AsyncIterator[Shell]:
    """`folder`: of the node, and where the commands run."""
    async with (
        addressed_door(folder / "door") as door,
        HivememClient([door_address(door)]) as client,
    ):
        monkeypatch.chdir(folder)
        monkeypatch.delenv("HIVEMEM_TOKEN", raising=False)
        monkeypatch.setenv("HIVEMEM_ENDPOINTS", door_address(door))
        yield Shell(door, client, capture)
