"""The peers from Debian's packages, and nothing of what installing them may start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.generator import BenchmarkError

INSTALL_SECONDS = 600.0
POLICY = Path("/usr/sbin/policy-rc.d")  # where Debian asks whether a service may be started


def install(packages: Sequence[str]) -> None:
    """apt-get install. Their services are not started. Raises: BenchmarkError."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchmarkError(
            f"--install needs root and Debian's apt-get; by hand: apt-get install "
            f"{' '.join(packages)}"
        )
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for command in (
            ("apt-get", "update", "-qq"),
            ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
        ):
            _run(command)
    finally:
        if ours:
            POLICY.unlink()


def _run(command: Sequence[str]) -> None:
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_SECONDS,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
        if done.returncode != 0:
            output.seek(0)
            raise BenchmarkError(f"{' '.join(command)} failed:\n{output.read()}")
