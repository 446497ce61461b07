"""What a schedule needs of a cluster, so that one schedule can drive two of them.

`tests.simulation.stock.StockCluster` runs the unmodified library and
`tests.simulation.safe.SafeCluster` the adapter. Both move on the same virtual clock and the
same in-memory network, and only when they are told to. A schedule that is a function of a
`Driver` shows a hole on the one and its absence on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from cluster.memory_transport import MemoryNetwork


class Position(NamedTuple):
    """One entry's place in a log: (index, term)."""

    index: int
    term: int


class Told(Protocol):
    """What a client was told about one command."""

    command: bytes
    result: Any
    calls: int  # 0: nothing yet

    @property
    def acknowledged(self) -> bool: ...


class Driver(Protocol):
    """Nodes named A, B, C, … that are moved by hand."""

    ids: list[str]
    network: MemoryNetwork
    outcomes: Sequence[Told]

    # --- Moving things ---
    def advance(self, seconds: float) -> None: ...
    def turn(self, name: str) -> None: ...
    def sync(self, name: str) -> None: ...  # stock has no fsync: nothing
    def settle(self, rounds: int = 5, seconds: float = 0.11, quiet: bool = False) -> None: ...
    def no_elections(self, *names: str) -> None: ...
    def elect(self, name: str) -> None: ...
    def put(self, name: str, command: bytes) -> Told: ...
    def compact(self, name: str) -> None: ...

    # --- Looking at them ---
    def core(self, name: str) -> Any: ...  # a SyncObj, stock's or ours
    def up(self) -> list[str]: ...
    def leader(self) -> str | None: ...
    def is_leader(self, name: str) -> bool: ...
    def term(self, name: str) -> int: ...
    def commit_index(self, name: str) -> int: ...
    def applied_index(self, name: str) -> int: ...
    def first(self, name: str) -> Position: ...
    def last(self, name: str) -> Position: ...
    def state(self, name: str) -> list[bytes]: ...


def heartbeat(driver: Driver, name: str, seconds: float = 0.11) -> None:
    """Let so much time pass that `name`, if it leads, sends to its followers; no elections."""
    driver.advance(seconds)
    driver.no_elections()
    driver.turn(name)
    driver.sync(name)


def replicate(driver: Driver, leader: str, *followers: str) -> None:
    """Append what was put on `leader`, send it, and let it count the followers' answers."""
    driver.turn(leader)
    driver.sync(leader)
    heartbeat(driver, leader, 0.2)
    for follower in followers:
        driver.network.deliver(leader, follower)
        driver.sync(follower)
        driver.network.deliver(follower, leader)
    driver.turn(leader)
