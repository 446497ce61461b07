"""What benchmarks of a running cluster have in common: requests one by one, and its daemons."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from tests.cluster.harness import LocalCluster

_SECONDS: Final = 120.0  # that one answer may take
_JSON: Final = {"Content-Type": "application/json"}

Ask = Callable[[str, dict[str, Any]], Any]  # operation, parameters → the result


def post(url: str, body: Any) -> Any:
    """The answer's JSON. Raises urllib.error.HTTPError."""
    made = urllib.request.Request(url, json.dumps(body).encode(), _JSON)
    with urllib.request.urlopen(made, timeout=_SECONDS) as answer:
        return json.load(answer)


def asker(address: str, collection: str) -> Ask:
    """Queries of one collection, at one node."""

    def ask(operation: str, parameters: dict[str, Any]) -> Any:
        body = {"collection": collection, "operation": operation, "parameters": parameters}
        return post(f"{address}/v1/query", {**body, "timeout_ms": 60_000})["result"]

    return ask


def pids_of(cluster: LocalCluster) -> tuple[int, ...]:
    """Of all its daemons that run."""
    return tuple(node.pid for node in cluster.nodes if node.pid is not None)
