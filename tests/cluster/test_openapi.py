"""Every example of `/openapi.json`, sent to a real node in order, and what it answers."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.harness import LocalCluster, running_cluster
from tests.openapi_check import Document

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

READS = (
    "/v1/kv", "/v1/kv/{namespace}", "/v1/kv/{namespace}/{session}",
    "/v1/kv/{namespace}/{session}/{key}", "/v1/history/{namespace}/{session}/{key}",
    "/v1/status", "/v1/cluster", "/v1/cluster/members", "/v1/partitions", "/v1/engines",
    "/v1/collections", "/v1/collections/{namespace}/{collection}", "/v1/replicas",
    "/v1/snapshots", "/livez", "/readyz", "/metrics", "/openapi.json",
)  # fmt: skip
NAMES = {"namespace": "demo", "session": "plan", "key": "k", "collection": "c"}


class Node:
    """One node, whose every answer is held against its own document."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.document: Document

    async def load(self) -> None:
        status, _, body = await self._ask("GET", "/openapi.json")
        assert status == 200
        self.document = Document(json.loads(body))

    async def ask(self, method: str, path: str, body: Any = None, query: str = "") -> int:
        if body is not None:
            self.document.check_request(method, path, body)
        data = None if body is None else json.dumps(body).encode()
        status, headers, answer = await self._ask(method, path.format(**NAMES) + query, data)
        self.document.check(method, path, status, headers, answer)
        return status

    async def _ask(
        self, method: str, target: str, body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        def ask() -> tuple[int, Mapping[str, str], bytes]:
            connection = http.client.HTTPConnection(self._address, timeout=20)
            try:
                connection.request(method, target, body)
                answer = connection.getresponse()
                headers = {name.lower(): value for name, value in answer.getheaders()}
                return answer.status, headers, answer.read()
            finally:
                connection.close()

        return await asyncio.to_thread(ask)


def examples(document: Mapping[str, Any], path: str) -> list[Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return [example["value"] for example in content["examples"].values()]


def address(cluster: LocalCluster) -> str:
    return cluster.nodes[0].http.removeprefix("http://")


async def test_examples_do_as_described(tmp_path):
    async with running_cluster(tmp_path, 1) as cluster:
        node = Node(address(cluster))
        await node.load()
        document = node.document.document
        for example in examples(document, "/v1/collections"):
            assert await node.ask("POST", "/v1/collections", example) == 201, example
        queries = examples(document, "/v1/query")
        assert len(queries) > 40
        for example in queries:
            assert await node.ask("POST", "/v1/query", example) == 200, example
        for path in ("/v1/txn", "/v1/batch"):
            for example in examples(document, path):
                assert await node.ask("POST", path, example) == 200
        body = {"name": "c", "engine": "document"}
        assert await node.ask("POST", "/v1/collections", {"namespace": "demo", **body}) == 201
        for path in READS:
            assert await node.ask("GET", path) == 200, path
        assert await node.ask("GET", "/readyz", query="?verbose") == 200
        assert await node.ask("HEAD", "/v1/kv/{namespace}/{session}/{key}") == 200
        assert await node.ask("GET", "/v1/kv/{namespace}/{session}", query="?values=true") == 200
        words = "?query=v&values=true&snippets=true"
        assert await node.ask("GET", "/v1/search/{namespace}/{session}", query=words) == 200
        assert await node.ask("POST", "/v1/cluster/digests", {}) == 200
        assert await node.ask("POST", "/v1/snapshots", {}) == 200
        collection = "/v1/collections/{namespace}/{collection}"
        assert await node.ask("PATCH", collection, {"settings": {}}) == 200
        assert await node.ask("DELETE", collection) == 200
        await refusals(node)


async def refusals(node: Node) -> None:
    """Errors have the codes of their statuses, and the one shape."""
    body: dict[str, Any] = {"collection": "graph", "parameters": {}}
    cases: list[tuple[str, str, Any, str, int]] = [
        ("POST", "/v1/collections", {"name": "graph", "engine": "graph"}, "", 409),
        ("POST", "/v1/query", {**body, "operation": "document_count"}, "", 400),
        ("POST", "/v1/query", {**body, "operation": "graph_count", "collection": "no"}, "", 404),
        ("GET", "/v1/kv/{namespace}/{session}", None, "?cursor=x", 400),
        ("GET", "/v1/history/{namespace}/{session}/{key}", None, "?at_revision=999999", 400),
        ("DELETE", "/v1/kv/{namespace}/{session}/{key}", None, "?if_version=99", 409),
    ]
    for method, path, given, query, status in cases:
        assert await node.ask(method, path, given, query) == status, (path, query)
