"""Every refusal of docs/http-api.md: the right code and field, and nothing stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engines.interfaces import Limits
from node import cursors
from node.auth import load_tokens, new_token
from node.cursors import Listing
from node.errors import Unavailable
from tests.unit.http_door import LEADER, OpenDoor, Reply, open_door

SMALL = Limits(value_bytes_max=1000, txn_bytes_max=5000)


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path, state_limits=SMALL) as opened:
        assert (await opened.put("here", b"old")).status == 200
        yield opened


async def refused(
    door: OpenDoor, reply: Reply, status: int, code: str, field: str | None = None
) -> None:
    """Check a refusal, and that the state is what it was."""
    assert (reply.status, reply.code) == (status, code), reply.body
    error = reply.json()["error"]
    assert error.get("field") == field, error
    assert error["definite"] is True
    assert error["leader"] == LEADER
    assert door.machine.revision == 1
    assert door.machine.stats().keys == 1
    assert (await door.request("GET", "/v1/kv/n/s/here")).body == b"old"


KEY = "/v1/kv/n/s/here"
LIST = "/v1/kv/n/s"
SEARCH = "/v1/search/n/s"
HISTORY = "/v1/history/n/s/here"
WATCH = "/v1/watch"
UNKNOWN = "UNKNOWN_PARAMETER"
BAD = "INVALID_ARGUMENT"

TARGETS = [
    # names
    ("PUT", "/v1/kv/n!/s/k", 400, BAD, "namespace"),
    ("PUT", "/v1/kv/n%20/s/k", 400, BAD, "namespace"),
    ("PUT", "/v1/kv/./s/k", 400, BAD, "namespace"),
    ("PUT", "/v1/kv/%2e%2e/s/k", 400, BAD, "namespace"),
    ("PUT", "/v1/kv/n%C3%A9/s/k", 400, BAD, "namespace"),
    ("PUT", f"/v1/kv/{'n' * 65}/s/k", 400, BAD, "namespace"),
    ("PUT", "/v1/kv//s/k", 400, BAD, "namespace"),
    ("PUT", "/v1/kv/n//k", 400, BAD, "session"),
    ("PUT", "/v1/kv/n/s%00/k", 400, BAD, "session"),
    ("PUT", "/v1/kv/n/s%0a/k", 400, BAD, "session"),
    ("PUT", "/v1/kv/n/%ff/k", 400, BAD, "session"),
    ("PUT", f"/v1/kv/n/{'s' * 257}/k", 400, BAD, "session"),
    ("PUT", "/v1/kv/n/s/", 400, BAD, "key"),
    ("PUT", "/v1/kv/n/s/%", 400, BAD, "key"),
    ("PUT", "/v1/kv/n/s/%4", 400, BAD, "key"),
    ("PUT", "/v1/kv/n/s/%zz", 400, BAD, "key"),
    ("PUT", "/v1/kv/n/s/%ff", 400, BAD, "key"),
    ("PUT", "/v1/kv/n/s/%ed%a0%80", 400, BAD, "key"),
    ("PUT", "/v1/kv/n/s/a#b", 400, BAD, "path"),
    ("PUT", f"/v1/kv/n/s/{'k' * 4097}", 413, "KEY_TOO_LARGE", "key"),
    ("GET", "/v1/kv/n!/s/k", 400, BAD, "namespace"),
    ("GET", "/v1/kv/n/%0d/k", 400, BAD, "session"),
    ("GET", f"/v1/kv/n/s/{'k' * 4097}", 413, "KEY_TOO_LARGE", "key"),
    ("DELETE", f"/v1/kv/n/s/{'%C3%A9' * 2049}", 413, "KEY_TOO_LARGE", "key"),
    ("GET", "/v1/kv/n!", 400, BAD, "namespace"),
    ("GET", "/v1/kv/", 400, BAD, "namespace"),
    ("GET", "/v1/kv/n/", 400, BAD, "session"),
    ("GET", "/v1/history/n/s/", 400, BAD, "key"),
    # parameters of keys
    ("PUT", KEY + "?ttl=5", 400, UNKNOWN, "ttl"),
    ("PUT", KEY + "?consistency=stale", 400, UNKNOWN, "consistency"),
    ("PUT", KEY + "?%C3%A9=5", 400, UNKNOWN, "é"),
    ("PUT", KEY + "?=5", 400, UNKNOWN, ""),
    ("PUT", KEY + "?ttl_seconds=1&ttl_seconds=1", 400, BAD, "ttl_seconds"),
    ("PUT", KEY + "?%74tl_seconds=1&ttl_seconds=1", 400, BAD, "ttl_seconds"),
    *(
        ("PUT", f"{KEY}?ttl_seconds={bad}", 400, BAD, "ttl_seconds")
        for bad in (
            "", "0", "0.0", "-1", "NaN", "inf", "1e3", "+1", "1.", ".5", "%D9%A3", "3153600001",
        )
    ),
    *(
        ("PUT", f"{KEY}?if_version={bad}", 400, BAD, "if_version")
        for bad in ("", "-1", "1.0", "x", "true", "9223372036854775808", "%31%", " 1", "0x1")
    ),
    *(
        ("PUT", f"{KEY}?timeout_ms={bad}", 400, BAD, "timeout_ms")
        for bad in ("0", "60001", "-5", "5s", "NaN")
    ),
    *(
        ("PUT", f"{KEY}?request_id={bad}", 400, BAD, "request_id")
        for bad in ("", "%0a", "%C3%A9", "x" * 129, "%ff")
    ),
    ("DELETE", KEY + "?ttl_seconds=1", 400, UNKNOWN, "ttl_seconds"),
    ("DELETE", KEY + "?if_version=one", 400, BAD, "if_version"),
    # read parameters
    ("GET", KEY + "?consistency=fast", 400, BAD, "consistency"),
    ("GET", KEY + "?consistency=STALE", 400, BAD, "consistency"),
    ("GET", KEY + "?max_staleness_ms=5", 400, BAD, "max_staleness_ms"),
    ("GET", KEY + "?consistency=stale&max_staleness_ms=3600001", 400, BAD, "max_staleness_ms"),
    ("GET", KEY + "?min_revision=-1", 400, BAD, "min_revision"),
    ("GET", KEY + "?version=1", 400, UNKNOWN, "version"),
    ("GET", KEY + "absent", 404, "KEY_NOT_FOUND", "key"),
    # listings
    ("GET", LIST + "?limit=0", 400, BAD, "limit"),
    ("GET", LIST + "?limit=1001", 400, BAD, "limit"),
    ("GET", LIST + "?values=yes", 400, BAD, "values"),
    ("GET", LIST + "?values=", 400, BAD, "values"),
    ("GET", LIST + "?prefix=%ff", 400, BAD, "prefix"),
    ("GET", LIST + f"?prefix={'p' * 4097}", 413, "KEY_TOO_LARGE", "prefix"),
    ("GET", LIST + "?at_revision=1", 400, UNKNOWN, "at_revision"),
    ("DELETE", LIST + "?limit=0", 400, BAD, "limit"),
    ("DELETE", LIST + "?limit=10001", 400, BAD, "limit"),
    ("DELETE", LIST + "?max_revision=-1", 400, BAD, "max_revision"),
    ("DELETE", LIST + "?prefix=%ff", 400, BAD, "prefix"),
    ("DELETE", LIST + "?prefix=", 400, BAD, "prefix"),
    ("DELETE", LIST + f"?prefix={'p' * 4097}", 413, "KEY_TOO_LARGE", "prefix"),
    ("DELETE", LIST + "?if_version=1", 400, UNKNOWN, "if_version"),
    ("DELETE", LIST + "?cursor=x", 400, UNKNOWN, "cursor"),
    ("DELETE", LIST + "/", 400, BAD, "key"),
    ("GET", SEARCH, 400, BAD, "query"),
    ("GET", SEARCH + "?query=", 400, BAD, "query"),
    ("GET", SEARCH + "?query=-bee", 400, BAD, "query"),
    ("GET", SEARCH + "?query=%ff", 400, BAD, "query"),
    ("GET", SEARCH + f"?query={'b' * 4097}", 400, BAD, "query"),
    ("GET", SEARCH + f"?query={'+'.join(f'b{n}' for n in range(65))}", 400, BAD, "query"),
    ("GET", SEARCH + "?query=b&query=b", 400, BAD, "query"),
    ("GET", SEARCH + "?query=b&mode=some", 400, BAD, "mode"),
    ("GET", SEARCH + "?query=b&mode=", 400, BAD, "mode"),
    ("GET", SEARCH + "?query=b&limit=0", 400, BAD, "limit"),
    ("GET", SEARCH + "?query=b&limit=101", 400, BAD, "limit"),
    ("GET", SEARCH + "?query=b&values=1", 400, BAD, "values"),
    ("GET", SEARCH + "?query=b&snippets=yes", 400, BAD, "snippets"),
    ("GET", SEARCH + f"?query=b&prefix={'p' * 4097}", 413, "KEY_TOO_LARGE", "prefix"),
    ("GET", SEARCH + "?query=b&key_weight=-1", 400, BAD, "key_weight"),
    ("GET", SEARCH + "?query=b&key_weight=nan", 400, BAD, "key_weight"),
    ("GET", SEARCH + "?query=b&value_weight=1e3", 400, BAD, "value_weight"),
    ("GET", SEARCH + "?query=b&value_weight=1000.1", 400, BAD, "value_weight"),
    ("GET", SEARCH + "?query=b&max_staleness_ms=5", 400, BAD, "max_staleness_ms"),
    ("GET", SEARCH + "?query=b&cursor=x", 400, UNKNOWN, "cursor"),
    ("GET", "/v1/search/n!/s?query=b", 400, BAD, "namespace"),
    ("GET", "/v1/search/n/s%00?query=b", 400, BAD, "session"),
    ("GET", "/v1/search/n/?query=b", 400, BAD, "session"),
    ("GET", "/v1/kv/n?values=true", 400, UNKNOWN, "values"),
    ("GET", "/v1/kv?prefix=n", 400, UNKNOWN, "prefix"),
    ("GET", HISTORY + "?at_revision=x", 400, BAD, "at_revision"),
    ("GET", HISTORY + "?at_revision=2", 400, BAD, "at_revision"),
    ("GET", HISTORY + "?at_revision=1&limit=3", 400, BAD, "limit"),
    ("GET", HISTORY + "?at_revision=1&values=true", 400, BAD, "values"),
    ("GET", HISTORY + "?prefix=a", 400, UNKNOWN, "prefix"),
    ("GET", "/v1/history/n/s/absent?at_revision=1", 404, "KEY_NOT_FOUND", "key"),
    # watch
    ("GET", WATCH, 400, BAD, "namespace"),
    ("GET", WATCH + "?namespace=n!", 400, BAD, "namespace"),
    ("GET", WATCH + "?namespace=n&session=", 400, BAD, "session"),
    ("GET", WATCH + "?namespace=n&prefix=a", 400, BAD, "prefix"),
    ("GET", WATCH + "?namespace=n&since=x", 400, BAD, "since"),
    ("GET", WATCH + "?namespace=n&since=-1", 400, BAD, "since"),
    ("GET", WATCH + "?namespace=n&since=1.x", 400, BAD, "since"),
    ("GET", WATCH + "?namespace=n&since=1.65536", 400, BAD, "since"),
    ("GET", WATCH + "?namespace=n&since=1.2.3", 400, BAD, "since"),
    ("GET", WATCH + "?namespace=n&since=9999999999999999999", 400, BAD, "since"),
    ("GET", WATCH + "?namespace=n&values=1", 400, BAD, "values"),
    ("GET", WATCH + "?namespace=n&limit=1", 400, UNKNOWN, "limit"),
    # the rest
    ("GET", "/v1/status?verbose", 400, UNKNOWN, "verbose"),
    ("GET", "/v1/cluster?timeout_ms=0", 400, BAD, "timeout_ms"),
    ("GET", "/livez?x=1", 400, UNKNOWN, "x"),
    ("GET", "/readyz?verbose=maybe", 400, BAD, "verbose"),
    ("GET", "/metrics?x=1", 400, UNKNOWN, "x"),
    ("POST", "/v1/txn?timeout_ms=5", 400, UNKNOWN, "timeout_ms"),
    ("POST", "/v1/batch?x", 400, UNKNOWN, "x"),
    *(
        ("GET", path, 404, "ROUTE_NOT_FOUND", None)
        for path in (
            "/", "/v1", "/v1/", "/v2/kv", "/v1/kvs", "/v1/status/", "/v1/%73tatus", "//v1/kv",
            "/v1/history/n/s", "/v1/history", "/v1/./kv", "/metrics/", "/<script>",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "status", "code", "field"), TARGETS)
async def test_bad_targets(
    door: OpenDoor, method: str, target: str, status: int, code: str, field: str | None
) -> None:
    body = b"new" if method in ("PUT", "POST") else None
    raw = target.replace(" ", "%20").encode()
    await refused(door, await door.request(method, raw, body), status, code, field)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", KEY, "PUT, GET, HEAD, DELETE"),
        ("PATCH", KEY, "PUT, GET, HEAD, DELETE"),
        ("OPTIONS", KEY, "PUT, GET, HEAD, DELETE"),
        ("PUT", LIST, "GET, DELETE"),
        ("DELETE", "/v1/kv/n", "GET"),
        ("PUT", "/v1/kv/n", "GET"),
        ("POST", "/v1/kv", "GET"),
        ("GET", "/v1/txn", "POST"),
        ("PUT", "/v1/batch", "POST"),
        ("POST", "/v1/watch", "GET"),
        ("DELETE", "/v1/status", "GET"),
        ("POST", SEARCH, "GET"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
async def test_other_methods(door: OpenDoor, method: str, target: str, allow: str) -> None:
    reply = await door.request(method, target)
    await refused(door, reply, 405, "METHOD_NOT_ALLOWED")
    assert reply.headers["allow"] == allow


async def test_an_error_answer_to_head_has_no_body(door: OpenDoor) -> None:
    reply = await door.request("HEAD", "/v1/kv/n/s/absent")
    assert (reply.status, reply.body) == (404, b"")
    assert reply.headers["x-hivemem-error"] == "KEY_NOT_FOUND"


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-Type": "x" * 257}, "content_type"),
        ({"Content-Type": "text/\xe9".encode("latin-1")}, "content_type"),
        ({"Content-Type": "text/é".encode()}, "content_type"),
        ({"Content-Type": "text/\tplain"}, "content_type"),
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
        ({"Content-Encoding": "zstd"}, "Content-Encoding"),
    ],
)
async def test_bad_headers_of_a_put(
    door: OpenDoor, headers: dict[str, str | bytes], field: str
) -> None:
    await refused(door, await door.request("PUT", KEY, b"new", headers), 400, BAD, field)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_body_where_none_belongs(door: OpenDoor, method: str) -> None:
    reply = await door.request(method, KEY, b'{"if_version": 1}')
    if method == "HEAD":
        assert reply.headers["x-hivemem-error"] == BAD
    else:
        await refused(door, reply, 400, BAD, "body")


@pytest.mark.parametrize("header", [b"1.x", b"x", b"1.2.3"])
async def test_a_bad_last_event_id(door: OpenDoor, header: bytes) -> None:
    reply = await door.request("GET", WATCH + "?namespace=n", headers={"Last-Event-ID": header})
    await refused(door, reply, 400, BAD, "Last-Event-ID")


# Cursors

HERE = (b"n", b"s", b"")
CURSORS = [
    (LIST, "garbage"),
    (LIST, ""),
    (LIST, "%00"),
    (LIST, "%C3%A9"),
    (LIST, "AAAA"),
    (LIST, cursors.encode(Listing.KEYS, HERE, b"a") + "A"),
    (LIST, cursors.encode(Listing.KEYS, HERE, b"a")[:-2]),
    (LIST, "B" + cursors.encode(Listing.KEYS, HERE, b"a")[1:]),
    (LIST, cursors.encode(Listing.KEYS, (b"n", b"other", b""), b"a")),
    (LIST, cursors.encode(Listing.KEYS, (b"ns", b"", b""), b"a")),
    (LIST, cursors.encode(Listing.KEYS, (b"n", b"s", b"p"), b"a")),
    (LIST, cursors.encode(Listing.HISTORY, HERE, b"a")),
    ("/v1/kv/n", cursors.encode(Listing.SESSIONS, (b"m",), b"a")),
    ("/v1/kv/n", cursors.encode(Listing.NAMESPACES, (), b"a")),
    ("/v1/kv", cursors.encode(Listing.SESSIONS, (b"n",), b"a")),
    (HISTORY, cursors.encode(Listing.HISTORY, (b"n", b"s", b"there"), b"0123456789ab")),
    (HISTORY, cursors.encode(Listing.HISTORY, (b"n", b"s", b"here"), b"short")),
]


@pytest.mark.parametrize(("path", "cursor"), CURSORS)
async def test_bad_cursors(door: OpenDoor, path: str, cursor: str) -> None:
    reply = await door.request("GET", f"{path}?cursor={cursor}".encode())
    await refused(door, reply, 400, "INVALID_CURSOR", "cursor")


# JSON

MALFORMED = [
    b"", b"{", b"[]", b"null", b'"x"', b"1", b"{}x", b"{'a': 1}", b'{"a": NaN}',
    b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1, "a": 1}', b'{"then": [{"a": 1, "a": 2}]}',
    b'{"a": "\xff"}', b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), b'{"a": 01}',
    b'{"a": "\n"}', b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"then": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"then": [' + b"1," * 20_001 + b"1]}", b'{"then": ["' + b'a","' * 20_001 + b'"]}',
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/txn", "/v1/batch"])
@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_json(door: OpenDoor, path: str, body: bytes) -> None:
    await refused(door, await door.request("POST", path, body), 400, "MALFORMED_JSON", "body")


def txn(**changes: object) -> dict[str, object]:
    """A transaction that would be fine, changed; None removes a field."""
    document = {
        "namespace": "n",
        "session": "s",
        "compare": [{"key": "here", "target": "version", "op": "==", "value": 1}],
        "then": [{"op": "put", "key": "new", "value": "x"}],
        "else": [],
        **changes,
    }
    return {name: value for name, value in document.items() if value is not None}


def compare(**changes: object) -> dict[str, object]:
    guard = {"key": "here", "target": "version", "op": "==", "value": 1, **changes}
    return txn(compare=[{name: value for name, value in guard.items() if value is not None}])


def then(**changes: object) -> dict[str, object]:
    """The third operation is at fault."""
    operation = {"op": "put", "key": "new", "value": "x", **changes}
    good = [{"op": "get", "key": "a"}, {"op": "delete", "key": "b"}]
    return txn(
        then=[*good, {name: value for name, value in operation.items() if value is not None}]
    )


NULL = json.loads("null")
TXNS = [
    (txn(extra=1), BAD, "extra"),
    (txn(namespace=None), BAD, "namespace"),
    (txn(namespace=1), BAD, "namespace"),
    (txn(namespace="n!"), BAD, "namespace"),
    (txn(session=["s"]), BAD, "session"),
    (txn(session="s\n"), BAD, "session"),
    (txn(request_id=5), BAD, "request_id"),
    (txn(request_id=""), BAD, "request_id"),
    (txn(request_id="x" * 129), BAD, "request_id"),
    (txn(timeout_ms=0), BAD, "timeout_ms"),
    (txn(timeout_ms=60_001), BAD, "timeout_ms"),
    (txn(timeout_ms=5.0), BAD, "timeout_ms"),
    (txn(timeout_ms=True), BAD, "timeout_ms"),
    (txn(timeout_ms="5"), BAD, "timeout_ms"),
    (txn(then={}), BAD, "then"),
    (txn(then=[], compare=[]), BAD, "then"),
    (txn(then=["x"]), BAD, "then[0]"),
    (txn(then=[{"op": "get", "key": "a"}] * 129), BAD, "then"),
    (txn(compare=[{}] * 129), BAD, "compare"),
    (txn(**{"else": [{"op": "nop", "key": "k"}]}), BAD, "else[0].op"),
    (txn(**{"else": [[]]}), BAD, "else[0]"),
    (compare(target="size"), BAD, "compare[0].target"),
    (compare(op="="), BAD, "compare[0].op"),
    (compare(op=None), BAD, "compare[0].op"),
    (compare(key=None), BAD, "compare[0].key"),
    (compare(key=""), BAD, "compare[0].key"),
    (compare(key="k" * 4097), "KEY_TOO_LARGE", "compare[0].key"),
    (compare(value=None), BAD, "compare[0].value"),
    (compare(value=True), BAD, "compare[0].value"),
    (compare(value=-1), BAD, "compare[0].value"),
    (compare(value=1.0), BAD, "compare[0].value"),
    (compare(value="1"), BAD, "compare[0].value"),
    (compare(encoding="utf-8"), BAD, "compare[0].encoding"),
    (compare(target="exists", value=1), BAD, "compare[0].value"),
    (compare(target="exists", value=True, op="<"), BAD, "compare[0].op"),
    (compare(target="value", value=1), BAD, "compare[0].value"),
    (compare(target="value", value="x" * 1001), "VALUE_TOO_LARGE", "compare[0].value"),
    (compare(target="value", value="!", encoding="base64"), BAD, "compare[0].value"),
    (compare(more=1), BAD, "compare[0].more"),
    (then(op=None), BAD, "then[2].op"),
    (then(op=1), BAD, "then[2].op"),
    (then(key=None), BAD, "then[2].key"),
    (then(key=""), BAD, "then[2].key"),
    (then(key="\ud800"), BAD, "then[2].key"),
    (then(key="k" * 4097), "KEY_TOO_LARGE", "then[2].key"),
    (then(key="b"), BAD, "then[2].key"),
    (then(value=None), BAD, "then[2].value"),
    (then(value=0), BAD, "then[2].value"),
    (then(value=False), BAD, "then[2].value"),
    (then(value={"a": 1}), BAD, "then[2].value"),
    (then(value="\udfff"), BAD, "then[2].value"),
    (then(value="x" * 1001), "VALUE_TOO_LARGE", "then[2].value"),
    (then(value="eA=", encoding="base64"), BAD, "then[2].value"),
    (then(value="eA", encoding="base64"), BAD, "then[2].value"),
    (then(value="eA==\n", encoding="base64"), BAD, "then[2].value"),
    (then(value="é", encoding="base64"), BAD, "then[2].value"),
    (then(encoding="latin-1"), BAD, "then[2].encoding"),
    (then(encoding=64), BAD, "then[2].encoding"),
    (then(content_type=5), BAD, "then[2].content_type"),
    (then(content_type="a\nb"), BAD, "then[2].content_type"),
    (then(content_type="x" * 257), BAD, "then[2].content_type"),
    (then(ttl_seconds="5"), BAD, "then[2].ttl_seconds"),
    (then(ttl_seconds=True), BAD, "then[2].ttl_seconds"),
    (then(ttl_seconds=0), BAD, "then[2].ttl_seconds"),
    (then(ttl_seconds=-0.5), BAD, "then[2].ttl_seconds"),
    (then(ttl_seconds=10**400), BAD, "then[2].ttl_seconds"),
    (then(ttl_seconds=-(10**400)), BAD, "then[2].ttl_seconds"),
    (then(ttl_seconds=3_153_600_001), BAD, "then[2].ttl_seconds"),
    (then(if_version=1), BAD, "then[2].if_version"),
    (then(op="delete"), BAD, "then[2].value"),
    (then(op="get", value=None, ttl_seconds=5), BAD, "then[2].ttl_seconds"),
    (then(value="x" * 1000, content_type="text/plain") | {"session": "a" * 257}, BAD, "session"),
    (
        txn(then=[{"op": "put", "key": f"k{i}", "value": "x" * 999} for i in range(6)]),
        "BODY_TOO_LARGE",
        "then",
    ),
]


@pytest.mark.parametrize(("document", "code", "field"), TXNS, ids=range(len(TXNS)))
async def test_bad_transactions(door: OpenDoor, document: object, code: str, field: str) -> None:
    status = 413 if code.endswith("LARGE") else 400
    await refused(door, await door.post("/v1/txn", document), status, code, field)


@pytest.mark.parametrize("field", ["request_id", "timeout_ms", "compare", "namespace"])
async def test_null_is_not_an_absent_field(door: OpenDoor, field: str) -> None:
    await refused(door, await door.post("/v1/txn", txn() | {field: NULL}), 400, BAD, field)


async def test_a_number_too_large_for_a_float(door: OpenDoor) -> None:
    body = json.dumps(then(ttl_seconds=1)).replace('"ttl_seconds": 1', '"ttl_seconds": 1e999')
    reply = await door.request("POST", "/v1/txn", body.encode())
    await refused(door, reply, 400, BAD, "then[2].ttl_seconds")


def operation(**changes: object) -> dict[str, object]:
    """The second operation is at fault; the first would have stored something."""
    good = {"op": "put", "namespace": "n", "session": "s", "key": "first", "value": "x"}
    bad = {**good, "key": "second", **changes}
    return {"operations": [good, {name: item for name, item in bad.items() if item is not None}]}


BATCHES = [
    ({}, BAD, "operations"),
    ({"operations": {}}, BAD, "operations"),
    ({"operations": [], "consistency": "stale"}, BAD, "consistency"),
    ({"operations": [], "timeout_ms": 0}, BAD, "timeout_ms"),
    ({"operations": [{}] * 1001}, BAD, "operations"),
    (operation(op="list"), BAD, "operations[1].op"),
    (operation(namespace=None), BAD, "operations[1].namespace"),
    (operation(namespace="/"), BAD, "operations[1].namespace"),
    (operation(session=""), BAD, "operations[1].session"),
    (operation(key=None), BAD, "operations[1].key"),
    (operation(key="k" * 4097), "KEY_TOO_LARGE", "operations[1].key"),
    (operation(value="x" * 1001), "VALUE_TOO_LARGE", "operations[1].value"),
    (operation(if_version="1"), BAD, "operations[1].if_version"),
    (operation(if_version=True), BAD, "operations[1].if_version"),
    (operation(if_version=-1), BAD, "operations[1].if_version"),
    (operation(if_version=2**63), BAD, "operations[1].if_version"),
    (operation(request_id="é"), BAD, "operations[1].request_id"),
    (operation(ttl_seconds=0), BAD, "operations[1].ttl_seconds"),
    (operation(content_type="é"), BAD, "operations[1].content_type"),
    (operation(op="delete"), BAD, "operations[1].value"),
    (operation(op="get", value=None, if_version=1), BAD, "operations[1].if_version"),
    (operation(op="get", value=None, namespace="!"), BAD, "operations[1].namespace"),
    (operation(op="get", value=None, session="\t"), BAD, "operations[1].session"),
    (operation(op="get", value=None, key=""), BAD, "operations[1].key"),
    (operation(op="get", value=None, key="k" * 4097), "KEY_TOO_LARGE", "operations[1].key"),
]


@pytest.mark.parametrize(("document", "code", "field"), BATCHES, ids=range(len(BATCHES)))
async def test_a_batch_with_one_bad_operation_is_refused_whole(
    door: OpenDoor, document: object, code: str, field: str
) -> None:
    status = 413 if code.endswith("LARGE") else 400
    await refused(door, await door.post("/v1/batch", document), status, code, field)


# State


async def test_version_conflicts(door: OpenDoor) -> None:
    for reply, version in (
        (await door.put("here", query="?if_version=0"), 1),
        (await door.put("here", query="?if_version=2"), 1),
        (await door.put("absent", query="?if_version=1"), 0),
        (await door.request("DELETE", KEY + "?if_version=7"), 1),
    ):
        await refused(door, reply, 409, "VERSION_CONFLICT")
        assert reply.json()["error"]["version"] == version


async def test_a_request_id_used_for_something_else(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        assert (await door.put("here", b"old", "?request_id=r")).status == 200
        await refused(
            door, await door.put("here", b"new", "?request_id=r"), 409, "REQUEST_ID_REUSED"
        )
        await refused(
            door, await door.request("DELETE", KEY + "?request_id=r"), 409, "REQUEST_ID_REUSED"
        )


async def test_gets_of_a_transaction_that_return_too_much(door: OpenDoor) -> None:
    await door.put("here", b"x" * 1000)
    revision = door.machine.revision
    gets = [{"op": "get", "key": "here"}] * 6
    reply = await door.post(
        "/v1/txn", txn(compare=[], then=[*gets, {"op": "delete", "key": "here"}])
    )
    assert (reply.status, reply.code) == (409, "LIMIT_EXCEEDED")
    assert door.machine.revision == revision


async def test_what_is_no_longer_known(tmp_path: Path) -> None:
    async with open_door(tmp_path, state_limits=Limits(history_versions_max=2)) as door:
        for number in range(5):
            await door.put("here", str(number).encode())
        reply = await door.request("GET", HISTORY + "?at_revision=1")
        assert (reply.status, reply.code) == (410, "COMPACTED")
        assert (await door.request("GET", HISTORY + "?at_revision=4")).body == b"3"


# Errors from within


@pytest.mark.parametrize("code", ["QUORUM_NOT_REACHED", "OVERLOADED", "OUTCOME_UNKNOWN"])
@pytest.mark.parametrize("definite", [True, False])
async def test_errors_of_the_write_path_say_whether_it_may_have_happened(
    door: OpenDoor, code: str, definite: bool
) -> None:
    door.router.error = Unavailable("no", code=code, definite=definite, leader="http://there")
    for reply in (
        await door.put("here", b"new"),
        await door.request("DELETE", KEY),
        await door.post("/v1/txn", txn()),
    ):
        assert (reply.status, reply.code) == (503, code)
        error = reply.json()["error"]
        assert (error["definite"], error["leader"]) == (definite, "http://there")
        assert ("retry-after" in reply.headers) == (code == "OVERLOADED")


async def test_a_stale_read_is_refused(door: OpenDoor) -> None:
    door.router.barrier_error = Unavailable("not heard", code="STALE")
    reply = await door.request("GET", KEY + "?consistency=stale&max_staleness_ms=0")
    assert (reply.status, reply.code) == (503, "STALE")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_defect_shows_nothing_of_itself(
    door: OpenDoor, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    door.router.error = door.router.barrier_error = RuntimeError("secret inner words")
    if method == "POST":
        reply = await door.post("/v1/batch", operation())
    else:
        reply = await door.request(method, KEY, b"new" if method == "PUT" else None)
    assert (reply.status, reply.code) == (500, "INTERNAL")
    assert reply.json()["error"]["definite"] is (method == "GET")
    assert b"secret" not in reply.body
    assert "secret inner words" in caplog.text


async def test_an_unknown_leader_is_null(door: OpenDoor) -> None:
    door.info.leader = None
    reply = await door.request("GET", "/v1/kv/n/s/absent")
    assert reply.json()["error"]["leader"] is None


# Authentication


async def test_tokens(tmp_path: Path) -> None:
    token, line = new_token("agent")
    path = tmp_path / "tokens"
    path.write_text(line + "\n")
    path.chmod(0o600)
    async with open_door(tmp_path, tokens=load_tokens(path)) as door:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Basic {token}"},
            {"Authorization": token},
            {"Authorization": b"Bearer \xff\xfe"},
        ):
            reply = await door.request("PUT", KEY, b"new", headers)
            assert (reply.status, reply.code) == (401, "UNAUTHENTICATED")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert door.machine.revision == 0
        for path_open in ("/v1/status", "/metrics", "/v1/watch?namespace=n", "/v1/kv"):
            assert (await door.request("GET", path_open)).status == 401
        for path_open in ("/livez", "/readyz"):
            assert (await door.request("GET", path_open)).status == 200
        good = {
            "Authorization": f"bearer {token}",
            "Host": "node.example:80",
            "Origin": "https://x",
        }
        assert (await door.request("PUT", KEY, b"new", good)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example:7411"},
        {"Host": "127.0.0.1.evil.example"},
    ],
)
async def test_web_pages_cannot_reach_a_node_without_tokens(
    door: OpenDoor, headers: dict[str, str]
) -> None:
    reply = await door.request("POST", "/v1/txn", json.dumps(txn()).encode(), headers)
    await refused(door, reply, 401, "UNAUTHENTICATED")


async def test_a_request_for_another_cluster_does_nothing(door: OpenDoor) -> None:
    for meant in ("c2", "", "x" * 5_000):
        reply = await door.request("PUT", KEY, b"v", {"Hivemem-Cluster": meant})
        await refused(door, reply, 421, "WRONG_CLUSTER")
    reply = await door.request("PUT", KEY, b"v", {"Hivemem-Cluster": "c1"})
    assert (reply.status, door.machine.revision) == (200, 2)  # the fixture wrote once


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "a.localhost", "[::1]:80", "127.0.0.1"]
)
async def test_local_names_reach_a_node_without_tokens(door: OpenDoor, host: str) -> None:
    assert (await door.request("GET", KEY, headers={"Host": host})).status == 200
