"""Digests compared at one index: real state machines, and a group that commits at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import NotLeader, PeerUnreachable
from cluster.interfaces import Role
from cluster.membership import Configuration, Member
from engines.command import Put, encode
from engines.interfaces import Limits
from engines.layout import pack_leaf, unpack_leaf
from engines.state_machine import StateMachine
from engines.store import Store
from node.clock import SystemClock
from node.comparison import DIGEST, Compared, Comparison, Refused
from node.quarantine import Mark
from tests.unit.engine_state import Entry

CLOCK = SystemClock()
Handler = Callable[[str, bytes], Awaitable[bytes]]


class Quarantine:
    def __init__(self) -> None:
        self.mark: Mark | None = None
        self.told: list[tuple[str, str, int]] = []

    def quarantine(self, found_by: str, reason: str, reseed_from: int = 0) -> None:
        self.told.append((found_by, reason, reseed_from))
        self.mark = Mark(reason, reseed_from, 1)


class Node:
    """One replica: its state machine, what its group says, and its comparison."""

    def __init__(self, name: str, world: World, folder: Path) -> None:
        self.name = name
        self.store = Store(folder / name, 16 << 20, 8)
        self.machine = StateMachine(self.store, Limits())
        self.handlers: dict[int, Handler] = {}
        self.quarantine = Quarantine()
        self.applies = True
        group: Any = SimpleNamespace(
            group=7,
            role=lambda: Role("any", world.leader, 1),
            configuration=lambda: world.configuration,
            submit=world.submit,
            transfer_leadership=world.transfer,
            status=lambda: SimpleNamespace(room=True),
        )
        caller: Any = SimpleNamespace(call=world.call, on_call=self.handlers.__setitem__)
        told: Any = self.quarantine
        self.comparison = Comparison(name, group, self.machine, caller, told, CLOCK, 60)


class World:
    def __init__(self, folder: Path, names: str = "abc", learners: str = "") -> None:
        members = (Member(name, name not in learners) for name in names)
        self.configuration = Configuration(1, tuple(members))
        self.leader = "a"
        self.index = 0
        self.down: set[str] = set()
        self.transfers: list[str | None] = []
        self.calls: Counter[int] = Counter()
        self.nodes = {name: Node(name, self, folder) for name in names}

    def submit(self, command: bytes, done: Callable[[object, None], None]) -> None:
        self.index += 1
        result: object = None
        for name, node in self.nodes.items():
            if node.applies:
                found = node.machine.apply([Entry(self.index, 1, [command])])[0][0]
                result = found if name == self.leader else result
        done(result, None)

    def put(self, key: bytes) -> None:
        self.submit(encode(Put("n", "s", key, b"v", "", 1)), lambda result, error: None)

    def transfer(self, target: str, done: Callable[[object, None], None]) -> None:
        self.transfers.append(target)
        self.leader = target
        done(target, None)

    async def call(self, peer: str, method: int, payload: bytes, seconds: float) -> bytes:
        self.calls[method] += 1
        if peer in self.down:
            raise PeerUnreachable("down", definite=True)
        return await self.nodes[peer].handlers[method]("x", payload)

    def tamper(self, name: str) -> None:
        """What no log did: the record's checksum is right."""
        store = self.nodes[name].store
        with store.write() as txn:
            with txn.cursor(db=store.databases.leaves) as cursor:
                assert cursor.first()
                place, record = bytes(cursor.key()), bytes(cursor.value())
            leaf = unpack_leaf("leaves", place, record)
            changed = pack_leaf(place, leaf._replace(updated_ms=leaf.updated_ms + 1))
            txn.put(place, changed, db=store.databases.leaves)
        self.put(place[8:])

    async def compare(self) -> Compared:
        return await self.nodes[self.leader].comparison.compare(2.0)

    def told(self) -> dict[str, list[tuple[str, str, int]]]:
        return {name: node.quarantine.told for name, node in self.nodes.items()}

    def close(self) -> None:
        for node in self.nodes.values():
            node.machine.close()


@pytest.fixture
def world(tmp_path: Path) -> Any:
    worlds: list[World] = []

    def make(names: str = "abc", learners: str = "") -> World:
        worlds.append(World(tmp_path / str(len(worlds)), names, learners))
        for number in range(5):
            worlds[-1].put(b"%d" % number)
        return worlds[-1]

    yield make
    for each in worlds:
        each.close()


async def test_replicas_that_hold_the_same_agree(world: Any) -> None:
    found = world()
    compared = await found.compare()
    assert compared.index == found.index
    assert (compared.agreed, compared.odd, compared.silent) == (("a", "b", "c"), (), ())
    assert compared.differ is False
    for node in found.nodes.values():
        view = node.comparison.view()
        assert view is not None
        assert (view.index, view.agreed, view.digest) == (found.index, True, compared.digest)
    assert found.told() == {"a": [], "b": [], "c": []}


