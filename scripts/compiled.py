"""Modules of the hot path as machine code: built by mypyc from the very same source.

    ./scripts/compile            # a few minutes; needs a C compiler
    ./scripts/compile --remove   # back to the source

Each becomes a shared object beside its source, which Python then prefers, and one library that
they have in common, in the environment. Nothing else changes: without them the source runs. They
are out of date as soon as any source changes, since constants of other modules are built in; then
whatever goes through bootstrap.py removes them, and says so.

Only the standard library, because bootstrap.py imports it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PACKAGES: Final = ("cluster", "engines", "node")

# What a read or a write by a key goes through, for each one. Left out: what mypyc refuses
# (several base classes, slots in a base class: the core of Raft, the HTTP door), what it takes
# otherwise than Python does (an object that may be None and counts as false when its length is 0:
# made_changes.py), what tests and others derive from, and what follows what clients nest, as
# machine code does not look how deep the stack is.
MODULES: Final = (
    "cluster/applying.py",
    "cluster/connection.py",
    "cluster/entry.py",
    "cluster/framing.py",
    "cluster/group.py",
    "cluster/log_format.py",
    "cluster/reads.py",
    "cluster/send_queue.py",
    "cluster/slots.py",
    "engines/change_log.py",
    "engines/command.py",
    "engines/counters.py",
    "engines/digests.py",
    "engines/keyspace.py",
    "engines/kv.py",
    "engines/layout.py",
    "engines/mutations.py",
    "engines/overlay.py",
    "engines/records.py",
    "engines/retention.py",
    "engines/state_machine.py",
    "engines/validation.py",
    "node/driver.py",
    "node/quarantine.py",
    "node/resp_actions.py",
    "node/resp_commands.py",
    "node/resp_connection.py",
    "node/resp_lookups.py",
    "node/resp_names.py",
    "node/resp_reader.py",
    "node/resp_reads.py",
    "node/resp_reads_here.py",
    "node/resp_reply.py",
    "node/resp_steps.py",
    "node/resp_writes.py",
)
LIBRARY: Final = "hivemem__mypyc"  # what they have in common
STAMP: Final = ".hivemem-compiled"  # in the environment: what they were built from

# Run in the checkout by its environment's python, with a folder for what is made on the way.
SETUP: Final = """
import sys
from setuptools import setup
from mypyc.build import mypycify

folder, *modules = sys.argv[1:]
setup(
    name="hivemem-compiled",
    packages=[],
    ext_modules=mypycify(
        modules, opt_level="2", debug_level="0", multi_file=True, group_name="hivemem",
        target_dir=folder,
    ),
    script_args=["-q", "build_ext", "--inplace", "--parallel", "2", "--build-temp", folder],
)
"""


class CompileError(Exception):
    """What the compiler said."""


def build(root: Path, python: Path, library_folder: Path) -> None:
    """Compile the checkout at `root`, with the environment's `python`; the common library goes
    where Python finds it. Raises: CompileError."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, "-c", SETUP, folder, *MODULES],
            cwd=root,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise CompileError(done.stdout)
    for library in root.glob(f"{LIBRARY}.*.so"):
        shutil.move(library, library_folder / library.name)


def fingerprint(root: Path) -> str:
    """Changes with any source, and with Python."""
    digest = hashlib.sha256(sys.version.encode())
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)} ".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def present(root: Path) -> list[Path]:
    """The shared objects beside the source."""
    return [path for package in PACKAGES for path in (root / package).rglob("*.so")]


def remove(root: Path, environment: Path) -> bool:
    """Back to the source; False if there was nothing."""
    (environment / STAMP).unlink(missing_ok=True)
    found = [*present(root), *environment.rglob(f"{LIBRARY}.*.so")]
    for path in found:
        path.unlink()
    return bool(found)


def stale(root: Path, environment: Path) -> bool:
    """Is there something that was built of another source, or only in part?"""
    if not present(root):
        return False
    stamp = environment / STAMP
    return not stamp.exists() or stamp.read_text() != fingerprint(root)
