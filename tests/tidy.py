"""The rules that test_tidy.py holds the whole checkout to. Pure: text in, violations out.

A rule takes the module's path from the checkout's root (posix) and its syntax tree or text,
and yields "path:line: what is wrong". Words that must not stand anywhere are put together
from pieces here, because this file is checked as well.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100

PACKAGES = ("cluster", "engines", "node")
PROJECT = (*PACKAGES, "mcp_*", "tests", "scripts")
# What clients may know of a node: its client, and the errors that cross the API.
CLIENT_SIDE = ("node.client", "node.client_*", "node.errors", "node.discovery", "node.clock")


class Layer(NamedTuple):
    """Modules that match `who` may import project modules that match `may`, and no others."""

    who: str
    may: tuple[str, ...]


LAYERS = (
    Layer("cluster/*", ("cluster", "cluster.*")),
    Layer("engines/*", ("engines", "engines.*")),
    # Wiring the commands together is the one place where the server starts agents' door.
    Layer("node/cli*.py", (*(f"{package}*" for package in PACKAGES), "mcp_options", "mcp_server")),
    Layer("node/*", tuple(f"{package}*" for package in PACKAGES)),
    Layer("mcp_*.py", ("mcp_*", *CLIENT_SIDE)),
    # It compares systems from outside: of hivemem it uses the command line and the doors.
    Layer("scripts/benchmarks/*", ("scripts.benchmarks",)),
    # It measures an engine without a node around it.
    Layer("scripts/vector_bench.py", ("engines.*",)),
    Layer(
        "scripts/*",
        ("bootstrap", "compiled", "conversations", "python_version", "workload", *CLIENT_SIDE),
    ),
)

# Library → the modules that may import it. Each has one home; a second is a second door.
HOMES: Mapping[str, tuple[str, ...]] = {
    "apsw": ("engines/relational_*.py",),
    "aiohttp": ("node/client_http.py", "node/http*.py"),
    "hiredis": ("node/resp_reader.py",),
    "jiter": ("node/json_codec.py",),
    "lark": ("engines/cypher_parser.py",),
    # The store in use, and a copy at rest: one writes and shares, the other does neither.
    "lmdb": ("engines/environment.py", "engines/store.py", "engines/state_file.py"),
    "xxhash": ("engines/digests.py",),
    "mcp": ("mcp_server.py",),
    "msgpack": ("engines/codec.py",),
    # Arithmetic over many vectors at once; what else is stored or sent is Python's own values.
    "multidict": ("node/http*.py",),  # with aiohttp
    # Arrays of numbers, which two engines are about.
    "numpy": ("engines/timeseries_columns.py", "engines/vector_*.py"),
    "orjson": ("node/json_codec.py",),
    "prometheus_client": ("node/metrics.py",),
    "pydantic": ("mcp_schemas*.py",),
    "re2": ("engines/document_regex.py",),
    "pysyncobj": ("cluster/upstream.py",),
    "rich": ("node/console.py",),
    "rustworkx": ("engines/graph_algorithms.py",),
    "usearch": ("engines/vector_graph.py",),
    "uvicorn": ("mcp_http.py",),
    "uvloop": ("node/__main__.py",),
    "yarl": ("node/client_http.py", "node/http*.py"),  # with aiohttp
}
# Packages whose module is called otherwise.
MODULES: Mapping[str, str] = {"google_re2": "re2"}
# The same for parts of a library that has two homes.
PART_HOMES: Mapping[str, tuple[str, ...]] = {
    "aiohttp.web": ("node/http*.py",),
    "aiohttp.ClientSession": ("node/client_http.py",),
}

# Standard modules that would make engines read something other than their input.
IMPURE = ("asyncio", "datetime", "random", "secrets", "selectors", "socket", "time", "uuid")

# Dotted name → the modules that may use it.
BANNED: Mapping[str, tuple[str, ...]] = {
    "time.time": ("node/clock.py",),
    "time.time_ns": ("node/clock.py",),
    "time.monotonic": ("node/clock.py",),
    "time.monotonic_ns": ("node/clock.py",),
    "time.perf_counter": (),
    "time.perf_counter_ns": (),
    "datetime.now": (),
    "datetime.utcnow": (),
    "datetime.today": (),
    "datetime.datetime.now": (),
    "datetime.datetime.utcnow": (),
    "uuid.uuid1": (),
    "uuid.uuid4": ("node/clock.py",),
    "os.environ": ("node/environment.py",),
    "os.getenv": ("node/config.py",),
    "eval": (),
    "exec": (),
    "print": ("node/console.py",),
}
# Modules that may be imported only where they are listed; as a type annotation they do no
# harm, so `random` may be imported under TYPE_CHECKING or named from a Clock.
BANNED_MODULES: Mapping[str, tuple[str, ...]] = {
    "dill": (),
    "marshal": (),
    "pickle": (),
    "shelve": (),
}
RANDOM_HOME = "node/clock.py"

_VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc)(_|$)|(Util|Helper|Manager)s?$")


def module_rules(path: str, text: str) -> Iterator[str]:
    """Every rule for one Python file."""
    tree = ast.parse(text)
    yield from layers(path, tree)
    yield from homes(path, tree)
    yield from banned(path, tree)
    yield from function_lengths(path, tree)
    yield from line_lengths(path, text)
    yield from vague_names(path, tree)
    if path.startswith("tests/"):
        yield from sleeps(path, tree)


@functools.lru_cache(maxsize=1)
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """The whole tree, walked once for all rules."""
    return tuple(ast.walk(tree))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from a import b` gives a.b."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                yield node.lineno, "." * node.level + name


def layers(path: str, tree: ast.AST) -> Iterator[str]:
    """Imports between our own modules follow the layers."""
    layer = next((each for each in LAYERS if fnmatch.fnmatch(path, each.who)), None)
    if layer is None:
        return
    for line, name in imports(tree):
        if name.startswith("."):
            yield f"{path}:{line}: relative import of {name}; write it in full"
        elif _matches(name.partition(".")[0], PROJECT) and not _permitted(name, layer.may):
            yield f"{path}:{line}: {layer.who} must not import {name}"
        elif layer.who == "engines/*" and name.partition(".")[0] in IMPURE:
            yield f"{path}:{line}: engines must not import {name}: apply is a function of its input"


def homes(path: str, tree: ast.AST) -> Iterator[str]:
    """Each third-party library is imported by its one home."""
    if not path.startswith(PACKAGES) and not fnmatch.fnmatch(path, "mcp_*.py"):
        return
    for line, name in imports(tree):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or _matches(top, (*PROJECT, "_typeshed")) or not top:
            continue
        allowed = HOMES.get(top)
        if allowed is None:
            yield f"{path}:{line}: {top} has no home; give it one in tests/tidy.py"
        elif not _matches(path, allowed):
            yield f"{path}:{line}: {top} is imported by {' and '.join(allowed)} only"
        for part, rooms in PART_HOMES.items():
            if _permitted(name, (part, f"{part}.*")) and not _matches(path, rooms):
                yield f"{path}:{line}: {part} is used by {' and '.join(rooms)} only"


def banned(path: str, tree: ast.AST) -> Iterator[str]:
    """Time, chance, environment and unsafe decoding stay in their homes."""
    if path.startswith(("tests/", "scripts/")):
        return
    for line, name in imports(tree):
        top = name.partition(".")[0]
        allowed = BANNED_MODULES.get(top) if top in BANNED_MODULES else BANNED.get(name)
        if allowed is not None and not _matches(path, allowed):
            yield f"{path}:{line}: {name} is not for here"
    for node in nodes(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node)
            if name in BANNED and not _matches(path, BANNED[name]):
                yield f"{path}:{node.lineno}: {name} is not for here"
        if isinstance(node, ast.Call) and path != RANDOM_HOME:
            name = dotted(node.func)
            if name.startswith("random."):
                yield f"{path}:{node.lineno}: {name}: randomness comes from the Clock"


def function_lengths(path: str, tree: ast.AST) -> Iterator[str]:
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > FUNCTION_LINES_MAX:
                yield f"{path}:{node.lineno}: {node.name} has {count} lines"


def line_lengths(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LINE_COLUMNS_MAX:
            yield f"{path}:{number}: {len(line)} columns"


def vague_names(path: str, tree: ast.AST) -> Iterator[str]:
    """No names that say nothing of what a thing does."""
    stem = path.rpartition("/")[2].removesuffix(".py")
    if _VAGUE.search(stem):
        yield f"{path}:1: the file's name says nothing"
    for node in nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and _VAGUE.search(node.name):
            yield f"{path}:{node.lineno}: the name {node.name} says nothing"


def sleeps(path: str, tree: ast.AST) -> Iterator[str]:
    """Tests poll with a deadline: a sleep stands in a loop, or is asyncio.sleep(0)."""
    asleep = [
        node
        for node in nodes(tree)
        if isinstance(node, ast.Call) and dotted(node.func) in ("time.sleep", "asyncio.sleep")
    ]
    if not asleep:
        return
    polled = {
        inner
        for loop in nodes(tree)
        if isinstance(loop, ast.While | ast.For | ast.AsyncFor)
        for inner in ast.walk(loop)
    }
    for node in asleep:
        yields = (
            bool(node.args) and isinstance(node.args[0], ast.Constant) and not node.args[0].value
        )
        if node not in polled and not yields:
            yield f"{path}:{node.lineno}: a sleep outside of a polling loop"


def error_codes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, code) of each error code a module names: `code="X"`, `code = "X"` in a class."""
    for node in nodes(tree):
        if isinstance(node, ast.keyword) and node.arg == "code" and _is_code(node.value):
            yield node.value.lineno, _text(node.value)
        if isinstance(node, ast.Assign) and _is_code(node.value):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names == ["code"]:
                yield node.lineno, _text(node.value)


