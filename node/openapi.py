"""The OpenAPI 3.1 document of a node, put together from the areas of the HTTP door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engines.interfaces import Limits
from engines.registry import Registry
from engines.schema import listed, members
from node import (
    openapi_cluster,
    openapi_collections,
    openapi_keys,
    openapi_node,
    openapi_optimizer,
)
from node.openapi_shapes import Described, Routes, error_schema, parameters

_TAGS = {
    "/v1/kv": "keys",
    "/v1/history": "keys",
    "/v1/search": "keys",
    "/v1/txn": "keys",
    "/v1/batch": "keys",
    "/v1/watch": "keys",
    "/v1/collections": "collections",
    "/v1/query": "collections",
    "/v1/engines": "collections",
    "/v1/replicas": "collections",
    "/v1/optimizer": "collections",
    "/v1/snapshots": "snapshots",
    "/v1/partitions": "cluster",
    "/v1/cluster": "cluster",
}
_ABOUT = (
    "Shared, durable memory for fleets of AI agents. Every node answers every request. Every error "
    "has the shape of the schema Error; an unknown path is 404 ROUTE_NOT_FOUND, and a method that "
    "a path has not is 405 METHOD_NOT_ALLOWED, with the header Allow."
)


class Served(NamedTuple):
    """One route of the door. `open`: answers without a token."""

    method: str
    path: str
    handler: str
    open: bool


def document(
    routes: Sequence[Served],
    limits: Limits,
    registry: Registry,
    version: str,
    *,
    secured: bool,
) -> Described:
    """`secured`: are tokens configured?"""
    queries = openapi_collections.queries(limits, registry)
    described = descriptions(limits, registry, queries)
    paths: dict[str, Described] = {}
    for route in routes:
        operation = described[route.method, route.path]
        head = "_head" if route.method == "HEAD" else ""
        own: Described = {
            "operationId": f"{route.handler}{head}",
            "tags": [_tag(route.path)],
            **operation,
        }
        if route.open and secured:
            own["security"] = []
        paths.setdefault(route.path, {})[route.method.lower()] = own
    found: Described = {
        "openapi": "3.1.0",
        "info": {
            "title": "hivemem",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in sorted({*_TAGS.values(), "node"})],
        "paths": paths,
        "components": {
            "parameters": parameters(limits),
            "schemas": {
                "Error": error_schema(),
                "Unready": members(
                    dict(error_schema()["properties"]), {"checks": listed(openapi_node.CHECK)}
                ),
                **queries.schemas,
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    if secured:
        found["security"] = [{"bearer": []}]
    return found


def descriptions(
    limits: Limits, registry: Registry, queries: openapi_collections.Queries
) -> Routes:
    """Every route that is described."""
    return {
        **openapi_keys.routes(limits),
        **openapi_collections.routes(limits, registry, queries),
        **openapi_cluster.routes(limits),
        **openapi_node.routes(limits),
        **openapi_optimizer.routes(),
    }


def _tag(path: str) -> str:
    return next((tag for start, tag in _TAGS.items() if path.startswith(start)), "node")
