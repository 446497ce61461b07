"""The examples of docs/engines/, run as printed, in their order, on a real node."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, LocalCluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

PAGES = sorted((ROOT / "docs/engines").glob("*.md"))
ADDRESS = re.compile(r"(?:http://)?(?:127\.0\.0\.1|localhost):7411")
# A line that begins with a command, and what follows until its quotes are closed.
COMMAND = re.compile(r"^ *((?:curl|hivemem) (?:[^'\n]|'[^']*')*)$", re.MULTILINE)
COMMANDS_MIN = 30  # on all pages together: fewer, and the pattern misses some


def commands(page: Path) -> list[str]:
    return [match[1] for match in COMMAND.finditer(page.read_text())]


def test_every_page_has_examples() -> None:
    found = {page.name: commands(page) for page in PAGES}
    assert all(found.values())
    assert sum(map(len, found.values())) >= COMMANDS_MIN
    text = "".join(page.read_text() for page in PAGES)
    assert len(re.findall(r"^ *curl ", text, re.MULTILINE)) == sum(
        command.startswith("curl") for each in found.values() for command in each
    )


async def test_examples_work_as_printed(tmp_path: Path) -> None:
    assert shutil.which("curl"), "the examples use curl"
    async with running_cluster(tmp_path, 1) as cluster, cluster.client(0) as client:
        for page in PAGES:
            for command in commands(page):
                await asyncio.to_thread(run, command, page, cluster)
            # The next page may use the same names.
            async for each in client.collections("default"):
                await client.drop_collection("default", each["name"])


def run(command: str, page: Path, cluster: LocalCluster) -> None:
    """As a reader would, but for the address; an error of HTTP is one of the command."""
    node = cluster.nodes[0]
    shown = ADDRESS.sub(node.http, command).replace("curl ", "curl -sS --fail-with-body ", 1)
    environment = dict(os.environ, HIVEMEM_ENDPOINTS=node.http, PYTHONPATH=str(ROOT))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", shown], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}\n{done.stderr}"
