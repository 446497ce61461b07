"""What engines do and how to ask them, in small portions: from a node's own OpenAPI document.

Pure. Raises KeyError where a document is not what the HTTP API documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp_schemas_database import EngineShown, OperationShown
from node.client_collections import EngineInfo

Document = dict[str, Any]


def briefly(engines: Sequence[EngineInfo]) -> list[EngineShown]:
    """Every engine with the names of its operations, and which of them write."""
    return [_shown(engine, dict(engine["operations"])) for engine in engines]


def of_engine(engine: EngineInfo, document: Document) -> EngineShown:
    """One engine: what its operations do, and its settings."""
    examples = _body(document, "/v1/query")["examples"]
    operations = engine["operations"]
    told = {
        name: f"{operations[name]}: {example['summary']}"
        for name, example in examples.items()  # in an order that makes sense
        if name in operations
    }
    told |= {name: kind for name, kind in operations.items() if name not in told}
    shown = _shown(engine, told)
    creating = _body(document, "/v1/collections")
    for shape in creating["schema"]["oneOf"]:
        if engine["engine"] in shape["properties"]["engine"]["enum"]:
            shown.settings_schema = shape["properties"]["settings"]
    example = creating["examples"].get(engine["engine"], {"value": {}})
    shown.settings_example = example["value"].get("settings", {})
    return shown


def of_operation(name: str, engine: EngineInfo, document: Document) -> OperationShown:
    """One operation: what it takes and answers, with an example."""
    content = _body(document, "/v1/query")
    place = content["schema"]["discriminator"]["mapping"][name].rpartition(".")[2]
    schemas = document["components"]["schemas"]
    example = content["examples"].get(name)
    return OperationShown(
        operation=name,
        engine=engine["engine"],
        kind=engine["operations"][name],
        summary="" if example is None else example["summary"],
        parameters_schema=schemas[f"query.{place}"]["properties"]["parameters"],
        result_schema=schemas[f"answer.{place}"]["properties"]["result"],
        parameters_example=None if example is None else example["value"]["parameters"],
    )


def _shown(engine: EngineInfo, operations: dict[str, str]) -> EngineShown:
    return EngineShown(
        engine=engine["engine"],
        aliases=engine["aliases"],
        capabilities=engine["capabilities"],
        operations=operations,
    )


def _body(document: Document, path: str) -> dict[str, Any]:
    content: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]
    found: dict[str, Any] = content["application/json"]
    return found
