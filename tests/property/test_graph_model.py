"""A graph against sets of nodes and edges, with restarts, replays, copies and batchings."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from engines.check import digest
from engines.codec import pack_value, unpack_value
from engines.collection_writes import CREATE
from engines.command import CollectionCommand, encode
from engines.graph import ENGINE
from engines.interfaces import Limits, Rejected
from engines.state_machine import StateMachine
from engines.store import Store
from tests.property.cypher_writes import LABELS, NAMES, TYPES, CypherWrites, Link
from tests.unit.engine_state import Entry
from tests.unit.one_collection import OneCollection

nodes = st.sampled_from(NAMES)
types = st.sampled_from(TYPES)
directions = st.sampled_from(["out", "in", "both"])
chosen = st.lists(types, max_size=2, unique=True)
properties = st.dictionaries(st.sampled_from("wxy"), st.integers(0, 3), max_size=2)
labels = st.lists(st.sampled_from(LABELS), max_size=3, unique=True)


class GraphState(OneCollection):
    engine = ENGINE


class GraphMachine(CypherWrites, RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hivemem-graph-"))
        self.a = GraphState(self.folder / "a")
        self.b = StateMachine(Store(self.folder / "b", 64 << 20, 8), Limits())
        self.entries: list[Entry] = []
        self.delivered = 0
        self.made = 0
        self.nodes: dict[str, tuple[list[str], dict[str, Any]]] = {}
        self.links: dict[str, Link] = {}
        self.commit(CREATE, {"engine": "graph", "settings": {}})

    def commit(self, operation: str, body: Any) -> Any:
        index = len(self.entries) + 1
        made = CollectionCommand("n", "c", operation, pack_value(body), self.a.now, index)
        entry = Entry(index, 1, [encode(made)])
        self.entries.append(entry)
        ((result,),) = self.a.machine.apply([entry])
        return result if isinstance(result, Rejected) else unpack_value(result.answer)

    def write(self, operation: str, **parameters: Any) -> Any:
        return self.commit(operation, ENGINE.prepare(operation, parameters))

    # -- writes ------------------------------------------------------------------------

    @rule(name=nodes, labels=labels, properties=properties)
    def create_node(self, name: str, labels: list[str], properties: dict[str, Any]) -> None:
        answer = self.write("graph_create_node", id=name, labels=labels, properties=properties)
        assert isinstance(answer, Rejected) == (name in self.nodes)
        self.nodes.setdefault(name, (sorted(labels), properties))

    @rule(source=nodes, end=nodes, kind=types, properties=properties, named=st.booleans())
    def create_edge(
        self, source: str, end: str, kind: str, properties: dict[str, Any], named: bool
    ) -> None:
        given = {"from": source, "to": end, "type": kind, "properties": properties}
        if named:
            self.made += 1
            given["id"] = f"e{self.made % 20}"
        answer = self.write("graph_create_edge", **given)
        there = {source, end} <= self.nodes.keys() and given.get("id") not in self.links
        assert isinstance(answer, Rejected) != there
        if there:
            self.links[answer["id"]] = Link(source, end, kind, properties)

    @rule(name=nodes, new=properties, gone=st.lists(st.sampled_from("wxy"), min_size=1),
          labels=st.one_of(st.none(), labels))  # fmt: skip
    def update_node(
        self, name: str, new: dict[str, Any], gone: list[str], labels: list[str] | None
    ) -> None:
        given = {"set": new, "unset": gone, **({} if labels is None else {"labels": labels})}
        answer = self.write("graph_update_node", id=name, **given)
        assert isinstance(answer, Rejected) == (name not in self.nodes)
        if name in self.nodes:
            before, own = self.nodes[name]
            kept = {key: value for key, value in own.items() if key not in gone}
            self.nodes[name] = (before if labels is None else sorted(labels), {**kept, **new})

    @rule(data=st.data(), new=properties)
    def update_edge(self, data: st.DataObject, new: dict[str, Any]) -> None:
        name = data.draw(st.sampled_from(["none", *sorted(self.links)]))
        answer = self.write("graph_update_edge", id=name, set=new)
        assert isinstance(answer, Rejected) == (name == "none")
        if name != "none":
            link = self.links[name]
            self.links[name] = link._replace(properties={**link.properties, **new})

    @rule(name=nodes)
    def delete_node(self, name: str) -> None:
        answer = self.write("graph_delete_node", id=name)
        gone = [edge for edge, link in self.links.items() if name in link[:2]]
        assert answer == {"deleted": name in self.nodes, "edges": len(gone)}
        self.nodes.pop(name, None)
        for edge in gone:
            del self.links[edge]

    @rule(data=st.data())
    def delete_edge(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(["none", *sorted(self.links)]))
        assert self.write("graph_delete_edge", id=name) == {"deleted": name in self.links}
        self.links.pop(name, None)

    # -- restarts, replays, copies -----------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.a.reopen()

    @rule(back=st.integers(0, 3))
    def replay(self, back: int) -> None:
        before = self.a.digest()
        self.a.machine.apply(self.entries[len(self.entries) - back :])
        assert self.a.digest() == before

    @rule(back=st.integers(0, 3), burst=st.integers(1, 30))
    def deliver(self, back: int, burst: int) -> None:
        start = max(0, self.delivered - back)
        end = min(len(self.entries), self.delivered + burst)
        self.b.apply(self.entries[start:end])
        self.delivered = end

    @rule()
    def copy(self) -> None:
        path = self.folder / "copy"
        with path.open("wb") as file:
            index, term = self.a.machine.copy_to(file.fileno())
        self.b.replace(path, index, term)
        self.delivered = len(self.entries)

    # -- reads -------------------------------------------------------------------------

    def steps(self, node: str, direction: str, wanted: list[str]) -> list[tuple[str, str, str]]:
        """(direction, edge, node at the other end)."""
        found = []
        for edge, link in self.links.items():
            if wanted and link.type not in wanted:
                continue
            if direction != "in" and link.source == node:
                found.append(("out", edge, link.target))
            if direction != "out" and link.target == node:
                found.append(("in", edge, link.source))
        return sorted(found)

    @rule(data=st.data(), direction=directions, wanted=chosen, limit=st.integers(1, 4))
    def neighbours(
        self, data: st.DataObject, direction: str, wanted: list[str], limit: int
    ) -> None:
        if not self.nodes:
            return
        node = data.draw(st.sampled_from(sorted(self.nodes)))
        given = {"id": node, "direction": direction, "types": wanted or None}
        seen, cursor = [], None
        while True:
            page = self.a.query("graph_neighbors", **given, limit=limit, cursor=cursor)
            for item in page["items"]:
                other = item["node"]
                seen.append((item["direction"], item["edge"]["id"], other["id"]))
                assert (other["labels"], other["properties"]) == self.nodes[other["id"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert sorted(seen) == self.steps(node, direction, wanted)

    @rule(data=st.data(), direction=directions, wanted=chosen, depth=st.integers(1, 4),
          weight=st.sampled_from([None, "w"]))  # fmt: skip
    def walks(
        self, data: st.DataObject, direction: str, wanted: list[str], depth: int,
        weight: str | None,
    ) -> None:  # fmt: skip
        if not self.nodes:
            return
        start = data.draw(st.sampled_from(sorted(self.nodes)))
        given = {"direction": direction, "types": wanted or None}
        depths = self.costs(start, direction, wanted, None)
        found = self.a.query("graph_traverse", start=start, max_depth=depth, **given)["nodes"]
        assert {node["id"]: node["depth"] for node in found} == {
            name: cost for name, cost in depths.items() if 0 < cost <= depth
        }
        if weight is not None and any(
            weight not in link.properties for link in self.links.values()
        ):
            return
        costs = self.costs(start, direction, wanted, weight)
        for goal in self.nodes:
            path = self.a.query(
                "graph_shortest_path", **{"from": start, "to": goal}, weight=weight, **given
            )
            assert path["found"] == (goal in costs)
            if path["found"]:
                assert path["cost"] == costs[goal]
                assert (path["nodes"][0], path["nodes"][-1]) == (start, goal)
                spent = 0
                for here, edge, there in zip(
                    path["nodes"], path["edges"], path["nodes"][1:], strict=False
                ):
                    ways = [(each[1], each[2]) for each in self.steps(here, direction, wanted)]
                    assert (edge, there) in ways
                    spent += 1 if weight is None else self.links[edge].properties[weight]
                assert spent == path["cost"]

    def costs(
        self, start: str, direction: str, wanted: list[str], weight: str | None
    ) -> dict[str, int]:
        """Bellman and Ford: as often as there are nodes, every edge."""
        best: dict[str, float] = {start: 0}
        for _ in self.nodes:
            for node in self.nodes:
                for _, edge, other in self.steps(node, direction, wanted):
                    step = 1 if weight is None else self.links[edge].properties[weight]
                    cost = best.get(node, math.inf) + step
                    if cost < best.get(other, math.inf):
                        best[other] = cost
        return {node: int(cost) for node, cost in best.items()}

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "a"):
            return
        assert self.a.problems() == []
        assert self.a.query("graph_count") == {"nodes": len(self.nodes), "edges": len(self.links)}
        counted = self.a.query("graph_query", query="MATCH ()-[r]->() RETURN count(r)")["rows"]
        assert counted == [[len(self.links)]]
        for label in LABELS:
            count = sum(label in own for own, _ in self.nodes.values())
            assert self.a.query("graph_count", label=label) == {"nodes": count}
        found = self.a.query("graph_query", query="MATCH (n) RETURN n ORDER BY n.id")["rows"]
        assert [node for (node,) in found] == [
            {"id": name, "labels": own, "properties": properties}
            for name, (own, properties) in sorted(self.nodes.items())
        ]
        for name in NAMES:
            node = self.a.query("graph_get", id=name)["node"]
            assert (node is not None) == (name in self.nodes)
        for name, link in self.links.items():
            edge = self.a.query("graph_get", edge=name)["edge"]
            assert (edge["from"], edge["to"], edge["type"], edge["properties"]) == link

    def teardown(self) -> None:
        if not hasattr(self, "a"):
            return
        try:
            self.b.apply(self.entries[self.delivered :])
            with self.b._store.read() as snapshot:
                assert digest(snapshot) == self.a.digest()
        finally:
            self.a.machine.close()
            self.b.close()
            shutil.rmtree(self.folder)


def test_a_graph_answers_as_the_model() -> None:
    run_state_machine_as_test(
        GraphMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
