"""Breaking the adapter on purpose, one safety rule at a time. `mutations.py` is the table.

A mutation replaces a piece of a function's source by another and puts the compiled result in
the function's place: whoever holds the function, holds the mutant. The piece must occur
exactly once, so a mutation whose code has changed is an error and never a silent no-op.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import CodeType, FunctionType
from typing import NamedTuple

STATE = "cluster.raft_state:CoreState."
MEMBERS_PART = "cluster.raft_members:Members."
ELECTION = "cluster.raft_election:Elections."
LEADING = "cluster.raft_leading:Leading."
FOLLOWING = "cluster.raft_following:Following."
CORE = "cluster.raft:SafeCore."
GROUP = "cluster.group:RaftGroup."
APPLYING = "cluster.applying:Applying."
GROUP_STATE = "cluster.group_state:GroupState."
PROPOSALS = "cluster.proposals:Proposals."
TRANSFER = "cluster.transfer:LeadershipTransfer."
DEFERRAL = "cluster.deferral:Deferral."
DEFERRAL_TURN = "cluster.deferral:has_turn"


class Edit(NamedTuple):
    """One piece of source. `target`: module:qualified name, of a function or a property."""

    target: str
    old: str
    new: str


class Mutation(NamedTuple):
    """One rule that is switched off."""

    name: str
    holes: str  # ids of `holes.py` that it opens again, or "-"
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]  # file and function, without their test_: each of them notices


def one(name: str, holes: str, target: str, old: str, new: str, *tests: str) -> Mutation:
    """A mutation of one edit."""
    return Mutation(name, holes, (Edit(target, old, new),), tests)


class StaleMutation(Exception):
    """The code that a mutation is about is not there any more."""


def find(target: str) -> FunctionType:
    """The function that an edit is about."""
    module, _, path = target.partition(":")
    found: object = import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType), target
    return found


def _compiled(function: FunctionType, source: str) -> CodeType:
    """Code of `source`, a definition of `function`, with the same closure."""
    free = function.__code__.co_freevars
    lines = [line for line in source.splitlines() if not line.startswith("@")]
    inner = textwrap.indent("\n".join(lines), "    ")
    outer = f"def make({', '.join(free)}):\n{inner}\n    return {function.__name__}\n"
    flags = "from __future__ import annotations\n"
    namespace: dict[str, FunctionType] = {}
    exec(compile(flags + outer, f"<mutant of {function.__qualname__}>", "exec"), namespace)
    code = namespace["make"](*(None for _ in free)).__code__
    if code.co_freevars != free:
        raise StaleMutation(f"{function.__qualname__}: its closure would be {code.co_freevars}")
    return code


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """The mutation is in force inside. Raises StaleMutation."""
    sources: dict[str, str] = {}
    for edit in mutation.edits:
        source = sources.get(edit.target) or textwrap.dedent(inspect.getsource(find(edit.target)))
        if source.count(edit.old) != 1:
            problem = f"{edit.target} has {source.count(edit.old)} times {edit.old!r}"
            raise StaleMutation(f"{mutation.name}: {problem}")
        sources[edit.target] = source.replace(edit.old, edit.new)
    codes = {target: find(target).__code__ for target in sources}
    mutants = {target: _compiled(find(target), source) for target, source in sources.items()}
    try:
        for target, code in mutants.items():
            find(target).__code__ = code
        yield
    finally:
        for target, code in codes.items():
            find(target).__code__ = code
