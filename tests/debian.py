"""Programs from Debian's packages for tests: installed where that is possible, else named."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

INSTALL_SECONDS = 300.0


def program(name: str, package: str) -> str:
    """The path of a program. Root installs the package it comes in; others skip the test."""
    found = shutil.which(name)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", package)
        for command in (("apt-get", "update", "-qq"), install):
            subprocess.run(
                command,
                check=True,
                timeout=INSTALL_SECONDS,
                capture_output=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
        found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found
