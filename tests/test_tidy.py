"""The checkout as a whole: layers, homes, lengths, words, documents. Rules: tests/tidy.py."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from node.config_schema import NodeConfig, settings
from node.http_errors import STATUS_BY_CODE
from tests import tidy

ROOT = Path(__file__).parents[1]
NOT_OURS = {".git", ".venv", "__pycache__", "build", "hivemem-data"}
# A pragmatic bound for text in which the forbidden words are looked for.
TEXT_BYTES_MAX = 4 << 20


def files() -> list[Path]:
    """Files that belong to the project: known to git, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return sorted(ROOT / name for name in names if (ROOT / name).is_file())
    return sorted(  # an unpacked archive
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not NOT_OURS & set(path.relative_to(ROOT).parts)
    )


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_python(path: Path) -> bool:
    if path.suffix == ".py":
        return True
    with path.open("rb") as file:
        return path.suffix == "" and file.readline().startswith(b"#!/usr/bin/env python3")


PYTHON = [path for path in files() if is_python(path)]


def test_the_checkout_is_looked_at() -> None:
    names = {relative(path) for path in PYTHON}
    assert {"node/config.py", "tests/tidy.py", "scripts/up", "cluster/raft.py"} <= names


def test_every_module_keeps_the_rules() -> None:
    found = [
        violation
        for path in PYTHON
        for violation in tidy.module_rules(relative(path), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_no_file_names_this_machine_a_registry_or_an_open_task() -> None:
    machine = tuple({str(ROOT) + "/", str(Path.home()) + "/"} - {"//"})
    found: list[str] = []
    for path in files():
        if path.stat().st_size > TEXT_BYTES_MAX or b"\0" in path.read_bytes():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += tidy.forbidden_words(relative(path), text, machine)
    assert not found, "\n".join(found)


def test_every_package_says_why_it_is_as_it_is() -> None:
    for package in tidy.PACKAGES:
        assert (ROOT / package / "DESIGN.md").is_file(), package


@pytest.mark.parametrize("name", ["scripts/up", "scripts/test", "scripts/check", ".ci/run"])
def test_commands_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


def test_every_script_is_formatted_and_linted() -> None:
    tool = project()["tool"]
    assert isinstance(tool, dict)
    plain = [relative(path) for path in PYTHON if path.suffix == ""]
    assert sorted(tool["ruff"]["extend-include"]) == plain


# Packaging


def project() -> dict[str, object]:
    document: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return document


def test_every_module_is_packaged() -> None:
    tool = project()["tool"]
    assert isinstance(tool, dict)
    packaged = tool["setuptools"]
    modules = sorted(path.stem for path in ROOT.glob("*.py"))
    assert sorted(packaged["py-modules"]) == modules
    folders = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
    assert sorted(packaged["packages"]) == [name for name in folders if name != "tests"]


def pins(name: str) -> dict[str, str]:
    """Package → version of a constraints file; every one must have a hash."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if block.startswith("#"):
            continue
        package, equals, rest = block.partition("==")
        assert equals, block
        assert "--hash=sha256:" in rest, f"{name}: {package} has no hash"
        found[package.lower().replace("_", "-")] = rest.split()[0]
    return found


def test_what_the_project_needs_is_pinned_with_hashes() -> None:
    described = project()["project"]
    assert isinstance(described, dict)
    runtime, dev = pins("constraints.txt"), pins("constraints-dev.txt")
    needed = [*described["dependencies"], *described["optional-dependencies"]["dev"]]
    for requirement in needed:
        package = re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")
        assert package in dev, requirement
        assert package in runtime or requirement not in described["dependencies"], requirement
    assert runtime.items() <= dev.items()
    assert "setuptools" in pins("constraints-build.txt")
    declared = {re.split(r"[<>=]", each)[0].replace("-", "_") for each in described["dependencies"]}
    modules = {tidy.MODULES.get(each, each) for each in declared}
    assert modules == set(tidy.HOMES), "what is imported is declared, and nothing else"


# Documents


def test_the_table_of_errors_is_the_one_in_force() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    documented = {
        code: int(status)
        for status, cell in re.findall(r"^\| (\d{3}) \| (.*) \|$", text, re.MULTILINE)
        for code in re.findall(r"`([A-Z_]+)`", cell.partition("(")[0])
    }
    assert documented == dict(STATUS_BY_CODE)


def test_every_error_code_in_use_is_documented() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    unknown = [
        f"{relative(path)}:{line}: {code}"
        for path in PYTHON
        if relative(path).startswith(tidy.PACKAGES)
        for line, code in tidy.error_codes(ast.parse(path.read_text(encoding="utf-8")))
        if f"`{code}`" not in text
    ]
    assert not unknown, "\n".join(unknown)


def test_every_setting_is_documented_with_unit_default_and_reason() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*) \|$", text, re.MULTILINE))
    expected = {}
    for setting in settings():
        default = "required" if setting.required else f"`{setting.default}`"
        if setting.type == "bool":
            default = default.lower()  # as TOML writes it
        if setting.default is None and not setting.required:
            default = "–"
        nodes = "all alike" if setting.note.shared else "own"
        expected[f"{setting.section}.{setting.name}"] = (
            f"{setting.note.unit or '–'} | {default} | {nodes} | {setting.note.reason}"
        )
    assert rows == expected
    for section in fields(NodeConfig):
        assert f"[{section.name}]" in text, section.name


# The rules themselves: each finds what it is for, and lets its neighbour pass.

BAD = [
    ("cluster/a.py", "import engines.kv", "must not import engines.kv"),
    ("cluster/a.py", "from node import config", "must not import node.config"),
    ("cluster/a.py", "from . import log", "relative import"),
    ("engines/a.py", "def f():\n    import cluster", "must not import cluster"),
    ("engines/a.py", "import asyncio", "engines must not import asyncio"),
    ("engines/a.py", "from time import sleep", "engines must not import time.sleep"),
    ("node/a.py", "import mcp_server", "must not import mcp_server"),
    ("node/a.py", "from tests import harness", "must not import tests.harness"),
    ("mcp_server.py", "from node.config import load", "must not import node.config.load"),
    ("mcp_server.py", "import node", "must not import node"),
    ("scripts/a.py", "import engines", "must not import engines"),
    ("node/a.py", "import rich.table", "rich is imported by node/console.py only"),
    ("node/a.py", "from aiohttp import web", "aiohttp is imported by"),
    ("node/http_a.py", "from aiohttp import ClientSession", "aiohttp.ClientSession is used by"),
    ("node/client_http.py", "from aiohttp import web", "aiohttp.web is used by"),
    ("cluster/a.py", "import requests", "requests has no home"),
    ("node/a.py", "import time\ntime.time()", "time.time is not for here"),
    ("node/a.py", "from time import monotonic", "time.monotonic is not for here"),
    ("node/a.py", "import uuid\nx = uuid.uuid4", "uuid.uuid4 is not for here"),
    ("node/a.py", "import os\nos.environ['A']", "os.environ is not for here"),
    ("node/a.py", "import random\nrandom.random()", "randomness comes from the Clock"),
    ("cluster/a.py", "import pickle", "pickle is not for here"),
    ("cluster/a.py", "from pickle import loads", "pickle.loads is not for here"),
    ("node/a.py", "print('x')", "print is not for here"),
    ("engines/a.py", "eval('1')", "eval is not for here"),
    ("node/a.py", "async def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
    ("tests/a.py", "x = '" + "a" * 100 + "'", "columns"),
    ("node/utils.py", "", "the file's name says nothing"),
    ("node/a.py", "class LogManager: pass", "LogManager says nothing"),
    ("tests/a.py", "import time\ntime.sleep(1)", "a sleep outside"),
    ("tests/a.py", "async def f():\n    await asyncio.sleep(0.1)", "a sleep outside"),
]

GOOD = [
    ("cluster/a.py", "from cluster.errors import NotLeader\nimport asyncio"),
    ("node/a.py", "from cluster import errors\nfrom engines.kv import KvReader"),
    ("node/cli.py", "import mcp_server"),
    ("mcp_server.py", "from node.client import HivememClient\nfrom node import errors\nimport mcp"),
    ("scripts/a.py", "import node.client\nimport random\nprint(random.random())"),
    ("node/console.py", "import rich\nprint('x')"),
    ("node/clock.py", "import time, random\ntime.monotonic()\nrandom.random()"),
    ("node/a.py", "import random\ndef f(rng: random.Random) -> None:\n    rng.random()"),
    ("node/a.py", "def f():\n" + "    x = 1\n" * 69),
    ("tests/a.py", "import time\nwhile True:\n    time.sleep(0.01)"),
    ("tests/a.py", "async def f():\n    await asyncio.sleep(0)"),
]


@pytest.mark.parametrize(("path", "text", "message"), BAD)
def test_a_rule_finds_what_breaks_it(path: str, text: str, message: str) -> None:
    found = list(tidy.module_rules(path, text))
    assert any(message in violation for violation in found), found


@pytest.mark.parametrize(("path", "text"), GOOD)
def test_a_rule_lets_the_rest_pass(path: str, text: str) -> None:
    assert list(tidy.module_rules(path, text)) == []


@pytest.mark.parametrize(
    "words",
    [
        "# " + "TO" + "DO: later",
        "see https://py" + "pi.org/project",
        "--index-" + "url x",
        "/ho" + "me/ann/notes",
        "cd /ro" + "ot",
        "<" * 7 + " HEAD",
    ],
)
def test_forbidden_words_are_found_with_their_line(words: str) -> None:
    (found,) = tidy.forbidden_words("a.md", f"first\n{words}\n")
    assert found.startswith("a.md:2: ")


def test_words_that_only_look_alike_are_allowed() -> None:
    text = "the root of a tree, /v1/kv/home, networks/option, workshop, /ready"
    assert list(tidy.forbidden_words("a.md", text)) == []
    assert list(tidy.forbidden_words("a.md", "in /x/y/z", ("/x/y/",))) != []


def test_error_codes_are_found_where_they_are_named() -> None:
    text = "class A:\n    code = 'ONE'\nraise B('m', code='TWO')\nx = 'THREE'\n"
    assert list(tidy.error_codes(ast.parse(text))) == [(2, "ONE"), (3, "TWO")]
