"""Decoding on its own: targets, queries, JSON, cursors; and the documents against the code."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engines.interfaces import SUB_MAX, ChangeId
from node import cursors, http_views
from node.cursors import Listing
from node.errors import BadRequest, HivememError
from node.http import ROUTES, resolve
from node.http_bodies import Fields, parse_object
from node.http_errors import STATUS_BY_CODE, error_body
from node.http_limits import HttpLimits
from node.http_params import Query, decode, position, split_target, ttl_ms
from node.reads import Consistency

TEXT = st.text(st.characters(codec="utf-8"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "http-api.md"


# Targets and queries


@given(st.text())
def test_any_target_is_decoded_or_refused(target: str) -> None:
    """Whatever a parser lets through, nothing but our own errors comes out."""
    try:
        path, query = split_target("/v1/kv/" + target)
        _, names = resolve(path)
        for name in names:
            decode(name, "name").decode("utf-8")
        Query(query, frozenset({"a"}))
    except HivememError as error:
        error_body(error, None).decode("ascii")


@given(TEXT)
def test_names_survive_their_encoding(name: str) -> None:
    assert decode(quote(name, safe=""), "name").decode() == name
    query = Query(f"x=1&name={quote_plus(name)}", frozenset({"name", "x"}))
    assert query.text("name") == name


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://host:1/a//b?c", "/a//b"),
        ("HTTPS://host/%2F", "/%2F"),
        ("http://host", "/"),
        ("*", "*"),
        ("/a?b?c", "/a"),
        ("//host/a", "//host/a"),
    ],
)
def test_targets_are_split_and_not_tidied(target: str, path: str) -> None:
    assert split_target(target)[0] == path


def test_consistency_has_three_levels_and_six_names() -> None:
    names = ("linearizable", "strong", "leader", "weak", "stale", "eventual")
    levels = [
        Query(f"consistency={name}", frozenset({"consistency"})).read_options().consistency
        for name in names
    ]
    assert levels == [level for level in Consistency for _ in range(2)]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0004, 1), (1, 1000), (0.0015, 2), (1.5, 1500), (3e9, 3 * 10**12)]
)
def test_times_to_live_are_rounded_but_never_to_nothing(seconds: float, expected: int) -> None:
    assert ttl_ms(seconds, "ttl_seconds") == expected


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, -math.inf, 1e300])
def test_times_to_live_that_are_none(seconds: float) -> None:
    with pytest.raises(BadRequest):
        ttl_ms(seconds, "ttl_seconds")


def test_positions() -> None:
    assert position("812", "since") == ChangeId(812, SUB_MAX)
    assert position("812.3", "since") == ChangeId(812, 3)


# JSON

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(TEXT, PLAIN, max_size=5))
def test_json_objects_are_read_as_they_are(document: dict[str, object]) -> None:
    assert parse_object(json.dumps(document).encode()) == document
    assert parse_object(json.dumps(document, ensure_ascii=False).encode()) == document


@settings(max_examples=200)
@given(st.binary() | st.text('{}[]",:\\u09.eE-+ntf ').map(str.encode))
@example(b'{"a": "\\ud800"}')
@example(b'{"\\u0000": 1e400}')
def test_any_body_is_an_object_or_malformed(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except BadRequest as error:
        assert error.code == "MALFORMED_JSON"  # noqa: PT017
        error_body(error, None).decode("ascii")


def test_commas_inside_strings_are_not_values() -> None:
    text = ',"\\' * 30_000
    assert parse_object(json.dumps({"value": text}).encode()) == {"value": text}


def test_an_unknown_field_shows_where_it_is_and_not_more() -> None:
    with pytest.raises(BadRequest) as caught:
        Fields({"\ud800" + "x" * 5000: 1}, "then[0]", frozenset({"op"}))
    body = error_body(caught.value, None)
    assert len(body) < 1000
    assert json.loads(body)["error"]["field"].startswith("then[0].\\ud800")


# Values in JSON


@given(st.binary())
@example(b"\0")
@example(b"a\r\n\tb")
@example("\u2028é".encode())
def test_values_are_shown_as_text_or_base64(value: bytes) -> None:
    fields = http_views.value_fields(value)
    assert Fields(fields, "", frozenset(fields)).data() == value
    assert len(http_views.dump(fields)) <= 2 * len(value) + 50


@given(TEXT, st.binary())
def test_an_event_is_one_block_of_lines(key: str, value: bytes) -> None:
    fields: http_views.Json = {"key": key, **http_views.value_fields(value)}
    frame = http_views.sse("put", fields, "1.0").decode()
    assert frame.endswith("\n\n")
    # What a reader of Server-Sent Events takes for the end of a line.
    assert len(re.split("\r\n|\n|\r", frame)) == 5


def test_times_keep_their_milliseconds() -> None:
    assert http_views.rfc3339(1_760_000_000_999) == "2025-10-09T08:53:20.999Z"
    assert http_views.rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert http_views.rfc3339(None) is None


# Cursors


@given(
    st.sampled_from(Listing), st.lists(st.binary(), max_size=3).map(tuple), st.binary(max_size=100)
)
def test_cursors_come_back(listing: Listing, scope: tuple[bytes, ...], place: bytes) -> None:
    text = cursors.encode(listing, scope, place)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert cursors.decode(text, listing, scope) == place
    with pytest.raises(BadRequest):
        cursors.decode(text, listing, (*scope, b""))


@given(st.text(max_size=60))
def test_no_text_is_mistaken_for_a_cursor(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        cursors.decode(text, Listing.KEYS, (b"n", b"s", b""))
    assert caught.value.code == "INVALID_CURSOR"


# Documents


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    text = DOCUMENT.read_text()
    documented = set(re.findall(r"`(GET|PUT|POST|PATCH|DELETE) (/[^?` ]*)", text))
    assert documented == {(route.method, route.path) for route in ROUTES if route.method != "HEAD"}


def test_every_code_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = {
        code: int(status)
        for status, cell in rows
        for code in re.findall(r"`([A-Z_]+)`", cell.partition("(")[0])
    }
    assert documented == STATUS_BY_CODE


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_resolves_to_itself(route) -> None:
    assert resolve(route.path)[0] == route.path


def test_documented_bounds_are_the_defaults() -> None:
    text = DOCUMENT.read_text()
    limits = HttpLimits()
    assert f"at most {limits.requests_inflight_max} requests" in text
    assert f"{limits.request_body_bytes_inflight_max >> 20} MiB of request bodies" in text
    assert f"{limits.watches_max} watches" in text
    assert f"request line may be {limits.request_line_bytes_max >> 10} KiB" in text
    assert f"{limits.headers_max} headers {limits.header_bytes_max >> 10} KiB" in text
    assert f"nothing for {limits.blocked_client_seconds_max} s" in text
    assert all(unit for _, unit in limits.figures().values())
