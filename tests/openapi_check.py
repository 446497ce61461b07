"""Holds answers against the OpenAPI document of the door that gave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_ROOT = "urn:openapi"


class Document:
    """`check` raises AssertionError, or jsonschema's ValidationError, naming what is odd."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        resource = DRAFT202012.create_resource(document)
        self._registry: Registry[Any] = Registry().with_resource(_ROOT, resource)
        self._validators: dict[str, Draft202012Validator] = {}

    def operation(self, method: str, path: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["paths"][path][method.lower()]
        return found

    def check(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """`path`: as the document has it. `headers`: names in lower case."""
        responses = self.operation(method, path)["responses"]
        where = f"{method} {path} {status} {headers.get('x-hivemem-error')}"
        assert str(status) in responses, f"{where}: is not described"
        described = responses[str(status)]
        for name, header in described.get("headers", {}).items():
            value = headers.get(name.lower())
            if value is not None and "enum" in header["schema"]:
                assert value in header["schema"]["enum"], f"{where}: {name}: {value}"
        if method == "HEAD":
            assert not body, where
            return
        kind = headers["content-type"].split(";")[0]
        content = described["content"]
        if kind not in content:
            assert "*/*" in content, f"{where}: {kind} is not described"
            return
        if kind == "application/json" and "schema" in content[kind]:
            at = f"/paths/{_escaped(path)}/{method.lower()}/responses/{status}/content"
            self.validate(f"{at}/{_escaped(kind)}/schema", json.loads(body))

    def check_request(self, method: str, path: str, body: Any) -> None:
        """Whether a body is one that the document allows."""
        at = f"/paths/{_escaped(path)}/{method.lower()}/requestBody/content"
        self.validate(f"{at}/application~1json/schema", body)

    def validate(self, pointer: str, value: Any) -> None:
        if pointer not in self._validators:
            self._validators[pointer] = Draft202012Validator(
                {"$ref": f"{_ROOT}#{pointer}"}, registry=self._registry
            )
        self._validators[pointer].validate(value)


def _escaped(name: str) -> str:
    """As a part of a JSON pointer within a URI."""
    return name.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