# Words that stand in no file; joined here, so that they do not stand in this one.
_OPEN = ("TO" + "DO", "FIX" + "ME", "X" * 3)
_REGISTRY = ("py" + r"pi\.org", "python" + r"hosted\.org", "--index-" + "url", "--find-" + "links")
_PLACES = ("ro" + r"ot\b", "ho" + r"me/\w+", "Us" + r"ers/\w+", "op" + r"t\b", "wo" + r"rk\b")

FORBIDDEN: Mapping[str, re.Pattern[str]] = {
    "an open task": re.compile(rf"\b({'|'.join(_OPEN)})\b"),
    "a registry's address": re.compile("|".join(_REGISTRY)),
    "a path of one machine": re.compile(rf"(?<![\w.}}])/({'|'.join(_PLACES)})"),
    "a merge conflict": re.compile(r"^(<{7} |>{7} )", re.MULTILINE),
}


def forbidden_words(path: str, text: str, machine_paths: tuple[str, ...] = ()) -> Iterator[str]:
    """Nothing that is true of one machine only, and nothing left undone."""
    for what, pattern in FORBIDDEN.items():
        for found in pattern.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{path}:{line}: {what}: {found.group()!r}"
    for place in machine_paths:
        if place in text:
            yield f"{path}:{text.count(chr(10), 0, text.index(place)) + 1}: a path of this machine"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of nested attributes; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        parent = dotted(node.value)
        return f"{parent}.{node.attr}" if parent else ""
    return ""


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(text, pattern) for pattern in patterns)


def _permitted(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a dotted import name, or a package that it is in, matches."""
    parts = name.split(".")
    return any(_matches(".".join(parts[:end]), patterns) for end in range(1, len(parts) + 1))


def _is_code(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and bool(
        isinstance(node.value, str) and re.fullmatch(r"[A-Z][A-Z_]+", node.value)
    )


def _text(node: ast.expr) -> str:
    assert isinstance(node, ast.Constant)
    return str(node.value)
