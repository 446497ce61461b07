"""`/openapi.json`: valid, complete, and of the names, bounds and codes that the code has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from engines.engine import Kind
from engines.interfaces import Limits
from engines.registry import BUILT_IN, Registry
from node import openapi, openapi_collections
from node.http import ROUTES, Route
from node.http_errors import STATUS_BY_CODE
from tests.openapi_check import Document
from tests.unit.http_door import OpenDoor, open_door
from tests.unit.member_group import IDS

NAMES = {"namespace": "n", "session": "s", "key": "k", "collection": "c", "id": IDS[0]}
SERVED = [openapi.Served(each.method, each.path, each.handler, each.open) for each in ROUTES]


def made(limits: Limits | None = None, *, secured: bool = False) -> dict[str, Any]:
    return openapi.document(
        SERVED, limits or Limits(), Registry(BUILT_IN), "1.2.3", secured=secured
    )


@pytest.fixture(scope="module")
def document() -> Document:
    return Document(made())


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as opened:
        yield opened


def target(route: Route) -> str:
    path = route.path.format(**NAMES)
    return path.replace(IDS[0], "0-1") if route.path == "/v1/snapshots/{id}" else path


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """The shapes that a body may have at its top."""
    for name in ("oneOf", "anyOf"):
        if "properties" not in schema:
            for each in schema.get(name, ()):
                yield from objects(each)
    if "properties" in schema:
        yield schema


def resolved(document: Document, schema: Any) -> Any:
    """With the alternatives at its top in place of references to them."""
    if "$ref" in schema:
        return document.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "properties" in schema:
        return schema
    names = [name for name in ("oneOf", "anyOf") if name in schema]
    return {**schema, **{n: [resolved(document, each) for each in schema[n]] for n in names}}


def test_every_route_is_described_and_no_other() -> None:
    queries = openapi_collections.queries(Limits(), Registry(BUILT_IN))
    described = openapi.descriptions(Limits(), Registry(BUILT_IN), queries)
    assert described.keys() == {(route.method, route.path) for route in ROUTES}
    operations = [each for path in made()["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(ROUTES)


def test_every_code_is_described(document: Document) -> None:
    codes = set()
    for path in document.document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                header = response.get("headers", {}).get("X-Hivemem-Error")
                if header is not None:
                    codes |= {(code, int(status)) for code in header["schema"]["enum"]}
    # What is no route has no place among the routes.
    codes |= {(code, STATUS_BY_CODE[code]) for code in ("ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED")}
    assert codes == set(STATUS_BY_CODE.items())


def test_bounds_are_those_in_force() -> None:
    limits = Limits(key_bytes_max=77, txn_ops_max=5, value_bytes_max=99)
    found = made(limits)
    assert found["components"]["parameters"]["key"]["schema"]["maxLength"] == 77
    body = found["paths"]["/v1/txn"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["then"]["maxItems"] == 5


def test_security_is_that_of_the_node() -> None:
    assert "security" not in made()
    secured = made(secured=True)
    assert secured["security"] == [{"bearer": []}]
    open_paths = {
        path
        for path, methods in secured["paths"].items()
        if any("security" in operation for operation in methods.values())
    }
    assert open_paths == {"/livez", "/readyz"}


def test_it_is_valid_openapi_with_engines_of_other_packages_too() -> None:
    class Tally:
        name = "tally"
        aliases: tuple[str, ...] = ()
        capabilities: frozenset[str] = frozenset()
        operations = {"tally_add": Kind.WRITE, "tally_get": Kind.READ}  # noqa: RUF012

    registry = Registry((*BUILT_IN, Tally()))  # type: ignore[arg-type]
    found = openapi.document(SERVED, Limits(), registry, "1", secured=True)
    validate(found)
    other = found["components"]["schemas"]["query.other"]["properties"]["operation"]["enum"]
    assert other == ["tally_add", "tally_get"]


async def test_it_is_made_once_and_served(door: OpenDoor) -> None:
    first = await door.request("GET", "/openapi.json")
    again = await door.request("GET", "/openapi.json")
    assert first.status == 200
    assert (first.body, first.headers["etag"]) == (again.body, again.headers["etag"])
    assert first.json()["openapi"] == "3.1.0"
    assert (await door.request("GET", "/openapi.json?x=1")).code == "UNKNOWN_PARAMETER"


async def test_names_are_those_that_the_door_knows(door: OpenDoor, document: Document) -> None:
    for route in ROUTES:
        if route.method != "HEAD":
            await check_names(route, door, document)


async def check_names(route: Route, door: OpenDoor, document: Document) -> None:
    operation = document.operation(route.method, route.path)
    given = [
        document.document["components"]["parameters"][each["$ref"].rpartition("/")[2]]
        if "$ref" in each
        else each
        for each in operation.get("parameters", ())
    ]
    if route.path != "/v1/snapshots/{id}":  # which is looked for first
        reply = await door.request(route.method, f"{target(route)}?colour=1")
        assert reply.code == "UNKNOWN_PARAMETER"
        message = reply.json()["error"]["message"]
        _, _, listed = message.partition("known here: ")
        documented = {each["name"] for each in given if each["in"] == "query"}
        assert set(filter(None, listed.split(", "))) == documented
        document.check(route.method, route.path, reply.status, reply.headers, reply.body)
    in_path = [each["name"] for each in given if each["in"] == "path"]
    assert in_path == [name for name in NAMES if f"{{{name}}}" in route.path]
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return
    reply = await door.request(route.method, target(route), b'{"colour": 1}')
    _, _, listed = reply.json()["error"]["message"].partition("known: ")
    shapes = objects(resolved(document, content["application/json"]["schema"]))
    assert {*listed.split(", ")} == {name for shape in shapes for name in shape["properties"]}
    document.check(route.method, route.path, reply.status, reply.headers, reply.body)


ODD = {"colour": 1}
WITHIN: list[tuple[str, dict[str, Any]]] = [
    *(("/v1/txn", {"then": [{"op": op, **ODD}]}) for op in ("put", "get", "delete")),
    ("/v1/txn", {"compare": [ODD]}),
    *(("/v1/batch", {"operations": [{"op": op, **ODD}]}) for op in ("put", "get", "delete")),
    *(("/v1/query", {name: ODD}) for name in ("requirements", "routing")),
]


async def test_names_within_bodies_are_those_that_the_door_knows(
    door: OpenDoor, document: Document
) -> None:
    for path, body in WITHIN:
        await check_within(path, body, door, document)


async def check_within(path: str, body: Any, door: OpenDoor, document: Document) -> None:
    if path == "/v1/txn":
        body = {"namespace": "n", "session": "s", **body}
    if path == "/v1/query":
        body = {
            "collection": "c", "operation": "x", "requirements": {"consistency": "stale"}, **body
        }  # fmt: skip
    reply = await door.post(path, body)
    *_, listed = reply.json()["error"]["message"].partition("known: ")
    known = {*listed.split(", ")}
    schema = document.operation("POST", path)["requestBody"]["content"]["application/json"]
    found: list[set[str]] = []
    for shape in objects(resolved(document, schema["schema"])):
        for name in body:
            inner = shape["properties"].get(name, {})
            inner = resolved(document, inner.get("items", inner))
            found += [{*each["properties"]} for each in objects(inner)]
    assert known in found