async def test_the_odd_replica_is_told_and_quarantines_itself(world: Any) -> None:
    found = world()
    found.tamper("c")
    compared = await found.compare()
    assert (compared.agreed, compared.odd) == (("a", "b"), ("c",))
    assert compared.buckets == {"c": 1}
    ((found_by, reason, reseed_from),) = found.told()["c"]
    assert (found_by, reseed_from) == ("digest", compared.index)
    assert "the majority's" in reason
    assert found.told()["a"] == found.told()["b"] == []
    assert found.nodes["c"].comparison.view().agreed is False
    assert found.transfers == []


async def test_an_odd_leader_hands_over_before_it_is_quarantined(world: Any) -> None:
    found = world()
    found.tamper("a")
    transfer = found.transfer

    def checked(target: str, done: Any) -> None:
        assert found.told()["a"] == [], "it would lead without a state"
        transfer(target, done)

    found.nodes["a"].comparison._group.transfer_leadership = checked
    compared = await found.compare()
    assert compared.odd == ("a",)
    assert found.transfers == ["b"]
    assert found.leader == "b"
    assert len(found.told()["a"]) == 1


async def test_two_replicas_that_differ_are_reported_and_left_alone(world: Any) -> None:
    found = world("ab")
    found.tamper("b")
    compared = await found.compare()
    assert (compared.digest, compared.odd, compared.differ) == (None, (), True)
    assert "no majority" in compared.message
    assert found.told() == {"a": [], "b": []}
    assert found.nodes["b"].comparison.view().agreed is None


async def test_without_a_majority_that_answers_nobody_is_quarantined(world: Any) -> None:
    found = world()
    found.tamper("c")
    found.down = {"b"}
    compared = await found.compare()
    assert (compared.odd, compared.silent, compared.differ) == ((), ("b",), True)
    assert found.told()["c"] == []


async def test_a_learner_may_be_odd_and_is_no_majority(world: Any) -> None:
    found = world("abcd", learners="d")
    found.tamper("d")
    assert (await found.compare()).odd == ("d",)
    other = world("abc", learners="c")
    other.tamper("b")
    assert (await other.compare()).digest is None


async def test_a_replica_that_lags_is_waited_for(world: Any) -> None:
    found = world()
    late = found.nodes["c"]
    late.applies = False
    whole = found.call

    async def call(peer: str, method: int, payload: bytes, seconds: float) -> bytes:
        answer = await whole(peer, method, payload, seconds)
        if peer == "c" and method == DIGEST and not late.applies and found.calls[DIGEST] > 6:
            late.applies = True
            late.machine.apply([Entry(found.index, 1, [b"\x01\x91\x07"])])
        return bytes(answer)

    for node in found.nodes.values():
        node.comparison._caller.call = call
    compared = await found.compare()
    assert compared.agreed == ("a", "b", "c")
    assert found.calls[DIGEST] > 6


async def test_a_replica_that_is_quarantined_says_nothing(world: Any) -> None:
    found = world()
    found.nodes["b"].quarantine.mark = Mark("why", 0, 1)
    compared = await found.compare()
    assert compared.silent == ("b",)
    assert compared.agreed == ("a", "c")


async def test_who_does_not_lead_asks_the_leader(world: Any) -> None:
    found = world()
    compared = await found.nodes["b"].comparison.compare_anywhere(2.0)
    assert compared.agreed == ("a", "b", "c")
    with pytest.raises(NotLeader):
        await found.nodes["b"].comparison.compare(2.0)
    found.leader = None
    with pytest.raises(NotLeader):
        await found.nodes["b"].comparison.compare_anywhere(2.0)


async def test_a_false_verdict_harms_nobody_who_noted_nothing(world: Any) -> None:
    found = world()
    await found.compare()
    found.nodes["b"].comparison._hear(999, "ab" * 16, "somebody says so")
    assert found.told()["b"] == []


async def test_a_suspect_state_is_given_up_only_if_the_others_serve(world: Any) -> None:
    found = world()
    found.down = {"c"}
    await found.nodes["a"].comparison._give_up_if_others_serve("sums differ")
    assert found.told()["a"] == []
    found.down = set()
    found.nodes["c"].quarantine.mark = Mark("why", 0, 1)
    await found.nodes["a"].comparison._give_up_if_others_serve("sums differ")
    assert found.told()["a"] == []
    found.nodes["c"].quarantine.mark = None
    await found.nodes["a"].comparison._give_up_if_others_serve("sums differ")
    assert found.told()["a"] == [("digest", "sums differ", 0)]


async def test_a_node_is_reseeded_when_somebody_asks_and_it_is_safe(world: Any) -> None:
    found = world()
    await found.nodes["a"].comparison.reseed("b", "asked", 2.0)
    assert found.told()["b"] == [("operator", "asked", found.index)]
    with pytest.raises(Exception, match="too few"):
        await found.nodes["a"].comparison.reseed("c", "asked", 2.0)
    with pytest.raises(Refused):
        await found.nodes["c"].comparison.reseed("c", "asked", 2.0)
    await found.nodes["a"].comparison.reseed("b", "asked again", 2.0)
    assert len(found.told()["b"]) == 1, "it is under way"


async def test_a_leader_that_is_reseeded_hands_over(world: Any) -> None:
    found = world()
    await found.nodes["a"].comparison.reseed("a", "asked", 2.0)
    assert found.transfers == ["b"]
    assert len(found.told()["a"]) == 1
