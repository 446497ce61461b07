"""Values between JSON and bytes: exact, or not shown as JSON at all."""

from __future__ import annotations

import base64
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcp_values
from mcp_values import JSON, TEXT, ValueRefused, fitting, show, to_bytes

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_what_is_stored_comes_back_with_its_type(value: object) -> None:
    data, content_type = to_bytes(value)
    shown = show(data, content_type, 1 << 20)
    assert shown.value == value
    assert type(shown.value) is type(value)
    assert repr(shown.value) == repr(value)  # tells 0 from False and 1 from 1.0, also inside
    assert shown.next_offset is None


@pytest.mark.parametrize(
    ("value", "content_type"),
    [("", TEXT), ("null", TEXT), (0, JSON), (False, JSON), (None, JSON), ([], JSON)],
)
def test_strings_are_text_and_everything_else_is_json(value: object, content_type: str) -> None:
    assert to_bytes(value)[1] == content_type


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        [1, {"a": -math.inf}],
        "\ud800",
        {"\udfff": 1},
        pytest.param(10**5000, id="endless"),
    ],
)
def test_what_json_cannot_say_is_refused_naming_the_argument(value: object) -> None:
    with pytest.raises(ValueRefused, match=r"^value: "):
        to_bytes(value)


def test_too_deep_values_are_refused_and_shown_as_text() -> None:
    deep: object = 0
    for _ in range(mcp_values.JSON_DEPTH_MAX + 1):
        deep = [deep]
    with pytest.raises(ValueRefused, match="nested deeper"):
        to_bytes(deep)
    for levels in (mcp_values.JSON_DEPTH_MAX + 1, 100_000):
        data = b"[" * levels + b"]" * levels
        assert show(data, JSON, 1 << 20).encoding == "utf-8"


@pytest.mark.parametrize(
    "text",
    [
        "0.1234567890123456789",  # more digits than a float has
        "1e400",
        "1e-400",
        "0e99999999999999999999999",
        "NaN",
        "Infinity",
        '{"a": 1, "a": 2}',  # one of them would be lost
        r'"\ud800"',
        "{not json",
        "",
    ],
)
def test_json_that_parsing_would_change_is_shown_as_text(text: str) -> None:
    shown = show(text.encode(), JSON, 1 << 20)
    assert (shown.encoding, shown.value) == ("utf-8", text)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "a/b+json"]
)
def test_json_content_types_are_parsed(kind: str) -> None:
    assert show(b"[1]", kind, 100).value == [1]


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
def test_other_content_types_are_not(kind: str) -> None:
    assert show(b"[1]", kind, 100).value == "[1]"


def test_bytes_that_are_not_text_are_base64() -> None:
    shown = show(b"\xff\x00", "application/octet-stream", 100)
    assert (shown.encoding, shown.value) == ("base64", "/wA=")


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode), st.integers(4, 9))
def test_a_long_value_is_read_in_parts(data: bytes, bytes_max: int) -> None:
    offset, parts = 0, []
    while True:
        shown = show(data, JSON, bytes_max, offset)
        assert shown.size == len(data)
        if shown.encoding == "json":
            assert shown.value == json.loads(data)
            return
        assert isinstance(shown.value, str)
        text = shown.encoding == "utf-8"
        part = shown.value.encode() if text else base64.b64decode(shown.value)
        assert len(part) <= bytes_max
        parts.append(part)
        if shown.next_offset is None:
            break
        assert shown.next_offset == offset + len(part) > offset
        offset = shown.next_offset
    assert b"".join(parts) == data


def test_an_offset_beyond_the_end_is_the_end() -> None:
    assert show(b"abc", TEXT, 100, 7) == mcp_values.Shown("", "utf-8", 3, None)


@pytest.mark.parametrize(
    ("sizes", "count"), [([], 0), ([99], 1), ([4, 6], 2), ([4, 7], 1), ([1, 1, 1, 9], 3)]
)
def test_as_many_items_as_fit_and_at_least_one(sizes: list[int], count: int) -> None:
    assert fitting(sizes, 10) == count
