"""What a node knows of the system group while its state is being rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from node.clock import SystemClock
from node.quarantine import ReplicaQuarantined
from node.system_state import SystemState


def test_while_the_state_is_rebuilt_what_was_known_stays() -> None:
    @contextmanager
    def readers() -> Iterator[Any]:
        raise ReplicaQuarantined("damaged")
        yield

    machine: Any = SimpleNamespace(revision=7)
    nothing: Any = SimpleNamespace()
    state = SystemState(machine, readers, nothing, SystemClock())
    nodes = state.nodes
    assert state.refresh() is False
    assert state.nodes is nodes
    assert state.map is None
