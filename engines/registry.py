"""The engines of this build, and those that other packages bring (`hivemem.engines`).

Built-ins are a literal table. An entry point names an object that is an `Engine`; one whose
names are taken, or that cannot be loaded, ends the start with its name: nodes whose engines
differ could not apply the same log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from engines.document import DocumentEngine
from engines.engine import AnswersTogether, Engine, Kind
from engines.errors import EngineError
from engines.graph import ENGINE as GRAPH
from engines.relational import RELATIONAL
from engines.text import TEXT
from engines.timeseries import ENGINE as TIMESERIES
from engines.vector import VectorEngine

ENTRY_POINTS = "hivemem.engines"
BUILT_IN: tuple[Engine, ...] = (
    DocumentEngine(),
    GRAPH,
    RELATIONAL,
    TEXT,
    TIMESERIES,
    VectorEngine(),
)


class EngineNotUsable(EngineError):
    """An engine of another package that cannot be taken in; the message says which and why."""


class Operation(NamedTuple):
    engine: Engine
    kind: Kind


class Registry:
    """Engines by name and alias, and operations by name."""

    def __init__(self, engines: Iterable[Engine] = BUILT_IN) -> None:
        """Raises EngineNotUsable: two engines claim one name."""
        self.engines: dict[str, Engine] = {}
        self.operations: dict[str, Operation] = {}
        self._aliases: dict[str, Engine] = {}
        for engine in engines:
            self._add(engine)

    @property
    def together(self) -> frozenset[str]:
        """The operations that some engine answers together."""
        engines = self.engines.values()
        return frozenset().union(
            *(engine.together for engine in engines if isinstance(engine, AnswersTogether))
        )

    def named(self, name: str) -> Engine | None:
        """The engine of this name or alias."""
        return self._aliases.get(name)

    def _add(self, engine: Engine) -> None:
        for name in (engine.name, *engine.aliases):
            if name in self._aliases:
                raise EngineNotUsable(f"two engines are called {name}")
            self._aliases[name] = engine
        self.engines[engine.name] = engine
        for operation, kind in engine.operations.items():
            if operation in self.operations:
                raise EngineNotUsable(f"two engines have an operation {operation}")
            self.operations[operation] = Operation(engine, kind)


@cache
def load_registry() -> Registry:
    """The built-in engines and those of other packages: looked up once, the same from then on.

    Raises EngineNotUsable.
    """
    found: list[Engine] = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            engine = entry.load()
        except Exception as error:  # a package of somebody else may raise anything
            raise EngineNotUsable(f"engine {entry.name} ({entry.value}): {error}") from error
        _must_be_engine(engine, entry.name)
        found.append(engine)
    return Registry((*BUILT_IN, *found))


def _must_be_engine(engine: object, name: str) -> None:
    missing = [
        member
        for member in (
            "name", "aliases", "capabilities", "operations", "settings", "prepare", "apply",
            "altered", "query", "index", "check",
        )
        if not hasattr(engine, member)
    ]  # fmt: skip
    if missing:
        raise EngineNotUsable(f"engine {name} has no {', '.join(missing)}")
    if not isinstance(getattr(engine, "operations", None), Mapping):
        raise EngineNotUsable(f"engine {name}: operations is no mapping")
