"""What of a record is searched."""

from __future__ import annotations

from itertools import count

import pytest

from engines.record_text import JSON_BYTES_MAX, TEXT_BYTES_MAX, key_text, value_text


@pytest.mark.parametrize(
    ("value", "content_type", "text"),
    [
        (b"a b", "text/plain", "a b"),
        (b"caf\xc3\xa9", "Text/HTML; charset=utf-8", "café"),
        (b"a\xff\x00b", "text/plain", "a\ufffd b"),
        (b"a b\n\tc", "application/octet-stream", "a b\n\tc"),
        (b"a\x01b", "application/octet-stream", ""),
        (b"a\xffb", "", ""),
        (b"", "", ""),
        (b'{"b": ["x", 1.50, true, null], "a": {"c": -7}}', "application/json", "x\n1.50\n-7"),
        (b'{"a": "x", "a": "y"}', "application/ld+json; a=b", "x\ny"),
        (b'"\\ud800x"', "application/json", "?x"),
        (b'"a\\u0000b"', "application/json", "a b"),
        (b"1" * 5000, "application/json", "1" * 5000),
        (b"{not json", "application/json", "{not json"),
        (b"\xff", "application/json", ""),
        (b"[" * 100_000, "application/json", "[" * TEXT_BYTES_MAX),
        ("é".encode() * TEXT_BYTES_MAX, "text/plain", "é" * (TEXT_BYTES_MAX // 2)),
        (b"a" + "é".encode() * TEXT_BYTES_MAX, "", "a" + "é" * (TEXT_BYTES_MAX // 2 - 1)),
        (b'"' + b"a" * TEXT_BYTES_MAX * 2 + b'"', "application/json", "a" * TEXT_BYTES_MAX),
        (b'"' + b"a" * JSON_BYTES_MAX + b'"', "application/json", '"' + "a" * (TEXT_BYTES_MAX - 1)),
    ],
    ids=count(),
)  # fmt: skip
def test_what_of_a_value_is_searched(value: bytes, content_type: str, text: str) -> None:
    assert value_text(value, content_type) == text


def test_a_key_of_any_bytes_has_text() -> None:
    assert key_text("garden/Bees-2é".encode()) == "garden/Bees-2é"
    assert key_text(b"a\x00bee\xff") == "a bee\ufffd"
