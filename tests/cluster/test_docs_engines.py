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


# The pages whose examples make collections, and how: a reader tries one page after the other.
MAKING = (ROOT / "README.md", ROOT / "docs/cli.md", ROOT / "docs/mcp.md", *PAGES)
MADE = re.compile(
    r"""collection\ create\ (\w+) | "name":\ "(\w+)",\ "engine" | --collection\ (\w+)\ --create
    | "action":\ "create",\ "collection":\ "(\w+)" """,
    re.VERBOSE,
)


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


def test_no_page_takes_the_name_of_a_collection_of_another() -> None:
    found = [
        (name, page.name)
        for page in MAKING
        for match in MADE.finditer(page.read_text())
        for name in match.groups()
        if name is not None
    ]
    assert {page for _, page in found} == {page.name for page in MAKING}
    names = [name for name, _ in found]
    assert len({*names}) == len(names), found
    assert "memory" not in names, "MCP's remember makes it"


async def test_examples_work_as_printed(tmp_path: Path) -> None:
    assert shutil.which("curl"), "the examples use curl"
    async with running_cluster(tmp_path, 1) as cluster:
        for page in PAGES:
            for command in commands(page):
                await asyncio.to_thread(run, command, page, cluster)


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
