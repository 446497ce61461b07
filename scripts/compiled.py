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
import sysconfig
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

# What else decides how it is built: this list, and mypyc's version.
PINS: Final = ("scripts/compiled.py", "constraints-dev.txt")
HEADER: Final = "Python.h"

# Run in the checkout by its environment's python, with a folder for all that is made.
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
        target_dir=folder + "/c",
    ),
    script_args=["-q", "build_ext", "--build-lib", folder + "/lib", "--build-temp", folder + "/o"],
)
"""


class CompileError(Exception):
    """What the compiler said."""


def missing() -> str | None:
    """What this machine lacks for compiling; None: nothing."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        return "a C compiler (Debian: gcc and libc6-dev)"
    if not Path(sysconfig.get_path("include"), HEADER).exists():
        return f"{HEADER} (Debian: python3-dev)"
    return None


def build(root: Path, python: Path, into: Path) -> None:
    """Compile the checkout at `root`, with the environment's `python`; the common library goes
    to `into`, where Python has to find it. Raises: CompileError, and then nothing was changed."""
    with tempfile.TemporaryDirectory() as folder:
        done = run_quietly(root, str(python), "-c", SETUP, folder, *MODULES)
        if done.returncode != 0:
            raise CompileError(done.stdout)
        made = Path(folder) / "lib"
        # What the others need comes first.
        for library in made.glob("*.so"):
            shutil.copyfile(library, into / library.name)
        for path in made.glob("*/*.so"):
            shutil.copyfile(path, root / path.relative_to(made))


def run_quietly(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in the checkout; what it prints is in the result."""
    # PYTHONHOME and PYTHONPATH of the caller would leak other packages into the environment.
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") or key == "PYTHONPYCACHEPREFIX"
    }
    return subprocess.run(
        command,
        cwd=root,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def library_folder(environment: Path) -> Path:
    """Where an environment's packages are."""
    return next(environment.glob("lib/python*/site-packages"))


def fingerprint(root: Path, environment: Path) -> str:
    """Changes with any source, with how it is built, and with Python."""
    digest = hashlib.sha256((environment / "pyvenv.cfg").read_bytes())
    sources = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    for path in (*sources, *(root / pin for pin in PINS)):
        digest.update(f"{path.relative_to(root)} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def present(root: Path) -> list[Path]:
    """The shared objects beside the source."""
    return [path for package in PACKAGES for path in (root / package).glob("*.so")]


def remove(root: Path, environment: Path) -> bool:
    """Back to the source; False if there was nothing."""
    (environment / STAMP).unlink(missing_ok=True)
    found = [*present(root), *library_folder(environment).glob(f"{LIBRARY}.*.so")]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def stale(root: Path, environment: Path) -> bool:
    """Is there something that was built of another source, or only in part?"""
    found = present(root)
    if not found:
        return False
    stamp = environment / STAMP
    whole = len(found) == len(MODULES) and any(library_folder(environment).glob(f"{LIBRARY}.*.so"))
    return not whole or not stamp.exists() or stamp.read_text() != fingerprint(root, environment)
