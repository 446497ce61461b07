"""The examples of docs/python.md, run as printed: all of them in one script, in their order."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from node.environment import environment
from tests.cluster.harness import ROOT, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

PAGE = ROOT / "docs/python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^# > (.*)$", re.MULTILINE)
AROUND = """
import asyncio
from node.client import connect

async def main():
    async with connect() as memory:
{}

asyncio.run(main())
"""


async def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    whole, *parts = BLOCK.findall(PAGE.read_text())
    assert len(parts) >= 5
    script = AROUND.format("".join(textwrap.indent(each, " " * 8) for each in parts))
    async with running_cluster(tmp_path, 1) as cluster:
        await cluster.wait_leader()
        expected = [line for each in parts for line in PRINTED.findall(each)]
        assert len(expected) >= 10
        for _ in range(2):  # whoever tries it tries it again
            assert run(whole, cluster.endpoints) == ["green tea"]
            assert run(script, cluster.endpoints) == expected


def run(script: str, endpoints: list[str]) -> list[str]:
    """The lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**environment(), "HIVEMEM_ENDPOINTS": ",".join(endpoints)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
