"""Statements of Cypher that write, as rules of the model of a graph."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import rule

from engines.interfaces import Rejected

NAMES = ("a", "ab", "b", "é", "z")  # one begins another
TYPES = ("t", "tt", "u")
LABELS = ("P", "PP", "Q")
PAIRS_MAX = 6  # edges that one statement makes, so that the graph stays small

names = st.sampled_from(NAMES)
types = st.sampled_from(TYPES)
one_label = st.sampled_from(LABELS)
numbers = st.integers(0, 3)


class Link(NamedTuple):
    source: str
    target: str
    type: str
    properties: dict[str, Any]


class CypherWrites:
    """`nodes`: labels and properties by id. `links`: by id."""

    nodes: dict[str, tuple[list[str], dict[str, Any]]]
    links: dict[str, Link]

    def write(self, operation: str, **parameters: Any) -> Any:
        raise NotImplementedError

    def execute(self, text: str, **parameters: Any) -> Any:
        return self.write("graph_execute", query=text, parameters=parameters)

    def labelled(self, label: str) -> list[str]:
        return [name for name, (own, _) in self.nodes.items() if label in own]

    def edges_at(self, name: str) -> list[str]:
        return [edge for edge, link in self.links.items() if name in link[:2]]

    def forget_node(self, name: str) -> None:
        for edge in self.edges_at(name):
            del self.links[edge]
        del self.nodes[name]

    @rule(rows=st.lists(st.tuples(names, numbers), min_size=1, max_size=3), label=one_label)
    def cypher_create_nodes(self, rows: list[tuple[str, int]], label: str) -> None:
        answer = self.execute(
            f"UNWIND $rows AS row CREATE (n:{label} {{id: row[0], w: row[1], x: null}})",
            rows=[list(row) for row in rows],
        )
        ids = [name for name, _ in rows]
        refused = len({*ids}) < len(ids) or any(name in self.nodes for name in ids)
        assert isinstance(answer, Rejected) == refused
        if not refused:
            assert answer["summary"]["nodes_created"] == len(rows)
            for name, number in rows:
                self.nodes[name] = [label], {"w": number}

    @rule(left=one_label, right=one_label, kind=types)
    def cypher_create_edges(self, left: str, right: str, kind: str) -> None:
        pairs = [(a, b) for a in self.labelled(left) for b in self.labelled(right)]
        if len(pairs) > PAIRS_MAX:
            return
        answer = self.execute(
            f"MATCH (a:{left}), (b:{right}) CREATE (a)-[r:{kind} {{w: 1}}]->(b) "
            "RETURN a.id, b.id, r.id"
        )
        assert Counter((a, b) for a, b, _ in answer["rows"]) == Counter(pairs)
        for source, target, edge in answer["rows"]:
            assert edge not in self.links
            self.links[edge] = Link(source, target, kind, {"w": 1})

    @rule(number=numbers, label=one_label)
    def cypher_set_nodes(self, number: int, label: str) -> None:
        answer = self.execute(
            f"MATCH (n) WHERE n.w = $number SET n.x = n.w + 1, n += {{w: null, v: n.x}}, n:{label} "
            "REMOVE n.y",
            number=number,
        )
        changed = 0
        for name, (own, properties) in self.nodes.items():
            if properties.get("w") == number:
                kept = {key: each for key, each in properties.items() if key not in "wy"}
                new = {**kept, "x": number + 1, "v": number + 1}
                self.nodes[name] = sorted({*own, label}), new
                changed += 1
        assert answer["summary"]["properties_set"] == 4 * changed

    @rule(number=numbers, kind=types)
    def cypher_set_edges(self, number: int, kind: str) -> None:
        self.execute(f"MATCH ()-[r:{kind}]->(b) SET r = {{w: $number, b: b.id}}", number=number)
        for edge, link in self.links.items():
            if link.type == kind:
                new = {"w": number, "b": link.target}
                self.links[edge] = link._replace(properties=new)

    @rule(name=names, label=one_label)
    def cypher_merge_by_id(self, name: str, label: str) -> None:
        answer = self.execute(
            f"MERGE (n:{label} {{id: $name}}) ON CREATE SET n.w = 1 ON MATCH SET n.w = 2", name=name
        )
        there = name in self.nodes and label in self.nodes[name][0]
        assert isinstance(answer, Rejected) == (name in self.nodes and not there)
        if there:
            self.nodes[name][1]["w"] = 2
        elif name not in self.nodes:
            self.nodes[name] = [label], {"w": 1}

    @rule(number=numbers)
    def cypher_merge_by_property(self, number: int) -> None:
        answer = self.execute("MERGE (n:Q {x: $number}) RETURN n.id", number=number)
        there = [name for name in self.labelled("Q") if self.nodes[name][1].get("x") == number]
        found = sorted(name for (name,) in answer["rows"])
        if there:
            assert found == sorted(there)
        else:
            self.nodes[found[0]] = ["Q"], {"x": number}

    @rule(source=names, end=names, kind=types, undirected=st.booleans())
    def cypher_merge_edge(self, source: str, end: str, kind: str, undirected: bool) -> None:
        answer = self.execute(
            f"MATCH (a {{id: $a}}), (b {{id: $b}}) MERGE (a)-[r:{kind}]-{'>'[undirected:]}(b) "
            "ON CREATE SET r.w = 0 ON MATCH SET r.w = coalesce(r.w, 0) + 1 RETURN r.id",
            a=source, b=end,
        )  # fmt: skip
        if not {source, end} <= self.nodes.keys():
            assert answer["rows"] == []
            return
        ways = [(source, end), *[(end, source)] * undirected]
        there = [
            edge for edge, link in self.links.items() if link.type == kind and link[:2] in ways
        ]
        found = [edge for (edge,) in answer["rows"]]
        if not there:
            self.links[found[0]] = Link(source, end, kind, {"w": 0})
            return
        assert sorted(found) == sorted(there)
        for edge in there:
            properties = self.links[edge].properties
            new = {**properties, "w": properties.get("w", 0) + 1}
            self.links[edge] = self.links[edge]._replace(properties=new)

    @rule(name=names, detach=st.booleans())
    def cypher_delete_node(self, name: str, detach: bool) -> None:
        answer = self.execute(f"MATCH (n {{id: $n}}) {'DETACH ' * detach}DELETE n", n=name)
        gone = name in self.nodes and (detach or not self.edges_at(name))
        assert isinstance(answer, Rejected) == (name in self.nodes and not gone)
        if gone:
            edges = len(self.edges_at(name))
            assert answer["summary"]["relationships_deleted"] == edges
            self.forget_node(name)

    @rule(label=one_label, number=numbers)
    def cypher_delete_nodes(self, label: str, number: int) -> None:
        self.execute(f"MATCH (n:{label} {{w: $number}}) DETACH DELETE n", number=number)
        for name in self.labelled(label):
            if self.nodes[name][1].get("w") == number:
                self.forget_node(name)

    @rule(kind=types, number=numbers)
    def cypher_delete_edges(self, kind: str, number: int) -> None:
        self.execute(f"MATCH (a {{w: $n}})-[r:{kind}]-() DELETE r", n=number)
        for edge, link in [*self.links.items()]:
            ends = [self.nodes[end][1].get("w") for end in link[:2]]
            if link.type == kind and number in ends:
                del self.links[edge]
