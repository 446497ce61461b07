"""The virtual environment of this checkout: made once, renewed when the pins change.

Shared by scripts/up, scripts/test and scripts/check. Only the standard library and compiled.py,
because nothing else is there yet. Several runs at once wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

# Found also when this is imported as one of the package scripts, as its tests do.
if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.append(str(Path(__file__).resolve().parent))

import compiled

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BUILD_PINS = ROOT / "constraints-build.txt"
END_SECONDS = 30.0  # between asking a step to end and killing it
PINS = {"runtime": ROOT / "constraints.txt", "dev": ROOT / "constraints-dev.txt"}


def ensure_environment(kind: str) -> Path:
    """Have .venv with the pinned packages and the project in it; returns its python.

    `kind`: "runtime", or "dev", which holds the runtime packages too. Exits with a message
    when it cannot be done.
    """
    with _lock():
        if _stamp(kind).exists() and _stamp(kind).read_text() == _fingerprint(kind):
            _up_to_date()
            return PYTHON
        _ensure_venv()
        # The build tool comes first and pinned, so that building from source needs no
        # network and no unpinned package.
        _pip("the build tool", "--require-hashes", "-r", str(BUILD_PINS))
        _pip(
            f"the {kind} packages pinned in {PINS[kind].name}",
            "--require-hashes",
            "--no-build-isolation",
            "-r",
            str(PINS[kind]),
        )
        _pip("hivemem itself", "--no-deps", "--no-build-isolation", "--no-index", "-e", str(ROOT))
        for covered in ("runtime", "dev") if kind == "dev" else ("runtime",):
            _stamp(covered).write_text(_fingerprint(covered))
        _up_to_date()
    return PYTHON


def compile_modules() -> None:
    """Make machine code of what compiled.py lists. Exits with the compiler's words when it cannot
    be done; the source runs then."""
    with _lock():
        compiled.remove(ROOT, VENV)
        before = compiled.fingerprint(ROOT, VENV)
        try:
            compiled.build(ROOT, PYTHON, compiled.library_folder(VENV))
            (VENV / compiled.STAMP).write_text(before)
        except BaseException as error:
            compiled.remove(ROOT, VENV)
            if isinstance(error, compiled.CompileError):
                raise SystemExit(f"{error}\nhivemem: compiling failed, as said above") from None
            raise
        if compiled.stale(ROOT, VENV):
            compiled.remove(ROOT, VENV)
            raise SystemExit("hivemem: the source changed while it was compiled; say it again")


def run_from_source() -> bool:
    """Remove what compile_modules made; False if there was nothing."""
    with _lock():
        return compiled.remove(ROOT, VENV)


def run(title: str, *command: str) -> bool:
    """Run one step of a check, say how it went, and return whether it passed."""
    print(f"== {title}", flush=True)
    passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    if not passed:
        print(f"!! {title} failed: {' '.join(command)}", flush=True)
    return passed


def run_beside(steps: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
    """Run steps at the same time; one verdict each.

    The first is shown as it goes, the output of the others once the first has ended. None is
    left behind when this is interrupted (KeyboardInterrupt).
    """
    print(f"== {' and '.join(title for title, _ in steps)}, at the same time", flush=True)
    with contextlib.ExitStack() as stack:
        started = []
        for title, command in steps:
            output = stack.enter_context(tempfile.TemporaryFile()) if started else None
            # In a group of its own: a terminal's interrupt reaches it through us, once.
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, process_group=0
            )
            stack.callback(_end, process)
            started.append((title, command, process, output))
        passed = []
        for title, command, process, output in started:
            passed.append(process.wait() == 0)
            if output is not None:
                print(f"== {title}", flush=True)
                output.seek(0)
                shutil.copyfileobj(output, sys.stdout.buffer)
                sys.stdout.flush()
            if not passed[-1]:
                print(f"!! {title} failed: {' '.join(command)}", flush=True)
        return passed


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a step that is still running, so that it ends what it has started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def become(module: str, *arguments: str) -> NoReturn:
    """Go on as `python -m module` of the checkout, with everything that tests need.

    Files that are named on the command line stay relative to where it was given.
    """
    python = str(ensure_environment("dev"))
    os.environ["PYTHONPATH"] = str(ROOT)
    os.execv(python, [python, "-m", module, *arguments])


def static_checks(python: str) -> list[tuple[str, list[str]]]:
    """Steps: format, lint and types of the whole checkout."""
    return [
        ("format", [python, "-m", "ruff", "format", "--check", "."]),
        ("lint", [python, "-m", "ruff", "check", "."]),
        ("types", [python, "-m", "mypy"]),
    ]


def _stamp(kind: str) -> Path:
    return VENV / f".hivemem-{kind}"


def _fingerprint(kind: str) -> str:
    """Changes when what belongs into the environment does, or when the checkout moved."""
    digest = hashlib.sha256(f"{ROOT} {sys.version}".encode())
    for path in (ROOT / "pyproject.toml", BUILD_PINS, PINS[kind]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    with open(ROOT / ".venv.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another run that prepares .venv")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_venv() -> None:
    """Make .venv unless a usable one is there. One that we half made is made anew."""
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    if PYTHON.exists() and _quiet(str(PYTHON), "-c", probe).returncode == 0:
        return
    if VENV.exists():
        if not (VENV / "pyvenv.cfg").exists():
            raise SystemExit(f"{VENV} is in the way and is no virtual environment; move it")
        shutil.rmtree(VENV)
    _say(f"making .venv with Python {sys.version.split()[0]}")
    made = _quiet(sys.executable, "-m", "venv", str(VENV))
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit(
            f"{made.stdout}\nThis Python cannot make a virtual environment. On Debian and Ubuntu "
            f"its module is a package of its own:\n    sudo apt install "
            f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        )


def _pip(what: str, *arguments: str) -> None:
    _say(f"installing {what}")
    options = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location")
    done = _quiet(str(PYTHON), "-m", "pip", "install", *options, *arguments)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nhivemem: installing {what} failed; pip's output is above")


def _up_to_date() -> None:
    """No machine code of another source, and byte code of this one."""
    if compiled.stale(ROOT, VENV):
        compiled.remove(ROOT, VENV)
        _say("the source has changed: what scripts/compile made is removed")
    _compile()


def _compile() -> None:
    """Keep the project's modules compiled, as pip does with what it installs.

    Where PYTHONDONTWRITEBYTECODE is set, as in many containers, every daemon would compile all of
    them when it starts: 2.2 s of CPU to import a node where it takes 1.3 with byte code. What
    cannot be written is compiled then all the same.
    """
    modules = [path.name for path in ROOT.glob("*.py")]
    _quiet(str(PYTHON), "-m", "compileall", "-q", *compiled.PACKAGES, *modules)


def _quiet(*command: str) -> subprocess.CompletedProcess[str]:
    return compiled.run_quietly(ROOT, *command)


def _say(text: str) -> None:
    print(f"hivemem: {text}", file=sys.stderr, flush=True)
