"""The README's examples, run as printed, on a real cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
PORT = "127.0.0.1:7411"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def run(command: list[str], cluster, folder: Path) -> str:
    """Run one example as a newcomer would, but for the port and the data folder."""
    environment = dict(os.environ, HIVEMEM_DATA_DIR=str(cluster.plan.root), PYTHONPATH=str(ROOT))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


async def test_examples_work_as_printed(cluster, tmp_path):
    assert shutil.which("curl"), "the README's first examples use curl"
    await cluster.wait_leader()
    for _ in range(2):  # whoever tries them tries them again
        check_examples(cluster, tmp_path)


def check_examples(cluster, folder: Path) -> None:
    address = cluster.nodes[0].http.removeprefix("http://")
    outputs = []
    for script in blocks("bash"):
        assert "curl" in script or "hivemem" in script
        outputs.append(run(["bash", "-euc", script.replace(PORT, address)], cluster, folder))
    first, second, shell, collections, operate = outputs
    assert '"version":1' in first.replace(" ", "")
    assert "likes green tea" in first
    assert "VERSION_CONFLICT" in second
    assert "likes oolong" in second
    assert "Lisbon" in shell
    assert "leader" in shell
    assert "[dance]" in collections
    assert "Ann" in collections
    assert "relational" in collections
    assert operate.count("voter") == 2  # the third leads
    (script,) = blocks("python")
    file = folder / "example.py"
    file.write_text(script.replace(PORT, address))
    output = run([sys.executable, str(file)], cluster, folder)
    assert "write the report version 1" in output
    assert "the version is now 2" in output
    assert "plan 2" in output
